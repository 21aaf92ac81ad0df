"""What receives a push: checks the tree as the platform does, builds it, and refuses it if that can't be done.

It runs as the pre-receive hook of a bare repository: `python -m tests.rehearsal.build SLUGS` with the pushed references
on standard input. What it prints the person who pushes reads behind "remote:". A build is a folder with the tree as it
was pushed (`app`) and a virtual environment of requirements.txt alone (`python`).
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

DEPLOYED = ("refs/heads/main", "refs/heads/master")
LOCKS = ("requirements.txt", "uv.lock", "poetry.lock", "Pipfile.lock")
OLDEST = (3, 11)  # the Python that Pipit still runs on
LONGEST_COMPLAINT = 6  # lines of pip's that are passed on

IMPORT_EVERYTHING = """
import importlib, pkgutil, app
for module in pkgutil.walk_packages(app.__path__, "app."):
    importlib.import_module(module.name)
import gunicorn
"""


class RefusedError(Exception):
    """The push can't be built; the text says why, to the person who pushed."""


def main() -> int:
    """Build what was pushed to main or master; return 1 to refuse the push."""
    slugs = Path(sys.argv[1])
    for line in sys.stdin:
        _, revision, reference = line.split()
        if reference not in DEPLOYED:
            say(f"-----> Pushed to {reference}: only main and master are built and deployed.")
            continue
        folder = slugs / f"{reference.rpartition('/')[2]}-{revision[:12]}"
        try:
            build(revision, folder)
        except RefusedError as error:
            shutil.rmtree(folder, ignore_errors=True)
            for complaint in ["Push rejected, nothing is deployed.", *str(error).splitlines()]:
                say(f" !     {complaint}")
            return 1
    return 0


def build(revision: str, folder: Path) -> None:
    """Build a revision of the repository at hand into a folder. Raises RefusedError."""
    tree = folder / "app"
    shutil.rmtree(folder, ignore_errors=True)
    tree.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", "--format=tar", revision], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(tree, filter="data")
    wanted = check(tree)
    python, version = find_python(wanted)
    if version != wanted:
        say(f" !     Python {_dotted(wanted)} is not installed here: built with the nearest, {_dotted(version)}.")
    say(f"-----> Building {revision[:12]} with Python {_dotted(version)}")
    install(python, folder)
    say(f"-----> Built, {sum(path.stat().st_size for path in tree.rglob('*') if path.is_file()) // 1024} KB of Pipit")


def check(tree: Path) -> tuple[int, int]:
    """Return the Python that the tree asks for. Raises RefusedError if the platform would not take the tree."""
    locks = [name for name in LOCKS if (tree / name).exists()]
    if len(locks) != 1:
        raise RefusedError(f"Exactly one of {', '.join(LOCKS)} may be there; found: {', '.join(locks) or 'none'}.")
    if locks != ["requirements.txt"]:
        raise RefusedError(f"Pipit is installed from requirements.txt; found {locks[0]}.")
    environments = [path for path in (tree / "venv", tree / ".venv") if path.exists()]
    environments += [path.parent for path in tree.rglob("pyvenv.cfg")]
    if environments:
        raise RefusedError(
            f"A virtual environment is in the tree: {environments[0].relative_to(tree)}. Remove it from git."
        )
    if not re.search(
        r"^web: *\S", (tree / "Procfile").read_text() if (tree / "Procfile").exists() else "", re.MULTILINE
    ):
        raise RefusedError("The Procfile has no web process.")
    return named_python(tree)


def named_python(tree: Path) -> tuple[int, int]:
    """Return the Python that runtime.txt names, or else .python-version, as strictly as the platform reads them.

    Raises RefusedError if it can't be read, and if there is neither: the platform would choose one by itself.
    """
    for file, prefix in (("runtime.txt", "python-"), (".python-version", "")):
        if not (tree / file).exists():
            continue
        text = (tree / file).read_text().strip()
        lines = [line for line in text.splitlines() if prefix or not re.fullmatch(r"\s*(#.*)?", line)]
        match = re.fullmatch(rf"{prefix}(3)\.(\d+)(?:\.\d+)?", "\n".join(lines).strip())
        if not match:
            raise RefusedError(f"{file} must read like {prefix}3.13; it reads {text[:40]!r}.")
        if file == "runtime.txt":
            say(" !     runtime.txt is deprecated; the platform would rather read .python-version.")
        return int(match[1]), int(match[2])
    raise RefusedError("There is no runtime.txt and no .python-version, so any Python might be chosen.")


def find_python(wanted: tuple[int, int]) -> tuple[Path, tuple[int, int]]:
    """Return the installed Python of that version, or the nearest; of two as near, the newer one."""
    found: dict[tuple[int, int], Path] = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = sorted(pyenv.glob("3.*/bin/python"), reverse=True)
    names = [f"python3.{minor}" for minor in range(OLDEST[1], 20)]
    candidates += [Path(path) for name in names if (path := shutil.which(name))]
    candidates += [Path(sys.executable)]
    for candidate in candidates:
        version = _version_of(candidate)
        if version and version >= OLDEST:
            found.setdefault(version, candidate)
    if not found:
        raise RefusedError("No Python that Pipit runs on is installed here.")
    version = min(found, key=lambda version: (abs(version[1] - wanted[1]), -version[1]))
    return found[version], version


def install(python: Path, folder: Path) -> None:
    """Make a clean virtual environment with requirements.txt in it, and see that the application needs no more."""
    # What this process was started with must not leak into the build; pip's own settings may, to reach its index.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GIT_", "VIRTUAL_"))}
    _run([python, "-m", "venv", folder / "python"], environ, "The virtual environment can't be made.")
    inside = folder / "python/bin/python"
    pip: list[str | Path] = [inside, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    requirements = folder / "app/requirements.txt"
    _run([*pip, "install", "-r", requirements], environ, "requirements.txt can't be installed.")
    _run([*pip, "check"], environ, "What requirements.txt installs does not fit together.")
    bare = {"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}
    _run([inside, "-c", IMPORT_EVERYTHING], bare, "Pipit needs more than requirements.txt installs.", folder / "app")


def say(line: str) -> None:
    """Tell the person who pushed."""
    print(line, flush=True)


def _run(command: Sequence[str | Path], environ: dict[str, str], complaint: str, folder: Path | None = None) -> None:
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise RefusedError("\n".join([complaint, *said[-LONGEST_COMPLAINT:]]))


def _version_of(python: Path) -> tuple[int, int] | None:
    """Return a Python's version; None if it can't be started (a shim of pyenv's) or can't make an environment."""
    script = "import ensurepip, sqlite3, ssl, sys, venv; print(*sys.version_info[:2])"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    words = done.stdout.split()
    return (int(words[0]), int(words[1])) if done.returncode == 0 and len(words) == 2 else None


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


if __name__ == "__main__":
    sys.exit(main())
