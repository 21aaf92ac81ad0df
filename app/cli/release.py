"""`flask release`: what a deployment does once, before the new version serves: the `release` line of the Procfile."""

import sys

import click
from flask import current_app
from flask.cli import with_appcontext
from flask_migrate import upgrade

from app.cli.local import stay_if_local
from app.cli.post import index_older
from app.redis_client import StoreUnavailableError, current_store


@click.command()
@with_appcontext
def release() -> None:
    """Check Redis, migrate the database, index older posts for search, and say what was done."""
    _check_redis()
    migrated = _migrate()
    click.echo(f"Database: migrated to {migrated[-1]}." if migrated else "Database: nothing to migrate.")
    index_older()
    stay_if_local()


def _check_redis() -> None:
    """End the release if Redis will refuse the new version, too; one that is merely away must not hold up a repair."""
    store = current_store()
    try:
        store.check()
    except StoreUnavailableError as error:
        trouble = store.trouble(error)
        if trouble and trouble.lasting:
            sys.exit(f"Release stopped; nothing was changed. Redis can't be used: {store.explain(error)}")
        click.echo(f"Redis can't be used now: {store.explain(error)}")
    else:
        click.echo("Redis: takes writes.")


def _migrate() -> list[str]:
    """Migrate the database; return the migrations that were applied, in their order."""
    applied: list[str] = []
    extension = current_app.extensions["migrate"]
    extension.configure_args["on_version_apply"] = lambda step, **_more: applied.append(step.up_revision_id)
    upgrade()
    return applied
