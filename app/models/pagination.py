"""Keyset pagination: "older than this id" costs the same on page 1,000 as on page 1, which OFFSET does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import BigInteger, Integer, Select
from sqlalchemy.orm import InstrumentedAttribute

from app.extensions import db

T = TypeVar("T")
Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts ids only in a column it calls INTEGER
LARGEST_ID = 2**63 - 1


@dataclass(frozen=True)
class Pagination(Generic[T]):
    """One page of a list, newest first."""

    items: Sequence[T]
    before: int | None  # this page holds items older than this id; None on the first page
    older: int | None  # `before` of the next page; None on the last page


def paginate(query: Select[Any], key: InstrumentedAttribute[int], per_page: int, before: int | None) -> Pagination[Any]:
    """Return the newest rows of a query whose `key` is below `before`.

    The query selects one entity, which has the column `key`. One more row is read than shown, to learn whether there
    is a next page.
    """
    if before is not None:
        query = query.where(key < before)
    rows = list(db.session.scalars(query.order_by(key.desc()).limit(per_page + 1)))
    items = rows[:per_page]
    older = getattr(items[-1], key.key) if len(rows) > per_page else None
    return Pagination(items, before, older)
