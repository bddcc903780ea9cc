"""What a train step does: the same update whatever the micro steps and the precision's tricks, none from gradients that are not finite."""
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfgpt.data.packing import IGNORED
from tfgpt.evaluation.evaluate import summed_loss
from tfgpt.models import attention, build, kernels
from tfgpt.models.loss import Objective
from tfgpt.models.step import StepSettings
from tfgpt.recipe import ModelConfig

LENGTH = 16


@pytest.fixture(scope="module")
def new(tokenizer):
    def make(dropout=0.0, jit_compile=False, **settings):
        model = build.new_model(ModelConfig(layers=2, width=32, heads=2, dropout=dropout), LENGTH, tokenizer, seed=1)
        for variable in model.trainable_variables:
            if variable.shape.rank == 2:
                variable.assign(4.0 * variable)  # large enough for gradients that tell
        model.compile(tf_keras.optimizers.SGD(0.5), settings=StepSettings(**settings), jit_compile=jit_compile)
        return model

    return make


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(7)
    ids = rng.integers(0, 512, [8, LENGTH + 1]).astype(np.int32)
    labels = ids[:, 1:].copy()
    labels[0], labels[1, 5:] = IGNORED, IGNORED  # rows of few tokens: a mean of means would be far off
    return {"input_ids": ids[:, :-1], "labels": labels}


def step(model, batch):
    logs = model.train_on_batch(batch, return_dict=True)
    return logs, [variable.numpy() for variable in model.weights]


@pytest.fixture(scope="module")
def whole(new, batch):
    """One step of the plain model, which others are compared with."""
    return step(new(), batch)


@pytest.fixture(scope="module")
def dropped(new, batch):
    """The same with dropout."""
    return step(new(dropout=0.2), batch)


def largest_difference(first, second):
    return max(np.abs(one - other).max() for one, other in zip(first, second))


def test_a_step_is_traced_once_and_autograph_rewrites_nothing_of_it(new, batch, monkeypatch):
    model, statuses = new(), []
    own = model.loss_terms

    def noted(*given, **named):
        statuses.append(tf.__internal__.autograph.control_status_ctx().status.name)
        return own(*given, **named)

    monkeypatch.setattr(model, "loss_terms", noted)
    model.compile("adamw")  # which has variables beside each weight; made within a trace, they would have it done again
    for _ in range(2):
        model.train_on_batch(batch)

    assert statuses == ["DISABLED"]


@pytest.mark.parametrize("micro_steps", [2, 4])
def test_accumulation_takes_the_step_of_the_whole_batch(new, batch, whole, micro_steps):
    logs, weights = whole
    cut, cut_weights = step(new(accumulate=micro_steps), batch)

    assert largest_difference(weights, cut_weights) < 2e-6  # the same sums in another order
    np.testing.assert_allclose(cut["loss"], logs["loss"], rtol=1e-6)
    assert cut["tokens"] == logs["tokens"] == 8 * LENGTH - LENGTH - (LENGTH - 5)


@pytest.mark.parametrize("settings", [
    {"lanes": 3, "recompute": True}, {"lanes": 2, "accumulate": 2},
    *(pytest.param(settings, marks=pytest.mark.slow) for settings in ({"lanes": 2}, {"lanes": 9}, {"lanes": 2, "jit_compile": True})),
], ids=str)
def test_lanes_take_the_step_of_the_whole_batch_dropout_and_all(new, batch, dropped, settings):
    logs, weights = step(new(dropout=0.2, jit_compile=True), batch) if settings.get("jit_compile") else dropped  # XLA has random numbers of its own
    side_by_side, lane_weights = step(new(dropout=0.2, **settings), batch)  # uneven ones, and some without a row

    assert largest_difference(weights, lane_weights) < 2e-6  # the same sums in another order
    np.testing.assert_allclose(side_by_side["loss"], logs["loss"], rtol=1e-6)
    assert side_by_side["tokens"] == logs["tokens"]


def test_lanes_evaluate_as_one(new, batch):
    rest = {key: value[:1] for key, value in batch.items()}
    batches = tf.data.Dataset.from_tensors(batch).concatenate(tf.data.Dataset.from_tensors(rest))  # of one row: a lane without any

    one, two = (new(lanes=lanes).evaluate(batches, verbose=0, return_dict=True) for lanes in (1, 2))

    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert summed_loss(new(), batches, lanes=2) == pytest.approx(summed_loss(new(), batches), rel=1e-6)


def test_accumulation_that_does_not_divide_the_batch_is_refused(new, batch):
    with pytest.raises(ValueError, match="accumulate: 8 rows of a batch cannot be cut into 3 micro steps"):
        new(accumulate=3).fit(tf.data.Dataset.from_tensors(batch), verbose=0)


def test_micro_steps_draw_their_own_dropout_masks(new, batch):
    twice = {key: np.concatenate([value[:4]] * 2) for key, value in batch.items()}
    model = new(dropout=0.5, accumulate=2)

    both = step(model, twice)[0]["loss"]

    first = float(new(dropout=0.5).loss_terms({key: value[:4] for key, value in batch.items()}, training=True).loss)
    tokens = (batch["labels"][:4] != IGNORED).sum()
    assert abs(both - first / tokens) > 1e-3


def test_recomputing_activations_changes_nothing(new, batch, dropped):
    assert largest_difference(dropped[1], step(new(dropout=0.2, recompute=True), batch)[1]) < 2e-6


def test_what_is_made_anew_on_the_way_back_is_what_was_kept(new, batch, dropped, monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_REMAKING", 0)

    assert largest_difference(dropped[1], step(new(dropout=0.2), batch)[1]) < 2e-6


@pytest.mark.parametrize("recompute", [False, True])
def test_low_precision_is_not_widened_between_layers(new, batch, recompute):
    model = new(precision="bfloat16", recompute=recompute)
    casts = [one for one in gradients_of(model, batch).get_operations() if one.type == "Cast"]
    of_casts = [cast for cast in casts if cast.inputs[0].op.type == "Cast"]

    assert casts
    assert [cast.name for cast in of_casts if cast.inputs[0].op.inputs[0].dtype == cast.outputs[0].dtype == tf.bfloat16] == []


def gradients_of(model, batch):
    """Return the graph of a batch's gradients."""
    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = model.loss_terms({key: tf.constant(value) for key, value in batch.items()}, training=True).objective
        return tape.gradient(loss, model.trainable_variables)

    return gradients.get_concrete_function().graph


def test_a_long_text_in_blocks_of_queries_takes_the_step_of_all_at_once(new, batch, whole, monkeypatch):
    packed = batch | {"segment_ids": np.repeat([[1] * 7 + [2] * 9], 8, axis=0).astype(np.int32)}
    of_segments = step(new(), packed)[1]
    monkeypatch.setattr(attention, "QUERIES_OF_BLOCK", 5)

    for given, weights in ((batch, whole[1]), (packed, of_segments)):
        assert largest_difference(weights, step(new(), given)[1]) < 2e-6                  # the same sums in another order
        assert largest_difference(weights, step(new(jit_compile=True), given)[1]) < 2e-6  # which has no blocks: XLA wants to know all sizes
    dropped = step(new(dropout=0.2), packed)[1]
    assert largest_difference(dropped, of_segments) > 1e-3
    for settings in ({"accumulate": 4}, {"lanes": 2, "recompute": True}):
        assert largest_difference(dropped, step(new(dropout=0.2, **settings), packed)[1]) < 2e-6


@pytest.mark.parametrize("micro_steps", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_step_compiled_as_a_whole_computes_the_same(new, batch, whole, micro_steps):
    assert largest_difference(whole[1], step(new(jit_compile=True, accumulate=micro_steps), batch)[1]) < 2e-6


def test_the_compiled_activation_computes_the_same(new, batch, whole):
    assert largest_difference(whole[1], step(new(compile_elementwise=False), batch)[1]) < 2e-6


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_products_give_nearly_the_same_step(new, batch, whole, precision):
    exact, weights = whole
    low, low_weights = step(new(precision=precision), batch)
    before = [variable.numpy() for variable in new().weights]

    np.testing.assert_allclose(low["loss"], exact["loss"], rtol=0.01)
    steps = [np.concatenate([(one - old).ravel() for one, old in zip(some, before)]) for some in (weights, low_weights)]
    assert np.corrcoef(*steps)[0, 1] > 0.999
    assert all(variable.dtype == np.float32 for variable in low_weights)


def test_low_precision_is_of_training_alone(new, batch):
    exact, low = new(), new(precision="bfloat16")

    np.testing.assert_array_equal(low(batch["input_ids"]).logits, exact(batch["input_ids"]).logits)
    assert float(low.loss_terms(batch).loss) == float(exact.loss_terms(batch).loss)
    assert float(low.loss_terms(batch, training=True).loss) != float(exact.loss_terms(batch, training=True).loss)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_segments_do_not_leak_in_any_precision(new, precision):
    model = new(precision=precision)
    ids = np.random.default_rng(1).integers(0, 512, [1, LENGTH]).astype(np.int32)
    segments, positions = np.repeat([[1, 2]], LENGTH // 2, axis=1).astype(np.int32), np.tile(np.arange(LENGTH // 2, dtype=np.int32), 2)[np.newaxis]
    labels = np.where(segments == 2, ids, IGNORED)
    other = np.where(segments == 1, 5, ids).astype(np.int32)

    losses = [float(model.loss_terms({"input_ids": some, "labels": labels, "segment_ids": segments, "position_ids": positions}, training=True).loss)
              for some in (ids, other)]

    assert losses[0] == losses[1]


def test_gradients_are_clipped_to_the_norm(new, batch):
    before = [variable.numpy() for variable in new().weights]

    logs, weights = step(new(clip_norm=0.01), batch)

    moved = np.sqrt(sum(np.square(one - old).sum() for one, old in zip(weights, before)))
    np.testing.assert_allclose(moved, 0.5 * 0.01, rtol=1e-3)  # the learning rate times the norm
    assert logs["gradient_norm"] > 0.1


def test_l2_shrinks_matrices_and_no_biases(new, batch, whole):
    plain, weights = whole[1], step(new(l2=0.1), batch)[1]
    start = new()

    for variable, old, one, other in zip(start.weights, [v.numpy() for v in start.weights], plain, weights):
        decayed = not variable.name.endswith(("/bias:0", "/gamma:0", "/beta:0"))
        np.testing.assert_allclose(other, one - 0.5 * 0.1 * old * decayed, atol=2e-6, err_msg=variable.name)


def test_a_step_that_is_not_finite_is_skipped_and_counted(new, batch):
    model = new()
    table = model.transformer.wte.embeddings
    good = table.numpy()
    table.assign(tf.tensor_scatter_nd_update(table, [[int(batch["input_ids"][2, 3]), 0]], [np.nan]))
    before = [variable.numpy() for variable in model.weights]

    logs, weights = step(model, batch)
    again, _ = step(model, batch)
    table.assign(good)
    healed, moved = step(model, batch)

    for one, old in zip(weights, before):
        np.testing.assert_array_equal(one, old)
    assert (logs["skipped"], again["skipped_in_a_row"], healed["skipped"], healed["skipped_in_a_row"]) == (1, 2, 2, 0)
    assert int(model.optimizer.iterations) == 3  # the place in the data goes on
    assert np.isfinite(healed["loss"])
    assert largest_difference(moved[1:], before[1:]) > 1e-4


def test_float16_halves_its_scale_after_an_overflow_and_doubles_it_after_good_steps(new, batch, monkeypatch):
    monkeypatch.setattr("tfgpt.models.step.GOOD_STEPS", 3)
    model = new(precision="float16")
    scale = model.guard.variables["loss_scale"]
    scale.assign(2.0**40)

    logs, _ = step(model, batch)
    after_overflow = float(scale)
    scale.assign(8.0)
    for _ in range(3):
        step(model, batch)

    assert (logs["skipped"], after_overflow, float(scale)) == (1, 2.0**39, 16.0)


def test_smoothing_changes_what_is_learned_and_not_what_is_reported(new, batch, whole):
    plain, weights = whole
    smooth, smooth_weights = step(new(objective=Objective(label_smoothing=0.3)), batch)

    np.testing.assert_allclose(smooth["loss"], plain["loss"], rtol=1e-6)
    assert largest_difference(weights, smooth_weights) > 1e-4


def test_a_compiled_model_evaluates_batches_of_any_size_and_says_what_it_trains_on(new, batch):
    batches = tf.data.Dataset.from_tensor_slices(batch).batch(3)                          # 8 rows: the last batch has 2

    assert new(jit_compile=True).evaluate(batches, verbose=0, return_dict=True)["loss"] == new().evaluate(batches, verbose=0, return_dict=True)["loss"]
    with pytest.raises(ValueError, match="jit_compile: XLA wants batches of one size.*drop_remainder=True"):
        new(jit_compile=True).fit(batches, verbose=0)
