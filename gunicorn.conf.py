"""How gunicorn runs Pipit, on Heroku and everywhere else. Every number that has a reason carries it."""

import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger as GunicornLogger

ROOT = Path(__file__).resolve().parent

# The file, not the package: what gunicorn's master has imported its workers inherit, and a reload (SIGHUP) would bring
# them back with the code they had.
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
worker_class = "gthread"
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # a heartbeat must not wait for a disk
keepalive = 100  # s; longer than the 90 of Heroku's router, so that it hangs up first
timeout = 30  # s; the router gives up on a request then
graceful_timeout = 25  # s; a dyno gets 30 from SIGTERM to SIGKILL
control_socket_disable = True

# Who may say X-Forwarded-*: nobody here. Pipit itself counts the proxies (TRUSTED_PROXIES), for all of them alike.
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}

errorlog = "-"


class Logger(GunicornLogger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's log of its own affairs, without its line a request: app/web/request_log.py writes a better one.

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
