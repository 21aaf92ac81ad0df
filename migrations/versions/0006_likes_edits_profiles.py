"""People like posts, edit them, and say who they are."""

import sqlalchemy as sa
from alembic import op

from migrations.online import add_columns

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
PROFILE = {"display_name": 50, "display_key": 100, "about": 200, "link": 200}  # characters


def upgrade() -> None:
    add_columns("posts", sa.Column("edited_at", sa.DateTime(timezone=True)))
    empty = {"nullable": False, "server_default": sa.text("''")}
    add_columns("users", *(sa.Column(name, sa.String(length), **empty) for name, length in PROFILE.items()))
    op.create_table(
        "likes",
        sa.Column("id", ID, primary_key=True),
        sa.Column("user_id", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("post_id", ID, sa.ForeignKey("posts.id", ondelete="CASCADE"), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("uq_likes_user_id_post_id", "likes", ["user_id", "post_id"], unique=True)
    op.create_index("ix_likes_user_id_id", "likes", ["user_id", "id"])
    op.create_index("ix_likes_post_id_id", "likes", ["post_id", "id"])


def downgrade() -> None:
    op.drop_table("likes")
    with op.batch_alter_table("users", table_kwargs={"sqlite_autoincrement": True}) as users:
        for name in PROFILE:
            users.drop_column(name)
    with op.batch_alter_table("posts", table_kwargs={"sqlite_autoincrement": True}) as posts:
        posts.drop_column("edited_at")
