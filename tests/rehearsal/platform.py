"""Heroku for one application: builds what is committed, runs its release, and starts and stops its dynos."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.rehearsal.build import build, procfile
from tests.rehearsal.router import Router
from tests.servers import ROOT, free_port, wait_until

BOOT = 60  # s until a web dyno must listen: R10 otherwise
GRACE = 30  # s from SIGTERM until SIGKILL
ONE_OFF = 120  # s for a release or a command

# Without the hooks and the name of the person who rehearses.
GIT = ["git", "-c", "core.hooksPath=/dev/null", "-c", "user.name=Rehearsal", "-c", "user.email=rehearsal@example.org"]


class ReleaseFailedError(Exception):
    """The release process failed; the text is its output."""


@dataclass
class Dyno:
    """A process of the Procfile in a folder of its own."""

    name: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]

    def wait_until_bound(self) -> None:
        """Wait until the dyno listens."""
        wait_until(self._listens, f"{self.name} to listen (R10)", BOOT)

    def memory(self) -> int:
        """Return the bytes that all its processes take; shared memory is counted once."""
        taken = 0
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, StopIteration):
                if os.getpgid(int(folder.name)) == self.process.pid:
                    lines = (folder / "smaps_rollup").read_text().splitlines()
                    taken += 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return taken

    def stop(self) -> float:
        """Send SIGTERM to all its processes, as Heroku does; return the seconds until the dyno ended.

        Raises AssertionError if it failed, or did not end within GRACE.
        """
        began = time.monotonic()
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        seconds = time.monotonic() - began
        self.kill()
        assert self.process.returncode == 0, f"{self.name}: status {self.process.returncode} after {seconds:.0f} s"
        return seconds

    def kill(self) -> None:
        """End the dyno and all that it started, at once."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _listens(self) -> bool:
        assert self.process.poll() is None, f"{self.name} crashed: {self.log.read_text()[-1000:]}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


@dataclass
class Platform:
    """The application's repository, its settings and its dynos."""

    folder: Path
    router: Router
    config: dict[str, str] = field(repr=False)  # what `heroku config` shows
    dynos: list[Dyno] = field(default_factory=list)  # those that serve
    started: list[Dyno] = field(default_factory=list)  # every dyno that ever ran

    def __post_init__(self) -> None:
        git("clone", "--quiet", "--no-tags", str(ROOT), str(self.checkout))

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    def commit(self, path: str, content: str) -> None:
        """Commit a file to the checkout."""
        (self.checkout / path).write_text(content)
        git("-C", str(self.checkout), "add", "--force", path)
        git("-C", str(self.checkout), "commit", "--quiet", "--message", "Rehearsed")

    def undo_commit(self) -> None:
        git("-C", str(self.checkout), "reset", "--quiet", "--hard", "HEAD~")

    def build(self) -> Path:
        """Build the checkout's HEAD and return the build's folder."""
        slug = self.folder / "slugs" / str(time.monotonic_ns())
        build(self.checkout, slug)
        return slug

    def deploy(self, slug: Path) -> list[float]:
        """Run a build's release, start its dyno, then stop the older ones; return how many seconds each took to end.

        Raises ReleaseFailedError: then the older dynos still serve.
        """
        status, output = self.run(slug, procfile(slug / "app")["release"])
        if status:
            raise ReleaseFailedError(output)
        older = list(self.dynos)
        self.scale_up(slug)
        return [self.retire(dyno) for dyno in older]

    def run(self, slug: Path, command: str) -> tuple[int, str]:
        """Do `heroku run`: run a command to its end in a dyno of its own; return its status and its output."""
        dyno = self._start(slug, "run", command)
        try:
            return dyno.process.wait(ONE_OFF), dyno.log.read_text()
        finally:
            dyno.kill()

    def scale_up(self, slug: Path) -> None:
        """Start one more web dyno, and send it requests."""
        dyno = self.start_web(slug)
        self.dynos.append(dyno)
        self.router.route(dyno.name, dyno.port)

    def start_web(self, slug: Path) -> Dyno:
        """Start a web dyno that the router does not know yet."""
        dyno = self._start(slug, "web", procfile(slug / "app")["web"])
        dyno.wait_until_bound()
        return dyno

    def retire(self, dyno: Dyno) -> float:
        """Send a dyno no new requests and stop it; return the seconds that took."""
        self.router.unroute(dyno.name)
        self.dynos.remove(dyno)
        return dyno.stop()

    def close(self) -> None:
        """Kill whatever still runs."""
        for dyno in self.started:
            if dyno.process.poll() is None:
                dyno.kill()

    def _start(self, slug: Path, process_type: str, command: str) -> Dyno:
        """Run a command with the environment of a dyno and nothing of this process's."""
        name = f"{process_type}.{len(self.started) + 1}"
        folder, port = self.folder / "dynos" / name, free_port()
        shutil.copytree(slug / "app", folder / "app", symlinks=True)
        (folder / "tmp").mkdir()
        environ = {
            "DYNO": name,
            "PORT": str(port),
            "HOME": str(folder / "app"),
            "PATH": f"{slug / 'python/bin'}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "en_US.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "WEB_CONCURRENCY": "2",
            "DYNO_RAM": "512",
            "FORWARDED_ALLOW_IPS": "*",
            "GUNICORN_CMD_ARGS": "--access-logfile -",
            "TMPDIR": str(folder / "tmp"),  # each dyno has its own /tmp
            **self.config,
        }
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=folder / "app",
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        dyno = Dyno(name, port, log, process)
        self.started.append(dyno)
        return dyno


def git(*arguments: str) -> str:
    """Run git and return its output."""
    return subprocess.run([*GIT, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout
