"""Posts are found by their words.

This makes an index, empty, and triggers that keep it right from now on, whichever version of Pipit writes. The posts
from before are indexed by `flask release`, some at a time: in a migration, a million of them would block every writer.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SQLITE = (
    # It keeps the text a second time. An index over the text in `posts` breaks when a post is deleted or edited that is
    # not in it yet.
    "CREATE VIRTUAL TABLE post_search USING fts5 (words, tokenize = 'unicode61 remove_diacritics 2')",
    """CREATE TRIGGER post_search_insert AFTER INSERT ON posts BEGIN
        INSERT INTO post_search (rowid, words) VALUES (new.id, new.body);
    END""",
    """CREATE TRIGGER post_search_update AFTER UPDATE OF body ON posts BEGIN
        UPDATE post_search SET words = new.body WHERE rowid = new.id;
    END""",
    """CREATE TRIGGER post_search_delete AFTER DELETE ON posts BEGIN
        DELETE FROM post_search WHERE rowid = old.id;
    END""",
)
POSTGRESQL = (
    # What FTS5's tokenizer does: no accents, no case, and whatever is no letter or digit divides words. PostgreSQL's
    # own parser would keep a URL, a path or an e-mail address as one word. A query's quotation marks have to stay.
    r"""CREATE FUNCTION search_text(written text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
        SELECT regexp_replace(
            regexp_replace(lower(normalize(written, NFD) COLLATE "{collation}"), '[\u0300-\u036f]+', '', 'g'),
            '([^\w"]|_)+', ' ', 'g'
        )
    $$""",
    """CREATE TABLE post_search (
        rowid bigint CONSTRAINT pk_post_search PRIMARY KEY
            CONSTRAINT fk_post_search_rowid REFERENCES posts (id) ON DELETE CASCADE,
        words tsvector NOT NULL
    )""",
    # GIN puts work off, until somebody's post has to do all of it: by default 4 MB, which takes half a second.
    "CREATE INDEX ix_post_search_words ON post_search USING gin (words) WITH (gin_pending_list_limit = 256)",  # kB
    """CREATE FUNCTION index_post() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO post_search (rowid, words) VALUES (NEW.id, to_tsvector('simple', search_text(NEW.body)));
        ELSE
            UPDATE post_search SET words = to_tsvector('simple', search_text(NEW.body)) WHERE rowid = NEW.id;
        END IF;
        RETURN NULL;
    END
    $$""",
    """CREATE TRIGGER post_search AFTER INSERT OR UPDATE OF body ON posts
        FOR EACH ROW EXECUTE FUNCTION index_post()""",
)
# With the locale C, only ASCII has letters. Nearly every PostgreSQL is built with ICU, which knows the others too.
COLLATION = "SELECT coalesce((SELECT collname FROM pg_collation WHERE collname = 'und-x-icu'), 'default')"


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        for statement in SQLITE:
            op.execute(statement)
        return
    collation = connection.exec_driver_sql(COLLATION).scalar()
    for statement in POSTGRESQL:
        op.execute(statement.replace("{collation}", str(collation)))


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for event in ("insert", "update", "delete"):
            op.execute(f"DROP TRIGGER post_search_{event}")
    else:
        op.execute("DROP TRIGGER post_search ON posts")
        op.execute("DROP FUNCTION index_post()")
    op.execute("DROP TABLE post_search")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION search_text(text)")
