"""Keyset pagination: "older than this id" costs the same on page 1,000 as on page 1, which OFFSET does not."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    ScalarSelect,
    Select,
    bindparam,
    func,
    literal,
    select,
)

from app.follower import find

T = TypeVar("T")
Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts ids only in a column it calls INTEGER
LARGEST_ID = 2**63 - 1
MOST_COUNTED = 5_000  # rows; what is popular must cost no more than anything else
BEFORE = bindparam("before", type_=BigInteger)  # a parameter of every PagedQuery


def parse_id(text: str) -> int | None:
    """Return the id that a text holds, or None. Those of imported posts are negative (app/models/imports.py)."""
    if not re.fullmatch("-?[0-9]{1,19}", text) or not 0 < abs(int(text)) <= LARGEST_ID:
        return None
    return int(text)


@dataclass(frozen=True)
class Pagination(Generic[T]):
    """One page of a list, newest first."""

    items: Sequence[T]
    before: int | None  # this page holds items older than this id; None on the first page
    older: int | None  # `before` of the next page; None on the last page


class PagedQuery(Generic[T]):
    """A query whose rows are shown a page at a time, newest first.

    It is made once and kept, for making a query takes as long as running it.
    """

    def __init__(self, item: Callable[..., T], query: Select[Any], key: ColumnElement[int], per_page: int) -> None:
        """Make an `item` of each row's columns. A page continues below a `key`, which is added to each row."""
        # One more row is read than shown, to learn whether there is a next page.
        self._query = query.add_columns(key).where(key < BEFORE).order_by(key.desc()).limit(per_page + 1)
        self._item = item
        self._per_page = per_page

    def page(self, before: int | None, **parameters: object) -> Pagination[T]:
        """Return the newest rows whose key is below `before`."""
        rows = find(self._query, {"before": before or LARGEST_ID, **parameters})
        shown = rows[: self._per_page]
        older = shown[-1][-1] if len(rows) > self._per_page else None
        return Pagination([self._item(*row[:-1]) for row in shown], before, older)


def counted(which: ColumnElement[bool], *, outside: FromClause | None = None) -> ScalarSelect[int]:
    """Return a subquery that counts rows; MOST_COUNTED + 1 stands for any more.

    outside: the table whose row the count is for, if it is for one.
    """
    most = bindparam("most", callable_=lambda: MOST_COUNTED + 1, type_=Integer, unique=True)
    some = select(literal(1)).where(which).correlate(outside).limit(most).subquery()
    return select(func.count()).select_from(some).scalar_subquery()


def shown_count(number: int) -> str:
    """Return what was counted() for people: exact, or that there are more than are counted."""
    return f"{number:,}" if number <= MOST_COUNTED else f"{MOST_COUNTED:,}+"
