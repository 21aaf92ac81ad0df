"""What crawlers, feed readers and search engines look for."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from flask import Flask

from app.models import User
from app.models.post_text import PostText
from tests.conftest import PASSWORD, Visitor
from tests.servers import ROOT

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def publish(name: str) -> None:
    author = User.named(name)
    assert author
    author.publish(PostText.parse("hello"))


def listed(sitemap: bytes) -> list[str]:
    """Return the URLs in a sitemap."""
    urls = ET.fromstring(sitemap).iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")  # noqa: S314  # our own
    return [url.text or "" for url in urls]


@on_sqlite
def test_crawlers_are_told_what_is_of_no_use_to_them(visitor: Visitor) -> None:
    answer = visitor.get("/robots.txt")
    assert answer.status_code == 200
    assert answer.mimetype == "text/plain"
    useless = ["/join/", "/login", "/moderation", "/notifications", "/posts/", "/register", "/reset/", "/settings/"]
    assert answer.text.splitlines() == ["User-agent: *", *(f"Disallow: {path}" for path in useless)]


@on_sqlite
def test_search_engines_are_told_who_is_here(make_app: Callable[..., Flask]) -> None:
    app = make_app(trusted_hosts=("pipit.example.org", "www.pipit.example.org"))
    with app.app_context():
        for name in ("ada", "bob", "cyd"):
            User.register(name, None, PASSWORD)
        for name in ("ada", "bob", "ada"):
            publish(name)
    visitor = Visitor(app.test_client(), HTTP_HOST="www.pipit.example.org")
    assert visitor.get("/robots.txt").text.endswith("\n\nSitemap: https://pipit.example.org/sitemap.xml\n")
    answer = visitor.get("/sitemap.xml")
    assert answer.headers["Content-Type"] == "application/xml; charset=utf-8"
    assert listed(answer.data) == [f"https://pipit.example.org{path}" for path in ("/", "/@ada", "/@bob")]
    with app.app_context():
        found = User.named("bob")
        assert found
        found.delete_account()
    assert listed(visitor.get("/sitemap.xml").data) == [f"https://pipit.example.org{path}" for path in ("/", "/@ada")]


@on_sqlite
def test_the_sitemap_ends_somewhere(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(trusted_hosts=("pipit.example.org",))
    with app.app_context():
        for name in ("ada", "bob", "cyd"):
            User.register(name, None, PASSWORD)
            publish(name)
        monkeypatch.setattr("app.models.accounts.LATELY", 2)
        assert [name for name, _ in User.active_lately(9)] == ["cyd", "bob"]
        assert [name for name, _ in User.active_lately(1)] == ["cyd"]


@on_sqlite
def test_a_site_without_a_name_has_no_sitemap(visitor: Visitor) -> None:
    assert visitor.get("/sitemap.xml").status_code == 404
    assert "Sitemap" not in visitor.get("/robots.txt").text


@on_sqlite
def test_a_phone_learns_how_the_site_looks_on_its_home_screen(make_app: Callable[..., Flask]) -> None:
    visitor = Visitor(make_app(site_name="Larks").test_client())
    page = visitor.get("/").text
    linked = re.search('<link rel="manifest" href="([^"]+)">', page)
    assert linked
    answer = visitor.get(linked[1])
    assert (answer.status_code, answer.mimetype) == (200, "application/manifest+json")
    manifest = json.loads(answer.data)
    assert (manifest["name"], manifest["short_name"]) == ("Larks", "Larks")
    assert f'content="{manifest["theme_color"]}"' in page
    touch = re.search('<link rel="apple-touch-icon" href="([^"]+)">', page)
    assert touch
    for url, size in (*((icon["src"], icon["sizes"]) for icon in manifest["icons"]), (touch[1], "180x180")):
        icon = visitor.get(url)
        assert (icon.status_code, icon.mimetype) == (200, "image/png")
        width, height = struct.unpack(">II", icon.data[16:24])
        assert f"{width}x{height}" == size
    assert [icon["sizes"] for icon in manifest["icons"]] == ["192x192", "512x512"]


@on_sqlite
def test_the_icon_is_found_at_its_old_address(visitor: Visitor) -> None:
    answer = visitor.get("/favicon.ico")
    assert answer.status_code == 302
    icon = visitor.get(answer.headers["Location"])
    assert icon.status_code == 200
    assert icon.data.startswith(b"\0\0\1\0")  # an icon file's first bytes


@on_sqlite
@pytest.mark.parametrize(
    "path",
    ["/", "/@ada", "/@ada/1", "/@ada/followers", "/@ada/following", "/tags/x", "/login", "/register"],
)
def test_every_public_page_describes_itself(ada: Visitor, visitor: Visitor, path: str) -> None:
    ada.publish("hello #x")
    found = re.findall('<meta name="description" content="([^"]+)">', visitor.get(path).text)
    assert len(found) == 1
    assert "Pipit" in found[0] or path == "/@ada/1"


@pytest.mark.parametrize("template", sorted((ROOT / "app/templates").rglob("*.html")), ids=lambda path: path.name)
def test_no_template_writes_an_address_by_hand(template: Path) -> None:
    """url_for() fails on an address that leads nowhere; one that is written by hand is a 404 for a visitor."""
    assert not re.findall(r'(?:href|action|src)="/', template.read_text())
