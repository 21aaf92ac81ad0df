"""Heroku CI: `make test` in a tree that has Heroku's Python in .heroku, with the environment of a dyno.

That Python is a shared library that only LD_LIBRARY_PATH finds, as on Heroku since 3.10
(https://github.com/heroku/heroku-buildpack-python/pull/1320). Here it is a copy of an installed one.
"""

import os
import shutil
import subprocess
from pathlib import Path

from tests.rehearsal import build

PATIENCE = 600  # s for one command
SYSTEM = Path("/usr")  # a Python in there can't be copied without everything else
LEFT_BEHIND = shutil.ignore_patterns("test", "__pycache__", "*.a")  # of no use, and most of the size
FACTS = "import sys, sysconfig; print(sys.base_prefix, sysconfig.get_config_var('LIBDIR'), sep='\\n')"

# Tests for which the platform's environment matters: programs started with next to nothing set, and DYNO.
TESTS = 'tests/test_processes.py tests/cli/test_town.py tests/cli/test_seed.py -m "not postgresql"'


def copyable_python(checkout: Path) -> Path | None:
    """Return the Python that builds a checkout; None if it belongs to the system and can't be copied."""
    python = build.find_python(build.named_python(checkout))
    return None if _facts(python)[0] == SYSTEM else python


def make_test(checkout: Path, folder: Path, python: Path) -> int:
    """Build a checkout as Heroku CI does, and run there what `make test` runs, but only TESTS of the suite.

    Returns the number of commands. Raises AssertionError with the output of a command that failed.
    """
    tree = folder / "app"
    shutil.copytree(checkout, tree, ignore=shutil.ignore_patterns(".git"))
    _copy_python(python, tree / ".heroku/python")
    _run("python -m pip --quiet install --no-cache-dir -r requirements.txt -r requirements-test.txt", tree)
    _run("make .venv/installed", tree)
    planned = _run("make --no-print-directory --dry-run test", tree).splitlines()
    commands = [command for command in planned if "pytest" not in command]
    commands.append(f".venv/bin/python -m pytest -q {TESTS}")
    for command in commands:
        _run(command, tree)
    return len(commands)


def _copy_python(python: Path, home: Path) -> None:
    prefix, libraries = _facts(python)
    shutil.copytree(prefix, home, symlinks=True, ignore=LEFT_BEHIND)
    for binary in [*home.glob("bin/python3.*"), *home.glob("lib/libpython*.so*")]:
        if not binary.is_symlink():
            _forget_library_path(binary, libraries)


def _facts(python: Path) -> tuple[Path, Path]:
    """Return where a Python is installed, and where its library is."""
    done = subprocess.run([python, "-c", FACTS], capture_output=True, text=True, check=True)
    prefix, libraries = done.stdout.splitlines()
    return Path(prefix), Path(libraries)


def _forget_library_path(binary: Path, path: Path) -> None:
    """Overwrite the folder in which a program looks for its library with a path of the same length."""
    folder = bytes(path)
    binary.write_bytes(binary.read_bytes().replace(folder + b"\0", b"/" * len(folder) + b"\0"))


def _run(command: str, tree: Path) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tree,
        env=_environ(tree),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{(done.stdout + done.stderr)[-2000:]}"
    return done.stdout


def _environ(tree: Path) -> dict[str, str]:
    """Return what .profile.d/python.sh and Heroku set, and what pip needs on this machine."""
    home = tree / ".heroku/python"
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_")} | {
        "CI": "true",
        "DYNO": "test.1",
        "HOME": str(tree),
        "PATH": f"{tree / '.venv/bin'}:{home / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "en_US.UTF-8",
        "LIBRARY_PATH": str(home / "lib"),
        "LD_LIBRARY_PATH": str(home / "lib"),
        "PYTHONHOME": str(home),
        "PYTHONPATH": str(tree),
        "PYTHONUNBUFFERED": "true",
        "WEB_CONCURRENCY": "2",
        "FORWARDED_ALLOW_IPS": "*",
        "GUNICORN_CMD_ARGS": "--access-logfile -",
    }
