"""Where the Redis server is that takes writes. Every connection asks when it is opened, and so follows a failover.

Three kinds of set-up, and who knows in each: the URL (its name, or a proxy behind it, may lead elsewhere tomorrow), the
Sentinels, and the nodes of a Redis Cluster.
"""

import re
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, NodesManager
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, ResponseError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from app.config import Sentinels

Place = tuple[str, int]  # host and port
REASON = re.compile(r"> - \w+:(\w+)")  # why a Sentinel did not answer, in redis-py's error


class PrimaryUnknownError(RedisConnectionError):
    """Nobody knows a primary that is up: a failover is under way, or all who might know are away."""


class RedisPrimary:
    """A server that is where its URL says."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def locate(self) -> Place:
        """Return where the primary is now. May block for some time-outs. Raises PrimaryUnknownError."""
        return self._place

    def has_moved(self, _place: Place, /) -> bool:
        """Return whether the primary is no longer at this place, where a connection is open that works. May block."""
        return False

    def distrust(self) -> None:
        """Take note that what locate() returned was wrong."""


class SentinelPrimary(RedisPrimary):
    """The server that the Sentinels call the primary.

    options: time-outs and TLS, as redis-py wants them.
    """

    def __init__(self, sentinels: Sentinels, options: dict[str, Any]) -> None:
        super().__init__(sentinels.hosts[0])
        self._sentinels = list(sentinels.hosts)  # in the order in which they are asked
        self._service = sentinels.service
        self._options = options | {"username": sentinels.username, "password": sentinels.password}
        self._options["retry"] = Retry(NoBackoff(), 0)  # the next Sentinel is asked instead

    def locate(self) -> Place:
        """Return where the primary is now. May block for some time-outs. Raises PrimaryUnknownError."""
        # A new one each time: discover_master() reorders its list of Sentinels, which is not safe in several threads.
        with Sentinel(self._sentinels, sentinel_kwargs=self._options) as sentinel:
            try:
                host, port = sentinel.discover_master(self._service)
            except MasterNotFoundError as error:
                why = ", ".join(sorted(set(REASON.findall(str(error))))) or "it has none that is up"
                raise PrimaryUnknownError(f"no Sentinel names a primary of {self._service!r}: {why}") from error
            except ResponseError as error:  # it is no Sentinel, or wants another user; redis-py asks no other one then
                self.distrust()
                raise PrimaryUnknownError(f"a Sentinel refuses to name a primary: {str(error)[:100]}") from error
            first = _place_of(sentinel.sentinels[0])  # who has answered
        self._sentinels = sorted(self._sentinels, key=lambda place: place != first)
        return host, port

    def has_moved(self, place: Place, /) -> bool:
        """Return whether the Sentinels call another server the primary now.

        The old one may go on for ten seconds: Sentinel does not hurry to tell it.
        """
        try:
            return self.locate() != place
        except PrimaryUnknownError:
            return False

    def distrust(self) -> None:
        """Ask another Sentinel first: this one may be cut off from the others, and not know of a failover."""
        first, *others = self._sentinels
        self._sentinels = [*others, first]


class ClusterPrimary(RedisPrimary):
    """The node of a Redis Cluster that owns a slot.

    options: user and password, time-outs and TLS, as redis-py wants them.
    """

    def __init__(self, place: Place, slot: int, options: dict[str, Any]) -> None:
        super().__init__(place)
        self._slot = slot
        self._options = options
        self._nodes: NodesManager | None = None
        self._owner = ""

    def locate(self) -> Place:
        """Return the slot's owner. May block for some time-outs. Raises PrimaryUnknownError."""
        try:
            if self._nodes is None:
                start = [ClusterNode(*self._place)]
                self._nodes = NodesManager(start, require_full_coverage=False, **self._options)
            else:  # the last owner is asked last: if it has lost the slot, the others know first
                self._nodes.initialize([self._place], last_failed_node_name=self._owner)
            owner = self._nodes.get_node_from_slot(self._slot)
        except (RedisClusterException, IndexError) as error:  # IndexError: redis-py has found no primary at all
            why = f"no node of the cluster names the owner of slot {self._slot}"
            raise PrimaryUnknownError(f"{why} (is the user allowed +cluster|slots?)") from error
        self._owner = owner.name
        return owner.host, owner.port


def _place_of(client: Redis) -> Place:
    where = client.connection_pool.connection_kwargs
    return where["host"], where["port"]
