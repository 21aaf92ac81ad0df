"""Loops for tests of what runs on one."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

SLOW = 0.25  # s a step may take on a machine where other tests run; asyncio's own limit is 0.1

OLD_SERVER: dict[str, Any] = {"rename-command": 'HELLO ""'}  # a Valkey that knows as little of RESP3 as Redis 5
Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(autouse=True)
def quick_proofs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a front that has just started keep copies after 25 ms instead of 250."""
    monkeypatch.setattr("app.front.local_cache.PROOF_INTERVAL", 0.1)


@pytest.fixture(params=["asyncio in debug mode", "uvloop"])
def run(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Run]:
    """Give a function that runs a test on a loop; in debug mode nothing may hold that up."""

    def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        debug = request.param != "uvloop"
        with asyncio.Runner(debug=debug, loop_factory=None if debug else uvloop.new_event_loop) as runner:
            runner.get_loop().slow_callback_duration = SLOW
            runner.run(test())

    yield on_a_loop
    assert "Executing" not in caplog.text
    assert "never retrieved" not in caplog.text
