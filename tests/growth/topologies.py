"""Redis on several servers: with Sentinel, as a cluster, and behind a proxy that follows the primary.

Each set-up runs on free ports of this machine, from Debian's redis-server, and is killed whatever happens. Its servers
have the settings that docs/scaling.md tells operators to set.
"""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from redis import AuthenticationError, Redis, RedisError
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from tests.conftest import unavailable
from tests.servers import free_port, wait_until

SERVICE = "pipit"
PROMISES = {"min-replicas-to-write": 1, "min-replicas-max-lag": 2}
QUICK = {"repl-diskless-sync-delay": 0, "repl-ping-replica-period": 1}
DOWN_AFTER = 1000  # ms without an answer until a server counts as down
SLOT = key_slot(b"{pipit}:")


class RedisServer:
    """One redis-server, or one Sentinel."""

    def __init__(self, folder: Path, *options: str, **settings: object) -> None:
        self.port = free_port()
        self.folder = folder / str(self.port)
        self.folder.mkdir()
        file = self.folder / "redis.conf"
        values = {"port": self.port, "dir": self.folder, "bind": "127.0.0.1", **settings}
        lines = [f"{name.replace('_', '-')} {value}" for name, value in values.items()]
        file.write_text("\n".join([*lines, *(option for option in options if " " in option), ""]))
        flags = [option for option in options if " " not in option]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(["redis-server", str(file), *flags], stdout=log, stderr=log)
        self.client = Redis(
            port=self.port, decode_responses=True, socket_timeout=2, retry=Retry(NoBackoff(), 0), protocol=2
        )
        wait_until(self.answers, "a server to answer")

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except AuthenticationError:
            return True
        except RedisError:
            return False

    def role(self) -> str:
        try:
            return str(self.client.role()[0])
        except RedisError:
            return "none"

    def kill(self) -> None:
        """Kill it as a power cut would: it says goodbye to nobody."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.kill()


class Topology(ABC):
    """Several servers that are one Redis to Pipit."""

    name: str
    url: str  # for Pipit
    prefix = ""  # of Pipit's keys

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.servers: list[RedisServer] = []

    def start(self, *options: str, **settings: object) -> RedisServer:
        server = RedisServer(self.folder, *options, **{"save": '""', **settings})
        self.stack.callback(server.close)
        return server

    @abstractmethod
    def find_primary(self) -> RedisServer | None:
        """Return the server that has Pipit's keys and takes writes, or None while there is none."""

    def primary(self) -> RedisServer:
        """Return the primary, once there is one."""
        return cast(RedisServer, wait_until(self.find_primary, "a primary"))

    @abstractmethod
    def fail_over(self) -> None:
        """Hand over to a replica, as an operator does."""

    def crash(self) -> None:
        """Kill the primary as a power cut does; what watches over it finds another."""
        self.primary().kill()

    def wait_until_whole(self) -> None:
        """Wait until the primary takes writes, so has a replica that follows."""

        def takes_writes() -> bool:
            primary = self.find_primary()
            try:
                return primary is not None and bool(primary.client.set(f"{self.prefix}whole", 1, ex=60))
            except RedisError:
                return False

        wait_until(takes_writes, f"{self.name} to take writes")


class WithReplicas(Topology):
    """A primary and two replicas."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__(folder, stack)
        primary = self.start(**PROMISES, **QUICK)
        follows = f"127.0.0.1 {primary.port}"
        self.servers = [primary, *(self.start(**PROMISES, **QUICK, replicaof=follows) for _ in range(2))]
        self.url = f"redis://127.0.0.1:{primary.port}/0"
        self.name = "one server"
        self.wait_until_whole()

    def find_primary(self) -> RedisServer | None:
        return next((server for server in self.servers if server.role() == "master"), None)

    def fail_over(self) -> None:
        """Promote a replica by hand, after the primary has told it everything (FAILOVER, since Redis 6.2)."""
        self.primary().client.execute_command("FAILOVER")

    def crash(self) -> None:
        """Kill the primary, and promote a replica by hand."""
        super().crash()
        time.sleep(DOWN_AFTER / 1000)
        new, other = (server for server in self.servers if server.role() == "slave")
        new.client.replicaof("NO", "ONE")
        other.client.replicaof("127.0.0.1", str(new.port))


class WithSentinel(WithReplicas):
    """The same under three Sentinels."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.sentinels: list[RedisServer] = []
        super().__init__(folder, stack)
        self.name = "Sentinel"
        port = self.primary().port
        watch = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}",
            f"sentinel failover-timeout {SERVICE} 10000",
            f"sentinel parallel-syncs {SERVICE} 2",
        ]
        for _ in range(3):
            sentinel = RedisServer(self.folder, *watch, "--sentinel")
            stack.callback(sentinel.close)
            self.sentinels.append(sentinel)
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"redis+sentinel://{hosts}/{SERVICE}/0"
        wait_until(lambda: all(map(self._knows_the_others, self.sentinels)), "the Sentinels to find each other")

    def _knows_the_others(self, sentinel: RedisServer) -> bool:
        state = cast(dict[str, Any], sentinel.client.sentinel_master(SERVICE))
        return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 2)

    def find_primary(self) -> RedisServer | None:
        """Return the server that most Sentinels call the primary: an old one may not know yet that it is none."""
        if not self.sentinels:
            return super().find_primary()
        places = [cast(Any, one.client.sentinel_get_master_addr_by_name(SERVICE)) for one in self.sentinels]
        port = Counter(int(port) for _, port in places).most_common(1)[0][0]
        return next((server for server in self.servers if server.port == port and server.role() == "master"), None)

    def crash(self) -> None:
        self.primary().kill()

    def wait_until_whole(self) -> None:
        """Wait until the Sentinels, too, see both replicas follow: they take ten seconds to repair one."""
        super().wait_until_whole()
        wait_until(lambda: all(map(self._sees_replicas, self.sentinels)), "the Sentinels to see both replicas", 40)

    def _sees_replicas(self, sentinel: RedisServer) -> bool:
        replicas = sentinel.client.sentinel_slaves(SERVICE)
        return len(replicas) == 2 and all(
            state["flags"] == "slave" and state["master-link-status"] == "ok" for state in cast(Any, replicas)
        )

    def fail_over(self) -> None:
        self.sentinels[-1].client.sentinel_failover(SERVICE)  # the one that Pipit asks last


class Cluster(Topology):
    """A Redis Cluster of three primaries, each with a replica. The URL names a replica that never has Pipit's keys."""

    name = "Cluster"
    prefix = "{pipit}:"

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__(folder, stack)
        settings = {"cluster-enabled": "yes", "cluster-node-timeout": DOWN_AFTER, **QUICK}
        buses = [free_port() for _ in range(6)]
        self.servers = [self.start(**settings, **{"cluster-port": bus}) for bus in buses]
        self.bounds = [(number * 16384 // 3, (number + 1) * 16384 // 3 - 1) for number in range(3)]
        first = self.servers[0]
        for server, bus in zip(self.servers[1:], buses[1:], strict=True):
            first.client.execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        for server, slots in zip(self.servers[:3], self.bounds, strict=True):
            server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
        wait_until(
            lambda: all(self._info(one)["cluster_known_nodes"] == "6" for one in self.servers), "the nodes to meet"
        )
        for server, primary in zip(self.servers[3:], self.servers[:3], strict=True):
            node = primary.client.execute_command("CLUSTER", "MYID")
            server.client.execute_command("CLUSTER", "REPLICATE", node)
        wait_until(
            lambda: all(self._info(one)["cluster_state"] == "ok" for one in self.servers), "the cluster to agree"
        )
        self.url = f"redis://127.0.0.1:{self.servers[3 + (self._shard + 1) % 3].port}/0"
        self.wait_until_whole()

    @property
    def _shard(self) -> int:
        return next(number for number, (first, last) in enumerate(self.bounds) if first <= SLOT <= last)

    def _info(self, server: RedisServer) -> dict[str, str]:
        info = server.client.execute_command("CLUSTER", "INFO")
        if isinstance(info, dict):
            return info
        return dict(line.split(":", 1) for line in str(info).split())

    @property
    def owners(self) -> list[RedisServer]:
        """The two nodes that may have Pipit's keys."""
        return [self.servers[self._shard], self.servers[self._shard + 3]]

    def find_primary(self) -> RedisServer | None:
        return next((server for server in self.owners if server.role() == "master"), None)

    def fail_over(self) -> None:
        replica = next(server for server in self.owners if server.role() == "slave")
        replica.client.execute_command("CLUSTER", "FAILOVER")


class FollowingProxy:
    """A TCP proxy that leads new connections to the primary, as HAProxy with health checks does, and a DNS name.

    Like them, it leaves the connections alone that are open.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.target = topology.primary().port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._ended = threading.Event()
        for work in (self._accept, self._follow):
            threading.Thread(target=work, daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _follow(self) -> None:
        while not self._ended.wait(0.2):
            primary = self.topology.find_primary()
            if primary:
                self.target = primary.port

    def _accept(self) -> None:
        with suppress(OSError):  # closed: the end
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class BehindProxy(WithReplicas):
    """A primary and two replicas, handed over by hand; Pipit has the URL of a proxy that follows."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        super().__init__(folder, stack)
        self.name = "proxy"
        self.proxy = FollowingProxy(self)
        stack.callback(self.proxy.close)
        self.url = f"redis://127.0.0.1:{self.proxy.port}/0"


@contextmanager
def running(kind: type[Topology], folder: Path) -> Iterator[Topology]:
    """Run a set-up; kill all its servers at the end."""
    if shutil.which("redis-server") is None:
        unavailable("redis-server is not installed")
    with ExitStack() as stack:
        yield kind(folder, stack)
