"""What is found: the same on both databases, whatever is typed, and nothing that was deleted."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from sqlalchemy import delete, select, text, update

from app.extensions import db
from app.models import Post, SearchError, SearchQuery, User, search
from app.models.follows import PER_PAGE
from app.models.post_text import PostText, search_key
from app.models.posts import PER_PAGE as POSTS
from app.models.search import LENGTH, PEOPLE, everyone, index_older_posts, tags_in_use
from tests.models.test_posts import all_pages, bodies, publish
from tests.servers import ROOT

pytestmark = pytest.mark.usefixtures("context")
MakeUser = Callable[[str], User]


@pytest.fixture
def ada(make_user: MakeUser) -> User:
    return make_user("ada")


def found(typed: str) -> list[str]:
    return bodies(SearchQuery.parse(typed).posts())


def names(typed: str) -> list[str]:
    return [person.name for person in SearchQuery.parse(typed).people()]


# Words


@pytest.mark.parametrize(
    ("body", "typed"),
    [
        ("The Café is open", "cafe"),
        ("The cafe is open", "CAFÉ"),
        ("The cafe\u0301 is open", "café"),
        ("Việt Nam", "viet"),
        ("ПРИВЕТ", "привет"),
        ("ÅNGSTRÖM", "ångström"),
        ("東京 タワー", "東京"),
        ("हिन्दी में", "हिन्दी"),
        ("The ferry is late again", "again ferry"),
        ("The ferry is late again", '"ferry is late"'),
        ("The ferry is late again", '"FERRY, is: late"'),
        ("The ferry is late again", "“ferry is late” again"),
        ("The ferry is late again", '"ferry is late'),
        ("I don't know", "don't"),
        ("well-known, isn't it?", "known"),
        ("snake_case", "snake"),
        ("see https://example.org/path?x=1", "path"),
        ("see https://example.org/path?x=1", "example.org"),
        ("write to ada@example.org", "example"),
        ("“quoted” words", "quoted"),
        ('"quoted" words', '"quoted words"'),
        ("<b>in</b> 2026", "2026"),
        ("this and not that", "AND NOT"),
        ("this or that", "OR this"),
        ("near the sea", "NEAR"),
        ("#tea and more", "tea"),
        ("hello @bob", "@bob"),
    ],
)
def test_a_post_is_found_by_its_words(ada: User, body: str, typed: str) -> None:
    publish(ada, body, "something else")
    assert found(typed) == [body]


@pytest.mark.parametrize(
    ("body", "typed"),
    [
        ("The ferry is late", '"late is"'),
        ("The ferry is late", "ferr"),
        ("The ferry is late", "ferr*"),
        ("The ferry is late", "ferry boat"),
        ("The ferry is late", "ferry OR boat"),
        ("tea", "#tea"),
        ("#tea", "#tea coffee"),
        ("#tea", "#tea #coffee"),
        ("😀", "😀"),
    ],
)
def test_a_post_is_not_found_by_anything_else(ada: User, body: str, typed: str) -> None:
    publish(ada, body)
    assert found(typed) == []


@pytest.mark.parametrize(
    "typed",
    [
        *('"', '""', '"" ""', "'", "\\", "\\'", "%", "_", "*", "-", "^", "(", "NEAR(a b)", "a NEAR/2 b", "{words}: a"),
        *("words:a", "a:*", "a & !b | c", "a <-> b", "'a'", "a''b", "a\0b", "\0", "\ud800", "“", "„a“ «b»", "# #1 ##a"),
        *("from:", "from", "#", "🧑\u200d🧒", "a" * LENGTH, "a " * (LENGTH // 2), '"' * LENGTH, "\u0301" * LENGTH),
    ],
)
def test_nothing_that_is_typed_is_an_error(ada: User, typed: str) -> None:
    publish(ada, "something else")
    assert found(typed) == []
    assert names(typed) in ([], ["ada"])


def test_a_query_says_what_it_looks_for() -> None:
    typed = 'tea  "late ferry" #Café #cafe\u0301, from:@Ada #7 from'
    assert SearchQuery.parse(typed) == SearchQuery(("tea", "late ferry", "#7", "from"), ("café",), "Ada")


def test_a_long_query_is_refused() -> None:
    with pytest.raises(SearchError, match="at most 200 characters"):
        SearchQuery.parse("x" * (LENGTH + 1))


# Authors, hashtags, pages


def test_author_hashtags_and_words_narrow_what_is_found(ada: User, make_user: MakeUser) -> None:
    publish(make_user("Bob"), "tea", "#tea", "#tea with #milk")
    publish(ada, "tea at last", "#tea")
    assert found("tea") == ["#tea", "tea at last", "#tea with #milk", "#tea", "tea"]
    assert found("from:bob") == ["#tea with #milk", "#tea", "tea"]
    assert found("FROM:@BOB tea with") == ["#tea with #milk"]
    assert found("#TEA") == ["#tea", "#tea with #milk", "#tea"]
    assert found("from:bob #tea") == ["#tea with #milk", "#tea"]
    assert found("#milk #tea") == ["#tea with #milk"]
    assert found("from:bob #tea #milk with") == ["#tea with #milk"]
    assert found("from:ada #milk") == []


@pytest.mark.parametrize("name", ["nobody", "é", "a'b", "_%"])
def test_an_author_whom_nobody_knows_is_named(name: str) -> None:
    with pytest.raises(SearchError, match=f"There's nobody called “{name}” here."):
        found(f"from:{name} tea")


def test_replies_are_found_too(ada: User) -> None:
    (first,) = publish(ada, "tea?")
    ada.publish(PostText.parse("more tea"), Post.with_id(first.id))
    assert found("tea") == ["more tea", "tea?"]


@pytest.mark.parametrize("typed", ["number", "#tea", "from:ada", "from:ada number #tea"])
def test_what_is_found_is_paged_newest_first_without_a_gap(ada: User, typed: str) -> None:
    publish(ada, *(f"number {number} #tea" for number in range(POSTS + 2)))
    pages = all_pages(SearchQuery.parse(typed).posts)
    assert [len(page.items) for page in pages] == [POSTS, 2]
    shown = [post.id for page in pages for post in page.items]
    assert shown == sorted(shown, reverse=True)
    assert len(set(shown)) == POSTS + 2


# The index


def test_a_deleted_post_and_a_deleted_account_are_gone_from_the_index(ada: User, make_user: MakeUser) -> None:
    bob = make_user("bob")
    (post, _) = publish(ada, "tea", "tea again")
    publish(bob, "tea as well")
    ada.delete(post)
    assert found("tea") == ["tea as well", "tea again"]
    db.session.execute(delete(User).where(User.id == ada.id))  # its posts go with it, by the foreign key
    db.session.commit()
    assert indexed() == [post.id + 2]


def test_an_edited_post_is_found_by_what_it_says_now(ada: User) -> None:
    (post,) = publish(ada, "tea")
    edit(post, "coffee")
    assert (found("tea"), found("coffee")) == ([], ["coffee"])


def test_older_posts_are_indexed_some_at_a_time_and_then_no_more(ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    posts = publish(ada, *(f"old {number}" for number in range(5)))
    forget_index()
    (new,) = publish(ada, "old and new")
    ids = [post.id for post in posts]
    edit(posts[1], "old but edited")  # neither is in the index yet
    ada.delete(posts[0])
    assert indexed() == [new.id]
    monkeypatch.setattr(search, "BATCH", 3)
    search._index_older.cache_clear()
    assert index_older_posts() == 3
    assert indexed() == [*ids[2:], new.id]
    assert [index_older_posts(), index_older_posts()] == [1, 0]
    assert indexed() == [*ids[1:], new.id]
    assert found("edited") == ["old but edited"]
    ada.delete(posts[1])  # the oldest in the index
    assert index_older_posts() == 0
    search._index_older.cache_clear()


def test_an_empty_site_has_nothing_to_index() -> None:
    assert index_older_posts() == 0


def indexed() -> list[int]:
    return list(db.session.scalars(text("SELECT rowid FROM post_search ORDER BY rowid")))


def forget_index() -> None:
    db.session.execute(text("DELETE FROM post_search"))
    db.session.commit()


def edit(post: Post, body: str) -> None:
    db.session.execute(update(Post).where(Post.id == post.id).values(body=body))
    db.session.commit()


# People


def test_people_are_found_by_the_beginning_of_their_name_or_of_a_word_in_their_display_name(
    ada: User, make_user: MakeUser
) -> None:
    make_user("AdaL")
    make_user("zoe").display_key = search_key("Zoë O'Adair")
    make_user("a_b").display_key = search_key("Léa Adam-Ödön")
    make_user("axb")
    db.session.commit()
    assert names("ada") == ["ada", "a_b", "AdaL", "zoe"]
    assert names("ADA odo") == ["a_b"]
    assert names("@adal") == ["AdaL"]
    assert names("Zoë adair") == ["zoe"]
    assert names("dal") == names("zoe ada nobody") == names("%") == []
    assert names("a_") == ["a_b"]
    assert names("from:ada ada") == names("#ada ada") == []


def test_only_some_of_many_people_are_found(make_user: MakeUser) -> None:
    db.session.add_all(User(name=f"p{n}", name_key=f"p{n}", password_hash="-") for n in range(PEOPLE + 5))
    db.session.commit()
    assert len(names("p")) == PEOPLE
    assert names("p12")[0] == "p12"


def test_a_search_key_has_neither_accents_nor_case_nor_punctuation() -> None:
    assert search_key("  Zoë “Straße” O'Hara-Ñúñez ﬁn ") == "zoe strasse o hara nunez fin"
    assert search_key("e\u0301") == search_key("É") == "e"
    assert search_key("😀") == ""


def test_everyone_is_listed_newest_first() -> None:
    db.session.add_all(User(name=f"p{n}", name_key=f"p{n}", password_hash="-") for n in range(PER_PAGE + 2))
    db.session.commit()
    pages = all_pages(everyone)
    assert [len(page.items) for page in pages] == [PER_PAGE, 2]
    assert [person.name for page in pages for person in page.items] == list(
        db.session.scalars(select(User.name).order_by(User.id.desc()))
    )


# Hashtags


def test_hashtags_are_listed_by_their_last_use_with_how_many_posts_use_them(
    ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(ada, "#old", "#tea", "#tea #Milk", "#coffee #tea", "none", "#milk")
    monkeypatch.setattr(search, "LATELY", 6)
    assert [(used.tag, used.posts) for used in tags_in_use().items] == [("milk", 2), ("coffee", 1), ("tea", 3)]


def test_the_hashtags_of_one_post_are_on_one_page(ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(ada, "#a", "#b #c #d", "#e")
    monkeypatch.setattr(search, "PER_PAGE", 2)
    assert [[used.tag for used in page.items] for page in all_pages(tags_in_use)] == [["e", "b", "c", "d"], ["a"]]
    assert tags_in_use(1).items == []


def test_a_web_process_can_search_postgresql_which_it_loads_after_the_models() -> None:
    code = """
from app.models import search
from sqlalchemy.dialects import postgresql
found = search._found("postgresql", by_words=True, tags=0, by_author=False)
print(found._query.compile(dialect=postgresql.dialect()))
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "@@ websearch_to_tsquery(" in ran.stdout, ran.stderr
