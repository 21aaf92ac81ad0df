"""WSGI middleware that does the front's work for each request under `flask run` or any other WSGI server.

Behind the front it passes every request through.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from werkzeug.wsgi import ClosingIterator

from app import costs
from app.config import Config
from app.front import log
from app.front.security import OPEN_PATHS, address_seen, is_host, scheme_seen, security_headers, to_https

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class FrontMiddleware:
    """The outermost WSGI layer."""

    def __init__(self, application: "WSGIApplication", config: Config) -> None:
        self.application = application
        self.config = config

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Pass a request to the application; add the security headers, an id and a line in the log."""
        if costs.ENVIRON_KEY in environ:
            return self.application(environ, start_response)
        hops = self.config.trusted_proxies
        request = costs.RequestStats.begin(environ.get("HTTP_X_REQUEST_ID") if hops else None)
        costs.this_thread.request = environ[costs.ENVIRON_KEY] = request
        scheme = scheme_seen(environ.get("HTTP_X_FORWARDED_PROTO", ""), hops, environ["wsgi.url_scheme"])
        address = address_seen(environ.get("HTTP_X_FORWARDED_FOR", ""), hops, environ.get("REMOTE_ADDR", ""))
        environ |= {"wsgi.url_scheme": scheme, "REMOTE_ADDR": address}
        method, path = (
            environ["REQUEST_METHOD"],
            environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace"),
        )
        status = "500"  # what the server makes of an exception

        def start(answered: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            nonlocal status
            status = answered
            ours = [(name.decode(), value.decode()) for name, value in security_headers(scheme)]
            return start_response(answered, [*headers, *ours, ("X-Request-ID", request.id)], *exc_info)

        def write_line() -> None:
            log.write_request(request, method, path, int(status[:3]))

        def answer(status: int, headers: list[tuple[bytes, bytes]]) -> list[bytes]:
            start(f"{status} {HTTPStatus(status).phrase}", [(name.decode(), value.decode()) for name, value in headers])
            write_line()
            return []

        host = environ.get("HTTP_HOST", "")
        if host:
            environ["HTTP_HOST"] = host.lower()
        if "HTTP_HOST" in environ and not is_host(host.encode("latin-1")):
            return answer(400, [(b"content-length", b"0")])
        if self.config.on_heroku and scheme == "http" and path not in OPEN_PATHS:
            return answer(*to_https(host, path, environ.get("QUERY_STRING", ""), self.config.trusted_hosts))
        try:
            return ClosingIterator(self.application(environ, start), write_line)
        except Exception:
            write_line()
            raise
