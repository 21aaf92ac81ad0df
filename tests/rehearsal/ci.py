"""The platform's test build, Heroku CI: its Python lies in the tree, and a test dyno is a dyno like any other.

That Python is a shared library which only LD_LIBRARY_PATH finds, as the platform's has been since 3.10
(https://github.com/heroku/heroku-buildpack-python/pull/1320). Here it is a copy of one that is installed.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.rehearsal import build

PATIENCE = 600  # s for one command
SYSTEM = Path("/usr")  # what is installed there can't be copied apart from everything else
LEFT_BEHIND = shutil.ignore_patterns("test", "__pycache__", "*.a")  # of no use, and most of the size
FACTS = "import sys, sysconfig; print(sys.base_prefix, sysconfig.get_config_var('LIBDIR'), sep='\\n')"

# Where the platform's environment shows: programs started with next to nothing set, and commands that ask for DYNO.
TELLING = ["tests/test_processes.py", "tests/cli/test_town.py", "tests/cli/test_seed.py", "-m", "not postgresql"]


@dataclass(frozen=True)
class Build:
    """A test build, and the environment in which the platform runs `make test` there."""

    tree: Path

    def check(self) -> list[str]:
        """Run what `make test` runs, of its tests only the telling ones; return the commands.

        Raises AssertionError with what a command that failed has said.
        """
        self._run("make .venv/installed")
        done = self._run("make --no-print-directory --dry-run test").splitlines()
        checks = [line for line in done if "coverage" not in line]
        commands = [*checks, f".venv/bin/python -m pytest -q {' '.join(map(repr, TELLING))}"]
        for command in commands:
            self._run(command)
        return commands

    def install(self) -> None:
        """Install both requirements files into the platform's Python, as the platform does."""
        self._run("python -m pip --quiet install --no-cache-dir -r requirements.txt -r requirements-test.txt")

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.tree,
            env=self._environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        said = (done.stdout + done.stderr).strip().splitlines()
        assert done.returncode == 0, f"{command}: {' | '.join(said[-8:])}"
        return done.stdout

    def _environ(self) -> dict[str, str]:
        """Return what .profile.d/python.sh and the platform set, and what pip needs on this machine."""
        home = self.tree / ".heroku/python"
        return {name: value for name, value in os.environ.items() if name.startswith("PIP_")} | {
            "CI": "true",
            "DYNO": "test.1",
            "HOME": str(self.tree),
            "PATH": f"{self.tree / '.venv/bin'}:{home / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "en_US.UTF-8",
            "LIBRARY_PATH": str(home / "lib"),
            "LD_LIBRARY_PATH": str(home / "lib"),
            "PYTHONHOME": str(home),
            "PYTHONPATH": str(self.tree),
            "PYTHONUNBUFFERED": "true",
            "WEB_CONCURRENCY": "2",
            "FORWARDED_ALLOW_IPS": "*",
            "GUNICORN_CMD_ARGS": "--access-logfile -",
        }


def copyable_python(checkout: Path) -> Path | None:
    """Return the Python that a checkout is built with; None if it belongs to the system and can't be copied."""
    python, _ = build.find_python(build.named_python(checkout))
    return None if _facts(python)[0] == SYSTEM else python


def build_for_tests(checkout: Path, folder: Path, python: Path) -> Build:
    """Build a checkout as the platform does for its CI, with a copy of that Python."""
    tree = folder / "app"
    shutil.copytree(checkout, tree, ignore=shutil.ignore_patterns(".git"))
    home = tree / ".heroku/python"
    prefix, libraries = _facts(python)
    shutil.copytree(prefix, home, symlinks=True, ignore=LEFT_BEHIND)
    for binary in [*home.glob("bin/python3.*"), *home.glob("lib/libpython*.so*")]:
        if not binary.is_symlink():
            _forget_library_path(binary, libraries)
    built = Build(tree)
    built.install()
    return built


def _facts(python: Path) -> tuple[Path, Path]:
    """Return where a Python is installed, and where its library is."""
    done = subprocess.run([python, "-c", FACTS], capture_output=True, text=True, check=True)
    prefix, libraries = done.stdout.splitlines()
    return Path(prefix), Path(libraries)


def _forget_library_path(binary: Path, path: Path) -> None:
    """Overwrite the place where a program was told to look for its library, with one of the same length."""
    told = bytes(path)
    binary.write_bytes(binary.read_bytes().replace(told + b"\0", b"/" * len(told) + b"\0"))
