"""The names of deleted accounts stay reserved."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("former_names", sa.Column("digest", sa.String(64), primary_key=True))


def downgrade() -> None:
    op.drop_table("former_names")
