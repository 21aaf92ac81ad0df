"""What the Redis server says of itself and of a family of keys: what only operators ask."""

import statistics
import time
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis, ResponseError

from app.redis_client import NO_CLUSTER, Store, StoreUnavailableError

PINGS = 5  # for a median that one slow answer does not move
SCAN_STEP = 500  # keys a SCAN looks at; the server does nothing else meanwhile
SCAN_LIMIT = 100_000  # keys looked at in all: some tenths of a second of round trips
MEASURED_KEYS = 200  # whose memory is asked for


@dataclass(frozen=True)
class KeySample:
    """How many keys of a family there are, and what one of them takes."""

    count: int
    complete: bool  # False: the server holds more keys than were looked at
    bytes_each: float | None  # the mean; None if there are none, or from a server older than MEMORY USAGE (4.0)


class ServerStats:
    """What the server says of itself and of a family of keys. Every method raises StoreUnavailableError."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def round_trip(self) -> float:
        """Return the seconds a PING takes on an open connection: the median of PINGS."""
        with self.store.commands() as redis:
            redis.ping()  # opens the connection
            times = []
            for _number in range(PINGS):
                began = time.perf_counter()
                redis.ping()
                times.append(time.perf_counter() - began)
        return statistics.median(times)

    def info(self) -> dict[str, Any]:
        """Return what INFO says; nothing if this user may not ask."""
        with self.store.commands() as redis:
            try:
                return dict(redis.info())
            except ResponseError:
                return {}

    def setting(self, name: str) -> str | None:
        """Return a setting of the server; None if it does not tell, as hosted ones often don't, or has none such."""
        with self.store.commands() as redis:
            try:
                value = cast(dict[str, str], redis.config_get(name)).get(name)
            except ResponseError:
                return None
        return None if value is None else str(value)

    def refusal(self) -> str | None:
        """Return the error with which a node of a cluster refuses Pipit's keys; None if it, or no cluster, has them."""
        try:
            with self.store.commands() as redis:
                redis.exists(self.store.key("ready"), self.store.key("ready:2"))
        except StoreUnavailableError as error:
            if self.store.trouble(error) is not NO_CLUSTER:
                return None
            return str(error)
        return None

    def connection_names(self) -> list[str] | None:
        """Return the name of each connection to the server, "" where it has none; None if this user may not ask."""
        with self.store.commands() as redis:
            try:
                clients = redis.client_list()
            except ResponseError:
                return None
        return [client.get("name", "") for client in clients]

    def clock_lead(self) -> float | None:
        """Return by how many seconds this machine's clock is ahead of the server's; None if it can't be asked.

        The server's answer is taken to be from the middle of the round trip (Cristian's algorithm), of the fastest one.
        """
        seen = []
        with self.store.commands() as redis:
            for _number in range(PINGS):
                began, before = time.perf_counter(), time.time()
                try:
                    seconds, microseconds = redis.time()
                except ResponseError:
                    return None
                took = time.perf_counter() - began
                seen.append((took, before + took / 2 - seconds - microseconds / 1e6))
        return min(seen)[1]

    def sample(self, pattern: str) -> KeySample | None:
        """Count the keys that match, looking at no more than SCAN_LIMIT keys; None if this user may not ask."""
        found: set[bytes] = set()
        cursor = -1
        with self.store.commands() as redis:
            try:
                for _number in range(SCAN_LIMIT // SCAN_STEP):
                    cursor, keys = cast(
                        tuple[int, list[bytes]], redis.scan(max(0, cursor), match=pattern, count=SCAN_STEP)
                    )
                    found.update(keys)
                    if cursor == 0:
                        break
                return KeySample(len(found), cursor == 0, self._bytes_each(redis, list(found)[:MEASURED_KEYS]))
            except ResponseError:
                return None

    @staticmethod
    def _bytes_each(redis: Redis, keys: list[bytes]) -> float | None:
        with redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.memory_usage(key)
            sizes = [size for size in pipe.execute(raise_on_error=False) if isinstance(size, int)]
        return statistics.mean(sizes) if sizes else None
