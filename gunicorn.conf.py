"""How gunicorn runs Pipit, on Heroku and everywhere else: its settings, its worker, its log.

Every number that has a reason carries it. The classes are here, and not in the app: what gunicorn's master imports its
workers inherit, and of that a reload (SIGHUP) brings back only this file as it is by then.
"""

import importlib.util
import os
import socket
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from gunicorn import SERVER
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.util import http_date
from gunicorn.workers.gthread import ThreadWorker

ROOT = Path(__file__).resolve().parent

# The file, not the package, for the same reason.
spec = importlib.util.spec_from_file_location("pipit_config", ROOT / "app" / "config.py")
assert spec is not None
assert spec.loader is not None
module = sys.modules["pipit_config"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

WEB_PID = module.INSTANCE / "web.pid"
watched = "PROCFILE" in os.environ  # so .env was read: this is a laptop, and a watcher may run beside us

settings = module.Config.from_environ(os.environ)  # what is wrong with it is said here once, not by every worker

wsgi_app = "app:create_app()"
bind = f"0.0.0.0:{settings.port}"
workers = settings.workers
threads = settings.threads
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # a heartbeat must not wait for a disk
keepalive = 100  # s; longer than the 90 of Heroku's router, so that it hangs up first
timeout = 30  # s; the router gives up on a request then
graceful_timeout = 25  # s; a dyno gets 30 from SIGTERM to SIGKILL
control_socket_disable = True

# Who may say X-Forwarded-*: nobody here. Pipit itself counts the proxies (TRUSTED_PROXIES), for all of them alike.
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}

errorlog = "-"


class PipitWorker(ThreadWorker):
    """gunicorn's threaded worker (gthread), which has Pipit answer a look at a cached page early (app/front/early.py).

    That takes gunicorn half as long as making a WSGI request of it. What isn't answered so goes gunicorn's own way, as
    everything does for an application that has no early answers.
    """

    def load_wsgi(self) -> None:
        """Load the application."""
        super().load_wsgi()
        self.early = getattr(self.wsgi, "extensions", {}).get("early_answers")
        self.keeps_connections = bool(self.cfg.keepalive)  # gunicorn takes a while to look up a setting

    def handle_request(self, req: Any, conn: Any) -> bool:
        """Answer a request; return whether the connection stays open."""
        stays_open = self._answer_early(req, conn)
        return bool(super().handle_request(req, conn)) if stays_open is None else stays_open

    def _answer_early(self, req: Any, conn: Any) -> bool | None:
        """Answer a plain look at a page; return whether the connection stays open, or None if that can't be done."""
        if self.early is None or req.path not in self.early.paths or req.version != (1, 1) or self._may_close():
            return None
        headers = {f"HTTP_{name.replace('-', '_')}": value for name, value in req.headers}
        if len(headers) < len(req.headers) or "HTTP_EXPECT" in headers:  # to be joined; to be told 100
            return None
        environ = {
            "REQUEST_METHOD": req.method,
            "PATH_INFO": req.path,  # as it is: a known path has nothing to unquote
            "QUERY_STRING": req.query,
            "wsgi.url_scheme": req.scheme,
            **headers,
        }
        answer = self.early.answer(environ, req.body)
        if answer is None:
            return None
        status, fields, body = answer
        stays_open = not req.should_close()
        connection = "keep-alive" if stays_open else "close"
        own = ("Server", SERVER), ("Date", _http_date(int(time.time()))), ("Connection", connection)
        head = "".join([f"{name}: {value}\r\n" for name, value in (*own, *fields)])
        conn.sock.sendall(f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body)
        self.nr += 1
        return stays_open

    def _may_close(self) -> bool:
        """Return whether this worker closes connections now; what else that takes is gunicorn's affair."""
        return (
            not self.keeps_connections
            or not self.alive
            or self.nr + 1 >= self.max_requests
            or len(self.keepalived_conns) >= self.max_keepalived
        )


worker_class = PipitWorker


@lru_cache(maxsize=1)  # it is the same for a second
def _http_date(moment: int) -> str:
    return str(http_date(moment))


class Logger(GunicornLogger):
    """gunicorn's log of its own affairs, without its line a request: app/front/log.py writes a better one.

    Heroku asks for that line in GUNICORN_CMD_ARGS, which goes before this file; it would show query strings.
    """

    def access(self, *_request: Any) -> None:
        """Write nothing."""


logger_class = Logger


def on_starting(_server: Any) -> None:
    """Say it in one line if the port is taken; gunicorn itself would try five times first."""
    if "GUNICORN_PID" in os.environ:  # a running gunicorn hands its socket on (SIGUSR2)
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", settings.port))
        except OSError as error:
            another = settings.port + 1
            sys.exit(f"Port {settings.port} can't be used ({error.strerror}). Choose another: PORT={another} make run")


def when_ready(server: Any) -> None:
    """Say where Pipit is, and leave the process id where `flask local watch` finds it."""
    if not settings.on_heroku:
        print(f"{settings.site_name} is ready at http://localhost:{settings.port}", flush=True)
    if watched:
        WEB_PID.write_text(str(server.pid))


def worker_exit(_server: Any, worker: Any) -> None:
    """On a laptop, let a worker that can't start because of a half-saved file be started again, not end everything."""
    if watched and not worker.booted:
        os._exit(1)  # not gunicorn's own "failed to boot", after which it gives up


def on_exit(server: Any) -> None:
    """Take the process id away again, unless another process has put its own there."""
    if watched and WEB_PID.exists() and WEB_PID.read_text() == str(server.pid):
        WEB_PID.unlink()
