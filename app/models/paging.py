"""Keyset paging: "older than this id" costs the same on the thousandth page as on the first; OFFSET would not."""

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
class Slice(Generic[T]):
    """A page of a list, newest first."""

    items: Sequence[T]
    older: int | None  # what `before` is for the next page; None if this is the last


def slice_of(query: Select[Any], key: InstrumentedAttribute[int], size: int, before: int | None) -> Slice[Any]:
    """Run a query for the `size` newest rows, by their `key`, that are older than `before`.

    The query selects one entity that has the column `key`. One row more than shown is read, to know if there are more.
    """
    if before is not None:
        query = query.where(key < before)
    rows = list(db.session.scalars(query.order_by(key.desc()).limit(size + 1)))
    items = rows[:size]
    return Slice(items, getattr(items[-1], key.key) if len(rows) > size else None)
