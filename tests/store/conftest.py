"""Catalogs for tests: SQLite in a folder, and PostgreSQL where its programs are installed."""
import glob
import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

from tfgpt.store.database import Database

POSTGRES = shutil.which("initdb") or next(iter(sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), reverse=True)), None)


@pytest.fixture(scope="session")
def postgres():
    """The URL of a server's database `postgres`; the server is this session's own, behind a socket."""
    if POSTGRES is None:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    folder, programs = Path(tempfile.mkdtemp(prefix="tfgpt-postgresql-")), os.path.dirname(POSTGRES)  # pytest's own folders are closed to other users
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []  # PostgreSQL does not run as root
    if user:
        shutil.chown(folder, "postgres")
    subprocess.run([*user, f"{programs}/initdb", "-D", folder / "data", "-U", "tests", "-A", "trust", "--no-sync"], check=True, capture_output=True)
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    control = [*user, f"{programs}/pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log"]
    subprocess.run([*control, "-o", options, "start"], check=True, capture_output=True)
    yield f"postgresql://tests@/postgres?host={folder}"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True)
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.db"
    import psycopg

    server, name = request.getfixturevalue("postgres"), f"t{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres?", f"/{name}?")


@pytest.fixture
def database(database_url):
    database = Database(database_url, create=True)
    yield database
    database.close()
