"""`tfgpt evaluate`: a recipe's evaluation, models on texts and on multiple choice, and two runs beside each other."""
from __future__ import annotations

import contextlib
import inspect
import json
import math
from pathlib import Path

from tfgpt.cli_support import DONE, UsageError, import_tensorflow_quietly, parse, parser_of, recipe_and_folder
from tfgpt.recipe import RecipeError

SEED = 1
"""Of the bootstrap, so that the same answers have the same interval."""


def evaluate(arguments: list[str]) -> int:
    """Measure a model: `tfgpt evaluate RECIPE.yaml` runs a recipe as far as its evaluation and prints it; or one of these.

    `tfgpt evaluate text` measures models on texts, `tfgpt evaluate choices` on multiple choice, `tfgpt evaluate compare` two runs on what both answered.
    """
    if arguments and arguments[0] in ACTIONS:
        return ACTIONS[arguments[0]](arguments[1:])
    if arguments in (["-h"], ["--help"]):
        print(f"usage: tfgpt evaluate {{RECIPE.yaml,{','.join(ACTIONS)}}} ...\n\n{inspect.getdoc(evaluate)}\n\n"
              "Each has --help; with a recipe all its keys are options.")
        return DONE
    given = recipe_and_folder("tfgpt evaluate", evaluate.__doc__, [argument for argument in arguments if argument != "--json"])
    if given:
        import_tensorflow_quietly()
        from tfgpt import pipeline
        from tfgpt.cli_summary import print_figures

        recipe, folder = given
        if pipeline.run(recipe, folder, until="evaluate"):
            evaluation = json.loads((folder / "evaluation.json").read_text("utf-8"))
            print(json.dumps(evaluation, ensure_ascii=False)) if "--json" in arguments else print_figures(recipe, evaluation)
    return DONE


def text(arguments: list[str]) -> int:
    """Measure models on texts: loss, perplexity, bits per byte, with 95 % intervals over documents; of two models also the paired test of their difference."""
    parser = _parser("text", text.__doc__)
    parser.add_argument("--data", type=str, required=True, help="A file, folder, glob, URL or built-in corpus, as data.path of a recipe.")
    parser.add_argument("--documents", default="file", choices=["file", "block", "line"], help="What one document of a text file is.")
    parser.add_argument("--column", type=str, default="text", help="The column with the text.")
    parser.add_argument("--most", type=int, default=0, help="Documents to measure on, the first ones; 0 = all.")
    parser.add_argument("--stride", type=int, default=0,
                        help="Tokens between the windows in which a document longer than the context is read; 1 is exact, 0 = half of the context.")
    given = _parsed(parser, arguments)
    import_tensorflow_quietly()
    from tfgpt.evaluation.texts import metrics_of, read_texts, score_texts
    from tfgpt.recipe import ColumnsConfig, DataConfig

    with _in_options({"data.path": "--data", "data.documents": "--documents", "data.columns.text": "--column"}):
        texts = read_texts(DataConfig(path=given.data, documents=given.documents, columns=ColumnsConfig(text=given.column)), given.most)

    def measure(text_model, advance):
        return metrics_of(score_texts(text_model, texts, given.stride, given.batch_size, advance), texts)

    return _report(given, f"{len(texts):,} documents of {given.data}", len(texts), measure, {})


def choices(arguments: list[str]) -> int:
    """Measure models on multiple choice by the likelihood of each choice behind its prompt, with the columns prompt, choices (a list) and answer (from 0)."""
    parser = _parser("choices", choices.__doc__)
    parser.add_argument("--data", type=str, required=True, help="A .jsonl or .parquet file, a folder or glob of these, or a URL; others have no lists.")
    for name in ("prompt", "choices", "answer"):
        parser.add_argument(f"--{name}-column", type=str, default=name, help=f"The column with the {name}.")
    parser.add_argument("--most", type=int, default=0, help="Questions to measure on, the first ones; 0 = all.")
    given = _parsed(parser, arguments)
    import_tensorflow_quietly()
    from tfgpt.evaluation.harness import baselines_of, choose, metrics_of, read_questions
    from tfgpt.recipe import ColumnsConfig

    columns = ColumnsConfig(prompt=given.prompt_column, choices=given.choices_column, answer=given.answer_column)
    with _in_options({"data.path": "--data"} | {f"data.columns.{name}": f"--{name}-column" for name in ("prompt", "choices", "answer")}):
        questions = read_questions(given.data, columns, given.most)

    def measure(text_model, advance):
        return metrics_of(list(choose(text_model, questions, given.batch_size, advance)))

    return _report(given, f"{len(questions):,} questions of {given.data}", len(questions), measure, baselines_of(questions))


def compare(arguments: list[str]) -> int:
    """Compare two runs of one task on the held-out records that both answered: their figures, the difference, and the p of the paired test."""
    parser = parser_of("evaluate compare", compare.__doc__)
    parser.add_argument("runs", type=str, nargs="+", metavar="RUN", help="The folder of a run, with its answers.jsonl.")
    parser.add_argument("--json", action="store_true", help="Print it as JSON.")
    given = parse(parser, arguments)
    if len(given.runs) != 2:
        raise UsageError(f"{parser.prog}: {len(given.runs)} given; write {parser.prog} RUN RUN")
    import_tensorflow_quietly()
    from tfgpt.evaluation.metrics import compared, measured
    from tfgpt.tasks.measuring import shared_answers

    try:
        task, records, answers, answered = shared_answers(*map(Path, given.runs))
    except ValueError as error:
        raise UsageError(f"tfgpt evaluate compare: {error}") from error
    first, second = (task.metrics(records, of_run) for of_run in answers)
    found = {"records": len(records), "answered": answered, "runs": given.runs, "metrics": {
        name: {"first": measured(first[name], SEED), "second": measured(second[name], SEED), "compared": compared(first[name], second[name], SEED)}
        for name in first if name in second and not first[name].is_empty}}  # fmt: skip
    if given.json:
        print(json.dumps(found, ensure_ascii=False))
        return DONE
    if len(records) < min(answered) / 2:
        print(f"Of {answered[0]:,} and {answered[1]:,} answered records few are the same; evaluate.answers: 0 has all that are held out answered")
    print(f"{len(records):,} records that both answered\n\n{'':<26}{'first':>10}{'second':>10}{'difference':>12}  {'95 % interval':<22}p")
    for name, of in found["metrics"].items():
        low, high = of["compared"]["interval"]
        print(f"  {name:<24}{of['first']['value']:>10.4f}{of['second']['value']:>10.4f}{of['compared']['difference']:>12.4f}  {f'{low:.4f} to {high:.4f}':<22}"
              f"{of['compared']['p']:.3f}")
    return DONE


ACTIONS = {"text": text, "choices": choices, "compare": compare}


def _parser(action, description):
    parser = parser_of(f"evaluate {action}", description)
    parser.add_argument("--model", action="append", required=True, help="A run's folder, a folder with a model and its tokenizer, or a hub id; "
                        "may be given twice.")
    parser.add_argument("--batch-size", type=int, default=8, help="Texts or choices that are read together; changes the speed alone.")
    parser.add_argument("--json", action="store_true", help="Print it as JSON.")
    return parser


def _parsed(parser, arguments):
    given = parse(parser, arguments)
    if len(given.model) > 2:
        raise UsageError(f"{parser.prog}: --model is given {len(given.model)} times; give one, or two to compare")
    for key, least in (("batch_size", 1), ("most", 0), ("stride", 0)):
        if key in given and given[key] < least:
            raise UsageError(f"{parser.prog}: --{key.replace('_', '-')} {given[key]} is too small; give {least} or more")
    return given


@contextlib.contextmanager
def _in_options(names):
    """Name the options where an error names the recipe's keys that they stand for."""
    try:
        yield
    except RecipeError as error:
        message = str(error)
        for key, option in names.items():
            message = message.replace(key, option)
        raise RecipeError(message.replace(", or set data.bad_records to skip", "")) from error


def _report(given, what, total, measure, baselines):
    """Print the figures of one or two models, each beside the baselines, and the paired test of the two."""
    from tfgpt.evaluation.metrics import compared, measured
    from tfgpt.generation.loading import load_text_model
    from tfgpt.progress import progress_bar

    if not total:
        raise RecipeError(f"--data: {given.data} holds nothing to measure on; give text")
    of_models = []
    for source in given.model:
        with progress_bar(f"evaluate: {source}", total=total) as advance:
            try:
                of_models.append(measure(load_text_model(source), advance))
            except ValueError as error:
                raise UsageError(f"tfgpt evaluate: {source}: {error}") from error
    figures = [{name: measured(metric, SEED) for name, metric in of.items()} for of in (*of_models, baselines)]
    found = {"measured_on": what, "models": dict(zip(given.model, figures)), "baselines": figures[-1]}
    if len(of_models) == 2:
        found["compared"] = {name: compared(of_models[0][name], of_models[1][name], SEED) for name in of_models[0]}
    if given.json:
        print(json.dumps(found, ensure_ascii=False))
        return DONE
    print(what)
    for source, of in found["models"].items():
        print(f"\n{source}")
        for name, figure in of.items():
            interval = f"   95 %: {_shown(figure['interval'][0])} to {_shown(figure['interval'][1])}" if total > 1 else ""  # one has none
            print(f"  {name:<28}{_shown(figure['value']):>12}{interval}")
    for name, figure in found["baselines"].items():
        print(f"{'' if name != next(iter(found['baselines'])) else chr(10) + 'without a model' + chr(10)}  {name:<28}{_shown(figure['value']):>12}")
    for number, (name, of) in enumerate(found.get("compared", {}).items()):
        print(("\nfirst minus second\n" if not number else "")
              + f"  {name:<28}{_shown(of['difference']):>12}   95 %: {_shown(of['interval'][0])} to {_shown(of['interval'][1])}   p {of['p']:.3f}")
    return DONE


def _shown(value):
    return f"{value:.4f}" if math.isfinite(value) and abs(value) < 1e6 else f"{value:.4g}"
