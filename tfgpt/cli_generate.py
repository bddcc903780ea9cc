"""`tfgpt generate`: continue prompts, or talk, with a model in this process."""
from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from tfgpt.cli_support import DONE, UsageError, import_tensorflow_quietly, parse, parser_of
from tfgpt.generation.batches import check_characters, checked_texts
from tfgpt.generation.controls import CONTROLS, DRAFT_TOKENS, SEARCHED, controls_of
from tfgpt.recipe import Engine, Weights
from tfgpt.store.place import open_store
from tfgpt.store.reference import is_reference, parse_reference

COMMAND = "tfgpt generate"
ENDS = {"false": False, "true": True, "never": "never"}
"""What --early-stopping may say, and what `TextModel.search` then gets."""


def generate(arguments: list[str]) -> int:
    """Continue prompts with a model here: one, a file of them, or a chat."""
    parser = parser_of("generate", generate.__doc__)
    parser.add_argument("--model", type=str, required=True, help="A run's folder, a folder with a model and its tokenizer, a hub id, or store://NAME[:VERSION|@STAGE].")
    parser.add_argument("--store", type=str, default="", metavar="DIR",
                        help="The store's folder for store://; default the environment's TFGPT_STORE, else ~/.tfgpt/store.")
    parser.add_argument("--weights", default="float32", choices=get_args(Weights),
                        help="How the matrices are kept: fewer bits are smaller and faster, less exact; int8 is for x86 CPUs, or --engine lite.")
    parser.add_argument("--engine", default="graph", choices=get_args(Engine),
                        help="What computes: graph = TensorFlow, on any device; lite = LiteRT, faster on a CPU, with float32 or int8.")
    parser.add_argument("--draft", type=str, default="",
                        help="A smaller model with the same tokenizer, given as --model is: it guesses tokens. The same text, sooner if often right.")
    parser.add_argument("--draft-tokens", type=int, default=DRAFT_TOKENS, help="The most tokens that it guesses at once.")
    parser.add_argument("--draft-weights", default=None, choices=get_args(Weights),
                        help="How the draft model's matrices are kept, if not as --weights says; without --draft the model itself guesses, in these.")
    parser.add_argument("--prompt", action="append", help="A prompt; may be given again.")
    parser.add_argument("--prompts", type=str, default="", help="File of prompts: one a line, blank lines left out, or .jsonl with objects that have a prompt; "
                                                                "- = standard input.")
    parser.add_argument("--chat", action="store_true", help="Talk: each line of standard input is a turn, answered by the model; ends with the input.")
    parser.add_argument("--system", type=str, default="", help="With --chat: who the assistant is and how it is to speak; never forgotten.")
    parser.add_argument("--samples", type=int, default=1, help="Continuations of each prompt; the first has --seed, the next --seed + 1.")
    parser.add_argument("--batch-size", type=int, default=8, help="Rows that are decoded together.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object a continuation: prompt, sample, text, token_count, log_prob, finish_reason.")
    parser.add_argument("--stop", action="append", default=None, help="A continuation ends before this text; may be given again.")
    parser.add_argument("--banned-token", action="append", default=None, help="A text of one token that is never written; may be given again.")
    parser.add_argument("--forced-text", type=str, default="", help="Each continuation begins with it.")
    parser.add_argument("--log-probs", type=int, default=None, help="With --json: each token with its log-probability (nats), and so many of the likeliest.")
    _add_search(parser)
    add_controls(parser, "")
    given = parse(parser, arguments)
    controls = checked_controls(given, COMMAND)
    _check_search(given, controls)
    if [bool(given.prompt), bool(given.prompts), given.chat].count(True) != 1:
        raise UsageError(f"{COMMAND}: give one of --prompt TEXT, --prompts FILE and --chat")
    if given.system and not given.chat:
        raise UsageError(f"{COMMAND}: --system {given.system!r} is for a talk; give --chat, or write it into the prompt")
    for key in ("samples", "batch_size", "draft_tokens"):
        if given[key] < 1:
            raise UsageError(f"{COMMAND}: --{key.replace('_', '-')} {given[key]} is too small; give 1 or more")
    if given.samples > 1 and (given.chat or not controls.get("temperature")):
        raise UsageError(f"{COMMAND}: --samples {given.samples} of {'a chat' if given.chat else 'a greedy prompt, which are all the same'}; "
                         + ("give --samples 1" if given.chat else "give a --temperature above 0, such as 0.8"))
    if given.log_probs is not None and (not given.json or given.log_probs < 0):
        raise UsageError(f"{COMMAND}: --log-probs {given.log_probs}; give 0 or more, and --json")
    prompts = given.prompt or (list(_prompts_of(given.prompts)) if given.prompts else [])
    if not prompts and not given.chat:
        raise UsageError(f"{COMMAND}: --prompts {given.prompts} holds no prompt; write one a line")
    try:
        checked_texts("prompts", prompts)
        check_characters("--system", given.system)
    except ValueError as error:
        raise UsageError(f"{COMMAND}: {error}") from error
    text_model = _load(given)
    options = controls | {"stop": given.stop or (), "banned_tokens": given.banned_token or (), "forced_tokens": given.forced_text}
    options |= _search_options(given) if given.beams else {"top_log_probs": given.log_probs}
    try:
        text_model.check(options)
    except ValueError as error:
        raise UsageError(f"{COMMAND}: {error}") from error
    if given.chat:
        _talk(text_model, given.system, options, given.json)
    else:
        _continue(text_model, prompts, options, given)
    return DONE


def _add_search(parser):
    parser.add_argument("--beams", type=int, default=0,
                        help="Search for the best text with so many beams, each of which costs what a prompt does; 0 = no search, token by token.")
    parser.add_argument("--length-penalty", type=float, default=None,
                        help="With --beams: a text's score is its log-probability by its tokens to this power, -10 to 10; 0 = the likeliest wins. Default 1.0.")
    parser.add_argument("--early-stopping", default=None, nargs="?", const="true", choices=tuple(ENDS),
                        help="With --beams: when to end once as many texts have ended as there are beams: true (the option alone) = at once, false "
                             "(the default) = when the best that goes on is worse, never = when it can be no better at any length.")


def _search_options(given):
    """Return what `TextModel.search` takes beside what `TextModel.generate` does."""
    options = {"beams": given.beams, "length_penalty": given.length_penalty, "early_stopping": ENDS.get(given.early_stopping)}
    return {name: value for name, value in options.items() if value is not None}


def _check_search(given, controls):
    """Refuse what does nothing, or makes no sense, in a search."""
    if not given.beams:
        for key in ("length_penalty", "early_stopping"):
            if given[key] is not None:
                raise UsageError(f"{COMMAND}: --{key.replace('_', '-')} {given[key]} is for a search; give --beams too, such as --beams 4")
        return
    if given.beams < 0:
        raise UsageError(f"{COMMAND}: --beams {given.beams} is too small; give 1 or more, or 0 for no search")
    without = {"--chat": given.chat, "--samples": given.samples > 1, "--log-probs": given.log_probs is not None, "--draft": bool(given.draft),
               "--draft-weights": given.draft_weights is not None}
    idle = [f"--{name.replace('_', '-')}" for name in controls if name not in SEARCHED]
    if refused := [option for option, is_given in without.items() if is_given] + idle:
        raise UsageError(f"{COMMAND}: {refused[0]} has no meaning in a search; leave it out, or --beams {given.beams}")


def add_controls(parser, otherwise: str) -> None:
    """Give a parser an option for each control.

    Args:
        parser: of the command.
        otherwise: what is said about an option that is not given; "" = its neutral value.
    """
    for name, control in CONTROLS.items():
        kind = int if control.is_whole else float
        said = otherwise or f"Default {control.neutral}."
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=None, help=f"{control.help} {said}")


def checked_controls(given, command: str) -> dict[str, float]:
    """Return the controls that a command line gives.

    Raises:
        UsageError: one is out of its range.
    """
    controls = {name: given[name] for name in CONTROLS if given[name] is not None}
    try:
        controls_of(controls, rows=1)
    except ValueError as error:
        raise UsageError(f"{command}: {error}") from error
    return controls


def _prompts_of(path) -> Iterator[str]:
    """Read prompts; a blank line is none."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{COMMAND}: --prompts {path} cannot be read ({error}); give a text file in UTF-8") from error
    lines = text.removeprefix("\ufeff").split("\n")        # and at no other of Unicode's line ends, which a prompt may hold
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not path.endswith(".jsonl"):
            yield line.removesuffix("\r")
            continue
        try:
            prompt = json.loads(line)["prompt"]
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise UsageError(f'{COMMAND}: {path}, line {number}: {line[:60]!r} is no object with a prompt, such as {{"prompt": "Once"}}') from error
        if not isinstance(prompt, str):
            raise UsageError(f"{COMMAND}: {path}, line {number}: the prompt {prompt!r} is no text")
        yield prompt


def _load(given):
    """Return a `TextModel`."""
    import_tensorflow_quietly()
    from tfgpt.generation.loading import load_text_model

    model, draft = _here(given.model, given.store), _here(given.draft, given.store)
    try:
        return load_text_model(model, given.weights, given.engine, draft, given.draft_tokens, given.draft_weights)
    except ValueError as error:
        raise UsageError(f"{COMMAND}: --model {given.model}{f' --draft {given.draft}' if given.draft else ''}: {error}") from error


def _here(model, store):
    """Return where a model is: a published one is pulled, and compared with what was published."""
    if not is_reference(model):
        return model
    with contextlib.closing(open_store(store)) as opened:
        from tfgpt.store.cache import cached  # which brings the database's packages

        return cached(opened, parse_reference(model), "model")[1]


def _continue(text_model, prompts, controls, given):
    """Print a continuation of each prompt as soon as its batch is done."""
    from tfgpt.progress import progress_bar

    first, write = controls.pop("seed", CONTROLS["seed"].neutral), text_model.search if given.beams else text_model.generate
    rows = [(prompt, sample) for prompt in prompts for sample in range(given.samples)]
    with progress_bar("generate", total=len(rows), unit="continuations") as advance:
        for start in range(0, len(rows), given.batch_size):
            batch = rows[start : start + given.batch_size]
            seeds = [(first + sample + 2**63) % 2**64 - 2**63 for _, sample in batch]     # around its ends, as `samples` does
            answers = write([prompt for prompt, _ in batch], seed=seeds, **controls)
            for (prompt, sample), answer in zip(batch, answers):
                print(json.dumps({"prompt": prompt, "sample": sample} | _record(answer), ensure_ascii=False) if given.json else answer.text, flush=True)
            advance(len(batch))


def _record(answer):
    """Return a continuation as JSON's types, its tokens only if they were asked for."""
    record = answer._asdict()
    tokens = [token._asdict() for token in record.pop("tokens")]
    return record | ({"tokens": tokens} if tokens else {})


def _talk(text_model, system, options, as_json):
    """Answer each line of standard input, with as many of the turns before it as the model's context holds."""
    from tfgpt.tasks.dialogue import Dialogue

    dialogue, is_typed, forgotten = Dialogue(text_model, system), sys.stdin.isatty(), 0
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            said = input("you: " if is_typed else "")
            try:
                reply = dialogue.say(said, **options)
            except ValueError as error:
                if not is_typed:
                    raise UsageError(f"{COMMAND}: --chat: {error}") from error
                print(f"error: {error}", file=sys.stderr)  # whoever types it can say it again
                continue
            if reply.left_out > forgotten:
                forgotten = reply.left_out
                print(f"(the context is full: the first {forgotten} turns are forgotten)", file=sys.stderr)
            print(json.dumps({"prompt": said, "left_out": reply.left_out} | _record(reply.written), ensure_ascii=False) if as_json else reply.text, flush=True)
