"""A post can reply to another one."""

import sqlalchemy as sa
from alembic import op

from migrations.online import add_columns, create_index

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_columns("posts", *(sa.Column(name, sa.BigInteger()) for name in ("answered_id", "reply_to_id", "addressee_id")))
    create_index("ix_posts_reply_to_id", "posts", ["reply_to_id"])


def downgrade() -> None:
    op.drop_index("ix_posts_reply_to_id", "posts")
    with op.batch_alter_table("posts", table_kwargs={"sqlite_autoincrement": True}) as posts:
        posts.drop_column("addressee_id")
        posts.drop_column("reply_to_id")
        posts.drop_column("answered_id")
