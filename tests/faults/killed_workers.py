"""A `flask worker` that is killed at some moment of its work, and another one in its place, until the work is done."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping

from tests import servers

# Starts a worker for each line it reads, and prints its process id; forked, because to import Pipit takes a second. The
# worker does what `flask worker` does, but a claim whose process has died is free sooner.
WORKERS = """
import os, sys
from datetime import timedelta
from importlib import import_module
import_module(sys.argv[1]).CLAIM = timedelta(seconds=1)
from app import background, create_app
background.WORKER_POLL = 0.1
app = create_app()
for _ in sys.stdin:
    child = os.fork()
    if not child:
        with app.app_context():
            background.current_background().run_worker()
    print(child, file=sys.stderr, flush=True)  # the log goes to stdout
    os.waitpid(child, 0)
"""


def work_and_kill(
    module: str, environ: Mapping[str, str], is_over: Callable[[], bool], until_killed: Callable[[], None]
) -> None:
    """Run one worker after the other until the work is over.

    module: has the CLAIM on the work. environ: the settings. until_killed: returns when the worker is to be killed.
    """
    with subprocess.Popen(
        [sys.executable, "-c", WORKERS, module],
        cwd=servers.ROOT,
        env=servers.clean_environ() | dict(environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as workers:
        assert workers.stdin
        assert workers.stderr
        while not is_over():
            print("another", file=workers.stdin, flush=True)
            worker = int(workers.stderr.readline())
            try:
                until_killed()
            finally:
                os.kill(worker, signal.SIGKILL)
