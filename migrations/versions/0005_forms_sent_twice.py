"""A form that is sent twice is one post."""

import sqlalchemy as sa
from alembic import op

from migrations.online import add_columns, create_index

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_columns("posts", sa.Column("sent_as", sa.String(64)))
    create_index("uq_posts_sent_as", "posts", ["sent_as"], unique=True)


def downgrade() -> None:
    op.drop_index("uq_posts_sent_as", "posts")
    with op.batch_alter_table("posts", table_kwargs={"sqlite_autoincrement": True}) as posts:
        posts.drop_column("sent_as")
