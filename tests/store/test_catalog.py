import sqlite3
import subprocess
import sys
import textwrap

import pytest
from sqlalchemy import create_engine

from tests.store.made import published, sha256, stored
from tfgpt.store import catalog, lifecycle, ratings
from tfgpt.store.database import Database
from tfgpt.store.errors import StoreError
from tfgpt.store.fields import Description
from tfgpt.store.reference import Reference, parse_reference


def stages(database, name="tickets"):
    return {entry.version: entry.stage for entry in catalog.versions_of(database, name)}


def test_versions_count_up_and_each_keeps_what_it_was_published_with(database):
    published(database, text="one", figures={"loss": 2.0, "metrics/f1": 0.5}, tags=("a",), languages=("en", "pt-BR"), card="# One")
    second = published(database, text="two", licence="mit")

    first = catalog.details_of(database, Reference("tickets", 1))
    assert second == Reference("tickets", 2)
    assert (first.entry.tags, first.entry.languages, first.card, first.figures) == (["a"], ["en", "pt-BR"], "# One", {"loss": 2.0, "metrics/f1": 0.5})
    assert (first.entry.loss, first.entry.perplexity, first.entry.size_bytes, first.files[0].sha256) == (2.0, None, 3, sha256("one"))
    assert catalog.details_of(database, second).entry.licence == "mit"


def test_the_same_content_is_published_once_and_told(database):
    first = catalog.publish(database, "tickets", "jane", Description(), stored(database, "one"), {})
    again = catalog.publish(database, "tickets", "jane", Description(), stored(database, "one"), {})
    other = catalog.publish(database, "tickets", "jane", Description(tags=("new",)), stored(database, "one"), {})

    assert (first.is_new, again.is_new, again.reference) == (True, False, first.reference)
    assert other.reference.version == 2


@pytest.mark.parametrize(("number", "message"), [(1, "1 of tickets is published and never changed; the next is 2"),
                                                 (3, "3 of tickets would leave numbers out; the next is 2"),
                                                 (0, "version: 0 of tickets is no version"), (-1, "-1 of tickets is no version")])  # fmt: skip
def test_a_forged_version_is_refused(database, number, message):
    published(database, text="one")

    with pytest.raises(StoreError, match=message):
        catalog.publish(database, "tickets", "jane", Description(), stored(database, "two"), {}, version=number)
    assert stages(database) == {1: "draft"}


def test_the_database_itself_refuses_to_change_what_is_published(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/c.db", create=True)
    published(database)
    raw = sqlite3.connect(tmp_path / "c.db")

    for change in ("UPDATE versions SET number = 7", "UPDATE versions SET card = 'x'", "UPDATE versions SET content_sha256 = 'x'",
                   "UPDATE files SET sha256 = 'x'", "UPDATE pieces SET sha256 = 'x'", "UPDATE events SET actor = 'x'"):  # fmt: skip
        with pytest.raises(sqlite3.IntegrityError, match="never changed"):
            raw.execute(change)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        raw.execute("INSERT INTO versions SELECT 99, model_id, name, number, stage, 0, publisher, published_at, downloads, task, licence, base_model, "
                    "data_sha256, recipe_sha256, content_sha256, size_bytes, file_count, loss, perplexity, bits_per_byte, languages, tags, words, figures, "
                    "card FROM versions")


def test_one_version_at_most_is_in_production_and_the_old_one_is_archived(database):
    for text in ("one", "two", "three"):
        published(database, text=text)

    lifecycle.promote(database, Reference("tickets", 1), "jane", "staging")
    lifecycle.promote(database, Reference("tickets", 1), "jane")
    lifecycle.promote(database, Reference("tickets", 3), "jane")

    assert stages(database) == {3: "production", 2: "draft", 1: "archived"}
    assert catalog.resolve(database, parse_reference("store://tickets@production")) == Reference("tickets", 3)
    assert catalog.resolve(database, Reference("tickets")) == Reference("tickets", 3)


def test_rolling_back_twice_goes_back_two_steps_and_is_logged(database):
    for text in ("one", "two", "three"):
        published(database, text=text)
    for number in (1, 2, 3):
        lifecycle.promote(database, Reference("tickets", number), "jane")

    back = [lifecycle.roll_back(database, "tickets", "jane") for _ in range(2)]

    assert back == [(Reference("tickets", 2), 3), (Reference("tickets", 1), 2)]
    assert stages(database) == {3: "archived", 2: "archived", 1: "production"}
    with pytest.raises(StoreError, match="no version was in production before"):
        lifecycle.roll_back(database, "tickets", "jane")
    log = [(event["action"], event["version"], event["actor"]) for event in catalog.details_of(database, Reference("tickets")).events]
    assert log[:3] == [("rollback", 1, "jane"), ("rollback", 2, "jane"), ("promote", 3, "jane")]


def test_a_promotion_after_a_roll_back_is_what_is_undone_next(database):
    for text in ("one", "two", "three"):
        published(database, text=text)
    lifecycle.promote(database, Reference("tickets", 1), "jane")
    lifecycle.promote(database, Reference("tickets", 2), "jane")
    lifecycle.roll_back(database, "tickets", "jane")
    lifecycle.promote(database, Reference("tickets", 3), "jane")

    assert lifecycle.roll_back(database, "tickets", "jane") == (Reference("tickets", 1), 3)


def test_a_version_taken_out_of_production_comes_back_by_rolling_back(database):
    published(database, stage="production")
    lifecycle.promote(database, Reference("tickets", 1), "jane", "staging")

    assert lifecycle.roll_back(database, "tickets", "jane") == (Reference("tickets", 1), None)


def test_archived_versions_are_not_shown_and_what_is_in_production_is_not_archived(database):
    published(database, text="one", stage="production")
    published(database, text="two")

    with pytest.raises(StoreError, match="store://tickets:1 is in production; promote another"):
        lifecycle.archive(database, Reference("tickets", 1), "jane")
    lifecycle.archive(database, Reference("tickets", 2), "jane")

    assert stages(database) == {2: "archived", 1: "production"}
    with pytest.raises(StoreError, match="is archived already"):
        lifecycle.archive(database, Reference("tickets", 2), "jane")


def test_only_the_owner_changes_a_model_and_anybody_rates_it(database):
    published(database)

    for change in (lambda: published(database, actor="eve", text="two"), lambda: lifecycle.promote(database, Reference("tickets"), "eve"),
                   lambda: lifecycle.archive(database, Reference("tickets"), "eve"), lambda: lifecycle.roll_back(database, "tickets", "eve")):  # fmt: skip
        with pytest.raises(StoreError, match="tickets belongs to jane, and eve is not its owner"):
            change()
    ratings.rate(database, Reference("tickets"), "eve", 2, "so so")

    assert stages(database) == {1: "draft"}


def test_a_later_rating_takes_the_place_of_an_earlier_and_the_mean_is_over_people(database):
    published(database)
    for rater, stars in (("eve", 1), ("bob", 5), ("eve", 4)):
        ratings.rate(database, Reference("tickets"), rater, stars, f"{stars} of {rater}")

    details = catalog.details_of(database, Reference("tickets"))

    assert (details.entry.rating, details.entry.rating_count) == (4.5, 2)
    assert [(review["rater"], review["review"]) for review in details.reviews] == [("eve", "4 of eve"), ("bob", "5 of bob")]


@pytest.mark.parametrize(("text", "message"), [("store://nothing", "there is no model nothing"), ("store://tickets:9", "no such version; the newest is 1"),
                                               ("store://tickets@production", "tfgpt store promote tickets:1 --to production would put")])  # fmt: skip
def test_a_reference_to_what_is_not_there_says_what_is(database, text, message):
    published(database)

    with pytest.raises(StoreError, match=message):
        catalog.resolve(database, parse_reference(text))


@pytest.mark.parametrize("text", ["store://", "store://A", "store://a/b", "store://../x", "store://a:0", "store://a:-1", "store://a:1x", "store://a@live",
                                  "store://a:1@draft", "store://a\n", "store://a:99999999999", "a" * 97, "store://a:١"])  # fmt: skip
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(StoreError, match=r"name: |version|stage: "):
        parse_reference(text)


def test_the_migrations_make_the_tables_of_the_schema(database_url):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from tfgpt.store.schema import Base

    database = Database(database_url, create=True)
    with create_engine(database.url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_name": _own})

        assert compare_metadata(context, Base.metadata) == []


def _own(name, kind, parents):
    return (kind, name) not in (("column", "search_words"), ("index", "versions_by_words")) and not (kind == "table" and name.startswith("version_words"))


def test_an_older_schema_is_brought_up_to_date_with_what_is_in_it(database_url):
    from tests.store.old import make_old_catalog
    from tfgpt.store.search import Query, search

    make_old_catalog(database_url)

    assert [entry.name for entry in search(Database(database_url), Query("venerable"))] == ["old-model"]


def test_a_newer_schema_and_a_database_without_one_are_refused(database_url):
    with pytest.raises(StoreError, match="holds no catalog; tfgpt store init makes one"):
        Database(database_url)
    Database(database_url, create=True)
    with create_engine(Database(database_url).url).begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")

    with pytest.raises(StoreError, match="has the schema 0999, and this version of tfgpt knows"):
        Database(database_url)


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "oracle://x", "sqlite+nonsense:///x"])
def test_another_database_is_refused(url):
    with pytest.raises(StoreError, match="give sqlite:///FILE or postgresql://USER@HOST/NAME"):
        Database(url)


PUBLISHER = textwrap.dedent("""
    import sys
    from tests.store.made import published
    from tfgpt.store.database import Database
    url, own = sys.argv[1:]
    database = Database(url, create=True)
    sys.stdin.read()  # until all are ready
    for number in range(3):
        published(database, "shared", "all", text=f"{own} {number}")
        published(database, f"own-{own}", "all", text=f"{own} {number}")
""")


def test_twenty_processes_that_publish_at_once_lose_nothing(database_url):
    processes = [subprocess.Popen([sys.executable, "-c", PUBLISHER, database_url, str(own)], stdin=subprocess.PIPE) for own in range(20)]
    for process in processes:
        process.stdin.close()
    assert [process.wait() for process in processes] == [0] * 20

    database = Database(database_url)
    shared = catalog.versions_of(database, "shared")
    assert [entry.version for entry in shared] == list(range(60, 0, -1))
    hashes = {catalog.details_of(database, entry.reference).files[0].sha256 for entry in shared}
    assert hashes == {sha256(f"{own} {number}") for own in range(20) for number in range(3)}
    assert all(len(catalog.versions_of(database, f"own-{own}")) == 3 for own in range(20))
