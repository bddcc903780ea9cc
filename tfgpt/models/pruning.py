"""Attention heads: how much each matters, which are switched off, and which are taken away."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tfgpt.models.surgery import changed, set_dropout


def mask_heads(model, heads: Sequence[str]):
    """Return a model with these heads switched off, and all others on; it is as large as before, and heads can be switched on again.

    Args:
        model: a `GPTLMHeadModel`.
        heads: as block.head, both from 0, such as `3.11`.

    Raises:
        ValueError: a head that there is not.
    """
    _check(model, heads)
    return changed(model, masked_heads=tuple(heads))


def prune_heads(model, heads: Sequence[str]):
    """Return a model without these heads: the function of the same ones switched off, with less work and fewer weights.

    In the file of weights zeros stand in their places, so that every GPT-2 reads it.

    Args:
        model: a `GPTLMHeadModel`.
        heads: as block.head, both from 0, in the numbers of a block with all its heads.

    Raises:
        ValueError: a head that there is not, or all heads of a block.
    """
    _check(model, heads)
    gone = tuple(sorted({*heads, *model.adaptation.pruned_heads}, key=_numbers))
    masked = tuple(head for head in model.adaptation.masked_heads if head not in gone)
    for block in range(model.config.n_layer):
        if sum(block_of(head) == block for head in gone) == model.config.n_head:
            raise ValueError(f"prune_heads: block {block} would be left without a head; leave it one, or switch it off by mask_heads")
    kept = changed(model, masked_heads=masked)  # a head that is both pruned and masked is gone, and its zeros say so
    return changed(kept, pruned_heads=gone)


def head_importance(model, batches: Iterable[dict[str, tf.Tensor]]) -> dict[str, float]:
    """Return how much each head matters to the loss: the mean size of the loss's derivative by a gate on the head, over the sequences of the batches.

    Within a block the numbers are divided by their Euclidean norm, as the source advises, so that blocks can be compared.

    Args:
        model: a `GPTLMHeadModel`; its dropout is off.
        batches: packed ones.

    Returns:
        By block.head, 0 or more; 0 for a head that is switched off.

    Source: Michel et al. 2019, "Are Sixteen Heads Really Better than One?", section 4.1.
    """
    if any(getattr(model.config, rate) for rate in ("embd_pdrop", "attn_pdrop", "resid_pdrop")):
        model = set_dropout(model, 0.0)
    attentions = [block.attn for block in model.transformer.h]
    before = [attention.gates for attention in attentions]

    @tf.function(autograph=False)
    def slopes(batch):
        rows = tf.shape(batch["labels"])[0]
        gates = [tf.ones([rows, attention.n_head]) for attention in attentions]
        with tf.GradientTape() as tape:
            tape.watch(gates)
            for attention, gate, own in zip(attentions, gates, before):
                attention.gates = gate if own is None else gate * tf.constant(own)        # of a head that is off nothing can depend
            loss = model.loss_terms(batch, training=True).objective  # of the sums the one with a gradient
        return [tf.reduce_sum(tf.abs(slope), axis=0) for slope in tape.gradient(loss, gates)]

    try:
        totals = [sum(of_block) for of_block in zip(*([slope.numpy() for slope in slopes(batch)] for batch in batches))]
    finally:
        for attention, gate in zip(attentions, before):
            attention.gates = gate
    return {f"{block}.{head}": float(value) for block, of_block in enumerate(totals)
            for head, value in zip(model.adaptation.heads_of(block, model.config.n_head), of_block / max(np.linalg.norm(of_block), 1e-30))}


def least_important(importance: dict[str, float], share: float) -> list[str]:
    """Return the heads to prune: a share of all of them, rounded down, those that matter least; the last head of a block stays.

    >>> least_important({"0.0": 0.1, "0.1": 0.2, "1.0": 0.9, "1.1": 0.4}, share=0.5)
    ['0.0', '1.1']
    """
    chosen: list[str] = []
    for head in sorted(importance, key=importance.get):
        others = [one for one in importance if block_of(one) == block_of(head) and one not in chosen]
        if len(chosen) < int(share * len(importance)) and len(others) > 1:
            chosen.append(head)
    return chosen


def block_of(head: str) -> int:
    """Return the number of a head's block."""
    return _numbers(head)[0]


def _numbers(head: str) -> tuple[int, ...]:
    return tuple(map(int, head.split(".")))


def _check(model, heads):
    there = list(_heads_of(model))
    for head in heads:
        if head not in there:
            raise ValueError(f"adapt.attention.masked_heads: there is no head {head!r}; there are {there[0]} to {there[-1]}"
                             + (f" but {', '.join(model.adaptation.pruned_heads)}" if model.adaptation.pruned_heads else ""))


def _heads_of(model) -> Iterator[str]:
    for block in range(model.config.n_layer):
        yield from (f"{block}.{head}" for head in model.adaptation.heads_of(block, model.config.n_head))
