"""The text on which a model is pre-trained before its fine-tune: the task's own, without labels, or another corpus.

Nothing that the task holds out is in it. What this training itself holds out, for its curve, is a part of the same text.
"""
from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tfgpt.data.cleaning import canonical_text, digest_of
from tfgpt.data.corpus import check_not_empty, is_running_text, read_corpus
from tfgpt.data.examples import Example
from tfgpt.data.intake import Account
from tfgpt.data.prepare import write_data
from tfgpt.data.sections import in_sections
from tfgpt.data.sources import input_files, inputs_sha256
from tfgpt.data.split import split_of
from tfgpt.recipe import DataConfig, PretrainConfig, RecipeError
from tfgpt.recipe_checks import check
from tfgpt.text.bpe import GPT2TokenizerFast

HELD_OUT = "held out by the task"
"""The rule, in stats.json, by which another corpus is left without what the task is measured on."""
TELLING_LINE = 40
"""Characters from which on a line is taken for one of the task's own texts, and not for one that stands anywhere."""


def unlabelled_data(data: DataConfig, pretrain: PretrainConfig) -> DataConfig:
    """Return how the text for pre-training is read and packed.

    Args:
        data: of the task.
        pretrain: says where the text comes from.
    """
    if not (pretrain.path or pretrain.sources):
        sources = tuple(dataclasses.replace(source, examples=None, replay=None) for source in data.sources)
        return dataclasses.replace(data, sources=sources, examples="text", long_pairs="pieces", split="hash", test=0.0)
    sources = tuple(dataclasses.replace(source, documents=source.documents or pretrain.documents) for source in pretrain.sources)
    split = data.split if data.examples == "text" else "auto"
    return dataclasses.replace(data, path=pretrain.path, sources=sources, kind="auto", documents=pretrain.documents, examples="text", long_pairs="pieces",
                               column_names=(), dataset_config="", dataset_split="train", split=split, test=0.0)


def check_unlabelled(data: DataConfig, pretrain: PretrainConfig) -> None:
    """Refuse what can be known to fail before any work.

    Raises:
        RecipeError: a corpus that is not there; or none of its own, where the task is one running text.
    """
    if pretrain.path or pretrain.sources:
        with _told_as_of_pretrain():
            input_files(unlabelled_data(data, pretrain))
    else:
        check(not is_running_text(data), "adapt.pretrain.path: empty, and the task is one running text, whose training is language modelling already; give "
              "another corpus, or set adapt.pretrain.steps to 0 and raise train.steps")


def prepare_unlabelled(data: DataConfig, pretrain: PretrainConfig, tokenizer: GPT2TokenizerFast, folder: Path,
                       advance: Callable[[], None] = lambda: None) -> dict:
    """Tokenize and pack the text for pre-training, as `tfgpt.prepare` does a corpus.

    Args:
        data: of the task.
        pretrain: says where the text comes from.
        tokenizer: gives the tokens.
        folder: replaced if it exists.
        advance: called for every document.

    Returns:
        What stands in stats.json.

    Raises:
        RecipeError: as `tfgpt.prepare`.
    """
    config, account = unlabelled_data(data, pretrain), Account()
    template = data.chat_template or tokenizer.chat_template or ""
    if not (pretrain.path or pretrain.sources):
        return write_data(config, tokenizer, folder, _counted(_of_task(data, template, account), advance), account, None)
    held = _held_out(read_corpus(data, Account(), template))
    with _told_as_of_pretrain():
        examples = in_sections(_without(held, config, account))
        return write_data(config, tokenizer, folder, _counted(examples, advance), account, inputs_sha256(config))


def documents_of(example: Example) -> Iterator[Example]:
    """Yield all text of an example of a task as documents of which every token is trained on: what an encoder reads is one of its own.

    Of choices the right one stands behind its prompt, and the wrong ones are left out.
    """
    sides = [((example.encoder_text, True),)] if example.encoder_text is not None else []
    own = example.parts if example.answer is None else example.documents[example.answer]
    for parts in (*sides, tuple((text, True) for text, _ in own)):
        yield dataclasses.replace(example, parts=parts, encoder_text=None, label=None, tags=None, answer=None)


def _of_task(data, template, account) -> Iterator[Example]:
    """Yield the documents of a task's training part; a share of them is this training's to validate on."""
    training, replayed = (example for example in read_corpus(data, Account(), template) if example.split == "train"), data.replayed
    for example in training:
        split = "train" if example.source_number in replayed else _own_split(example, data)
        for document in documents_of(example):
            account.documents_read += 1
            account.used[split] += 1
            yield from in_sections([dataclasses.replace(document, split=split)])
    check_not_empty(dataclasses.replace(data, test=0.0), account)


def _own_split(example, data):
    """Return the split of a text by another hash than the task's, by which none that the task leaves would be left to validate on."""
    return split_of(f"pretrain\0{example.text}", data.validation)


def _held_out(examples: Iterable[Example]) -> set[bytes]:
    """Return the digests of the texts that a task holds out, whole and in parts, and of their longer lines."""
    held = set()
    for example in examples:
        if example.split == "train":
            continue
        for text in (example.text, example.encoder_text or "", *(text for text, _ in example.parts)):
            held.add(_digest(text))
            held.update(_digest(line) for line in text.splitlines() if len(line) >= TELLING_LINE)
    return held


def _without(held, config, account) -> Iterator[Example]:
    """Yield the examples of a corpus without documents, and without longer lines, whose digest is among `held`."""
    running = is_running_text(config)
    anew = not running and _holds_all_of_it_out(held, config)
    for example in read_corpus(config, account):
        text = _left_of(example.text, held)
        if text.strip() or running:  # sections of a running text are counted as one document
            split = _own_split(example, config) if anew else example.split
            counted = not example.continues
            account.used[example.split] -= counted
            account.used[split] += counted
            yield dataclasses.replace(example, parts=((text, True),), split=split)
        else:
            account.used[example.split] -= 1
            account.filtered[HELD_OUT] += 1


def _holds_all_of_it_out(held, config):
    """Tell whether all documents that a corpus would be validated on are held out by the task: where it is the task's own text, dealt by the same hash."""
    return all(example.split == "train" or not _left_of(example.text, held).strip() for example in read_corpus(config))


def _left_of(text, held):
    """Return a text without the lines that are held out; nothing, where all of it is."""
    if _digest(text) in held:
        return ""
    lines = text.splitlines(keepends=True)
    kept = [line for line in lines if len(line.rstrip("\n")) < TELLING_LINE or _digest(line) not in held]
    return text if len(kept) == len(lines) else "".join(kept)


def _digest(text):
    return digest_of(canonical_text(text))


def _counted(examples, advance) -> Iterator[Example]:
    for example in examples:
        advance()
        yield example


@contextlib.contextmanager
def _told_as_of_pretrain() -> Iterator[None]:
    """Let an error name the keys under which the user gave the corpus."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(str(error).replace("data.path", "adapt.pretrain.path").replace("data.sources", "adapt.pretrain.sources")
                          .replace("data.documents", "adapt.pretrain.documents")) from error
