"""The `tfgpt` command: parses, calls, prints. TensorFlow is imported by the commands that need it, never to print help."""
from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tfgpt import cli_evaluate, cli_export, cli_generate, cli_serve
from tfgpt.cli_serve_options import HOST, PORT
from tfgpt.cli_support import DONE, FAILED, USAGE, UsageError, import_tensorflow_quietly, parse, parser_of, recipe_and_folder
from tfgpt.interrupts import EXIT_CODE, TerminatedError
from tfgpt.recipe import RecipeError
from tfgpt.store.errors import StoreError


def run(arguments: list[str]) -> int:
    """Run a recipe: from a corpus to an exported model."""
    if given := recipe_and_folder("tfgpt run", run.__doc__, arguments):
        import_tensorflow_quietly(given[0].train.lanes)
        from tfgpt import pipeline
        from tfgpt.cli_summary import print_summary

        if pipeline.run(*given):
            print_summary(*given)
    return DONE


def train(arguments: list[str]) -> int:
    """Train a recipe's model: a run as far as its training, without evaluation and export.

    With --dry-run nothing is done: the model's weights, and the memory and operations that its training takes, are printed.
    """
    given = recipe_and_folder("tfgpt train", train.__doc__, [argument for argument in arguments if argument != "--dry-run"])
    if given:
        import_tensorflow_quietly(given[0].train.lanes)
        from tfgpt import pipeline
        from tfgpt.stages.plan import training_estimate, vocabulary_of
        from tfgpt.stages.publish import with_folders

        recipe, folder = given
        if "--dry-run" in arguments:
            recipe = with_folders(recipe)
            vocab = vocabulary_of(recipe)
            _print_estimate(recipe, vocab, training_estimate(recipe, vocab))
        elif pipeline.run(recipe, folder, until="train"):
            print(f"The model is in {folder / 'model'}.")
    return DONE


def data(arguments: list[str]) -> int:
    """Prepare a corpus, or look at one: `tfgpt data prepare` packs it into shards, `tfgpt data inspect` says whether it is any good."""
    from tfgpt import cli_data

    return _act("data", data.__doc__, cli_data.ACTIONS, arguments)


def client(arguments: list[str]) -> int:
    """Ask a server: `tfgpt client generate` continues prompts, `tfgpt client score` scores texts, `tfgpt client classify` tells what a head finds."""
    return _act("client", client.__doc__, {"generate": _client_generate, "score": _client_score, "classify": _client_classify}, arguments)


def store(arguments: list[str]) -> int:
    """Publish, find, pull and promote models: the GPT store, with `tfgpt store init`, `publish`, `search`, `pull`, `promote`, `rollback` and more."""
    from tfgpt import cli_store

    return _act("store", store.__doc__, cli_store.ACTIONS, arguments)


def bench(arguments: list[str]) -> int:
    """Time this package beside its peers on this machine: `tfgpt bench data`, `train`, `generate`; its own parts: `complete`, `serve`, `store`."""
    from tfgpt import cli_bench

    return _act("bench", bench.__doc__, cli_bench.ACTIONS, arguments)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run, "train": train, "data": data, "evaluate": cli_evaluate.evaluate, "generate": cli_generate.generate, "export": cli_export.export,
    "serve": cli_serve.serve, "client": client, "store": store, "bench": bench,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit code: 0 = done, 1 = failed while running, 2 = a usage or recipe error."""
    arguments = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the remarks of its C++ part would drown ours
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("USE_TORCH", "0")  # where PyTorch is installed too, transformers would load it: 5 s and 250 MB for nothing
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # tf_keras, which transformers needs; else TensorFlow would load Keras 3 beside it
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each of its retries is a warning; what failed is said by us
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return DONE
    if arguments[0] == "--version":
        from tfgpt import __version__

        print(f"tfgpt {__version__}")
        return DONE
    try:
        if arguments[0] not in COMMANDS:
            raise UsageError(f"tfgpt: {arguments[0]} is no command; the commands are {', '.join(COMMANDS)}")
        return COMMANDS[arguments[0]](arguments[1:])
    except (RecipeError, UsageError, StoreError, FileNotFoundError) as error:
        return _say_error(error, USAGE)
    except (RuntimeError, OSError, FloatingPointError) as error:
        logging.getLogger(__name__).debug("failed", exc_info=True)
        return _say_error(error, FAILED)
    except TerminatedError as error:
        return _say_error(error, EXIT_CODE)
    except KeyboardInterrupt:
        return _say_error("interrupted; the same command goes on from the last checkpoint", FAILED)


def _act(command, description, actions, arguments):
    """Run one of a command's actions."""
    if arguments and arguments[0] in actions:
        return actions[arguments[0]](arguments[1:])
    if {"-h", "--help"} & set(arguments):
        print(f"usage: tfgpt {command} {{{','.join(actions)}}} ...\n\n{description}\nEach has --help.")
        return DONE
    raise UsageError(f"tfgpt {command}: {arguments[0] if arguments else 'nothing'} is no action; give {' or '.join(actions)}")


def _help():
    lines = [f"  {name:<8} {command.__doc__.splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: tfgpt COMMAND [options]", "", "GPT-2-family models in TensorFlow, from raw text to a served model.", "", *lines, "",
                      "tfgpt COMMAND --help explains a command; tfgpt --version prints the version."])


def _say_error(error, code):
    print(f"error: {error}", file=sys.stderr)
    return code


def _client_parser(action, description, text_help):
    parser = parser_of(f"client {action}", description)
    parser.add_argument("--url", type=str, default=f"http://{HOST}:{PORT}/v1/models/quickstart",
                        help="The model's address on the server; over gRPC grpc://HOST:PORT/NAME.")
    parser.add_argument("--prompt" if action == "generate" else "--text", action="append", required=True, help=text_help)
    parser.add_argument("--timeout-seconds", type=float, default=60.0, help="How long to wait for the answer, retries included.")
    parser.add_argument("--retries", type=int, default=2, help="How often to ask again where the server cannot be reached or is busy.")
    parser.add_argument("--json", action="store_true", help="Print all of the answer as JSON, one object a line.")
    parser.add_argument("--api-key-file", type=str, default="", help="A file with the server's key; without it the environment's TFGPT_API_KEY, if it is set.")
    parser.add_argument("--ca-certificate", type=str, default="", help="The certificate of whoever signed the server's, in PEM; for https:// and grpcs://.")
    return parser


def _client_of(given, prog):
    if given.retries < 0:
        raise UsageError(f"{prog}: --retries {given.retries} is no number of times; give 0 or more")
    key = os.environ.get("TFGPT_API_KEY")  # not on the command line, which every user of the machine can list
    if given.api_key_file:
        if not Path(given.api_key_file).is_file():
            raise UsageError(f"{prog}: --api-key-file {given.api_key_file} is not there; give a file that holds the key alone")
        key = Path(given.api_key_file).read_text("utf-8", "replace").strip()
    if given.url.startswith(("grpc://", "grpcs://")):
        import_tensorflow_quietly()  # which TensorFlow Serving's stubs are made of
    from tfgpt.serving.client import Client, ServerError

    try:
        return Client(given.url, given.timeout_seconds, given.retries, key, given.ca_certificate or None)
    except ServerError as error:  # nothing was asked yet
        raise UsageError(f"{prog}: {error}") from error


def _client_generate(arguments):
    parser = _client_parser("generate", "Continue prompts on a server.", "A prompt; may be given again.")
    cli_generate.add_controls(parser, "The model's own default when not given.")
    parser.add_argument("--stream", action="store_true", help="Print the text piece by piece as it is written; over http:// alone.")
    given = parse(parser, arguments)
    sent = cli_generate.checked_controls(given, parser.prog)
    if given.stream and given.json:
        raise UsageError(f"{parser.prog}: --stream prints text as it comes and --json whole answers; give one of them")
    client = _client_of(given, parser.prog)
    if given.stream:
        for prompt in given.prompt:
            for piece in client.stream(prompt, **sent):
                print(piece, end="", flush=True)
            print()
        return DONE
    answers = client.generate(given.prompt, **sent)
    for prompt, answer in zip(given.prompt, answers):
        print(json.dumps({"prompt": prompt} | answer, ensure_ascii=False) if given.json else answer["text"])
    return DONE


def _client_score(arguments):
    parser = _client_parser("score", "Score texts on a server: their log-probability in nats.", "A text; may be given again.")
    given = parse(parser, arguments)
    for text, answer in zip(given.text, _client_of(given, parser.prog).score(given.text)):
        line = f"log_prob {answer['log_prob']:.3f}  tokens {answer['token_count']}  perplexity {answer['perplexity']:.2f}"
        print(json.dumps({"text": text} | answer, ensure_ascii=False) if given.json else line)
    return DONE


def _client_classify(arguments):
    parser = _client_parser("classify", "Classify texts on a server, by a model with a head for classes or labels.", "A text; may be given again.")
    given = parse(parser, arguments)
    for text, answer in zip(given.text, _client_of(given, parser.prog).classify(given.text)):
        print(json.dumps({"text": text} | answer, ensure_ascii=False) if given.json else answer["label"])
    return DONE


def _print_estimate(recipe, vocab, needed):
    """Print what a training takes, one figure a line."""
    settings, before = recipe.train, recipe.adapt.pretrain.steps
    flops = needed.flops_per_token * needed.tokens_per_step
    shape = needed.shape
    rows = {
        "model": f"{shape.layers} layers of width {shape.width}, {shape.heads} heads, context {shape.context or recipe.data.length}",
        "weights": f"{needed.parameters:,} (vocabulary {vocab:,}{'' if recipe.tokenizer.init != 'train' or recipe.model.init != 'random' else ' at most'})",
        "tokens a step": f"{needed.tokens_per_step:,} ({settings.global_batch_size} sequences of {recipe.data.length})",
        "tokens in all": f"{needed.tokens_per_step * (before + settings.steps):,} ({f'{before:,} steps of pre-training and ' if before else ''}"
                         f"{settings.steps:,} steps)",
        "operations a token": f"{needed.flops_per_token / 1e6:,.1f} million (products, forward and backward)",
        "operations a step": f"{flops / 1e9:,.1f} billion",
        "operations in all": f"{flops * (before + settings.steps) / 1e15:,.3f} x 10^15",
        "memory": f"{needed.memory_bytes / 1e9:.2f} GB of tensors, and about 1 GB for TensorFlow and this program",
        "  weights, gradients, optimizer": f"{needed.weights_bytes / 1e9:.2f} GB ({settings.optimizer}, {settings.precision})",
        "  activations": f"{needed.activations_bytes / 1e9:.2f} GB",
        "  logits": f"{needed.logits_bytes / 1e9:.2f} GB",
    }
    for name, text in rows.items():
        print(f"{name:<32}{text}")
