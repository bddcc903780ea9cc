"""Cross-entropy over the trained tokens of a batch, as a sum and a count: callers add both up and divide once."""
import tensorflow as tf

IGNORED = -100
"""The label of a position that is not trained on, as in PyTorch and transformers."""


def summed_loss(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the summed loss in nats, the number of trained tokens, and how many of them the model predicts rightly.

    Args:
        logits: float [batch, length, vocab]; the softmax is taken in float32.
        labels: int32 [batch, length], next-token targets, -100 = not trained on.

    Returns:
        float32 [], int64 [] (corpora pass 2**31 tokens), int64 [].

    >>> loss, tokens, correct = summed_loss(tf.zeros([1, 3, 4]), tf.constant([[0, 1, IGNORED]]))
    >>> round(float(loss), 4), int(tokens), int(correct)  # 2 ln(4), and the first of four equals wins
    (2.7726, 2, 1)
    """
    logits = tf.cast(logits, tf.float32)
    trained = labels != IGNORED                                               # [batch, length]
    targets = tf.where(trained, labels, 0)                                    # -100 is no row of the vocabulary
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)  # [batch, length]
    correct = tf.logical_and(trained, tf.argmax(logits, axis=-1, output_type=targets.dtype) == targets)
    return (
        tf.reduce_sum(tf.where(trained, losses, 0.0)),
        tf.reduce_sum(tf.cast(trained, tf.int64)),
        tf.reduce_sum(tf.cast(correct, tf.int64)),
    )
