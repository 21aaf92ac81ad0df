"""People have pictures of themselves."""

import sqlalchemy as sa
from alembic import op

from migrations.online import add_columns

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    add_columns("users", sa.Column("picture", sa.String(32), nullable=False, server_default=sa.text("''")))
    op.create_table(
        "pictures",
        sa.Column("user_id", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("webp", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_pictures_digest", "pictures", ["digest"])


def downgrade() -> None:
    op.drop_table("pictures")
    with op.batch_alter_table("users", table_kwargs={"sqlite_autoincrement": True}) as users:
        users.drop_column("picture")
