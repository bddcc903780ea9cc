"""`tfgpt bench`: this package against its peers, on this machine."""
from __future__ import annotations

import json

from tfgpt.cli_support import DONE, UsageError, import_tensorflow_quietly, parse, parser_of


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


ACTIONS = {"data": data}
