"""A thousand slow clients of every kind at once: nobody else notices, and all of them are let go.

They come together, once for this module, because each of them takes ten seconds to be let go.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import pytest

from tests import servers
from tests.conftest import finish, in_threads, unavailable
from tests.faults.slow import (
    KINDS,
    ROUTES,
    Fate,
    memory_bytes,
    open_sockets,
    send_buffers,
    slow_clients,
    worker_of,
)
from tests.faults.traffic import TIMEOUT, Browser, get_anonymously, visitors
from tests.servers import ROOT, Pipit, wait_until

NUMBERS = {kind: 40 if kind in ("unread", "hang-ups") else 150 for kind in KINDS}
THREADS = 5  # for Flask, which is the default
LET_GO = 15.0  # s; the deadlines are 10, and the server may be busy
PROMPT = 4.0  # s for anyone else's answer; loose, for a busy machine, but who waits for a slow client waits 10
GROWTH = 20 * 1024 * 1024  # bytes by which the worker may grow
BUFFER = 200 * 1024  # bytes the kernel may hold for a client that doesn't read
READERS = 2
READER_RESTS = 0.02  # s between two requests
LOOK_EVERY = 0.5  # s
LAST_LOOKS = 3  # when nobody should be there but the readers


@dataclass(frozen=True)
class Seen:
    """One answer that somebody else got, or the error they got instead of one."""

    path: str
    status: int
    seconds: float
    error: str = ""


@dataclass
class Observation:
    """What happened while the slow clients were there."""

    fates: list[Fate] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    buffers: list[list[int]] = field(default_factory=list)  # those that are not empty, at each look
    sockets: list[int] = field(default_factory=list)  # the first one from before they came
    memory: list[int] = field(default_factory=list)  # likewise

    def of(self, kind: str) -> list[Fate]:
        return [fate for fate in self.fates if fate.kind == kind]


@pytest.fixture(scope="module")
def redis_port() -> Iterator[int]:
    with servers.valkey() as server:
        yield server.port


@pytest.fixture(scope="module")
def pipit(redis_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipit]:
    """Give a seeded Pipit of one worker that has answered every route, and whose threads have all worked."""
    if not Path("/proc/net/tcp").exists():
        unavailable("what slow clients cost is read from Linux's /proc")
    url = f"redis://127.0.0.1:{redis_port}/0"
    settings = {"WEB_CONCURRENCY": "1", "WEB_THREADS": str(THREADS)}
    with servers.pipit(tmp_path_factory.mktemp("pipit"), url, **settings) as pipit:
        seed = [sys.executable, "-m", "flask", "seed"]
        subprocess.run(seed, cwd=ROOT, env=pipit.environ, check=True, stdout=subprocess.DEVNULL)
        for path in ROUTES:
            get_anonymously(pipit.port, path)
        in_threads(THREADS, lambda _: get_anonymously(pipit.port, "/login"))
        yield pipit


@pytest.fixture(scope="module")
def visitors_sockets(pipit: Pipit, redis_port: int) -> Callable[[], int]:
    """Give a function that counts the worker's sockets: its own and its visitors'."""
    worker = worker_of(pipit.process.pid)
    return lambda: open_sockets(worker, redis_port)


@pytest.fixture(scope="module")
def observed(pipit: Pipit, visitors_sockets: Callable[[], int]) -> Observation:
    """Let the slow clients come, and watch the worker and two other visitors until all are gone."""
    worker = worker_of(pipit.process.pid)
    watched = Observation(sockets=[visitors_sockets()], memory=[memory_bytes(worker)])
    done = threading.Event()
    with reading(pipit.port, done) as seen, slow_clients(pipit.port, NUMBERS) as clients:
        while not clients.are_over():
            watched.buffers.append([size for size in send_buffers(pipit.port) if size])
            watched.sockets.append(visitors_sockets())
            watched.memory.append(memory_bytes(worker))
            done.wait(LOOK_EVERY)
        watched.fates = clients.fates()
        watched.seen = seen
    return watched


def test_all_slow_clients_are_there_at_the_same_time(observed: Observation) -> None:
    assert [fate for fate in observed.fates if fate.how == "not connected"] == []
    patient = sum(NUMBERS.values()) - NUMBERS["hang-ups"] - NUMBERS["refused body"]
    assert max(observed.sockets) > 0.9 * patient


def test_everyone_else_is_answered_at_once(observed: Observation) -> None:
    assert [seen for seen in observed.seen if seen.status != 200] == []
    assert max(seen.seconds for seen in observed.seen) < PROMPT
    assert len(observed.seen) > 100


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("unread", "hang-ups")])
def test_a_slow_client_is_let_go(observed: Observation, kind: str) -> None:
    assert [fate for fate in observed.of(kind) if fate.seconds is None or fate.seconds > LET_GO] == []


def test_a_client_that_does_not_read_is_let_go(observed: Observation) -> None:
    # It may never learn that. What counts is that the kernel no longer keeps anything for it.
    assert max(len(sizes) for sizes in observed.buffers[-LAST_LOOKS:]) <= READERS


@pytest.mark.parametrize("kind", ["head", "fields", "form"])
def test_a_request_that_does_not_come_to_an_end_is_answered_with_408(observed: Observation, kind: str) -> None:
    assert [fate for fate in observed.of(kind) if fate.statuses != [408]] == []


def test_a_second_request_that_does_not_come_to_an_end_is_answered_with_408_too(observed: Observation) -> None:
    assert {tuple(fate.statuses) for fate in observed.of("second head")} == {(200, 408), (404, 408)}


def test_a_body_that_is_too_large_is_refused_at_once(observed: Observation) -> None:
    fates = observed.of("refused body")
    assert {tuple(fate.statuses) for fate in fates if fate.path == "/login"} == {(413,)}
    assert {len(fate.statuses) for fate in fates} == {1}
    assert max(fate.seconds or LET_GO for fate in fates) < PROMPT


def test_a_body_that_comes_after_the_answer_gets_no_second_answer(observed: Observation) -> None:
    statuses = {(fate.path, *fate.statuses) for fate in observed.of("body of a GET")}
    assert statuses <= {("/", 200), *((path, 408) for path in ROUTES)}
    assert len(statuses) == len(ROUTES)


def test_silence_is_answered_with_silence(observed: Observation) -> None:
    assert {(fate.how, *fate.statuses) for fate in observed.of("silent")} == {("closed",)}


def test_those_who_hang_up_could_come_again_and_again(observed: Observation) -> None:
    assert min(fate.connections for fate in observed.of("hang-ups")) > 10


def test_the_kernel_holds_little_for_those_who_do_not_read(observed: Observation) -> None:
    largest = max(size for sizes in observed.buffers for size in sizes)
    assert BUFFER / 10 < largest < BUFFER


def test_the_worker_holds_little_for_all_of_them(observed: Observation) -> None:
    assert max(observed.memory) - observed.memory[0] < GROWTH


def test_no_connection_is_left_open(observed: Observation, visitors_sockets: Callable[[], int]) -> None:
    # The slow clients' own ends are still open then. A reader may have two: one that is new, one that is being closed.
    assert max(observed.sockets[-LAST_LOOKS:]) <= observed.sockets[0] + 2 * READERS
    wait_until(lambda: visitors_sockets() <= observed.sockets[0], "the worker to close the readers' connections")


def test_no_thread_is_left_waiting(observed: Observation, pipit: Pipit) -> None:
    assert max(send_forms(pipit.port)) < TIMEOUT / 4


@contextmanager
def reading(port: int, done: threading.Event) -> Iterator[list[Seen]]:
    """Have two people read: one on a connection that stays open, one that opens a new connection for each page."""
    seen: list[Seen] = []

    def read(*, stays: bool) -> None:
        with visitors([Browser(port)]) as (browser,):
            for path in cycle(("/", "/login", "/healthz", "/static/pipit.css")):
                began = time.monotonic()
                try:
                    answer = browser.get(path)
                except OSError as error:
                    seen.append(Seen(path, 0, time.monotonic() - began, repr(error)))
                    browser.hang_up()
                else:
                    seen.append(Seen(path, answer.status, time.monotonic() - began))
                if not stays:
                    browser.hang_up()
                if done.wait(READER_RESTS):
                    return

    threads = [threading.Thread(target=read, kwargs={"stays": stays}) for stays in (True, False)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        finish(*threads)


def send_forms(port: int) -> list[float]:
    """Have as many strangers as there are threads guess a password at once; return how long each answer took (s)."""
    seconds = []
    with visitors([Browser(port) for _ in range(THREADS)]) as browsers:
        tokens = [browser.token("/login") for browser in browsers]

        def guess(number: int) -> None:
            answer = browsers[number].log_in(f"stranger{number}", tokens[number])
            assert answer.status == 422
            seconds.append(answer.seconds)

        in_threads(THREADS, guess)
    return seconds
