"""A visitor's browser: one connection to the router, and cookies."""

import re
import time
from dataclasses import dataclass, field
from html import unescape
from http.client import HTTPConnection, HTTPMessage
from http.cookies import SimpleCookie
from urllib.parse import urlencode

from tests.rehearsal.router import Router

HOST = "pipit-rehearsal.example.org"
PASSWORD = "a rehearsed password"
TIMEOUT = 40  # s; longer than the router's own
CSRF_TOKEN = re.compile(r'name="csrf_token"[^>]*value="([^"]+)"')
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: HTTPMessage
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Browser:
    """A visitor from an address of their own: 127.0.0.0/8 has enough of them."""

    router: Router
    address: str = "127.0.0.1"
    cookies: dict[str, str] = field(default_factory=dict)
    _connections: dict[str, HTTPConnection] = field(default_factory=dict, repr=False)

    def get(self, path: str, scheme: str = "https", **headers: str) -> Answer:
        """Ask for a page; header names are written with _ for -."""
        return self._send("GET", path, None, scheme, headers)

    def post(self, path: str, form_on: str, **fields: str) -> Answer:
        """Send a form with the token of the page `form_on`."""
        return self.submit(path, self.filled_in(form_on, **fields))

    def submit(self, path: str, form: bytes, **headers: str) -> Answer:
        return self._send("POST", path, form, "https", headers)

    def filled_in(self, form_on: str, **fields: str) -> bytes:
        """Return a form with the token of the page it is on."""
        page = self.get(form_on)
        token = CSRF_TOKEN.search(page.text)
        assert token, f"no form on {form_on}: {page.status}"
        return urlencode(fields | {"csrf_token": unescape(token[1])}).encode()

    def register(self, name: str) -> Answer:
        return self.post("/register", "/register", username=name, password=PASSWORD)

    def log_in(self, name: str, password: str = PASSWORD) -> Answer:
        return self.post("/login", "/login", username=name, password=password)

    def publish(self, body: str) -> Answer:
        return self.post("/posts", "/home", body=body)

    def is_signed_in(self) -> bool:
        return self.get("/home").status == 200

    def submit_slowly(self, path: str, form: bytes, seconds: float, request_id: str) -> int:
        """Send a form byte by byte over `seconds`, as on a bad line; return the answer's status.

        Raises OSError if the connection breaks.
        """
        connection = self._connect("https")
        connection.putrequest("POST", path, skip_host=True)
        headers = {
            **self._headers(),
            "Content-Type": FORM,
            "Content-Length": str(len(form)),
            "X-Request-Id": request_id,
        }
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        for byte in form:
            connection.send(bytes([byte]))
            time.sleep(seconds / len(form))  # the slowness is what is tested
        response = connection.getresponse()
        response.read()
        return response.status

    def hang_up(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def _send(self, method: str, path: str, form: bytes | None, scheme: str, more: dict[str, str]) -> Answer:
        headers = self._headers() | {name.replace("_", "-"): value for name, value in more.items()}
        if form is not None:
            headers["Content-Type"] = FORM
        connection = self._connect(scheme)
        began = time.monotonic()
        try:
            connection.request(method, path, form, headers)
            response = connection.getresponse()
            body = response.read()
        except Exception:
            connection.close()
            raise
        for line in response.headers.get_all("Set-Cookie") or []:
            for cookie in SimpleCookie(line).values():
                self.cookies[cookie.key] = cookie.value
        return Answer(response.status, response.headers, body, time.monotonic() - began)

    def _connect(self, scheme: str) -> HTTPConnection:
        if scheme not in self._connections:
            self._connections[scheme] = HTTPConnection(
                "127.0.0.1", self.router.ports[scheme], timeout=TIMEOUT, source_address=(self.address, 0)
            )
        return self._connections[scheme]

    def _headers(self) -> dict[str, str]:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items() if value)
        return {"Host": HOST, **({"Cookie": cookies} if cookies else {})}
