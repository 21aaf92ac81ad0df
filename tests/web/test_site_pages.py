"""Pages of the site's own, and the links at the foot of every page."""

import re
from collections.abc import Callable

import pytest
from flask import Flask

from app.models.moderation import COMMAND_LINE
from app.models.site_pages import TITLES, default_text
from tests.conftest import Visitor
from tests.serving import FrontServer


def store(app: Flask, name: str, body: str) -> None:
    with app.app_context():
        COMMAND_LINE.edit_page(name, body)


@pytest.mark.parametrize("name", TITLES)
def test_there_is_a_good_text_for_each_page(visitor: Visitor, name: str) -> None:
    page = visitor.get(f"/{name}").text
    assert "Pipit" in page
    assert "{" not in re.sub(r"<script.*?</script>", "", page)
    assert "<h2" in page
    assert len(page) > 1_500


@pytest.mark.parametrize(("seconds", "days"), [(14 * 24 * 3600, "14"), (12 * 3600, "0.5")])
def test_the_privacy_page_says_how_long_a_session_lasts_here(
    make_app: Callable[..., Flask], seconds: int, days: str
) -> None:
    app = make_app(session_lifetime=seconds)
    assert f"after {days} days without use" in Visitor(app.test_client()).get("/privacy").text


def test_every_page_leads_to_them_and_to_the_source(make_app: Callable[..., Flask]) -> None:
    app = make_app()
    for path in ("/", "/login", "/nowhere"):
        foot = Visitor(app.test_client()).get(path).text.partition("<footer")[2]
        assert re.findall(r'href="([^"]+)"', foot) == ["/about", "/rules", "/privacy", "/about#source"]
        assert "Redis" not in foot
    assert 'id="source"' in Visitor(app.test_client()).get("/about").text
    elsewhere = make_app(source_url="https://git.example.org/pipit")
    assert 'href="https://git.example.org/pipit">Source' in Visitor(elsewhere.test_client()).get("/login").text


def test_the_rules_are_shown_before_joining(app: Flask, visitor: Visitor) -> None:
    assert "Be kind." in visitor.get("/register").text
    store(app, "rules", "Bring biscuits.")
    assert "Bring biscuits." in visitor.get("/register").text
    assert "Bring biscuits." in visitor.post("/register", username="").text


def test_what_is_written_is_shown_at_once(app: Flask, visitor: Visitor) -> None:
    visitor.get("/rules")
    store(app, "rules", "# One & two\r\nBring <b>biscuits</b>,\r\nsee https://example.org.\r\n\r\n- tea\r\n- milk #tea")
    page = visitor.get("/rules").text
    assert '<h2 id="one-two">One &amp; two</h2>' in page
    assert "<p>Bring &lt;b&gt;biscuits&lt;/b&gt;,\nsee <a" in page
    assert '<a href="https://example.org" rel="nofollow ugc noopener" dir="ltr">https://example.org</a>.</p>' in page
    assert "<li>tea</li>\n<li>milk <a" in page
    store(app, "rules", "  ")
    assert "Be kind." in visitor.get("/rules").text
    store(app, "rules", default_text("rules"))
    assert "Be kind." in visitor.get("/rules").text


@pytest.mark.server
def test_they_are_cached(app: Flask, ada: Visitor, front: FrontServer) -> None:
    ada.get("/home")
    for headers in ([], [f"Cookie: session={ada.session_id()}"]):
        for _ in range(3):
            reply = front.ask("/rules", *headers)
        assert reply.early
    store(app, "rules", "Bring biscuits.")
    assert "Bring biscuits." in front.ask("/rules").text
