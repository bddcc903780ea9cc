"""Pictures of what a model does with a text: where its heads look, and what it thinks comes next."""
from __future__ import annotations

import io

import numpy as np
import tensorflow as tf

from tfgpt.text.bpe import GPT2TokenizerFast
from tfgpt.text.drawable import drawable

LONGEST = 24
"""Tokens of a picture; more cannot be read."""
LIKELIEST = 20
"""Tokens in the histogram."""
NAME_SIZE = 6
"""Of tokens beside attention, in points."""


def draw_views(model, tokenizer: GPT2TokenizerFast, text: str) -> dict[str, bytes]:
    """Return PNG pictures of the attention of the first and last layer, and of the next token's probabilities.

    Args:
        model: a `GPTLMHeadModel`.
        tokenizer: of the model.
        text: whose first tokens are looked at; read from an end-of-text token on.
    """
    ids = [tokenizer.eos_token_id, *tokenizer(text).input_ids][: min(LONGEST, model.config.n_positions)]
    output = model.transformer(input_ids=tf.constant([ids]), use_cache=False, output_attentions=True)
    logits = tf.cast(model.project(output.last_hidden_state[0, -1:])[0], tf.float32)   # [vocab]
    names = [_shown(tokenizer, token) for token in ids]
    layers = {0: output.attentions[0], model.config.n_layer - 1: output.attentions[-1]}
    pictures = {f"attention, layer {layer + 1}": _draw_attention(tf.cast(weights[0], tf.float32).numpy(), names) for layer, weights in layers.items()}
    return pictures | {"next token": _draw_next(tf.nn.softmax(logits).numpy(), tokenizer, names)}


def _draw_attention(weights: np.ndarray, names: list[str]) -> bytes:
    """Draw [heads, queries, keys], one picture for each of the first twelve heads.

    Names stand at the outer ones alone, and room is made for them by their length: drawing them takes longest, and would be done twice to measure them.
    """
    from matplotlib.figure import Figure

    heads = weights[:12]
    columns = min(len(heads), 4)
    rows = -(-len(heads) // columns)
    room = 0.15 + NAME_SIZE / 72 * max(map(len, names))                                   # inches; a letter is hardly as wide as its size
    width, height = 3 * columns + room, 3.2 * rows + room
    figure = Figure(figsize=(width, height), dpi=80)
    places = figure.add_gridspec(rows, columns, left=room / width, right=1 - 0.1 / width, bottom=room / height, top=1 - 0.25 / height, wspace=0.05, hspace=0.1)
    for number, head in enumerate(heads):
        axes = figure.add_subplot(places[divmod(number, columns)])
        axes.imshow(head, vmin=0, vmax=1, cmap="viridis")
        axes.set_title(f"head {number + 1}", fontsize=8)
        is_left, is_last = number % columns == 0, number + columns >= len(heads)
        axes.set_xticks(range(len(names)) if is_last else [], names if is_last else [], rotation=90, fontsize=NAME_SIZE)
        axes.set_yticks(range(len(names)) if is_left else [], names if is_left else [], fontsize=NAME_SIZE)
    return _png(figure)


def _draw_next(probabilities: np.ndarray, tokenizer, names: list[str]) -> bytes:
    from matplotlib.figure import Figure

    best = np.argsort(-probabilities)[:LIKELIEST]
    figure = Figure(figsize=(6, 4), dpi=80, layout="constrained")
    axes = figure.add_subplot(ylabel="probability", title="after " + "".join(names[-6:]))
    axes.bar(range(len(best)), probabilities[best])
    axes.set_xticks(range(len(best)), [_shown(tokenizer, token) for token in best], rotation=90, fontsize=7)
    return _png(figure)


def _shown(tokenizer, token) -> str:
    """Return a token's text as it can stand in a picture."""
    return drawable(repr(tokenizer.decode([int(token)]))[1:-1])


def _png(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
