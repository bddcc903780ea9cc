"""A corpus as examples: read, cleaned and split, in an order that depends on the recipe and its files alone."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from tfgpt.data.cleaning import Cleaner
from tfgpt.data.examples import Example, ExampleMaker
from tfgpt.data.intake import Account, Intake
from tfgpt.data.readers import Record
from tfgpt.data.sections import joined
from tfgpt.data.sources import InputFile, input_files
from tfgpt.data.split import cut_running_text, split_of
from tfgpt.recipe import DataConfig, RecipeError, SourceConfig
from tfgpt.recipe_checks import check

REPLAY_HELD_OUT = "held out of replay"
"""The rule, in stats.json, by which documents of general text are left out."""


def read_corpus(config: DataConfig, account: Account | None = None, chat_template: str = "") -> Iterator[Example]:
    """Yield the examples of a corpus, each with its split.

    A running text (see `is_running_text`) comes in sections, so that it need not fit into memory.

    Args:
        config: of the data.
        account: filled with what becomes of every record; complete when the last example has been taken.
        chat_template: Jinja; empty = data.chat_template or the default one.

    Raises:
        RecipeError: a file that is not there, a record that is refused, no text at all, or a split that comes out empty.
    """
    intake = Intake(config)
    intake.account = Account() if account is None else account
    examples = _examples(config, intake, chat_template)
    if is_running_text(config):
        needs_whole = config.clean.deduplicate != "none" or config.clean.min_chars or config.clean.max_chars
        split = _split_tail(joined(examples) if needs_whole else examples, config, intake)
    else:
        split = _split_hash(joined(examples), config, intake.account)
    yield from _cleaned(split, config, intake.account)
    check_not_empty(config, intake.account)


def all_examples(config: DataConfig, account: Account) -> Iterator[Example]:
    """Yield the examples of a corpus as they are read, whole, neither cleaned nor split.

    Args:
        config: of the data.
        account: filled with what becomes of every record.

    Raises:
        RecipeError: a file that is not there, or a record that is refused.
    """
    intake = Intake(config)
    intake.account = account
    yield from joined(_examples(config, intake, ""))


def examples_of(records: Iterable[str | dict], config: DataConfig, account: Account, chat_template: str = "") -> Iterator[Example]:
    """Yield the examples of texts or records from Python, each with its split by hash, as `read_corpus` does of a corpus.

    Args:
        records: texts, or dicts with the columns that data.columns names.
        config: of the data; where it would read from is not looked at.
        account: filled with what becomes of every record.
        chat_template: Jinja; empty = data.chat_template or the default one.

    Raises:
        RecipeError: as `read_corpus`.
    """
    check(not isinstance(records, str), "records: one text; give a list of documents, such as [text]")
    check(config.split != "tail", "data.split: tail cuts a running text that is read from files; set it to auto or hash")
    intake = Intake(config)
    intake.account = account
    maker, source = ExampleMaker(config, chat_template), SourceConfig(columns=config.columns, examples=config.examples)

    def made():
        offset = 0
        for number, value in enumerate(records, start=1):
            fields = {config.columns.text: value} if isinstance(value, str) else value
            if not isinstance(fields, Mapping):
                intake.refuse("no object", f"record {number}", f"is a {type(value).__name__}, not a text or a dict", "give texts or dicts")
                continue
            if example := maker.make(Record(fields, f"record {number}"), source, 0, intake):
                yield _placed(example, offset)
                offset += len(example.text)

    yield from _cleaned(_split_hash(made(), config, account), config, account)
    check_not_empty(config, account)


def _examples(config, intake, chat_template) -> Iterator[Example]:
    maker, offset = ExampleMaker(config, chat_template), 0
    for file in input_files(config):
        for example in file_examples(file, maker, intake):
            yield _placed(example, offset)
            offset += len(example.text)


def _placed(example, offset) -> Example:
    return dataclasses.replace(example, offset=offset, characters=len(example.text))


def file_examples(file: InputFile, maker: ExampleMaker, intake: Intake) -> Iterator[Example]:
    """Yield the examples of a file; a text file that is one document in sections."""
    for record in file.read(intake):
        if example := maker.make(record, file.source, file.source_number, intake):
            yield example


def _cleaned(examples, config, account) -> Iterator[Example]:
    cleaner = Cleaner(config.clean, account)
    for example in examples:
        if cleaned := cleaner.clean(example):
            account.used[cleaned.split] += not cleaned.continues
            yield cleaned


def is_running_text(config: DataConfig) -> bool:
    """Tell whether the held-out parts are the end of the corpus: where that is asked for, or where it is one document of text."""
    if config.split != "auto":
        return config.split == "tail"
    if config.examples != "text" or config.replayed or config.columns.split:
        return False
    documents = (example for example in _examples(config, Intake(config), "") if not example.continues)
    next(documents, None)
    return next(documents, None) is None


def _split_hash(examples, config, account) -> Iterator[Example]:
    replayed = config.replayed
    for example in examples:
        if dealt := deal(example, config, replayed, account):
            yield dealt


def deal(example: Example, config: DataConfig, replayed: frozenset[int], account: Account) -> Example | None:
    """Return an example with its split, by its record or a hash of its text; `None` for what is in no split, or held out of a replayed source: both counted.

    So the held-out parts are the task's alone, and what is held out of the same general text elsewhere (evaluate.general) is never trained on.
    """
    split = example.split or split_of(example.text, config.validation, config.test)
    if split not in config.splits():
        account.filtered["of the split test, and data.test is 0"] += 1
        return None
    if split != "train" and example.source_number in replayed:
        account.filtered[REPLAY_HELD_OUT] += 1
        return None
    return dataclasses.replace(example, split=split)


def _split_tail(examples, config, intake) -> Iterator[Example]:
    total = sum(len(example.text) for example in _examples(config, Intake(config), ""))
    borders = [("train", round(total * (1 - config.validation - config.test))), ("validation", round(total * (1 - config.test))), ("test", total)]
    start, last = 0, None
    for example in examples:
        inside = example.continues
        for split, text in cut_running_text(example.text, start, borders):
            intake.account.divided += inside and split != last
            yield dataclasses.replace(example, parts=((text, True),), split=split, continues=inside and split == last)
            inside, last = True, split
        start += len(example.text)


def check_not_empty(config: DataConfig, account: Account) -> None:
    """Refuse a corpus of which nothing is used, or nothing for one of its splits.

    Raises:
        RecipeError: that one.
    """
    where = f"data.path: {config.path}" if config.path else "data.sources: they"
    if not account.used:
        lost = ", ".join(f"{number:,} {what}" for what, number in [("empty", account.empty), *account.refused.items(), *account.filtered.items()] if number)
        raise RecipeError(f"{where} holds no text to use ({account.files} files, {account.documents_read} documents{': ' + lost if lost else ''}); "
                          "give a corpus with text in it")
    for split in config.splits():
        if not account.used[split]:
            key = "test" if split == "test" else "validation"
            raise RecipeError(f"data.{key}: a share of {getattr(config, key)} leaves no document for {split} out of {account.used.total()}; "
                              + ("set data.split to tail, give more or smaller documents (data.documents), or change the share" if config.examples == "text"
                                 else "give more records that are not all the same, or change the share"))
