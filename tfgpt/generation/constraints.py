"""What a caller's texts may hold, as the lists that the graph takes: stop strings, banned tokens, forced tokens."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral

import tensorflow as tf

from tfgpt.generation.batches import check_characters
from tfgpt.generation.sampling import Constraints

NO_TOKEN = -1


def constraints_of(stop: Sequence, banned_tokens: Sequence, forced_tokens: str | Sequence, rows: int, vocab: int,
                   tokens_of: Callable[[str], list[int]]) -> Constraints:
    """Return the constraints of a batch.

    Args:
        stop: texts; or one list of texts a row.
        banned_tokens: ids, or texts that are one token each; or one list of those a row.
        forced_tokens: ids, or a text; or one of these a row.
        rows: of the batch.
        vocab: how many tokens there are.
        tokens_of: gives the ids of a text.

    Raises:
        ValueError: what is no list, an empty stop string, an id that there is not, a banned text of several tokens, not as many lists as rows.
    """
    def ids_of(text):
        check_characters("banned_tokens, forced_tokens", text)
        return tokens_of(text)

    stops = _by_row("stop", stop, rows, str)
    if wrong := [text for row in stops for text in row if not isinstance(text, str) or not text]:
        raise ValueError(f"stop: {wrong[0]!r} is no text, or an empty one; give texts, or leave it out")
    for text in {text for row in stops for text in row}:
        check_characters("stop", text)
    banned = [[_one_token(item, ids_of) for item in row] for row in _by_row("banned_tokens", banned_tokens, rows, (str, Integral))]
    if isinstance(forced_tokens, str):
        forced_tokens = ids_of(forced_tokens)
    elif isinstance(forced_tokens, Iterable) and any(isinstance(row, str) for row in forced_tokens):
        forced_tokens = [ids_of(row) if isinstance(row, str) else row for row in forced_tokens]
    forced = _by_row("forced_tokens", forced_tokens, rows, Integral)
    for name, lists in (("banned_tokens", banned), ("forced_tokens", forced)):
        if wrong := [token for row in lists for token in row if not (isinstance(token, Integral) and 0 <= token < vocab)]:
            raise ValueError(f"{name}: {wrong[0]!r} is no token; give ids from 0 to {vocab - 1}, or texts")
    return Constraints(_table(stops, "", tf.string), _table(banned, NO_TOKEN, tf.int32), _table(forced, NO_TOKEN, tf.int32))


def _by_row(name, given, rows, of_item):
    """Return one list a row; a plain list of items holds for all rows."""
    if isinstance(given, str):
        raise ValueError(f"{name}: {given!r} is one text; give a list of texts, such as [text]")
    if not isinstance(given, Iterable):
        raise ValueError(f"{name}: {given!r} is no list; give one, or leave it out")
    given = list(given)
    if all(isinstance(item, of_item) for item in given):
        return [given] * rows
    if len(given) != rows:
        raise ValueError(f"{name}: {len(given)} lists for {rows} prompts; give one list for all, or one for each")
    if wrong := [row for row in given if not isinstance(row, Iterable)]:
        raise ValueError(f"{name}: {wrong[0]!r} is no list; give one list for all prompts, or one for each")
    return [list(row) for row in given]


def _one_token(item, tokens_of):
    if not isinstance(item, str):
        return item
    ids = tokens_of(item)
    if len(ids) != 1:
        raise ValueError(f"banned_tokens: {item!r} is {len(ids)} tokens; only a text that is one token can be banned")
    return ids[0]


def _table(lists, filler, dtype):
    width = max(map(len, lists), default=0)
    return tf.constant([[*row, *[filler] * (width - len(row))] for row in lists], dtype, shape=[len(lists), width])
