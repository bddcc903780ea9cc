"""The in-graph tokenizer against GPT2TokenizerFast, id for id."""
import random

import numpy as np
import pytest
import tensorflow as tf
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import GPT2TokenizerFast

from tfgpt.text.bpe import END_OF_TEXT, char_tokenizer, train_tokenizer
from tfgpt.text.graph import LOOKED_AT, GraphTokenizer

TRICKY = [
    "", " ", "  ", "\n", " \n ", "a  b", "a \n b", "a\n\nb", "it's", "IT'S", "we'll've", "''s", " 's", "!'s", "x's!", "'", "'sabc", "1's",
    "\0", "a\0b", "\u096c", "\u0085", "\u00a0x", "\u3000y", "e\u0301", "\U0001f468\u200d\U0001f469", "שלום עולם", "中文字", "\ufffd", "\ufeff", "\u2028z",
    "\U00013b65", "½²Ⅷ", f"a{END_OF_TEXT}b", f"{END_OF_TEXT}{END_OF_TEXT}", f" {END_OF_TEXT} ", "<|endoftext|", "aaaaaaaaaaaaaaaaa", "=" * 99,
]  # fmt: skip


@pytest.fixture(scope="module")
def twin(tokenizer):
    return GraphTokenizer(tokenizer)


@pytest.fixture(scope="module")
def gpt2_twin(gpt2_tokenizer):
    return GraphTokenizer(gpt2_tokenizer)


def random_texts(count: int, seed: int) -> list[str]:
    """Texts over all of Unicode, dense in what the split pattern looks at."""
    rng = random.Random(seed)
    pools = [
        lambda: chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))),
        lambda: chr(rng.randrange(0x100)),
        lambda: rng.choice(TRICKY),
        lambda: rng.choice(" \n\t'abcst19.!"),
        lambda: chr(rng.randrange(0x20, 0x7F)),
        lambda: rng.choice((" ", "\n", "\r\n", "\t", "=", "a", "\u00a0")) * rng.randrange(2, 60),
        lambda: chr(rng.choice((rng.randrange(0x300, 0x370), rng.randrange(0x590, 0x700), rng.randrange(0x4E00, 0xA000), rng.randrange(0x1F300, 0x1FB00)))),
        lambda: chr(rng.randrange(0x20)),
    ]
    return ["".join(rng.choice(pools)() for _ in range(rng.randrange(25))) for _ in range(count)]


def assert_same_lists(ours, theirs, texts):
    different = [text for text, one, other in zip(texts, ours, theirs, strict=True) if one != other]
    assert not different, [repr(text) for text in different[:5]]


def assert_same_ids(twin, tokenizer, texts):
    graph = twin.tokenize(tf.constant([text.encode() for text in texts])).to_list()
    assert_same_lists(graph, tokenizer(texts, verbose=False).input_ids, texts)


def test_tricky_strings_get_the_ids_of_the_python_tokenizer(twin, tokenizer):
    assert_same_ids(twin, tokenizer, TRICKY)


def test_real_documents_get_the_ids_of_the_python_tokenizer(twin, tokenizer, documents):
    assert_same_ids(twin, tokenizer, documents)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_100_000_random_strings_get_the_ids_of_gpt2_and_give_their_texts_back(gpt2_twin, gpt2_tokenizer, seed):
    texts = random_texts(20_000, seed)

    ids = gpt2_twin.tokenize(tf.constant([text.encode() for text in texts]))

    assert_same_lists(ids.to_list(), gpt2_tokenizer(texts, verbose=False).input_ids, texts)
    decoded = [text.decode() for text in gpt2_twin.detokenize(ids.to_tensor(-1)).numpy()]
    assert_same_lists(decoded, [text.replace(END_OF_TEXT, "") for text in texts], texts)


def test_random_strings_get_the_ids_of_a_small_vocabulary_too(twin, tokenizer):
    assert_same_ids(twin, tokenizer, random_texts(10_000, seed=1))


def test_added_special_tokens_stand_whole_in_the_text_and_leave_none(documents):
    tokenizer = train_tokenizer(documents[:20], vocab=300, special_tokens=["<|user|>", "<|user|>x", "[a.b]*"])
    twin = GraphTokenizer(tokenizer)
    texts = ["hi<|user|>there", "<|user|>x<|user|>", " [a.b]* [a.b]", "<|user|", f"{END_OF_TEXT}<|user|>"]

    assert_same_ids(twin, tokenizer, texts)
    assert twin.detokenize(twin.tokenize(texts).to_tensor(-1)).numpy().tolist() == [b"hithere", b"", b"  [a.b]", b"<|user|", b""]


def test_a_character_vocabulary_has_a_twin(documents):
    tokenizer = char_tokenizer([*documents[:5], "naïve 日本語"])
    twin = GraphTokenizer(tokenizer)

    assert_same_ids(twin, tokenizer, [*documents[:10], "日本 naïve ñ", *random_texts(2000, seed=4)])
    assert twin.tokenize(["日本"]).row_lengths().numpy().tolist() == [2]


def test_a_character_vocabulary_without_any_merge_has_a_twin(documents):
    tokenizer = char_tokenizer(["To be, or not to be\n"])
    twin = GraphTokenizer(tokenizer)

    assert_same_ids(twin, tokenizer, ["not to be", "", *random_texts(500, seed=5)])


def test_a_special_token_that_eats_white_space_has_no_twin(documents):
    tokenizer = train_tokenizer(documents[:5], vocab=300)
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<mask>", lstrip=True)]})

    with pytest.raises(ValueError, match="'<mask>'.*lstrip"):
        GraphTokenizer(tokenizer)


def test_every_code_point_alone_and_between_letters_is_split_as_in_python(twin, tokenizer):
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000][::7]

    assert_same_ids(twin, tokenizer, ["".join(f"a{chr(point)}1 {chr(point)}'s" for point in points[n : n + 50]) for n in range(0, len(points), 50)])


def test_round_trip_gives_the_text_back(twin, documents):
    texts = [text.encode() for text in documents + [text for text in random_texts(2000, seed=2) if END_OF_TEXT not in text]]

    ids = twin.tokenize(tf.constant(texts)).to_tensor(-1)

    assert twin.detokenize(ids).numpy().tolist() == texts


def test_any_ids_can_be_detokenized_and_give_what_python_gives(twin, tokenizer):
    ids = np.random.default_rng(3).integers(-5, len(tokenizer) + 5, [5000, 12]).astype(np.int32)  # broken UTF-8, special and unknown ids

    graph = [text.decode() for text in twin.detokenize(ids).numpy()]

    assert graph == [tokenizer.decode([i for i in row if 0 <= i < len(tokenizer)], skip_special_tokens=True) for row in ids]


def test_bytes_that_are_no_utf8_are_read_as_replacement_characters(twin, tokenizer):
    assert twin.tokenize(tf.constant([b"a\xffb"])).to_list() == [tokenizer("a\ufffdb").input_ids]


def test_an_empty_batch_is_tokenized(twin):
    assert twin.tokenize(tf.constant([], tf.string)).to_list() == []


def test_a_merge_of_equal_neighbours_takes_the_first_pair(tmp_path):
    vocab = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab |= {"aa": 256, "aaaa": 257, END_OF_TEXT: 258}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "a"), ("aa", "aa")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = GPT2TokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT)

    twin = GraphTokenizer(tokenizer)

    ids = twin.tokenize(tf.constant(["aaaaaaa"])).to_list()  # 4 + 2 + 1

    assert ids == [[257, 256, vocab["a"]]]


def test_a_tokenizer_without_a_twin_is_refused():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Whitespace()

    with pytest.raises(ValueError, match="Whitespace"):
        GraphTokenizer(GPT2TokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT))


def test_code_points_that_are_not_looked_at_are_no_letters_numbers_or_white_space():
    looked_at = {point for span in LOOKED_AT for point in range(*span)}
    others = "".join(chr(point) for point in range(0x110000) if point not in looked_at and not 0xD800 <= point < 0xE000)

    pieces = pre_tokenizers.Split(Regex(r"[\p{L}\p{N}\s]+"), "removed").pre_tokenize_str(others)

    assert len(others) > 700_000 and len(pieces) == 1  # nothing was removed
