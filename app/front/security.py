"""Security headers for every response, HTTPS redirects, and the visitor's scheme and address behind proxies.

Plain functions: the front calls them for every request, and app/front/wsgi.py does where there is no front.
"""

import re
from collections.abc import Sequence
from urllib.parse import quote

from werkzeug.sansio.utils import host_is_trusted

# Nothing inline, nothing from elsewhere: a script that somebody managed to put into a page would not run.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # don't tell other sites what was read
    (b"x-frame-options", b"DENY"),  # for browsers older than frame-ancestors
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]
# HSTS for a year; without subdomains, which may belong to someone else.
HTTPS_HEADERS = [*HEADERS, (b"strict-transport-security", b"max-age=31536000")]

HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")  # what a Host header may be
PATH_CHARACTERS = "/:@!$&'()*+,;=~"  # that need no percent-encoding (RFC 3986, section 3.3)
OPEN_PATHS = ("/healthz", "/readyz")  # platforms look at these from inside, without TLS


def security_headers(scheme: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that every response over this scheme, http or https, carries."""
    return HTTPS_HEADERS if scheme == "https" else HEADERS


def https_location(host: str, path: str, query: str, trusted_hosts: Sequence[str]) -> str | None:
    """Return where to send a visitor who came without TLS; None for a path that needs none, or a host that isn't ours.

    path: as text, percent-decoded.
    """
    if path in OPEN_PATHS or not HOST.fullmatch(host) or not host_is_trusted(host, list(trusted_hosts) or [host]):
        return None
    location = f"https://{host}{quote(path, safe=PATH_CHARACTERS)}"
    return f"{location}?{query}" if query else location


def seen_by_proxy(forwarded: str, hops: int) -> str:
    """Return what the outermost trusted proxy put into an X-Forwarded-* header; "" if it put nothing there.

    Each proxy appends what it saw. What stands further to the left came with the request, and may be forged.

    forwarded: the header's value; several headers of one name joined with commas.
    hops: trusted proxies between the visitor and Pipit.
    """
    seen = forwarded.split(",")
    return seen[-hops].strip() if 0 < hops <= len(seen) else ""


def scheme_seen(forwarded_proto: str, hops: int, own: str) -> str:
    """Return the scheme that the visitor came with, as the trusted proxies say; `own` without any, or if they don't."""
    scheme = seen_by_proxy(forwarded_proto, hops).lower()
    return scheme if scheme in ("http", "https") else own
