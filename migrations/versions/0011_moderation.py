"""People report posts and each other; moderators decide, and a log says what; pages of the site's own; pinned posts."""

import sqlalchemy as sa
from alembic import op

from migrations.online import add_columns

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)
# The log can only grow, whatever a bug or a hand at the database tries. (Rebuilding the table on SQLite would drop its
# triggers: create them again.)
SQLITE = tuple(
    f"""CREATE TRIGGER moderation_log_no_{event.lower()} BEFORE {event} ON moderation_log BEGIN
        SELECT RAISE(ABORT, 'the moderation log can only grow');
    END"""
    for event in ("UPDATE", "DELETE")
)
POSTGRESQL = (
    """CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the moderation log can only grow';
    END
    $$""",
    """CREATE TRIGGER moderation_log_no_change BEFORE UPDATE OR DELETE ON moderation_log
        FOR EACH ROW EXECUTE FUNCTION refuse_change()""",
)


def upgrade() -> None:
    add_columns(
        "users",
        sa.Column("suspended_until", MOMENT),
        sa.Column("suspension_reason", sa.String(500), nullable=False, server_default=sa.text("''")),
        sa.Column("pinned_post_id", sa.BigInteger()),
    )
    add_columns("notifications", sa.Column("note", sa.Text()))
    op.create_table(
        "moderators",
        sa.Column("user_id", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("since", MOMENT, nullable=False),
    )
    op.create_table(
        "reports",
        sa.Column("id", ID, primary_key=True),
        sa.Column("reporter_id", ID, sa.ForeignKey("users.id", ondelete="SET NULL")),
        sa.Column("user_id", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("post_id", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("decided_at", MOMENT),
        sa.Column("decided_by", sa.BigInteger()),
        sa.Column("decision", sa.String(20)),
        sqlite_autoincrement=True,
    )
    key = ["reporter_id", "user_id", "post_id"]
    op.create_index("uq_reports_reporter_id_user_id_post_id", "reports", key, unique=True)
    op.create_index("ix_reports_user_id", "reports", ["user_id"])
    op.create_index("ix_reports_decided_at_id", "reports", ["decided_at", "id"])
    op.create_table(
        "moderation_log",
        sa.Column("id", ID, primary_key=True),
        sa.Column("moderator_id", sa.BigInteger()),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("user_id", sa.BigInteger()),
        sa.Column("post_id", sa.BigInteger()),
        sa.Column("days", sa.Integer()),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_moderation_log_user_id_id", "moderation_log", ["user_id", "id"])
    op.create_table(
        "site_pages",
        sa.Column("name", sa.String(20), primary_key=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("edited_at", MOMENT, nullable=False),
    )
    op.create_table(
        "pinned_posts",
        sa.Column("post_id", ID, sa.ForeignKey("posts.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("pinned_at", MOMENT, nullable=False),
    )
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)


def downgrade() -> None:
    for table in ("pinned_posts", "site_pages", "moderation_log", "reports", "moderators"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_change()")
    with op.batch_alter_table("notifications", table_kwargs={"sqlite_autoincrement": True}) as notifications:
        notifications.drop_column("note")
    with op.batch_alter_table("users", table_kwargs={"sqlite_autoincrement": True}) as users:
        for name in ("suspended_until", "suspension_reason", "pinned_post_id"):
            users.drop_column(name)
