"""A store as browsers and programs reach it, for tests."""
import re

from argon2 import PasswordHasher
from fastapi.testclient import TestClient

from tests.store.made import make_run
from tfgpt.store.access import keys, passwords, users
from tfgpt.store.access.rights import ROLES
from tfgpt.store.store import Store, StoreConfig
from tfgpt.store.web.app import create_app
from tfgpt.store.web.settings import WebSettings

PASSWORD = "correct horse battery"
PEOPLE = {"root": "admin", "jane": "publisher", "bob": "publisher", "rita": "reader"}
HARMLESS = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
"""In place of the real one, which takes 64 MiB and a third of a second for each user of each test."""


class Site:
    """A store with `PEOPLE`, whose pages nobody but this process reaches."""

    def __init__(self, folder, monkeypatch, database="catalog.db", **settings):
        monkeypatch.setattr(passwords, "HASHER", HARMLESS)
        self.folder = folder
        self.store = Store.create(folder / "store", StoreConfig(database=database))
        for name, role in PEOPLE.items():
            users.add_user(self.store.database, name, PASSWORD, role, "setup")
        self.app = create_app(self.store, WebSettings(**settings))

    def browser(self, name=""):
        """Return a browser in which somebody has signed in; "" = nobody."""
        client = TestClient(self.app, follow_redirects=True)
        if name:
            response = client.post("/sign-in", data={"csrf": csrf_of(client.get("/sign-in")), "name": name, "password": PASSWORD})
            assert response.status_code == 200, response.text
        return client

    def program(self, name, scopes=None):
        """Return a program with a key of somebody."""
        key = keys.make_key(self.store.database, name, f"test {len(keys.keys_of(self.store.database, name))}", tuple(scopes or ROLES[PEOPLE[name]]), 1, "setup")
        return TestClient(self.app, headers={"Authorization": f"Bearer {key}"}, follow_redirects=False)

    def publish(self, name="tickets", actor="jane", seed=1, **options):
        """Publish a run that nobody trained."""
        make_run(self.folder / f"run-{name}-{seed}", seed=seed)
        run = self.folder / f"run-{name}-{seed}"
        return self.store.publish(run, name, actor, options.pop("said", {}), run / "export" / "tickets" / "1", **options).reference


def csrf_of(page):
    """Return what the forms of a page hold."""
    return re.search(r'<meta name="csrf" content="(\w+)">', page.text)[1]


def submit(client, path, data=None, of="/sign-in"):
    """Send a form as a page's own."""
    return client.post(path, data={"csrf": csrf_of(client.get(of))} | (data or {}))


def files_of(run, prefix="", leave_out=()):
    """Return a run's files as a form has them."""
    return [("files", (prefix + path.relative_to(run).as_posix(), path.read_bytes())) for path in sorted(run.rglob("*"))
            if path.is_file() and path.name not in leave_out]  # fmt: skip
