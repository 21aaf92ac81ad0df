"""What an app that previews a link, a search engine and a phone's home screen are told."""

import re
from collections.abc import Callable
from html import unescape

import pytest
from flask import Flask

from app.models import User
from app.models.post_text import PostText
from tests.conftest import PASSWORD, Visitor

SITE = "https://pipit.example.org"
PATHS = ["/", "/@ada", "/@ada/1", "/@ada/followers", "/@ada/following", "/tags/caf%C3%A9", "/login", "/register"]
LISTS = ["/", "/@ada", "/@ada/followers", "/@ada/following", "/tags/caf%C3%A9"]

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def named(make_app: Callable[..., Flask]) -> Flask:
    """Give an app of a site that has names, and a post."""
    app = make_app(trusted_hosts=("pipit.example.org", "www.pipit.example.org"))
    publish(app)
    return app


def publish(app: Flask) -> None:
    with app.app_context():
        User.register("ada", None, PASSWORD).publish(PostText.parse('"hello" & <good> morning #café'))


def tags(page: str) -> dict[str, str]:
    """Return a page's Open Graph properties, and its canonical URL."""
    found = re.findall(r'<meta property="([^"]+)" content="([^"]*)">', page)
    found += re.findall(r'<link rel="(canonical)" href="([^"]*)">', page)
    assert len(dict(found)) == len(found)
    return {name: unescape(value) for name, value in found}


@pytest.mark.parametrize("path", [*PATHS, *(f"{path}?before=9" for path in LISTS)])
def test_every_public_page_says_where_it_is(named: Flask, path: str) -> None:
    for host in ("www.pipit.example.org", "pipit.example.org"):
        said = tags(Visitor(named.test_client(), HTTP_HOST=host).get(path).text)
        assert said["canonical"] == said["og:url"] == SITE + path
        assert said["og:title"]
        assert said["og:description"]
        assert said["og:site_name"] == "Pipit"
        assert said["og:type"] == {"/@ada": "profile", "/@ada/1": "article"}.get(path.partition("?")[0], "website")
        icon = said["og:image"].removeprefix(SITE)
        assert Visitor(named.test_client(), HTTP_HOST=host).get(icon).mimetype == "image/png"


def test_a_preview_of_a_post_has_its_text(named: Flask) -> None:
    said = tags(Visitor(named.test_client(), HTTP_HOST="pipit.example.org").get("/@ada/1").text)
    assert said["og:title"] == '@ada: "hello" & <good> morning #café'
    assert said["og:description"] == '"hello" & <good> morning #café'
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\+00:00", said["article:published_time"])


@pytest.mark.parametrize("path", [*PATHS, "/?before=9"])
def test_a_site_without_a_name_believes_no_host(app: Flask, path: str) -> None:
    publish(app)
    for _ in range(2):
        page = Visitor(app.test_client(), HTTP_HOST="evil.example").get(path).text
        said = tags(page)
        assert said["og:title"]
        assert not said.keys() & {"canonical", "og:url", "og:image"}
        assert "evil" not in page


def test_the_share_button_is_hidden_until_a_script_shows_it(named: Flask) -> None:
    page = Visitor(named.test_client(), HTTP_HOST="pipit.example.org").get("/@ada/1").text
    assert '<div class="share" hidden>' in page


@pytest.mark.parametrize("path", ["/nothing", "/@nobody", "/@ada/9"])
def test_an_error_has_nothing_to_share(named: Flask, path: str) -> None:
    answer = Visitor(named.test_client(), HTTP_HOST="pipit.example.org").get(path)
    assert answer.status_code == 404
    assert tags(answer.text) == {}


@pytest.mark.parametrize("path", ["/home", "/home?before=9", "/settings/sessions", "/settings/password"])
def test_what_is_for_one_person_has_nothing_to_share(ada: Visitor, path: str) -> None:
    answer = ada.get(path)
    assert answer.status_code == 200
    assert tags(answer.text) == {}
