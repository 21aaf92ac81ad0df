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
import threading
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

settings = module.Config.load()  # reports errors once, here, not in every worker

wsgi_app = "app:create_front()"
bind = f"0.0.0.0:{settings.port}"
workers = settings.workers
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # a heartbeat must not wait for a disk
timeout = 30  # s without a heartbeat before the master kills a worker; by then the router has given up too
graceful_timeout = 25  # s; a dyno gets 30 from SIGTERM to SIGKILL
control_socket_disable = True

# What `gunicorn --reload` looks at, beside the modules that are loaded.
reload_extra_files = [str(ROOT / "app" / kind) for kind in ("**/*.py", "templates/**/*.html", "static/*")]

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

    reloader: Any  # gunicorn's, which watches files under --reload
    watcher: Any

    def init_signals(self) -> None:
        """Have a worker that was asked to stop end in the ordinary way, when uvicorn has finished its requests."""
        super().init_signals()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(0))

    def init_process(self) -> None:
        """Load Pipit and serve it. Under --reload, where it can't be loaded, wait until another change mends that."""
        try:
            super().init_process()
        except (Exception, SystemExit) as error:  # an app that can't start ends with a status, as ConfigError does
            if not self.cfg.reload or (isinstance(error, SystemExit) and not error.code):
                raise
            self.log.exception("Pipit can't start. It will try again when you save a change.")
            self.watcher.join()

    def load_wsgi(self) -> None:
        """Load Pipit. Under --reload, watch its files from before that: gunicorn would miss what is saved meanwhile."""
        if self.reloader:
            self.watcher, self.reloader = self.reloader, None  # so that gunicorn does not start it again
            self.watcher.start()
        self.wsgi = self.app.wsgi()

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
            sys.exit(
                f"Port {settings.port} can't be used ({error.strerror})."
                f" Choose another, such as {settings.port + 1}, with PORT in the environment or in .env."
            )


def post_worker_init(worker: Any) -> None:
    """Have the first worker say when Pipit is ready; on Heroku the platform looks for itself."""
    address = worker.sockets[0].getsockname()
    if worker.age == 1 and not settings.on_heroku and isinstance(address, tuple):  # not a Unix socket
        from app.front.announcement import announce

        threading.Thread(target=announce, args=(settings, address[1]), daemon=True).start()


def worker_int(_worker: Any) -> None:
    """End this worker in good order, for another with the changed files: only --reload calls this."""
    os.kill(os.getpid(), signal.SIGTERM)
