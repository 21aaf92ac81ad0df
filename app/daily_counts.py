"""Counts of what happens too often for rows in SQL: pages from the cache, pages built, logins refused.

    count:<date>   hash, integers   what was counted on that day, in UTC; lives a month after the last change

Counting costs a request nothing: each web process counts in its memory, and its background thread adds that to Redis
after each look for work (app/background.py) and when the process ends. A process that is killed loses what it has
counted since. What was counted just before midnight may be added to the next day.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import cast

from flask import Flask, current_app

from app.redis_client import Store, StoreUnavailableError

FROM_CACHE, BUILT, LOGINS_REFUSED = "from-cache", "built", "logins-refused"
DAYS = 30  # that are shown
LIFETIME = timedelta(days=DAYS + 1)


class DailyCounts:
    """What this process has counted, and what all of them have added to Redis."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()  # the event loop counts, and so do Flask's threads
        self._counts: Counter[str] = Counter()

    def add(self, what: str) -> None:
        """Count one more, in memory."""
        with self._lock:
            self._counts[what] += 1

    def write(self) -> None:
        """Add to Redis what was counted since the last time. Never raises: without Redis, it is kept for the next time.

        If Redis carries that out but its reply is lost, it is added twice.
        """
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            key = self._key(datetime.now(UTC).date())
            with self._store.commands() as redis, redis.pipeline() as pipe:
                for what, count in counts.items():
                    pipe.hincrby(key, what, count)
                pipe.expire(key, LIFETIME)
                pipe.execute()
        except StoreUnavailableError:
            with self._lock:
                self._counts += counts

    def read(self, days: Sequence[date]) -> list[Counter[str]]:
        """Return what was counted on each of these days. Raises StoreUnavailableError."""
        with self._store.commands() as redis, redis.pipeline(transaction=False) as pipe:
            for day in days:
                pipe.hgetall(self._key(day))
            found = cast(list[dict[bytes, bytes]], pipe.execute())
        return [Counter({what.decode(): int(count) for what, count in counts.items()}) for counts in found]

    def _key(self, day: date) -> str:
        return self._store.key(f"count:{day}")


def last_days() -> list[date]:
    """Return the last DAYS days in UTC, the oldest first. The last one isn't over."""
    today = datetime.now(UTC).date()
    return [today - timedelta(days=ago) for ago in reversed(range(DAYS))]


def init_daily_counts(app: Flask, store: Store) -> None:
    """Give the app its daily counts, which the background writes."""
    counts = app.extensions["daily_counts"] = DailyCounts(store)
    app.extensions["background"].after_each_look(counts.write)


def current_counts() -> DailyCounts:
    """Return the daily counts of the current app."""
    counts: DailyCounts = current_app.extensions["daily_counts"]
    return counts
