"""Accounts and posts can be counted by day."""

from alembic import op

from migrations.online import create_index

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_index("ix_users_created_at", "users", ["created_at"])
    create_index("ix_posts_created_at_id", "posts", ["created_at", "id"])


def downgrade() -> None:
    op.drop_index("ix_posts_created_at_id", "posts")
    op.drop_index("ix_users_created_at", "users")
