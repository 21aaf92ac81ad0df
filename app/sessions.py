"""Redis job 1: server-side sessions.

A signed-in visitor's session is one JSON object in Redis under `session:<id>`; the browser holds only the id. An
anonymous visitor has no session in Redis: a signed cookie holds the little they need (a form's CSRF secret, a flash
message), so nobody can fill Redis by asking for forms. Signing in replaces that cookie by a session with a fresh id.

    session:<id>           string   the session as JSON; lives SESSION_LIFETIME, renewed by each use
    user:<id>:sessions     zset     the ids of one user's sessions, by last use; makes "log out everywhere" possible.
                                    There are at most MOST_SESSIONS; the next login ends the one used least recently

Reading renews: GETEX does both in one round trip, and a request that changes nothing writes nothing.
A session that has ended stays ended: saving changes only a session that still exists, so a slow request that began
before the logout finds nothing to overwrite.
Two requests may change one session at once: each saves only its own changes, so neither undoes the other's.

From Flask-Session come the session object (a dict that knows whether it was read or changed), the new ids, the key of
an id, and the hooks that a store implements: _retrieve_session_data and _upsert_session. Replaced are the serializer,
because Flask-Session's falls back to pickle, and open_session and save_session, because Flask-Session's save sets a new
cookie even if the session has ended meanwhile, and neither method handles an unreachable Redis.
"""

import hashlib
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Required, TypedDict, cast

import msgspec
from flask import Flask, Request, Response, current_app, request, session
from flask.sessions import SecureCookieSessionInterface
from flask_session.base import Serializer, ServerSideSession
from flask_session.redis.redis import RedisSession, RedisSessionInterface
from itsdangerous import BadSignature, URLSafeTimedSerializer
from msgspec import Meta
from redis import ResponseError
from redis.client import Pipeline

from app import costs
from app.config import Config
from app.redis_client import Store, StoreUnavailableError, glob_escape

log = logging.getLogger(__name__)

ID_LENGTH = 16  # bytes: 128 random bits, 22 characters; OWASP asks for 64 bits of entropy
ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{22}")
LARGEST = 16 * 1024  # bytes; Pipit's own sessions take about 200, so anything larger is not one of them
SEEN_EVERY = 300  # s: how exact "last seen" is; a session in steady use is written once in that time
MOST_SESSIONS = 50  # of one user: more devices than anybody has, and 25 kB of Redis
MOST_FLASHES = 10  # messages that wait to be shown; older ones are dropped
LAST_MOMENT = 253_402_300_799  # s since the epoch: the end of the year 9999, the latest a datetime can be
COOKIES = ("session", "__Host-session", "visitor", "__Host-visitor")
SAMPLE = 2_000  # keys that count() looks at; if the server has more, it estimates, to within a few percent
FLASHES = "_flashes"  # the session key under which Flask keeps flash messages
ANONYMOUS_LIFETIME = 3600  # s an anonymous visitor's cookie lasts: long enough to fill in a form


Moment = Annotated[int, Meta(ge=0, le=LAST_MOMENT)]  # s since the epoch


class Content(TypedDict, total=False):
    """What makes a JSON object one of Pipit's sessions. Other keys are allowed and kept."""

    user_id: Required[Annotated[int, Meta(ge=1, le=2**63 - 1)]]
    name: Required[Annotated[str, Meta(min_length=1, max_length=100)]]
    seen: Required[Moment]  # last use, to within SEEN_EVERY
    since: Moment
    proved: Moment  # when the password was last entered, if that was after `since`
    new_factor: str  # the secret of a second factor that is being set up
    device: str
    address: str
    csrf_token: Annotated[str, Meta(min_length=1)]
    wrote: Annotated[float, Meta(ge=0, le=LAST_MOMENT)]  # see note_write() in app/web/viewer.py
    counted: Annotated[float, Meta(ge=0, le=LAST_MOMENT)]  # the same
    suspended_until: Moment  # until then app/web/suspension.py restricts it
    _flashes: list[tuple[str, str]]


class NotASessionError(ValueError):
    """The bytes under a session key are not one of Pipit's sessions; says why, without quoting them."""


class JsonSerializer(Serializer):
    """JSON and nothing else. Flask-Session's own serializer falls back to pickle, which runs what it reads."""

    _decoder = msgspec.json.Decoder(dict[str, Any])

    def encode(self, session: Mapping[str, Any]) -> bytes:
        """Return the session as a JSON object."""
        return msgspec.json.encode(dict(session))

    def decode(self, serialized_data: bytes) -> dict[str, Any]:
        """Return the object. Raises NotASessionError for anything else."""
        if len(serialized_data) > LARGEST:
            raise NotASessionError(f"{len(serialized_data)} bytes")
        try:
            data = self._decoder.decode(serialized_data)
            msgspec.convert(data, Content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise NotASessionError(str(error)) from None
        return data


class Session(RedisSession):
    """One visitor's session: a dict that knows its id, `None` for an anonymous visitor."""

    sid: str | None

    def __init__(self, initial: dict[str, Any] | None = None, sid: str | None = None) -> None:
        super().__init__(initial, sid=sid)
        self.before = _snapshot(initial or {})
        self.is_new = False  # begun by this request
        self.was_ended = False  # by this request
        self.unavailable = False  # there may be a session, but Redis does not answer

    @property
    def user_id(self) -> int | None:
        """Return the id of the signed-in user; None for an anonymous visitor."""
        # dict's own get(): a session is `accessed` when a view asks, not when we do.
        return dict.get(self, "user_id") if self.sid else None

    @property
    def is_suspended(self) -> bool:
        """Return whether its user is suspended, so that it is good for nothing but to read why."""
        return is_suspended(self)

    def changes_to(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Return the stored session with this request's changes applied, and nothing else changed.

        Flash messages are merged one by one: a new message stays if another request shows an older one, and a shown
        message does not come back.
        """
        merged = {key: value for key, value in stored.items() if key in self or key not in self.before}
        merged |= {key: value for key, value in self.items() if key not in self.before or self.before[key] != value}
        flashes, before = Counter(_flashes(self)), Counter(_flashes(self.before))
        kept = list(((Counter(_flashes(stored)) - (before - flashes)) + (flashes - before)).elements())
        merged.pop(FLASHES, None)
        return merged | ({FLASHES: kept[-MOST_FLASHES:]} if kept else {})

    def clear(self) -> None:
        """Remove everything; Flask-Session would leave a "_permanent" behind."""
        super(ServerSideSession, self).clear()


@dataclass(frozen=True)
class ActiveSession:
    """One device on which a user is signed in."""

    sid: str = field(repr=False)
    user_id: int
    name: str
    device: str
    address: str
    since: datetime
    seen: datetime  # to within SEEN_EVERY

    @property
    def handle(self) -> str:
        """Return a public name for this session. It is a hash, so it does not give the id away."""
        return hashlib.sha256(self.sid.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SignIn:
    """Who signs in, and from where; it becomes the new session's content."""

    user_id: int
    name: str
    device: str = ""
    address: str = ""
    suspended_until: int | None = None  # s since the epoch


class PipitSessionInterface(RedisSessionInterface):
    """Flask-Session's Redis interface with the guarantees at the top of this file."""

    session_class = Session

    def __init__(self, app: Flask, store: Store, lifetime: int) -> None:
        super().__init__(app, client=store.client, key_prefix="session:", sid_length=ID_LENGTH)
        self.serializer: JsonSerializer = JsonSerializer()
        self.store = store
        self.lifetime = lifetime
        self.anonymous = _AnonymousCookie()

    # What Flask calls around each request

    def open_session(self, app: Flask, request: Request) -> Session:
        """Return the visitor's session; never raises, whatever the cookie and the store hold."""
        try:
            # Not costs.current(): a cached page is built for an anonymous visitor, in the middle of another request.
            front: costs.RequestStats | None = request.environ.get(costs.ENVIRON_KEY)
            sid, data = (front and front.session) or self._read(request)
        except StoreUnavailableError as error:
            if not self.store.breaker.is_open:  # the breaker logs an outage once
                log.warning("a session can't be read: %s", error)
            session = Session()
            session.unavailable = True
            return session
        if data is not None:
            session = Session(data, sid=sid)
            if is_due(data):
                session["seen"] = int(time.time())
                session.accessed = False
            return session
        # An unknown id is never adopted. Its cookie stays: the browser may have sent this request just before it
        # received its new id, and deleting the cookie now would sign it out.
        return Session(self.anonymous.read(app, request))

    def save_session(self, app: Flask, session: Session, response: Response) -> None:
        """Save the changes and set the cookie; a request that changed nothing writes nothing."""
        if session.accessed:
            response.vary.add("Cookie")
        if session.unavailable or not session.modified:
            return
        if session.sid is None:
            if session.was_ended:
                response.delete_cookie(self.get_cookie_name(app), secure=request.is_secure, httponly=True)
            self.anonymous.write(app, session.changes_to(session.before), response)
            return
        try:
            saved = self._upsert_session(timedelta(seconds=self.lifetime), session, self._get_store_id(session.sid))
        except StoreUnavailableError as error:
            log.warning("a session can't be saved: %s", error)
            saved = session.is_new
        # Only a session that is still there gets its cookie renewed: a slow request must not hand the browser an id
        # that was replaced while it ran.
        if saved:
            self._set_cookie(app, session.sid, response)

    # What the front calls, to read a session without Flask

    def session_id(self, cookies: Mapping[str, str], *, secure: bool) -> str | None:
        """Return the session id that a browser brings, or None."""
        sid = cookies.get(cookie_name("session", secure=secure))
        return sid if sid and ID_PATTERN.fullmatch(sid) else None

    def read_command(self, sid: str) -> tuple[str | bytes | int, ...]:
        """Return the command that reads a session and renews it."""
        return "GETEX", self._get_store_id(sid), "EX", self.lifetime

    def decode(self, value: bytes | None) -> dict[str, Any] | None:
        """Return the session under a key. If the bytes are not a session, log that and return None."""
        if value is None:
            return None
        try:
            return self.serializer.decode(value)
        except NotASessionError as error:
            log.warning("a session key holds something that is not a session (%s): treated as none", error)
            return None

    def _read(self, request: Request) -> tuple[str | None, dict[str, Any] | None]:
        """Return the id that a browser brings, and what its session holds. Raises StoreUnavailableError."""
        sid = self.session_id(request.cookies, secure=request.is_secure)
        return (sid, self._retrieve_session_data(self._get_store_id(sid))) if sid else (None, None)

    # What Flask-Session calls

    def _get_store_id(self, sid: str) -> str:
        """Return the key of a session. Raises StoreUnavailableError, as Store.key() does."""
        return self.store.key(self.key_prefix + sid)

    def _retrieve_session_data(self, store_id: str) -> dict[str, Any] | None:
        """Return the session and renew it: one command, if the server has GETEX."""
        with self.store.commands() as redis:
            try:
                value = redis.getex(store_id, ex=self.lifetime)
            except ResponseError:
                # A server older than Redis 6.2, such as Redis To Go's, has no GETEX. One that refuses writes because it
                # has lost its replicas can still read.
                with redis.pipeline(transaction=False) as pipe:
                    pipe.get(store_id)
                    pipe.expire(store_id, self.lifetime)
                    value = pipe.execute(raise_on_error=False)[0]
                if isinstance(value, ResponseError):
                    if not str(value).startswith("WRONGTYPE"):
                        raise value from None
                    value = b""
        return self.decode(cast(bytes | None, value))

    def _upsert_session(self, session_lifetime: timedelta, session: Session, store_id: str) -> bool:
        """Merge a request's changes into the stored session; return False if it has ended meanwhile.

        WATCH makes read, change and write atomic: if another request writes in between, the transaction is retried.
        """

        def save(pipe: Pipeline) -> bool:
            value = cast(bytes | None, pipe.get(store_id))
            stored = self.decode(value)
            pipe.multi()
            if stored is None:
                return False
            merged = self.serializer.encode(session.changes_to(stored))
            pipe.set(store_id, merged, ex=session_lifetime, xx=True)
            self._index(pipe, cast(int, session.user_id), cast(str, session.sid))
            return True

        with self.store.commands() as redis:
            return bool(redis.transaction(cast(Any, save), store_id, value_from_callable=True))

    def regenerate(self, session: ServerSideSession) -> None:
        """Refuse: begin() gives a session its new id; the inherited method would sign the visitor out."""
        raise NotImplementedError("use begin()")

    # What signing in and out mean to the store

    def begin(self, session: Session, sign_in: SignIn, may_stay: Callable[[], bool] = lambda: True) -> bool:
        """Sign `session` in under a new id, and end the session it had before.

        may_stay: called once the new session is in the user's index, where end_all() finds it. If it returns False or
            raises, the new session ends at once, and the browser never gets its id.

        Returns what `may_stay` returns; if that is False, the old session has ended too. Raises StoreUnavailableError;
        the old session may have ended by then, and the browser gets no new one.
        """
        now, sid = int(time.time()), self._generate_sid(self.sid_length)
        known = {key: value for key, value in asdict(sign_in).items() if value is not None}
        content = known | {"csrf_token": secrets.token_urlsafe(16), "since": now, "seen": now}
        with self.store.commands() as redis, redis.pipeline() as pipe:
            pipe.set(self._get_store_id(sid), self.serializer.encode(content), ex=self.lifetime)
            self._index(pipe, sign_in.user_id, sid)
            if session.sid and session.user_id:
                self._delete_in(pipe, session.user_id, session.sid)
            pipe.zrange(self._index_key(sign_in.user_id), 0, -MOST_SESSIONS - 1)
            surplus = pipe.execute()[-1]
        self._delete(sign_in.user_id, *(old.decode() for old in surplus))
        stays = False
        try:
            stays = may_stay()
        finally:
            if not stays:
                self._delete(sign_in.user_id, sid)
        if not stays:
            return False
        session.clear()
        session.update(content)
        session.sid, session.before, session.is_new = sid, content, True
        return True

    def end(self, session: Session) -> None:
        """Sign the visitor out: the session is gone from the store before the answer leaves.

        Raises StoreUnavailableError; the visitor then stays signed in.
        """
        if session.sid and session.user_id:
            self._delete(session.user_id, session.sid)
        session.clear()
        session.sid, session.was_ended = None, True

    def end_all(self, user_id: int, *, keep: str | None = None) -> int:
        """End every session of a user but `keep`, at once and on every process; return how many ended."""
        with self.store.commands() as redis:
            ids = cast(list[bytes], redis.zrange(self._index_key(user_id), 0, -1))
        others = [sid.decode() for sid in ids if sid.decode() != keep]
        self._delete(user_id, *others)
        return len(others)

    # What users and operators see

    def active(self, user_id: int) -> list[ActiveSession]:
        """Return where a user is signed in, last used first. Raises StoreUnavailableError."""
        with self.store.commands() as redis:
            ids = [sid.decode() for sid in cast(list[bytes], redis.zrevrange(self._index_key(user_id), 0, -1))]
            values = cast(list[bytes | None], redis.mget([self._get_store_id(sid) for sid in ids])) if ids else []
        found = []
        for sid, value in zip(ids, values, strict=True):
            data = self.decode(value)
            if data and data["user_id"] == user_id:
                found.append(_active(sid, data))
        return found

    def all_active(self) -> Iterator[ActiveSession]:
        """Yield every user's sessions in no order; SCAN does not block the server. Raises StoreUnavailableError."""
        prefix = self._get_store_id("")
        with self.store.commands() as redis:
            for key in cast(Iterator[bytes], redis.scan_iter(match=glob_escape(prefix) + "*", count=500)):
                (value,) = cast(list[bytes | None], redis.mget([key]))  # MGET takes a key of another type for none
                data = self.decode(value)
                if data:
                    yield _active(key.decode().removeprefix(prefix), data)

    def count(self) -> tuple[int, bool]:
        """Return how many sessions there are, and whether that is exact; more keys than SAMPLE make it an estimate.

        SCAN goes through the keys in the order of their hashes, so that the first ones are a fair sample of all.
        Raises StoreUnavailableError.
        """
        prefix = self._get_store_id("").encode()
        with self.store.commands() as redis, redis.pipeline(transaction=False) as pipe:
            pipe.scan(count=SAMPLE)
            pipe.dbsize()
            (cursor, keys), size = pipe.execute()
        found = sum(key.startswith(prefix) for key in keys)
        return (round(found * size / max(1, len(keys))), False) if cursor else (found, True)

    def end_one(self, user_id: int, handle: str) -> ActiveSession | None:
        """End one session of a user, by its handle; return that session, or None. Raises StoreUnavailableError."""
        for place in self.active(user_id):
            if place.handle == handle:
                self._delete(user_id, place.sid)
                return place
        return None

    # Details

    def get_cookie_name(self, app: Flask) -> str:
        """Return the session cookie's name."""
        return cookie_name("session", secure=request.is_secure)

    def _set_cookie(self, app: Flask, sid: str, response: Response) -> None:
        _set_cookie(response, self.get_cookie_name(app), sid, self.lifetime)
        self.anonymous.write(app, {}, response)

    def _index_key(self, user_id: int) -> str:
        return self.store.key(f"user:{user_id}:sessions")

    def _index(self, pipe: Pipeline, user_id: int, sid: str) -> None:
        """Note a session's last use, and drop the expired sessions from the index."""
        key, now = self._index_key(user_id), int(time.time())
        pipe.zadd(key, {sid: now})
        pipe.zremrangebyscore(key, "-inf", now - self.lifetime - SEEN_EVERY)
        pipe.expire(key, self.lifetime + SEEN_EVERY)

    def _delete(self, user_id: int, *ids: str) -> None:
        """Delete sessions of a user, and their places in the index. Raises StoreUnavailableError."""
        if ids:
            with self.store.commands() as redis, redis.pipeline() as pipe:
                self._delete_in(pipe, user_id, *ids)
                pipe.execute()

    def _delete_in(self, pipe: Pipeline, user_id: int, *ids: str) -> None:
        pipe.delete(*(self._get_store_id(sid) for sid in ids))
        pipe.zrem(self._index_key(user_id), *ids)


class _AnonymousCookie:
    """The cookie of an anonymous visitor: a CSRF secret and flash messages, signed by Flask's own cookie session.

    The content is signed but not secret. It signs nobody in. It may say who has entered a password and is now asked for
    a code (app/web/login_steps.py).
    """

    flask = SecureCookieSessionInterface()

    def read(self, app: Flask, request: Request) -> dict[str, Any]:
        """Return what the cookie holds; nothing if it is missing, forged or too old."""
        value = request.cookies.get(cookie_name("visitor", secure=request.is_secure))
        if not value:
            return {}
        try:
            return cast(dict[str, Any], self._signer(app).loads(value, max_age=ANONYMOUS_LIFETIME))
        except BadSignature:
            return {}

    def write(self, app: Flask, data: dict[str, Any], response: Response) -> None:
        """Set the cookie, or delete it if `data` is empty."""
        name = cookie_name("visitor", secure=request.is_secure)
        response.vary.add("Cookie")
        if data:
            _set_cookie(response, name, self._signer(app).dumps(data), ANONYMOUS_LIFETIME)
        elif name in request.cookies:
            response.delete_cookie(name, path="/", secure=request.is_secure, httponly=True, samesite="Lax")

    def _signer(self, app: Flask) -> URLSafeTimedSerializer:
        return cast(URLSafeTimedSerializer, self.flask.get_signing_serializer(app))


def _set_cookie(response: Response, name: str, value: str, lifetime: int) -> None:
    response.set_cookie(name, value, lifetime, path="/", secure=request.is_secure, httponly=True, samesite="Lax")


def _snapshot(data: dict[str, Any]) -> dict[str, Any]:
    """Return a copy that does not change when the session's own lists grow."""
    return {key: list(value) if isinstance(value, list) else value for key, value in data.items()}


def _flashes(data: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the flash messages in a session."""
    messages = dict(data).get(FLASHES) or []
    return [tuple(message) for message in messages]


def _active(sid: str, data: dict[str, Any]) -> ActiveSession:
    return ActiveSession(
        sid=sid,
        user_id=data["user_id"],
        name=data["name"],
        device=str(data.get("device", "")),
        address=str(data.get("address", "")),
        since=datetime.fromtimestamp(int(data.get("since", data["seen"])), UTC),
        seen=datetime.fromtimestamp(data["seen"], UTC),
    )


def is_due(data: dict[str, Any]) -> bool:
    """Return whether `seen` in a session is old enough to be updated."""
    return bool(time.time() - data["seen"] > SEEN_EVERY)


def is_suspended(data: dict[str, Any]) -> bool:
    """Return whether this is the session of somebody who is suspended. When the time is over, it is one like others."""
    # dict's own get(): a session is `accessed` when a view asks, not when we do.
    return bool(dict.get(data, "suspended_until", 0) > time.time())


def cookie_name(name: str, *, secure: bool) -> str:
    """Return a cookie's full name. Over HTTPS, browsers enforce the `__Host-` prefix (RFC 6265bis, 4.1.3)."""
    return f"__Host-{name}" if secure else name


def has_cookie(cookies: Mapping[str, str]) -> bool:
    """Return whether a browser sends one of our cookies, valid or not."""
    return any(name in cookies for name in COOKIES)


def init_sessions(app: Flask, config: Config, store: Store) -> None:
    """Give the app its sessions."""
    app.session_interface = PipitSessionInterface(app, store, config.session_lifetime)


def current_session() -> Session:
    """Return the session of the current request, typed."""
    return cast(Session, session)


def current_interface() -> PipitSessionInterface:
    """Return the current app's session interface, typed."""
    return cast(PipitSessionInterface, current_app.session_interface)
