"""Profiles: what people say of themselves, and the pictures drawn from their names."""

import re

import pytest
from flask import Flask

from app.extensions import db
from app.models import User
from app.web.templating import GROUNDS, INKS, SHAPES, face
from tests.conftest import Visitor


def describe(visitor: Visitor, **said: str) -> int:
    """Send the form about oneself; return the answer's status."""
    return visitor.post("/settings/profile", **{"display_name": "", "about": "", "link": "", **said}).status_code


def test_a_display_name_stands_beside_the_name_wherever_the_person_is_shown(
    ada: Visitor, bob: Visitor, visitor: Visitor
) -> None:
    assert describe(ada, display_name="  Ada\tLovelace ") == 302
    ada.publish("tea, @bob?")
    ada.follow("bob")
    shown = '<bdi class="display-name">Ada Lovelace</bdi> <span class="handle">@ada</span>'
    for path in ("/", "/@ada", "/@ada/1", "/@bob/followers"):
        assert shown in visitor.get(path).text, path
    assert "<title>Ada Lovelace (@ada) ·" in visitor.get("/@ada").text
    told = bob.get("/notifications").text
    assert re.search(r'<a href="/@ada"><bdi>Ada Lovelace</bdi></a>\s+followed you', told)


def test_a_line_and_a_link_are_on_the_profile_at_once(ada: Visitor, visitor: Visitor) -> None:
    visitor.get("/@ada")
    assert describe(ada, about="I count. <b>", link="example.org/ada/") == 302
    page = visitor.get("/@ada").text
    assert '<p class="profile-about" dir="auto">I count. &lt;b&gt;</p>' in page
    assert '<a href="https://example.org/ada/" rel="nofollow ugc noopener me" dir="ltr">example.org/ada</a>' in page
    assert '<meta name="description" content="I count. &lt;b&gt;">' in page
    assert 'value="https://example.org/ada/"' in ada.get("/settings/profile").text
    assert describe(ada) == 302
    assert "profile-about" not in visitor.get("/@ada").text


@pytest.mark.parametrize(
    ("field", "typed", "says"),
    [
        ("display_name", "@bob", "A display name can&#39;t begin with @."),
        ("display_name", "\u200b＠bob", "A display name can&#39;t begin with @."),
        ("display_name", "x" * 51, "Use at most 50 characters."),
        ("about", "x" * 201, "Use at most 200 characters."),
        ("link", "javascript:alert(1)", "That doesn&#39;t look like a web address"),
        ("link", "javascript://example.org/%0aalert(1)", "That doesn&#39;t look like a web address"),
        ("link", "https://good.example@evil.example", "That doesn&#39;t look like a web address"),
        ("link", "https://a.example/\u202egpj", "That doesn&#39;t look like a web address"),
        ("link", "my site", "That doesn&#39;t look like a web address"),
        ("link", "https://example.org/" + "x" * 200, "Use at most 200 characters."),
    ],
)
def test_what_cannot_be_used_comes_back_with_the_reason(
    ada: Visitor, visitor: Visitor, field: str, typed: str, says: str
) -> None:
    answer = ada.post("/settings/profile", **{"about": "kept", field: typed})
    assert answer.status_code == 422
    assert says in answer.text
    assert "kept" in answer.text or field == "about"
    assert "kept" not in visitor.get("/@ada").text


def test_a_display_name_cannot_turn_the_direction_of_what_follows_or_be_invisible(app: Flask, ada: Visitor) -> None:
    for typed, kept in (("A\u202eda\n\u2066", "Ada"), ("\u3164\u200b", "")):
        describe(ada, display_name=typed)
        with app.app_context():
            assert db.session.query(User.display_name).filter_by(name="ada").scalar() == kept


def test_a_name_has_the_same_picture_however_it_is_typed_and_people_are_told_apart() -> None:
    assert face("Ada") == face("ada")
    names = [
        f"{first}{last}" for first in "abcdefghij" for last in ("da", "lice", "nna", "_1", "bcd", "x", "yz", "moe")
    ]
    assert len({face(name) for name in names}) > 70


def test_the_style_sheet_draws_every_picture(visitor: Visitor) -> None:
    url = re.search(r'href="(/static/pipit[^"]*\.css)"', visitor.get("/").text)
    assert url
    css = visitor.get(url[1]).text
    drawn = {kind: set(re.findall(rf"\.{kind}-(\d+) {{", css)) for kind in ("ground", "ink", "shape")}
    assert {kind: len(numbers) for kind, numbers in drawn.items()} == {"ground": GROUNDS, "ink": INKS, "shape": SHAPES}
