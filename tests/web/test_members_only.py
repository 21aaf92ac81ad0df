"""READING=members: a stranger gets the login page, whatever they ask for, and learns nothing from it."""

import re
from collections.abc import Callable, Iterator
from html import escape

import pytest
from flask import Flask
from werkzeug.routing import Rule

from app.config import parse_redis_url
from tests.conftest import Visitor
from tests.serving import HOST, FrontServer

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

# What a stranger needs, and nothing that a member wrote. Whoever adds to this says why it is harmless.
OPEN = {
    "accounts.login",
    "addresses.confirm_address",  # shows a name to the owner of a link
    "addresses.confirmed",
    "addresses.forgot",  # looks nothing up
    "addresses.forgot_sent",
    "second_factor.enter_code",
    "site_pages.page",  # says who runs the site, and nothing that members wrote
    "accounts.logout",  # whose session has ended meanwhile, is logged out
    "accounts.register",
    "accounts.reset_password",  # shows a name to the owner of a link
    "joining.join",  # shows the name of who invites to whom they invite
    "health.alive",
    "health.ready",
    "well_known.favicon",
    "well_known.manifest",
    "well_known.robots",
}
NAME, WORD, TAG = "quirinus", "zanzibar", "xylophone"
SECRETS = (NAME, WORD, TAG)
THERE = {"name": NAME, "post_id": 1, "tag": TAG}
MISSING = {"name": "nobody", "post_id": 999, "tag": "nothing"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
CHANGES = {"date", "x-request-id", "set-cookie", "content-length"}
Answer = tuple[int, dict[str, str], str]
Ask = Callable[..., Answer]


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(reading="members", trusted_hosts=(HOST, "localhost"))


@pytest.fixture
def member(new_visitor: Callable[..., Visitor]) -> Visitor:
    """Give a member who has written something and likes it."""
    member = new_visitor()
    assert member.register(NAME).status_code == 302
    member.publish(f"{WORD} #{TAG}")
    member.publish(f"{WORD} again #{TAG}")
    member.post("/posts/1/like", form_on="/home")
    return member


@pytest.fixture(params=["plain WSGI", pytest.param("the front", marks=pytest.mark.server)])
def ask(request: pytest.FixtureRequest, app: Flask, visitor: Visitor) -> Ask:
    """Give a function that sends a stranger's request."""
    front: FrontServer | None = request.getfixturevalue("front") if request.param == "the front" else None

    def ask(path: str, method: str = "GET", cookie: str = "", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()} | (
            {"Cookie": cookie} if cookie else {}
        )
        if front:
            reply = front.ask(path, *(f"{name}: {value}" for name, value in named.items()), method=method)
            return reply.status, dict(reply.headers), reply.text
        client = app.test_client(use_cookies=False)
        answer = client.open(path, method=method, headers=named, base_url=f"http://{HOST}", buffered=True)
        return answer.status_code, {name.lower(): value for name, value in answer.headers}, answer.text

    return ask


def filled(rule: Rule, arguments: dict[str, object]) -> str:
    """Return an address of a route; "x" stands for an argument that is not known here."""
    values = {name: arguments.get(name, "x") for name in rule.arguments}
    return re.sub(r"<(?:[^>:]+:)?(\w+)>", lambda found: str(values[found[1]]), rule.rule)


def routes(app: Flask) -> Iterator[Rule]:
    return app.url_map.iter_rules()


def without_path(answer: Answer, path: str) -> Answer:
    """Return an answer without the address that was asked for, and without what differs from answer to answer."""
    status, headers, body = answer
    path = path.partition("?")[0]

    def cut(text: str) -> str:
        return text.replace(path, "…").replace(escape(path), "…")

    return status, {name: cut(value) for name, value in headers.items() if name not in CHANGES}, cut(body)


def test_only_what_a_stranger_needs_is_open(app: Flask) -> None:
    marked = {name for name, view in app.view_functions.items() if hasattr(view, "open_to_strangers")}
    assert marked == OPEN


def test_no_route_tells_a_stranger_anything(app: Flask, member: Visitor, ask: Ask) -> None:
    """Every route is asked for what exists and for what doesn't, after a member has been there."""
    addresses = [(rule, filled(rule, THERE), filled(rule, MISSING)) for rule in routes(app)]
    cookie = f"session={member.session_id()}"
    etags, seen = {}, set()
    for rule, there, _ in addresses:
        if "GET" in (rule.methods or ()) and "/end" not in there:
            for _time in range(3):
                status, headers, body = ask(there, cookie=cookie)
                if status == 200 and NAME in body:
                    seen.add(rule.endpoint)
            etags[there] = headers.get("etag", "*")
    assert len(seen) > 15  # the member does get what the stranger must not get
    login = ask("/login")
    assert not any(secret in login[2] for secret in SECRETS)
    for rule, there, missing in addresses:
        unchanged = {"If_None_Match": etags.get(there, "*")}
        script = {"If_None_Match": "*", "X_Requested_With": "script"}
        made_up = {"Cookie": f"session={'A' * 22}"}
        for method in METHODS:
            ways = [("", {}), ("", made_up)]
            if method in ("GET", "HEAD"):
                ways += [("?before=2", {}), ("", unchanged), ("", script)]
            for query, more in ways:
                status, headers, body = ask(there + query, method, **more)
                said = without_path((status, headers, body), there + query)
                assert not any(secret in str(said) for secret in SECRETS), (method, there)
                if rule.endpoint in OPEN and method in (rule.methods or ()):
                    continue
                assert said == without_path(ask(missing + query, method, **more), missing + query), (method, there)
                assert status == (302 if method in ("GET", "HEAD") else 403), (method, there)
                assert headers["cache-control"] in ("private, no-cache", "no-store")
                assert "etag" not in headers
                assert "cache-status" not in headers
                if status == 302:
                    assert headers["location"].partition("?")[0] == "/login"


def test_a_strangers_own_form_token_opens_nothing(app: Flask, member: Visitor, visitor: Visitor) -> None:
    for rule in routes(app):
        if rule.endpoint in OPEN:
            continue
        for arguments in (THERE, MISSING):
            path = filled(rule, arguments)
            answer = visitor.post(path, form_on="/login", body="hello", q=WORD)
            assert answer.status_code == 403
            said = answer.text.replace(path, "")  # which the stranger has typed
            assert not any(secret in said for secret in SECRETS)


@pytest.mark.parametrize("path", ["/nothing", "/static/nothing.css", "/@quirinus/", "//people", "/wp-login.php"])
def test_an_address_without_a_page_leads_to_the_login_page_too(member: Visitor, ask: Ask, path: str) -> None:
    status, headers, _ = ask(path)
    assert (status, headers["location"].partition("?")[0]) == (302, "/login")


def test_the_site_itself_leads_to_a_login_page_that_says_why(visitor: Visitor) -> None:
    assert visitor.get("/").location == "/login"
    page = visitor.get("/", follow_redirects=True).text
    assert "is for its members only" in page
    assert 'role="status"' not in page
    for useless in ('href="/"', 'href="/search"'):
        assert useless not in page
    assert 'href="/register"' in page


def test_who_logs_in_is_led_back(member: Visitor, new_visitor: Callable[..., Visitor]) -> None:
    stranger = new_visitor()
    login = stranger.get(f"/tags/{TAG}?before=9").location
    assert login == f"/login?next=/tags/{TAG}?before%3D9"
    assert "Log in to see this page." in stranger.get(login).text
    answer = stranger.log_in(NAME, next=f"/tags/{TAG}")
    assert answer.location == f"/tags/{TAG}"
    assert WORD in stranger.get(answer.location).text


def test_who_logs_out_reads_so_on_the_login_page_and_then_nothing_else(member: Visitor) -> None:
    member.get("/home")  # shows what waits to be shown
    answer = member.log_out()
    assert "You&#39;re logged out." in member.get(answer.location, follow_redirects=True).text
    assert member.get("/@quirinus").status_code == 302
    assert member.post("/logout", form_on="/login").status_code == 302


def test_members_get_every_page_as_ever_and_nobody_may_keep_it(member: Visitor) -> None:
    for path in (
        "/",
        "/@quirinus",
        "/@quirinus/1",
        f"/tags/{TAG}",
        "/people",
        "/tags",
        "/feed.atom",
        "/search?q=again",
    ):
        for _ in range(2):
            answer = member.get(path)
            assert answer.status_code == 200
            assert answer.headers["Cache-Control"] == "private, no-cache"
    assert member.get("/@nobody").status_code == 404


@pytest.mark.server
def test_members_are_served_without_flask_and_strangers_never(
    front: FrontServer, member: Visitor, visitor: Visitor
) -> None:
    visitor.register("reader")  # who has written nothing that a cached page may lack
    visitor.get("/home")  # shows the welcome, and forgets it
    cookie = f"Cookie: session={visitor.session_id()}"
    for path in ("/", "/@quirinus/1", "/feed.atom"):
        for _ in range(3):  # Flask builds the page, then the front fills its holes
            reply = front.ask(path, cookie)
        assert (reply.status, reply.early) == (200, True)
        etag = reply.header("etag")
        assert front.ask(path, cookie, f"If-None-Match: {etag}").status == 304
        stranger = front.ask(path, f"If-None-Match: {etag}")
        assert (stranger.status, stranger.early) == (302, False)


def test_what_everyone_may_keep_elsewhere_is_private_here(app: Flask, new_visitor: Callable[..., Visitor]) -> None:
    """A view of pictures would say that: their addresses change with their content."""
    app.add_url_rule("/face", "face", lambda: ("picture", {"Cache-Control": "public, max-age=31536000, immutable"}))
    reader = new_visitor()
    assert reader.get("/face").status_code == 302
    reader.register(NAME)
    assert reader.get("/face").cache_control.to_header().split(", ") == ["max-age=31536000", "immutable", "private"]


def test_crawlers_are_told_to_stay_away(member: Visitor, visitor: Visitor) -> None:
    assert visitor.get("/robots.txt").text == "User-agent: *\nDisallow: /\n"
    assert member.get("/sitemap.xml").status_code == 404


def test_a_host_that_is_not_the_sites_is_told_so(app: Flask) -> None:
    answer = Visitor(app.test_client(), HTTP_HOST="elsewhere.example.org").get("/people")
    assert answer.status_code == 400
    assert "Unknown host" in answer.text


@pytest.mark.server
def test_while_redis_is_away_nobody_is_taken_for_a_stranger(make_app: Callable[..., Flask], member: Visitor) -> None:
    nowhere = parse_redis_url("redis://127.0.0.1:1/0")
    away = Visitor(make_app(reading="members", redis=nowhere).test_client())
    away.client.set_cookie("session", str(member.session_id()))
    for path in ("/", "/@quirinus", "/nothing"):
        assert away.get(path).status_code == 503


def test_a_site_for_everyone_stays_open(make_app: Callable[..., Flask]) -> None:
    stranger = Visitor(make_app().test_client())
    for path, status in (("/", 200), ("/people", 200), ("/nothing", 404), ("/home", 302)):
        assert stranger.get(path).status_code == status
