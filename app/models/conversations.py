"""Conversations: what a post replies to, and what replies to it.

A reply knows the post that it stands below, and nothing else is stored. So a conversation is read by following these
links, in a recursive query: up from a post to where it began, or down to every reply to a reply. A page shows LEVELS of
them each way. So a reply changes at most LEVELS + 1 pages; on the last of these, only a number of replies.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import CTE, BigInteger, Select, bindparam, literal, select

from app.extensions import db
from app.models.follows import people_table
from app.models.pagination import LARGEST_ID
from app.models.posts import OTHER, POST, Listed, Post, ShownPost, edited_at, listed_columns
from app.models.writes import POST_PAGE

LEVELS = 50  # above a post, and below it, that its page shows; two people who talk add one with each reply
PER_PAGE = 30  # replies
IDS = bindparam("ids", type_=BigInteger, expanding=True)
AFTER = bindparam("after", type_=BigInteger)


@dataclass(frozen=True)
class Conversation:
    """What a post's page shows around it."""

    above: list[Listed]  # what the post replies to, and what that replies to, the oldest first; without their numbers
    below: list[Listed]  # the replies, and the replies to these, the oldest first
    after: int | None  # `below` holds what is newer than this id; None on the first page
    newer: int | None  # `after` of the next page; None on the last page

    @classmethod
    def around(cls, post: ShownPost, after: int | None = None) -> "Conversation":
        """Return a page of the conversation around a post."""
        is_first = after is None
        above: list[Listed] = []
        if post.reply_to_id and is_first:
            above = [Listed(*row) for row in db.session.execute(_above(), {"ids": [post.id]})]
        page = {"ids": [post.id], "after": after or -LARGEST_ID}
        rows = [Listed(*row) for row in db.session.execute(_below(), page)]
        below = rows[:PER_PAGE]
        return cls(above, below, after, below[-1].id if len(rows) > PER_PAGE else None)


def pages_above(ids: Collection[int]) -> set[str]:
    """Return the pages of these posts, and of those above them."""
    return _pages(_pages_above(), ids)


def pages_around(ids: Collection[int]) -> set[str]:
    """Return the pages of these posts, and of those above and below them: all that show them in a conversation."""
    return _pages(_pages_above(), ids) | _pages(_pages_below(), ids)


def _pages(query: Select[Any], ids: Collection[int]) -> set[str]:
    return {POST_PAGE(name, post_id) for name, post_id in db.session.execute(query, {"ids": list(ids)})}


# The queries, each made once: to make one takes as long as to run it.


@cache
def _above() -> Select[Any]:
    found = _levels(up=True)
    return select(found.c.id, edited_at(found.c.id, found)).where(found.c.level > 0).order_by(found.c.level.desc())


@cache
def _below() -> Select[Any]:
    found = _levels(up=False)
    query = select(*listed_columns(found.c.id, found)).where(found.c.level > 0, found.c.id > AFTER)
    return query.order_by(found.c.id).limit(PER_PAGE + 1)


@cache
def _pages_above() -> Select[Any]:
    return _with_authors(_levels(up=True))


@cache
def _pages_below() -> Select[Any]:
    return _with_authors(_levels(up=False))


def _with_authors(found: CTE) -> Select[Any]:
    people = people_table()
    query = select(people.c.name, POST.id).select_from(found)
    return query.join(Post, POST.id == found.c.id).join(people, people.c.id == POST.author_id).distinct()


def _levels(*, up: bool) -> CTE:
    """Return a query for posts and those above or below them, with their distance."""
    found = select(POST.id, POST.reply_to_id, literal(0).label("level")).where(POST.id.in_(IDS)).cte(recursive=True)
    linked = OTHER.id == found.c.reply_to_id if up else OTHER.reply_to_id == found.c.id
    step = select(OTHER.id, OTHER.reply_to_id, found.c.level + 1).join(found, linked).where(found.c.level < LEVELS)
    return found.union_all(step)
