"""What the request at hand has cost so far: commands to Redis, statements to SQL. The request log tells it.

Stands below both stores, which add to it, and knows neither.
"""

import threading


class Costs:
    """Counts since the request began."""

    __slots__ = ("redis", "request_id", "sql")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.redis = 0
        self.sql = 0


class _ThisThread(threading.local):
    costs = Costs("-")  # outside of any request: counts that nobody reads


this_thread = _ThisThread()  # .costs is set where a request begins


def current() -> Costs:
    """Return the counts of the request at hand; outside of one, counts that nobody reads."""
    return this_thread.costs
