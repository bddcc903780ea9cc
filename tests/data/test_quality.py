import pytest

pytest.importorskip("py3langid", reason="pip install 'tfgpt[inspect]'")

from tfgpt.data.examples import Example
from tfgpt.data.quality import QualityCheck, is_garbled


def measured(texts, tokenizer):
    return QualityCheck(tokenizer).measure(Example(((text, True),), place=f"x:{number}") for number, text in enumerate(texts, start=1))


def test_lengths_and_bytes_are_those_of_the_tokenizer(documents, tokenizer):
    quality = measured(documents[:20], tokenizer)

    lengths = [len(ids) for ids in tokenizer(documents[:20], verbose=False).input_ids]
    assert quality.lengths.tolist() == lengths
    assert quality.tokens == sum(lengths)
    assert quality.bytes_per_token == pytest.approx(sum(len(text.encode()) for text in documents[:20]) / sum(lengths))
    assert quality.vocabulary_used == len({token for ids in tokenizer(documents[:20], verbose=False).input_ids for token in ids})


def test_duplicates_are_counted(documents, tokenizer):
    text = documents[0][:600]

    quality = measured([text, text.upper(), text.replace("the", "teh", 1), documents[1][:600]], tokenizer)

    assert (quality.exact_duplicates, quality.near_duplicates) == (1, 1)


def test_languages_are_told_of_texts_long_enough(tokenizer):
    texts = ["This is a sentence in plain English, and long enough to tell.", "Dies ist ein deutscher Satz, lang genug, um ihn zu erkennen.",
             "Ceci est une phrase en français, assez longue pour la reconnaître.", "short"]

    assert measured(texts, tokenizer).languages == {"en": 1, "de": 1, "fr": 1}


def test_personal_data_is_counted_by_document(tokenizer):
    texts = ["a@example.com and b@example.com", "call +1 415-555-2671 or write c@example.org", "nothing here"]

    assert measured(texts, tokenizer).personal == {"email": 2, "phone": 1}


@pytest.mark.parametrize(
    ("text", "garbled"),
    [
        ("naïve café über Ångström", False),
        ("naÃ¯ve cafÃ© Ã¼ber", True),
        ("itâ€™s broken", True),
        ("a line\nand\ttabs", False),
        ("bytes \x00\x01\x02", True),
        ("lost \ufffd\ufffd", True),
        ("日本語 עברית", False),
        ("one \ufffd in a long text " * 1 + "x" * 500, False),
    ],
)
def test_garbled_text_is_told_from_text_in_other_scripts(text, garbled):
    assert is_garbled(text) == garbled
