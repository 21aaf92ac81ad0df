"""Static files under names that hold a hash of their content, so that a browser may keep them forever.

There is no build step: at start the files are copied to a temporary folder under their hashed names and compressed
there, and WhiteNoise serves that folder. In debug mode it serves them straight from app/static/.
"""

import atexit
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Flask
from whitenoise import WhiteNoise
from whitenoise.compress import Compressor

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

HASHED = re.compile(r"\.[0-9a-f]{12}\.[a-z0-9]+$")


class Assets:
    """The static files of one deployment."""

    def __init__(self, app: Flask) -> None:
        root = Path(app.root_path)
        self._debug = app.debug
        self._static = root / "static"
        self._names: dict[str, str] = {}
        for path in sorted(self._static.iterdir()):
            hashed = f"{path.stem}.{digest(path.read_bytes())}{path.suffix}"
            self._names[path.name] = path.name if self._debug else hashed
        templates = b"".join(path.read_bytes() for path in sorted((root / "templates").rglob("*.*ml")))
        # Of static files and templates: a deployment that changes either must not serve pages made with the old ones.
        self.version = digest("".join(self._names.values()).encode() + templates)

    def url(self, name: str) -> str:
        """Return the URL of a static file. Raises KeyError if there is no file of that name."""
        return f"/static/{self._names[name]}"

    def serve_before(self, application: "WSGIApplication") -> "WSGIApplication":
        """Return a WSGI application that serves the static files, and passes other requests to `application`."""
        options: dict[str, Any]
        if self._debug:
            folder, options = self._static, {"autorefresh": True, "max_age": 0}
        else:
            folder, options = self._prepared_folder(), {"max_age": 3600, "immutable_file_test": _is_immutable}
        served: WSGIApplication = WhiteNoise(
            application, root=str(folder), prefix="static/", allow_all_origins=False, **options
        )
        return served

    def _prepared_folder(self) -> Path:
        """Return a temporary folder with the files under both names, compressed."""
        folder = Path(tempfile.mkdtemp(prefix="pipit-static-"))
        atexit.register(_remove, folder, os.getpid())
        compressor = Compressor(quiet=True)
        for name, hashed in self._names.items():
            for copy in (folder / name, folder / hashed):
                shutil.copyfile(self._static / name, copy)
                if compressor.should_compress(copy.name):
                    compressor.compress(str(copy))
        return folder


def _is_immutable(_path: str, url: str) -> bool:
    return bool(HASHED.search(url))


def _remove(folder: Path, made_by: int) -> None:
    """Remove the folder when the process that made it ends; forked processes only use the folder."""
    if os.getpid() == made_by:
        shutil.rmtree(folder, ignore_errors=True)


def digest(content: bytes) -> str:
    """Return 12 hexadecimal digits that tell this content from any other."""
    return hashlib.sha256(content).hexdigest()[:12]
