"""What crawlers, feed readers and search engines look for."""

import re
from pathlib import Path

import pytest

from tests.conftest import Visitor
from tests.servers import ROOT

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@on_sqlite
def test_crawlers_are_told_what_is_of_no_use_to_them(visitor: Visitor) -> None:
    answer = visitor.get("/robots.txt")
    assert answer.status_code == 200
    assert answer.mimetype == "text/plain"
    assert answer.text.splitlines() == ["User-agent: *", "Disallow: /home", "Disallow: /settings/"]


@on_sqlite
def test_the_icon_is_found_at_its_old_address(visitor: Visitor) -> None:
    answer = visitor.get("/favicon.ico")
    assert answer.status_code == 302
    icon = visitor.get(answer.headers["Location"])
    assert icon.status_code == 200
    assert icon.data.startswith(b"\0\0\1\0")  # an icon file's first bytes


@on_sqlite
@pytest.mark.parametrize(
    "path", ["/", "/@ada", "/@ada/1", "/@ada/followers", "/@ada/following", "/tags/x", "/login", "/register"]
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
