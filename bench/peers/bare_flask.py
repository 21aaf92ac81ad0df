"""Bare Flask: one view that returns a string. BENCH_ANSWER names the file it is in, as for limit.py."""

import json
import os
from pathlib import Path

from flask import Flask

application = Flask(__name__, static_folder=None)
page: str = json.loads(Path(os.environ["BENCH_ANSWER"]).read_text())["body"]


@application.get("/")
def latest() -> str:
    """Return the page."""
    return page
