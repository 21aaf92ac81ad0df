"""Reading, writing and deleting posts, as people do it."""

import html
import re
from collections.abc import Callable

import pytest
from flask import Flask

from app.extensions import db
from app.models import Post, User
from app.models.pagination import LARGEST_ID
from app.models.posts import PER_PAGE
from tests.conftest import Visitor, have_joined_long_ago

BAD_BEFORE = [
    "",
    "0",
    "-0",
    "--1",
    "abc",
    "1.5",
    "٣",
    "²",
    str(LARGEST_ID + 1),
    "9" * 5000,
    "0" * 20 + "9" * 30,
    "1 ",
    "%00",
]
TEXTAREA = re.compile(r"<textarea[^>]*>\s*(.*?)</textarea>", re.DOTALL)


def shown(page: str) -> list[str]:
    """Return the posts on a page, as HTML, in their order."""
    return re.findall(r'<p class="post-body" dir="auto">(.*?)</p>', page, re.DOTALL)


def publish_many(app: Flask, name: str, count: int) -> None:
    with app.app_context():
        user = User.named(name)
        assert user
        db.session.add_all(Post(author_id=user.id, body=f"number {number}") for number in range(1, count + 1))
        db.session.commit()


# The latest posts


def test_an_empty_site_invites_to_the_first_post(visitor: Visitor) -> None:
    page = visitor.get("/")
    assert page.status_code == 200
    assert "Nobody has posted yet" in page.text
    assert 'href="/register"' in page.text


def test_the_latest_posts_are_listed_newest_first(visitor: Visitor, ada: Visitor, bob: Visitor) -> None:
    ada.publish("first")
    bob.publish("second")
    page = visitor.get("/").text
    assert shown(page) == ["second", "first"]
    assert page.index("@bob") < page.index("@ada")
    assert 'rel="next"' not in page


def test_older_posts_are_reached_page_by_page_without_a_gap(app: Flask, visitor: Visitor, ada: Visitor) -> None:
    publish_many(app, "ada", 2 * PER_PAGE + 1)
    seen: list[str] = []
    path: str | None = "/"
    while path:
        page = visitor.get(path).text
        seen += shown(page)
        link = re.search(r'rel="next" href="([^"]+)"', page)
        path = html.unescape(link[1]) if link else None
    assert seen == [f"number {number}" for number in range(2 * PER_PAGE + 1, 0, -1)]


def test_the_page_after_the_last_post_says_so(visitor: Visitor, ada: Visitor) -> None:
    ada.publish("the only one")
    page = visitor.get("/?before=1")
    assert page.status_code == 200
    assert "There are no older posts." in page.text
    assert "Older posts" in page.text


@pytest.mark.parametrize("path", ["/", "/home", "/@ada", "/tags/x", "/@ada/followers", "/@ada/following"])
def test_a_page_that_no_link_leads_to_is_a_404(ada: Visitor, path: str) -> None:
    for before in BAD_BEFORE:
        assert ada.get(f"{path}?before={before}").status_code == 404, before[:40]
    assert ada.get(f"{path}?before={LARGEST_ID}").status_code == 200


@pytest.mark.parametrize("path", ["/", "/?before=5", "/@ada", "/@ada/1", "/tags/x", "/login", "/register", "/healthz"])
def test_head_says_what_get_says_without_the_body(ada: Visitor, new_visitor: Callable[[], Visitor], path: str) -> None:
    ada.publish("hello #x")
    for reader in (ada, new_visitor()):
        reader.get("/")  # any message for this visitor is shown once
        page = reader.get(path)
        head = reader.client.head(path)
        assert head.status_code == page.status_code
        assert head.data == b""
        assert head.headers["Content-Type"] == page.headers["Content-Type"]


# Home


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_home_sends_a_stranger_to_log_in_and_back(visitor: Visitor, ada: Visitor, method: str) -> None:
    answer = visitor.client.open("/home?before=9", method=method)
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/login?next=/home?before%3D9"
    login = visitor.get(answer.headers["Location"]).text
    assert "Log in to see this page." in login
    assert visitor.log_in("ada", next="/home?before=9").headers["Location"] == "/home?before=9"


def test_home_has_a_form_and_says_what_to_do_when_it_is_empty(ada: Visitor) -> None:
    page = ada.get("/home").text
    assert '<form class="compose" method="post" action="/posts"' in page
    assert "Write the first post above." in page
    assert "People to follow" not in page


def test_an_empty_timeline_shows_whom_to_follow_and_what_everyone_writes(
    ada: Visitor, bob: Visitor, new_visitor: Callable[[], Visitor]
) -> None:
    bob.publish("once")
    for number in range(2):
        ada.publish(f"number {number}")
    eve = new_visitor()
    eve.register("eve")
    page = eve.get("/home").text
    assert "everyone&#39;s latest posts" in page or "everyone's latest posts" in page
    assert shown(page) == ["number 1", "number 0", "once"]
    assert re.findall(r'<li data-by="\d+"><a href="/@(\w+)">', page) == ["ada", "bob"]  # who writes most comes first
    eve.follow("bob")
    page = eve.get("/home").text
    assert shown(page) == ["once"]
    assert "People to follow" not in page
    eve.publish("mine")
    eve.post("/@bob/unfollow", form_on="/home")
    page = eve.get("/home").text
    assert shown(page) == ["mine"]
    assert "People to follow" in page


def test_older_pages_say_so_lead_back_and_have_no_form(ada: Visitor) -> None:
    ada.publish("hello #x")
    for path, title in (
        ("/", "Older posts"),
        ("/home", "Older posts"),
        ("/@ada", "Older posts by @ada"),
        ("/tags/x", "Older posts with #x"),
    ):
        page = ada.get(f"{path}?before=99").text
        assert f"<title>{title} · Pipit</title>" in page
        assert f'<a href="{path}">Back to the latest</a>' in page
        assert "<textarea" not in page
        assert "Back to the latest" not in ada.get(path).text


def test_the_logo_leads_home_whoever_has_one(ada: Visitor, visitor: Visitor) -> None:
    for path in ("/", "/@ada"):
        assert '<a class="brand" href="/home">' in ada.get(path).text
        assert '<a class="brand" href="/">' in visitor.get(path).text


def test_home_shows_ones_own_posts_and_those_of_people_one_follows(
    ada: Visitor, bob: Visitor, new_visitor: Callable[[], Visitor]
) -> None:
    eve = new_visitor()
    eve.register("eve")
    for person, body in ((ada, "mine"), (bob, "his"), (eve, "hers")):
        person.publish(body)
    ada.follow("bob")
    assert shown(ada.get("/home").text) == ["his", "mine"]


def test_a_post_that_is_refused_comes_back_with_its_text_and_the_error_beside_it(ada: Visitor) -> None:
    written = "<b>&" + "x" * 280
    answer = ada.publish(written)
    assert answer.status_code == 422
    text = TEXTAREA.search(answer.text)
    assert text
    assert html.unescape(text[1]) == written
    error = re.search(r'<p class="field-error" id="body-error">(.*?)</p>', answer.text)
    assert error
    assert html.unescape(error[1]) == "That is 284 characters; a post holds 280. Shorten it by 4."
    field = re.search(r"<textarea[^>]*>", answer.text)
    assert field
    assert 'aria-describedby="body-error body-count body-keys"' in field[0]
    assert 'aria-invalid="true"' in field[0]
    assert shown(ada.get("/").text) == []


@pytest.mark.parametrize("body", ["", " \n\t", "\u200b"])
def test_an_empty_post_is_refused(ada: Visitor, body: str) -> None:
    answer = ada.publish(body)
    assert answer.status_code == 422
    assert "Write something first" in answer.text


# Publishing


def test_the_author_sees_a_post_at_once_and_so_does_everyone(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    for path in ("/", "/@ada"):
        for reader in (visitor, bob, ada):
            assert shown(reader.get(path).text) == []  # now it is cached without the post
    answer = ada.publish("hello, world")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/home")
    assert "Published." in ada.get("/home").text
    for path in ("/", "/@ada"):
        for reader in (ada, bob, visitor):
            assert shown(reader.get(path).text) == ["hello, world"]


def test_a_published_post_is_told_of_once(ada: Visitor) -> None:
    ada.publish("hello")
    assert "Published." in ada.get("/home").text
    assert "Published." not in ada.get("/home").text


@pytest.mark.parametrize("token", [None, "", "wrong", "IjEyMyI.aaaa.bbbb"])
def test_a_post_without_a_good_token_is_refused_and_its_text_kept(ada: Visitor, token: str | None) -> None:
    ada.get("/home")
    fields = {"body": "long <thought>"} | ({} if token is None else {"csrf_token": token})
    answer = ada.client.post("/posts", data=fields)
    assert answer.status_code == 400
    assert "This form is out of date" in answer.text
    kept = TEXTAREA.search(answer.text)
    assert kept
    assert html.unescape(kept[1]) == "long <thought>"
    assert shown(ada.get("/").text) == []


def test_nobody_can_post_with_another_visitors_token(ada: Visitor, bob: Visitor) -> None:
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', bob.get("/home").text)
    assert token
    assert ada.client.post("/posts", data={"body": "x", "csrf_token": token[1]}).status_code == 400


def test_posting_signed_out_leads_to_the_login_and_back_to_the_form(ada: Visitor, visitor: Visitor) -> None:
    ada.publish("anyone?")
    for reply_to, form in (("", "/home"), ("1", "/@someone/1%23reply"), ("x", "/home")):
        answer = visitor.post("/posts", form_on="/login", body="me", reply_to=reply_to)
        assert answer.status_code == 403
        assert "Log in to send this" in answer.text
        assert f'href="/login?next={form}"' in answer.text
        assert TEXTAREA.findall(answer.text) == ["me"]
    assert shown(visitor.get("/").text) == ["anyone?"]
    assert visitor.get("/@someone/1").headers["Location"] == "/@ada/1"


def test_a_post_written_before_the_session_ended_is_kept(ada: Visitor, app: Flask) -> None:
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', ada.get("/home").text)
    assert token
    app.extensions["store"].client.delete(f"session:{ada.session_id()}")
    answer = ada.client.post("/posts", data={"body": "an hour's work", "csrf_token": token[1]})
    assert answer.status_code == 403
    assert "Log in to send this" in answer.text
    assert 'href="/login?next=/home"' in answer.text
    assert "an hour&#39;s work" in answer.text


def test_a_script_takes_no_message_that_is_for_the_next_page(ada: Visitor, visitor: Visitor) -> None:
    ada.publish("hello")
    by_script = {"X-Requested-With": "script"}
    assert "Published." not in ada.get("/home", headers=by_script).text
    assert "Published." in ada.get("/home").text
    assert visitor.get("/home", headers=by_script).headers["Location"] == "/login?next=/home"
    assert "Log in to see this page." not in visitor.get("/login").text


# One post


def test_a_permalink_shows_the_post_and_a_name_in_the_title(ada: Visitor, visitor: Visitor) -> None:
    ada.publish("hello, world")
    page = visitor.get("/@ada/1")
    assert page.status_code == 200
    assert shown(page.text) == ["hello, world"]
    assert "<title>@ada: hello, world" in page.text
    assert "Delete" not in page.text


@pytest.mark.parametrize("name", ["bob", "ADA", "nobody", "x" * 99, "%00", "é"])
def test_a_permalink_with_a_wrong_name_leads_to_the_right_one(ada: Visitor, visitor: Visitor, name: str) -> None:
    ada.publish("hello")
    answer = visitor.get(f"/@{name}/1")
    assert (answer.status_code, answer.headers["Location"]) == (301, "/@ada/1")


@pytest.mark.parametrize("post_id", ["2", "0", "-1", "x", "1.0", str(LARGEST_ID), str(LARGEST_ID + 1), "9" * 4000])
def test_a_post_that_never_was_is_a_404(ada: Visitor, visitor: Visitor, post_id: str) -> None:
    ada.publish("hello")
    assert visitor.get(f"/@ada/{post_id}").status_code == 404


def test_an_author_deletes_a_post_and_it_is_gone_everywhere(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    ada.publish("oops #typo")
    for path in ("/", "/@ada", "/@ada/1", "/tags/typo"):
        for reader in (visitor, bob):
            assert len(shown(reader.get(path).text)) == 1
    assert 'action="/posts/1/delete"' in ada.get("/@ada/1").text
    answer = ada.post("/posts/1/delete", form_on="/@ada/1")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/@ada")
    assert "Deleted." in ada.get("/@ada").text
    for reader in (visitor, bob, ada):
        assert reader.get("/@ada/1").status_code == 404
        for path in ("/", "/@ada", "/tags/typo"):
            assert shown(reader.get(path).text) == []


def test_nobody_deletes_somebody_elses_post(ada: Visitor, bob: Visitor) -> None:
    ada.publish("mine")
    assert "Delete" not in bob.get("/@ada/1").text
    answer = bob.post("/posts/1/delete", form_on="/home")
    assert answer.status_code == 403
    assert "You can only change what belongs to you." in answer.text
    assert shown(ada.get("/").text) == ["mine"]


def test_deleting_what_is_not_there_is_a_404(ada: Visitor) -> None:
    assert ada.post("/posts/7/delete", form_on="/home").status_code == 404
    assert ada.post(f"/posts/{LARGEST_ID + 1}/delete", form_on="/home").status_code == 404


def test_deleting_signed_out_deletes_nothing(ada: Visitor, visitor: Visitor) -> None:
    ada.publish("mine")
    assert visitor.post("/posts/1/delete", form_on="/login").status_code == 403
    assert visitor.get("/@ada/1").status_code == 200


# Hashtags


def test_a_hashtag_leads_to_the_posts_that_have_it_in_whatever_case(ada: Visitor, visitor: Visitor) -> None:
    ada.publish("one #Café")
    ada.publish("two")
    ada.publish("three #CAFE\u0301")
    assert len(shown(visitor.get("/tags/caf%C3%A9").text)) == 2
    for path in ("/tags/CAFÉ", "/tags/Cafe%CC%81"):
        assert visitor.get(path).headers["Location"] == "/tags/caf%C3%A9"
    assert visitor.get("/tags/CAFÉ?before=2").headers["Location"] == "/tags/caf%C3%A9?before=2"
    assert '<a href="/tags/caf%C3%A9" rel="nofollow" dir="auto">#Café</a>' in visitor.get("/").text


def test_a_hashtag_that_nobody_used_says_so(visitor: Visitor) -> None:
    page = visitor.get("/tags/silence")
    assert page.status_code == 200
    assert "No posts with this hashtag yet." in page.text
    assert "There are no older posts with this hashtag." in visitor.get("/tags/silence?before=3").text


def test_older_posts_of_a_hashtag_are_a_link_away(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    have_joined_long_ago(app)
    for number in range(PER_PAGE + 1):
        ada.publish(f"{number} #日記")
    link = re.search(r'rel="next" href="([^"]+)"', visitor.get("/tags/日記").text)
    assert link
    older = visitor.get(html.unescape(link[1])).text
    assert [re.sub("<.*?>", "", body) for body in shown(older)] == ["0 #日記"]
    assert 'href="/tags/%E6%97%A5%E8%A8%98">Back to the latest' in older


# What people write is shown, never run


def test_markup_in_a_post_is_text_on_every_page_that_shows_it(ada: Visitor, visitor: Visitor) -> None:
    body = "<script>alert('x')</script> \"><img src=x onerror=alert(1)> & #x {{ 7 * 7 }}"
    ada.publish(body)
    for path in ("/", "/@ada", "/@ada/1", "/tags/x", "/?before=99", "/@ada?before=99"):
        page = visitor.get(path).text
        assert "alert(&#39;x&#39;)" in page, path
        assert "<script>" not in page
        assert "<img" not in page
        assert "49" not in shown(page)[0]
        # Every attribute is closed where the template closed it: the meta description holds the text too.
        assert '"><img' not in page


def test_urls_mentions_and_hashtags_are_links_that_vouch_for_nothing(
    ada: Visitor, bob: Visitor, visitor: Visitor
) -> None:
    ada.publish("see https://example.org/a?b=1&c=%22 says @bob about #Tea\njavascript:alert(1)")
    (body,) = shown(visitor.get("/").text)
    assert '<a href="https://example.org/a?b=1&amp;c=%22" rel="nofollow ugc noopener" dir="ltr">' in body
    assert '<a href="/@bob" dir="ltr">@bob</a>' in body
    assert '<a href="/tags/tea" rel="nofollow" dir="auto">#Tea</a>' in body
    assert 'href="javascript:' not in body


@pytest.mark.parametrize("path", ["/", "/@ada", "/@ada/1", "/home", "/tags/x", "/?before=99"])
def test_a_mention_is_a_link_to_the_person_if_there_is_one(ada: Visitor, bob: Visitor, path: str) -> None:
    ada.publish("@BOB knows, .@bob too, @nobody_here doesn't #x")
    (body,) = shown(ada.get(path).text)
    assert re.findall('<a href="(/@[^"]*)" dir="ltr">(.*?)</a>', body) == [("/@bob", "@BOB"), ("/@bob", "@bob")]
    assert "@nobody_here doesn" in body


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("https://example.org/" + "a" * 200, "example.org/aaaaaaaaaaaaaaaaaaaaaaaaaaa…"),
        ("https://example.org/?q=" + "a" * 200, "example.org/?q=aaaaaaaaaaaaaaaaaaaaaaaa…"),
        ("example.org/" + "a" * 200, "example.org/aaaaaaaaaaaaaaaaaaaaaaaaaaa…"),
        ("https://bank.example." + "a" * 40 + ".org/login", "bank.example." + "a" * 40 + ".org/…"),
        ("https://bank.example." + "a" * 40 + ".org", "bank.example." + "a" * 40 + ".org"),
    ],
)
def test_a_long_url_is_shown_shortened_but_never_its_host(ada: Visitor, typed: str, seen: str) -> None:
    ada.publish(typed)
    (body,) = shown(ada.get("/").text)
    found = re.search('href="(.*?)".*>(.*)</a>', body)
    assert found
    assert found[1].removeprefix("http://") == typed
    assert found[2] == seen


def test_a_title_is_not_turned_around_by_what_somebody_wrote(ada: Visitor) -> None:
    ada.publish("a\u202eb\n\u2066c" + " word" * 40)
    title = re.search("<title>(.*)</title>", ada.get("/@ada/1").text)
    assert title
    assert title[1].startswith("@ada: ab c word word")
    assert title[1].endswith(" word… · Pipit")
    assert len(title[1]) < 80


def test_a_post_keeps_its_lines_and_loses_only_what_nobody_sees(ada: Visitor, visitor: Visitor) -> None:
    ada.publish("  one\r\n\r\ntwo\0\x1b  ")
    assert shown(visitor.get("/").text) == ["one\n\ntwo"]
