"""A catalog as an earlier schema had it, with a row written by SQL alone."""
from sqlalchemy import create_engine, text

from tfgpt.store.database import _checked, _sqlite_engine, upgrade


def make_old_catalog(url):
    checked = _checked(url)
    engine = _sqlite_engine(checked) if checked.get_backend_name() == "sqlite" else create_engine(checked)
    with engine.begin() as connection:
        upgrade(connection, "0001")
        connection.execute(text("INSERT INTO models VALUES (1, 'old-model', 'jane', '2026', 0, 0, 0)"))
        connection.execute(text(
            "INSERT INTO versions (id, model_id, name, number, stage, shown, publisher, published_at, downloads, task, licence, base_model, data_sha256, "
            "recipe_sha256, content_sha256, size_bytes, file_count, languages, tags, words, figures, card) "
            "VALUES (1, 1, 'old-model', 1, 'draft', true, 'jane', '2026', 0, 'text-generation', '', 'random', '', '', '', 1, 1, '[]', '[]', "
            "'jane', '{}', 'A venerable card')"))  # fmt: skip
    engine.dispose()
