"""Finding: posts by their words, people by their names, who is here, and the hashtags in use lately.

The words of posts are in `post_search`, which triggers keep right (migration 0007): on SQLite a table of FTS5, on
PostgreSQL one with a tsvector for each post. It has the same columns on both, and finds the same but for a few
characters that the two take apart differently, such as "①".
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    CursorResult,
    Insert,
    Table,
    Text,
    bindparam,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
)
from sqlalchemy.exc import IntegrityError

from app.extensions import SEARCH_INDEX, Base, db
from app.follower import find, may_be_stale
from app.models.accounts import User
from app.models.follows import PER_PAGE, Person, person_columns
from app.models.pagination import BEFORE, LARGEST_ID, PagedQuery, Pagination
from app.models.post_text import CONTROL, PostText, search_key
from app.models.post_text import LENGTH as POST_LENGTH
from app.models.posts import LATELY, POST, TAG, Listed, PostTag, list_of

LENGTH = 200  # characters of a query
MOST_TAGS = 5  # in a query; each joins a table, and planning forty such joins takes PostgreSQL a second
PEOPLE = 10  # people found
BATCH = 1_000  # posts indexed in one transaction: some 0.1 s, in which others may have to wait; see docs/search.md
QUOTES = str.maketrans(dict.fromkeys("“”„«»", '"'))  # phones write these
TERM = re.compile(r'"([^"]*)"?|([^\s"]+)')
FROM = re.compile("from:@?(.+)", re.IGNORECASE)

INDEX = Table(
    SEARCH_INDEX, Base.metadata, Column("rowid", BigInteger, primary_key=True), Column("words", Text, nullable=False)
)


class SearchError(ValueError):
    """A query that can't be answered; its message says why, to the person who typed it."""


@dataclass(frozen=True)
class SearchQuery:
    """What somebody looks for. A post is found if it has all of it."""

    words: tuple[str, ...] = ()  # words and phrases, without quotation marks
    tags: tuple[str, ...] = ()  # by tag_key()
    author: str | None = None

    @classmethod
    def parse(cls, typed: str) -> "SearchQuery":
        """Return what is meant by: words, "a phrase", #tag, from:name. Raises SearchError if it is too long."""
        if len(typed) > LENGTH:
            raise SearchError(f"That's too long to search for. Use at most {LENGTH} characters.")
        words, tags, author = list[str](), list[str](), None
        for phrase, term in TERM.findall(CONTROL.sub(" ", typed).translate(QUOTES)):
            if named := FROM.fullmatch(term):
                author = named[1]
            elif term.startswith("#") and (found := PostText(term).tags):
                tags += found
            elif any(map(str.isalnum, phrase or term)):
                words.append(phrase or term)
        if len(set(tags)) > MOST_TAGS:
            raise SearchError(f"That's too many hashtags at once. Look for {MOST_TAGS} at most.")
        return cls(tuple(dict.fromkeys(words)), tuple(dict.fromkeys(tags)), author)

    def posts(self, before: int | None = None) -> Pagination[Listed]:
        """Return the posts and replies that are found, newest first. Raises SearchError if its author is nobody."""
        author = User.named(self.author) if self.author else None
        if self.author and author is None:
            raise SearchError(f"There's nobody called “{self.author[:40]}” here.")
        if not (self.words or self.tags or author):
            return Pagination([], before, None)
        found = _found(db.engine.dialect.name, bool(self.words), len(self.tags), author is not None)
        tags = {f"tag_{number}": tag for number, tag in enumerate(self.tags)}
        # What is in quotation marks is no operator, to FTS5 and to websearch_to_tsquery().
        words = " ".join(f'"{word}"' for word in self.words)
        return found.page(before, words=words, author_id=author and author.id, **tags)

    def people(self) -> list[Person]:
        """Return up to PEOPLE people, if only words are looked for.

        Each of the words is the beginning of their name, or of a word in their display name.
        """
        words = search_key(" ".join(self.words)).split()
        if not words or self.tags or self.author:
            return []
        name, display_words = PERSON.name_key, literal(" ") + PERSON.display_key
        matches = (
            or_(name.startswith(word, autoescape=True), display_words.contains(f" {word}", autoescape=True))
            for word in words
        )
        query = select(*person_columns(User.__table__)).where(*matches).order_by(name != words[0], name).limit(PEOPLE)
        found = [Person(*row) for row in find(query, {})]
        if not may_be_stale():
            return found
        still_here = set(db.session.scalars(select(User.id).where(User.id.in_([person.id for person in found]))))
        return [person for person in found if person.id in still_here]


@dataclass(frozen=True)
class UsedTag:
    """A hashtag, and how many posts have lately used it."""

    tag: str
    posts: int


def everyone(before: int | None = None) -> Pagination[Person]:
    """Return the people who have an account, the newest first."""
    return EVERYONE.page(before)


def tags_in_use(before: int | None = None) -> Pagination[UsedTag]:
    """Return the hashtags among the LATELY newest uses of one, the one used last first.

    before: a post's id. The tags of one post stay on one page, which may be a little longer for it.
    """
    newest = select(TAG.tag, TAG.post_id).order_by(TAG.post_id.desc()).limit(LATELY).subquery()
    tag, last = newest.c.tag, func.max(newest.c.post_id)
    query = select(tag, func.count(), last).group_by(tag).having(last < BEFORE)
    query = query.order_by(last.desc(), tag).limit(PER_PAGE + POST_LENGTH)
    rows = find(query, {"before": before or LARGEST_ID})
    end = min(PER_PAGE, len(rows))
    while 0 < end < len(rows) and rows[end][2] == rows[end - 1][2]:
        end += 1
    return Pagination([UsedTag(*row[:2]) for row in rows[:end]], before, rows[end - 1][2] if end < len(rows) else None)


def index_older_posts() -> int:
    """Index the next BATCH posts from before there was an index, newest first; return how many, 0 if none is left.

    Every post that is newer than the oldest one in the index is in it, so there is nothing to remember.
    """
    try:
        result = cast(CursorResult[Any], db.session.execute(_index_older(db.engine.dialect.name)))
        db.session.commit()
    except IntegrityError:  # another release has indexed the same posts
        db.session.rollback()
        return BATCH
    return result.rowcount


# The queries, each made once for each kind of database.


@cache
def _found(database: str, by_words: bool, tags: int, by_author: bool) -> PagedQuery[Listed]:
    """Return the query for posts with some words, so many hashtags, or one author, or all of it.

    Its key is an id in the table that narrows most, so that the database can read that table in order, and stop.
    """
    ids, conditions = list[ColumnElement[int]](), list[ColumnElement[bool]]()
    if by_words:
        ids.append(INDEX.c.rowid)
        conditions.append(MATCHES[database]())
    for number in range(tags):
        tag = PostTag.__table__.alias().c
        ids.append(tag.post_id)
        conditions.append(tag.tag == bindparam(f"tag_{number}"))
    if by_author:
        ids.append(POST.id)
        conditions.append(POST.author_id == bindparam("author_id", type_=BigInteger))
    key, *others = ids
    return list_of(key, key.table, *conditions, *(key == other for other in others))


@cache
def _index_older(database: str) -> Insert:
    oldest = select(func.coalesce(func.min(INDEX.c.rowid), LARGEST_ID)).scalar_subquery()
    older = select(POST.id, POST.body).where(POST.id < oldest).order_by(POST.id.desc()).limit(BATCH)
    # PostgreSQL locks the posts: one that is edited meanwhile must not be indexed as it was. SQLite has one writer.
    posts = older.with_for_update(read=True).subquery()
    # In order, because FTS5 writes to its file whenever a row comes before the last one.
    rows = select(posts.c.id, INDEXED[database](posts.c.body)).order_by(posts.c.id)
    return insert(INDEX).from_select([INDEX.c.rowid, INDEX.c.words], rows).execution_options(preserve_rowcount=True)


PERSON = User.__table__.c
EVERYONE = PagedQuery(Person, select(*person_columns(User.__table__)), PERSON.id, PER_PAGE)
TYPED = bindparam("words", type_=Text)
SIMPLE: ColumnElement[str] = literal_column("'simple'")
# All that differs between the databases: how words are looked for, and what is stored of a post.
# The first are functions: SQLAlchemy refuses a PostgreSQL function that was made before its dialect was loaded.
MATCHES: dict[str, Callable[[], ColumnElement[bool]]] = {
    "sqlite": lambda: INDEX.c.words.bool_op("MATCH")(TYPED),
    "postgresql": lambda: INDEX.c.words.bool_op("@@")(func.websearch_to_tsquery(SIMPLE, func.search_text(TYPED))),
}
INDEXED: dict[str, Callable[[ColumnElement[str]], ColumnElement[str]]] = {
    "sqlite": lambda body: body,
    "postgresql": lambda body: func.to_tsvector(SIMPLE, func.search_text(body)),
}
