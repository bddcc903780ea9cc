"""A packed batch, as Keras hands it to a model's steps: what it may hold, and what is refused."""
from __future__ import annotations

import tensorflow as tf
import tf_keras

KEYS = ("input_ids", "labels", "head_labels", "segment_ids", "position_ids", "attention_mask",
        "encoder_input_ids", "encoder_segment_ids", "encoder_position_ids")


def batch_of(data: dict[str, tf.Tensor] | tuple) -> dict[str, tf.Tensor]:
    """Return the batch in what Keras hands to a step.

    Raises:
        ValueError: targets or weights beside it, which would be passed over.
    """
    batch, targets, sample_weight = tf_keras.utils.unpack_x_y_sample_weight(data)
    if targets is not None or sample_weight is not None:
        raise ValueError("fit and evaluate take batches alone, no y and no sample_weight: labels are next-token targets within the batch, and those of -100 "
                         "are not trained on; see tfgpt.pack_texts")
    return batch


def segmented(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Return a batch with `segment_ids` for its `attention_mask`, if it has one.

    Raises:
        ValueError: it has both.
    """
    if "attention_mask" not in batch:
        return batch
    if "segment_ids" in batch:
        raise ValueError("a batch has attention_mask and segment_ids; leave attention_mask out, segment_ids of 0 are padding")
    return {key: value for key, value in batch.items() if key != "attention_mask"} | {"segment_ids": tf.cast(batch["attention_mask"] != 0, tf.int32)}


def checked(batch: dict[str, tf.Tensor], context: int) -> dict[str, tf.Tensor]:
    """Return what a model of this context is trained or measured on, as `segmented` does.

    Raises:
        ValueError: no dict; something missing, or that is not looked at; sequences longer than the context; labels of another shape; as `segmented`.
        tf.errors.InvalidArgumentError: labels of another shape, where that is known no sooner.
    """
    if not isinstance(batch, dict) or "input_ids" not in batch or not {"labels", "head_labels"} & set(batch):
        found = sorted(batch) if isinstance(batch, dict) else type(batch).__name__
        raise ValueError(f"a batch is a dict with input_ids and labels (next-token targets; head_labels for a head), got {found}; see tfgpt.pack_texts")
    if unknown := sorted(batch.keys() - set(KEYS)):
        raise ValueError(f"a batch has {', '.join(unknown)}, which training does not look at; leave out all but {', '.join(KEYS)}")
    length = batch["input_ids"].shape[1]
    if length is not None and length > context:
        raise ValueError(f"a batch of sequences of {length} tokens, and the model's context is {context}; pack them no longer (see tfgpt.pack_texts), or "
                         "make it longer (tfgpt.models.positions.extend_context)")
    for name in sorted(batch.keys() & {"labels", "head_labels"}):
        message = f"a batch's {name} and input_ids differ in shape; give each token its label, in labels the token that follows it, or -100"
        if not tf.TensorShape(batch[name].shape).is_compatible_with(batch["input_ids"].shape):  # NumPy's arrays are taken too
            raise ValueError(f"{message} ({batch[name].shape} and {batch['input_ids'].shape})")
        if None in (batch[name].shape[1], length):                                        # tf.function forgets sizes that change
            tf.debugging.assert_equal(tf.shape(batch[name])[1], tf.shape(batch["input_ids"])[1], message)
    return segmented(batch)


def padding_of(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the places without a token, and all places, int64 []."""
    places = tf.size(batch["input_ids"], out_type=tf.int64)
    if "segment_ids" not in batch:
        return tf.zeros([], tf.int64), places
    return tf.math.count_nonzero(batch["segment_ids"] == 0), places
