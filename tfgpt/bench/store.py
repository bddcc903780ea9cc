"""How long a search takes in a store of many models."""
from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

import numpy as np

from tfgpt.store import blobs, catalog, lifecycle, ratings
from tfgpt.store.access import groups, users
from tfgpt.store.access.rights import Caller
from tfgpt.store.database import Database
from tfgpt.store.fields import Description
from tfgpt.store.reference import Reference
from tfgpt.store.search import Query, search

SEED = 1
TASKS = ("text-generation", "text-classification", "translation", "summarization", "question-answering")
LANGUAGES = ("en", "de", "fr", "es", "zh", "sw")
SYLLABLES = ("ka", "lo", "mi", "ren", "sta", "tor", "ul", "vi", "wen", "zo", "bra", "chi", "den", "fal", "gru", "hei")
WORDS = 5000
"""Different ones on all cards, the first ones far more often than the last, as in a language."""
CARD_WORDS = 150
READER = Caller("reader", frozenset(["read"]))
"""By whom every second search is made over the network: in a group that is granted half of the private models."""


def run(models: int, searches: int, url: str = "") -> dict:
    """Publish made-up models, without files, and search them.

    Args:
        models: that are published, some with a second version, some promoted and rated, a tenth private.
        searches: that are timed, each with other words, filters and orders.
        url: of an empty database; empty = SQLite in a temporary folder.

    Returns:
        `database`, `models`, `searches`, `found` (how many rows in all), `publish_seconds` (for all of them), and `p50_milliseconds`, `p95_milliseconds`,
        `most_milliseconds` of a search.
    """
    draw = random.Random(SEED)
    words = list(dict.fromkeys("".join(draw.choices(SYLLABLES, k=draw.randint(2, 4))) for _ in range(2 * WORDS)))[:WORDS]
    with tempfile.TemporaryDirectory() as folder:
        database = Database(url or f"sqlite:///{Path(folder) / 'catalog.db'}", create=True)
        started = time.perf_counter()
        _fill(database, models, words, draw)
        publish_seconds = time.perf_counter() - started
        seconds, found = [], 0
        for number, query in enumerate([_query(words, draw) for _ in range(searches)]):
            started = time.perf_counter()
            found += len(search(database, query, READER if number % 2 else None))
            seconds.append(time.perf_counter() - started)
        kind = "SQLite" if database.is_sqlite else "PostgreSQL"
        database.close()
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000
    return {"database": kind, "models": models, "searches": searches, "found": found, "publish_seconds": publish_seconds, "p50_milliseconds": p50,
            "p95_milliseconds": p95, "most_milliseconds": max(seconds) * 1000}


def _fill(database, models, words, draw):
    sha256 = "0" * 64
    blobs.touch(database, {sha256: 1})
    users.add_user(database, READER.name, "not to sign in with", "reader", "bench")
    groups.add_group(database, "team", "bench")
    groups.set_member(database, "team", READER.name, True, "bench")
    frequency = [1 / rank for rank in range(1, len(words) + 1)]
    for number in range(models):
        name = f"{draw.choice(words)}-{draw.choice(words)}-{number}"
        for version in range(1 + (number % 4 == 0)):
            said = Description(
                task=draw.choice(TASKS), licence=draw.choice(("mit", "apache-2.0")), languages=(draw.choice(LANGUAGES),), tags=(draw.choice(words[:200]),),
                card=f"# {name} {version}\n\n" + " ".join(draw.choices(words, frequency, k=CARD_WORDS)))  # fmt: skip
            files = [catalog.StoredFile("model/model.safetensors", sha256, draw.randrange(10**9), (sha256,))]
            catalog.publish(database, name, "bench", said, files, {"loss": draw.uniform(1, 5)})
        if number % 3 == 0:
            lifecycle.promote(database, Reference(name, 1), "bench")
        if number % 10 == 1:
            groups.set_access(database, name, "bench", private=True, grants={"team": "read"} if number % 20 == 1 else {})
        if number % 10 == 0:
            ratings.rate(database, Reference(name), "bench", draw.randint(1, 5))


def _query(words, draw):
    """Return a search as people and pages make them: frequent words and rare ones, beginnings of words, filters, all orders."""
    some = draw.choices(words, [1 / rank for rank in range(1, len(words) + 1)], k=draw.randint(0, 3))
    some = [word[: draw.randint(2, len(word))] for word in some]
    sort = draw.choice(("", "newest", "name", "downloads", "rating", "size", "loss"))
    return Query(" ".join(some), task=draw.choice(("", "", *TASKS)), languages=draw.choice(((), (), *((one,) for one in LANGUAGES))), sort=sort,
                 offset=draw.choice((0, 0, 0, 20)))  # fmt: skip
