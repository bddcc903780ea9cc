"""The log-probability of given tokens; rows longer than the context are read in overlapping windows."""
from __future__ import annotations

import tensorflow as tf

from tfgpt.generation.decoding import encoded
from tfgpt.generation.rows import begun, last_tokens


def score(model, rows: tf.RaggedTensor, end_of_text: int, stride: tf.Tensor) -> tf.Tensor:
    """Return the sum of the log-probabilities (nats) of each row's tokens, float32 [batch].

    Each row is read from an end-of-text token on, so its first token counts too, and an empty row scores 0. Where a row is longer than the
    context, it is read in windows, each `stride` tokens behind the one before; each token is scored once, in the first window that reaches it,
    with `context - stride` tokens before it at least.

    Args:
        model: a `GPTLMHeadModel`.
        rows: int32 [batch, (tokens)].
        end_of_text: id of the token that each row is read from.
        stride: int32 [], 1 to the context; 1 is exact: every token is scored with all of the context before it. 0 = half of the context.
    """
    context = model.config.n_positions
    lengths = tf.cast(rows.row_lengths(), tf.int32)                                      # [batch]
    targets = rows.to_tensor(end_of_text)                                                # [batch, longest]
    batch, longest = tf.shape(targets)[0], tf.shape(targets)[1]
    inputs = tf.concat([tf.fill([batch, 1], end_of_text), targets[:, :-1]], axis=1)[:, :longest]
    stride = tf.where(stride > 0, tf.minimum(stride, context), (context + 1) // 2)

    def window(start, done, total):
        """Score the targets from `done` on that the window at `start` reaches; earlier ones are its history."""
        end = tf.minimum(start + context, longest)
        logits = _logits(model, inputs[:, start:end], first=done - start)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets[:, done:end], logits)  # [batch, end - done]
        counts = tf.range(done, end)[tf.newaxis] < lengths[:, tf.newaxis]
        total -= tf.reduce_sum(tf.where(counts, losses, 0.0), axis=1)
        return tf.maximum(end + stride - context, 0), end, total

    start = [tf.constant(0), tf.constant(0), tf.zeros([batch], tf.float32)]
    return tf.while_loop(lambda start, done, total: done < longest, window, start)[2]


def score_continuations(model, prompts: tf.RaggedTensor, continuations: tf.RaggedTensor, end_of_text: int,
                        sources: tf.RaggedTensor | None = None) -> tf.Tensor:
    """Return the sum of the log-probabilities (nats) of each row's continuation behind its prompt, float32 [batch].

    The prompt is read as decoding reads it: by itself, or as the end-of-text token if it is empty. One that leaves too little room for its
    continuation keeps its last tokens.

    Args:
        model: a `GPTLMHeadModel`.
        prompts: int32 [batch, (tokens)].
        continuations: int32 [batch, (tokens)], of the context's length at most.
        end_of_text: id of that token.
        sources: int32 [batch, (tokens)], for a model with an encoder (see `framed_sources`).
    """
    counts = tf.cast(continuations.row_lengths(), tf.int32)
    prompts = last_tokens(begun(prompts, end_of_text), model.config.n_positions + 1 - counts)
    lengths = tf.cast(prompts.row_lengths(), tf.int32)                                    # [batch]
    ids = tf.concat([prompts, continuations], axis=1).to_tensor(end_of_text)              # [batch, width]
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(ids[:, 1:], _logits(model, ids[:, :-1], first=0, sources=sources))
    place = tf.range(1, tf.shape(ids)[1])[tf.newaxis]                                     # [1, width - 1], of each target
    counted = (place >= lengths[:, tf.newaxis]) & (place < (lengths + counts)[:, tf.newaxis])
    return -tf.reduce_sum(tf.where(counted, losses, 0.0), axis=1)


def score_candidates(model, prompt: tf.RaggedTensor, candidates: tf.RaggedTensor, end_of_text: int) -> tf.Tensor:
    """Return what `score_continuations` does of several continuations of one prompt, float32 [candidates]: the prompt is read once for all of them.

    Args:
        model: a `GPTLMHeadModel` without an encoder.
        prompt: int32 [1, (tokens)], read as the end-of-text token if it is empty.
        candidates: int32 [candidates, (tokens)]; with the longest of them the prompt fits the context.
        end_of_text: id of that token.
    """
    ids = begun(prompt, end_of_text).to_tensor()                                          # [1, length]
    targets = candidates.to_tensor(end_of_text)                                           # [candidates, longest]
    length, (count, longest) = tf.shape(ids)[1], tf.unstack(tf.shape(targets))
    first, cache = model.read(ids, tf.range(length)[tf.newaxis], length[tf.newaxis, tf.newaxis] - 1, model.empty_cache(1, length + longest))
    width = tf.maximum(longest - 1, 0)
    places = tf.broadcast_to(tf.range(width), [count, width])
    behind, _ = model.read(targets[:, :width], length + places, places, tf.nest.map_structure(lambda layer: tf.repeat(layer, count, axis=0), cache))
    logits = tf.concat([tf.repeat(first, count, axis=0), behind], axis=1)[:, :longest]    # [candidates, longest, vocab]
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
    counted = tf.range(longest) < tf.cast(candidates.row_lengths(), tf.int32)[:, tf.newaxis]
    return -tf.reduce_sum(tf.where(counted, losses, 0.0), axis=1)


def _logits(model, ids, first, sources=None):
    """Return the logits behind each token from `first` on, float32 [batch, width - first, vocab], of rows of tokens, int32 [batch, width]."""
    batch, width = tf.unstack(tf.shape(ids))
    everywhere = tf.broadcast_to(tf.range(width), [batch, width])
    further = {} if sources is None else {"source": encoded(model, sources)}
    return model.read(ids, positions=everywhere, last=everywhere[:, first:], cache=None, **further)[0]
