"""Security headers on every response, errors and static files included; and HTTPS where there is a router."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from werkzeug.sansio.utils import host_is_trusted
from werkzeug.utils import redirect
from werkzeug.wsgi import get_current_url

from app.front.early import EARLY, NotEarlyError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Nothing inline, nothing from elsewhere: a script that somebody managed to put into a page would not run.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

HEADERS = [
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),  # where you read is nobody else's business
    ("X-Frame-Options", "DENY"),  # for browsers older than frame-ancestors
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
]


# For a year nobody who was here once asks without TLS again. Not for subdomains: they may be somebody else's.
HTTPS_HEADERS = [*HEADERS, ("Strict-Transport-Security", "max-age=31536000")]

HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")  # what a Host header may be
OPEN_PATHS = ("/healthz", "/readyz")  # platforms look at these from inside, without TLS


class HTTPSOnly:
    """Sends a visitor who came without TLS to the same page with it; the router says how they came."""

    def __init__(self, application: "WSGIApplication", trusted_hosts: tuple[str, ...]) -> None:
        self.application = application
        self.trusted_hosts = trusted_hosts or None

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer with a redirect where one is due; not to a host that isn't ours, which Flask refuses."""
        host = environ.get("HTTP_HOST", "")
        ours = HOST.fullmatch(host) and host_is_trusted(host, self.trusted_hosts or [host])
        if environ["wsgi.url_scheme"] == "https" or environ["PATH_INFO"] in OPEN_PATHS or not ours:
            return self.application(environ, start_response)
        if EARLY in environ:
            raise NotEarlyError  # the redirect is no list
        url = get_current_url(environ).replace("http://", "https://", 1)
        answer = redirect(url, code=308)  # 308: a form that was sent is sent again as it was
        return SecurityHeaders(answer)(environ, start_response)


class SecurityHeaders:
    """A WSGI layer that gives every response of the application inside the headers above: none can forget them."""

    def __init__(self, application: "WSGIApplication") -> None:
        self.application = application

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request as the application does, with the headers added."""

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            return start_response(status, headers + security_headers(environ["wsgi.url_scheme"]), *exc_info)

        return self.application(environ, start)


def security_headers(scheme: str) -> list[tuple[str, str]]:
    """Return what every response carries that came over this scheme, http or https."""
    return HTTPS_HEADERS if scheme == "https" else HEADERS
