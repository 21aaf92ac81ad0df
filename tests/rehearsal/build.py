"""Builds what was pushed as Heroku does: the tree as git has it, and an environment of requirements.txt alone."""

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

LOCKS = ("requirements.txt", "uv.lock", "poetry.lock", "Pipfile.lock")
OLDEST = (3, 11)  # the oldest Python that runs Pipit

IMPORT_EVERYTHING = """
import importlib, pkgutil, app
for module in pkgutil.walk_packages(app.__path__, "app."):
    importlib.import_module(module.name)
import gunicorn
"""


class RefusedError(Exception):
    """Heroku would refuse the push; the text says why."""


def build(checkout: Path, folder: Path) -> None:
    """Build a checkout's HEAD: the tree in `app`, the environment in `python`. Raises RefusedError."""
    tree = folder / "app"
    archive = subprocess.run(["git", "-C", checkout, "archive", "HEAD"], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(tree, filter="data")
    check(tree)
    # PIP_… may be needed to reach an index; nothing else of this process may leak into the build.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GIT_", "VIRTUAL_"))}
    _run([find_python(named_python(tree)), "-m", "venv", folder / "python"], environ)
    inside = folder / "python/bin/python"
    pip: list[str | Path] = [inside, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "install", "-r", tree / "requirements.txt"], environ)
    _run([*pip, "check"], environ)
    _run([inside, "-c", IMPORT_EVERYTHING], {"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}, tree)


def check(tree: Path) -> None:
    """Raise RefusedError if Heroku would not build the tree."""
    locks = [name for name in LOCKS if (tree / name).exists()]
    if locks != ["requirements.txt"]:
        raise RefusedError(f"Of {', '.join(LOCKS)} only the first may be there; found: {', '.join(locks) or 'none'}.")
    environments = [path for path in (tree / "venv", tree / ".venv", *tree.rglob("pyvenv.cfg")) if path.exists()]
    if environments:
        raise RefusedError(f"The tree has a virtual environment: {environments[0].relative_to(tree)}.")
    if "web" not in procfile(tree):
        raise RefusedError("The Procfile has no web process.")
    named_python(tree)


def procfile(tree: Path) -> dict[str, str]:
    """Return the process types of a tree, each with its command."""
    return dict(re.findall(r"^([\w-]+):[ \t]*(.+)$", (tree / "Procfile").read_text(), re.MULTILINE))


def named_python(tree: Path) -> tuple[int, int]:
    """Return the Python version in runtime.txt. Raises RefusedError if Heroku could not read it."""
    text = (tree / "runtime.txt").read_text().strip()
    match = re.fullmatch(r"python-(3)\.(\d+)(?:\.\d+)?", text)
    if not match:
        raise RefusedError(f"runtime.txt must read like python-3.13; it reads {text[:40]!r}.")
    return int(match[1]), int(match[2])


def find_python(wanted: tuple[int, int]) -> Path:
    """Return the installed Python of that version, or of the nearest; of two equally near, the newer one."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = sorted(pyenv.glob("3.*/bin/python"), reverse=True)
    names = [f"python3.{minor}" for minor in range(OLDEST[1], 20)]
    candidates += [Path(path) for name in names if (path := shutil.which(name))]
    found: dict[tuple[int, int], Path] = {}
    for candidate in [*candidates, Path(sys.executable)]:
        version = _version_of(candidate)
        if version and version >= OLDEST:
            found.setdefault(version, candidate)
    return found[min(found, key=lambda version: (abs(version[1] - wanted[1]), -version[1]))]


def _version_of(python: Path) -> tuple[int, int] | None:
    """Return a Python's version; None if it can't start (a pyenv shim) or can't make a virtual environment."""
    script = "import ensurepip, sqlite3, ssl, sys, venv; print(*sys.version_info[:2])"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    words = done.stdout.split()
    return (int(words[0]), int(words[1])) if done.returncode == 0 and len(words) == 2 else None


def _run(command: Sequence[str | Path], environ: dict[str, str], folder: Path | None = None) -> None:
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RefusedError(f"{' '.join(map(str, command[:6]))}: {done.stderr[-1000:]}")
