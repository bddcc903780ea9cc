"""The database of a catalog: SQLite in a file, or PostgreSQL by its URL; its schema is brought up to date when it is opened."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError
from sqlalchemy.orm import Session

from tfgpt.store.errors import StoreError

MIGRATIONS = Path(__file__).parent / "migrations"
NEWEST = "0003"
"""The revision that this code wants."""
WAIT_SECONDS = 60
"""How long a writer waits for another in SQLite, which has one at a time."""
MIGRATION_LOCK = 0x7467_7074
"""Key of PostgreSQL's advisory lock under which one process at a time changes the schema."""


class Database:
    """A catalog's database, whose schema is the newest.

    Args:
        url: of SQLAlchemy, sqlite:///FILE or postgresql://USER@HOST/NAME; a password is better kept in ~/.pgpass.
        create: whether to make the tables where there are none.

    Raises:
        StoreError: a URL that is not understood or of another database; a driver that is not installed; no tables; a newer schema than this code's.
        RuntimeError: the database cannot be reached.
    """

    def __init__(self, url: str, create: bool = False):
        self.url = _checked(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._engine = _sqlite_engine(self.url) if self.is_sqlite else create_engine(self.url, pool_pre_ping=True)
        if create and self.is_sqlite and self.url.database:
            with contextlib.suppress(OSError):                                            # of which SQLite itself tells
                Path(self.url.database).touch(mode=0o600)                                 # hashes of passwords and keys are for nobody else
        with self._told():
            self._check_fts5()
            self._bring_up_to_date(create)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """Give a session that sees one state of the database and changes nothing."""
        options = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with self._told(), Session(self._engine.execution_options(**options)) as session:
            yield session

    @contextlib.contextmanager
    def writing(self) -> Iterator[Session]:
        """Give a session in a transaction, which is committed at the end and rolled back on an error. In SQLite it is the only writer from its beginning."""
        engine = self._engine.execution_options(writes=True)
        with self._told(), Session(engine) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _told(self):
        """Say in one line what the database cannot do, or what it cannot hold."""
        try:
            yield
        except DataError as error:
            raise StoreError(f"value: {' '.join(str(error.orig).split())}; give another") from error
        except DBAPIError as error:
            reason = " ".join(str(error.orig).split())
            raise RuntimeError(f"the database {self.url.render_as_string()}: {reason}") from error

    def _check_fts5(self):
        if not self.is_sqlite:
            return
        with self._engine.connect() as connection:
            if "ENABLE_FTS5" not in connection.execute(text("PRAGMA compile_options")).scalars():
                raise RuntimeError("Python's sqlite3 has no full-text search (FTS5): it was loaded after TensorFlow, whose own SQLite has none; import tfgpt "
                                   "or sqlite3 before tensorflow")

    def _bring_up_to_date(self, create):
        with self._engine.connect() as connection:
            there = _revision(connection)
        if there == NEWEST:
            return
        if there is None and not create:
            raise StoreError(f"the database {self.url.render_as_string()} holds no catalog; tfgpt store init makes one")
        if there is not None and there > NEWEST:
            raise StoreError(f"the database {self.url.render_as_string()} has the schema {there}, and this version of tfgpt knows {NEWEST}; take a newer tfgpt")
        with self._engine.execution_options(writes=True).begin() as connection:
            if not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            upgrade(connection)


def upgrade(connection, revision: str = "head") -> None:
    """Bring the schema to a revision, within the connection's transaction; what is there already stays."""
    from alembic import command  # here, since a catalog that is up to date does without
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    command.upgrade(config, revision)


def _revision(connection):
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _checked(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(f"database: {url!r} is no URL of a database; give sqlite:///FILE or postgresql://USER@HOST/NAME") from error
    if parsed.drivername == "sqlite":
        return parsed
    if parsed.drivername not in ("postgresql", "postgresql+psycopg"):
        raise StoreError(f"database: {parsed.drivername} is not one that a store works with; give sqlite:///FILE or postgresql://USER@HOST/NAME")
    parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        parsed.get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        raise StoreError("database: postgresql needs the package psycopg, which is not installed; pip install 'tfgpt[postgresql]'") from error
    return parsed


def _sqlite_engine(url: URL) -> Engine:
    """Return an engine whose transactions are SQLite's own: Python's module would begin them late, and let two readers both become writers."""
    engine = create_engine(url, connect_args={"timeout": WAIT_SECONDS})

    @event.listens_for(engine, "connect")
    def set_up(connection, _):
        connection.isolation_level = None
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")

    return engine
