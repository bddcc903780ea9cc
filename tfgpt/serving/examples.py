"""Classify and Regress of TensorFlow Serving: `tf.Example`s in, classes or numbers out, by signatures made for them.

A signature takes part if its method is `tensorflow/serving/classify` or `tensorflow/serving/regress`, as estimators export them: one input `inputs` of
serialized examples. The heads of `tfgpt export` have strings as inputs and the method predict; they are asked by Predict, here as on TensorFlow Serving,
which refuses them for Classify in the same words.

Source: https://www.tensorflow.org/tfx/serving/api_rest#classify_and_regress_api, https://www.tensorflow.org/tfx/serving/signature_defs
"""
from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, input_pb2, regression_pb2

from tfgpt.serving.batched import BatchedModel
from tfgpt.serving.errors import BadRequestError, PreconditionError
from tfgpt.serving.predicting import run_signature
from tfgpt.serving.presence import Presence
from tfgpt.serving.rest_codec import DEFAULT_SIGNATURE, bytes_of_base64, is_base64, parse_object

METHODS = {"classify": ("classification", tf.saved_model.CLASSIFY_METHOD_NAME), "regress": ("regression", tf.saved_model.REGRESS_METHOD_NAME)}


def classify(loaded: BatchedModel, signature: str, examples: input_pb2.Input, presence: Presence | None = None) -> classification_pb2.ClassificationResult:
    """Return the classes of each example with their scores.

    Raises:
        BadRequestError: no such signature, one of another method, or no example.
        PreconditionError: a signature of that method without its inputs or outputs.
    """
    outputs = _run(loaded, "classify", signature, examples, presence)
    classes, scores = outputs.get("classes"), outputs.get("scores")
    if classes is None and scores is None:
        raise PreconditionError('Expected classification signature outputs to contain at least one of "classes" or "scores".')
    result = classification_pb2.ClassificationResult()
    shape = (scores if classes is None else classes).shape
    for row in range(shape[0]):
        found = result.classifications.add()
        for column in range(shape[1]):
            label = "" if classes is None else classes[row, column].decode("utf-8", "replace")
            found.classes.add(label=label, score=0.0 if scores is None else scores[row, column])
    return result


def regress(loaded: BatchedModel, signature: str, examples: input_pb2.Input, presence: Presence | None = None) -> regression_pb2.RegressionResult:
    """Return a number for each example; raises as `classify`."""
    outputs = _run(loaded, "regress", signature, examples, presence)
    if "outputs" not in outputs:
        raise PreconditionError('No regression outputs found in SignatureDef: it has no output named "outputs".')
    values = np.asarray(outputs["outputs"], np.float32).reshape(-1)
    return regression_pb2.RegressionResult(regressions=[regression_pb2.Regression(value=value) for value in values])


def decode_examples(body: bytes) -> tuple[str, input_pb2.Input]:
    """Return the signature's name, '' for the default, and the examples of a REST body.

    Raises:
        BadRequestError: anything wrong with the body.
    """
    request = parse_object(body)
    name = request.get("signature_name", "")
    if not isinstance(name, str):
        raise BadRequestError("'signature_name' key must be a string value.")
    rows = request.get("examples")
    if not isinstance(rows, list) or not rows:
        raise BadRequestError("'examples' must be a list with one example at least")
    examples = [_example(row) for row in rows]
    if "context" in request:
        with_context = input_pb2.ExampleListWithContext(examples=examples, context=_example(request["context"]))
        return name, input_pb2.Input(example_list_with_context=with_context)
    return name, input_pb2.Input(example_list=input_pb2.ExampleList(examples=examples))


def encode_classes(result: classification_pb2.ClassificationResult) -> dict:
    """Return the REST body of Classify: for each example its pairs of label and score."""
    return {"results": [[[one.label, _short(one.score)] for one in found.classes] for found in result.classifications]}


def encode_values(result: regression_pb2.RegressionResult) -> dict:
    """Return the REST body of Regress: a number for each example."""
    return {"results": [_short(one.value) for one in result.regressions]}


def _run(loaded, method, signature, examples, presence):
    signature = signature or DEFAULT_SIGNATURE
    kind, wanted = METHODS[method]
    if signature not in loaded.signatures:
        raise BadRequestError(f"No signature was found with the name: {signature}")
    definition = loaded.signatures[signature]
    if definition.method_name != wanted:
        raise BadRequestError(f"Expected {kind} signature method_name to be {wanted}. Was: {definition.method_name}")
    if "inputs" not in definition.inputs:
        raise PreconditionError(f'No {kind} inputs found in SignatureDef: it has no input named "inputs".')
    return run_signature(loaded, signature, {"inputs": np.array(_serialized(examples), object)}, presence)


def _serialized(examples):
    kind = examples.WhichOneof("kind")
    if kind == "example_list":
        rows = [example.SerializeToString() for example in examples.example_list.examples]
    elif kind == "example_list_with_context":
        context = examples.example_list_with_context.context.SerializeToString()
        rows = [context + example.SerializeToString() for example in examples.example_list_with_context.examples]  # as protocol buffers are merged
    else:
        rows = []
    if not rows:
        raise BadRequestError("Input is empty.")
    return rows


def _example(features):
    if not isinstance(features, dict):
        raise BadRequestError("Example must be a JSON object: the value or values of each feature by its name")
    example = tf.train.Example()
    for name, content in features.items():
        try:
            feature = example.features.feature[name]
        except UnicodeEncodeError as error:
            raise BadRequestError(f"Feature: {name!r} is no UTF-8; give a name without lone surrogates") from error
        _fill(feature, name, content if isinstance(content, list) else [content])
    return example


def _fill(feature, name, values):
    for value in values:
        if isinstance(value, str) or is_base64(value):
            kind, value = "bytes_list", value.encode("utf-8", "replace") if isinstance(value, str) else bytes_of_base64(name, value)
        elif isinstance(value, int):  # a bool is one, as TensorFlow Serving has it
            kind = "int64_list"
        elif isinstance(value, float):
            kind = "float_list"
        else:
            raise BadRequestError(f"Feature: {name} has an element that is no text, number, boolean or base64 object")
        if feature.WhichOneof("kind") not in (None, kind):
            raise BadRequestError(f"Unexpected element type in feature: {name}; all its values must be of one type")
        try:
            getattr(feature, kind).value.append(value)
        except ValueError as error:  # past 64 bits
            raise BadRequestError(f"Feature: {name}: {value} does not fit int64") from error


def _short(value):
    return float(str(np.float32(value)))  # 0.2, and not 0.20000000298023224
