""".env as `make run` writes it: a copy of .env.example that Pipit can start with at once."""

import re
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from dotenv import dotenv_values

from app.cli import first_env
from app.cli.first_env import write_dotenv
from app.config import REDIS_PORT, Config
from tests import servers
from tests.servers import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with .env.example in it, as a fresh clone is one."""
    shutil.copy(ROOT / ".env.example", tmp_path)
    return tmp_path


@pytest.fixture
def free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Give a free port that stands in for Redis's own, which may be in use on this machine."""
    return stand_in(servers.free_port(), folder, monkeypatch)


@pytest.fixture
def busy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Give a port on which somebody listens and that stands in for Redis's own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield stand_in(int(server.getsockname()[1]), folder, monkeypatch)


def stand_in(port: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(first_env, "REDIS_PORT", port)
    example = folder / ".env.example"
    assert f"127.0.0.1:{REDIS_PORT}/0" in example.read_text()
    example.write_text(example.read_text().replace(f"127.0.0.1:{REDIS_PORT}/0", f"127.0.0.1:{port}/0"))
    return port


def read(folder: Path) -> dict[str, str]:
    return {name: value or "" for name, value in dotenv_values(folder / ".env").items()}


def test_it_is_the_example_with_a_secret_key_of_its_own(folder: Path, free: int) -> None:
    write_dotenv(folder)
    written, example = (folder / ".env").read_text(), (folder / ".env.example").read_text()
    assert re.sub(r"(?m)^SECRET_KEY=[0-9a-f]{64}$", "SECRET_KEY=", written) == example
    assert set(read(folder)) == {"PROCFILE", "SECRET_KEY"}


def test_each_one_has_another_key(folder: Path, free: int) -> None:
    write_dotenv(folder)
    first = read(folder)["SECRET_KEY"]
    (folder / ".env").unlink()
    write_dotenv(folder)
    assert read(folder)["SECRET_KEY"] != first


def test_nobody_but_its_owner_can_read_it(folder: Path, free: int) -> None:
    write_dotenv(folder)
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600


def test_one_that_is_there_is_never_touched(folder: Path, free: int) -> None:
    (folder / ".env").write_text("SECRET_KEY=mine")
    with pytest.raises(FileExistsError):
        write_dotenv(folder)
    assert (folder / ".env").read_text() == "SECRET_KEY=mine"


def test_pipit_can_start_with_it(folder: Path, free: int) -> None:
    write_dotenv(folder)
    config = Config.from_environ(read(folder), folder)
    assert config.secret_key == read(folder)["SECRET_KEY"]
    assert config.redis.port == REDIS_PORT


def test_where_the_port_of_redis_is_in_use_another_one_is_written_and_said(
    folder: Path, busy: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dotenv(folder)
    address = Config.from_environ(read(folder), folder).redis
    assert address.host == "127.0.0.1"
    assert address.port not in (busy, REDIS_PORT)
    said = capsys.readouterr().out
    assert f"Port {busy} is in use" in said
    assert str(address.port) in said


def test_where_it_is_free_nothing_is_said(folder: Path, free: int, capsys: pytest.CaptureFixture[str]) -> None:
    write_dotenv(folder)
    assert capsys.readouterr().out == ""
