"""wrk: so many connections that ask again as soon as they are answered, and what came of it."""

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.machine import pinned

CONNECTIONS = 32  # more than the threads, so that a worker is never without work
SCRIPTS = Path(__file__).resolve().parent / "wrk"
SLICE = 5  # s


@dataclass(frozen=True)
class Load:
    """What one run came to."""

    requests: int
    seconds: float
    bytes_each: float  # of an answer, headers included
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Return requests a second."""
        return self.requests / self.seconds


class BadAnswersError(Exception):
    """Some answers were refusals, or none came: what was measured is not what was meant."""


def run(core: int, port: int, path: str, headers: dict[str, str], seconds: float) -> Load:
    """Ask for one page for so many seconds. Raises BadAnswersError."""
    fields = [argument for name, value in headers.items() for argument in ("--header", f"{name}: {value}")]
    return _wrk(core, "report.lua", f"{max(1, round(seconds))}s", [*fields, f"http://127.0.0.1:{port}{path}"])


def run_sequence(core: int, port: int, file: Path, seconds: float, start: int = 0) -> Load:
    """Ask for the pages in a file of sequence_file(), beginning after `start` of them. Raises BadAnswersError."""
    address = f"http://127.0.0.1:{port}/"
    return _wrk(core, "sequence.lua", f"{max(1, round(seconds))}s", [address, "--", str(file), str(start)])


def run_through(core: int, port: int, file: Path, count: int, start: int = 0) -> None:
    """Ask `count` times or some more, in the order of a file of sequence_file(). Raises BadAnswersError."""
    answered = 0
    while answered < count:  # wrk can't be told a number, only a time
        answered += run_sequence(core, port, file, SLICE, start + answered).requests


def sequence_file(path: Path, requests: Iterable[tuple[str, str]]) -> Path:
    """Write a file of requests, each a path and the cookie to send, for run_sequence()."""
    path.write_text("".join(f"{where} {cookie}\n" for where, cookie in requests))
    return path


def _wrk(core: int, script: str, duration: str, arguments: list[str]) -> Load:
    options = ["--threads", "1", "--connections", str(CONNECTIONS), "--duration", duration, "--latency"]
    options += ["--timeout", "10s"]  # of an answer; for pages that are built on a busy machine
    command = pinned(core, "wrk", *options, "--script", str(SCRIPTS / script), *arguments)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    came = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    if came["refused"] or came["broken"] or not came["requests"]:
        raise BadAnswersError(f"{came['requests']} answers, {came['refused']} refused, {came['broken']} broken")
    return Load(
        requests=came["requests"],
        seconds=came["us"] / 1e6,
        bytes_each=came["bytes"] / came["requests"],
        p50_ms=came["p50_us"] / 1000,
        p99_ms=came["p99_us"] / 1000,
    )
