"""Heroku's router in front of the dynos, as far as an application can tell: its headers, connections and limits.

The rules come from Heroku's documentation ("HTTP Routing"). TLS is only a header here: one port says that visitors
came over TLS, the other that they did not. Bodies are streamed in both directions, not buffered.
"""

import asyncio
import re
import threading
import time
import uuid
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, TCPConnector, web
from yarl import URL

T = TypeVar("T")

KEEPALIVE = 90  # s that an idle connection is kept, to a visitor and to a dyno
FIRST_BYTE = 30  # s from the last byte of a request to the first byte of its answer: then H12
REQUEST_ID = re.compile(r"[A-Za-z0-9+/=-]{20,200}")  # a visitor's own id that is kept ("HTTP Request IDs")
NOT_PASSED_ON = {"connection", "keep-alive", "te", "transfer-encoding", "upgrade"}  # they end at each hop
CONTENT = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")  # aiohttp would add its own


@dataclass(frozen=True)
class Routed:
    """One line of the router's log."""

    request_id: str
    method: str
    path: str
    dyno: str  # "" if the request reached none
    code: str  # H12 and the like; "" if all went well


class Router:
    """Two ports and any number of dynos; a context manager that runs in its own thread."""

    def __init__(self) -> None:
        self.log: list[Routed] = []
        self.ports: dict[str, int] = {}  # "https" and "http"
        self.active: set[str] = set()  # ids of the requests that dynos are working on
        self._dynos: dict[str, int] = {}  # ports by name
        self._turn = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="router", daemon=True)
        self._opened = AsyncExitStack()

    def __enter__(self) -> "Router":
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._opened.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def route(self, name: str, port: int) -> None:
        """Send requests to a dyno too."""
        self._dynos = {**self._dynos, name: port}

    def unroute(self, name: str) -> None:
        """Send a dyno no new requests; the dyno still answers those that it has."""
        self._dynos = {other: port for other, port in self._dynos.items() if other != name}

    async def _listen(self) -> None:
        self._session = await self._opened.enter_async_context(
            ClientSession(
                connector=TCPConnector(limit=0, keepalive_timeout=KEEPALIVE),
                timeout=ClientTimeout(total=None, sock_connect=5, sock_read=FIRST_BYTE),
                auto_decompress=False,
                skip_auto_headers=CONTENT,
            )
        )
        for scheme in ("https", "http"):
            server = web.Server(partial(self._answer, scheme), keepalive_timeout=KEEPALIVE, access_log=None)
            runner = web.ServerRunner(server, shutdown_timeout=0)
            await runner.setup()
            self._opened.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.ports[scheme] = runner.addresses[0][1]

    async def _answer(self, scheme: str, request: web.BaseRequest) -> web.StreamResponse:
        """Pass a request on to the next dyno, and its answer back; log it."""
        headers = self._headers(scheme, request)
        request_id = headers["X-Request-Id"]
        dyno, port = self._next_dyno()
        self.active.add(request_id)
        code = ""
        try:
            if not port:
                code = "H14"  # no dynos
                return web.Response(status=503, text=code)
            return await self._relay(request, port, headers)
        except TimeoutError:
            code = "H12"  # the dyno took too long
        except ClientConnectorError:
            code = "H10"  # the dyno does not listen
        except (ClientError, ConnectionError):
            code = "H18"  # the connection broke off
        finally:
            self.active.discard(request_id)
            self.log.append(Routed(request_id, request.method, request.path, dyno, code))
        return web.Response(status=503, text=code)

    def _headers(self, scheme: str, request: web.BaseRequest) -> dict[str, str]:
        """Return the headers that the dyno gets."""
        headers = {name: value for name, value in request.headers.items() if name.lower() not in NOT_PASSED_ON}
        forwarded = request.headers.get("X-Forwarded-For")
        request_id = request.headers.get("X-Request-Id", "")
        for name in list(headers):
            if name.lower().startswith("x-forwarded-") or name.lower() == "x-request-id":
                del headers[name]
        return headers | {
            "X-Forwarded-For": f"{forwarded}, {request.remote}" if forwarded else str(request.remote),
            "X-Forwarded-Proto": scheme,
            "X-Forwarded-Port": "443" if scheme == "https" else "80",
            "X-Request-Id": request_id if REQUEST_ID.fullmatch(request_id) else str(uuid.uuid4()),
            "X-Request-Start": str(int(time.time() * 1000)),
            "Via": "1.1 heroku-router",
        }

    def _next_dyno(self) -> tuple[str, int]:
        """Return the name and the port of the dyno whose turn it is; "" and 0 if there is none."""
        dynos = list(self._dynos.items())
        self._turn += 1
        return dynos[self._turn % len(dynos)] if dynos else ("", 0)

    async def _relay(self, request: web.BaseRequest, port: int, headers: dict[str, str]) -> web.StreamResponse:
        url = URL(f"http://127.0.0.1:{port}{request.raw_path}", encoded=True)
        body = request.content if request.body_exists else None
        async with self._session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as answer:
            response = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in NOT_PASSED_ON:
                    response.headers.add(name, value)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)
