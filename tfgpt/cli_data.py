"""`tfgpt data prepare` and `tfgpt data inspect`."""
from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from pathlib import Path

from tfgpt.cli_support import DONE, UsageError, import_tensorflow_quietly, recipe_and_folder
from tfgpt.recipe import Recipe

SAMPLE = 20_000
"""Documents of the training part that an inspection looks at, the first ones."""
SAMPLE_CHARACTERS = 10_000_000
"""Of those documents in all, at most."""
SEQUENCES_SHOWN = 3


def prepare(arguments: list[str]) -> int:
    """Prepare a recipe's data: train its tokenizer if it has none, tokenize and pack the corpus into shards; nothing is trained.

    With --beam the work is done by Apache Beam (extra tfgpt[beam]); what follows a lone -- goes to its runner, such as -- --runner FlinkRunner.
    """
    own, _, of_runner = _partition(arguments, "--")
    with_beam = "--beam" in own
    if of_runner and not with_beam:
        raise UsageError(f"tfgpt data prepare: {of_runner[0]} after -- is for Beam's runner; give --beam too")
    given = recipe_and_folder("tfgpt data prepare", prepare.__doc__, [argument for argument in own if argument != "--beam"])
    if given:
        import_tensorflow_quietly()
        from tfgpt import pipeline
        from tfgpt.data.prepare import read_stats

        if with_beam:
            try:
                from tfgpt.data.beam import prepare_with_beam
            except ModuleNotFoundError as error:
                raise UsageError("tfgpt data prepare: --beam needs the package apache-beam, which is not installed; pip install 'tfgpt[beam]'") from error

            pipeline.run(*given, until="data", prepare_data=functools.partial(prepare_with_beam, flags=of_runner))
        else:
            pipeline.run(*given, until="data")
        _check_shards(given[1])
        _print_table(read_stats(given[1] / "data"))
    return DONE


def inspect(arguments: list[str]) -> int:
    """Say whether a recipe's data is enough, clean and relevant, and show some of it; prepares it first if that is not yet done.

    Looks at the first 20,000 documents of the training part. With --json the findings are printed as JSON.
    """
    given = recipe_and_folder("tfgpt data inspect", inspect.__doc__, [argument for argument in arguments if argument != "--json"])
    if given:
        recipe, folder = given
        import_tensorflow_quietly()
        from tfgpt import pipeline
        from tfgpt.data.prepare import read_stats
        from tfgpt.stages.publish import with_folders

        recipe = with_folders(recipe)
        pipeline.run(recipe, folder, until="data")
        _check_shards(folder)
        stats = read_stats(folder / "data")
        quality, judgements = _judge(recipe, folder, stats)
        if "--json" in arguments:
            found = {"stats": stats, "quality": _as_json(quality), "judgements": [dataclasses.asdict(one) for one in judgements]}
            print(json.dumps(found, ensure_ascii=False))
        else:
            _print_table(stats)
            _print_sequences(folder)
            _print_judgements(judgements, folder)
    return DONE


ACTIONS = {"prepare": prepare, "inspect": inspect}


def _check_shards(folder):
    """Compare the shards with their checksums, also where they were there already."""
    from tfgpt.data.shards import ShardedData

    ShardedData(folder / "data").check()


def _judge(recipe: Recipe, folder: Path, stats: dict):
    """Measure a sample of the training part and judge it; draw its lengths to inspection.png."""
    from tfgpt.data.corpus import read_corpus
    from tfgpt.data.quality import QualityCheck
    from tfgpt.evaluation.data_quality import draw_lengths, judge, plan_of
    from tfgpt.progress import progress_bar
    from tfgpt.text.bpe import load_tokenizer

    tokenizer = load_tokenizer(folder / "tokenizer")
    checker = QualityCheck(tokenizer)
    examples = read_corpus(recipe.data, chat_template=recipe.data.chat_template or tokenizer.chat_template or "")
    sample = list(_first((example for example in examples if example.split == "train"), SAMPLE, SAMPLE_CHARACTERS))
    with progress_bar("inspect: looking at documents", total=len(sample), unit="documents") as advance:
        quality = checker.measure(sample, advance)
    draw_lengths(quality, recipe.data.length, folder / "inspection.png")
    return quality, judge(quality, plan_of(recipe, tokenizer, stats["splits"]["train"], sample))


def _first(examples, most: int, most_characters: int):
    """Yield the first examples, of so many characters in all; the last one is cut there if it is a text to continue."""
    for example in itertools.islice(examples, most):
        if len(example.text) > most_characters and len(example.parts) == 1:
            example = dataclasses.replace(example, parts=((example.text[:most_characters], example.parts[0][1]),))
        yield example
        most_characters -= len(example.text)
        if most_characters <= 0:
            return


def _as_json(quality):
    quantiles = {f"{share:.0%}": int(value) for share, value in zip((0, 0.25, 0.5, 0.75, 1), _quantiles(quality.lengths))}
    return vars(quality) | {"lengths": quantiles, "tokens": quality.tokens, "bytes_per_token": quality.bytes_per_token}


def _quantiles(lengths):
    import numpy as np

    return np.quantile(lengths, (0, 0.25, 0.5, 0.75, 1))


def _print_table(stats: dict) -> None:
    """Print what became of every document, and what each split holds."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    splits = Table("part", *(("documents", "tokens", "sequences", "full", "cut")), title=f"sequences of {stats['length']} tokens", title_justify="left")
    for name, split in stats["splits"].items():
        splits.add_row(name, *(f"{split[key]:,}" for key in ("documents", "tokens", "sequences")), f"{split['fill_rate']:.1%}", f"{split['cut']:,}")
    console.print(splits)
    fates = Table("documents", "number", title="what became of them", title_justify="left")
    rows = {"read": stats["documents_read"], "empty": stats["empty"]}
    rows |= {f"refused: {reason}": number for reason, number in stats["refused"].items()}
    rows |= {f"left out: {rule}": number for rule, number in stats["filtered"].items()}
    rows |= {f"used for {split}": number for split, number in stats["used"].items()}
    rows |= {"divided between parts": stats["divided"], "normalized": stats["normalized"], "with personal data masked": stats["masked_documents"]}
    rows |= {"with characters replaced (files)": stats["files_with_invalid_utf8"]}
    for name, number in rows.items():
        if number or name == "read":
            fates.add_row(name, f"{number:,}")
    console.print(fates)
    for place in stats["refused_places"]:
        console.print(f"  {place}", style="dim", markup=False)


def _print_sequences(folder: Path) -> None:
    """Print a few packed sequences as text: what is trained on in green, history and prompts dim, a bar between documents."""
    import tensorflow as tf
    from rich.console import Console
    from rich.text import Text

    from tfgpt.data.pipeline import evaluation_batches
    from tfgpt.data.shards import ShardedData
    from tfgpt.text.bpe import load_tokenizer

    tokenizer, console = load_tokenizer(folder / "tokenizer"), Console(highlight=False)
    names = folder / "data" / "labels.txt"
    classes = names.read_text("utf-8").splitlines() if names.exists() else []
    batch = next(iter(evaluation_batches(ShardedData(folder / "data"), "train", SEQUENCES_SHOWN)))
    trained_on = "trained on" if console.is_terminal else "«trained on»"
    legend = [Text(trained_on, "green"), ", ", Text("not trained on", "dim"), ", ", Text(" ┃ ", "bold"), "the next document"]
    console.print("Sequences, decoded: ", *legend, sep="")
    for inputs, labels, segments in zip(*(tf.unstack(batch[key]) for key in ("input_ids", "labels", "segment_ids"))):
        line = Text()
        for segment in range(1, int(tf.reduce_max(segments)) + 1):
            inside = segments == segment
            line.append(" ┃ " if segment > 1 else "", "bold")
            ids, taught = inputs[inside].numpy(), labels[inside].numpy()
            shown = [(token, False) for token in ids[:1]]  # what the first label follows on
            if classes:
                line.append(tokenizer.decode(ids), "dim").append(f" -> {classes[taught[-1]]}", "green")
                continue
            shown += [(token, label >= 0) for token, label in zip([*ids[1:], taught[-1]], taught) if token >= 0]
            for trained, run in itertools.groupby(shown, key=lambda pair: pair[1]):
                text = tokenizer.decode([token for token, _ in run])
                line.append(text if console.is_terminal or not trained else f"«{text}»", "green" if trained else "dim")
        console.print(line, "\n", sep="")


def _print_judgements(judgements, folder):
    from rich.console import Console

    console = Console(highlight=False)
    for question in ("enough", "clean", "relevant"):
        mine = [judgement for judgement in judgements if judgement.question == question]
        console.print(f"Is it {question}? {'Yes.' if all(judgement.good for judgement in mine) else 'Not in all:'}", style="bold")
        for judgement in mine:
            console.print(f"  {'+' if judgement.good else '!'} {judgement.text}", style=None if judgement.good else "yellow", markup=False,
                          soft_wrap=True)
    console.print(f"Lengths of the documents: {folder / 'inspection.png'}")


def _partition(arguments, mark):
    if mark not in arguments:
        return arguments, None, []
    at = arguments.index(mark)
    return arguments[:at], mark, arguments[at + 1 :]
