"""How gunicorn runs Pipit, on Heroku and everywhere else: its settings, its worker, its log.

The classes are defined here, not in the app: workers inherit the modules that the master has imported, and a reload
(SIGHUP) re-reads only this file.

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

settings = module.Config.load()  # reports errors once, not in every worker

wsgi_app = "app:create_front()"
bind = f"0.0.0.0:{settings.port}"
workers = settings.workers
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # so that a heartbeat never waits for a disk
timeout = 30  # s without a heartbeat before the master kills a worker; Heroku's router waits as long
graceful_timeout = 25  # s; a dyno gets 30 from SIGTERM to SIGKILL
control_socket_disable = True

# Files that `gunicorn --reload` watches besides the loaded modules.
reload_extra_files = [str(ROOT / "app" / kind) for kind in ("**/*.py", "templates/**/*.html", "static/*")]

# The app, not gunicorn, reads X-Forwarded-* (TRUSTED_PROXIES): so it works the same on every server.
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}

errorlog = "-"


class Worker(UvicornWorker):
    """uvicorn's worker for gunicorn, with the front's own protocol (app/front/protocol.py)."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": "app.front.protocol:FrontProtocol",  # by name, so that a worker imports the newest after a reload
        "interface": "asgi3",
        "lifespan": "on",
        "ws": "none",
        "proxy_headers": False,  # the app reads X-Forwarded-*
        "server_header": False,
        "access_log": False,
        "timeout_graceful_shutdown": 20,  # s; shorter than graceful_timeout
        "timeout_notify": 1,  # s from one callback_notify() to the next
    }

    reloader: Any  # gunicorn's; watches files under --reload
    watcher: Any
    serves = False  # yet

    def init_signals(self) -> None:
        """Exit normally on SIGTERM and SIGINT, once uvicorn has finished its requests."""
        super().init_signals()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.exit_once)

    def exit_once(self, *_signal: Any) -> None:
        """Exit; a second signal must not interrupt that with a traceback.

        sys.exit() raises an exception. While Pipit is loaded, that may happen in a finalizer or in the callback of a
        weak reference, where Python ignores exceptions: the worker would go on, and be killed half a minute later.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if not self.serves:
            os._exit(0)
        sys.exit(0)

    def init_process(self) -> None:
        """Load Pipit and serve it. Under --reload, if it can't be loaded, wait until a file changes."""
        try:
            super().init_process()
        except (Exception, SystemExit) as error:  # ConfigError exits with a status
            if not self.cfg.reload or (isinstance(error, SystemExit) and not error.code):
                raise
            self.log.exception("Pipit can't start. It will try again when you save a change.")
            self.watcher.join()

    def load_wsgi(self) -> None:
        """Load Pipit. Under --reload, watch its files before that: gunicorn would miss a change in the meantime."""
        if self.reloader:
            self.watcher, self.reloader = self.reloader, None  # so that gunicorn doesn't start it again
            self.watcher.start()
        self.wsgi = self.app.wsgi()

    def run(self) -> None:
        """Prepare this process, and serve. Any earlier, a signal to stop would be lost."""
        from app.front.process import prepare

        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # gunicorn already logs starts and stops
        prepare(self.sockets)
        super().run()

    async def callback_notify(self) -> None:
        """Send the master a heartbeat; stop if the master is gone, as gunicorn's own workers do."""
        self.serves = True
        self.notify()
        if os.getppid() != self.ppid:
            os.kill(os.getpid(), signal.SIGTERM)


worker_class = Worker


class Logger(GunicornLogger):
    """gunicorn's log without its line for each request, which app/front/log.py writes.

    Heroku turns gunicorn's line on in GUNICORN_CMD_ARGS, which overrides this file. That line has query strings.
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
    """Have the first worker print when Pipit is ready; not on Heroku."""
    address = worker.sockets[0].getsockname()
    if worker.age == 1 and not settings.on_heroku and isinstance(address, tuple):  # not a Unix socket
        from app.front.announcement import announce

        threading.Thread(target=announce, args=(settings, address[1]), daemon=True).start()


def worker_int(_worker: Any) -> None:
    """Stop this worker gracefully, so that a new one loads the changed files. Only --reload calls this."""
    os.kill(os.getpid(), signal.SIGTERM)
