"""The platform: it takes a push, builds it, runs its release, starts and stops its dynos."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.rehearsal.router import Router
from tests.servers import ROOT, free_port

BOOT = 60  # s from the start of a web dyno until it must listen: R10 otherwise
GRACE = 30  # s from SIGTERM until SIGKILL
RELEASE = 120  # s for a release here; the platform itself gives it a day

# Nothing of whoever rehearses: neither their hooks nor their name.
GIT = ["git", "-c", "core.hooksPath=/dev/null", "-c", "user.name=Rehearsal", "-c", "user.email=rehearsal@example.org"]
HOOK = "#!/bin/sh\nPYTHONPATH={root} exec {python} -m tests.rehearsal.build {slugs}\n"


class PlatformError(Exception):
    """What the platform would mail its owner about: R10, a dyno that crashed."""


@dataclass(frozen=True)
class Push:
    """What came of a `git push`."""

    accepted: bool
    said: str  # all that the person who pushed could read
    slug: Path | None  # the build; None if there is none
    seconds: float


@dataclass(frozen=True)
class Release:
    """What came of a release: a dyno that serves it, or the reason why the older one still does."""

    succeeded: bool
    said: str


@dataclass(frozen=True)
class Stopped:
    """How a dyno ended."""

    seconds: float  # from SIGTERM
    killed: bool  # it took longer than GRACE
    status: int


@dataclass
class Dyno:
    """A process of the Procfile in a folder of its own, which nothing else sees and nothing keeps."""

    name: str
    port: int
    folder: Path
    log: Path
    process: subprocess.Popen[bytes]
    boot: float = 0.0  # s until it listened

    @property
    def app(self) -> Path:
        return self.folder / "app"

    def wait_until_bound(self) -> None:
        """Wait until it listens. Raises PlatformError if it crashes, or takes longer than BOOT (R10)."""
        began = time.monotonic()
        while time.monotonic() < began + BOOT:
            if self.process.poll() is not None:
                raise PlatformError(f"{self.name} crashed, status {self.process.returncode}: {tail(self.log)}")
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                self.boot = time.monotonic() - began
                return
            time.sleep(0.02)
        raise PlatformError(f"R10: {self.name} did not listen on its port within {BOOT} s")

    def memory(self) -> int:
        """Return the bytes that all its processes take; what several share is counted once."""
        taken = 0
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, StopIteration):
                if os.getpgid(int(folder.name)) == self.process.pid:
                    lines = (folder / "smaps_rollup").read_text().splitlines()
                    taken += 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return taken

    def stop(self) -> Stopped:
        """Send SIGTERM to all its processes, as the platform does, and SIGKILL to what is left after GRACE."""
        began = time.monotonic()
        self._signal(signal.SIGTERM)
        try:
            status = self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.kill()
            return Stopped(time.monotonic() - began, True, self.process.wait())
        seconds = time.monotonic() - began
        self.kill()  # whatever it left behind
        return Stopped(seconds, False, status)

    def kill(self) -> None:
        """End it and all that it has started, at once."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


@dataclass
class Platform:
    """One application on the platform: its repository, its settings and its dynos."""

    folder: Path
    router: Router
    config: dict[str, str] = field(repr=False)  # what `heroku config` shows
    dynos: list[Dyno] = field(default_factory=list)  # those that serve
    logs: list[Path] = field(default_factory=list)  # of every process that ever ran
    head: str = ""  # the commit that is rehearsed: the checkout's HEAD when it began
    slug: Path | None = None  # what is released
    stopped: list[Stopped] = field(default_factory=list)  # how each dyno ended that was retired
    _all: list[Dyno] = field(default_factory=list)
    _count: int = 0

    def create(self) -> None:
        """Make the bare repository with its hook, and a clone of the checkout to push from."""
        for name in ("slugs", "dynos", "logs"):
            (self.folder / name).mkdir()
        git("init", "--quiet", "--bare", str(self.repository))
        git("-C", str(self.repository), "config", "receive.shallowUpdate", "true")  # a CI's checkout may be shallow
        git("-C", str(self.repository), "config", "core.hooksPath", str(self.repository / "hooks"))
        hook = self.repository / "hooks/pre-receive"
        words = {"root": ROOT, "python": sys.executable, "slugs": self.folder / "slugs"}
        hook.write_text(HOOK.format(**{name: shlex.quote(str(word)) for name, word in words.items()}))
        hook.chmod(0o755)
        git("clone", "--quiet", "--no-tags", str(ROOT), str(self.checkout))
        self.head = git("-C", str(self.checkout), "rev-parse", "HEAD").strip()

    @property
    def repository(self) -> Path:
        return self.folder / "pipit.git"

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    def commit(self, files: dict[str, str]) -> None:
        """Commit files, by their path, to the clone, on top of what it has; `reset` takes them away again."""
        for name, content in files.items():
            path = self.checkout / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        git("-C", str(self.checkout), "add", "--force", "--all")
        git("-C", str(self.checkout), "commit", "--quiet", "--message", "Rehearsed")

    def reset(self) -> None:
        """Go back to the commit that is rehearsed."""
        git("-C", str(self.checkout), "reset", "--quiet", "--hard", self.head)

    def push(self, branch: str) -> Push:
        """Push the clone's HEAD."""
        began = time.monotonic()
        command = [*GIT, "-C", str(self.checkout), "push", "--force", str(self.repository), f"HEAD:refs/heads/{branch}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        revision = git("-C", str(self.checkout), "rev-parse", "HEAD").strip()
        slug = self.folder / "slugs" / f"{branch}-{revision[:12]}"
        accepted = done.returncode == 0
        built = slug if accepted and slug.exists() else None
        return Push(accepted, done.stdout + done.stderr, built, time.monotonic() - began)

    def run(self, slug: Path, process_type: str, **overridden: str) -> Release:
        """Run a process of the Procfile to its end in a dyno of its own."""
        dyno = self._start(slug, process_type, {}, overridden)
        try:
            status = dyno.process.wait(RELEASE)
        except subprocess.TimeoutExpired:
            status = None
        dyno.kill()
        self._forget(dyno)
        return Release(status == 0, dyno.log.read_text())

    def deploy(self, slug: Path, dynos: int = 1) -> tuple[Release, list[Stopped]]:
        """Release a build: its release process first; then its dynos start, take over, and the older ones are stopped.

        A release that fails changes nothing. Raises PlatformError if a dyno does not start; the older ones then go on.
        """
        release = self.run(slug, "release")
        if not release.succeeded:
            return release, []
        older = list(self.dynos)
        self.scale(slug, len(older) + dynos)
        stopped = [self.retire(dyno) for dyno in older]
        self.slug = slug
        return release, stopped

    def scale(self, slug: Path, dynos: int) -> None:
        """Run that many web dynos: start some more of this build, or retire the newest."""
        while len(self.dynos) > dynos:
            self.retire(self.dynos[-1])
        while len(self.dynos) < dynos:
            dyno = self.start_web(slug)
            self.dynos.append(dyno)
            self.router.route(dyno.name, dyno.port)

    def start_web(self, slug: Path) -> Dyno:
        """Start a web dyno that the router does not know yet. Raises PlatformError."""
        dyno = self._start(slug, "web", {"PORT": str(free_port())}, {})
        try:
            dyno.wait_until_bound()
        except PlatformError:
            dyno.kill()
            raise
        return dyno

    def retire(self, dyno: Dyno) -> Stopped:
        """Take a dyno out of the router, then stop it."""
        self.router.unroute(dyno.name)
        self.dynos.remove(dyno)
        stopped = dyno.stop()
        self.stopped.append(stopped)
        self._forget(dyno)
        return stopped

    def close(self) -> None:
        """Kill whatever still runs."""
        for dyno in self._all:
            dyno.kill()

    def log(self) -> str:
        """Return what every process has said."""
        return "".join(path.read_text(errors="replace") for path in self.logs)

    def _start(self, slug: Path, process_type: str, port: dict[str, str], overridden: dict[str, str]) -> Dyno:
        """Start a process of the Procfile, with the environment of a dyno and nothing of ours."""
        self._count += 1
        name = f"{process_type}.{self._count}"
        folder = self.folder / "dynos" / name
        shutil.copytree(slug / "app", folder / "app", symlinks=True)
        (folder / "tmp").mkdir()
        environ = {
            "DYNO": name,
            "HOME": str(folder / "app"),
            "PATH": f"{slug / 'python/bin'}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "en_US.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "WEB_CONCURRENCY": "2",
            "DYNO_RAM": "512",
            "FORWARDED_ALLOW_IPS": "*",
            "GUNICORN_CMD_ARGS": "--access-logfile -",
            "TMPDIR": str(folder / "tmp"),  # each dyno has its own /tmp
            **port,
            **self.config,
            **overridden,
        }
        log = self.folder / "logs" / f"{name}.log"
        command = ["bash", "-c", procfile(folder / "app")[process_type]]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=folder / "app",
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        dyno = Dyno(name, int(port.get("PORT", 0)), folder, log, process)
        self._all.append(dyno)
        self.logs.append(log)
        return dyno

    def _forget(self, dyno: Dyno) -> None:
        self._all.remove(dyno)


def procfile(tree: Path) -> dict[str, str]:
    """Return the process types of a tree, each with its command."""
    return dict(re.findall(r"^([\w-]+):[ \t]*(.+)$", (tree / "Procfile").read_text(), re.MULTILINE))


def tail(log: Path, lines: int = 5) -> str:
    """Return a log's last lines."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def git(*arguments: str) -> str:
    """Run git and return what it prints. Raises RuntimeError with what it complains about."""
    done = subprocess.run([*GIT, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout
