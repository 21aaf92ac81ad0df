"""Accounts, posts with their hashtags, and who follows whom."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", ID, primary_key=True),
        sa.Column("name", sa.String(30), nullable=False),
        sa.Column("name_key", sa.String(30), nullable=False, unique=True),
        sa.Column("email", sa.String(254), nullable=False, unique=True),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "follows",
        sa.Column("id", ID, primary_key=True),
        sa.Column("follower_id", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("followed_id", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("uq_follows_follower_id_followed_id", "follows", ["follower_id", "followed_id"], unique=True)
    op.create_index("ix_follows_follower_id_id", "follows", ["follower_id", "id"])
    op.create_index("ix_follows_followed_id_id", "follows", ["followed_id", "id"])
    op.create_table(
        "posts",
        sa.Column("id", ID, primary_key=True),
        sa.Column("author_id", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_posts_author_id_id", "posts", ["author_id", "id"])
    op.create_table(
        "post_tags",
        sa.Column("tag", sa.String(100), primary_key=True),
        sa.Column("post_id", ID, sa.ForeignKey("posts.id", ondelete="CASCADE"), primary_key=True),
    )
    op.create_index("ix_post_tags_post_id", "post_tags", ["post_id"])


def downgrade() -> None:
    for table in ("post_tags", "posts", "follows", "users"):
        op.drop_table(table)
