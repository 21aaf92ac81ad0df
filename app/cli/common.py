"""What the commands share: options, and how they end when something can't be done."""

from typing import Any

import click
from flask.cli import AppGroup, ScriptInfo
from sqlalchemy.exc import SQLAlchemyError

from app.extensions import sql_outage
from app.models import User
from app.models.moderation import NotAllowedError
from app.redis_client import Store, StoreUnavailableError

REASON = click.option("--reason", default="", help="Why; it is kept in the log, and the person concerned reads it.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line, for scripts.")


class Command(click.Command):
    """A command that ends with one line that says why, if Redis or the database can't be used."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except NotAllowedError as error:
            raise click.ClickException(str(error)) from None
        except StoreUnavailableError as error:
            store: Store = ctx.ensure_object(ScriptInfo).load_app().extensions["store"]
            raise click.ClickException(f"Redis can't be used: {store.explain(error)}") from None
        except SQLAlchemyError as error:
            with ctx.ensure_object(ScriptInfo).load_app().app_context():
                outage = sql_outage(error)
            if outage is None:
                raise
            raise click.ClickException(f"The database {outage}") from None


class Group(Command, AppGroup):
    """A group of such commands."""


def user_named(name: str) -> User:
    """Return the user with that name, with or without an @; end the command with a message if there is none."""
    user = User.named(name.removeprefix("@"))
    if user is None:
        raise click.ClickException(f"There is no user named {name!r}. `flask user list` shows who there is.")
    return user
