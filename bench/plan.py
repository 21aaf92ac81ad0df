"""The plan on paper: what a site of so many people, or so many web processes, takes, costs, and runs out of first.

It computes; it measures nothing. Each constant says where it comes from: docs/performance.md, a measurement named
beside it, or a guess. `python -m bench.plan` prints the tables that stand in docs/scaling.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

# What people do. Guesses; those who run a site know better.
HERE_ON_A_DAY = 0.2  # of all members
VIEWS, POSTS, LIKES, LOGINS = 30, 1, 5, 0.05  # of each of these, on that day
BUSIEST_HOUR = 0.1  # of a day's traffic
BUILT = 0.5  # of the views; the others are hits
FOLLOWS = 30  # by each member

# CPU time of a web process (s): docs/performance.md, "Planning"; publishing on PostgreSQL, 150 a second.
HIT, BUILD, WRITE, LOGIN = 1 / 17_500, 1 / 400, 1 / 150, 1 / 45
CORE = 0.5  # of such a core, that a process has to itself; a guess
BUSY = 0.5  # of that, at the busiest hour: more, and people wait

# Bytes. Redis 7 (bench/results/session_memory.txt, docs/cache.md); rows with their indexes on PostgreSQL 15, in a town
# of 5,000 people and 50,000 posts of 84 characters, one hashtag each. A notification was not measured: as a like.
SESSION, STAMP, PAGES = 520, 208, 8_000_000
STAMPS = 3  # a member: whom they follow, what they are told, what they like
POST_ROW, LIKE_ROW, FOLLOW_ROW, USER_ROW = 234 + 337 + 100, 199, 207, 256
NEWS = 50  # to each process that holds a page, when a write drops it
DROPPED = 5  # pages and stamps that a write drops, and that a process holds; a guess

CONNECTIONS, OTHERS = 2, 3  # of a process, to each server; and besides: app/cli/doctor/checks.py
COMMANDS_OF_VIEW, COMMANDS_OF_WRITE = 4, 17  # the log's `redis=`
REDIS_COMMANDS = 50_000  # a second, that its one thread takes; a guess on the safe side
REDIS_SENDS = 100_000_000  # bytes a second: a network of 1 Gbit/s
FULL = 0.8  # of a plan's memory


class Plan(NamedTuple):
    """A plan of Heroku's: its list price in dollars a month, its size in bytes, its connections."""

    name: str
    price: int
    size: float
    connections: int


MB, GB = 1e6, 1e9
REDIS = [
    Plan("mini", 3, 25 * MB, 20),
    Plan("premium-0", 15, 50 * MB, 40),
    Plan("premium-1", 30, 100 * MB, 80),
    Plan("premium-2", 60, 250 * MB, 200),
    Plan("premium-3", 120, 500 * MB, 400),
    Plan("premium-5", 200, 1 * GB, 1_000),
    Plan("premium-7", 750, 7 * GB, 10_000),
    Plan("premium-9", 1_450, 10 * GB, 25_000),
    Plan("premium-10", 3_500, 25 * GB, 40_000),
]
SQL = [
    Plan("essential-0", 5, 1 * GB, 20),
    Plan("essential-1", 9, 10 * GB, 20),
    Plan("essential-2", 20, 32 * GB, 40),
    Plan("standard-0", 50, 64 * GB, 120),
    Plan("standard-2", 200, 256 * GB, 400),
    Plan("standard-3", 400, 512 * GB, 500),
    Plan("standard-4", 750, 768 * GB, 500),
    Plan("standard-5", 1_400, 1_000 * GB, 500),
    Plan("standard-6", 2_000, 1_500 * GB, 500),
    Plan("standard-7", 3_500, 2_000 * GB, 500),
    Plan("standard-8", 4_500, 3_000 * GB, 500),
]
BASIC, STANDARD_1X = 7, 25  # a dyno of two processes: alone, and where there may be several


@dataclass(frozen=True)
class Load:
    """What the busiest hour of so many members comes to, each second."""

    members: float

    def a_second(self, on_a_day: float) -> float:
        """Return how often something is done, that each of those who are here does so often on a day."""
        return self.members * HERE_ON_A_DAY * on_a_day * BUSIEST_HOUR / 3600

    @property
    def views(self) -> float:
        return self.a_second(VIEWS)

    @property
    def writes(self) -> float:
        return self.a_second(POSTS + LIKES)

    @property
    def cores(self) -> float:
        """Return how many cores the web processes keep busy."""
        views = self.views * (BUILT * BUILD + (1 - BUILT) * HIT)
        return views + self.writes * WRITE + self.a_second(LOGINS) * LOGIN

    @property
    def processes(self) -> int:
        return max(2, ceil(self.cores / CORE / BUSY))

    @property
    def redis_bytes(self) -> float:
        return PAGES + self.members * (SESSION + STAMPS * STAMP)

    @property
    def commands(self) -> float:
        return self.views * COMMANDS_OF_VIEW + self.writes * COMMANDS_OF_WRITE

    @property
    def sql_bytes(self) -> float:
        """Return what the database holds after a year."""
        days = 365 * HERE_ON_A_DAY
        lasting = USER_ROW + FOLLOWS * FOLLOW_ROW
        return self.members * (lasting + days * (POSTS * POST_ROW + 2 * LIKES * LIKE_ROW))


def connections(processes: int) -> int:
    return processes * CONNECTIONS + OTHERS


def news(processes: int, writes: float) -> float:
    """Return the bytes a second that Redis sends to tell the processes which of their pages are out of date."""
    return writes * DROPPED * NEWS * processes


def fitting(plans: Sequence[Plan], size: float, count: int) -> Plan | None:
    """Return the smallest plan with that much room and so many connections, if there is one."""
    return next((plan for plan in plans if plan.size >= size and plan.connections >= count), None)


def people_table() -> Iterator[str]:
    """Yield a row for each number of members."""
    yield "| members | pages; writes a second | processes | Redis | SQL, a year | plans | a month | nearest its limit |"
    yield "|--:|--:|--:|--:|--:|---|--:|---|"
    for exponent in range(3, 8):
        load = Load(10**exponent)
        count = connections(load.processes)
        redis, sql = fitting(REDIS, load.redis_bytes / FULL, count), fitting(SQL, load.sql_bytes, count)
        if redis is None or sql is None:
            raise ValueError("no plan is large enough")
        dynos = ceil(load.processes / 2)
        price = redis.price + sql.price + (BASIC if dynos == 1 else dynos * STANDARD_1X)
        limits = {
            "Redis: memory": load.redis_bytes / FULL / redis.size,
            "Redis: connections": count / redis.connections,
            "Redis: its one thread": load.commands / REDIS_COMMANDS,
            "Redis: what it sends": news(load.processes, load.writes) / REDIS_SENDS,
            "SQL: disk": load.sql_bytes / sql.size,
            "SQL: connections": count / sql.connections,
        }
        nearest = max(limits, key=lambda name: limits[name])
        rates = f"{load.views:,.1f}; {load.writes:,.2f}"
        sizes = f"{_bytes(load.redis_bytes)} | {_bytes(load.sql_bytes)}"
        plans = f"{redis.name}, {sql.name} | ${price:,}"
        first = f"{nearest} ({limits[nearest]:.0%})"
        yield f"| {load.members:,} | {rates} | {load.processes} | {sizes} | {plans} | {first} |"


def processes_table() -> Iterator[str]:
    """Yield a row for each number of web processes, all of them as busy as they may be."""
    yield "| processes | members | writes a second | connections | smallest plans | Redis tells them | gives first |"
    yield "|--:|--:|--:|--:|---|--:|---|"
    for processes in (10, 100, 1_000):
        load = Load(processes * CORE * BUSY / Load(1).cores)
        count = connections(processes)
        names = [plan.name if (plan := fitting(plans, 0, count)) else "none" for plans in (REDIS, SQL)]
        sent = news(processes, load.writes)
        limits = {
            "what Redis sends": sent / REDIS_SENDS,
            "Redis's one thread": load.commands / REDIS_COMMANDS,
            "connections to SQL": count / SQL[-1].connections,
            "connections to Redis": count / REDIS[-1].connections,
        }
        over = [f"{name} ({size:.1f} times)" for name, size in sorted(limits.items(), key=lambda item: -item[1])]
        first = ", ".join(what for what in over if limits[what.rpartition(" (")[0]] > 1)
        yield (
            f"| {processes:,} | {load.members / 1e6:,.0f} million | {load.writes:,.0f} | {count:,} "
            f"| {', '.join(names)} | {_bytes(sent)}/s | {first or 'nothing'} |"
        )


def _bytes(size: float) -> str:
    unit, name = next(
        (unit, name) for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if size >= unit or unit == MB
    )
    return f"{size / unit:,.1f} {name}"


def tables() -> str:
    """Return both tables as they stand in docs/scaling.md."""
    return "\n".join(people_table()) + "\n\n" + "\n".join(processes_table()) + "\n"


if __name__ == "__main__":
    print(tables(), end="")
