"""A visitor with a browser: one connection to the router, and cookies kept as RFC 6265bis wants them kept."""

import re
import socket
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import unescape
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlencode

from tests.rehearsal.router import Router
from tests.servers import wait_until

HOST = "pipit-rehearsal.example.org"
PASSWORD = "a rehearsed password"
TIMEOUT = 40  # s; longer than the router's own
CSRF_TOKEN = re.compile(r'name="csrf_token"[^>]*value="([^"]+)"')
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Cookie:
    """A cookie as it was set: its attributes with their names in lower case."""

    name: str
    value: str = field(repr=False)
    attributes: dict[str, str]

    @classmethod
    def parse(cls, line: str) -> "Cookie":
        first, *rest = [part.strip() for part in line.split(";")]
        name, _, value = first.partition("=")
        pairs = (part.partition("=") for part in rest)
        return cls(name, value, {key.lower(): text for key, _, text in pairs})

    def is_acceptable(self, scheme: str) -> bool:
        """Return whether a browser keeps it: Secure only over TLS, and the rules of the __Host- prefix."""
        secure = "secure" in self.attributes
        if secure and scheme != "https":
            return False
        on_its_own_host = secure and "domain" not in self.attributes and self.attributes.get("path") == "/"
        return on_its_own_host or not self.name.startswith("__Host-")


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]  # names in lower case
    cookies: list[Cookie]
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def location(self) -> str:
        """Return where a redirect leads, as a path if it stays on the site."""
        return self.headers.get("location", "").removeprefix(f"https://{HOST}")


@dataclass
class Browser:
    """A visitor from an address of their own: 127.0.0.0/8 has enough of them."""

    router: Router
    address: str = "127.0.0.1"
    device: str = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"
    host: str = HOST
    cookies: dict[str, Cookie] = field(default_factory=dict)
    refused: list[Cookie] = field(default_factory=list)  # cookies that no browser would have kept
    secrets: set[str] = field(default_factory=set, repr=False)  # all that must not be in a log
    password: str = field(default=PASSWORD, repr=False)
    _connections: dict[str, HTTPConnection] = field(default_factory=dict, repr=False)

    def get(self, path: str, scheme: str = "https", **headers: str) -> Answer:
        return self.send("GET", path, None, scheme, **headers)

    def post(self, path: str, form_on: str, **fields: str) -> Answer:
        """Send a form with the token of the page `form_on`."""
        return self.send("POST", path, urlencode(fields | {"csrf_token": self.token(form_on)}))

    def send(self, method: str, path: str, form: str | None, scheme: str = "https", **headers: str) -> Answer:
        """Send a request; header names are written with _ for -."""
        sent = {"Host": self.host, "User-Agent": self.device}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        cookies = self.cookie_header(scheme)
        if cookies:
            sent["Cookie"] = cookies
        if form is not None:
            sent["Content-Type"] = FORM
        connection = self._connections.get(scheme)
        if connection is None:
            port = self.router.ports[scheme]
            connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT, source_address=(self.address, 0))
            self._connections[scheme] = connection
        began = time.monotonic()
        try:
            connection.request(method, path, form, sent)
            response = connection.getresponse()
            body = response.read()
        except Exception:
            connection.close()
            raise
        set_cookies = [Cookie.parse(line) for line in response.headers.get_all("Set-Cookie") or []]
        self._keep(set_cookies, scheme)
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, set_cookies, body, time.monotonic() - began)

    def cookie_header(self, scheme: str = "https") -> str:
        """Return the cookies that go with a request."""
        sent = [cookie for cookie in self.cookies.values() if scheme == "https" or "secure" not in cookie.attributes]
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in sent)

    def token(self, form_on: str) -> str:
        """Return the CSRF token of a page."""
        page = self.get(form_on)
        match = CSRF_TOKEN.search(page.text)
        assert match, f"no form on {form_on}: {page.status} {page.location}"
        token = unescape(match[1])
        self.secrets.add(token)
        return token

    def register(self, name: str) -> Answer:
        self.secrets |= {self.password, f"{name}@example.org"}
        return self.post("/register", "/register", username=name, email=f"{name}@example.org", password=self.password)

    def log_in(self, name: str, password: str | None = None) -> Answer:
        self.secrets.add(password or self.password)
        return self.post("/login", "/login", username=name, password=password or self.password)

    def publish(self, body: str) -> Answer:
        return self.post("/posts", "/home", body=body)

    def is_signed_in(self) -> bool:
        return self.get("/home").status == 200

    def hang_up(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def _keep(self, cookies: Iterable[Cookie], scheme: str) -> None:
        for cookie in cookies:
            if not cookie.is_acceptable(scheme):
                self.refused.append(cookie)
            elif cookie.attributes.get("max-age") == "0" or not cookie.value:
                self.cookies.pop(cookie.name, None)
            else:
                self.cookies[cookie.name] = cookie
                self.secrets.add(cookie.value)


class IdleConnection(threading.Thread):
    """A connection to a dyno that carries one request, then none for `seconds`, then another."""

    def __init__(self, port: int, seconds: float) -> None:
        super().__init__(name="idle connection", daemon=True)
        self.port = port
        self.seconds = seconds
        self.outcome = "not known yet"  # "200" if the second request was answered on the same connection

    def run(self) -> None:
        """Ask, wait, ask again."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        self._ask(connection)
        connection.auto_open = 0  # http.client would open another
        time.sleep(self.seconds)
        try:
            self.outcome = self._ask(connection)
        except (OSError, HTTPException) as error:
            self.outcome = f"closed ({type(error).__name__})"
        connection.close()

    @staticmethod
    def _ask(connection: HTTPConnection) -> str:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        response.read()
        return str(response.status)


class SlowPost(threading.Thread):
    """A signed-in visitor on a bad line: their post trickles in, byte by byte, and the answer is waited for."""

    def __init__(self, browser: Browser, body: str, seconds: float) -> None:
        super().__init__(name="slow post", daemon=True)
        self.browser = browser
        self.form = urlencode({"csrf_token": browser.token("/home"), "body": body}).encode()
        self.seconds = seconds
        self.status = 0  # what was answered; 0 for nothing
        self.request_id = str(uuid.uuid4())

    def wait_until_begun(self) -> None:
        """Wait until a dyno is at work on it."""
        wait_until(lambda: self.request_id in self.browser.router.active, "the slow post to reach a dyno")

    def run(self) -> None:
        """Send it over `seconds`, then read the status."""
        head = (
            f"POST /posts HTTP/1.1\r\nHost: {self.browser.host}\r\nCookie: {self.browser.cookie_header()}\r\n"
            f"X-Request-Id: {self.request_id}\r\nContent-Type: {FORM}\r\n"
            f"Content-Length: {len(self.form)}\r\nConnection: close\r\n\r\n"
        )
        port = self.browser.router.ports["https"]
        with socket.create_connection(("127.0.0.1", port), TIMEOUT, (self.browser.address, 0)) as connection:
            try:
                connection.sendall(head.encode() + self.form[:1])
                for position in range(1, len(self.form)):
                    time.sleep(self.seconds / len(self.form))  # the slowness is what is tested
                    connection.sendall(self.form[position : position + 1])
                line = connection.makefile("rb").readline()
            except OSError:
                return
        match = re.match(rb"HTTP/1\.[01] (\d{3})", line)
        self.status = int(match[1]) if match else 0
