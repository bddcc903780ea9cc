"""Users, groups, keys, and models that not everybody sees."""
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade():
    """Make the tables; all models that are there stay public."""
    op.add_column("models", sa.Column("private", sa.Boolean, nullable=False, server_default=sa.text("false")))
    op.create_table("users", _number(), _text("name", 64, unique=True), _text("folded", 64, unique=True), _text("password_hash", 200), _text("role", 10),
                    sa.Column("disabled", sa.Boolean, nullable=False), _text("created_at", 27))
    op.create_table("groups", _number(), _text("name", 64, unique=True))
    op.create_table("members", _of("group_id", "groups.id", primary_key=True), _of("user_id", "users.id", primary_key=True, index=True))
    op.create_table("grants", _of("model_id", "models.id", primary_key=True), _of("group_id", "groups.id", primary_key=True), _text("right", 10))
    op.create_table("sign_ins", sa.Column("sha256", sa.String(64), primary_key=True), _of("user_id", "users.id", index=True), _text("expires_at", 27))
    op.create_table("api_keys", _number(), _of("user_id", "users.id", index=True), _text("name", 64), _text("sha256", 64, unique=True),
                    sa.Column("scopes", sa.JSON, nullable=False), _text("created_at", 27), _text("expires_at", 27),
                    *(sa.Column(name, sa.String(27)) for name in ("used_at", "revoked_at")))


def _number():
    return sa.Column("id", sa.Integer, primary_key=True)


def _text(name, length, **options):
    return sa.Column(name, sa.String(length), nullable=False, **options)


def _of(name, target, **options):
    return sa.Column(name, sa.Integer, sa.ForeignKey(target), nullable=False, **options)
