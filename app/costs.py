"""What the request at hand has cost so far: commands to Redis, statements to SQL. The request log tells it.

Stands below both stores, which add to it, and knows neither.
"""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Costs:
    """Counts since the request began."""

    request_id: str = "-"
    redis: int = 0
    sql: int = 0


_current: ContextVar[Costs] = ContextVar("costs")


def begin(request_id: str) -> Costs:
    """Start counting anew, for a request that begins in this thread."""
    costs = Costs(request_id)
    _current.set(costs)
    return costs


def current() -> Costs:
    """Return the counts of the request at hand; outside of one, counts that nobody reads."""
    return _current.get(None) or Costs()
