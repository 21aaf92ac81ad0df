"""One HTTP connection: uvicorn's protocol, with the deadlines and limits that uvicorn lacks.

A connection waits for one thing at a time, and has a deadline for it:

    a head            HEAD_TIMEOUT s from the connection's opening, or from the first byte of a later request
    a body            BODY_TIMEOUT s from the end of its head
    an upload         BODY_TIMEOUT s in which the client sends less than LEAST_RECEIVED of its body
    a slow reader     SEND_TIMEOUT s in which the client reads less than LEAST_SENT of its response
    a next request    KEEPALIVE_TIMEOUT s

A refusal is sent in its turn, after the responses to the earlier requests on the connection.

Ambiguous requests (request smuggling) are refused (RFC 9112, sections 6 and 11.2). uvicorn's parser, llhttp, refuses
most of them; what it lets pass is refused here.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app import costs
from app.front import log
from app.front.bridge import MAX_CONTENT_LENGTH
from app.front.security import HEADERS, is_host

if TYPE_CHECKING:
    from app.front.application import Front

HEAD_TIMEOUT = 10.0  # s; on the slowest of mobile networks a head takes one
BODY_TIMEOUT = 10.0  # s for a whole body; 64 kB takes 8 on such a network
LEAST_RECEIVED = 160 * 1024  # bytes of an upload: 16 kB/s, half of what a poor 3G connection sends
SEND_TIMEOUT = 10.0  # s in which a client may read less than LEAST_SENT of its response
LEAST_SENT = 4 * 1024  # bytes
KEEPALIVE_TIMEOUT = 100.0  # s; longer than the 90 of Heroku's router, so that it hangs up first
LINGERING_TIME = 2.0  # s to read on after a refusal, so that the client gets the response and not a reset
SHUTDOWN_GRACE = 0.3  # s an idle connection stays open at shutdown: a request may be on its way
CHECK_INTERVAL = 1.0  # s between two checks of the deadlines

LARGEST_HEAD = 32 * 1024  # bytes
MOST_RAW_BODY = 2 * MAX_CONTENT_LENGTH  # bytes of a body with its chunk heads and trailers; an upload has none
MOST_FIELDS = 100
MOST_CONNECTIONS = 5_000  # app/front/process.py lowers it where a process may have fewer files
MOST_REFUSED = 50  # connections beyond MOST_CONNECTIONS that get a 503; any more are closed at once
MOST_BUFFERED = 48_000_000  # bytes of unfinished bodies and unread answers in one process
MOST_PIPELINED = 20  # requests that wait for the answer to an earlier one

TEXTS = {
    400: b"That request can't be understood.\n",
    408: b"That took too long.\n",
    413: b"That request is too large.\n",
    414: b"That address is too long.\n",
    431: b"Those headers are too large.\n",
    503: b"Too many requests at once. Try again in a few seconds.\n",
}


class RefusedError(Exception):
    """A request can't be taken; `status` says why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Exchange(RequestResponseCycle):
    """A request and its response: as in uvicorn, but the head and the body of an answer leave in one write."""

    protocol: "FrontProtocol"
    limit = MAX_CONTENT_LENGTH  # bytes that the body may have
    received = 0  # bytes of the body
    on_time = 0  # bytes of an upload that had been received when the deadline was last put off
    refused: int | None = None  # the status with which the protocol refused the request
    _start: Any = None  # the response's status and headers, until there is a body to go with them

    async def receive(self) -> Any:
        """Return the next message; a disconnect after a refusal carries the status for the log."""
        message = await super().receive()
        if message["type"] == "http.disconnect" and self.refused:
            return {**message, "status": self.refused}
        return message

    async def send(self, message: Any) -> None:
        """Take the response's start, or a part of its body."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected or self.transport.is_closing():
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        head = b""
        if not self.response_started:
            self.response_started = True
            head = self._head(self._start)
        self.transport.write(head if self.scope["method"] == "HEAD" else head + body)
        if not more:
            self.response_complete = True
            self.message_event.set()
            self.protocol.answered(self)

    def _head(self, start: Any) -> bytes:
        """Return the head of the response. The headers are Pipit's own, so they are not checked again."""
        if self.more_body or self.received > self.limit:  # answered before it was complete
            self.keep_alive = False
        parts = [STATUS_LINE[start["status"]]]
        for name, value in (*self.default_headers, *start["headers"]):
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        return b"".join(parts)


class Totals:
    """Sums over all connections. Not attributes of their class: changing one would empty Python's attribute caches."""

    buffered = 0  # bytes of unfinished bodies and unread answers


totals = Totals()


class FrontProtocol(HttpToolsProtocol):
    """One connection."""

    most_connections = MOST_CONNECTIONS
    cycle: Exchange  # the newest
    pipeline: deque[Any]  # queued requests, each with its application; the newest first

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline = 0.0  # on the loop's clock; 0 while Pipit is working
        self._head_bytes: int | None = None  # of the head being read; None if none is
        self._head_since = 0.0
        self._body_bytes = 0  # of the body being read, with its chunk headers
        self._refusal: int | None = None  # a status to send when its turn comes, before closing
        self._discarding = False  # ignore what the client still sends
        self._half_closed = False  # the client has closed its sending side
        self._stopping = False
        self._buffered = 0  # this connection's part of totals.buffered
        self._unsent = 0  # bytes when the client last made progress
        self._stalled_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # Opening and closing

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it too
        """Wait for a head, or refuse one connection too many."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(CHECK_INTERVAL, self._check_deadlines)
        if len(self.connections) > self.most_connections + MOST_REFUSED:
            transport.abort()
        elif len(self.connections) > self.most_connections:
            self._refuse(503)
        else:
            self._deadline = self.loop.time() + HEAD_TIMEOUT

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer, and drop what was waiting."""
        super().connection_lost(exc)
        if self._timer:
            self._timer.cancel()
        self.pipeline.clear()
        self._count_buffered(0)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio asks for one
        """Keep the connection if the client, which sends no more, still waits for responses."""
        self._half_closed = True
        if self._discarding or self._is_idle():
            return False
        if self._refusal:
            return True
        if not self.cycle.more_body:
            self.cycle.keep_alive = False
        elif self.pipeline:
            self._refuse(400)
        else:
            return False  # the request that is being answered will never be complete
        return True

    def shutdown(self) -> None:
        """Close after the current request, or after SHUTDOWN_GRACE: a request may be on its way."""
        self._stopping = True
        if self._is_idle():
            self.loop.call_later(SHUTDOWN_GRACE, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    # Reading

    def data_received(self, data: bytes) -> None:
        """Parse the data, and refuse a head or a body that is too large."""
        if self._discarding or self._refusal:
            return
        newest, in_body = self.cycle, self.cycle is not None and self.cycle.more_body
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # nothing here is upgraded; what follows is not HTTP
            if self.cycle is not None:
                self.cycle.keep_alive = False
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.status if isinstance(cause, RefusedError) else 400)
            return
        if self.cycle is not newest:  # several requests in one read: the limits are checked from the next read on
            return
        if self._head_bytes is not None and not in_body:
            self._head_bytes += len(data)
            if self._head_bytes > LARGEST_HEAD:
                self._refuse(431)
        elif in_body and self.cycle.more_body:
            self._body_bytes += len(data)
            if self._body_bytes > max(MOST_RAW_BODY, self.cycle.limit):
                self._refuse(413)

    def on_message_begin(self) -> None:
        """Start to read a head. The deadline of the first one has run since the connection was opened."""
        super().on_message_begin()
        self._fields = 0
        self._size = 0
        self._head_bytes = 0
        self._head_since = self.loop.time()
        if self.cycle is not None and self._is_idle():
            self._deadline = self._head_since + HEAD_TIMEOUT

    def on_url(self, url: bytes) -> None:
        """Add a part of the request target."""
        self.url += url
        if len(self.url) > LARGEST_HEAD:
            raise RefusedError(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header of the request.

        Trailers are dropped. So are names with an underscore, which CGI and some proxies read as a hyphen.
        """
        self._fields += 1
        self._size += len(name) + len(value)
        if self._fields > MOST_FIELDS or self._size > LARGEST_HEAD:
            raise RefusedError(431)
        if self._head_bytes is not None and b"_" not in name:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, or queue it behind an earlier one."""
        version = self.parser.get_http_version()
        self._check_framing(version)
        target = httptools.parse_url(self.url)
        raw_path = target.path or b"/"
        path = raw_path.decode("ascii")
        scope: Any = self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = raw_path
        scope["query_string"] = target.query or b""
        self._head_bytes = None
        self._body_bytes = 0
        self._deadline = self.loop.time() + BODY_TIMEOUT
        exchange = Exchange(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue and version == "1.1",
            keep_alive=version == "1.1" and self.parser.should_keep_alive() and not self._stopping,
            on_response=lambda: None,  # Exchange calls answered() instead
        )
        exchange.protocol = self
        if scope["method"] == "POST":
            exchange.limit = self._largest_body(scope["path"])
        if self._is_idle():
            self._start_asgi_task(exchange, self.app)
        else:
            if len(self.pipeline) == MOST_PIPELINED:
                raise RefusedError(503)
            self.pipeline.appendleft((exchange, self.app))
            self.flow.pause_reading()
        self.cycle = exchange

    def on_body(self, body: bytes) -> None:
        """Add a part of the body; once it is too large, only count it."""
        self.cycle.received += len(body)
        if self.cycle.received - len(body) <= self.cycle.limit:
            super().on_body(body)
            if not self._within_bounds():
                raise RefusedError(503)

    def on_message_complete(self) -> None:
        """Note that the request is complete: there is no deadline until Pipit has responded."""
        exchange = self.cycle
        exchange.more_body = False
        exchange.keep_alive = exchange.keep_alive and self.parser.should_keep_alive()  # a trailer may have ended that
        exchange.message_event.set()
        self._deadline = 0.0
        self._count_buffered(0)

    def _largest_body(self, path: str) -> int:
        """Return how many bytes the body may have. Only one that declares its length may have more than most."""
        declared = next((value for name, value in self.headers if name == b"content-length"), b"")
        if not declared or int(declared) <= MAX_CONTENT_LENGTH:  # the parser has checked that it is a number
            return MAX_CONTENT_LENGTH
        return cast("Front", self.app).largest_body(path)

    def _check_framing(self, version: str) -> None:
        """Raise RefusedError for a request that a proxy may parse differently (RFC 9112)."""
        hosts = [value for name, value in self.headers if name == b"host"]
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        has_length = any(name == b"content-length" for name, _ in self.headers)
        if version not in ("1.0", "1.1") or len(hosts) > 1 or not all(map(is_host, hosts)):
            raise RefusedError(400)
        if version == "1.1" and not hosts:
            raise RefusedError(400)
        if codings and (version == "1.0" or has_length or codings != [b"chunked"]):
            raise RefusedError(400)

    # Answering

    def answered(self, exchange: Exchange) -> None:
        """After a response, start the next request of the pipeline, wait for one, or close."""
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self._discarding:
            return
        if not exchange.keep_alive:
            if exchange.more_body:  # closing now would send a reset, and the client could lose the answer
                self._linger()
            else:
                self.transport.close()
        elif self.pipeline:
            following, app = self.pipeline.pop()
            if following.more_body:
                self._deadline = self.loop.time() + BODY_TIMEOUT
            self._start_asgi_task(following, app)
        elif self._refusal:
            self._answer_plainly(self._refusal)
        else:
            reading = self._head_bytes is not None  # the head of a next request
            self._deadline = self._head_since + HEAD_TIMEOUT if reading else self.loop.time() + KEEPALIVE_TIMEOUT
            self.flow.resume_reading()

    def _refuse(self, status: int) -> None:
        """Respond without the application, in turn, and close."""
        exchange = self.cycle
        if exchange is None or exchange.response_complete:
            log.write_request(costs.RequestStats.begin(), "-", "-", status)
            self._answer_plainly(status)
        elif exchange.more_body and not self.pipeline:  # the request in progress
            exchange.refused = status  # the front logs it
            exchange.disconnected = True
            exchange.message_event.set()
            if exchange.response_started:
                self.transport.close()
            else:
                self._answer_plainly(status)
        else:
            if exchange.more_body:
                self.pipeline.popleft()
            log.write_request(costs.RequestStats.begin(), "-", "-", status)
            self._refusal = status

    def _answer_plainly(self, status: int) -> None:
        """Send a short response, and close."""
        text = TEXTS[status]
        head = [STATUS_LINE[status], b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n" % len(text)]
        head += [b"%s: %s\r\n" % header for header in (*self.server_state.default_headers, *HEADERS)]
        self.transport.write(b"".join([*head, b"connection: close\r\n\r\n", text]))
        self._linger()

    def _linger(self) -> None:
        """Close the sending side, and read on for a moment before closing the connection."""
        self._discarding = True
        self._deadline = self.loop.time() + LINGERING_TIME
        if self._half_closed:
            self.transport.close()
            return
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: some clients ask for HTTP/2 with every request."""

    # Deadlines

    def _check_deadlines(self) -> None:
        """Close the connection if a deadline has passed."""
        now = self.loop.time()
        if not self._makes_progress(now):
            self.transport.abort()
        elif 0 < self._deadline <= now:
            self._time_out()
        self._timer = self.loop.call_later(CHECK_INTERVAL, self._check_deadlines)

    def _makes_progress(self, now: float) -> bool:
        """Return whether the client reads its response fast enough."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or not self._unsent - LEAST_SENT < unsent <= self._unsent:
            self._unsent, self._stalled_since = unsent, now
            self._within_bounds()
            return True
        return now - self._stalled_since < SEND_TIMEOUT and self._within_bounds()

    def _within_bounds(self) -> bool:
        """Update what this connection buffers; return whether all connections together stay within MOST_BUFFERED."""
        body = self.cycle.received if self.cycle is not None and self.cycle.more_body else 0
        body = min(body, MOST_RAW_BODY)  # the rest of an upload is in a file
        self._count_buffered(body + self.transport.get_write_buffer_size())
        return totals.buffered <= MOST_BUFFERED

    def _count_buffered(self, size: int) -> None:
        if size != self._buffered:
            totals.buffered += size - self._buffered
            self._buffered = size

    def _time_out(self) -> None:
        self._deadline = 0.0
        if self._discarding:
            self.transport.abort()
        elif self._head_bytes or (self.cycle is not None and self.cycle.more_body):
            if not self._uploads_fast():
                self._refuse(408)
        else:
            self.transport.close()

    def _uploads_fast(self) -> bool:
        """Return whether an upload has made enough progress since its last deadline; put the deadline off if so."""
        exchange = self.cycle
        if exchange is None or not exchange.more_body or exchange.limit <= MAX_CONTENT_LENGTH:
            return False
        if exchange.received - exchange.on_time < LEAST_RECEIVED:
            return False
        exchange.on_time = exchange.received
        self._deadline = self.loop.time() + BODY_TIMEOUT
        return True

    def _is_idle(self) -> bool:
        """Return whether no request is in progress or queued."""
        return self.cycle is None or (self.cycle.response_complete and not self.pipeline)

    def _close_if_idle(self) -> None:
        if self._is_idle() and self._head_bytes is None:
            self.transport.close()
