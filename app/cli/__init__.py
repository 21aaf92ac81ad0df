"""The flask commands."""

from flask import Flask

from app.cli.doctor import doctor
from app.cli.local import local
from app.cli.mail import mail
from app.cli.post import post
from app.cli.release import release
from app.cli.seed import seed
from app.cli.sessions import sessions
from app.cli.user import user
from app.cli.worker import worker


def init_cli(app: Flask) -> None:
    """Register the commands."""
    for command in (seed, local, release, sessions, user, post, mail, worker, doctor):
        app.cli.add_command(command)
