"""What the lab asks of the Redis server: what was called, what its keys take, and an end to them."""

from collections import Counter
from collections.abc import Iterator
from typing import cast

from redis import Redis, ResponseError

from app.redis_client import Store, glob_escape


class RedisServer:
    """The server that a store is on. Every method raises StoreUnavailableError."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def calls(self) -> Counter[str]:
        """Return how often each command was called since the server started, by anyone, in a script or not.

        What a connection says of itself at its start is left out, and INFO, so that asking does not change the answer.
        """
        with self.store.commands() as redis:
            stats = redis.info("commandstats")
        counted = {name.removeprefix("cmdstat_"): int(numbers["calls"]) for name, numbers in stats.items()}
        aside = {"info", "auth", "hello", "select", "client"}
        return Counter({name: calls for name, calls in counted.items() if name.partition("|")[0] not in aside})

    def connections(self) -> int:
        """Return how many clients are connected, this one included."""
        with self.store.commands() as redis:
            return int(redis.info("clients")["connected_clients"])

    def memory(self, prefix: str) -> int | None:
        """Return the bytes that the keys with this prefix take; None from a server older than MEMORY USAGE (4.0)."""
        with self.store.commands() as redis, redis.pipeline(transaction=False) as pipe:
            for key in self._keys(redis, prefix):
                pipe.memory_usage(key)
            sizes = cast(list[int | ResponseError | None], pipe.execute(raise_on_error=False))
        known = [size or 0 for size in sizes if not isinstance(size, Exception)]  # None: the key has expired meanwhile
        return sum(known) if len(known) == len(sizes) else None

    def delete(self, prefix: str) -> int:
        """Delete the keys with this prefix; return how many there were. Raises ValueError if that meant every key."""
        if not prefix:
            raise ValueError("an empty prefix is every key there is")
        with self.store.commands() as redis:
            return sum(redis.delete(key) for key in self._keys(redis, prefix))

    @staticmethod
    def _keys(redis: Redis, prefix: str) -> list[bytes]:
        found = cast(Iterator[bytes], redis.scan_iter(match=glob_escape(prefix) + "*", count=500))
        return list(set(found))  # SCAN may name a key twice
