"""Requests that TensorFlow Serving answers by itself before it serves a version, so that no caller waits for what is done once for each shape."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tfgpt.serving.saved_model import read_signatures

WARMUP = "assets.extra/tf_serving_warmup_requests"
"""In a version's folder; the name is TensorFlow Serving's."""
MOST_REQUESTS = 1000
"""More make TensorFlow Serving refuse the version (kMaxNumRecords)."""
NEW_TOKENS = 2
"""Written in a request: the first reads the prompt, the second is read behind it, and all that follow are like it."""


def write_warmup(version: Path, name: str, tokenizer, lengths: Sequence[int], batch_sizes: Sequence[int]) -> int:
    """Write the requests for a version: for every signature, batch size and length of text.

    Args:
        version: its folder, which holds saved_model.pb.
        name: of the model on the server.
        tokenizer: of the model, in Python.
        lengths: of the texts, in tokens.
        batch_sizes: rows of the requests.

    Returns:
        How many there are.

    Raises:
        ValueError: too many for TensorFlow Serving.
    """
    signatures = read_signatures(version)
    count = len(signatures) * len(lengths) * len(batch_sizes)
    if count > MOST_REQUESTS:
        raise ValueError(f"export: {len(batch_sizes)} batch_sizes and {len(lengths)} length_buckets make {count} warm-up requests for {len(signatures)} "
                         f"signatures, and TensorFlow Serving takes {MOST_REQUESTS}; give fewer")
    path = version / WARMUP
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, definition in sorted(signatures.items()):
            for length in lengths:
                text = text_of(tokenizer, length)
                for batch in batch_sizes:
                    request = _request(name, signature, _inputs(definition, text, tokenizer(text, verbose=False).input_ids, batch))
                    writer.write(prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request)).SerializeToString())
    return count


def read_warmup(version: Path) -> Iterator[predict_pb2.PredictRequest]:
    """Yield the requests of a version; none where it has no such file.

    Raises:
        RuntimeError: a record that holds no request.
    """
    path = Path(version) / WARMUP
    if not path.is_file():
        return
    for number, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator(), 1):
        log = prediction_log_pb2.PredictionLog.FromString(record)
        if log.WhichOneof("log_type") != "predict_log":
            raise RuntimeError(f"{path}: record {number} holds no PredictLog; export the model again")
        yield log.predict_log.request


def text_of(tokenizer, length: int) -> str:
    """Return a text of so many tokens, or of a few less where the vocabulary has no token of its own for " a"."""
    return " a" * max(length // len(tokenizer(" a").input_ids), 1)


def _inputs(definition: meta_graph_pb2.SignatureDef, text: str, ids: list[int], batch: int) -> Mapping[str, np.ndarray]:
    """Return every input of a signature, those with a default too: a server that joins requests wants the same number of rows in each."""
    known = {"text": [text], "prompt": [text], "choices": [[" a", " b"]], "ids": [ids], "max_new_tokens": [NEW_TOKENS]}
    inputs = {}
    for name, info in definition.inputs.items():
        kind = tf.as_dtype(info.dtype).as_numpy_dtype
        one = np.array(known[name], kind) if name in known else tf.make_ndarray(definition.defaults[name])
        inputs[name] = np.repeat(one, batch, axis=0)
    return inputs


def _request(name, signature, inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = name, signature
    for key, array in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
    return request
