import pytest

from tests.store.made import published
from tfgpt.store import lifecycle, ratings
from tfgpt.store.catalog import count_download
from tfgpt.store.errors import StoreError
from tfgpt.store.reference import Reference
from tfgpt.store.search import Query, search


@pytest.fixture
def shelf(database):
    """Four models."""
    published(database, "german-tickets", task="text-classification", languages=("de",), tags=("support", "head"), licence="mit", figures={"loss": 0.5},
              card="# Tickets\n\nSorts what customers of a railway write.", text="x" * 10)
    published(database, "story-teller", "bob", languages=("en", "de"), tags=("stories",), licence="apache-2.0", figures={"loss": 3.0, "perplexity": 20.0},
              card="Writes stories about a railway and tickets.", text="x" * 1000, base_model="gpt2")
    published(database, "code.small", languages=("en",), tags=("code",), figures={"loss": 1.5}, card="Completes Python.", text="x" * 100)
    published(database, "unmeasured", card="Nobody measured it; Über-große Wörter.", text="x")
    return database


def names(database, words="", **query):
    return [entry.name for entry in search(database, Query(words, **query))]


def test_words_are_found_in_names_tasks_tags_and_cards_and_names_count_most(shelf):
    assert names(shelf, "tickets") == ["german-tickets", "story-teller"]
    assert names(shelf, "railway stories") == ["story-teller"]
    assert names(shelf, "SUPPORT") == ["german-tickets"]
    assert names(shelf, "classification") == ["german-tickets"]
    assert names(shelf, "code") == ["code.small"] and names(shelf, "bob gpt2") == ["story-teller"]
    assert names(shelf, "über wörter") == ["unmeasured"] and names(shelf, "uber") == []


def test_a_word_also_finds_those_that_begin_with_it_and_all_words_must_occur(shelf):
    assert names(shelf, "rail") == names(shelf, "railway")
    assert set(names(shelf, "rail")) == {"german-tickets", "story-teller"}
    assert names(shelf, "ailway") == [] and names(shelf, "railway python") == []


def test_filters_narrow_and_add_up(shelf):
    assert names(shelf, languages=("de",), sort="name") == ["german-tickets", "story-teller"]
    assert names(shelf, languages=("de", "en")) == ["story-teller"]
    assert names(shelf, task="text-classification") == names(shelf, licence="mit") == names(shelf, tags=("head", "support")) == ["german-tickets"]
    assert names(shelf, owner="bob") == names(shelf, base_model="gpt2") == ["story-teller"]
    assert names(shelf, "railway", languages=("en",)) == ["story-teller"]
    assert names(shelf, max_size_bytes=10, sort="name") == ["german-tickets", "unmeasured"]


def test_every_order_sorts_by_what_it_says(shelf):
    for _ in range(2):
        count_download(shelf, Reference("code.small", 1))
    count_download(shelf, Reference("unmeasured", 1))
    ratings.rate(shelf, Reference("unmeasured"), "eve", 5)
    ratings.rate(shelf, Reference("story-teller"), "eve", 3)

    assert names(shelf) == names(shelf, sort="newest") == ["unmeasured", "code.small", "story-teller", "german-tickets"]
    assert names(shelf, sort="name") == ["code.small", "german-tickets", "story-teller", "unmeasured"]
    assert names(shelf, sort="downloads")[:2] == ["code.small", "unmeasured"]
    assert names(shelf, sort="rating")[:2] == ["unmeasured", "story-teller"]
    assert names(shelf, sort="size") == ["unmeasured", "german-tickets", "code.small", "story-teller"]
    assert names(shelf, sort="loss") == ["german-tickets", "code.small", "story-teller", "unmeasured"]
    assert names(shelf, sort="perplexity")[0] == "story-teller"


def test_pages_follow_each_other(shelf):
    assert [names(shelf, sort="name", limit=2, offset=offset) for offset in (0, 2, 4)] == [["code.small", "german-tickets"], ["story-teller", "unmeasured"], []]


def test_a_model_is_found_once_as_its_production_or_else_its_newest_version(shelf):
    published(shelf, "code.small", card="Completes Rust.", text="rust")
    assert names(shelf, "python") == [] and names(shelf, "rust") == ["code.small"]

    lifecycle.promote(shelf, Reference("code.small", 1), "jane")
    assert names(shelf, "python") == ["code.small"] and names(shelf, "rust") == []
    assert names(shelf, stage="production") == ["code.small"] and names(shelf, "rust", stage="draft") == ["code.small"]

    lifecycle.promote(shelf, Reference("code.small", 2), "jane")
    lifecycle.roll_back(shelf, "code.small", "jane")
    assert names(shelf, "python") == ["code.small"]


@pytest.mark.parametrize("words", ["' OR 1=1", "\"; DROP TABLE models", "name:*", "NEAR(a b)", "a* OR b", "^", ")(", "railway:* | zz", "\\", "%", "\0", "☃"])
def test_a_query_language_in_the_words_is_not_one(shelf, words):
    assert names(shelf, words) == []
    assert len(names(shelf)) == 4


@pytest.mark.parametrize(("query", "message"), [({"sort": "price"}, "sort: 'price' is none of relevance"), ({"limit": 0}, "limit: 0"),
                                                ({"limit": 10**9}, "limit"), ({"offset": -1}, "offset"), ({"stage": "live"}, "stage"),
                                                ({"task": "x' OR '1'='1"}, "task"), ({"tags": ("<b>",)}, "tags"), ({"owner": "a;b"}, "owner"),
                                                ({"sort": "relevance"}, "relevance needs words")])  # fmt: skip
def test_what_cannot_be_asked_is_refused(query, message):
    with pytest.raises(StoreError, match=message):
        Query(**query)
