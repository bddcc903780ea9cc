"""Word vectors of every form in a model's embeddings: which token gets which, by which map, and what stays."""
import gzip
import pickle
import shutil
import struct

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from gensim.models import FastText, KeyedVectors, Word2Vec
from gensim.models.fasttext import save_facebook_model
from transformers import GPT2LMHeadModel

from tfgpt.data.counts import token_counts
from tfgpt.data.shards import ShardedData
from tfgpt.files import file_of_package
from tfgpt.models import surgery, weights
from tfgpt.models.build import load_model
from tfgpt.models.word_vector_files import BUILT_IN, WordVectors, check_word_vectors, load_word_vectors
from tfgpt.models.word_vectors import put_one_hot, put_word_vectors, words_of_tokens

WORDS = {"the": [1.0, 0.5, -2.0], "of": [0.25, -1.5, 3.0], "and": [-0.75, 0.125, 1.0]}
FP32 = 1e-6
"""Of numbers of size 1 that were written as text or as float32."""


@pytest.fixture(scope="module")
def trained_vectors(documents):
    """Vectors of 12 dimensions of all words in some text, by gensim."""
    sentences = [text.split() for text in documents[:200]]
    return Word2Vec(sentences, vector_size=12, min_count=3, epochs=2, seed=1, workers=1).wv


@pytest.fixture(scope="module")
def vectors(trained_vectors):
    return WordVectors(dict(trained_vectors.key_to_index), trained_vectors.vectors)


def table_of(model, name="transformer.wte.weight"):
    return weights.state(model)[name]


# files


def assert_words(source):
    found = load_word_vectors(source)

    assert set(found.rows) == set(WORDS)
    for word, vector in WORDS.items():
        np.testing.assert_allclose(found.matrix[found.rows[word]], vector, atol=FP32)


def as_text(header):
    lines = [f"{len(WORDS)} 3"] * header + [" ".join([word, *map(str, vector)]) for word, vector in WORDS.items()]
    return ("\n".join(lines) + "\n").encode()


def as_binary():
    return f"{len(WORDS)} 3\n".encode() + b"".join(word.encode() + b" " + struct.pack("<3f", *vector) + b"\n" for word, vector in WORDS.items())


@pytest.mark.parametrize(("name", "content"), [
    ("glove.txt", as_text(header=False)),
    ("vectors.vec", as_text(header=True)),
    ("word2vec.txt", as_text(header=True)),
    ("GoogleNews.bin", as_binary()),
    ("any-ending", as_binary()),
])  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_files_written_by_hand_are_read(name, content, packed, tmp_path):
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(content) if packed else content)

    check_word_vectors(path)
    assert_words(path)


def test_a_model_of_fasttext_is_read_without_the_vectors_of_its_parts_of_words(tmp_path):
    model = FastText([["the", "cat", "sat"], ["the", "dog", "sat"]] * 20, vector_size=6, min_count=1, epochs=2, seed=1, workers=1, bucket=100)
    save_facebook_model(model, str(tmp_path / "cats.bin"))
    (tmp_path / "cats.bin.gz").write_bytes(gzip.compress((tmp_path / "cats.bin").read_bytes()))

    for name in ("cats.bin", "cats.bin.gz"):
        found = load_word_vectors(tmp_path / name)

        assert {"the", "cat", "dog", "sat"} <= set(found.rows) and len(found.matrix) == len(found.rows)
        np.testing.assert_allclose(found.matrix[found.rows["cat"]], model.wv["cat"], atol=1e-5)  # a mean of fp32, computed anew


def test_the_files_that_gensim_ships_are_read():
    glove, fasttext = (load_word_vectors(name) for name in BUILT_IN)
    old = load_word_vectors(file_of_package("gensim", "test/test_data/lee_fasttext.bin"))

    assert (glove.matrix.shape, fasttext.matrix.shape) == ((76, 50), (1762, 10))
    np.testing.assert_allclose(old.matrix[old.rows["the"]], fasttext.matrix[fasttext.rows["the"]], atol=1e-4)  # five digits in the text


@pytest.mark.parametrize(("content", "message"), [
    (b"the 1.0 2.0 3.0\nof 1.0 2.0\n", "is none of GloVe's text"),
    (b"the 1.0 2.0 3.0\nof 1.0 2.0 3.0\nand 1.0 2.0\n", "cannot be read"),
    (b"3 3\nthe 1.0 2.0 3.0\nof 1.0 2.0\n", "cannot be read"),
    (b"3 3\nthe 1.0 2.0 3.0\n", "cannot be read"),
    (b"2 2\nthe 1.0 nan\nof 1.0 2.0\n", "has a number that is none in the vector of 'the'"),
    (as_binary()[:40], "cannot be read"),
    (b"It was the best of times.\nIt was the worst.\n", "is none of GloVe's text"),
    (b"PK\x03\x04 a zip file", "packed files other than .gz are to be unpacked"),
    (b"", "is none of GloVe's text"),
    (struct.pack("<i", 793712314) + b"cut short", "cannot be read"),
])  # fmt: skip
def test_damaged_and_other_files_are_refused(content, message, tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=message) as error:
        load_word_vectors(path)
    assert str(error.value).startswith(f"adapt.embeddings.vectors: {path}") and "\n" not in str(error.value)


def test_a_broken_gzip_file_is_refused(tmp_path):
    (tmp_path / "a.gz").write_bytes(as_text(header=True))
    (tmp_path / "b.gz").write_bytes(gzip.compress(as_text(header=True) * 100)[:50])

    for name in ("a.gz", "b.gz"):
        with pytest.raises(ValueError, match=r"is no gzip file, or a damaged one"):
            load_word_vectors(tmp_path / name)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_what_is_pickled_is_refused_and_never_opened(protocol, trained_vectors, tmp_path):
    trained_vectors.save(str(tmp_path / "vectors.kv"))
    (tmp_path / "trap.bin").write_bytes(pickle.dumps(Trap(str(tmp_path / "was-run")), protocol))

    with pytest.raises(ValueError, match="vectors.kv is what gensim or numpy saved.*write the vectors by gensim's save_word2vec_format"):
        load_word_vectors(tmp_path / "vectors.kv")
    with pytest.raises(ValueError, match="trap.bin"):
        load_word_vectors(tmp_path / "trap.bin")
    assert not (tmp_path / "was-run").exists()


def test_a_missing_file_or_package_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="adapt.embeddings.vectors: no file /none.vec; give a file of GloVe.*gensim-glove, gensim-fasttext, or one-hot"):
        check_word_vectors("/none.vec")
    monkeypatch.setattr("tfgpt.models.word_vector_files.file_of_package", lambda package, path: None)
    with pytest.raises(RuntimeError, match=r"needs the package gensim, which is not installed; pip install 'tfgpt\[vectors\]'"):
        check_word_vectors("gensim-glove")


# tokens


def test_a_token_is_the_word_that_begins_with_it(gpt2_tokenizer):
    known = {"cat": 0, "Paris": 1, "paris": 2, "ing": 3, ".": 4, "2020": 5, "the": 6, "'s": 7, "endoftext": 8, " ": 9, "é": 10}

    found = words_of_tokens(gpt2_tokenizer, known)

    def word(token):
        return found.get(gpt2_tokenizer.convert_tokens_to_ids(token))
    assert (word("Ġcat"), word("ĠCat"), word("ĠCAT"), word("Cat"), word("cat")) == ("cat", "cat", "cat", "cat", None)
    assert (word("ĠParis"), word("Paris")) == ("Paris", "Paris")               # as it stands before lower case
    assert (word("ing"), word("Ġing"), word("The"), word("the")) == (None, "ing", "the", None)
    assert (word("."), word("Ġ."), word("2020"), word("Ġ2020")) == (".", ".", "2020", "2020")
    assert word("<|endoftext|>") is None and word("Ġé") in ("é", None)


# the map


def test_the_learned_map_is_the_least_squares_one(model, tokenizer, vectors):
    found = words_of_tokens(tokenizer, vectors.rows)
    tokens = sorted(found)
    given = torch.tensor(np.stack([vectors.matrix[vectors.rows[found[token]]] for token in tokens])).double()
    rows = torch.tensor(table_of(model)[tokens]).double()
    extended = torch.cat([given, torch.ones(len(tokens), 1, dtype=torch.float64)], dim=1)
    expected = extended @ torch.linalg.pinv(extended.T @ extended) @ extended.T @ rows

    changed, coverage = put_word_vectors(model, vectors, tokenizer)

    np.testing.assert_allclose(table_of(changed)[tokens], expected.numpy(), atol=1e-4)  # the normal equations square a condition of some hundreds
    explained = 1 - ((rows - expected) ** 2).sum() / ((rows - rows.mean(dim=0)) ** 2).sum()
    np.testing.assert_allclose(coverage.explained, float(explained), atol=1e-5)
    assert 0 < coverage.explained < 1


def test_tokens_without_a_vector_and_all_other_weights_are_kept(model, tokenizer, vectors):
    changed, coverage = put_word_vectors(model, vectors, tokenizer)

    before, after = weights.state(model), weights.state(changed)
    others = sorted(set(range(512)) - set(words_of_tokens(tokenizer, vectors.rows)))
    assert 50 < coverage.tokens == 512 - len(others)
    assert {name for name in before if (before[name] != after[name]).any()} == {"transformer.wte.weight"}
    np.testing.assert_array_equal(after["transformer.wte.weight"][others], before["transformer.wte.weight"][others])


def test_embeddings_that_are_an_image_of_the_vectors_come_back_unchanged(model, tokenizer, vectors):
    rng = np.random.default_rng(1)
    image = (vectors.matrix @ rng.normal(size=[12, 32]) + rng.normal(size=32)).astype(np.float32)
    table = table_of(model)
    for token, word in words_of_tokens(tokenizer, vectors.rows).items():
        table[token] = image[vectors.rows[word]]
    start = surgery.changed(model, weights.state(model) | {"transformer.wte.weight": table})

    changed, coverage = put_word_vectors(start, vectors, tokenizer)

    np.testing.assert_allclose(table_of(changed), table, atol=1e-4)  # numbers to 5, in fp32
    assert coverage.explained > 0.999999


def test_random_embeddings_get_vectors_with_all_their_angles_at_the_old_size(model, tokenizer, vectors):
    changed, coverage = put_word_vectors(model, vectors, tokenizer, learned=False, seed=3)

    found = words_of_tokens(tokenizer, vectors.rows)
    tokens = sorted(found)
    given = np.stack([vectors.matrix[vectors.rows[found[token]]] for token in tokens]).astype(float)
    given -= given.mean(axis=0)
    new, old = table_of(changed)[tokens].astype(float), table_of(model)[tokens].astype(float)
    scale = np.sqrt((old**2).mean() / ((given**2).sum() / new.size))
    np.testing.assert_allclose(new @ new.T, given @ given.T * scale**2, atol=1e-4 * (new @ new.T).max())  # fp32 rows
    assert coverage.explained is None
    np.testing.assert_array_equal(table_of(put_word_vectors(model, vectors, tokenizer, False, seed=3)[0]), table_of(changed))
    assert (table_of(put_word_vectors(model, vectors, tokenizer, False, seed=4)[0]) != table_of(changed)).any()


def test_vectors_wider_than_a_random_model_keep_what_they_vary_most_in(tokenizer, model, vectors):
    rng = np.random.default_rng(2)
    wide = WordVectors(vectors.rows, np.concatenate([vectors.matrix / vectors.matrix.std(), 1e-3 * rng.normal(size=[len(vectors.matrix), 50])], axis=1))

    narrow_result, wide_result = (table_of(put_word_vectors(model, one, tokenizer, learned=False)[0]) for one in (vectors, wide))

    tokens = sorted(words_of_tokens(tokenizer, vectors.rows))
    products = [rows[tokens].astype(float) @ rows[tokens].astype(float).T for rows in (narrow_result, wide_result)]
    np.testing.assert_allclose(products[1], products[0], atol=0.01 * products[0].max())  # what is left out has a thousandth of the size


def test_coverage_counts_tokens_words_and_text(model, tokenizer):
    known = WordVectors({"the": 0, "of": 1, "zebra": 2}, np.eye(3, dtype=np.float32))
    counts = np.zeros(512, np.int64)
    counts[tokenizer.convert_tokens_to_ids(["Ġthe", "The", "Ġof", "Ġ"])] = [30, 10, 5, 55]

    _, coverage = put_word_vectors(model, known, tokenizer, least=2, counts=counts)

    found = words_of_tokens(tokenizer, known.rows)
    assert (coverage.dimensions, coverage.tokens, coverage.vocab, coverage.words) == (3, len(found), 512, 2)
    assert coverage.share_of_text == 0.45
    assert "for 4 of 512 tokens (2 words), 45.0% of the training text; the map explains" in str(coverage) or len(found) != 4


def test_the_tokens_of_the_training_part_are_counted(documents, tokenizer, tmp_path):
    from tfgpt.data.prepare import prepare
    from tfgpt.recipe import DataConfig

    texts = documents[:60]
    stats = prepare(DataConfig(path="python-docs", length=32, stride=32), tokenizer, tmp_path / "data", records=texts)

    counts = token_counts(ShardedData(tmp_path / "data"), 512)

    of_all = np.bincount(np.concatenate([tokenizer(text).input_ids for text in texts]), minlength=512)
    assert (counts[1:] <= of_all[1:]).all()
    assert abs(counts.sum() - stats["splits"]["train"]["tokens"]) <= stats["splits"]["train"]["documents"]


def test_too_few_words_are_refused(model, tokenizer, vectors):
    few = WordVectors({"the": 0, "of": 1}, vectors.matrix[:2])

    with pytest.raises(ValueError, match="vocabulary and vectors share 2 words, and 12 are needed to learn the map of 12 dimensions.*vectors_min_shared"):
        put_word_vectors(model, few, tokenizer)
    put_word_vectors(model, few, tokenizer, least=2)
    with pytest.raises(ValueError, match="share 0 words, and 2 are needed to be put in; give vectors of the language of the data"):
        put_word_vectors(model, WordVectors({"zebra": 0}, vectors.matrix[:1]), tokenizer, learned=False)
    with pytest.raises(ValueError, match="are the same; give others"):
        put_word_vectors(model, WordVectors({"the": 0, "of": 1}, np.ones([2, 5], np.float32)), tokenizer, learned=False)


@pytest.mark.parametrize("learned", [True, False])
def test_vectors_change_the_function_and_are_saved_read_by_pytorch_and_trained_or_frozen(learned, model, tokenizer, vectors, tmp_path):
    changed, _ = put_word_vectors(model, vectors, tokenizer, learned)
    ids = np.random.default_rng(1).integers(0, 512, [2, 20]).astype(np.int32)
    logits = changed(ids).logits.numpy()
    changed.save_pretrained(tmp_path)

    with torch.no_grad():
        theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()(torch.tensor(ids).long()).logits.numpy()
    np.testing.assert_array_equal(load_model(tmp_path)(ids).logits, logits)
    np.testing.assert_allclose(theirs, logits, atol=2e-4)  # of logits to 60: two layers of fp32 sums in another order
    assert np.abs(logits - model(ids).logits).max() > 0.1

    changed.train_only(freeze=["wte"])
    changed.compile(tf_keras.optimizers.AdamW(1e-2))
    before = weights.state(changed)
    changed.fit(tf.data.Dataset.from_tensors({"input_ids": ids[:, :-1], "labels": ids[:, 1:]}).repeat(), steps_per_epoch=2, verbose=0)
    moved = {name for name, array in weights.state(changed).items() if (array != before[name]).any()}
    assert moved == before.keys() - {"transformer.wte.weight"}


def test_an_untied_output_stays_as_it_was(model, tokenizer, vectors):
    untied = surgery.untie_output(model)

    changed, _ = put_word_vectors(untied, vectors, tokenizer)

    np.testing.assert_array_equal(table_of(changed, "lm_head.weight"), table_of(model))


# one-hot


def test_one_hot_tokens_are_orthonormal_in_a_narrow_model_as_far_as_can_be_and_as_large_as_before(model):
    changed, coverage = put_one_hot(model, seed=1)
    table, old = table_of(changed).astype(float), table_of(model).astype(float)

    columns = table.T @ table
    np.testing.assert_allclose(columns, np.eye(32) * columns[0, 0], atol=1e-5 * columns[0, 0])  # fp32 numbers
    np.testing.assert_allclose((table**2).mean(), (old**2).mean(), rtol=1e-5)
    assert (coverage.tokens, coverage.share_of_text) == (512, 1.0)


def test_one_hot_tokens_are_unit_vectors_in_a_wide_model(model):
    from tfgpt.models.vocabulary import resize_vocabulary

    small = resize_vocabulary(model, 10)

    table = table_of(put_one_hot(small)[0])

    np.testing.assert_array_equal(table / table[0, 0], np.eye(10, 32))


@pytest.mark.slow
def test_a_file_of_ones_own_goes_through_a_whole_run(trained_vectors, documents, tmp_path):
    from tests.commands import called

    trained_vectors.save_word2vec_format(str(tmp_path / "own.bin"), binary=True)
    (tmp_path / "text.txt").write_text("\n\n".join(documents[:60]), "utf-8")
    recipe = shutil.copy("pipelines/word_vectors.yaml", tmp_path)
    small = ["--data.path", tmp_path / "text.txt", "--data.length", "32", "--tokenizer.vocab", "400", "--model.width", "32", "--model.layers", "1",
             "--train.steps", "4", "--train.evaluate_every", "2", "--train.schedule.warmup_steps", "1"]

    done = called("run", recipe, "--output", tmp_path / "run", "--adapt.embeddings.vectors", tmp_path / "own.bin", *small)

    assert done.returncode == 0, done.stderr
    assert "adapt: vectors of 12 dimensions for " in done.stderr and "of the training text" in done.stderr
    start, initial = (load_model(tmp_path / "run" / "checkpoints" / name) for name in ("start", "initial"))
    assert (table_of(start) != table_of(initial)).any()


@pytest.mark.parametrize(("settings", "message"), [
    ("{embeddings: {vectors: /none.vec}}", "adapt.embeddings.vectors: no file /none.vec"),
    ("{embeddings: {vectors: gensim-glove}, reinitialize: [wte]}", "gensim-glove with adapt.reinitialize ['wte'], which would undo it"),
    ("{embeddings: {tie: true, untie: true}}", "adapt.embeddings.tie: true with adapt.embeddings.untie true"),
])  # fmt: skip
def test_vectors_that_cannot_be_are_refused_before_any_work(settings, message, tmp_path):
    from tests.commands import called

    done = called("run", "pipelines/word_vectors.yaml", "--output", tmp_path / "run", "--adapt", settings)

    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_gensims_keyed_vectors_and_ours_agree(trained_vectors, tmp_path):
    trained_vectors.save_word2vec_format(str(tmp_path / "v.txt"))

    ours, theirs = load_word_vectors(tmp_path / "v.txt"), KeyedVectors.load_word2vec_format(str(tmp_path / "v.txt"))

    np.testing.assert_array_equal(ours.matrix[ours.rows["the"]], theirs["the"])
