"""Prepare a corpus: examples in, shards with an index and the account of every document out.

Documents are packed window by window: those that begin in the same 4 million characters of the corpus, as it is read. A window is the unit
of work and of memory, and its result depends on nothing but itself, so that another runner gives the same shards.
"""
from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tfgpt.data.corpus import examples_of, read_corpus
from tfgpt.data.encode import SequenceMaker, SplitCounts
from tfgpt.data.examples import Example
from tfgpt.data.intake import PLACES_KEPT, Account
from tfgpt.data.packing import IGNORED
from tfgpt.data.sections import in_sections
from tfgpt.data.shards import Layout, ShardWriter
from tfgpt.data.sources import inputs_sha256, passed_over
from tfgpt.files import whole_folder, write_json, write_text
from tfgpt.recipe import DataConfig, RecipeError
from tfgpt.text.bpe import GPT2TokenizerFast, with_bpe_dropout
from tfgpt.text.encode import BatchEncoder

WINDOW = 4_000_000
"""Characters of a window: some 1 million tokens, or 4,000 sequences of 256."""

NAMED = ("labels", "numbers", "tags")
"""What data.examples may be where labels have names, of which labels.txt is a list."""

TOO_LONG = "longer than a sequence"
"""Why pairs are refused, in stats.json, that no sequence takes."""

WINDOWS_AT_ONCE = 2
"""Windows in work: while the tokenizer has the cores for one, the other is packed and written."""


def prepare(
    config: DataConfig,
    tokenizer: GPT2TokenizerFast,
    folder: str | Path,
    records: Iterable[str | dict] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict:
    """Tokenize and pack a corpus; write shards, index.json, stats.json (and labels.txt) to a folder, which appears when it is whole.

    Args:
        config: of the data.
        tokenizer: gives the tokens.
        folder: replaced if it exists.
        records: texts or dicts instead of what the recipe names; taken once, but twice where classes are to be found (then not an iterator).
        advance: called for every document.

    Returns:
        What stands in stats.json.

    Raises:
        RecipeError: as `read_corpus`; or there is less text to train on than one sequence.
    """
    account, labels = Account(), ()
    if config.examples in NAMED:
        labels = find_labels(_read(config, records, Account(), tokenizer))
    examples = _counted(_read(config, records, account, tokenizer), advance)
    return write_data(config, tokenizer, Path(folder), examples, account, None if records is not None else inputs_sha256(config), labels)


def write_data(config: DataConfig, tokenizer: GPT2TokenizerFast, folder: Path, examples: Iterable[Example], account: Account, inputs: str | None,
               labels: list[str] | tuple[()] = ()) -> dict:
    """Pack examples and write all that `prepare` writes.

    Args:
        config: of the data.
        tokenizer: gives the tokens.
        folder: replaced if it exists.
        examples: split and in sections, in the order of their offsets.
        account: complete when the last example has been taken.
        inputs: SHA-256 of what they were read from; `None` = they are not what the recipe names.
        labels: names of the classes.

    Raises:
        RecipeError: there is less text to train on than one sequence.
    """
    makers = SplitMakers(config, tokenizer, labels)
    with whole_folder(folder) as partial:
        writer = ShardWriter(partial, Layout.of(config, max(len(tokenizer), len(labels))))
        counts = {split: SplitCounts() for split in config.splits()}
        for of_window in _side_by_side(lambda number, window: write_window(number, window, makers, writer), windows(examples)):
            for split, of_split in of_window.items():
                counts[split].add(of_split)
        check_enough(config, counts, writer.shards)
        writer.close()
        stats = statistics(config, len(tokenizer), account, counts, inputs)
        write_json(partial / "stats.json", stats)
        if labels:
            write_text(partial / "labels.txt", "\n".join(labels) + "\n")
    return stats


def tokenized_documents(config: DataConfig, tokenizer: GPT2TokenizerFast, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the tokens of each document of a split, int32 [tokens], and which of them, and of its end, are trained on, bool [tokens + 1].

    A section of a long text counts as a document, without its history; its end is not trained on where it is not the text's.
    """
    maker = SequenceMaker(config, BatchEncoder(tokenizer), tokenizer.eos_token_id)
    for _, examples in windows(example for example in _read(config, None, Account(), tokenizer) if example.split == split):
        tokens = maker.tokens(examples)
        borders = np.cumsum(tokens.sizes)[:-1]
        for example, inputs, labels in zip(examples, np.split(tokens.inputs, borders), np.split(tokens.labels, borders)):
            trained = labels != IGNORED
            if example.unfinished:
                inputs, trained = np.append(inputs, labels[-1]), np.append(trained, False)
            first = int(trained.argmax()) if example.continues else 0
            yield inputs[first + 1 :], trained[first:]


class SplitMakers:
    """What makes the sequences of each split: training text is tokenized with BPE dropout if the recipe says so, held-out text never.

    Args:
        config: of the data.
        tokenizer: gives the tokens.
        labels: names of the classes.
    """

    def __init__(self, config: DataConfig, tokenizer: GPT2TokenizerFast, labels: Iterable[str] = ()):
        self.config = config
        plain = BatchEncoder(tokenizer)
        training = BatchEncoder(with_bpe_dropout(tokenizer, config.bpe_dropout)) if config.bpe_dropout else plain
        self._held_out = SequenceMaker(config, plain, tokenizer.eos_token_id, labels)
        self._training = SequenceMaker(config, training, tokenizer.eos_token_id, labels)

    def sequences(self, split: str, examples: list[Example], counts: SplitCounts) -> Iterator[dict]:
        """Yield blocks of packed sequences of a split's examples, and count them."""
        config = self.config
        if split != "train":  # windows overlap by half, so that each token is scored with a history, as in a running text
            yield from self._held_out.sequences(examples, max(config.length // 2, 1), counts)
            return
        yield from self._training.sequences(examples, config.stride or config.length, counts)
        for _ in range(config.tokenizations - 1):
            again = SplitCounts()
            yield from self._training.sequences(examples, config.stride or config.length, again)
            counts.add(dataclasses.replace(again, documents=0, bytes=0, cut=0, words_cut=0))


def windows(examples: Iterable[Example]) -> Iterator[tuple[int, list[Example]]]:
    """Yield the examples window by window, each with its number."""
    for number, window in itertools.groupby(examples, key=lambda example: example.offset // WINDOW):
        yield number, list(window)


def write_window(number: int, examples: list[Example], makers: SplitMakers, writer: ShardWriter) -> dict[str, SplitCounts]:
    """Write the shards of a window, one for each split and, in a mixture with weights, each source; return what they hold."""
    weighed = makers.config.sources and makers.config.sources[0].weight is not None
    groups: dict[tuple[str, int], list[Example]] = {}
    for example in examples:
        groups.setdefault((example.split, example.source_number if weighed else 0), []).append(example)
    counts = {split: SplitCounts() for split, _ in groups}
    for (split, group), members in sorted(groups.items()):
        writer.write(split, group, number, makers.sequences(split, members, counts[split]))
    return counts


def find_labels(examples: Iterable[Example]) -> list[str]:
    """Return the classes of labelled texts or words, sorted."""
    return sort_labels({name for example in examples for name in example.label_names})


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Return labels sorted; as numbers if all of them are.

    >>> sort_labels(["10", "9"]), sort_labels(["10", "9", "x"])
    (['9', '10'], ['10', '9', 'x'])
    """
    labels = sorted(labels)
    return sorted(labels, key=int) if all(re.fullmatch(r"-?[0-9]{1,18}", label) for label in labels) else labels


def check_enough(config: DataConfig, counts: dict[str, SplitCounts], shards: list[dict]) -> None:
    """Refuse a corpus that gives less than one sequence to train on, or a source of a mixture with weights that gives nothing.

    Raises:
        RecipeError: that one.
    """
    places = counts["train"].filled // config.tokenizations
    if config.examples == "text" and places < config.length:
        raise RecipeError(f"data.path: {config.path or 'data.sources'} gives {places} tokens to train on, less than one sequence of data.length "
                          f"({config.length}); give more text, or set data.length to {places} or less")
    there = {shard["group"] for shard in shards if shard["split"] == "train"}
    for number, source in enumerate(config.sources):
        if source.weight is not None and number not in there:
            raise RecipeError(f"data.sources[{number}].weight: {source.weight}, but {source.path} gives nothing to train on; remove the source, or look at "
                              "its columns and at data.clean")


def statistics(config: DataConfig, vocab: int, account: Account, counts: dict[str, SplitCounts], inputs: str | None) -> dict:
    """Return the account of a prepared corpus, as it stands in stats.json."""
    account.cut = sum(of_split.cut for of_split in counts.values())
    for split, of_split in counts.items():
        account.used[split] -= of_split.too_long
        account.refused[TOO_LONG] += of_split.too_long
    account.refused = +account.refused  # without what is 0
    splits = {split: dataclasses.asdict(of_split) | {"fill_rate": of_split.fill_rate(config.length)} for split, of_split in counts.items()}
    others = [] if inputs is None else passed_over(config)
    return {
        "inputs_sha256": inputs,
        "files_passed_over": len(others),
        "passed_over": others[:PLACES_KEPT],
        "documents": sum(of_split.documents for of_split in counts.values()),
        **vars(account),
        "examples": config.examples,
        "length": config.length,
        "vocab": vocab,
        "tokenizations_of_train": config.tokenizations,
        "splits": splits,
    }


def read_stats(folder: Path) -> dict:
    """Return the account of the corpus that a folder of shards was made from."""
    return json.loads((folder / "stats.json").read_text("utf-8"))


def _read(config, records, account, tokenizer) -> Iterator[Example]:
    template = config.chat_template or tokenizer.chat_template or ""
    examples = read_corpus(config, account, template) if records is None else examples_of(records, config, account, template)
    return in_sections(examples) if "text" in {source.examples for source in config.all_sources()} else examples


def _counted(examples, advance) -> Iterator[Example]:
    for example in examples:
        advance()
        yield example


def _side_by_side(work, windows) -> Iterator[dict[str, SplitCounts]]:
    """Do the work of each window in a thread, a few at once, and yield the results in order."""
    with ThreadPoolExecutor(WINDOWS_AT_ONCE) as pool:
        pending: list[Future] = []
        for number, window in windows:
            pending.append(pool.submit(work, number, window))
            if len(pending) == WINDOWS_AT_ONCE:
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()
