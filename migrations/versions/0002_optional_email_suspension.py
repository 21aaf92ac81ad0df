"""An e-mail address is optional; an account can be suspended; a password has a version."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

EMAIL = sa.String(254)
# SQLite can't change a column, so the table is rebuilt. It must still never use an id twice.
KEEP_IDS = {"table_kwargs": {"sqlite_autoincrement": True}}


def upgrade() -> None:
    with op.batch_alter_table("users", **KEEP_IDS) as users:
        users.alter_column("email", existing_type=EMAIL, nullable=True)
        users.add_column(sa.Column("password_version", sa.Integer(), nullable=False, server_default="0"))
        users.add_column(sa.Column("suspended_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.execute("UPDATE users SET email = name_key || '@unknown.invalid' WHERE email IS NULL")
    with op.batch_alter_table("users", **KEEP_IDS) as users:
        users.drop_column("suspended_at")
        users.drop_column("password_version")
        users.alter_column("email", existing_type=EMAIL, nullable=False)
