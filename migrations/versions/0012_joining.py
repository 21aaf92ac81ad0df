"""Members invite others, and people ask to join."""

import sqlalchemy as sa
from alembic import op

from migrations.online import add_columns

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    add_columns("users", sa.Column("invited_by", sa.BigInteger()))
    op.create_table(
        "invitations",
        sa.Column("id", ID, primary_key=True),
        sa.Column("made_by", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("most_uses", sa.Integer(), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("revoked_at", MOMENT),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_invitations_made_by_id", "invitations", ["made_by", "id"])
    op.create_table(
        "applicants",
        sa.Column("id", ID, primary_key=True),
        sa.Column("name", sa.String(30), nullable=False),
        sa.Column("name_key", sa.String(30), nullable=False, unique=True),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("why", sa.String(200), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("applicants")
    op.drop_table("invitations")
    with op.batch_alter_table("users", table_kwargs={"sqlite_autoincrement": True}) as users:
        users.drop_column("invited_by")
