"""The tables of the catalog, and triggers that keep a published version as it is."""
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
FIXED = ("id", "model_id", "name", "number", "publisher", "published_at", "task", "licence", "base_model", "data_sha256", "recipe_sha256", "content_sha256",
         "size_bytes", "file_count", "loss", "perplexity", "bits_per_byte", "languages", "tags", "words", "figures", "card")  # fmt: skip
REFUSAL = "what is published is never changed"
ALWAYS_FIXED = ("files", "pieces", "labels", "events")
"""Tables whose rows are never changed either."""


def upgrade():
    """Make them."""
    op.create_table(
        "models", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(96), nullable=False, unique=True),
        sa.Column("owner", sa.String(64), nullable=False, index=True), sa.Column("created_at", sa.String(27), nullable=False),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("downloads", "rating_count", "rating_sum")))  # fmt: skip
    _versions()
    op.create_table("labels", _part_of_version(), sa.Column("kind", sa.String(10), primary_key=True), sa.Column("value", sa.String(64), primary_key=True))
    op.create_index("labels_by_value", "labels", ["kind", "value", "version_id"])
    op.create_table("blobs", sa.Column("sha256", sa.String(64), primary_key=True), sa.Column("size_bytes", sa.BigInteger, nullable=False),
                    sa.Column("touched_at", sa.String(27), nullable=False, index=True))
    op.create_table("files", _part_of_version(), sa.Column("path", sa.String(1000), primary_key=True), sa.Column("sha256", sa.String(64), nullable=False),
                    sa.Column("size_bytes", sa.BigInteger, nullable=False))
    op.create_table("pieces", sa.Column("version_id", sa.Integer, primary_key=True), sa.Column("path", sa.String(1000), primary_key=True),
                    sa.Column("number", sa.Integer, primary_key=True),
                    sa.Column("sha256", sa.String(64), sa.ForeignKey("blobs.sha256"), nullable=False, index=True),
                    sa.ForeignKeyConstraint(["version_id", "path"], ["files.version_id", "files.path"]))
    op.create_table("ratings", sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id"), primary_key=True),
                    sa.Column("rater", sa.String(64), primary_key=True), *(sa.Column(name, sa.Integer, nullable=False) for name in ("version", "stars")),
                    sa.Column("review", sa.Text, nullable=False), sa.Column("rated_at", sa.String(27), nullable=False))
    op.create_table("events", sa.Column("id", sa.Integer, primary_key=True), sa.Column("at", sa.String(27), nullable=False),
                    sa.Column("actor", sa.String(64), nullable=False), sa.Column("action", sa.String(20), nullable=False),
                    sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id"), index=True), sa.Column("version", sa.Integer),
                    sa.Column("details", sa.JSON, nullable=False))
    _keep_as_published()


def _versions():
    def text(name, length, **options):
        return sa.Column(name, sa.String(length), nullable=False, **options)

    op.create_table(
        "versions", sa.Column("id", sa.Integer, primary_key=True), sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id"), nullable=False),
        text("name", 96), sa.Column("number", sa.Integer, nullable=False), text("stage", 10), sa.Column("shown", sa.Boolean, nullable=False),
        text("publisher", 64), text("published_at", 27, index=True), sa.Column("downloads", sa.Integer, nullable=False), text("task", 64, index=True),
        text("licence", 64), text("base_model", 200, index=True), text("data_sha256", 64), text("recipe_sha256", 64), text("content_sha256", 64),
        sa.Column("size_bytes", sa.BigInteger, nullable=False), sa.Column("file_count", sa.Integer, nullable=False), sa.Column("loss", sa.Float),
        sa.Column("perplexity", sa.Float), sa.Column("bits_per_byte", sa.Float), sa.Column("languages", sa.JSON, nullable=False),
        sa.Column("tags", sa.JSON, nullable=False), sa.Column("words", sa.Text, nullable=False), sa.Column("figures", sa.JSON, nullable=False),
        sa.Column("card", sa.Text, nullable=False), sa.UniqueConstraint("model_id", "number", name="one_number_each"))  # fmt: skip
    for name, which in (("one_in_production", "stage = 'production'"), ("one_shown", "shown")):
        op.create_index(name, "versions", ["model_id"], unique=True, sqlite_where=sa.text(which), postgresql_where=sa.text(which))


def _part_of_version():
    return sa.Column("version_id", sa.Integer, sa.ForeignKey("versions.id"), primary_key=True)


def _keep_as_published():
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"CREATE TRIGGER versions_fixed BEFORE UPDATE OF {', '.join(FIXED)} ON versions BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END")
        for table in ALWAYS_FIXED:
            op.execute(f"CREATE TRIGGER {table}_fixed BEFORE UPDATE ON {table} BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END")
        return
    op.execute(f"CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$")
    op.execute(f"CREATE TRIGGER versions_fixed BEFORE UPDATE OF {', '.join(FIXED)} ON versions FOR EACH ROW EXECUTE FUNCTION refuse_change()")
    for table in ALWAYS_FIXED:
        op.execute(f"CREATE TRIGGER {table}_fixed BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_change()")
