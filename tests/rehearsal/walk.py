"""One visitor's walk through everything that Pipit does, from outside and through the router."""

import gzip
import re
import time
from collections.abc import Callable

from tests.rehearsal.browser import HOST, Browser
from tests.rehearsal.report import Report
from tests.rehearsal.router import Router
from tests.rehearsal.traffic import all_pages

YEAR = 365 * 24 * 3600
WINDOW = 60  # s: the limiter counts in clock minutes
ATTEMPTS = 5  # LOGIN_MAX_ATTEMPTS, by default
ADDRESS_ATTEMPTS = 4 * ATTEMPTS
ROOM = 15  # s that the attempts may take; all have to fall into one clock minute
SECURITY_HEADERS = {
    "content-security-policy": r"default-src 'none'",
    "x-content-type-options": r"nosniff",
    "referrer-policy": r"same-origin",
    "x-frame-options": r"DENY",
    "strict-transport-security": r"max-age=(31536000|[4-9]\d{7})",
}
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Version/17.0 Safari/604.1"


class Walk:
    """The walk: each step is a row of the report, and the later ones build upon the earlier."""

    def __init__(self, router: Router, report: Report) -> None:
        self.router = router
        self.report = report
        self.ada = Browser(router, "127.0.1.1")
        self.bob = Browser(router, "127.0.1.2")
        self.stranger = Browser(router, "127.0.1.3")
        self.browsers = [self.ada, self.bob, self.stranger]

    def go(self) -> None:
        """Take every step."""
        steps: list[tuple[str, Callable[[], str]]] = [
            ("http:// is redirected to https://, health checks are not", self.https),
            ("security headers and HSTS on every kind of answer", self.headers),
            ("static files are immutable and compressed", self.static),
            ("health endpoints say what works", self.health),
            ("a visitor who only reads gets no cookie", self.reading),
            ("registering signs in, with a __Host- cookie", self.register),
            ("a post is on / at once, and the next look is a cache hit", self.publish),
            ("hashtag, mention and permalink lead where they should", self.links),
            ("following fills the home page; followers and following are listed", self.follow),
            ("older pages hold every post", self.older),
            ("a deleted post is gone everywhere; nobody deletes another's", self.delete),
            ("sessions are listed with the router's address, and end at once", self.sessions),
            ("a new password logs out everywhere else", self.password),
            ("logout ends the session, not only the cookie", self.logout),
            ("six wrong passwords: 429 with the right Retry-After, not for the owner", self.wrong_passwords),
            ("a forged X-Forwarded-For changes nothing", self.forged_address),
            ("a request id that the router keeps is the one in the answer", self.request_id),
        ]
        for what, step in steps:
            with self.report.row(what) as row:
                row.detail = step()
        with self.report.row("no browser would have refused one of the cookies") as row:
            refused = [cookie.name for browser in self.browsers for cookie in browser.refused]
            assert not refused, refused
        for browser in self.browsers:
            browser.hang_up()

    def another(self, address: str, device: str = IPHONE) -> Browser:
        """Return one more browser, whose secrets are looked for in the logs too."""
        browser = Browser(self.router, address, device)
        self.browsers.append(browser)
        return browser

    def https(self) -> str:
        answer = self.stranger.get("/@ada?before=7", "http")
        assert (answer.status, answer.headers["location"]) == (308, f"https://{HOST}/@ada?before=7"), answer
        assert "strict-transport-security" not in answer.headers
        assert self.stranger.send("POST", "/login", "username=ada", "http").status == 308
        forged = self.stranger.get("/", "http", X_Forwarded_Proto="https")
        assert forged.status == 308, "a forged X-Forwarded-Proto is believed"
        assert self.stranger.get("/healthz", "http").status == 200
        return "308, path and query kept"

    def headers(self) -> str:
        self.stranger.get("/")
        static = re.findall(r'"(/static/[^"]+)"', self.stranger.get("/").text)[0]
        answers = {path: self.stranger.get(path) for path in ("/", "/login", "/nowhere", "/home", "/healthz", static)}
        answers["POST /login"] = self.stranger.send("POST", "/login", "username=ada")
        for path, answer in answers.items():
            for name, wanted in SECURITY_HEADERS.items():
                assert re.search(wanted, answer.headers.get(name, "")), f"{path}: {name}: {answer.headers.get(name)}"
            server = answer.headers.get("server", "")
            assert not re.search(r"\d", server), f"{path} tells a version: {server}"
        return ", ".join(f"{path[:16]} {answer.status}" for path, answer in answers.items())

    def static(self) -> str:
        paths = set(re.findall(r'"(/static/[^"]+)"', self.stranger.get("/").text))
        assert len(paths) >= 3, paths
        sizes = []
        for path in paths:
            answer = self.stranger.get(path, Accept_Encoding="gzip, deflate, br")
            cache = answer.headers["cache-control"]
            assert answer.status == 200, path
            assert "immutable" in cache, cache
            assert int(re.findall(r"max-age=(\d+)", cache)[0]) >= YEAR, cache
            assert "Accept-Encoding" in answer.headers.get("vary", ""), path
            plain = self.stranger.get(path, Accept_Encoding="identity").body
            encoding = answer.headers.get("content-encoding", "none")
            if encoding == "gzip":
                assert gzip.decompress(answer.body) == plain
            assert encoding == "gzip" or path.endswith(".svg"), f"{path} is sent as it is"
            sizes.append(f"{path.rpartition('.')[2]} {len(plain)} -> {len(answer.body)} bytes ({encoding})")
        return ", ".join(sorted(sizes))

    def health(self) -> str:
        assert self.stranger.get("/healthz").text == "ok\n"
        ready = self.stranger.get("/readyz")
        assert (ready.status, ready.text) == (200, "sql ok\nredis ok\n"), ready.text
        return "sql ok, redis ok"

    def reading(self) -> str:
        for path in ("/", "/tags/nothing", "/healthz"):
            assert not self.stranger.get(path).cookies, path
        assert not self.stranger.cookies.get("__Host-session")
        return ""

    def register(self) -> str:
        answer = self.ada.register("ada")
        assert (answer.status, answer.location) == (302, "/home"), answer.text
        (session,) = (cookie for cookie in answer.cookies if cookie.name == "__Host-session")
        assert {"secure", "httponly"} <= set(session.attributes), session
        assert (session.attributes["path"], session.attributes["samesite"]) == ("/", "Lax"), session
        assert "domain" not in session.attributes, session
        assert "Welcome, @ada" in self.ada.get("/home").text
        assert not any("session" in name for name in self.ada.cookie_header("http").split("; "))
        assert self.bob.register("bob").status == 302
        return session.name

    def publish(self) -> str:
        self.stranger.get("/")
        answer = self.ada.publish("Hello @bob, this is the #rehearsal")
        assert (answer.status, answer.location) == (302, "/home"), answer.text
        assert "Hello " in self.stranger.get("/").text
        again = self.stranger.get("/")
        assert "hit" in again.headers["cache-status"], again.headers["cache-status"]
        unchanged = self.stranger.get("/", If_None_Match=again.headers["etag"])
        assert (unchanged.status, unchanged.body) == (304, b""), unchanged
        return again.headers["cache-status"] + "; unchanged: 304"

    def links(self) -> str:
        page = self.stranger.get("/").text
        assert '<a href="/@bob" dir="ltr">@bob</a>' in page
        assert "#rehearsal" in self.stranger.get("/tags/rehearsal").text
        assert "this is the" in self.stranger.get("/tags/rehearsal").text
        (permalink,) = set(re.findall(r'href="(/@ada/\d+)"', page))
        single = self.stranger.get(permalink)
        assert single.status == 200, single
        assert "this is the" in single.text
        wrong_name = self.stranger.get(permalink.replace("@ada", "@bob"))
        assert (wrong_name.status, wrong_name.location) == (301, permalink), wrong_name
        return str(permalink)

    def follow(self) -> str:
        assert "this is the" not in self.bob.get("/home").text
        assert self.bob.post("/@ada/follow", "/@ada").status == 302
        assert "this is the" in self.bob.get("/home").text
        assert '"/@bob"' in self.stranger.get("/@ada/followers").text
        assert '"/@ada"' in self.stranger.get("/@bob/following").text
        assert "Unfollow" in self.bob.get("/@ada").text
        assert self.bob.post("/@ada/unfollow", "/@ada").status == 302
        assert "this is the" not in self.bob.get("/home").text
        assert '"/@bob"' not in self.stranger.get("/@ada/followers").text
        return ""

    def older(self) -> str:
        bodies = [f"Old news, number {number}." for number in range(1, 36)]
        for body in bodies:
            assert self.bob.publish(body).status == 302
        for path in ("/", "/@bob"):
            first = self.stranger.get(path).text
            assert bodies[-1] in first
            assert bodies[0] not in first
            everything = all_pages(self.stranger, path)
            counts = [everything.count(f">{body}<") for body in bodies]
            assert counts == [1] * len(bodies), counts
        return f"{len(bodies)} posts, each once, on / and /@bob"

    def delete(self) -> str:
        self.ada.publish("Soon to be gone #regret")
        self.stranger.get("/")
        found = re.findall(r'href="(/@ada/(\d+))"', self.stranger.get("/@ada").text)
        permalink, number = max(found, key=lambda link: int(link[1]))
        assert self.bob.post(f"/posts/{number}/delete", "/home").status == 403
        assert self.ada.post(f"/posts/{number}/delete", permalink).status == 302
        for path in ("/", "/@ada", "/tags/regret"):
            assert "Soon to be gone" not in self.stranger.get(path).text, path
        assert self.stranger.get(permalink).status == 404
        return ""

    def sessions(self) -> str:
        phone = self.another("127.0.1.4")
        assert phone.log_in("ada").status == 302
        page = self.ada.get("/settings/sessions", X_Forwarded_For="192.0.2.77").text
        assert "Firefox on Linux" in page
        assert "From 127.0.1.1<" in page, "the address is not the one that the router saw"
        assert "From 127.0.1.4<" in page
        assert "iPhone" in page
        (end,) = re.findall(r'action="(/settings/sessions/[0-9a-f]+/end)"', page)
        assert self.ada.post(end, "/settings/sessions").status == 302
        assert not phone.is_signed_in()
        assert self.ada.is_signed_in()
        return "Firefox on Linux at 127.0.1.1, Safari on iPhone at 127.0.1.4"

    def password(self) -> str:
        phone = self.another("127.0.1.4")
        assert phone.log_in("ada").status == 302
        before, old = self.ada.cookies["__Host-session"].value, self.ada.password
        self.ada.password = "another rehearsed password"
        fields = {"current_password": old, "new_password": self.ada.password}
        assert self.ada.post("/settings/password", "/settings/password", **fields).status == 302
        assert self.ada.is_signed_in()
        assert self.ada.cookies["__Host-session"].value != before
        assert not phone.is_signed_in()
        assert phone.log_in("ada", old).status == 422
        assert phone.log_in("ada", self.ada.password).status == 302
        self.ada.secrets.add(self.ada.password)
        return "and the session id is another"

    def logout(self) -> str:
        kept = dict(self.ada.cookies)
        assert self.ada.post("/logout", "/home").status == 302
        assert "__Host-session" not in self.ada.cookies
        assert not self.ada.is_signed_in()
        thief = self.another("127.0.1.5")
        thief.cookies = kept
        assert not thief.is_signed_in()
        return ""

    def wrong_passwords(self) -> str:
        wait_for_room(WINDOW)  # a new minute: the old password was tried above, and that counts
        guesser = self.another("127.0.1.6")
        statuses = [guesser.log_in("ada", f"wrong guess {number}").status for number in range(ATTEMPTS)]
        assert statuses == [422] * ATTEMPTS, statuses
        refused = guesser.log_in("ada", self.ada.password)
        left = WINDOW - time.time() % WINDOW
        assert refused.status == 429, refused.status
        after = int(refused.headers["retry-after"])
        assert abs(after - left) <= 2, f"Retry-After: {after}, but the minute has {left:.0f} s left"
        assert self.ada.log_in("ada").status == 302, "the owner's own browser is locked out"
        return f"Retry-After: {after}, with {left:.1f} s left of the minute"

    def forged_address(self) -> str:
        wait_for_room()
        forger = self.another("127.0.1.7")
        statuses = []
        for number in range(ADDRESS_ATTEMPTS + 1):
            form = f"csrf_token={forger.token('/login')}&username=nobody{number}&password=guess"
            forged = f"198.51.100.{number}"
            answer = forger.send("POST", "/login", form, X_Forwarded_For=forged, Forwarded=f"for={forged}")
            statuses.append(answer.status)
        assert statuses == [422] * ADDRESS_ATTEMPTS + [429], statuses
        neighbour = self.another("127.0.1.8")
        assert neighbour.log_in("nobody", "guess").status == 422
        return f"{ADDRESS_ATTEMPTS} names from one address, each with another forged one: then 429; a neighbour is free"

    def request_id(self) -> str:
        for given in ("a1b2" * 5, "0123456789abcdef" * 12 + "01234567", "with+and/and=1234567"):
            answer = self.stranger.get("/", X_Request_Id=given)
            assert answer.headers["x-request-id"] == given, f"{given} became {answer.headers['x-request-id']}"
        return "20 to 200 characters"


def wait_for_room(room: float = ROOM) -> None:
    """Wait for the next clock minute if this one has fewer seconds left than a few attempts in a row may take."""
    left = WINDOW - time.time() % WINDOW
    if left < room:
        time.sleep(left + 0.1)
