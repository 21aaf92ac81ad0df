"""`flask release`: what a deployment does once before the new version serves, the `release` line of the Procfile."""

import click
from flask.cli import with_appcontext
from flask_migrate import upgrade

from app.cli.local import stay_if_local


@click.command()
@with_appcontext
def release() -> None:
    """Migrate the database."""
    upgrade()
    stay_if_local()
