"""The limit: a WSGI function that sends bytes made beforehand. What gunicorn takes for a request, none can save.

BENCH_ANSWER names a JSON file with the status, the headers and the body: the very ones that Pipit sent.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

answer = json.loads(Path(os.environ["BENCH_ANSWER"]).read_text())
status: str = answer["status"]
headers: list[tuple[str, str]] = [(name, value) for name, value in answer["headers"]]
body: list[bytes] = [answer["body"].encode()] if answer["body"] else []


def application(_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Send the answer, whatever was asked."""
    start_response(status, headers)
    return body
