"""Static files: kept for good under hashed names, and never under a name that isn't there."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask

from app.front.assets import Assets
from tests.conftest import Visitor

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

STATIC = re.compile(r'(?:href|src)="(/static/[^"]+)"')


@pytest.fixture
def urls(visitor: Visitor) -> list[str]:
    """Give the URLs of static files in the layout."""
    found: list[str] = STATIC.findall(visitor.get("/").text)
    return found


def test_every_file_the_layout_names_is_there_and_kept_for_years(visitor: Visitor, urls: list[str]) -> None:
    assert {Path(url).suffix for url in urls} >= {".css", ".js", ".svg"}
    for url in urls:
        assert re.fullmatch(r"/static/[\w-]+\.[0-9a-f]{12}\.\w+", url)
        answer = visitor.get(url)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
        age = re.search(r"max-age=(\d+)", answer.headers["Cache-Control"])
        assert age
        assert int(age[1]) >= 365 * 24 * 3600


def test_files_have_the_type_that_nosniff_demands(visitor: Visitor, urls: list[str]) -> None:
    types = {Path(url).suffix: visitor.get(url).mimetype for url in urls}
    assert types[".css"] == "text/css"
    assert types[".js"] == "text/javascript"
    assert types[".svg"] == "image/svg+xml"


def test_a_browser_that_takes_gzip_gets_it(visitor: Visitor, urls: list[str]) -> None:
    (css,) = (url for url in urls if url.endswith(".css"))
    plain = visitor.get(css)
    packed = visitor.get(css, headers={"Accept-Encoding": "gzip, deflate, br"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert "Content-Encoding" not in plain.headers
    assert len(packed.data) < len(plain.data)
    assert gzip.decompress(packed.data) == plain.data


def test_the_plain_name_serves_too_but_is_not_kept_for_long(visitor: Visitor, urls: list[str]) -> None:
    (css,) = (url for url in urls if url.endswith(".css"))
    answer = visitor.get("/static/pipit.css")
    assert answer.data == visitor.get(css).data
    assert "max-age=3600" in answer.headers["Cache-Control"]
    assert "immutable" not in answer.headers["Cache-Control"]


@pytest.mark.parametrize(
    "path", ["nothing.css", "pipit.000000000000.css", "pipit.css.gz/x", "../__init__.py", "%2e%2e/config.py", ""]
)
def test_what_is_not_there_is_a_404(visitor: Visitor, path: str) -> None:
    assert visitor.get(f"/static/{path}").status_code == 404


def test_a_template_that_names_a_file_that_is_not_there_fails_at_once(app: Flask) -> None:
    with pytest.raises(KeyError):
        Assets(app).url("nothing.css")


def test_the_version_and_the_names_are_the_same_in_every_process(app: Flask) -> None:
    one, other = Assets(app), Assets(app)
    assert one.version == other.version
    assert one.url("pipit.css") == other.url("pipit.css")


@pytest.mark.parametrize("named", ["a.html", "a.xml"])
def test_another_style_or_another_template_is_another_version(app: Flask, tmp_path: Path, named: str) -> None:
    for folder in ("static", "templates"):
        (tmp_path / folder).mkdir()
    style, template = tmp_path / "static" / "a.css", tmp_path / "templates" / named
    fake = Flask("fake", root_path=str(tmp_path))
    versions = set()
    for css, html in (("a", "a"), ("b", "a"), ("b", "b")):
        style.write_text(css)
        template.write_text(html)
        versions.add(Assets(fake).version)
    assert len(versions) == 3


@pytest.mark.parametrize("debug", ["", "1"])
def test_no_other_site_is_invited_to_read_the_files(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, debug: str
) -> None:
    monkeypatch.setenv("FLASK_DEBUG", debug)
    answer = Visitor(make_app().test_client()).get("/static/pipit.css", headers={"Origin": "https://other.example.org"})
    assert answer.status_code == 200
    assert "Access-Control-Allow-Origin" not in answer.headers
