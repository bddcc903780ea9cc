import pytest
import tensorflow as tf
from tensorflow.python.profiler import model_analyzer, option_builder

from tfgpt.models import build, kernels
from tfgpt.models.step import StepSettings
from tfgpt.recipe import ModelConfig, RecipeError, TrainConfig
from tfgpt.recipe_model import SIZES, Size
from tfgpt.training.estimate import estimate, forward_flops


def test_operations_are_those_of_the_products_in_the_graph(model):
    batch, length = 3, 40
    graph = tf.function(lambda ids: model.project(model.transformer(input_ids=ids, use_cache=False).last_hidden_state)).get_concrete_function(
        tf.TensorSpec([batch, length], tf.int32)).graph  # fmt: skip
    options = option_builder.ProfileOptionBuilder(option_builder.ProfileOptionBuilder.float_operation()).with_empty_output().build()
    counted = model_analyzer.profile(graph, options=options).total_float_ops

    shape = Size(model.config.n_layer, model.config.n_embd, model.config.n_head, 0)
    mine = forward_flops(shape, model.config.vocab_size, length) * batch * length

    assert mine <= counted < 1.3 * mine  # TensorFlow counts norms and softmax too, which in a model as narrow as this are not next to nothing


@pytest.mark.parametrize(("size", "vocab", "millions"), [
    ("gpt1", 40_478, 116.5), ("gpt2", 50_257, 124.4), ("gpt2-medium", 50_257, 354.8), ("gpt2-large", 50_257, 774.0), ("gpt2-xl", 50_257, 1557.6),
    ("gpt3-small", 50_257, 125.2), ("gpt3-xl", 50_257, 1315.7), ("gpt3-6.7b", 50_257, 6658.5), ("gpt3-175b", 50_257, 174_604.0),
])  # fmt: skip
def test_sizes_have_their_published_numbers_of_weights(size, vocab, millions):
    count = build.parameter_count(ModelConfig(size=size), SIZES[size].context, vocab)

    assert count / 1e6 == pytest.approx(millions, rel=1e-3)


def test_memory_is_that_of_weights_gradients_and_what_the_optimizer_keeps():
    shape, count = Size(12, 768, 12, 1024), 124_439_808

    plain = estimate(shape, 50_257, 256, TrainConfig(global_batch_size=4, optimizer="adamw"), count)
    low = estimate(shape, 50_257, 256, TrainConfig(global_batch_size=4, precision="bfloat16", optimizer="sgd", ema=0.9), count)
    cut = estimate(shape, 50_257, 256, TrainConfig(global_batch_size=16, accumulate=4), count)
    recomputed = estimate(shape, 50_257, 256, TrainConfig(global_batch_size=4, recompute=True), count)

    assert plain.weights_bytes == 16 * count
    table = 50_257 * 768
    assert low.weights_bytes == (4 + 4 + 4) * count + 2 * (count - table) + 4 * table  # copies in the lower precision live no longer than a product
    assert cut.weights_bytes == 20 * count  # the sum of the micro steps' gradients
    assert cut.activations_bytes == plain.activations_bytes
    assert recomputed.activations_bytes < 0.2 * plain.activations_bytes
    long, compiled = (estimate(shape, 50_257, 1024, TrainConfig(global_batch_size=1, jit_compile=jit), count) for jit in (False, True))
    assert compiled.activations_bytes - long.activations_bytes == 12 * 12 * 1024 * 1024 * 4  # each layer keeps its weights under XLA
    assert plain.flops_per_token * plain.tokens_per_step == pytest.approx(6 * count * 1024, rel=0.05)  # the usual rule


@pytest.mark.parametrize("worth_remaking", [0, kernels.WORTH_REMAKING])
@pytest.mark.parametrize(("precision", "length"), [("float32", 40), ("bfloat16", 40), ("float32", 300)])
def test_the_activations_are_what_the_way_back_reads(tokenizer, precision, length, worth_remaking, monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_REMAKING", worth_remaking)
    rows, layers = 2, 6
    model = build.new_model(ModelConfig(layers=layers, width=64, heads=2, dropout=0.0), length, tokenizer, seed=1)
    model.compile(settings=StepSettings(precision=precision))

    @tf.function
    def read_on_the_way_back(ids):
        with tf.GradientTape() as tape:
            hidden = model.transformer(input_ids=ids, use_cache=False, training=True, in_blocks=True).last_hidden_state
        forward = set(ids.graph.get_operations())
        tape.gradient(hidden, model.trainable_variables)
        backward = set(ids.graph.get_operations()) - forward
        read = {tensor.ref(): tensor for operation in backward for tensor in map(buffer_of, operation.inputs) if tensor.op in forward}
        found = [tensor for tensor in read.values() if tensor.dtype.is_floating and tensor.op.type not in ("ReadVariableOp", "Const")]
        return {tensor.name: tensor for tensor in found if tensor.shape[:2] != [1, 1]}     # without the one mask of all rows and layers

    read = read_on_the_way_back(tf.zeros([rows, length], tf.int32))

    told = estimate(Size(layers, 64, 2, length), 512, length, TrainConfig(global_batch_size=rows, precision=precision), 1).activations_bytes
    assert told == pytest.approx(sum(tensor.numpy().nbytes for tensor in read.values()), rel=0.05)


def buffer_of(tensor):
    """Return the tensor in whose memory another lies."""
    while tensor.op.type in ("Reshape", "Identity", "IdentityN"):
        tensor = tensor.op.inputs[tensor.value_index if tensor.op.type == "IdentityN" else 0]
    return tensor


def test_a_shape_is_given_by_name_by_numbers_or_by_both():
    assert ModelConfig().shape == Size(4, 256, 4, 0)
    assert ModelConfig(size="gpt2", layers=3, context=64).shape == Size(3, 768, 12, 64)
    assert ModelConfig(width=512, head_width=64).shape.heads == 8
    for settings, message in [
        ({"width": 100, "head_width": 64}, "model.head_width: 64 does not divide model.width .100."),
        ({"heads": 4, "head_width": 32}, "4 heads of 32 are not model.width .256."),
        ({"width": 10, "heads": 3}, "model.width: 10 is not a multiple of model.heads .3."),
        ({"attention_dropout": 1.0}, "model.attention_dropout: 1.0 is not in"),
    ]:  # fmt: skip
        with pytest.raises(RecipeError, match=message):
            ModelConfig(**settings)
