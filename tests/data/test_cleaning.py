import pytest

from tfgpt.data.cleaning import Cleaner, min_hash, shingle_hashes
from tfgpt.data.examples import Example
from tfgpt.data.intake import Account
from tfgpt.recipe import CleanConfig


def cleaned(texts, **settings):
    """Return what is left of texts, and the account."""
    account = Account()
    cleaner = Cleaner(CleanConfig(**settings), account)
    kept = [cleaner.clean(Example(((text, True),), place=str(number))) for number, text in enumerate(texts)]
    return [example.text for example in kept if example], account


def test_nothing_is_changed_unless_it_is_asked_for():
    texts = ["e\u0301", "e\u0301", "", "mail a@example.com"]

    kept, account = cleaned(texts)

    assert kept == texts
    assert account == Account()


@pytest.mark.parametrize(("form", "wanted"), [("nfc", ["\u00e9 \uff21", "plain"]), ("nfkc", ["\u00e9 A", "plain"])])
def test_normalisation_joins_accents_and_maps_look_alikes(form, wanted):
    kept, account = cleaned(["e\u0301 \uff21", "plain"], normalize=form)

    assert kept == wanted
    assert account.normalized == 1


def test_personal_data_is_masked_in_every_part_and_counted():
    pytest.importorskip("presidio_analyzer", reason="pip install 'tfgpt[privacy]'")
    account = Account()
    cleaner = Cleaner(CleanConfig(mask=("email", "ip")), account)

    masked = cleaner.clean(Example((("write to anna@example.com", False), (" or to bob@example.org, +1 415-555-2671", True)), place="x"))

    assert masked.parts == (("write to <EMAIL>", False), (" or to <EMAIL>, +1 415-555-2671", True))
    assert (account.masked, account.masked_documents) == ({"email": 2}, 1)


def test_lengths_outside_the_limits_are_left_out():
    kept, account = cleaned(["a" * 4, "b" * 5, "c" * 9, "d" * 10], min_chars=5, max_chars=9)

    assert kept == ["b" * 5, "c" * 9]
    assert account.filtered == {"shorter than min_chars": 1, "longer than max_chars": 1}


def test_the_first_of_equal_documents_is_kept_whatever_its_case_and_white_space():
    kept, account = cleaned(["One  two", "other", "one two\n", "ONE TWO"], deduplicate="exact")

    assert kept == ["One  two", "other"]
    assert account.filtered == {"exact duplicate": 2}


def test_texts_with_other_labels_are_no_duplicates():
    cleaner = Cleaner(CleanConfig(deduplicate="exact"), Account())

    kept = [cleaner.clean(Example((("text", False),), place="x", label=label)) for label in ("a", "b", "a")]

    assert [example is not None for example in kept] == [True, True, False]


def jaccard(one, other):
    """The similarity itself, by sets."""
    first, second = ({text[n : n + 5] for n in range(len(text) - 4)} for text in (one, other))
    return len(first & second) / len(first | second)


def test_near_duplicates_are_those_whose_similarity_is_above_the_threshold(documents):
    texts = [" ".join(text.casefold().split())[:600] for text in documents if len(text) > 700]
    changed = [text[: 600 - 12 * number] + "x" * 12 * number for number, text in enumerate(texts)]  # from the same to half of it
    similar = [jaccard(one, other) for one, other in zip(texts, changed)]

    for text, other, similarity in zip(texts, changed, similar):
        if abs(similarity - 0.8) > 0.15:  # 128 hashes estimate a similarity to 0.035 (one standard deviation, at 0.8); four of them
            kept, account = cleaned([text, other], deduplicate="near")
            assert (len(kept) == 1) == (similarity > 0.8), (similarity, account)
    assert min(similar) < 0.5 and max(similar) == 1.0


def test_min_hash_estimates_the_similarity(documents):
    one, other = documents[0].casefold()[:2000], documents[0].casefold()[500:2500]

    assert min_hash(one).jaccard(min_hash(other)) == pytest.approx(jaccard(one, other), abs=0.16)  # four standard deviations of 128 draws


def test_a_long_text_is_hashed_in_pieces_without_a_difference(documents, monkeypatch):
    whole = min_hash(documents[0][:3000])

    monkeypatch.setattr("tfgpt.data.cleaning.SHINGLES_AT_ONCE", 7)

    assert min_hash(documents[0][:3000]).jaccard(whole) == 1.0


def test_shingles_are_those_of_characters_not_of_bytes():
    assert len(shingle_hashes("日本語日本語日本語")) == 3
    assert len(shingle_hashes("ab")) == 1
    assert set(shingle_hashes("abcde")) < set(shingle_hashes("xabcdex"))
