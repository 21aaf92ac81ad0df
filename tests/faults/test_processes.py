"""A process is killed: what is left either goes on or ends in good order, and nobody is logged out."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from redis import Redis

from tests import servers
from tests.servers import wait_until
from tests.test_processes import GONE_WITHIN, PATIENCE, Laptop, Person, copy_of_the_checkout, listens


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    laptop = Laptop(copy_of_the_checkout(tmp_path / "pipit"))
    laptop.write_dotenv()
    return laptop


def test_a_killed_worker_is_replaced_and_nobody_is_logged_out(tmp_path: Path, redis_url: str) -> None:
    with servers.pipit(tmp_path, redis_url) as pipit:
        person = Person(pipit.port)
        person.register("ada")
        workers = re.findall(r"Booting worker with pid: (\d+)", pipit.log.read_text())
        assert len(workers) == 2
        for worker in workers:
            os.kill(int(worker), signal.SIGKILL)
        wait_until(lambda: pipit.log.read_text().count("Booting worker") == 4, "two other workers", PATIENCE)
        assert person.is_signed_in()


def test_a_killed_redis_stops_the_site_and_the_next_start_finds_everybody_signed_in(laptop: Laptop) -> None:
    person = Person(laptop.port)
    with laptop.started() as honcho:
        person.register("ada")
        with Redis(port=laptop.redis_port) as redis:
            redis.set("what is written after her session", "")
            assert redis.waitaof(1, 0, PATIENCE * 1000)[0] == 1  # by now both are on the disk
            os.kill(redis.info()["process_id"], signal.SIGKILL)
        assert honcho.process.wait(PATIENCE) != 0
        assert laptop.processes() == []
        assert not listens(laptop.port)
    with laptop.started():
        # Until Redis has read its file she gets a 503. Once she were taken for a stranger she would stay one.
        wait_until(person.is_signed_in, "her to be signed in", PATIENCE)


def test_a_killed_gunicorn_leaves_no_worker_behind(laptop: Laptop) -> None:
    with laptop.started() as honcho:
        Person(laptop.port).get("/")
        listening = re.search(r"Listening at: \S+ \((\d+)\)", honcho.output)
        assert listening
        os.kill(int(listening[1]), signal.SIGKILL)
        assert honcho.process.wait(PATIENCE) != 0
        wait_until(lambda: not laptop.processes(), "every process to end", PATIENCE)
        assert not listens(laptop.port)
        assert not listens(laptop.redis_port)
    with laptop.started():  # what it left in instance/ does not stop the next start
        assert "Latest posts" in Person(laptop.port).get("/")


@pytest.mark.parametrize("moment", [0.05, 0.15, 0.25, 0.4])  # s after its start; it takes half a second
def test_a_worker_that_has_not_started_yet_ends_when_it_is_told_to(laptop: Laptop, moment: float) -> None:
    laptop.environ["WEB_CONCURRENCY"] = "1"
    with laptop.running("gunicorn") as gunicorn:
        gunicorn.wait_to_say("Booting worker")
        time.sleep(moment)
        gunicorn.process.terminate()
        assert gunicorn.process.wait(GONE_WITHIN) == 0
        assert laptop.processes() == []


def test_a_signal_that_comes_while_a_finalizer_runs_ends_a_worker_that_has_not_started_yet(laptop: Laptop) -> None:
    """Python ignores an exception there, so what ends the worker must not be one."""
    laptop.environ["WEB_CONCURRENCY"] = "1"
    package = laptop.folder / "app/__init__.py"
    package.write_text(package.read_text() + SIGNALS_ITSELF)
    with laptop.running("gunicorn") as gunicorn:
        wait_until(lambda: gunicorn.output.count("Booting worker") > 1, "the next worker", PATIENCE)
        assert "Exception ignored" not in gunicorn.output


SIGNALS_ITSELF = """
class Finalized:
    def __del__(self):
        import os, signal
        os.kill(os.getpid(), signal.SIGTERM)

Finalized()
"""
