"""The front: the ASGI application that gunicorn's workers serve. Each request goes through it once, in this order:

    id, scheme, address   what the trusted proxies say
    HTTPS                 a redirect, where there is a router and the visitor came without TLS
    early response        a cached page, on the event loop (app/front/early_responses.py)
    upload                refused, unread, unless its sender is signed in
    bridge                everything else, on Flask's threads (app/front/bridge.py)
    log line              with what the request has cost
    security headers      on every response

Static files go through the bridge, too. protocol.py refuses malformed and oversized requests before they get here.

The front knows no routes. Flask's side tells it about the cached pages (early_responses.CachedPages), and how large
bodies may be at which paths.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from flask import Flask

from app import costs
from app.cache import is_from_cache
from app.config import Config
from app.daily_counts import BUILT, FROM_CACHE, DailyCounts
from app.front import log as request_log
from app.front.bridge import MAX_CONTENT_LENGTH, Bridge, DisconnectedError, Receive, Scope, Visit
from app.front.early_responses import EarlyResponses
from app.front.local_cache import LocalCache
from app.front.responses import Response
from app.front.security import OPEN_PATHS, address_seen, scheme_seen, security_headers, to_https

log = logging.getLogger(__name__)

CHUNK = 64 * 1024  # bytes of a long response that are read from its file at a time
TICK = 0.025  # s between two checks of whether the loop is late
BLOCKED = 0.05  # s of lag that are worth a warning

Send = Callable[[Any], Awaitable[None]]


class Front:
    """Pipit behind an event loop."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self._config: Config = app.extensions["config"]
        self._hops = self._config.trusted_proxies
        self._counts: DailyCounts = app.extensions["daily_counts"]
        self._largest_bodies: Mapping[str, int] = app.extensions["largest_bodies"]  # by path, where views take uploads
        self._early: EarlyResponses | None = None
        self._bridge: Bridge
        self._local_cache: LocalCache
        self._tasks: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI has it (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        visit = self._visit(scope)
        try:
            response = await self._answer(visit, receive)
        except DisconnectedError as error:
            request_log.write_request(visit.request, visit.method, scope["path"], error.status)
            return
        request_log.write_request(visit.request, visit.method, scope["path"], response.status)
        if visit.request.cache_status:
            self._counts.add(FROM_CACHE if is_from_cache(visit.request.cache_status) else BUILT)
        headers = [*response.headers, *security_headers(visit.scheme), (b"x-request-id", visit.request.id.encode())]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await self._send_body(response, send)

    def largest_body(self, path: str) -> int:
        """Return how many bytes a form that is sent to this path may have."""
        return self._largest_bodies.get(path, MAX_CONTENT_LENGTH)

    async def _answer(self, visit: Visit, receive: Receive) -> Response:
        scope = visit.scope
        if self._config.on_heroku and visit.scheme == "http" and scope["path"] not in OPEN_PATHS:
            query = scope["query_string"].decode("latin-1")
            host = visit.headers.get(b"host", b"").decode("latin-1")
            return Response(*to_https(host, scope["path"], query, self._config.trusted_hosts), b"")
        if (
            self._early is not None
            and visit.method in ("GET", "HEAD")
            and not scope["query_string"]
            and len(visit.headers) == len(scope["headers"])
            and not (b"content-length" in visit.headers or b"transfer-encoding" in visit.headers)
        ):
            try:
                response = await self._early.answer(scope["path"], visit.headers, visit.scheme, visit.request)
            except Exception:  # a bug, or an odd session: Flask tries again, and has error pages
                log.exception("a cached page could not be answered early")
                response = None
            if response is not None:
                return response
        if visit.is_upload and self._early is not None:
            member = await self._early.member(visit)
            if member is None:
                return await self._bridge.answer_without_body(visit)
            visit.member = member
        return await self._bridge.answer(visit, receive)

    def _visit(self, scope: Scope) -> Visit:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        hops = self._hops
        client = scope["client"]
        scheme, address, given_id = scope["scheme"], client[0] if client else "", None
        if hops:
            joined = headers if len(headers) == len(scope["headers"]) else _joined(scope["headers"])
            scheme = scheme_seen(joined.get(b"x-forwarded-proto", b"").decode("latin-1"), hops, scheme)
            address = address_seen(joined.get(b"x-forwarded-for", b"").decode("latin-1"), hops, address)
            given_id = headers.get(b"x-request-id", b"").decode("latin-1")
        method = scope["method"]
        largest = self.largest_body(scope["path"]) if method == "POST" else MAX_CONTENT_LENGTH
        return Visit(scope, method, headers, scheme, address, costs.RequestStats.begin(given_id), largest)

    @staticmethod
    async def _send_body(response: Response, send: Send) -> None:
        body = response.body
        if isinstance(body, bytes):
            await send({"type": "http.response.body", "body": body})
            return
        with body:
            while chunk := body.read(CHUNK):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    # Start and stop

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})

    def _start(self) -> None:
        """Start the threads and the connection to Redis. Runs in the worker, after the fork."""
        extensions = self.app.extensions
        self._bridge = Bridge(self.app.wsgi_app, self._config.threads)
        self._tasks = [asyncio.create_task(_for_ever(_watch_the_loop))]
        extensions["background"].start()
        self._first_look = asyncio.create_task(asyncio.to_thread(extensions["store"].report))
        if self._config.redis_max_connections > 1:  # the threads' pool needs one
            cache = extensions["page_cache"]
            self._local_cache = LocalCache(cache)
            interface: Any = self.app.session_interface
            self._early = EarlyResponses(
                extensions["cached_pages"],
                cache,
                interface,
                self._local_cache,
                self._bridge,
                self._config.trusted_hosts,
            )
            self._tasks += [
                asyncio.create_task(_for_ever(self._local_cache.link.keep_open)),
                asyncio.create_task(_for_ever(self._local_cache.prove_pushes)),
            ]

    async def _stop(self) -> None:
        if self._early is not None:
            self._local_cache.link.close()
        for task in self._tasks:
            task.cancel()
        self._bridge.close()
        await asyncio.to_thread(self.app.extensions["background"].stop)
        request_log.output.flush()


def _joined(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return headers by name, those of one name joined with commas (RFC 9110, section 5.2)."""
    joined: dict[bytes, bytes] = {}
    for name, value in pairs:
        joined[name] = joined[name] + b"," + value if name in joined else value
    return joined


async def _for_ever(work: Callable[[], Awaitable[None]]) -> None:
    """Repeat some work until cancelled. If it raises, log that, wait a second, and go on."""
    while True:
        try:
            await work()
        except Exception:  # the front serves without it, and must keep trying
            log.exception("a background task failed, and starts again")
            await asyncio.sleep(1)


async def _watch_the_loop() -> None:
    """Check once whether the loop is late, and warn: every visitor of this process has waited that long."""
    loop = asyncio.get_running_loop()
    due = loop.time() + TICK
    await asyncio.sleep(TICK)
    late = loop.time() - due
    if late > BLOCKED:
        log.warning("the event loop was blocked for %.0f ms", late * 1000)
