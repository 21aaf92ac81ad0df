"""What guards a visitor whatever page they are on."""

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from werkzeug.test import TestResponse

from app.extensions import db
from app.front.security import HEADERS
from tests.conftest import Visitor

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

GUARDS = {name.decode(): value.decode() for name, value in HEADERS}
PUBLIC = [
    "/",
    "/?before=9",
    "/@ada",
    "/@ada/1",
    "/@ada/followers",
    "/@bob/following",
    "/tags/tea",
    "/login",
    "/nothing",
]
PRIVATE = ["/home", "/settings/password", "/settings/sessions"]
URL_ATTRIBUTES = {"href", "src", "action", "formaction", "poster", "data", "srcset"}


class Inline(HTMLParser):
    """Collects what the Content-Security-Policy would block."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "style" or (tag == "script" and not given.get("src")):
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            if name == "style" or name.startswith("on"):
                self.found.append(f"{tag} {name}={value}")
            if name in URL_ATTRIBUTES and tag != "a" and not re.match(r"[/#](?!/)", value or ""):
                self.found.append(f"{tag} {name}={value}")
            if name == "href" and tag == "a" and not re.match(r"[/#](?!/)|https?://", value or ""):
                self.found.append(f"{tag} {name}={value}")


@pytest.fixture
def lively(ada: Visitor, bob: Visitor) -> tuple[Visitor, Visitor]:
    """Give two people who wrote and follow, so that pages have something on them."""
    ada.publish("tea <script>alert(1)</script> at https://example.org/?a=b with @bob #tea")
    bob.follow("ada")
    return ada, bob


def test_no_page_has_anything_inline_or_from_elsewhere(lively: tuple[Visitor, Visitor], visitor: Visitor) -> None:
    ada, bob = lively
    pages = [reader.get(path) for reader in (ada, bob, visitor) for path in PUBLIC]
    pages += [ada.get(path) for path in PRIVATE]
    pages += [ada.publish("x" * 281), visitor.log_in("ada", "wrong"), visitor.register("a-b")]
    pages += [ada.client.post("/posts", data={"body": "<b style='x' onclick='y'>"})]
    assert {page.status_code for page in pages} == {200, 302, 400, 404, 422}
    for page in pages:
        parser = Inline()
        parser.feed(page.text)
        assert parser.found == []
        assert "<title>" in page.text


def test_every_kind_of_answer_has_the_headers(app: Flask, lively: tuple[Visitor, Visitor], visitor: Visitor) -> None:
    ada, _ = lively
    etag = visitor.get("/").headers["ETag"]
    unchanged = {"If-None-Match": etag}
    answers: dict[str, tuple[int, TestResponse]] = {
        "a cached page": (200, visitor.get("/")),
        "a cached page with a name in it": (200, ada.get("/")),
        "a page one has already": (304, visitor.get("/", headers=unchanged)),
        "a page": (200, visitor.get("/login")),
        "a redirect": (302, visitor.get("/home")),
        "a permanent redirect": (301, visitor.get("/@ADA")),
        "an error": (404, visitor.get("/nothing")),
        "a method not allowed": (405, visitor.get("/logout")),
        "a static file": (200, visitor.get("/static/pipit.css")),
        "a static file that is not there": (404, visitor.get("/static/nothing.css")),
        "health": (200, visitor.get("/healthz")),
        "readiness": (200, visitor.get("/readyz")),
        "a head": (200, visitor.client.head("/")),
    }
    assert answers["a cached page"][1].headers["Cache-Status"].startswith("Pipit; hit")
    for kind, (status, answer) in answers.items():
        assert answer.status_code == status, kind
        for name, value in GUARDS.items():
            assert answer.headers.getlist(name) == [value], kind


def test_the_policy_allows_nothing_inline_and_no_frame(visitor: Visitor) -> None:
    policy = visitor.get("/").headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == directives["frame-ancestors"] == directives["base-uri"] == "'none'"
    assert directives["script-src"] == directives["form-action"] == "'self'"


def test_a_reader_gets_no_cookie(lively: tuple[Visitor, Visitor], visitor: Visitor) -> None:
    for _ in range(2):
        for path in [*(path for path in PUBLIC if path != "/login"), "/healthz", "/readyz", "/static/pipit.css"]:
            assert "Set-Cookie" not in visitor.get(path).headers, path


def test_a_page_made_for_one_visitor_is_kept_by_nobody_else(lively: tuple[Visitor, Visitor]) -> None:
    ada, _ = lively
    for path in PUBLIC + PRIVATE:
        answer = ada.get(path)
        assert "Cookie" in answer.headers["Vary"], path
        assert re.search("private|no-store", answer.headers["Cache-Control"]) or answer.status_code == 302, path


@pytest.mark.parametrize("host", ["evil.example", "pipit.example.org.evil.example", "", "[", "pipit.example.org@evil"])
def test_an_unknown_host_is_refused_also_for_a_cached_page(make_app: Callable[..., Flask], host: str) -> None:
    client = make_app(trusted_hosts=("pipit.example.org",)).test_client()
    ours = {"Host": "pipit.example.org"}
    for _ in range(2):
        assert client.get("/", headers=ours).status_code == 200
    assert client.get("/", headers=ours).headers["Cache-Status"].startswith("Pipit; hit")
    for path in ("/", "/login"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 400
        assert "Cache-Status" not in answer.headers
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_known_host_may_have_a_port_and_a_wildcard(make_app: Callable[..., Flask]) -> None:
    client = make_app(trusted_hosts=(".example.org",)).test_client()
    for host in ("example.org", "www.example.org:8000", "WWW.Example.ORG"):
        for _ in range(2):
            assert client.get("/", headers={"Host": host}).status_code == 200


def test_without_trusted_hosts_any_host_will_do(visitor: Visitor) -> None:
    assert visitor.get("/", headers={"Host": "laptop.local:5000"}).status_code == 200


NO_HOSTS = ["[", "a b", "", "x/../y", "h_h", "a..b", ".", "a" * 64 + ".example.org"]


@pytest.mark.parametrize("host", NO_HOSTS)
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("on_heroku", [False, True])
def test_what_can_be_no_host_is_refused(
    make_app: Callable[..., Flask], host: str, scheme: str, on_heroku: bool
) -> None:
    client = make_app(on_heroku=on_heroku, trusted_proxies=1).test_client()
    for path in ("/", "/login", "/@ada"):
        answer = client.get(path, headers={"Host": host, "X-Forwarded-Proto": scheme})
        assert (answer.status_code, answer.headers.get("Location")) == (400, None)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("host", ["evil.example.org", *NO_HOSTS])
def test_nobody_is_redirected_to_a_host_that_is_not_ours(make_app: Callable[..., Flask], host: str) -> None:
    app = make_app(on_heroku=True, trusted_proxies=1, trusted_hosts=("pipit.example.org",))
    response = app.test_client().get("/x", headers={"Host": host, "X-Forwarded-Proto": "http"})
    assert response.status_code == 400
    assert "Location" not in response.headers


def test_an_sql_error_quotes_nothing_that_people_wrote(app: Flask) -> None:
    with app.app_context(), pytest.raises(DBAPIError) as error:
        db.session.execute(text("SELECT :secret FROM nowhere"), {"secret": "ada@example.org"})
    assert "ada@example.org" not in str(error.value)
