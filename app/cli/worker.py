"""`flask worker`: background work in a process of its own, for a site that has much of it."""

import _thread
import signal

import click
from flask import current_app
from flask.cli import with_appcontext

from app.background import current_background


@click.command()
@with_appcontext
def worker() -> None:
    """Do background work, such as sending mail, until stopped; the web processes leave it to this process."""
    background = current_background()
    for number in (signal.SIGTERM, signal.SIGINT):
        # This thread may hold the locks that stop() takes, so another one calls it; Thread.start() would take one, too.
        signal.signal(number, lambda *_signal: _thread.start_new_thread(background.stop, ()))
    current_app.logger.info("the worker has started")
    background.run_worker()
