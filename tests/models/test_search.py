"""Finding posts and people: the same on both databases, whatever is typed."""

from collections.abc import Callable

import pytest

from app.models import User
from app.models.post_text import PostText
from app.models.search import SearchQuery
from tests.models.test_posts import bodies

pytestmark = pytest.mark.usefixtures("context")
MakeUser = Callable[[str], User]


def found(typed: str) -> list[str]:
    return bodies(SearchQuery.parse(typed).posts())


@pytest.mark.parametrize(
    ("body", "typed"),
    [
        ("The Café is open", "cafe"),
        ("The cafe is open", "CAFÉ"),
        ("The cafe\u0301 is open", "café"),
        ("Việt Nam", "viet"),
        ("ПРИВЕТ", "привет"),
        ("The ferry is late again", "again ferry"),
        ("The ferry is late again", '"ferry is late"'),
        ("The ferry is late again", "“ferry is late”"),
        ("The ferry is late again", '"ferry is late'),
        ("I don't know", "don't"),
        ("well-known, isn't it?", "known"),
        ("snake_case", "snake"),
        ("see https://example.org/path?x=1", "path"),
        ("see https://example.org/path?x=1", "example.org"),
        ("write to ada@example.org", "example"),
        ("“quoted” words", "quoted"),
        ("in 2026", "2026"),
        ("this and not that", "and not"),
        ("this OR that", "or this"),
        ("near the sea", "NEAR (sea"),
        ("naïve #Tea", "#tea"),
        ("naïve #Tea", "naive #TEA"),
        ("naïve #Tea", "tea"),
        ("東京 タワー", "東京"),
        ("हिन्दी में", "हिन्दी"),
    ],
)
def test_found(make_user: MakeUser, body: str, typed: str) -> None:
    make_user("ada").publish(PostText.parse(body))
    assert found(typed) == [body]


@pytest.mark.parametrize(
    ("body", "typed"),
    [
        ("The ferry is late", 'late is"late is"'),
        ("The ferry is late", "ferr"),
        ("The ferry is late", "ferry boat"),
        ("The ferry is late", "-ferry x"),
        ("tea", "#tea"),
        ("#tea", "#tea coffee"),
        ("#tea", "#tea #coffee"),
        ("x", "😀"),
        ("x", '"'),
        ("x", "*"),
    ],
)
def test_not_found(make_user: MakeUser, body: str, typed: str) -> None:
    make_user("ada").publish(PostText.parse(body))
    assert found(typed) == []
