"""A bare ASGI function that sends bytes made beforehand: what the front's own server takes for a request.

BENCH_ANSWER names a JSON file with the status, the headers and the body: the very ones that Pipit sent.
"""

import json
import os
from pathlib import Path
from typing import Any

answer = json.loads(Path(os.environ["BENCH_ANSWER"]).read_text())
headers = [(name.encode(), value.encode()) for name, value in answer["headers"]]
start = {"type": "http.response.start", "status": int(answer["status"][:3]), "headers": headers}
body = {"type": "http.response.body", "body": answer["body"].encode()}


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Send the answer, whatever was asked."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send(start)
    await send(body)
