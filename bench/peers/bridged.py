"""A WSGI application behind Pipit's bridge and nothing else; BENCH_WSGI names it, as in "bench.peers.limit"."""

import os
from importlib import import_module
from typing import Any

from app import costs
from app.front.bridge import Bridge, Visit

wsgi = import_module(os.environ["BENCH_WSGI"]).application
bridges: list[Bridge] = []


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer as the WSGI application does, on one of Pipit's five threads."""
    if scope["type"] == "lifespan":
        await receive()
        bridges.append(Bridge(wsgi, threads=5))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        bridges.pop().close()
        await send({"type": "lifespan.shutdown.complete"})
        return
    visit = Visit(scope, scope["method"], dict(scope["headers"]), "http", "127.0.0.1", costs.RequestStats.begin())
    answer = await bridges[0].answer(visit, receive)
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})
