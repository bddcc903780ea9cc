"""GPTLMHeadModel against PyTorch's GPT-2 on the same weights, and what must not change the loss."""
import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from transformers import GPT2Config, GPT2LMHeadModel, TFGPT2LMHeadModel

from tfgpt.data.packing import IGNORED, Tokens, cut_documents, pack
from tfgpt.data.pipeline import pack_texts
from tfgpt.models import build, weights
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.models.dropout import drop
from tfgpt.models.transformer import segment_mask

FP32 = 1e-4
"""Of logits of size 1 to 50: two layers of fp32 sums in another order."""


def random_ids(model, *shape, seed=1):
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, shape).astype(np.int32)


def torch_logits(torch_model, ids):
    with torch.no_grad():
        return torch_model(torch.tensor(ids).long()).logits.numpy()


def torch_loss(torch_model, inputs, labels):
    """Sum of the negative log-probabilities of the labels, by PyTorch."""
    log_probs = torch.log_softmax(torch.tensor(torch_logits(torch_model, inputs[np.newaxis]))[0].double(), dim=-1)
    return -sum(log_probs[place, label].item() for place, label in enumerate(labels) if label != IGNORED)


def test_logits_equal_pytorchs(model, torch_model):
    ids = random_ids(model, 3, model.config.n_positions)

    np.testing.assert_allclose(model(ids).logits, torch_logits(torch_model, ids), atol=FP32)


def test_logits_equal_pytorchs_at_the_size_of_gpt2():
    torch.manual_seed(0)
    reference = GPT2LMHeadModel(GPT2Config(n_layer=3)).eval()  # GPT-2's width, heads and vocabulary
    model = GPTLMHeadModel(reference.config)
    model.build_in_name_scope()
    state = reference.state_dict()
    for variable in model.weights:
        variable.assign(state[weights.pytorch_name(variable)].numpy().reshape(variable.shape))
    ids = random_ids(model, 2, 64)

    np.testing.assert_allclose(model(ids).logits, torch_logits(reference, ids), atol=FP32)


def test_a_saved_folder_loads_in_every_class(model, model_folder, torch_model):
    ids = random_ids(model, 2, 20)
    expected = model(ids).logits

    np.testing.assert_allclose(GPTLMHeadModel.from_pretrained(model_folder)(ids).logits, expected, atol=FP32)
    np.testing.assert_allclose(TFGPT2LMHeadModel.from_pretrained(model_folder)(ids).logits, expected, atol=FP32)
    np.testing.assert_allclose(torch_logits(torch_model, ids), expected, atol=FP32)


def test_weights_saved_by_pytorch_load(torch_model, tmp_path, model):
    torch_model.save_pretrained(tmp_path)
    ids = random_ids(model, 2, 20)

    np.testing.assert_allclose(build.load_model(tmp_path)(ids).logits, torch_logits(torch_model, ids), atol=FP32)


def test_left_padding_with_an_attention_mask_equals_pytorchs(model, torch_model):
    ids = random_ids(model, 2, 12)
    mask = np.ones_like(ids)
    mask[0, :5] = 0
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)

    ours = model(ids, attention_mask=mask, position_ids=positions).logits.numpy()

    with torch.no_grad():
        theirs = torch_model(torch.tensor(ids).long(), attention_mask=torch.tensor(mask), position_ids=torch.tensor(positions)).logits.numpy()
    np.testing.assert_allclose(ours[0, 5:], theirs[0, 5:], atol=FP32)
    np.testing.assert_allclose(ours[1], theirs[1], atol=FP32)


def test_a_packed_batch_gives_each_document_the_loss_it_has_alone(model, torch_model):
    rng = np.random.default_rng(5)
    documents = [rng.integers(1, model.config.vocab_size, size).tolist() for size in (3, 17, 8, 30, 70, 1)]
    length = model.config.n_positions
    inputs = np.concatenate([[0, *ids] for ids in documents]).astype(np.int32)
    labels = np.concatenate([[*ids, 0] for ids in documents]).astype(np.int32)
    sizes = np.array([len(ids) + 1 for ids in documents])
    pieces = cut_documents(sizes, length, length)
    (packed,) = pack(Tokens(inputs, labels, sizes), pieces, length)
    assert len(packed["labels"]) < len(pieces.sizes)  # some do share a sequence

    _, loss, tokens, _ = model.loss_terms(packed)

    spans = [slice(start, start + size) for start, size in zip(pieces.starts, pieces.sizes)]
    alone = sum(torch_loss(torch_model, inputs[span], labels[span]) for span in spans)
    assert int(tokens) == sum(len(ids) + 1 for ids in documents)
    np.testing.assert_allclose(loss, alone, rtol=1e-5)  # a sum of 136 fp32 terms


def test_a_segment_sees_nothing_of_the_others(model):
    ids = random_ids(model, 1, 12)
    segments = np.array([[1] * 5 + [2] * 7], np.int32)
    positions = np.array([[*range(5), *range(7)]], np.int32)
    changed = ids.copy()
    changed[0, :5] = (changed[0, :5] + 1) % model.config.vocab_size

    first, second = (model(tokens, attention_mask=segment_mask(segments), position_ids=positions).logits.numpy() for tokens in (ids, changed))

    np.testing.assert_array_equal(first[0, 5:], second[0, 5:])
    assert np.abs(first[0, :5] - second[0, :5]).max() > 0.1


def test_padding_does_not_change_the_loss(model):
    ids = random_ids(model, 2, 21)
    batch = {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}
    padded = {key: np.pad(value, [[0, 0], [0, 9]], constant_values=IGNORED if key == "labels" else 0) for key, value in batch.items()}

    plain, with_padding = model.loss_terms(batch), model.loss_terms(padded)

    np.testing.assert_allclose(plain.loss, with_padding.loss, rtol=1e-6)  # the same terms, summed in another order
    assert int(plain.tokens) == int(with_padding.tokens) == 40


def test_labels_are_not_shifted_again(model, torch_model):
    ids = random_ids(model, 1, 15)[0]

    _, loss, _, _ = model.loss_terms({"input_ids": ids[np.newaxis, :-1], "labels": ids[np.newaxis, 1:]})

    np.testing.assert_allclose(loss, torch_loss(torch_model, ids[:-1], ids[1:]), rtol=1e-5)


@pytest.fixture
def small_model(tokenizer):
    from tfgpt.recipe import ModelConfig

    return build.new_model(ModelConfig(layers=1, width=32, heads=2, dropout=0.1), 16, tokenizer, seed=1)


def test_one_batch_can_be_learned_by_heart(small_model):
    ids = random_ids(small_model, 4, 17)
    small_model.compile(tf_keras.optimizers.AdamW(1e-2))
    batch = tf.data.Dataset.from_tensors({"input_ids": ids[:, :-1], "labels": ids[:, 1:]}).repeat()

    logs = small_model.fit(batch, steps_per_epoch=50, epochs=3, verbose=0).history

    assert logs["loss"][-1] < 0.5 < logs["loss"][0]  # ln(512) = 6.2 without learning


def test_random_tokens_cannot_be_learned(small_model):
    rng = np.random.default_rng(0)

    def batches():
        for _ in range(60):
            ids = rng.integers(0, 512, [8, 17]).astype(np.int32)  # never the same twice
            yield {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}

    spec = {key: tf.TensorSpec([8, 16], tf.int32) for key in ("input_ids", "labels")}
    small_model.compile(tf_keras.optimizers.AdamW(1e-3))

    logs = small_model.fit(tf.data.Dataset.from_generator(batches, output_signature=spec), verbose=0).history

    assert logs["loss"][0] > math.log(512) - 0.05  # a lower loss would be a leak of the labels into the inputs


def test_the_epochs_figures_weigh_every_token_alike(model):
    lengths = [3, 40]  # two batches: a mean of their means would be far off
    batches = []
    for number, length in enumerate(lengths):
        ids = random_ids(model, 1, 49, seed=number)
        labels = ids[:, 1:].copy()
        labels[:, length:] = IGNORED
        batches.append({"input_ids": ids[:, :-1], "labels": labels})
    terms = [model.loss_terms(batch) for batch in batches]
    data = tf.data.Dataset.from_tensor_slices({key: np.stack([batch[key] for batch in batches]) for key in batches[0]})

    model.compile()
    logs = model.evaluate(data, return_dict=True, verbose=0)

    expected = sum(float(term.loss) for term in terms) / 43
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(logs["perplexity"], math.exp(expected), rtol=1e-4)
    np.testing.assert_allclose(logs["accuracy"], sum(int(term.correct) for term in terms) / 43, rtol=1e-6)
    assert logs["tokens"] == 43
    assert logs["tokens_per_second"] > 0


def test_the_gradient_is_that_of_the_mean_over_trained_tokens(tokenizer, torch_model, model):
    ids = random_ids(model, 2, 13)
    labels = ids[:, 1:].copy()
    labels[0, 3:] = IGNORED
    copy = GPTLMHeadModel(model.config)
    copy.build_in_name_scope()
    copy.set_weights(model.get_weights())
    copy.compile(tf_keras.optimizers.SGD(1.0))
    before = copy.get_weights()

    copy.train_on_batch({"input_ids": ids[:, :-1], "labels": labels})

    reference = GPT2LMHeadModel(torch_model.config)
    reference.load_state_dict(torch_model.state_dict())
    reference.eval()  # no dropout, as in this model
    logits = reference(torch.tensor(ids[:, :-1]).long()).logits
    torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), torch.tensor(labels).long().reshape(-1), ignore_index=IGNORED).backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in reference.named_parameters()}
    for variable, old in zip(copy.weights, before):
        theirs = gradients[weights.pytorch_name(variable)].reshape(old.shape)
        np.testing.assert_allclose(old - variable.numpy(), theirs, atol=2e-5, err_msg=variable.name)  # fp32 weights up to 2, less their steps


def test_dropout_masks_follow_from_seed_and_step_alone(small_model):
    batch = {"input_ids": random_ids(small_model, 2, 16), "labels": random_ids(small_model, 2, 16)}

    def loss(seed, step):
        small_model.seed_dropout(seed)
        small_model.transformer.dropout_clock.set(step)
        return float(small_model.loss_terms(batch, training=True).loss)

    assert loss(1, 5) == loss(1, 5)
    assert len({loss(1, 5), loss(1, 6), loss(2, 5), float(small_model.loss_terms(batch).loss)}) == 4


def test_dropout_keeps_the_mean_and_drops_the_share(small_model):
    layer = small_model.transformer.drop

    dropped = layer(tf.ones([200_000]), training=True).numpy()

    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.9)}
    assert abs((dropped == 0).mean() - 0.1) < 0.004  # six standard deviations of 200,000 draws


@pytest.mark.parametrize("shape", [[3, 5], [15], [4, 4]], ids=str)
def test_the_mask_of_a_row_is_the_same_however_the_batch_is_cut(shape):
    x = tf.ones([6, *shape])

    whole = drop(x, 0.5, tf.constant([1, 2, 0], tf.int64)).numpy()

    parts = [drop(x[start:end], 0.5, tf.constant([1, 2, start], tf.int64)) for start, end in ((0, 1), (1, 3), (3, 6))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(np.unique(whole.reshape(6, -1), axis=0)) == 6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_small_rate_is_kept_to_in_any_precision(dtype):
    dropped = drop(tf.ones([1000, 1000], dtype), 0.002, tf.constant([1, 2, 0], tf.int64))

    assert abs((dropped == 0).numpy().sum() - 2000) < 6 * 2000**0.5


def test_initial_weights_depend_on_the_seed_alone(small_model, tokenizer):
    from tfgpt.recipe import ModelConfig

    same = build.new_model(ModelConfig(layers=1, width=32, heads=2), 16, tokenizer, seed=1)
    other = build.new_model(ModelConfig(layers=1, width=32, heads=2), 16, tokenizer, seed=2)

    for mine, equal, different in zip(small_model.weights, same.weights, other.weights):
        np.testing.assert_array_equal(mine, equal)
        if mine.shape.rank == 2 and "bias" not in mine.name:
            assert np.abs(mine - different).max() > 0
    projection = next(v for v in small_model.weights if "mlp/c_proj/weight" in v.name)
    assert abs(float(tf.math.reduce_std(projection)) - 0.02 / math.sqrt(2)) < 0.0005  # 4,096 draws


def test_mixed_bfloat16_trains(tokenizer):
    from tfgpt.recipe import ModelConfig

    policy = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = build.new_model(ModelConfig(layers=1, width=32, heads=2, dropout=0.1), 16, tokenizer, seed=1)
        ids = random_ids(model, 4, 17)
        batch = {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "segment_ids": np.ones([4, 16], np.int32)}
        model.compile(tf_keras.optimizers.AdamW(1e-2))
        losses = [model.train_on_batch(batch, return_dict=True)["loss"] for _ in range(30)]
    finally:
        tf_keras.mixed_precision.set_global_policy(policy)

    assert losses[-1] < losses[0] - 2


def test_a_static_cache_gives_the_logits_of_a_whole_pass(model):
    ids = random_ids(model, 2, 20)
    cache = model.empty_cache(batch=2, slots=24)
    hidden = []
    for start, end in ((0, 7), (7, 8), (8, 20)):
        positions = tf.tile(tf.range(start, end)[tf.newaxis], [2, 1])
        output = model.transformer(input_ids=ids[:, start:end], position_ids=positions, past_key_values=cache, use_cache=True)
        hidden.append(output.last_hidden_state)
        cache = output.past_key_values

    np.testing.assert_allclose(model.project(tf.concat(hidden, axis=1)), model(ids).logits, atol=FP32)


def test_an_own_cache_is_written_where_it_lies_and_the_one_it_was_copied_from_is_not(model):
    ids = tf.constant(random_ids(model, 2, 8))
    places = tf.tile(tf.range(8)[tf.newaxis], [2, 1])
    _, cache = model.read(ids[:, :7], places[:, :7], places[:, :1], model.empty_cache(batch=2, slots=16))
    before = [layer.numpy() for layer in (*cache.keys, *cache.values)]
    own = model.own_cache(cache)

    right, read = model.read(ids[:, 7:], places[:, 7:], places[:, :1], cache)
    found, written = model.read(ids[:, 7:], places[:, 7:], places[:, :1], own)
    rows = [1, 0, 1]
    of_rows, _ = model.read(tf.gather(ids[:, 7:], rows), tf.gather(places[:, 7:], rows), tf.gather(places[:, :1], rows), model.own_cache(cache, rows))

    np.testing.assert_array_equal(found, right)
    np.testing.assert_allclose(of_rows, tf.gather(right, rows), rtol=1e-4, atol=FP32)
    for layer, old in zip((*cache.keys, *cache.values), before, strict=True):
        np.testing.assert_array_equal(layer, old)
    for layer, mine, other in zip((*own.keys, *own.values), (*written.keys, *written.values), (*read.keys, *read.values), strict=True):
        np.testing.assert_array_equal(mine, other)
        np.testing.assert_array_equal(layer, mine)  # it was overwritten


def test_autograph_rewrites_nothing_of_a_call_in_a_users_function(model, monkeypatch):
    statuses, own = [], model.project

    def noted(hidden):
        statuses.append(tf.__internal__.autograph.control_status_ctx().status.name)
        return own(hidden)

    monkeypatch.setattr(model, "project", noted)

    @tf.function
    def chosen(ids):
        logits = model(ids).logits
        if tf.reduce_max(logits) > 1e30:  # which is the user's own, and is rewritten
            return tf.zeros_like(ids)
        return tf.argmax(logits, axis=-1, output_type=tf.int32)

    ids = random_ids(model, 2, 8)
    np.testing.assert_array_equal(chosen(ids), np.argmax(model(ids).logits, axis=-1))
    assert statuses[0] == "DISABLED"


def test_outputs_of_tfgpt2_are_there(model, torch_model):
    ids = random_ids(model, 2, 9)

    ours = model(ids, output_hidden_states=True, output_attentions=True, use_cache=True)

    with torch.no_grad():
        theirs = torch_model(torch.tensor(ids).long(), output_hidden_states=True, use_cache=True)
    assert [state.shape for state in ours.hidden_states] == [state.shape for state in theirs.hidden_states]
    for mine, other in zip(ours.hidden_states, theirs.hidden_states):
        np.testing.assert_allclose(mine, other, atol=FP32)
    assert ours.attentions[0].shape == (2, 4, 9, 9)
    np.testing.assert_allclose(tf.reduce_sum(ours.attentions[1], axis=-1), np.ones([2, 4, 9]), atol=1e-5)
    assert ours.past_key_values[0].shape == (2, 2, 4, 9, 8)


def test_sinusoidal_positions_are_not_trained_and_every_gpt2_reads_them(tokenizer, tmp_path):
    from tfgpt.recipe import ModelConfig

    model = build.new_model(ModelConfig(layers=1, width=32, heads=2, dropout=0.0, positions="sinusoidal"), 16, tokenizer, seed=1)
    start = model.transformer.wpe.embeddings.numpy()
    ids = random_ids(model, 4, 17)
    model.compile(tf_keras.optimizers.AdamW(1e-2))
    model.train_on_batch({"input_ids": ids[:, :-1], "labels": ids[:, 1:]})
    model.save_pretrained(tmp_path)
    again = build.load_model(tmp_path)

    np.testing.assert_array_equal(model.transformer.wpe.embeddings, start)
    np.testing.assert_allclose(start[3, 4:6], np.sqrt(2) * 0.02 * np.array([np.sin(3 / 10_000 ** (4 / 32)), np.cos(3 / 10_000 ** (4 / 32))]), rtol=1e-5)
    assert len(again.trainable_variables) == len(model.weights) - 1
    torch_reads = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    np.testing.assert_allclose(again(ids[:, :16]).logits, torch_logits(torch_reads, ids[:, :16]), atol=FP32)


def test_each_part_has_its_dropout(tokenizer):
    from tfgpt.recipe import ModelConfig

    config = build.new_model(ModelConfig(layers=1, width=32, heads=2, dropout=0.3, attention_dropout=0.0), 16, tokenizer, seed=1).config

    assert (config.embd_pdrop, config.attn_pdrop, config.resid_pdrop) == (0.3, 0.0, 0.3)


def test_sequences_longer_than_the_context_are_told(model, tokenizer):
    longer = model.config.n_positions * 2
    found = GPTLMHeadModel(model.config)
    found.compile("sgd")

    with pytest.raises(ValueError, match=f"a batch of sequences of {longer} tokens, and the model's context is {model.config.n_positions}"):
        found.fit(pack_texts(["It was. " * 100], tokenizer, length=longer, batch_size=1), verbose=0)
