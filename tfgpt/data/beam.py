"""The preparation of `prepare` as an Apache Beam pipeline: the same documents, the same shards, on any of Beam's runners.

What one process does in order is here said of places: a document's place is its file's number and its own number in that file; it is a
duplicate if one with a lower place is like it; and its window follows from the characters of all files before its own.
"""
from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, StandardOptions

from tfgpt.data import prepare as local
from tfgpt.data.cleaning import EXACT, NEAR, Cleaner, canonical_text, digest_of, min_hash, near_index
from tfgpt.data.corpus import check_not_empty, deal, file_examples, is_running_text
from tfgpt.data.encode import SplitCounts
from tfgpt.data.examples import Example, ExampleMaker
from tfgpt.data.intake import Account, Intake
from tfgpt.data.sections import in_sections, joined
from tfgpt.data.shards import Layout, ShardWriter, write_index
from tfgpt.data.sources import InputFile, input_files, inputs_sha256
from tfgpt.files import whole_folder, write_json, write_text
from tfgpt.recipe import DataConfig, RecipeError
from tfgpt.text.bpe import GPT2TokenizerFast

Place = tuple[int, int]
"""Number of a document's file, and of the document in it."""
RESULT = "result.json"


def prepare_with_beam(
    config: DataConfig,
    tokenizer: GPT2TokenizerFast,
    folder: str | Path,
    advance: Callable[[], None] = lambda: None,
    flags: Sequence[str] = (),
) -> dict:
    """Prepare a corpus as `tfgpt.prepare` does, and with the same result, by a Beam pipeline.

    Args:
        config: of the data; its split must be by hash.
        tokenizer: gives the tokens.
        folder: replaced if it exists; every worker must see it.
        advance: called once at the end for every document.
        flags: of Beam and its runner, such as `["--runner", "FlinkRunner"]`; without any the DirectRunner works in this process.

    Returns:
        What stands in stats.json.

    Raises:
        RecipeError: as `tfgpt.prepare`; or the split is by the place in a running text.
    """
    if is_running_text(config):
        raise RecipeError("data.split: a running text is cut at its tail by one process; prepare it without --beam, or set data.split to hash")
    with whole_folder(Path(folder)) as partial:
        pipeline = _pipeline(list(flags))
        try:
            with pipeline:
                _build(pipeline, config, tokenizer, partial)
        except RecipeError as error:
            raise RecipeError(str(error).split(" [while running")[0]) from error
        result = json.loads((partial / RESULT).read_text("utf-8"))
        (partial / RESULT).unlink()
        account = _account_of(result)
        counts = {split: SplitCounts() for split in config.splits()}
        for window in result["windows"]:
            for split, of_split in window["counts"].items():
                counts[split].add(SplitCounts(**of_split))
                account.used[split] += of_split["documents"]
        check_not_empty(config, account)
        shards = [shard for window in result["windows"] for shard in window["shards"]]
        local.check_enough(config, counts, shards)
        write_index(partial, Layout.of(config, max(len(tokenizer), len(result["labels"]))), shards)
        stats = local.statistics(config, len(tokenizer), account, counts, inputs_sha256(config))
        write_json(partial / "stats.json", stats)
        if result["labels"]:
            write_text(partial / "labels.txt", "\n".join(result["labels"]) + "\n")
    for _ in range(stats["documents_read"]):
        advance()
    return stats


def _pipeline(flags) -> beam.Pipeline:
    """Return a pipeline for a runner; flags that Beam does not know go to the job server of a runner that is named, which may."""
    options = PipelineOptions(flags)
    options.view_as(SetupOptions).save_main_session = False
    unknown = sorted(options.get_all_options(retain_unknown_options=True).keys() - options.get_all_options().keys())
    if unknown and not options.view_as(StandardOptions).runner:
        raise RecipeError(f"--beam: {' '.join(flags)} has no flag that Beam knows as {unknown[0]}; correct it, or name the --runner that takes it")
    try:
        return beam.Pipeline(options=options)
    except ValueError as error:  # an unknown runner
        raise RecipeError(f"--beam: {' '.join(str(error).split())}") from error


def _build(pipeline, config, tokenizer, folder):
    """Add all steps to a pipeline; the last writes what the others counted to RESULT."""
    template = config.chat_template or tokenizer.chat_template or ""
    read = (
        pipeline
        | "files" >> beam.Create(list(enumerate(input_files(config))))
        | "one worker a file" >> beam.Reshuffle()
        | "read" >> beam.ParDo(Read(config, template)).with_outputs("accounts", main="examples")
    )
    sizes = read.accounts | "characters of a file" >> beam.Map(lambda item: (item[0], item[1])) | "all files" >> beam.combiners.ToList()
    before = beam.pvalue.AsSingleton(sizes | "characters before a file" >> beam.Map(_characters_before))
    accounts = read.accounts | "accounts" >> beam.Map(lambda item: (item[0], item[2]))
    used, later_accounts = _deduplicated(read.examples, config)
    labels = beam.pvalue.AsSingleton(
        used | "labels" >> beam.FlatMap(lambda item: item[1].label_names) | beam.Distinct() | "to a list" >> beam.combiners.ToList()
        | beam.Map(local.sort_labels)
    )
    windows = (
        used
        | "window of each" >> beam.FlatMap(_windows_of, before)
        | "windows" >> beam.GroupByKey()
        | "write" >> beam.ParDo(Write(config, tokenizer, folder), labels)
    )
    accounts = (accounts, later_accounts) | "all accounts" >> beam.Flatten() | "accounts to a list" >> beam.combiners.ToList()
    (
        pipeline
        | beam.Create([str(folder / RESULT)])
        | beam.Map(_write_result, beam.pvalue.AsSingleton(accounts), beam.pvalue.AsIter(windows), labels)
    )


class Read(beam.DoFn):
    """Reads a file; gives (place, example), cleaned, and what became of its records."""

    def __init__(self, config: DataConfig, chat_template: str):
        self._config, self._template = config, chat_template

    def process(self, numbered: tuple[int, InputFile]) -> Iterator:
        """Yield the examples of a file, split and cleaned, and to `accounts` (number of the file, its characters, its account)."""
        number, file = numbered
        intake, characters = Intake(self._config), 0
        cleaner = Cleaner(self._config.clean, intake.account)
        for of_file, example in enumerate(joined(file_examples(file, ExampleMaker(self._config, self._template), intake))):
            placed = dataclasses.replace(example, offset=characters, characters=len(example.text))
            characters += len(example.text)
            dealt = deal(placed, self._config, self._config.replayed, intake.account)
            if dealt is None:
                continue
            cleaned, rule = cleaner.clean_alone(dealt)
            if rule:
                intake.account.filtered[rule] += 1
            else:
                yield (number, of_file), cleaned
        yield beam.pvalue.TaggedOutput("accounts", (number, characters, intake.account))


class Write(beam.DoFn):
    """Packs a window and writes its shards; gives what they hold."""

    def __init__(self, config: DataConfig, tokenizer: GPT2TokenizerFast, folder: Path):
        self._config, self._tokenizer, self._folder = config, tokenizer, folder

    def process(self, window: tuple[int, Iterable[tuple[tuple[int, ...], Example]]], labels: list[str]) -> Iterator[dict]:
        """Yield the window's counts and its shards' entries for the index."""
        number, members = window
        examples = [example for _, example in sorted(members, key=lambda member: member[0])]
        writer = ShardWriter(self._folder, Layout.of(self._config, max(len(self._tokenizer), len(labels))))
        counts = local.write_window(number, examples, local.SplitMakers(self._config, self._tokenizer, labels), writer)
        yield {"counts": {split: vars(of_split) for split, of_split in counts.items()}, "shards": writer.shards}


def _deduplicated(examples, config):
    """Return the examples that no other one makes superfluous, and the accounts of the others."""
    if config.clean.deduplicate == "none":
        return examples, examples.pipeline | "no duplicates" >> beam.Create([])
    first, again = (
        examples
        | "by digest" >> beam.Map(lambda item: (digest_of(canonical_text(item[1].text), item[1].label), item))
        | "equal ones" >> beam.GroupByKey()
        | "keep the first" >> beam.FlatMap(_first_and_others).with_outputs("others", main="first")
    )
    superfluous = _count(again, EXACT)
    if config.clean.deduplicate == "exact":
        return first, superfluous
    near = (
        first
        | "bands" >> beam.FlatMap(_bands, near_index(config.clean).hashranges)
        | "by band" >> beam.GroupByKey()
        | "compare" >> beam.FlatMap(_near_ones, config.clean.near_threshold)
        | "each once" >> beam.Distinct()
        | "mark" >> beam.Map(lambda place: (place, None))
    )
    kept, near_ones = (
        {"example": first, "near": near}
        | "join marks" >> beam.CoGroupByKey()
        | "keep unmarked" >> beam.FlatMap(_unmarked).with_outputs("near", main="kept")
    )
    return kept, (superfluous, _count(near_ones, NEAR)) | "all duplicates" >> beam.Flatten()


def _first_and_others(group):
    members = sorted(group[1], key=lambda item: item[0])
    yield members[0]
    for other in members[1:]:
        yield beam.pvalue.TaggedOutput("others", other)


def _bands(item, hashranges):
    """Yield a document's place and MinHash under the key of each of its bands; near ones share a band."""
    place, example = item
    sketch = min_hash(canonical_text(example.text))
    for start, end in hashranges:
        yield (start, sketch.hashvalues[start:end].tobytes()), (place, sketch)


def _near_ones(group, threshold):
    """Yield the places of documents to which one with a lower place is near."""
    members = sorted(group[1], key=lambda member: member[0])
    for number, (place, sketch) in enumerate(members):
        if any(sketch.jaccard(other) >= threshold for _, other in members[:number]):
            yield place


def _unmarked(joined):
    place, found = joined
    for example in found["example"]:
        yield beam.pvalue.TaggedOutput("near", (place, example)) if found["near"] else (place, example)


def _count(items, rule):
    """Return an account for each file of what a rule leaves out."""
    numbers = items | f"files of {rule}" >> beam.Map(lambda item: (item[0][0], 1)) | f"number of {rule}" >> beam.CombinePerKey(sum)
    return numbers | f"account of {rule}" >> beam.Map(lambda item: (item[0], Account(filtered=Counter({rule: item[1]}))))


def _characters_before(sizes):
    """Return the characters of all files before each, by the file's number."""
    numbers, counts = zip(*sorted(sizes))
    return dict(zip(numbers, itertools.accumulate(counts, initial=0)))


def _windows_of(item, before):
    """Yield a document, in sections if it is long, each under the number of its window."""
    (file, number), example = item
    for place, section in enumerate(in_sections([dataclasses.replace(example, offset=before[file] + example.offset)])):
        yield section.offset // local.WINDOW, ((file, number, place), section)


def _write_result(path, accounts, windows, labels):
    in_order = sorted(accounts, key=lambda item: item[0])
    write_json(Path(path), {"accounts": [vars(account) for _, account in in_order], "windows": list(windows), "labels": labels})


def _account_of(result) -> Account:
    total = Account()
    for content in result["accounts"]:
        account = Account()
        for key, value in content.items():
            setattr(account, key, type(getattr(account, key))(value))
        total.add(account)
    return total
