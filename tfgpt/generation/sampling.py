"""From logits to the next token, row by row: penalties, bans, filters, temperature, and a draw from given uniform numbers.

All in fp32, the draw in fp64. No random op here: a row's numbers come from its own seed, so its text does not depend on its neighbours.
Each rule is computed only while some row of the batch asks for it; a row that does not is left as it is.
"""
from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfgpt.generation.controls import Controls

SMALLEST = 1e-6
"""What logits are divided by is no smaller: they would be infinite. It takes the likeliest token as 0 does."""


class Written(NamedTuple):
    """What stands in each row so far, for the rules that look back."""

    tokens: tf.Tensor
    """int32 [batch, places]; prompt and continuation, without a gap from place 0 on."""
    length: tf.Tensor
    """int32 [batch]; how many they are; what stands behind them counts for nothing."""
    prompt_length: tf.Tensor
    """int32 [batch]; how many of them are the prompt."""


class Constraints(NamedTuple):
    """What the texts may hold: lists of each row, all of one length; what a row lacks is filled up with "" or -1."""

    stop: tf.Tensor
    """string [batch, stops]; a text ends where it holds one of them."""
    banned_tokens: tf.Tensor
    """int32 [batch, banned]; tokens that are never chosen."""
    forced_tokens: tf.Tensor
    """int32 [batch, forced]; the first tokens of the continuation."""

    @classmethod
    def none(cls, batch: int | tf.Tensor) -> Constraints:
        """Return lists with nothing in them, for so many rows."""
        return cls(tf.zeros([batch, 0], tf.string), tf.zeros([batch, 0], tf.int32), tf.zeros([batch, 0], tf.int32))


def uniform_numbers(seeds: tf.Tensor, count: int) -> tf.Tensor:
    """Return float32 [batch, count] in [0, 1), each row drawn from its own seed, int64 [batch].

    Always ask for the same `count`: the generator promises nothing for another one.
    """
    return tf.map_fn(lambda seed: tf.random.stateless_uniform([count], seed=tf.stack([seed, 0])), seeds, fn_output_signature=tf.float32)


def choose(logits: tf.Tensor, written: Written, controls: Controls, constraints: Constraints, uniform: tf.Tensor, end_of_text: int) -> tf.Tensor:
    """Choose each row's next token.

    Args:
        logits: float [batch, vocab].
        written: the rows so far.
        controls: of each row; under plain ones neither constraints nor uniform numbers are looked at.
        constraints: of each row.
        uniform: float32 [batch], in [0, 1).
        end_of_text: id of the token that ends a row.

    Returns:
        int32 [batch].
    """
    if controls.are_plain:
        return tf.argmax(_long_enough(logits, written, controls, end_of_text), axis=-1, output_type=tf.int32)
    logits = changed(tf.cast(logits, tf.float32), written, controls, constraints, end_of_text)
    greedy = tf.argmax(logits, axis=-1, output_type=tf.int32)
    sampled = controls.temperature > 0.0
    chosen = tf.cond(tf.reduce_any(sampled), lambda: tf.where(sampled, _sample(logits, controls, uniform), greedy), lambda: greedy)
    forced = forced_at(constraints, written.length - written.prompt_length)
    return tf.where(forced >= 0, forced, chosen)


def forced_at(constraints: Constraints, number: tf.Tensor) -> tf.Tensor:
    """Return the token that a row must have as its token `number`, int32 [batch]; -1 = any."""
    forced = tf.pad(constraints.forced_tokens, [[0, 0], [0, 1]], constant_values=-1)       # [batch, forced + 1]
    return tf.gather(forced, tf.minimum(number, tf.shape(forced)[1] - 1), batch_dims=1)


def penalize(logits: tf.Tensor, seen: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    """Lower the logits of tokens already seen: divide positive ones by the penalty, multiply negative ones.

    Source: Keskar et al. 2019, "CTRL", section 4.1, as transformers computes it.

    >>> penalize(tf.constant([[2.0, -2.0, 2.0]]), tf.constant([[True, True, False]]), tf.constant([2.0])).numpy()
    array([[ 1., -4.,  2.]], dtype=float32)
    """
    penalty = penalty[:, tf.newaxis]
    return tf.where(seen, tf.where(logits > 0, logits / penalty, logits * penalty), logits)


def repeated(written: Written, size: tf.Tensor, vocab: int) -> tf.Tensor:
    """Return the tokens that would end a run of `size` tokens which the row has already, bool [batch, vocab].

    Args:
        written: the rows so far.
        size: int32 [batch]; 0 or less = none.
        vocab: how many tokens there are.

    Source: Paulus et al. 2017, "A Deep Reinforced Model for Abstractive Summarization", section 2.5.

    >>> row = Written(tf.constant([[5, 6, 7, 5, 6, 0]]), length=tf.constant([5]), prompt_length=tf.constant([0]))
    >>> tf.where(repeated(row, tf.constant([3]), vocab=9))[:, 1].numpy()  # after 5 6 there was a 7
    array([7])
    """
    place = tf.range(tf.shape(written.tokens)[1])[tf.newaxis]                             # [1, places]
    same = ends_alike(written, size - 1)
    before = (tf.roll(same, 1, axis=1) & (place > 0)) | (size == 1)[:, tf.newaxis]
    banned = before & (place < written.length[:, tf.newaxis]) & (size > 0)[:, tf.newaxis]
    return _tokens_at(written.tokens, banned, vocab) > 0


def ends_alike(written: Written, size: tf.Tensor) -> tf.Tensor:
    """Tell at which places of a row a run of `size` tokens ends that is the row's last `size` tokens, bool [batch, places].

    Args:
        written: the rows so far.
        size: int32 [batch]; 0 or less = at every place.

    >>> row = Written(tf.constant([[5, 6, 7, 5, 6]]), length=tf.constant([5]), prompt_length=tf.constant([0]))
    >>> tf.where(ends_alike(row, tf.constant([2])))[:, 1].numpy()
    array([1, 4])
    """
    tokens, length = written.tokens, written.length[:, tf.newaxis]
    batch, places = tf.shape(tokens)[0], tf.shape(tokens)[1]
    place = tf.range(places)[tf.newaxis]                                                  # [1, places]

    def longer(back, same):
        """Compare the token `back` places before each place with the one as far before the end."""
        last = tf.gather(tokens, tf.maximum(length - 1 - back, 0), batch_dims=1)          # [batch, 1]
        agrees = (tf.roll(tokens, back, axis=1) == last) & (place >= back)
        return back + 1, same & (agrees | (back >= size[:, tf.newaxis]))

    most = tf.reduce_max(tf.concat([size, [0]], axis=0))
    _, same = tf.while_loop(lambda back, _: back < tf.minimum(most, places), longer, [tf.constant(0), tf.fill([batch, places], True)])
    return same & (place < length) & (length >= size[:, tf.newaxis])


def filter_top_k(logits: tf.Tensor, top_k: tf.Tensor) -> tf.Tensor:
    """Set all but each row's `top_k` highest logits to -inf; of equal ones the lower ids stay.

    Args:
        logits: float32 [batch, vocab].
        top_k: int32 [batch]; 0 or less keeps every token.

    >>> filter_top_k(tf.constant([[1.0, 3.0, 2.0]]), tf.constant([2])).numpy()
    array([[-inf,   3.,   2.]], dtype=float32)
    """
    most = tf.clip_by_value(tf.reduce_max(tf.concat([top_k, [1]], axis=0)), 1, tf.shape(logits)[-1])
    falling, ids = tf.math.top_k(logits, most)                                            # [batch, most]
    return _first(logits, logits, falling, ids, top_k, everything=top_k <= 0)


def filter_top_p(logits: tf.Tensor, top_p: tf.Tensor) -> tf.Tensor:
    """Set the logits outside each row's nucleus to -inf.

    The nucleus is the fewest tokens whose probabilities reach `top_p`; the likeliest token is always in it.

    Args:
        logits: float32 [batch, vocab], already divided by the temperature.
        top_p: float32 [batch]; 1 or more keeps every token.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration" (nucleus sampling).

    >>> filter_top_p(tf.math.log([[0.5, 0.3, 0.2]]), tf.constant([0.7])).numpy().round(2)
    array([[-0.69, -1.2 ,  -inf]], dtype=float32)
    """
    return _filter_mass(logits, tf.nn.softmax(logits), top_p)


def filter_min_p(logits: tf.Tensor, min_p: tf.Tensor) -> tf.Tensor:
    """Set the logits of tokens less than `min_p` times as likely as the row's likeliest to -inf.

    Args:
        logits: float32 [batch, vocab], already divided by the temperature.
        min_p: float32 [batch]; 0 or less keeps every token.

    Source: Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs".

    >>> filter_min_p(tf.math.log([[0.5, 0.3, 0.2]]), tf.constant([0.5])).numpy().round(2)
    array([[-0.69, -1.2 ,  -inf]], dtype=float32)
    """
    likeliest = tf.reduce_max(logits, axis=-1, keepdims=True)
    return tf.where(logits >= likeliest + tf.math.log(tf.clip_by_value(min_p, 0.0, 1.0))[:, tf.newaxis], logits, float("-inf"))


def filter_typical(logits: tf.Tensor, typical_p: tf.Tensor) -> tf.Tensor:
    """Set the logits outside each row's typical set to -inf: the tokens whose surprise is nearest to the expected one, as few as reach `typical_p`.

    Args:
        logits: float32 [batch, vocab], already divided by the temperature.
        typical_p: float32 [batch]; 1 or more keeps every token.

    Source: Meister et al. 2022, "Locally Typical Sampling".

    >>> filter_typical(tf.math.log([[0.6, 0.2, 0.2]]), tf.constant([0.4])).numpy().round(2)  # entropy 0.95; surprises 0.51, 1.61, 1.61
    array([[-0.51,  -inf,  -inf]], dtype=float32)
    """
    log_probs = tf.nn.log_softmax(logits)
    probabilities = tf.exp(log_probs)
    entropy = -tf.reduce_sum(tf.math.multiply_no_nan(log_probs, probabilities), axis=-1, keepdims=True)
    return _filter_mass(logits, -tf.abs(entropy + log_probs), typical_p)


def changed(logits: tf.Tensor, written: Written, controls: Controls, constraints: Constraints, end_of_text: int) -> tf.Tensor:
    """Return the logits, or log-probabilities, float32 [batch, vocab], under the penalties and bans that the rows ask for."""
    vocab = tf.shape(logits)[-1]
    penalized = (controls.repetition_penalty != 1.0) & (controls.repetition_penalty > 0.0)
    penalty = tf.where(penalized, tf.maximum(controls.repetition_penalty, SMALLEST), 1.0)
    lowered = (controls.presence_penalty != 0.0) | (controls.frequency_penalty != 0.0)
    place = tf.range(tf.shape(written.tokens)[1])[tf.newaxis]                             # [1, places]
    present = place < written.length[:, tf.newaxis]                                       # [batch, places]

    def lower(logits):
        counts = _tokens_at(written.tokens, present & (place >= written.prompt_length[:, tf.newaxis]), vocab)
        presence = controls.presence_penalty[:, tf.newaxis] * tf.cast(counts > 0, tf.float32)
        return logits - presence - controls.frequency_penalty[:, tf.newaxis] * counts

    def apply():
        x = _where_asked(penalized, lambda: penalize(logits, _tokens_at(written.tokens, present, vocab) > 0, penalty), logits)
        x = _where_asked(lowered, lambda: lower(x), x)
        x = _where_asked(listed, lambda: _banned(x, _tokens_at(constraints.banned_tokens, listed, vocab) > 0), x)
        x = _where_asked(controls.no_repeat_ngram_size > 0, lambda: _banned(x, repeated(written, controls.no_repeat_ngram_size, vocab)), x)
        return _long_enough(x, written, controls, end_of_text)

    listed = constraints.banned_tokens >= 0                                               # [batch, banned]
    asked = penalized | lowered | _too_short(written, controls) | (controls.no_repeat_ngram_size > 0) | tf.reduce_any(listed, axis=1)
    return _where_asked(asked, apply, logits)


def _long_enough(logits, written, controls, end_of_text):
    """Return the logits without the end-of-text token in rows that must not end yet."""
    short = _too_short(written, controls)
    return _where_asked(short, lambda: _kept_if_any(logits, _at(logits, end_of_text, short, float("-inf"))), logits)


def _too_short(written, controls):
    """Tell which rows must not end yet, bool [batch]."""
    return written.length - written.prompt_length < controls.min_new_tokens


def _tokens_at(tokens, counted, vocab):
    """Return how often each token stands at the places that count, float32 [batch, vocab]; both [batch, places]."""
    where = tf.where(counted)                                                             # [counted, 2]
    ids = tf.cast(tf.gather_nd(tokens, where), tf.int64)
    shape = tf.stack([tf.shape(tokens, tf.int64)[0], tf.cast(vocab, tf.int64)])
    return tf.scatter_nd(tf.stack([where[:, 0], ids], axis=1), tf.ones_like(ids, tf.float32), shape)


def _sample(logits, controls, uniform):
    logits /= tf.where(controls.temperature > 0.0, tf.maximum(controls.temperature, SMALLEST), 1.0)[:, tf.newaxis]
    logits = _where_asked(controls.top_k > 0, lambda: filter_top_k(logits, controls.top_k), logits)
    logits = _where_asked(controls.top_p < 1.0, lambda: filter_top_p(logits, controls.top_p), logits)
    logits = _where_asked(controls.min_p > 0.0, lambda: filter_min_p(logits, controls.min_p), logits)
    logits = _where_asked(controls.typical_p < 1.0, lambda: filter_typical(logits, controls.typical_p), logits)
    # Inverse of the distribution function: one number a row, and a token without probability can never be hit.
    reached = tf.cumsum(tf.cast(tf.nn.softmax(logits), tf.float64), axis=-1)             # [batch, vocab]
    target = tf.cast(uniform, tf.float64)[:, tf.newaxis] * reached[:, -1:]
    return tf.reduce_sum(tf.cast(reached <= target, tf.int32), axis=-1)


def _where_asked(asked, change, logits):
    """Return what `change` gives if any row asks for it, else the logits; computing nothing then."""
    return tf.cond(tf.reduce_any(asked), change, lambda: logits)


def _banned(logits, banned):
    """Return the logits with those of banned tokens at -inf; a row that would have no token left keeps all."""
    return _kept_if_any(logits, tf.where(banned, float("-inf"), logits))


def _kept_if_any(logits, without):
    """Return the logits without some tokens, and in a row that has no token left the logits with them."""
    left = tf.reduce_max(without, axis=-1, keepdims=True) > float("-inf")
    return _where_asked(~left, lambda: tf.where(left, without, logits), without)


def _at(logits, token, rows, value):
    """Return the logits with a value for one token in some rows, bool [batch]."""
    row = tf.where(rows)                                                                  # [rows, 1]
    return tf.tensor_scatter_nd_update(logits, tf.pad(row, [[0, 0], [0, 1]], constant_values=token), tf.fill(tf.shape(row)[:1], value))


def _filter_mass(logits, order, mass):
    """Set to -inf what is not among the fewest tokens, highest `order` first, of equals the lower id first, whose probabilities reach `mass`.

    One token is always kept, and every token where the mass is 1 or more.
    """
    falling, ids = tf.math.top_k(order, tf.shape(order)[-1])                              # [batch, vocab]
    probabilities = tf.gather(tf.nn.softmax(logits), ids, batch_dims=1)
    reached_before = tf.cumsum(probabilities, axis=-1, exclusive=True) < mass[:, tf.newaxis]
    return _first(logits, order, falling, ids, tf.reduce_sum(tf.cast(reached_before, tf.int32), axis=-1), everything=mass >= 1.0)


def _first(logits, order, falling, ids, count, everything):
    """Set to -inf what is not among each row's first `count` tokens, one at least, of which `falling` and `ids` are the values and the tokens."""
    last = tf.clip_by_value(count, 1, tf.shape(ids)[1])[:, tf.newaxis] - 1                # [batch, 1]
    edge, edge_id = tf.gather(falling, last, batch_dims=1), tf.gather(ids, last, batch_dims=1)
    kept = (order > edge) | ((order == edge) & (tf.range(tf.shape(order)[-1]) <= edge_id))  # of equals the lower id comes first
    return tf.where(kept | everything[:, tf.newaxis], logits, float("-inf"))
