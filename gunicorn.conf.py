"""How gunicorn runs Pipit, on Heroku and everywhere else: its settings, its worker, its log.

Every number that has a reason carries it. The classes are defined here, not in the app: workers inherit whatever the
master has imported, and a reload (SIGHUP) re-reads only this file.

Under another WSGI server, serve app:create_app(). Under another ASGI server, serve app:create_front(); then the
deadlines and limits of app/front/protocol.py are missing.
"""

import importlib.util
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, ClassVar

from gunicorn.glogging import Logger as GunicornLogger
from uvicorn_worker import UvicornWorker

ROOT = Path(__file__).resolve().parent

# Load config.py by its path: importing the package would keep the old code across reloads.
spec = importlib.util.spec_from_file_location("pipit_config", ROOT / "app" / "config.py")
assert spec is not None
assert spec.loader is not None
module = sys.modules["pipit_config"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

WEB_PID = module.INSTANCE / "web.pid"
watched = "PROCFILE" in os.environ  # set only by .env, so this is a laptop, and a watcher may run beside us

settings = module.Config.load()  # reports errors once, here, not in every worker

wsgi_app = "app:create_front()"
bind = f"0.0.0.0:{settings.port}"
workers = settings.workers
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # a heartbeat must not wait for a disk
timeout = 30  # s without a heartbeat before the master kills a worker; by then the router has given up too
graceful_timeout = 25  # s; a dyno gets 30 from SIGTERM to SIGKILL
control_socket_disable = True

# gunicorn must not act on X-Forwarded-*: the app does, for every server alike (TRUSTED_PROXIES).
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}

errorlog = "-"


class Worker(UvicornWorker):
    """uvicorn's worker for gunicorn, with the front's own protocol (app/front/protocol.py)."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": "app.front.protocol:FrontProtocol",  # by name: a worker imports it, so a reload brings the new one
        "interface": "asgi3",
        "lifespan": "on",
        "ws": "none",
        "proxy_headers": False,  # Pipit counts the proxies
        "server_header": False,
        "access_log": False,
        "timeout_graceful_shutdown": 20,  # s; shorter than graceful_timeout
        "timeout_notify": 1,  # s from one callback_notify() to the next
    }

    def init_signals(self) -> None:
        """Have a worker that was asked to stop end in the ordinary way, when uvicorn has finished its requests."""
        super().init_signals()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(0))

    def run(self) -> None:
        """Prepare this process for its visitors, and serve them. Any earlier a signal to stop would be lost."""
        from app.front.process import prepare

        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # gunicorn already logs starts and stops
        prepare(self.sockets)
        super().run()

    async def callback_notify(self) -> None:
        """Tell the master that this worker is alive; end if it was killed. gunicorn's own workers do the same."""
        self.notify()
        if os.getppid() != self.ppid:
            os.kill(os.getpid(), signal.SIGTERM)


worker_class = Worker


class Logger(GunicornLogger):
    """gunicorn's log of its own affairs, without its line for each request: app/front/log.py writes a better one.

    Heroku asks for that line in GUNICORN_CMD_ARGS, which goes before this file; it would show query strings.
    """

    def access(self, *_request: Any) -> None:
        """Write nothing."""


logger_class = Logger


def on_starting(_server: Any) -> None:
    """Exit with one clear line if the port is taken; gunicorn would retry five times."""
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
    """On a laptop, restart a worker that failed on a half-saved file instead of shutting everything down."""
    if watched and not worker.booted:
        os._exit(1)  # not gunicorn's own "failed to boot", after which it gives up


def on_exit(server: Any) -> None:
    """Remove web.pid, unless it is another process's by now."""
    if watched and WEB_PID.exists() and WEB_PID.read_text() == str(server.pid):
        WEB_PID.unlink()
