"""The full-text index of the versions: FTS5 in SQLite, kept by triggers; a tsvector in PostgreSQL, which keeps it by itself."""
from alembic import op

revision = "0002"
down_revision = "0001"
COLUMNS = ("name", "task", "words", "card")
"""Of versions, in the order of their weights in `tfgpt.store.search`."""


def upgrade():
    """Make it, of the versions that are there too."""
    if op.get_bind().dialect.name == "sqlite":
        _fts5()
    else:
        _tsvector()


def _fts5():
    names, new, old = ", ".join(COLUMNS), ", ".join(f"new.{name}" for name in COLUMNS), ", ".join(f"old.{name}" for name in COLUMNS)
    op.execute(f"CREATE VIRTUAL TABLE version_words USING fts5({names}, content='versions', content_rowid='id', prefix='2 3', "
               "tokenize='unicode61 remove_diacritics 0')")
    op.execute(f"CREATE TRIGGER version_words_in AFTER INSERT ON versions BEGIN INSERT INTO version_words(rowid, {names}) VALUES (new.id, {new}); END")
    op.execute("CREATE TRIGGER version_words_out AFTER DELETE ON versions BEGIN "
               f"INSERT INTO version_words(version_words, rowid, {names}) VALUES ('delete', old.id, {old}); END")
    op.execute("INSERT INTO version_words(version_words) VALUES ('rebuild')")


def _tsvector():
    def part(name, weight):
        return f"setweight(to_tsvector('simple'::regconfig, regexp_replace({name}, '[^[:alnum:]]+', ' ', 'g')), '{weight}')"

    vector = " || ".join(part(name, weight) for name, weight in zip(COLUMNS, "ABBD"))
    op.execute(f"ALTER TABLE versions ADD COLUMN search_words tsvector GENERATED ALWAYS AS ({vector}) STORED")
    op.execute("CREATE INDEX versions_by_words ON versions USING gin (search_words)")
