"""What becomes of every document: split, example, account."""
import json

import pytest

from tfgpt.data.corpus import examples_of, read_corpus
from tfgpt.data.intake import Account
from tfgpt.recipe import CleanConfig, ColumnsConfig, DataConfig, RecipeError


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def split(config):
    parts = {}
    for example in read_corpus(config):
        parts.setdefault(example.split, []).append(example.text)
    return parts


def documents(folder, count, word):
    for number in range(count):
        (folder / f"{word}-{number:03}.txt").write_text(f"{word} {number}")


def test_the_hash_split_moves_no_document_when_others_are_added(tmp_path):
    documents(tmp_path, 300, "document")
    config = DataConfig(path=str(tmp_path), test=0.1)
    before = split(config)
    documents(tmp_path, 300, "another")

    after = split(config)

    for part in ("train", "validation", "test"):
        assert set(before[part]) < set(after[part])
    assert 35 <= len(after["validation"]) <= 85 and 35 <= len(after["test"]) <= 85  # a tenth of 600; within 3.4 standard deviations


def test_a_test_part_is_cut_from_the_training_part_alone(tmp_path):
    documents(tmp_path, 200, "document")

    without, with_test = split(DataConfig(path=str(tmp_path))), split(DataConfig(path=str(tmp_path), test=0.2))

    assert with_test["validation"] == without["validation"]
    assert sorted(with_test["train"] + with_test["test"]) == sorted(without["train"])


def test_one_document_is_split_at_its_tail_at_lines(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("".join(f"line {number}\n" for number in range(1000)))
    account = Account()

    parts = {example.split: example.text for example in read_corpus(DataConfig(path=str(path), test=0.2), account)}

    assert parts["train"] + parts["validation"] + parts["test"] == path.read_text()
    assert all(part.endswith("\n") for part in parts.values())
    assert [len(parts[name]) / len(path.read_text()) for name in ("train", "validation", "test")] == pytest.approx([0.7, 0.1, 0.2], abs=0.002)
    assert (account.documents_read, account.divided, account.used.total(), account.is_whole()) == (1, 2, 3, True)


def test_the_tail_of_many_documents_is_held_out(tmp_path):
    for number in range(100):
        (tmp_path / f"{number:02}.txt").write_text("x" * 100)

    parts = split(DataConfig(path=str(tmp_path), split="tail", validation=0.25))

    assert (len(parts["train"]), len(parts["validation"])) == (75, 25)


def test_one_pair_is_not_running_text(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "a", "target": "b"}])

    with pytest.raises(RecipeError, match="data.validation: a share of 0.1 leaves no document for"):
        list(read_corpus(DataConfig(path=path, examples="pairs")))


@pytest.mark.parametrize("content", ["", " \n\n \t\n", "\ufeff"])
def test_a_corpus_without_text_is_refused(tmp_path, content):
    (tmp_path / "a.txt").write_text(content)

    with pytest.raises(RecipeError, match=r"data.path: .*a.txt holds no text to use \(1 files"):
        list(read_corpus(DataConfig(path=str(tmp_path / "a.txt"))))


def test_a_part_that_would_be_empty_is_refused(tmp_path):
    documents(tmp_path, 3, "text")

    with pytest.raises(RecipeError, match="leaves no document for validation out of 3; set data.split to tail"):
        list(read_corpus(DataConfig(path=str(tmp_path), validation=0.0001)))


def test_pairs_train_on_the_target_of_the_columns_that_are_named(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": f"why {n}?", "reply": f"because {n}"} for n in range(30)])
    config = DataConfig(path=path, examples="pairs", columns=ColumnsConfig(prompt="question", target="reply"))

    first = next(read_corpus(config))

    assert first.parts == (("why 0?", False), ("because 0", True))
    refused = rf"{path}:1: no column 'prompt' \(columns: question, reply\); set data.columns.prompt to one of them, or set data.bad_records"
    with pytest.raises(RecipeError, match=refused):
        next(read_corpus(DataConfig(path=path, examples="pairs")))


def test_a_chat_trains_on_the_assistants_turns():
    said = (("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "?"), ("assistant", "!"))
    turns = [{"role": role, "content": text} for role, text in said]

    example = next(examples_of([{"messages": turns}], DataConfig(path="x", examples="chat"), Account()))

    assert example.text == "System: Be kind.\nUser: Hi\nAssistant: Hello<|endoftext|>\nUser: ?\nAssistant: !<|endoftext|>\n"
    assert [text for text, trained in example.parts if trained] == [" Hello<|endoftext|>", " !<|endoftext|>"]


def test_a_chat_template_of_ones_own_says_what_is_trained_on():
    template = ("{% for m in messages %}<{{ m.role }}>{% if m.role == 'bot' %}{% generation %}{{ m.content }}{% endgeneration %}"
                "{% else %}{{ m.content }}{% endif %}{% endfor %}")
    turns = [{"role": "me", "content": "Hi"}, {"role": "bot", "content": "Hello"}]

    example = next(examples_of([{"messages": turns}], DataConfig(path="x", examples="chat", chat_template=template), Account()))

    assert example.parts == (("<me>Hi<bot>", False), ("Hello", True))


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ("Hi", "column 'messages' holds a text, not a list of turns"),
        ([{"role": "user", "content": "Hi"}], "no turn of an assistant"),
        ([{"role": "user"}], "turn 0 is no object with the texts role and content"),
        (["Hi"], "turn 0 is no object with the texts role and content"),
    ],
)
def test_a_chat_that_is_none_is_refused(messages, problem):
    with pytest.raises(RecipeError, match=f"record 1: {problem}"):
        next(examples_of([{"messages": messages}], DataConfig(path="x", examples="chat"), Account()))


def test_a_template_without_marks_of_what_is_trained_on_is_refused():
    with pytest.raises(RecipeError, match=r"data.chat_template: the template .* has no {% generation %}"):
        next(examples_of([{"messages": []}], DataConfig(path="x", examples="chat", chat_template="{{ messages }}"), Account()))


def test_half_a_character_in_a_chat_is_replaced():
    turns = [{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "ok"}]

    assert next(examples_of([{"messages": turns}], DataConfig(path="x", examples="chat"), Account())).text.startswith("User: \ufffd\n")


@pytest.mark.parametrize("label", ["", "  ", None, "two\nlines", [[1]], {"a": 1}])
def test_a_label_that_is_none_is_refused(label):
    with pytest.raises(RecipeError, match="record 1: column 'label' holds .*, not a label; write a name of one line, or a number"):
        next(examples_of([{"text": "a", "label": label}], DataConfig(path="x", examples="labels"), Account()))


@pytest.mark.parametrize(
    ("records", "settings", "message"),
    [
        ("one text", {}, "records: one text; give a list of documents"),
        ([None], {}, "record 1: is a NoneType, not a text or a dict"),
        (["a"], {"split": "tail"}, "data.split: tail cuts a running text that is read from files"),
        ([{"prompt": "a", "target": "b"}] * 3, {"examples": "pairs"}, "give more records that are not all the same, or change the share"),
    ],
)
def test_records_of_python_that_are_none_are_refused(records, settings, message):
    with pytest.raises(RecipeError, match=message):
        list(examples_of(records, DataConfig(path="x", **settings), Account()))


def test_labels_may_be_names_or_numbers():
    rows = [{"text": "a", "label": label} for label in ("spam", 3, 0.5, True, " x ")]

    examples = examples_of(rows, DataConfig(path="x", examples="labels"), Account())
    labels = [next(examples).label for _ in rows]

    assert labels == ["spam", "3", "0.5", "True", "x"]


@pytest.mark.parametrize(("value", "kind"), [(5, "a whole number"), ([1], "a list"), ({"a": 1}, "an object")])
def test_a_value_that_is_no_text_is_refused_or_skipped(value, kind):
    with pytest.raises(RecipeError, match=f"record 1: column 'text' holds {kind}, not text; write it as text, or set data.bad_records to skip"):
        next(examples_of([{"text": value}], DataConfig(path="x"), Account()))


def test_half_a_character_from_a_json_escape_is_replaced_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "half \\ud83d here"}\n' + "".join(f'{{"text": "text {n}"}}\n' for n in range(30)))
    account = Account()

    first = next(read_corpus(DataConfig(path=str(path)), account))

    assert first.text == "half \ufffd here"
    assert account.replaced_characters == 1
    with pytest.raises(RecipeError, match=r":1: half a character \(U\+D83D\)"):
        next(read_corpus(DataConfig(path=str(path), invalid_utf8="refuse")))


def test_every_document_is_accounted_for(tmp_path):
    rows = [*({"text": f"document number {n} is about {n * n}"} for n in range(200)), {"text": ""}, {"text": None}, {"text": 3}, {"other": "x"}, "{broken",
            {"text": "document number 7   is about 49"}, {"text": "tiny"}, {"text": "x" * 200}, {"text": "Document  number 8 is about 64"}]
    path = write(tmp_path / "a.jsonl", rows)
    clean = CleanConfig(min_chars=10, max_chars=100, deduplicate="exact")
    account = Account()

    used = list(read_corpus(DataConfig(path=path, bad_records="skip", clean=clean, test=0.1), account))

    assert account.documents_read == len(rows) == 209
    assert account.empty == 2
    assert account.refused == {"no text": 1, "missing column": 1, "broken JSON": 1}
    assert account.filtered == {"exact duplicate": 2, "shorter than min_chars": 1, "longer than max_chars": 1}
    assert account.used.total() == len(used) == 200
    assert account.is_whole()
    assert len(account.refused_places) == 3
