"""Taking one's data along: exports, and imports of them into other accounts."""

import io
import json
import posixpath
import re
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZipFile

import pytest
from flask import Flask
from sqlalchemy import select

from app.extensions import db
from app.models import Picture, Post, User, exports, imports
from app.models.exports import PER_FILE
from app.models.imports import BROKEN, NEWER, NOT_OURS, TOO_MUCH
from app.models.moderation import Report
from app.models.post_text import PostText
from app.models.transfers import (
    CLAIM,
    DOWNLOADABLE,
    EXPORT,
    IMPORT,
    MOST_ATTEMPTS,
    PAUSE,
    LostClaimError,
    Transfer,
    TransferPart,
    Transfers,
)
from app.rate_limit import BY_ACCOUNT
from app.web import recent_login
from tests.conftest import Visitor, csrf_token, id_of
from tests.counting import statements_run

Work = Callable[[], None]

BODY = re.compile(r'<p class="post-body" dir="auto">(.*?)</p>', re.DOTALL)
TIME = re.compile(r'<a class="post-time"[^>]*><time datetime="([^"]+)"')


@pytest.fixture
def work(app: Flask) -> Work:
    """Give a function that does the background work until nothing is left."""
    work_off: Work = app.extensions["background"].work_off
    return work_off


def export(visitor: Visitor, work: Work) -> bytes:
    """Have an export made, and download it."""
    assert visitor.post("/settings/export").status_code == 302
    work()
    answer = visitor.get("/settings/export/download")
    assert answer.status_code == 200, answer.text
    content: bytes = answer.data
    return content


def upload(visitor: Visitor, content: bytes) -> "tuple[int, str]":
    """Send the form with a file; return the answer's status, and the page that follows."""
    form = {"csrf_token": csrf_token(visitor, "/settings/import"), "file": (io.BytesIO(content), "pipit.zip")}
    answer = visitor.client.post("/settings/import", data=form, buffered=True)
    return answer.status_code, answer.text


def error_of(page: str) -> str:
    error = re.search(r'<p class="field-error" id="file-error">([^<]*)</p>', page)
    assert error, page
    return error[1].replace("&#39;", "'")


def shown(visitor: Visitor, path: str) -> list[tuple[str, str]]:
    """Return the posts on a page and all that follow, each with its date."""
    posts, next_page = list[tuple[str, str]](), path
    while next_page:
        page = visitor.get(next_page).text
        posts += zip(BODY.findall(page), TIME.findall(page), strict=True)
        more = re.search(r'rel="next" href="([^"]+)"', page)
        next_page = more[1].replace("&amp;", "&") if more else ""
    return posts


def test_an_export_imported_into_a_new_account_shows_the_same_posts(
    app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor, work: Work
) -> None:
    bob.publish("hello from bob")
    with app.app_context():
        user = User.named("ada")
        assert user
        for number in range(35):
            user.publish(PostText.parse(f"post {number} #tea <b>&amp; https://example.org/{number}"))
    ada.post("/posts", form_on="/@bob/1", body="a reply to bob", reply_to="1")
    ada.post("/posts", form_on="/@ada/2", body="a thread goes on", reply_to="2")
    everyones, bobs_own = shown(visitor, "/"), shown(visitor, "/@bob")
    assert upload(bob, export(ada, work))[0] == 302
    work()
    assert shown(visitor, "/@bob") == bobs_own + shown(visitor, "/@ada")
    assert shown(visitor, "/@bob/replies") == bobs_own + shown(visitor, "/@ada/replies")
    assert shown(visitor, "/") == everyones + shown(visitor, "/@ada")  # nothing is pushed away
    assert [post[0] for post in shown(visitor, "/tags/tea")] == 2 * [post[0] for post in shown(visitor, "/@ada")][1:]


def test_imported_posts_are_posts_like_any_other(
    app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor, work: Work
) -> None:
    bob.publish("hello from bob")
    ada.publish("where a thread begins #tea")
    ada.post("/posts", form_on="/@ada/2", body="and goes on, @bob", reply_to="2")
    ada.post("/posts", form_on="/@bob/1", body="hello from ada", reply_to="1")
    content = export(ada, work)
    told = bob.get("/notifications").text.count("<li")
    upload(bob, content)
    work()
    to_bob, goes_on, begins = ids_of(app, "bob")[1:]
    assert begins < goes_on < to_bob < 0
    assert bob.get("/notifications").text.count("<li") == told
    thread = visitor.get(f"/@bob/{begins}").text
    assert f'href="/@bob/{goes_on}#post-{goes_on}"' in thread
    assert "Continues an earlier post" in thread
    assert "where a thread begins" in visitor.get(f"/@bob/{goes_on}").text
    reply = visitor.get(f"/@bob/{to_bob}").text
    assert "Replying to a post that is not here" in reply
    assert "was deleted" not in reply
    assert visitor.get("/search?q=thread").text.count('class="post-body"') == 2
    assert visitor.get(f"/@somebody/{begins}").headers["Location"] == f"/@bob/{begins}"
    assert ada.post(f"/posts/{begins}/like", form_on=f"/@bob/{begins}").status_code == 302
    for path in (f"/@bob/{begins}", "/likes", "/@bob", "/tags/tea"):
        assert f'formaction="/posts/{begins}/unlike"' in ada.get(path).text, path
    assert ada.post("/posts", form_on=f"/@bob/{begins}", body="a late reply", reply_to=str(begins)).status_code == 302
    assert re.findall("goes on|a late reply", visitor.get(f"/@bob/{begins}").text) == ["goes on", "a late reply"]
    assert bob.post(f"/posts/{begins}/pin", form_on="/home").status_code == 302
    assert visitor.get("/@bob").text.index("where a thread begins") < visitor.get("/@bob").text.index("hello from bob")
    assert ada.post(f"/posts/{begins}/report", reason="it is a copy").status_code == 302
    assert bob.post(f"/posts/{begins}/delete", form_on="/home").status_code == 302
    assert "where a thread begins" not in visitor.get("/@bob").text
    removed = app.test_cli_runner().invoke(args=["post", "remove", str(goes_on)])
    assert removed.output.startswith(f"Removed post {goes_on} by @bob.")


def test_a_timeline_has_imported_posts_after_all_others(
    ada: Visitor, bob: Visitor, new_visitor: Callable[..., Visitor], work: Work
) -> None:
    ada.publish("an old post")
    bob.publish("a newer post")
    content = export(ada, work)
    carol = new_visitor()
    carol.register("carol")
    carol.follow("bob")
    upload(bob, content)
    work()
    carol.publish("mine")
    assert [body for body, _ in shown(carol, "/home")] == ["mine", "a newer post", "an old post"]


def test_the_same_export_imported_again_adds_nothing(app: Flask, ada: Visitor, bob: Visitor, work: Work) -> None:
    ada.publish("one")
    ada.publish("two")
    content = export(ada, work)
    for visitor, imported in ((bob, 2), (bob, 0), (ada, 0)):
        upload(visitor, content)
        work()
        page = visitor.get("/settings/import").text
        assert f"{imported} posts were imported." in page
        assert ("2 posts were here already." in page) == (imported == 0)
    assert [body for body, _ in shown(bob, "/@bob")] == [body for body, _ in shown(ada, "/@ada")] == ["two", "one"]
    upload(bob, export(bob, work))  # an export of what was imported: the posts are the same
    work()
    assert "2 posts were here already." in bob.get("/settings/import").text
    assert len(ids_of(app, "bob")) == 2


def test_posts_of_the_same_moment_are_imported_quickly_and_keep_their_order(
    app: Flask, ada: Visitor, bob: Visitor, work: Work
) -> None:
    same = {"created_at": "2020-01-01T00:00:00Z", "edited_at": None, "reply_to": None}
    posts = [{"id": number, "text": f"post {number}", **same} for number in range(1, 2 * PER_FILE + 1)]
    content = archive(
        lists={"posts": (2 * PER_FILE, 2)}, posts=[posts[:PER_FILE], posts[PER_FILE:]], account={"name": "x"}
    )
    for visitor in (ada, bob):
        upload(visitor, content)
        with statements_run(app) as statements:
            work()
        assert len(statements) < 3_000
    assert len(set(ids_of(app, "ada") + ids_of(app, "bob"))) == 4 * PER_FILE
    assert [body for body, _ in shown(bob, "/@bob")][:2] == [f"post {2 * PER_FILE}", f"post {2 * PER_FILE - 1}"]


def test_an_account_is_full_in_the_end_and_the_report_says_so(
    ada: Visitor, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "MOST_POSTS", PER_FILE)
    about = {"edited_at": None, "reply_to": None}
    posts = [
        {"id": number, "text": f"post {number}", "created_at": f"2020-01-01T00:{number // 60:02}:{number % 60:02}Z"}
        | about
        for number in range(PER_FILE + 1)
    ]
    for some in (posts[:PER_FILE], posts[PER_FILE:]):
        upload(ada, archive(lists={"posts": (len(some), 1)}, posts=[some]))
        work()
    page = ada.get("/settings/import").text
    assert "1 post was left out:" in page
    assert imports.FULL in page


def test_an_edit_in_the_future_did_not_happen(ada: Visitor, work: Work) -> None:
    post = {"id": 1, "text": "hello", "created_at": "2020-01-01T00:00:00Z", "reply_to": None}
    edits = ("9998-12-31T00:00:00Z", "2019-01-01T00:00:00Z", "2020-01-02T00:00:00Z")
    posts = [post | {"id": number, "text": f"{number}", "edited_at": edit} for number, edit in enumerate(edits, 1)]
    upload(ada, archive(lists={"posts": (3, 1)}, posts=[posts]))
    work()
    feed = ada.get("/@ada/feed.atom").text
    assert "9998" not in feed
    assert "2020-01-02T00:00:00+00:00" in feed


def test_two_people_import_the_same_export(
    app: Flask, ada: Visitor, bob: Visitor, new_visitor: Callable[..., Visitor], work: Work
) -> None:
    for number in range(3):
        ada.publish(f"post {number}")
    content = export(ada, work)
    carol = new_visitor()
    carol.register("carol")
    for visitor in (bob, carol):
        upload(visitor, content)
        work()
    assert shown(bob, "/@bob") == shown(carol, "/@carol") == shown(ada, "/@ada")
    assert [one + 1 for one in ids_of(app, "bob")] == ids_of(app, "carol")


def test_an_export_has_all_that_is_ones_own(make_app: Callable[..., Flask]) -> None:
    app = make_app(trusted_hosts=("pipit.example.org",))
    ada, bob = (Visitor(app.test_client(), HTTP_HOST="pipit.example.org") for _ in range(2))
    ada.register("ada")
    bob.register("bob")
    bob.publish("hello")
    ada.post("/settings/profile", display_name="Ada L.", about="<b>numbers</b>", link="ada.example.org")
    for verb in ("/posts/1/like", "/@bob/follow", "/@bob/mute"):
        ada.post(verb, form_on="/home")
    ada.publish("see https://example.org/?a=1&b=2 <i>")
    ada.post("/posts", form_on="/@bob/1", body="hello @bob", reply_to="1")
    with app.app_context():
        user, other = User.named("ada"), User.named("bob")
        assert user
        assert other
        Picture.give(user, b"a picture")
        Report.send(user, other, "he is too quiet")
    files = unpacked(export(ada, app.extensions["background"].work_off))
    manifest = json.loads(files["pipit.json"])
    account = manifest["account"]
    assert (manifest["format"], manifest["version"]) == ("pipit-export", 1)
    assert manifest["site"] == {"name": "Pipit", "url": "https://pipit.example.org"}
    assert [account[what] for what in ("name", "display_name", "about")] == ["ada", "Ada L.", "<b>numbers</b>"]
    assert account["notifications"] == ["reply", "mention", "like", "follow"]
    assert len(account["devices"]) == 1
    assert {name: listed["count"] for name, listed in manifest["lists"].items()} == {
        "posts": 2,
        "likes": 1,
        "following": 1,
        "hidden": 1,
        "reports": 1,
        "invitations": 0,
    }
    post, reply = json.loads(files["posts/1.json"])["posts"]
    assert post["text"] == "see https://example.org/?a=1&b=2 <i>"
    assert post["url"] == "https://pipit.example.org/@ada/2"
    assert reply["reply_to"] == {"id": 1, "author": "bob", "url": "https://pipit.example.org/@bob/1"}
    assert json.loads(files["hidden/1.json"])["hidden"][0].items() >= {"name": "bob", "how": "muted"}.items()
    assert json.loads(files["likes/1.json"])["likes"][0]["url"] == "https://pipit.example.org/@bob/1"
    assert json.loads(files["following/1.json"])["following"][0]["name"] == "bob"
    assert files["picture.webp"] == b"a picture"
    assert (
        json.loads(files["reports/1.json"])["reports"][0].items()
        >= {"name": "bob", "reason": "he is too quiet"}.items()
    )
    index, page = files["index.html"].decode(), files["posts/1.html"].decode()
    assert "&lt;b&gt;numbers&lt;/b&gt;" in index
    assert '<a href="posts/1.html">' in index
    assert "&lt;i&gt;" in page
    assert 'Replying to <a href="https://pipit.example.org/@bob/1">@bob</a>' in page
    everything = b"".join(files.values())
    assert b"<script" not in everything
    assert b"argon2" not in everything
    assert str(ada.session_id()).encode() not in everything


def test_long_lists_are_on_several_pages(ada: Visitor, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "PER_FILE", 2)
    for number in range(5):
        ada.publish(f"post {number}")
    files = unpacked(export(ada, work))
    texts = [[post["text"] for post in json.loads(files[f"posts/{n}.json"])["posts"]] for n in (1, 2, 3)]
    assert texts == [["post 0", "post 1"], ["post 2", "post 3"], ["post 4"]]
    assert re.findall('rel="(prev|next)"', files["posts/2.html"].decode()) == ["prev", "next"] * 2
    for name, content in files.items():
        if name.endswith(".html"):
            folder = name.rpartition("/")[0]
            for link in re.findall('href="([^"#:]+)"', content.decode()):
                assert posixpath.normpath(f"{folder}/{link}").lstrip("/") in files


def test_an_export_is_for_its_owner_only_and_for_a_day(
    app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor
) -> None:
    work = app.extensions["background"].work_off
    assert ada.get("/settings/export/download").status_code == 404
    ada.publish("hello")
    assert ada.post("/settings/export").status_code == 302
    assert ada.get("/settings/export/download").status_code == 404  # not yet
    work()
    answer = ada.get("/settings/export/download")
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="pipit-ada-{datetime.now(UTC):%Y-%m-%d}.zip"'
    assert bob.get("/settings/export/download").status_code == 404
    assert visitor.get("/settings/export/download").headers["Location"].startswith("/login?")
    later(app, "ada", EXPORT, by=DOWNLOADABLE)
    assert ada.get("/settings/export/download").status_code == 404
    assert "Make an export" in ada.get("/settings/export").text
    work()
    assert rows(app) == (0, 0)


def test_an_export_takes_a_recent_login(ada: Visitor, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    export(ada, work)
    monkeypatch.setattr(recent_login, "RECENT", -1)
    assert ada.get("/settings/export/download").headers["Location"].startswith("/confirm-password?")
    assert ada.post("/settings/export").status_code == 403


def test_there_is_one_export_an_hour(app: Flask, ada: Visitor, work: Work) -> None:
    first = export(ada, work)
    page = ada.get("/settings/export").text
    assert "Your export is ready" in page
    assert "Make a new export" not in page
    ada.publish("later")
    ada.post("/settings/export", form_on="/settings/profile")
    work()
    assert ada.get("/settings/export/download").data == first
    later(app, "ada", EXPORT)
    assert "Make a new export" in ada.get("/settings/export").text
    assert b"later" in unpacked(export(ada, work))["posts/1.json"]


def test_an_export_that_is_too_large_says_so(ada: Visitor, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "LARGEST_FILE", 10)
    ada.publish("hello")
    ada.post("/settings/export")
    work()
    assert "Your export would have more than" in ada.get("/settings/export").text


def test_progress_is_shown_and_the_page_loads_itself_again(ada: Visitor, bob: Visitor, app: Flask, work: Work) -> None:
    for number in range(3):
        ada.publish(f"post {number}")
    content = export(ada, work)
    upload(bob, content)
    page = bob.get("/settings/import").text
    assert '<meta http-equiv="refresh"' in page
    assert "Waiting for its turn" in page
    assert 'type="file"' not in page
    step(app)
    assert '<progress aria-labelledby="progress" max="3" value="0">' in bob.get("/settings/import").text
    step(app)
    page = bob.get("/settings/import").text
    assert '<progress aria-labelledby="progress" max="3" value="3">' in page
    assert "3 of 3 posts" in page
    step(app)
    page = bob.get("/settings/import").text
    assert '<meta http-equiv="refresh"' not in page
    assert "3 posts were imported." in page
    assert 'type="file"' in page


def test_only_one_import_at_a_time(ada: Visitor, bob: Visitor, work: Work) -> None:
    content = export(ada, work)
    assert upload(bob, content)[0] == 302
    token = csrf_token(bob, "/settings/export")
    form = {"csrf_token": token, "file": (io.BytesIO(content), "pipit.zip")}
    assert bob.client.post("/settings/import", data=form).status_code == 422
    work()
    assert upload(bob, content)[0] == 302


@pytest.mark.parametrize("after", range(1, 6))
def test_an_import_that_is_killed_is_taken_up_again(
    app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor, work: Work, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(exports, "PER_FILE", 2)
    monkeypatch.setattr(imports, "PER_FILE", 2)
    for number in range(5):
        ada.publish(f"post {number}")
    ada.post("/posts", form_on="/@ada/1", body="goes on", reply_to="1")
    upload(bob, export(ada, work))
    for _ in range(after):
        step(app)
    kill(app)
    work()
    assert len(shown(visitor, "/@bob")) == min(2 * (after - 1), 6)  # claimed: nobody else works on it
    later(app, "bob", IMPORT, by=CLAIM)
    work()
    assert shown(visitor, "/@bob") == shown(visitor, "/@ada")
    assert "6 posts were imported." in bob.get("/settings/import").text
    assert "Continues an earlier post" in visitor.get("/@bob").text


def test_an_export_that_is_killed_is_made_again(app: Flask, ada: Visitor, work: Work) -> None:
    ada.publish("hello")
    ada.post("/settings/export")
    step(app)
    step(app)
    kill(app)
    work()
    assert ada.get("/settings/export/download").status_code == 404
    later(app, "ada", EXPORT, by=CLAIM)
    work()
    assert b"hello" in unpacked(ada.get("/settings/export/download").data)["posts/1.json"]


def test_a_process_that_was_thought_dead_imports_nothing_more(
    app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "PER_FILE", 2)
    monkeypatch.setattr(imports, "PER_FILE", 2)
    for number in range(6):
        ada.publish(f"post {number}")
    upload(bob, export(ada, work))
    step(app)
    step(app)
    slow = kill(app)
    later(app, "bob", IMPORT, by=CLAIM)
    step(app)
    with app.app_context(), pytest.raises(LostClaimError):
        next(slow)
    work()
    assert shown(visitor, "/@bob") == shown(visitor, "/@ada")


def test_work_that_fails_again_and_again_is_given_up(
    app: Flask, ada: Visitor, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(exports, "_json", fail)
    ada.publish("hello")
    ada.post("/settings/export")
    for _ in range(MOST_ATTEMPTS):
        work()
        assert "Your export is being made" in ada.get("/settings/export").text
        later(app, "ada", EXPORT, by=CLAIM)
    work()
    assert "Something went wrong" in ada.get("/settings/export").text


def test_nothing_is_imported_for_somebody_who_is_suspended_but_they_can_export(
    app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor, work: Work
) -> None:
    ada.publish("hello")
    bob.publish("goodbye")
    upload(bob, export(ada, work))
    with app.app_context():
        user = User.named("bob")
        assert user
        user.suspend(reason="he repeats himself")
    work()
    assert [body for body, _ in shown(visitor, "/@bob")] == ["goodbye"]
    bob.log_in("bob")
    assert "export your data" in bob.get("/suspended").text
    assert bob.get("/settings/import").headers["Location"] == "/suspended"
    files = unpacked(export(bob, work))
    assert b"goodbye" in files["posts/1.json"]
    assert json.loads(files["pipit.json"])["account"]["suspended"] == {"until": None, "reason": "he repeats himself"}
    assert b"for good: he repeats himself" in files["index.html"]


def test_an_account_takes_its_transfers_with_it(app: Flask, ada: Visitor, bob: Visitor, work: Work) -> None:
    ada.publish("hello")
    upload(bob, export(ada, work))
    step(app)
    for name in ("ada", "bob"):
        with app.app_context():
            user = User.named(name)
            assert user
            user.delete_account()
    work()
    assert rows(app) == (0, 0)


def test_a_report_says_what_was_left_out_and_why(ada: Visitor, bob: Visitor, work: Work) -> None:
    ada.publish("fine")
    posts = json.loads(unpacked(export(ada, work))["posts/1.json"])["posts"]
    fine = posts[0]
    odd: list[Any] = [
        fine | {"text": "x" * 300, "id": 2},
        fine | {"text": " \n", "id": 3},
        fine | {"text": "from the future", "created_at": "2999-01-01T00:00:00+00:00"},
        fine | {"text": "from the past", "created_at": "1969-07-20T20:17:40Z"},
        fine | {"text": "before time", "created_at": "0001-01-01T00:00:00+14:00"},
        fine | {"text": "no zone", "created_at": "2020-01-01T00:00:00"},
        fine | {"text": "no date", "created_at": 5},
        fine | {"text": "a large number", "id": 10**30},
        fine | {"text": "half \ud83d a character"},
        fine | {"text": 5},
        fine | {"reply_to": "me"},
        {},
        None,
        5,
        "<b>",
    ]
    to_itself = fine | {"reply_to": {"id": fine["id"], "author": "ada"}}
    same = [to_itself, fine, fine | {"id": 99}]
    upload(bob, archive(lists={"posts": (len(odd) + 3, 1), "likes": (7, 1)}, posts=[[*odd, *same]]))
    work()
    page = bob.get("/settings/import").text
    assert "1 post was imported." in page
    assert "2 posts were here already." in page
    assert f"{len(odd)} posts were left out:" in page
    assert "That is 300 characters; a post holds 280." in page
    assert f'<q dir="auto">{"x" * 79}…</q>' in page
    assert "7 likes" in page
    assert page.count("date is in the future") == 2
    assert [body for body, _ in shown(bob, "/@bob")] == ["fine"]


def archive(
    *,
    lists: dict[str, tuple[int, int]] | None = None,
    posts: "list[list[Any]] | None" = None,
    folder: str = "",
    compression: int = ZIP_DEFLATED,
    **manifest: Any,
) -> bytes:
    """Return an export as somebody might have made it up."""
    counts = {name: (lists or {}).get(name, (0, 0)) for name in ("posts", "likes", "following", "hidden")}
    about = {"format": "pipit-export", "version": 1, "account": {"name": "ada"}}
    about |= {"lists": {name: {"count": count, "files": files} for name, (count, files) in counts.items()}} | manifest
    file = io.BytesIO()
    with ZipFile(file, "w", compression) as content:
        content.writestr(f"{folder}pipit.json", json.dumps(about))
        for number, some in enumerate(posts or [], 1):
            content.writestr(f"{folder}posts/{number}.json", json.dumps({"posts": some}))
    return file.getvalue()


def other_zip() -> bytes:
    file = io.BytesIO()
    with ZipFile(file, "w") as content:
        content.writestr("holiday.txt", "sun")
    return file.getvalue()


def bomb(**lies: int) -> bytes:
    """Return an export of which one file is 300 MB of nothing, or says that it is less."""
    file = io.BytesIO(archive(lists={"posts": (1, 1)}))
    with ZipFile(file, "a", ZIP_DEFLATED) as content, content.open("posts/1.json", "w") as posts:
        for _ in range(300):
            posts.write(bytes(2**20))
    data = bytearray(file.getvalue())
    for name, value in lies.items():
        assert name == "size"
        struct.pack_into("<L", data, data.rindex(b"PK\x01\x02") + 24, value)
    return bytes(data)


def with_large_directory() -> bytes:
    file = io.BytesIO()
    with ZipFile(file, "w") as content:
        for number in range(20_000):
            content.writestr(f"{number:030}", b"")
    return file.getvalue()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: b"", BROKEN),
        (lambda: b"hello", BROKEN),
        (other_zip, NOT_OURS),
        (lambda: archive()[:-1], BROKEN),
        (lambda: archive()[: len(archive()) // 2], BROKEN),
        (lambda: archive()[100:], BROKEN),
        (lambda: archive().replace(b"PK\x01\x02", b"PK\x01\x03"), BROKEN),
        (lambda: archive(lists={"posts": (1, 1)}), BROKEN),
        (lambda: archive(format="another"), NOT_OURS),
        (lambda: archive(version=2), NEWER),
        (lambda: archive(version="1"), NEWER),
        (lambda: archive(account=None), NOT_OURS),
        (lambda: archive(lists={"posts": (-1, 0)}), NOT_OURS),
        (lambda: archive(lists={"posts": (True, 0)}), NOT_OURS),
        (lambda: archive(lists={"posts": (10**30, 0)}), NOT_OURS),
        (lambda: archive(lists={"posts": (10**9, 0)}), TOO_MUCH),
        (lambda: archive(lists={"posts": (1, 10**9)}), TOO_MUCH),
        (lambda: archive(compression=ZIP_BZIP2), BROKEN),
        (lambda: archive(account={"name": "a" * 300_000}), TOO_MUCH),
        (bomb, TOO_MUCH),
        (lambda: bomb(size=100), BROKEN),
        (with_large_directory, TOO_MUCH),
    ],
)
def test_a_file_that_is_no_export_is_refused_beside_the_field(
    app: Flask, ada: Visitor, make: Callable[[], bytes], says: str
) -> None:
    status, page = upload(ada, make())
    assert status == 422
    assert error_of(page) == says
    assert rows(app) == (0, 0)


@pytest.mark.parametrize("posts", [["posts"] * 201, {"a": 1}, "x", [[[]] * 20_000], [{"x": [1] * 20_000}]])
def test_an_export_that_turns_out_to_be_none_fails_with_a_reason(ada: Visitor, work: Work, posts: Any) -> None:
    assert upload(ada, archive(lists={"posts": (1, 1)}, posts=[posts]))[0] == 302
    work()
    assert "That didn&#39;t work" in ada.get("/settings/import").text.replace("That didn't", "That didn&#39;t")
    assert 'type="file"' in ada.get("/settings/import").text


def test_an_export_in_another_encoding_is_none(ada: Visitor, work: Work) -> None:
    file = io.BytesIO(archive(lists={"posts": (1, 1)}))
    posts = json.dumps({"posts": ["Ģ", *[[]] * 20_000]}, ensure_ascii=False)
    with ZipFile(file, "a", ZIP_DEFLATED) as content:
        content.writestr("posts/1.json", posts.encode("utf-16-le"))
    assert upload(ada, file.getvalue())[0] == 302
    work()
    assert NOT_OURS in ada.get("/settings/import").text.replace("&#39;", "'")


def test_an_export_that_a_mac_has_packed_again_is_read(ada: Visitor, work: Work) -> None:
    post = {"id": 1, "text": "hello", "created_at": "2020-01-01T00:00:00Z", "edited_at": None, "reply_to": None}
    upload(ada, archive(lists={"posts": (1, 1)}, posts=[[post]], folder="pipit-ada-2026-01-01/"))
    work()
    assert shown(ada, "/@ada") == [("hello", "2020-01-01T00:00:00+00:00")]


def test_no_file_and_a_file_that_is_too_large_are_said_beside_the_field(ada: Visitor, visitor: Visitor) -> None:
    assert error_of(ada.post("/settings/import", file="pipit.zip").text) == "Choose a file first."
    for who in (ada, visitor):
        data = {"file": (io.BytesIO(bytes(51 * 2**20)), "pipit.zip")}
        answer = who.client.post("/settings/import", data=data)
        assert answer.status_code == 413
        assert "An export can have up to 50 MB." in error_of(answer.text)


def test_uploads_of_exports_are_limited_per_account(ada: Visitor) -> None:
    most, _ = BY_ACCOUNT["import"]
    statuses = [upload(ada, b"")[0] for _ in range(2 * most + 1)]  # a new minute may begin meanwhile
    assert statuses[:most] == [422] * most
    assert 429 in statuses


def test_exports_and_imports_are_for_members_only(visitor: Visitor) -> None:
    for path in ("/settings/export", "/settings/import", "/settings/export/download"):
        assert visitor.get(path).headers["Location"].startswith("/login")
    for path in ("/settings/export", "/settings/import"):
        assert visitor.client.post(path).status_code == 403


def ids_of(app: Flask, name: str) -> list[int]:
    """Return the ids of somebody's posts, in the order of their profile."""
    with app.app_context():
        return list(db.session.scalars(select(Post.id).where(Post.author_id == id_of(app, name)).order_by(-Post.id)))


def rows(app: Flask) -> tuple[int, ...]:
    """Return how many transfers and parts of files there are."""
    with app.app_context():
        return tuple(db.session.query(table).count() for table in (Transfer, TransferPart))


def unpacked(content: bytes) -> dict[str, bytes]:
    with ZipFile(io.BytesIO(content)) as whole:
        assert whole.testzip() is None
        return {name: whole.read(name) for name in whole.namelist()}


def later(app: Flask, name: str, kind: str, by: timedelta = PAUSE) -> None:
    """Have some time pass for somebody's export or import."""
    with app.app_context():
        transfer = db.session.scalar(
            select(Transfer).where(Transfer.user_id == id_of(app, name), Transfer.kind == kind)
        )
        assert transfer
        transfer.due_at -= by
        transfer.created_at -= by
        db.session.commit()


def transfers_of(app: Flask) -> Transfers:
    works = (getattr(kind, "__self__", None) for kind in app.extensions["background"]._kinds)
    (found,) = (one for one in works if isinstance(one, Transfers))
    return found


def step(app: Flask) -> None:
    """Do one step, as the background does in each of its turns."""
    with app.app_context():
        assert transfers_of(app).step()


def kill(app: Flask) -> Any:
    """Have the process forget what it works on, as if it had died; return that work."""
    transfers = transfers_of(app)
    steps, transfers._steps = transfers._steps, None
    return steps
