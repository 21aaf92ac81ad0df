"""Holes in cached pages: each visitor sees their own, early, and a hole has only the session and its function."""

import re
import threading
from collections.abc import Callable, Mapping

import pytest
from flask import Flask, render_template
from jinja2 import ChoiceLoader, DictLoader, UndefinedError
from redis import Redis
from sqlalchemy.exc import OperationalError

from app.cache import STAMP, PageKind
from app.models import Post
from app.web.caching import CachedPages, cached
from app.web.holes import NotHeldError, fillers, fills, fills_from
from app.web.viewer import Viewer
from tests.conftest import Visitor, finish, id_of
from tests.servers import PATIENCE
from tests.serving import FrontServer

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

LIKES = """\
{% for post_id in (1, 2) %}
<article>Post {{ post_id }} {{ hole("like", post_id=post_id) }}</article>
{% endfor %}
"""
LIKE = """\
{% if viewer %}<form action="/posts/{{ post_id }}/like"><input name="csrf_token" value="{{ csrf_token() }}">\
<button>Like as @{{ viewer.name }}</button></form>{% else %}<a href="/login">Log in to like {{ post_id }}</a>{% endif %}
"""


@pytest.fixture
def templates() -> dict[str, str]:
    return {}


@pytest.fixture
def app(make_app: Callable[..., Flask], templates: dict[str, str]) -> Flask:
    """Give an app with one more cached page, at /shown."""
    app = make_app()
    app.jinja_env.loader = ChoiceLoader([DictLoader(templates), app.jinja_env.loader or DictLoader({})])
    app.add_url_rule("/shown", "shown", cached(PageKind("shown"))(lambda: render_template("shown.html")))
    app.extensions["cached_pages"] = CachedPages(app, app.extensions["page_cache"], app.extensions["holes"])
    return app


@pytest.fixture
def show(templates: dict[str, str]) -> Callable[..., None]:
    """Give a function that says what is on that page, and what its holes look like."""

    def fill(page: str, **holes: str) -> None:
        templates["shown.html"] = page
        templates.update({f"holes/{name}.html": hole for name, hole in holes.items()})

    return fill


def session_cookie(visitor: Visitor) -> str:
    visitor.get("/home")  # shows the message that welcomed them
    return f"Cookie: session={visitor.session_id()}"


@pytest.mark.server
def test_a_hole_a_post_shows_each_visitor_their_own_early(
    app: Flask, show: Callable[..., None], serve: Callable[[Flask], FrontServer], ada: Visitor, bob: Visitor
) -> None:
    show(LIKES, like=LIKE)
    front = serve(app)
    readers: Mapping[str, tuple[str, ...]] = {"@ada": (session_cookie(ada),), "@bob": (session_cookie(bob),), "": ()}
    front.ask("/shown")
    for _ in range(2):
        for name, headers in readers.items():
            reply = front.ask("/shown", *headers)
            assert (reply.status, reply.early) == (200, True)
            assert "<!--" not in reply.text or not name
            assert re.findall(r"Like as (@\w+)", reply.text) == ([name] * 2 if name else [])
            assert re.findall(r"Log in to like (\d)", reply.text) == ([] if name else ["1", "2"])
            assert re.findall(r'action="/posts/(\d)/like"', reply.text) == (["1", "2"] if name else [])
            assert reply.page == front.ask("/shown?x=y", *headers).page
    for visitor in (ada, bob):  # the tokens are good, each for its own session
        token = re.search(r'value="([^"]+)"', front.ask("/shown", session_cookie(visitor)).text)
        assert token
        assert visitor.client.post("/posts", data={"csrf_token": token[1], "body": "liked"}).status_code == 302


@pytest.fixture
def liked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Give the calls of a function that is registered for the hole "like", with a stamp for each viewer."""
    asked: list[tuple[str, str]] = []

    def likes(viewer: Viewer, post_id: str) -> dict[str, int]:
        asked.append((viewer.name, post_id))
        return {"likes": len(asked)}

    monkeypatch.setattr("app.web.holes.fillers", {**fillers})
    fills("like", changed_by=lambda viewer: [STAMP("likes", viewer.id)])(likes)
    return asked


@pytest.mark.server
def test_what_a_function_returned_fills_a_hole_until_its_stamp_changes(
    app: Flask,
    show: Callable[..., None],
    serve: Callable[[Flask], FrontServer],
    ada: Visitor,
    bob: Visitor,
    liked: list[tuple[str, str]],
) -> None:
    show('{{ hole("like", post_id=5) }}', like="{{ likes if viewer else 'none' }} for {{ post_id }}")
    front = serve(app)
    cookies = {name: session_cookie(visitor) for name, visitor in (("ada", ada), ("bob", bob))}

    def seen_by(name: str) -> str:
        reply = front.ask("/shown", cookies[name])
        assert reply.early
        return reply.text

    assert "none for 5" in front.ask("/shown").text
    for _ in range(3):
        assert (seen_by("ada"), seen_by("bob")) == ("1 for 5", "2 for 5")
    with app.extensions["page_cache"].changing(STAMP("likes", id_of(app, "ada"))):
        pass
    for _ in range(3):
        assert (seen_by("ada"), seen_by("bob")) == ("3 for 5", "2 for 5")
    assert liked == [("ada", "5"), ("bob", "5"), ("ada", "5")]


@pytest.mark.server
def test_what_a_stamp_holds_fills_holes_without_sql_unless_it_does_not_tell(
    app: Flask,
    show: Callable[..., None],
    serve: Callable[[Flask], FrontServer],
    ada: Visitor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    liked, asked = ["1"], []

    def ask_sql(_viewer: Viewer, post_id: str) -> dict[str, str]:
        asked.append(post_id)
        return {"says": f"asked SQL for {post_id}"}

    def like(held: str, post_id: str) -> dict[str, str] | None:
        if post_id == "3":
            raise NotHeldError
        return {"says": f"liked {post_id}"} if post_id in held.split() else None

    monkeypatch.setattr("app.web.holes.fillers", {**fillers})
    fills_from("like", lambda user_id: STAMP("likes", user_id), else_from_sql=ask_sql)(like)
    cache = app.extensions["page_cache"]
    cache.register_value("likes", lambda _user_id: " ".join(liked))
    show('{% for post_id in (1, 2, 3) %}({{ hole("like", post_id=post_id) }}){% endfor %}', like="{{ says if viewer }}")
    front = serve(app)
    cookie = session_cookie(ada)
    front.ask("/shown")
    for _ in range(3):
        assert front.ask("/shown", cookie).text == "(liked 1)()(asked SQL for 3)"
    assert ada.get("/shown").text == "(liked 1)()(asked SQL for 3)"  # without the front
    assert asked == ["3", "3"]
    liked[:] = ["2"]
    with cache.changing(STAMP("likes", id_of(app, "ada"))):
        pass
    assert front.ask("/shown", cookie).text == "()(liked 2)(asked SQL for 3)"


@pytest.mark.server
def test_a_hole_inside_a_hole_is_filled_too_and_its_stamp_counts_for_both(
    app: Flask,
    show: Callable[..., None],
    serve: Callable[[Flask], FrontServer],
    ada: Visitor,
    liked: list[tuple[str, str]],
) -> None:
    show(
        '<h1>{{ hole("frame") }}</h1>',
        frame='{% if viewer %}[{{ hole("like", post_id=5) }}]{% else %}nobody{% endif %}',
        like="{% if viewer %}{{ likes }} for {{ viewer.name }}{% endif %}",
    )
    front = serve(app)
    cookie = session_cookie(ada)
    assert "nobody" in front.ask("/shown").text
    for _ in range(2):
        assert front.ask("/shown", cookie).text == "<h1>[1 for ada]</h1>"
    with app.extensions["page_cache"].changing(STAMP("likes", id_of(app, "ada"))):
        pass
    assert front.ask("/shown", cookie).text == "<h1>[2 for ada]</h1>"
    assert ada.get("/shown").text == "<h1>[3 for ada]</h1>"  # without the front


@pytest.mark.server
def test_a_function_that_fails_is_an_error_page_and_the_next_request_tries_again(
    app: Flask,
    show: Callable[..., None],
    serve: Callable[[Flask], FrontServer],
    ada: Visitor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def likes(_viewer: Viewer) -> dict[str, int]:
        raise OperationalError("SELECT", {}, Exception("the database is away"))

    show('{{ hole("like") }}', like="{% if viewer %}{{ likes }}{% endif %}")
    front = serve(app)
    cookie = session_cookie(ada)
    front.ask("/shown")
    monkeypatch.setattr("app.web.holes.fillers", {**fillers})
    fills("like", changed_by=lambda _viewer: [])(likes)
    assert front.ask("/shown", cookie).status == 503
    fills("like", changed_by=lambda _viewer: [])(lambda _viewer: {"likes": 1})
    assert (front.ask("/shown", cookie).status, front.ask("/shown", cookie).text) == (200, "1")


@pytest.mark.parametrize(
    "used",
    ["follows", "request.path", "session.name", "g.viewer", "config.SECRET_KEY", "get_flashed_messages()"],
)
@pytest.mark.parametrize("who", ["a stranger", "ada"])
def test_a_hole_that_uses_more_than_the_session_fails_at_once(
    show: Callable[..., None], ada: Visitor, visitor: Visitor, used: str, who: str
) -> None:
    show('{{ hole("nosy") }}', nosy=f"{{{{ {used} }}}}")
    with pytest.raises(UndefinedError):
        (ada if who == "ada" else visitor).get("/shown")


def test_a_csrf_token_outside_of_a_hole_fails_at_once(
    show: Callable[..., None], ada: Visitor, visitor: Visitor
) -> None:
    show('<input value="{{ csrf_token() }}">')
    for reader in (visitor, ada):
        with pytest.raises(RuntimeError, match="a hole"):
            reader.get("/shown")


@pytest.mark.parametrize(
    ("hole", "complaint"),
    [
        ('hole("tip", about="two words")', "can't be written"),
        ('hole("tip", about="a-->")', "can't be written"),
        ('hole("tip", about="<!--")', "can't be written"),
        ('hole("tip", about="a=b")', "can't be written"),
        ('hole("tip", about="a\\nb")', "can't be written"),
        ('hole("tip", about="é")', "can't be written"),
    ],
)
def test_a_hole_that_can_not_be_described_fails_at_once(
    show: Callable[..., None], visitor: Visitor, hole: str, complaint: str
) -> None:
    show(f"{{{{ {hole} }}}}", tip="a tip")
    with pytest.raises(ValueError, match=complaint):
        visitor.get("/shown")


@pytest.mark.server
def test_a_hole_for_one_person_is_empty_for_everyone_else(
    app: Flask, show: Callable[..., None], serve: Callable[[Flask], FrontServer], ada: Visitor, bob: Visitor
) -> None:
    show('<p>{{ hole("own", only_for=ada) }}</p>', own="for {{ viewer.name }}")
    app.jinja_env.globals["ada"] = id_of(app, "ada")
    front = serve(app)
    expected = {"": "<p><!--[", session_cookie(ada): "<p>for ada</p>", session_cookie(bob): "<p></p>"}
    for cookie, starts in expected.items():
        for path in ("/shown", "/shown?x=y"):  # the latter without the front
            assert front.ask(path, *filter(None, [cookie])).text.startswith(starts)


@pytest.mark.server
def test_a_page_that_gets_another_hole_is_filled_anew_early(
    app: Flask, show: Callable[..., None], serve: Callable[[Flask], FrontServer], ada: Visitor
) -> None:
    """What fills a page's holes is remembered for each visitor, until the page has others."""
    numbers = app.jinja_env.globals["numbers"] = [1]
    show('{% for number in numbers %}{{ hole("like", post_id=number) }}{% endfor %}', like=LIKE)
    front = serve(app)
    for shown in ([1], [1, 2], [2]):
        numbers[:] = shown
        with app.extensions["page_cache"].changing("shown"):
            pass
        front.ask("/shown")
        for _ in range(2):
            reply = front.ask("/shown", session_cookie(ada))
            assert reply.early
            assert re.findall(r"/posts/(\d)/like", reply.text) == [str(number) for number in shown]


@pytest.mark.server
@pytest.mark.parametrize("is_handed_over", [False, True], ids=["and is gone", "and its id is another's"])
def test_what_was_being_drawn_when_a_session_ended_is_shown_to_nobody(
    app: Flask,
    serve: Callable[[Flask], FrontServer],
    ada: Visitor,
    bob: Visitor,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    is_handed_over: bool,
) -> None:
    front, cookie, _ = serve(app), session_cookie(ada), session_cookie(bob)
    ada.publish("for ada's followers")
    ada.get("/home")
    front.wait_for_proof()
    reads, may_end = threading.Event(), threading.Event()
    timeline_of = Post.timeline_of

    def read_slowly(user_id: int, before: int | None = None) -> object:
        found = timeline_of(user_id, before)
        if not reads.is_set():
            reads.set()
            assert may_end.wait(PATIENCE)
        return found

    monkeypatch.setattr(Post, "timeline_of", read_slowly)
    seen: list[str] = []
    asks = threading.Thread(target=lambda: seen.append(front.ask("/home", cookie).text))
    asks.start()
    assert reads.wait(PATIENCE)
    sid = ada.session_id()
    redis.delete(f"session:{sid}")
    if is_handed_over:
        redis.copy(f"session:{bob.session_id()}", f"session:{sid}")
    may_end.set()
    finish(asks)
    assert "@ada" in seen[0]  # she was signed in when she asked
    for _ in range(3):
        reply = front.ask("/home", cookie)
        assert 'class="menu-name">@ada<' not in reply.text
        assert not is_handed_over or "everyone's latest posts" in reply.text  # bob follows nobody
        assert (reply.status, reply.early) == ((200, True) if is_handed_over else (302, False))
        assert ("@bob" in reply.text) == is_handed_over
