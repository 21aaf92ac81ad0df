"""What Alembic runs for `flask db ...`: every migration in one transaction, on the app's own database."""

from alembic import context
from flask import current_app

target = current_app.extensions["migrate"].db


def run_migrations() -> None:
    """Run the migrations that `flask db` asked for."""
    options = dict(current_app.extensions["migrate"].configure_args)
    with target.engine.connect() as connection:
        context.configure(connection=connection, target_metadata=target.metadata, **options)
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("Migrations run against a database; --sql is not supported.")
run_migrations()
