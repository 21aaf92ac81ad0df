"""Pipit as it is started on a laptop: by honcho, foreman and `heroku local`, before and after the first `make run`."""

import os
import shutil
import signal
from pathlib import Path

from tests.rehearsal.platform import git
from tests.rehearsal.report import Report
from tests.servers import ROOT, valkey, wait_until
from tests.test_processes import PATIENCE, Laptop, Person, search_path

STARTERS = ("honcho start", "foreman start", "heroku local --procfile Procfile.dev")
QUIET = {"HEROKU_SKIP_NEW_VERSION_CHECK": "1", "DISABLE_TELEMETRY": "true"}  # no word home while a test runs


def rehearse(folder: Path, report: Report) -> None:
    """Start a clone of HEAD in each way, use the site, and press Ctrl-C."""
    for starter in STARTERS:
        if not shutil.which(starter.split()[0], path=search_path()):
            reason = f"`{starter}` was left out: {starter.split()[0]} is not installed"
            if os.environ.get("NO_SKIPS"):
                with report.row(f"`{starter}`"):
                    raise FileNotFoundError(reason)
            report.note(reason)
            continue
        for when in ("on a fresh clone", "after the first `make run`"):
            with report.row(f"`{starter}` {when} serves until Ctrl-C") as row:
                row.detail = _serves(folder / starter.split()[0] / when.split()[1], starter, when == "on a fresh clone")


def _serves(clone: Path, starter: str, fresh: bool) -> str:
    git("clone", "--quiet", "--no-tags", str(ROOT), str(clone))
    laptop = Laptop(clone)
    laptop.environ |= QUIET
    if fresh:
        laptop.environ |= {"PORT": str(laptop.port), "REDIS_URL": f"redis://127.0.0.1:{laptop.redis_port}/0"}
    else:
        laptop.write_dotenv()
    if fresh and starter == "honcho start":  # it knows only the Procfile, which brings no Redis
        with valkey(laptop.redis_port):
            return _use_and_stop(laptop, starter)
    return _use_and_stop(laptop, starter)


def _use_and_stop(laptop: Laptop, starter: str) -> str:
    with laptop.running(*starter.split()) as running:
        ready = f"Pipit is ready at http://localhost:{laptop.port}"
        running.wait_to_say(ready)
        person = Person(laptop.port)
        person.register("ada")
        assert person.is_signed_in(), running.output
        assert running.process.poll() is None, running.output
        os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does
        running.process.wait(PATIENCE)
        wait_until(lambda: not laptop.processes(), "every process to end", PATIENCE)
        assert "Traceback" not in running.output, running.output
    return ready
