"""`tfgpt export`: export a run's model again with other settings, or check an exported version as a server would run it."""
from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args

from tfgpt.cli_support import DONE, FAILED, UsageError, import_tensorflow_quietly, parse, parser_of
from tfgpt.recipe import ExportConfig, ExportDevice, RecipeError, Weights
from tfgpt.recipe_file import load_recipe

COMMAND = "tfgpt export"
FORMATS = ("savedmodel", "tflite")


def export(arguments: list[str]) -> int:
    """Export a run's model, or check an export: its files, its operations, every signature and every warm-up request.

    Prints the path of the version, or the findings. What is not given is as the run's recipe has it.
    """
    given = parse(_parser(), arguments)
    if given.run and given.model:
        raise UsageError(f"{COMMAND}: {given.run} and --model {given.model}; give one of them")
    source = given.run or given.model
    if given.check:
        return _check(Path(given.check), source, given.json)
    if given.json:
        raise UsageError(f"{COMMAND}: --json goes with --check; what is exported is one path")
    if not source:
        raise UsageError(f"{COMMAND}: nothing to export; give a run's folder, such as runs/quickstart, or --check DIR")
    print(_export(source, given))
    return DONE


def _parser():
    parser = parser_of("export", export.__doc__)
    parser.add_argument("run", type=str, nargs="?", default="", help="A run's folder, or a folder with a model and its tokenizer.")
    parser.add_argument("--model", type=str, default="", help="The same; with --check the model to compare the version with.")
    parser.add_argument("--output", type=str, default="", help="Base path of all versions; default RUN/export/NAME, for tflite RUN/export/NAME-tflite.")
    parser.add_argument("--format", default="savedmodel", choices=FORMATS, help="savedmodel = for TensorFlow Serving, tflite = for LiteRT.")
    parser.add_argument("--version", type=int, default=None, help="Version; default one more than the newest there.")
    parser.add_argument("--weights", default=None, choices=get_args(Weights), help="How the matrices are kept.")
    parser.add_argument("--max-new-tokens", type=int, default=None, help="Tokens a request gets when it does not say.")
    parser.add_argument("--jit", action="store_true", default=None, help="Let XLA compile the model's reading; the server must be started with XLA.")
    parser.add_argument("--device", default=None, choices=get_args(ExportDevice), help="gpu = the tokenizer stays on the host beside a GPU.")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=None, help="Rows of the server's batches, rising; the last is the most.")
    parser.add_argument("--length-buckets", type=int, nargs="+", default=None, help="Lengths of texts, in tokens, that the server is warmed up with, rising.")
    parser.add_argument("--beams", type=int, default=None, help="Beams of the signature search; 0 = no such signature.")
    parser.add_argument("--draft", type=str, default=None, help="A smaller model with the same tokenizer, which guesses tokens; texts stay the same.")
    parser.add_argument("--draft-tokens", type=int, default=None, help="The most tokens that it guesses at once.")
    parser.add_argument("--check", type=str, default="", metavar="DIR", help="Check a version, or the newest in a base path, instead of exporting.")
    parser.add_argument("--json", action="store_true", help="With --check: print the findings as one JSON object.")
    return parser


def _export(source, given):
    """Write a version; return its path."""
    folder, recipe = Path(source), Path(source) / "recipe.yaml"
    if not folder.is_dir() and not given.output:
        raise UsageError(f"{COMMAND}: {source} is no folder; give an existing one, or for a hub id --output too")
    name, config = folder.resolve().name, ExportConfig()
    if recipe.is_file():
        loaded, _ = load_recipe(recipe)
        name, config = loaded.name, loaded.export
    is_lite = given.format == "tflite"
    base = Path(given.output) if given.output else folder / "export" / (f"{name}-tflite" if is_lite else name)
    keys = ("weights", "max_new_tokens", "jit", "device", "batch_sizes", "length_buckets", "beams", "draft", "draft_tokens")
    asked = {key: tuple(given[key]) if isinstance(given[key], list) else given[key] for key in keys if given[key] is not None}
    if is_lite and (unused := [key for key in asked if key != "weights"]):
        raise UsageError(f"{COMMAND}: --{unused[0].replace('_', '-')} is a server's, and --format tflite is for none; leave it out")
    try:
        config = dataclasses.replace(config, version=_next_version(base) if given.version is None else given.version, **asked)
        if (base / str(config.version)).exists():
            raise UsageError(f"{COMMAND}: --version {config.version}: {base / str(config.version)} is there already; give another, or remove it")
        return _write_lite(source, base, config) if is_lite else _write(source, base, config)
    except RecipeError as error:
        raise UsageError(f"{COMMAND}: {error}") from error
    except ValueError as error:
        raise UsageError(f"{COMMAND}: {source}: {error}") from error


def _next_version(base):
    versions = [int(path.name) for path in base.glob("*") if path.name.isdecimal()]
    return max(versions, default=0) + 1


def _write(source, base, config):
    import_tensorflow_quietly()
    from tfgpt.progress import progress_bar
    from tfgpt.serving.export import export as write

    text_model = _load(source, config)
    beside = {name: [path] if (path := Path(source) / name).is_file() else [] for name in ("recipe.yaml", "evaluation.json")}
    with progress_bar("export: SavedModel"):
        return write(text_model, base, config, beside["recipe.yaml"], beside["evaluation.json"])


def _write_lite(source, base, config):
    import_tensorflow_quietly()
    from tfgpt.progress import progress_bar
    from tfgpt.serving.lite_export import export_lite

    text_model = _load(source, ExportConfig())
    with progress_bar("export: LiteRT"):
        return export_lite(text_model.model, text_model.python_tokenizer, base, config.version, config.weights)


def _load(source, config):
    """Return the text model of a run's folder or of a folder with a model and its tokenizer."""
    from tfgpt.generation.loading import load_text_model

    return load_text_model(source, config.weights, draft=config.draft, draft_tokens=config.draft_tokens)


def _check(folder, source, as_json):
    """Print what is found of a version; return the exit code."""
    import_tensorflow_quietly()
    version = _version_in(folder)
    findings = list(_findings(version, source))
    ok = all(finding.ok for finding in findings)
    if as_json:
        print(json.dumps({"version": str(version), "ok": ok, "checks": [finding._asdict() for finding in findings]}, indent=2, ensure_ascii=False))
    else:
        _print_findings(version, findings, ok)
    return DONE if ok else FAILED


def _version_in(folder):
    """Return a version's folder: the one given, or the newest in the base path given."""
    from tfgpt.serving.lite_export import MODEL

    def is_version(path):
        return (path / "saved_model.pb").is_file() or (path / MODEL).is_file()

    versions = sorted((path for path in folder.glob("*") if path.name.isdecimal() and is_version(path)), key=lambda path: int(path.name))
    if not is_version(folder) and not versions:
        raise FileNotFoundError(f"{COMMAND}: --check {folder}: holds no saved_model.pb and no {MODEL}, nor does a version in it; give a version's folder")
    return folder if is_version(folder) else versions[-1]


def _findings(version, source):
    if not (version / "saved_model.pb").is_file():
        from tfgpt.serving.check_lite import check_lite

        return check_lite(version, _load(source, ExportConfig()) if source else None)
    from tfgpt.serving.check import check_version
    from tfgpt.serving.export import SETTINGS, laid_out

    written = version / "assets.extra" / SETTINGS
    if source and not written.is_file():
        raise UsageError(f"{COMMAND}: --check {version}: {written} is missing, which says in what weights to compare it with {source}; export it again")
    if not source:
        return check_version(version)
    settings = json.loads(written.read_text("utf-8"))["settings"]
    config = ExportConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()})
    text_model = _load(source, dataclasses.replace(config, draft=""))  # with which the texts are the same
    # XLA rounds products of bfloat16 elsewhere than TensorFlow does, more exactly, and a text may then go another way: only like is compared with like.
    return check_version(version, laid_out(text_model, config) if config.jit and config.weights == "bfloat16" else text_model)


def _print_findings(version, findings, ok):
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column, side in (("check", "left"), ("", "left"), ("found", "left"), ("seconds", "right")):
        table.add_column(column, justify=side, overflow="fold")
    for finding in findings:
        table.add_row(finding.check, "ok" if finding.ok else "FAILED", finding.detail, f"{finding.seconds:.2f}")
    Console(highlight=False, markup=False).print(table)
    print(f"{version}: {'everything holds' if ok else 'NOT TO BE SERVED'}")
