"""Starting what is measured: alone on one core, with the settings that Pipit itself runs with; and ending it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import wire
from bench.machine import EXPRESS, pinned
from bench.wire import Answer
from tests.servers import ROOT, clean_environ, free_port

GUNICORN = (sys.executable, "-m", "gunicorn")  # with gunicorn.conf.py, found in the working directory
NGINX_ADDS = {"server", "date", "content-length", "content-type", "etag", "connection"}  # of its own
NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
  types {{ text/html html; }}
  charset utf-8;
  access_log {folder}/access.log;
  sendfile on;
  open_file_cache max=10;
  keepalive_requests 100000000;
  server {{
    listen 127.0.0.1:PORT;
    root {folder};
    {headers}
  }}
}}
"""
LOOK_EVERY = 0.002  # s, for a start's first answer


@dataclass(frozen=True)
class Server:
    """A program that answers GET /, and how it is started."""

    command: tuple[str, ...]
    environ: dict[str, str]
    folder: Path = ROOT


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    process: subprocess.Popen[bytes]
    port: int
    seconds_to_answer: float  # from the start of the process to its first answer

    @property
    def worker(self) -> int:
        """Return the process id of gunicorn's only worker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if len(children) != 1:
            raise RuntimeError(f"gunicorn has {len(children)} workers, not one")
        return int(children[0])


def gunicorn(application: str | None, environ: dict[str, str]) -> Server:
    """Return a server that runs under gunicorn as Pipit does; the application is Pipit itself if None is named."""
    return Server((*GUNICORN, *([application] if application else [])), environ)


def gthread(application: str, environ: dict[str, str]) -> Server:
    """Return a WSGI server as most people run it, and as Pipit did before its front: gunicorn's threads."""
    return gunicorn(
        application, {**environ, "GUNICORN_CMD_ARGS": "--worker-class gthread --threads 5 --keep-alive 100"}
    )


def nginx(answer: Answer, scratch: Path) -> Server:
    """Return an nginx that sends an answer's body from a file, with the answer's headers."""
    folder = scratch / "nginx"
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_bytes(answer.body)
    headers = [f'add_header {name} "{value}";' for name, value in answer.headers if name.lower() not in NGINX_ADDS]
    conf = folder / "nginx.conf"
    conf.with_suffix(".template").write_text(NGINX.format(folder=folder, headers="\n".join(headers)))
    start = f'sed "s/PORT/$PORT/" {conf.with_suffix(".template")} > {conf} && exec nginx -c {conf}'
    return Server(("sh", "-c", start), {})


def node(environ: dict[str, str]) -> Server:
    return Server(("node", "server.js"), {**environ, "NODE_ENV": "production"}, EXPRESS)


@contextmanager
def running(server: Server, core: int | None, scratch: Path) -> Iterator[Running]:
    """Start a server on a core, and wait for its first answer to GET /. What it logs goes to a file.

    core: None for any core.
    """
    port = free_port()
    environ = clean_environ() | {"WEB_CONCURRENCY": "1", **server.environ, "PORT": str(port)}
    with (scratch / "server.log").open("wb") as log:
        began = time.perf_counter()
        command = server.command if core is None else pinned(core, *server.command)
        process = subprocess.Popen(command, cwd=server.folder, env=environ, stdout=log, stderr=log)
        try:
            yield Running(process, port, _first_answer(process, port, scratch / "server.log") - began)
        finally:
            process.terminate()
            process.wait(40)  # s; gunicorn lets a request finish for 25


def _first_answer(process: subprocess.Popen[bytes], port: int, log: Path) -> float:
    while process.poll() is None:
        try:
            answer = wire.get(port, "/")
        except OSError:
            time.sleep(LOOK_EVERY)
            continue
        if answer.status not in (200, 304):
            break
        return time.perf_counter()
    raise RuntimeError(f"a server did not start:\n{log.read_text()}")


def resident_bytes(process_id: int) -> int:
    """Return the memory of a process that is in RAM, what it shares with others included."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no process {process_id}")


def cpu_seconds(process_id: int) -> float:
    """Return the CPU time that all threads of a process have used."""
    return time.clock_gettime((~process_id << 3) | 2)  # as clock_getcpuclockid() of glibc says it


@contextmanager
def script(name: str, *arguments: str, environ: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run one of bench/scripts/ with the Pipit that is in a folder; its input and output are lines."""
    command = [sys.executable, "-P", str(ROOT / "bench" / "scripts" / name), *arguments]
    variables = clean_environ() | environ | {"PYTHONPATH": str(folder)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, env=variables, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def run_flask(environ: dict[str, str], *arguments: str) -> None:
    """Run a flask command of Pipit's."""
    command = [sys.executable, "-m", "flask", *arguments]
    subprocess.run(command, cwd=ROOT, env=clean_environ() | environ, check=True, stdout=subprocess.DEVNULL)
