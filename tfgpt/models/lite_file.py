"""A model's forward pass as a file of LiteRT (TensorFlow Lite): the one graph of `GPTTransformer`, converted, with its matrices behind it.

TensorFlow's converter takes half a minute and several copies of the weights of a large model. So it gets a graph whose matrices are inputs, and what
it gives is a graph of some hundred kilobytes; the inputs then become constants, and the matrices are written behind it one at a time.
"""
from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flatbuffers
import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow.lite.python import schema_py_generated as schema

from tfgpt.models.cache import Prefix
from tfgpt.models.stored import int8_rows, parts_of

KINDS = ("float32", "int8")
ALIGNMENT = 64
"""Bytes; each matrix begins at a multiple of it."""
MATRIX = "matrix_"
IDENTIFIER = b"TFL3"
DENSE_VERSION = 12
"""Of LiteRT's dense layer: from this one on its weights may be int8 with a scale for each row."""
NO_TENSOR = -1


class Table(NamedTuple):
    """The token embeddings, which are looked up outside of the graph."""

    values: np.ndarray
    """float32 or int8 [vocab, width]; a view of the file."""
    scale: np.ndarray
    """float32 [vocab, 1], what its rows are multiplied by."""

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return float32 [..., width], the embeddings of tokens, int [...]."""
        return self.values[ids] * self.scale[ids]


class LiteWriter:
    """Writes a model's forward pass to a file; its matrices may come one by one, so that the model never holds them.

    The graph takes `embeddings` float32 [batch, queries, width], `positions` int32 [batch, queries], `seen` bool
    [batch, queries, slots + queries], `last` int32 [batch, wanted], and a `key_0`, `value_0`, ... for each layer, float32
    [batch, heads, slots, head width]. It gives `logits` float32 [batch, wanted, vocab] behind the queries that `last` names, and `new_key_0`,
    `new_value_0`, ... of the queries, [batch, heads, queries, head width].

    Args:
        path: of the file.
        weights: of the matrices, `float32` or `int8`. Rows of int8 are scaled as in `tfgpt.models.stored`; LiteRT quantizes the other side of each
            product too, by its rows.

    Raises:
        ValueError: other weights.
    """

    def __init__(self, path: str | Path, weights: str):
        if weights not in KINDS:
            raise ValueError(f"weights: engine lite has {' and '.join(KINDS)}, not {weights!r}")
        self._path, self._weights, self._flat, self._tensors = Path(path), weights, None, []

    def keeper(self, model) -> Callable[[tf.Variable, np.ndarray], None]:
        """Return what gives a weight of a built model its value: a matrix, float32, is written, all else is assigned, and comes first.

        Raises:
            ValueError: a model that is not in float32, or whose weights are stored already, or that LiteRT cannot have.
        """
        _check(model)
        numbers = {variable.ref(): number for number, variable in enumerate(model.matrices)}

        def keep(variable, value):
            if variable.ref() not in numbers:
                variable.assign(value)
                return
            if self._flat is None:
                self._begin(model)
            number = numbers[variable.ref()]
            layer = model.projections[number] if number < len(model.projections) else None
            self._write(number, layer.merged(value).T if layer else model.transformer.merged(value))

        return keep

    def finish(self) -> Table:
        """Write what is before the matrices, when all of them are written, and return the last one, the token embeddings."""
        with open(self._path, "r+b") as file:
            file.write(_packed(self._flat))
        table = self._tensors[-1]
        values = np.memmap(self._path, self._weights, "r", self._flat.buffers[table.buffer].offset, table.shape)
        return Table(values, table.quantization.scale[:, np.newaxis] if self._weights == "int8" else np.ones([len(values), 1], np.float32))

    def _begin(self, model):
        """Make the graph, and find the place of each matrix in the file."""
        self._flat = _converted(model)
        self._tensors = _made_constant(self._flat, _shapes(model), self._weights)
        start = len(_packed(self._flat))  # which the numbers in it do not change
        for tensor in self._tensors:
            buffer = self._flat.buffers[tensor.buffer]
            buffer.offset, buffer.size = -(-start // ALIGNMENT) * ALIGNMENT, int(np.prod(tensor.shape)) * np.dtype(self._weights).itemsize
            start = buffer.offset + buffer.size
        self._path.write_bytes(b"")

    def _write(self, number, values):
        """Write a matrix, float32 [out, in]."""
        tensor = self._tensors[number]
        if self._weights == "int8":
            values, tensor.quantization.scale = int8_rows(values)
        with open(self._path, "r+b") as file:
            file.seek(self._flat.buffers[tensor.buffer].offset)
            for _, part in parts_of(values):
                file.write(np.ascontiguousarray(part).data)


def write_lite(model, path: str | Path, weights: str) -> Table:
    """Write the forward pass of a model that has all its weights to a file; arguments and errors are those of `LiteWriter` and its `keeper`."""
    writer = LiteWriter(path, weights)
    keep = writer.keeper(model)
    for variable in model.matrices:
        keep(variable, variable.numpy())
    return writer.finish()


def _check(model):
    if model.stored_output is not None or model.compute_dtype != "float32":
        raise ValueError("engine lite: it takes a model whose weights are in float32; load it so")
    if model.config.add_cross_attention:
        raise ValueError("engine lite: it takes no model with an encoder or cross-attention; load it with engine graph")
    if model.lm_head is not None:
        raise ValueError("engine lite: it takes models whose output matrix is the embeddings' (adapt.embeddings.tie); this one has its own")


class _Input:
    """Stands for a matrix [out, in] in the graph that is converted."""

    def __init__(self, values):
        self.values = values

    def product(self, x):
        """Return float32 [..., out] of float32 [..., in]."""
        return tf.matmul(x, self.values, transpose_b=True)


@contextlib.contextmanager
def _inputs(model, matrices):
    """Let tensors be the model's matrices meanwhile, and its activation one that LiteRT knows."""
    layers, compute = model.projections, model.transformer.compute
    reading, compute.reading = compute.reading, compute.reading | {"bias_gelu": lambda x, bias: tf.nn.gelu(x + bias[0], approximate=True)}
    for layer, matrix in zip(layers, matrices):
        layer._stored = _Input(matrix)
    model.transformer.stored_table = model.stored_output = _Input(matrices[-1])
    try:
        yield
    finally:
        compute.reading, model.transformer.stored_table, model.stored_output = reading, None, None
        for layer in layers:
            layer._stored = None


def _traced(model):
    config, spec = model.config, tf.TensorSpec
    layers = config.n_layer
    names = [f"{part}_{layer}" for part in ("key", "value") for layer in range(layers)]

    @tf.function(autograph=False, input_signature=[
        spec([None, None, config.n_embd], name="embeddings"), spec([None, None], tf.int32, name="positions"),
        spec([None, None, None], tf.bool, name="seen"), spec([None, None], tf.int32, name="last"),
        *(spec([None, heads, None, width], name=name) for name, (heads, width) in zip(names, 2 * model.head_shapes)),
        *(spec([size, None], name=f"{MATRIX}{number}") for number, (size, _) in enumerate(_shapes(model))),  # whole ones TensorFlow would fill with zeros
    ])  # fmt: skip
    def read(embeddings, positions, seen, last, *others):
        cached, matrices = others[: 2 * layers], others[2 * layers :]
        with _inputs(model, matrices):
            output = model.transformer(None, inputs_embeds=embeddings, position_ids=positions, attention_mask=seen,
                                       past_key_values=Prefix(cached[:layers], cached[layers:]), use_cache=True)
            logits = model.project(tf.gather(output.last_hidden_state, last, batch_dims=1))
        new = output.past_key_values
        return {"logits": logits} | dict(zip(names, (*new.keys, *new.values)))

    return read.get_concrete_function()


def _shapes(model):
    """Return the shape of each matrix, [out, in]."""
    return [(layer.nf, layer.nx) for layer in model.projections] + [(model.config.vocab_size, model.config.n_embd)]


def _converted(model):
    """Return the graph as LiteRT has it, its matrices among the inputs."""
    function, verbosity, level = _traced(model), logging.get_verbosity(), tf.get_logger().level
    logging.set_verbosity(logging.ERROR)  # it is said that a SavedModel on the way is the newer form; that takes twice as long
    tf.get_logger().setLevel("ERROR")     # and, where a text model's tables are there, that these are not written
    try:
        flat = schema.ModelT.InitFromPackedBuf(tf.lite.TFLiteConverter.from_concrete_functions([function]).convert(), 0)
    finally:
        logging.set_verbosity(verbosity)
        tf.get_logger().setLevel(level)
    graph = flat.subgraphs[0]
    for name, number in zip(sorted(function.structured_outputs), graph.outputs):  # the converter numbers them in this order
        graph.tensors[number].name = f"new_{name}" if name != "logits" else name
    return flat


def _made_constant(flat, shapes, weights):
    """Make constants of these shapes of the matrices among the inputs; return their tensors, whose values have no place yet."""
    graph = flat.subgraphs[0]
    inputs = {graph.tensors[number].name.decode(): number for number in graph.inputs}
    numbers = [inputs[name] for name in sorted((name for name in inputs if name.startswith(MATRIX)), key=lambda name: int(name.removeprefix(MATRIX)))]
    graph.inputs = [number for number in graph.inputs if number not in numbers]
    tensors = [graph.tensors[number] for number in numbers]
    for tensor, shape in zip(tensors, shapes, strict=True):
        buffer, tensor.buffer, tensor.shape, tensor.shapeSignature = schema.BufferT(), len(flat.buffers), np.array(shape, np.int32), None
        buffer.offset = buffer.size = 2  # 0 would not be written, and 1 means none
        flat.buffers.append(buffer)
        if weights == "int8":
            tensor.type, tensor.quantization = schema.TensorType.INT8, schema.QuantizationParametersT()
            tensor.quantization.scale = np.ones(tensor.shape[0], np.float32)
            tensor.quantization.zeroPoint = np.zeros(tensor.shape[0], np.int64)
            tensor.quantization.quantizedDimension = 0
    _make_dense(flat, numbers)
    return tensors


def _make_dense(flat, matrices):
    """Make dense layers of the products with these tensors, and of the biases added to them: LiteRT packs the weights of those once, int8 or not."""
    graph = flat.subgraphs[0]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = DENSE_VERSION
    flat.operatorCodes.append(code)
    readers = collections.defaultdict(list)
    for operator in graph.operators:
        for number in operator.inputs:
            readers[number].append(operator)
    for product in [operator for operator in graph.operators if operator.inputs[-1] in matrices]:
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = options.asymmetricQuantizeInputs = True
        product.opcodeIndex, product.builtinOptions = len(flat.operatorCodes) - 1, options
        product.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        bias, sums = NO_TENSOR, readers[product.outputs[0]]
        if len(sums) == 1 and flat.operatorCodes[sums[0].opcodeIndex].builtinCode == schema.BuiltinOperator.ADD:
            bias = next((number for number in sums[0].inputs if _is_bias(flat, number)), NO_TENSOR)
        if bias != NO_TENSOR:
            product.outputs = sums[0].outputs
            graph.operators.remove(sums[0])
        product.inputs = [*product.inputs, bias]


def _is_bias(flat, number):
    tensor = flat.subgraphs[0].tensors[number]
    return len(tensor.shape) == 1 and flat.buffers[tensor.buffer].data is not None


def _packed(flat):
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(flat.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())
