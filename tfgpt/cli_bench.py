"""`tfgpt bench`: this package against its peers, on this machine."""
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from tfgpt.cli_support import DONE, FAILED, UsageError, import_tensorflow_quietly, parse, parser_of


def data(arguments: list[str]) -> int:
    """Time the preparation of data: text to packed shards beside the tokenizer alone and Hugging Face datasets, and shards to batches."""
    parser = parser_of("bench data", data.__doc__)
    parser.add_argument("--megabytes", type=int, default=23, help="Text to prepare: source of the packages installed here.")
    parser.add_argument("--rounds", type=int, default=2, help="Times that each side has its turn; the best counts.")
    parser.add_argument("--tokenizer", type=str, default="", help="Folder or hub id of a tokenizer; one of 8,192 tokens is trained when not given.")
    parser.add_argument("--json", action="store_true", help="Print the figures as JSON.")
    given = parse(parser, arguments)
    for key in ("megabytes", "rounds"):
        if given[key] < 1:
            raise UsageError(f"tfgpt bench data: --{key} {given[key]} is too small; give 1 or more")
    import_tensorflow_quietly()
    from tfgpt.bench import data as bench

    result = bench.run(given.megabytes, given.rounds, given.tokenizer)
    if given.json:
        print(json.dumps(result))
        return DONE
    print(f"{result['text']['bytes'] / 1e6:.0f} MB in {result['text']['documents']:,} documents\n")
    print(f"{'':<24}{'tokens/s':>12}{'to tfgpt':>10}{'seconds':>9}{'cores':>7}{'peak MB':>9}{'of it imports':>15}")
    ours = result["sides"]["tfgpt"]["tokens_per_second"]
    for side, row in result["sides"].items():
        print(f"  {side:<22}{row['tokens_per_second']:>12,.0f}{row['tokens_per_second'] / ours:>10.2f}{row['seconds']:>9.1f}{row['cores']:>7.2f}"
              f"{row['peak_megabytes']:>9,.0f}{row['imported_megabytes']:>15,.0f}")
    read, step = (result["reading"][f"{name}_tokens_per_second"] for name in ("batches", "step"))
    print(f"\nbatches of shards: {read:,.0f} tokens/s, {read / step:.0f} times the train step's {step:,.0f} (8 x 256 tokens, 4 layers of width 256)")
    return DONE


def train(arguments: list[str]) -> int:
    """Time training steps: this package beside PyTorch's compiled GPT2LMHeadModel and transformers' TFGPT2LMHeadModel, in turns.

    With --texts: the same model of this package on packed batches and on padded ones, by tokens that are trained on.
    """
    from tfgpt.bench import train as bench

    parser = parser_of("bench train", train.__doc__)
    parser.add_argument("--model", default="small", choices=list(bench.MODELS),
                        help="small = 4 layers of width 256, vocabulary 8,192, 8 x 256 tokens a step; gpt2 = GPT-2 of 124 million weights, 4 x 256 tokens; "
                             "char = 4 layers of width 128, 257 characters, 12 x 64 of them, whose steps are so short that --steps 100 times them better.")
    parser.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16"], help="Of matrix products, on all sides.")
    parser.add_argument("--texts", type=str, default="", help="File of texts, one a line; a .tsv's last column. Compares packed with padded batches.")
    parser.add_argument("--rounds", type=int, default=8, help="Times that each side has its turn; medians count.")
    parser.add_argument("--steps", type=int, default=4, help="Optimizer steps in a turn.")
    parser.add_argument("--json", action="store_true", help="Print the figures as JSON.")
    given = parse(parser, arguments)
    for key in ("rounds", "steps"):
        if given[key] < 1:
            raise UsageError(f"tfgpt bench train: --{key} {given[key]} is too small; give 1 or more")
    settings = dataclasses.replace(bench.MODELS[given.model], precision=given.precision)
    if given.texts:
        lines = Path(given.texts).read_text("utf-8").splitlines()
        texts = [line.rpartition("\t")[2] for line in lines if line.strip()]
        if len(texts) < settings.batch:
            raise UsageError(f"tfgpt bench train: --texts {given.texts} has {len(texts)} texts; give a file of {settings.batch} or more, one a line")
        result = bench.run_on_texts(texts, settings, given.rounds, given.steps)
    else:
        result = bench.run(settings, given.rounds, given.steps)
    if given.json:
        print(json.dumps(result))
        return DONE
    first = next(iter(result))
    print(f"{'':<26}{'tokens/s':>10}{f'to {first}':>12}{'ms/step':>10}{'peak MB':>10}")
    for side, row in result.items():
        print(f"  {side:<24}{row['tokens_per_second']:>10,.0f}{row['to_first']:>12.2f}{row['milliseconds']:>10,.0f}{row['peak_megabytes']:>10,.0f}")
    return DONE


def generate(arguments: list[str]) -> int:
    """Time greedy decoding of the same random weights: this package beside TFGPT2LMHeadModel, PyTorch's GPT2LMHeadModel and CTranslate2, in turns.

    Prompts of 32 tokens, 64 new ones in every row.
    """
    from tfgpt.bench import generate as bench

    parser = parser_of("bench generate", generate.__doc__)
    parser.add_argument("--model", default="gpt2", choices=list(bench.MODELS),
                        help="gpt2 = GPT-2 of 124 million weights; small = 4 layers of width 256, vocabulary 8,192.")
    parser.add_argument("--batch", type=int, nargs="+", default=list(bench.BATCHES), help="Rows that are decoded together; several are timed one by one.")
    parser.add_argument("--rounds", type=int, default=5, help="Times that each side has its turn, one generation; medians count.")
    parser.add_argument("--json", action="store_true", help="Print the figures as JSON.")
    given = parse(parser, arguments)
    for key, number in [("rounds", given.rounds), *(("batch", batch) for batch in given.batch)]:
        if number < 1:
            raise UsageError(f"tfgpt bench generate: --{key} {number} is too small; give 1 or more")
    settings = bench.MODELS[given.model]
    result = bench.run(settings, tuple(given.batch), given.rounds)
    if given.json:
        print(json.dumps(result))
        return DONE
    first, width = next(iter(bench.SIDES)), max(map(len, bench.SIDES))
    for batch, sides in result.items():
        print(f"batch {batch}\n  {'':<{width}}{'tokens/s':>10}{f'to {first}':>18}{'ms/step':>10}{'first call s':>14}{'peak MB':>10}")
        for side, row in sides.items():
            print(f"  {side:<{width}}{row['tokens_per_second']:>10,.0f}{row['to_first']:>18.2f}{row['milliseconds']:>10,.1f}{row['first_call_seconds']:>14.1f}"
                  f"{row['peak_megabytes']:>10,.0f}")
    return DONE


def serve(arguments: list[str]) -> int:
    """Time a server: tokens per second for one client and for many, and how soon the first token comes, over OpenAI's protocol (streams) and REST predict.

    With --requests: then that many mixed requests, some malformed, some from clients that leave, while versions are swapped. Every answer is compared with
    the text that the model gives by itself; the command fails if one is lost or wrong.
    """
    parser = parser_of("bench serve", serve.__doc__)
    parser.add_argument("--export", type=str, default="", metavar="DIR",
                        help="Base path of an exported model, above the numbers; a model of 4 layers of width 256 with random weights is made when not given.")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16], help="Clients that ask at once; several are timed in turns.")
    parser.add_argument("--rounds", type=int, default=5, help="Times that each number of clients has its turn, 8 texts a client; medians count.")
    parser.add_argument("--new-tokens", type=int, default=64, help="Tokens that each text gets.")
    parser.add_argument("--requests", type=int, default=0, help="Mixed requests afterwards, such as 10000, which take about 10 minutes; 0 = none.")
    parser.add_argument("--swaps", type=int, default=6, help="Of versions during the last 30 % of these requests, beside one in the warm-up; 0 = none.")
    parser.add_argument("--json", action="store_true", help="Print the figures as JSON.")
    given = parse(parser, arguments)
    for key, number in [("rounds", given.rounds), ("new-tokens", given.new_tokens), *(("clients", clients) for clients in given.clients)]:
        if number < 1:
            raise UsageError(f"tfgpt bench serve: --{key} {number} is too small; give 1 or more")
    for key in ("requests", "swaps"):
        if given[key] < 0:
            raise UsageError(f"tfgpt bench serve: --{key} {given[key]} is too small; give 0 or more")
    import_tensorflow_quietly()
    from tfgpt.bench import serve as bench

    load = bench.Load(tuple(given.clients), given.rounds, given.new_tokens, given.requests, given.swaps)
    result = bench.run(load, Path(given.export) if given.export else None)
    soak = result["soak"]
    if given.json:
        print(json.dumps(result))
    else:
        _print_served(result["protocols"])
        if soak is not None:
            _print_soak(soak)
    return FAILED if soak is not None and (soak["lost"] or soak["wrong"]) else DONE


def _print_served(protocols):
    for protocol, rows in protocols.items():
        print(f"{protocol}\n{'clients':>9}{'tokens/s':>10}{f'to {next(iter(rows))}':>8}{'first token: p50 ms':>21}{'p99 ms':>8}{'p99/p50':>9}")
        for clients, row in rows.items():
            waits = [row["first_token_p50_seconds"], row["first_token_p99_seconds"]]
            told = "" if None in waits else f"{waits[0] * 1000:>21,.0f}{waits[1] * 1000:>8,.0f}{row['p99_to_p50']:>9.2f}"
            print(f"{clients:>9}{row['tokens_per_second']:>10,.0f}{row['to_first']:>8.2f}{told}")


def _print_soak(soak):
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in soak["kinds"].items())
    print(f"\n{soak['requests']:,} mixed requests in {soak['seconds']:,.0f} s ({kinds}): {soak['lost']} lost, {soak['wrong']} wrong")
    for told in soak["told"]:
        print(f"  {told}")
    warm, steady, swapped = (soak["memory_megabytes"][part] for part in ("warm-up", "steady", "swaps"))
    print(f"server's memory: {warm:,.0f} MB after the warm-up, {steady:,.0f} MB then ({soak['steady_growth']:+.1%}), "
          f"{swapped:,.0f} MB after {soak['swaps']} swaps of versions ({soak['swaps_growth']:+.1%})")


def complete(arguments: list[str]) -> int:
    """Time auto-complete: what a keystroke takes, with its suggestions, while Python's reference is typed."""
    parser = parser_of("bench complete", complete.__doc__)
    parser.add_argument("--model", type=str, default="", metavar="RUN",
                        help="A run's folder; a model of 4 layers of width 256, vocabulary 8,192, with random weights is made when not given.")
    parser.add_argument("--characters", type=int, default=2000, help="That are typed.")
    parser.add_argument("--json", action="store_true", help="Print the figures as JSON.")
    given = parse(parser, arguments)
    if given.characters < 1:
        raise UsageError(f"tfgpt bench complete: --characters {given.characters} is too small; give 1 or more")
    import_tensorflow_quietly()
    from tfgpt.bench import complete as bench

    result = bench.run(Path(given.model) if given.model else None, given.characters)
    if given.json:
        print(json.dumps(result))
        return DONE
    print(f"{result['keystrokes']:,} keystrokes, model of {result['parameters']:,} weights: p50 {result['p50_milliseconds']:.1f} ms, "
          f"p95 {result['p95_milliseconds']:.1f} ms, the longest {result['most_milliseconds']:.1f} ms")
    return DONE


def store(arguments: list[str]) -> int:
    """Time searches in a store of many models, which are made up, with words, filters and orders of all kinds."""
    parser = parser_of("bench store", store.__doc__)
    parser.add_argument("--models", type=int, default=10_000, help="That are published first.")
    parser.add_argument("--searches", type=int, default=1000, help="That are timed.")
    parser.add_argument("--database", type=str, default="", metavar="URL",
                        help="Of an empty database of PostgreSQL; SQLite in a temporary folder when not given.")
    parser.add_argument("--json", action="store_true", help="Print the figures as JSON.")
    given = parse(parser, arguments)
    for key in ("models", "searches"):
        if given[key] < 1:
            raise UsageError(f"tfgpt bench store: --{key} {given[key]} is too small; give 1 or more")
    from tfgpt.bench import store as bench

    result = bench.run(given.models, given.searches, given.database)
    if given.json:
        print(json.dumps(result))
        return DONE
    print(f"{result['database']}, {result['models']:,} models published in {result['publish_seconds']:,.0f} s; {result['searches']:,} searches: "
          f"p50 {result['p50_milliseconds']:.1f} ms, p95 {result['p95_milliseconds']:.1f} ms, the longest {result['most_milliseconds']:.1f} ms")
    return DONE


ACTIONS = {"data": data, "train": train, "generate": generate, "serve": serve, "complete": complete, "store": store}
