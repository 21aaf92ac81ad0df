"""Does under a WSGI server (`flask run`, or any other) what the front does for every request.

Behind the front this layer does nothing: the front does all of it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from werkzeug.wsgi import ClosingIterator

from app import costs
from app.config import Config
from app.front import log
from app.front.security import https_location, scheme_seen, security_headers, seen_by_proxy

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class WSGIFront:
    """The outermost WSGI layer."""

    def __init__(self, application: "WSGIApplication", config: Config) -> None:
        self.application = application
        self.config = config

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request as the application does, with the security headers, an id and a line in the log."""
        if costs.ENVIRON_KEY in environ:
            return self.application(environ, start_response)
        hops = self.config.trusted_proxies
        request = costs.Request.begin(environ.get("HTTP_X_REQUEST_ID") if hops else None)
        costs.this_thread.request = environ[costs.ENVIRON_KEY] = request
        scheme = scheme_seen(environ.get("HTTP_X_FORWARDED_PROTO", ""), hops, environ["wsgi.url_scheme"])
        address = seen_by_proxy(environ.get("HTTP_X_FORWARDED_FOR", ""), hops)
        environ["wsgi.url_scheme"] = scheme
        environ["REMOTE_ADDR"] = address or environ.get("REMOTE_ADDR", "")
        method, path = (
            environ["REQUEST_METHOD"],
            environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace"),
        )
        status = "500"  # what an exception that nobody caught becomes

        def start(answered: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            nonlocal status
            status = answered
            ours = [(name.decode(), value.decode()) for name, value in security_headers(scheme)]
            return start_response(answered, [*headers, *ours, ("X-Request-ID", request.id)], *exc_info)

        def write_line() -> None:
            log.write_request(request, method, path, int(status[:3]))

        if self.config.on_heroku and scheme == "http":
            location = https_location(
                environ.get("HTTP_HOST", ""), path, environ.get("QUERY_STRING", ""), self.config.trusted_hosts
            )
            if location:
                start("308 PERMANENT REDIRECT", [("Location", location), ("Content-Length", "0")])
                write_line()
                return []
        try:
            return ClosingIterator(self.application(environ, start), write_line)
        except Exception:
            write_line()
            raise
