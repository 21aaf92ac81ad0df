"""Security headers for every response, HTTPS redirects, and the visitor's scheme and address behind proxies.

Plain functions: the front calls them for every request, and app/front/wsgi_middleware.py where there is no front.
"""

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import quote

from werkzeug.sansio.utils import host_is_trusted

# Nothing inline, nothing from other sites: an injected script does not run.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # don't tell other sites which page a visitor came from
    (b"x-frame-options", b"DENY"),  # for browsers older than frame-ancestors
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]
# HSTS for a year; without subdomains, which may belong to someone else.
HTTPS_HEADERS = [*HEADERS, (b"strict-transport-security", b"max-age=31536000")]

LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"  # of a host name (RFC 1123, section 2.1)
HOST = re.compile(rf"(?:{LABEL}(?:\.{LABEL})*\.?|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{{0,5}}))?")
LARGEST_PORT = 65_535
LONGEST_HOST = 260  # characters: a name of 253 and a port
WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+")  # how some proxies write an address
PATH_CHARACTERS = "/:@!$&'()*+,;=~"  # that need no percent-encoding (RFC 3986, section 3.3)
OPEN_PATHS = ("/healthz", "/readyz")  # platforms check these from inside, without TLS


def security_headers(scheme: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that every response over this scheme, http or https, carries."""
    return HTTPS_HEADERS if scheme == "https" else HEADERS


@lru_cache(maxsize=100)
def is_host(value: bytes) -> bool:
    """Return whether the value of a Host header can be one: a name or an address, perhaps with a port."""
    parts = HOST.fullmatch(value.decode("latin-1")) if len(value) <= LONGEST_HOST else None
    if parts is None or int(parts["port"] or 0) > LARGEST_PORT:
        return False
    try:
        return not parts["ipv6"] or bool(ipaddress.IPv6Address(parts["ipv6"]))
    except ValueError:
        return False


def to_https(host: str, path: str, query: str, trusted_hosts: Sequence[str]) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Return the status and the headers for a visitor without TLS: a redirect if the host is this site's, else a 400.

    path: as text, percent-decoded.
    """
    no_body = (b"content-length", b"0")
    if not is_host(host.encode("latin-1")) or not host_is_trusted(host.lower(), list(trusted_hosts) or None):
        return 400, [no_body]
    location = f"https://{host}{quote(path, safe=PATH_CHARACTERS)}{'?' if query else ''}{query}"
    return 308, [(b"location", location.encode()), no_body]  # 308: the browser sends a form again unchanged


def seen_by_proxy(forwarded: str, hops: int) -> str:
    """Return the entry of the outermost trusted proxy in an X-Forwarded-* header; "" if there is none.

    Each proxy appends what it saw. Entries further to the left came with the request, and may be forged.

    forwarded: the header's value; several headers of one name joined with commas.
    hops: trusted proxies between the visitor and Pipit.
    """
    seen = forwarded.split(",")
    return seen[-hops].strip() if 0 < hops <= len(seen) else ""


def scheme_seen(forwarded_proto: str, hops: int, own: str) -> str:
    """Return the scheme that the visitor came with, according to the trusted proxies; `own` if they don't say."""
    scheme = seen_by_proxy(forwarded_proto, hops).lower()
    return scheme if scheme in ("http", "https") else own


def address_seen(forwarded_for: str, hops: int, own: str) -> str:
    """Return the visitor's address, according to the trusted proxies; `own` if they don't say."""
    address = seen_by_proxy(forwarded_for, hops)
    with_port = WITH_PORT.fullmatch(address)
    return (with_port[1] or with_port[2]) if with_port else (address or own)
