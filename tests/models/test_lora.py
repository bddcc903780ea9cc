"""Low-rank changes: nothing at first, they alone move, merged they are the same function, and PEFT understands their folder."""
import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from peft import PeftModel
from transformers import GPT2LMHeadModel

from tfgpt.generation.text_model import TextModel
from tfgpt.models import weights
from tfgpt.models.build import load_model, parameter_count
from tfgpt.models.lora import CONFIG_FILE, TENSORS_FILE, add_lora, load_lora, merge_lora, save_lora, unmerge_lora
from tfgpt.models.step import StepSettings
from tfgpt.recipe import LoraConfig, ModelConfig
from tfgpt.serving.export import export
from tfgpt.serving.saved_model import LoadedModel

MERGED = 1e-5
"""Of a matrix, or of logits: one fp32 sum more or less; what the project promises."""
EVERYWHERE = ("h.*.attn", "h.*.mlp", "wte")


def random_ids(model, *shape, seed=1):
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, shape).astype(np.int32)


def batch_of(ids):
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}


@pytest.fixture(scope="module")
def changed(model):
    """The model with changes that are not 0."""
    found = add_lora(model, LoraConfig(rank=3, alpha=6.0, matrices=EVERYWHERE), seed=5)
    for number, variable in enumerate(found.trainable_variables):
        variable.assign(tf.random.stateless_normal(variable.shape, [number, 8], stddev=0.1))
    return found


def test_nothing_changes_at_first_and_the_changes_alone_are_trained(model):
    found, ids = add_lora(model, LoraConfig(rank=2, matrices=("h.*.attn", "h.0.mlp.c_fc")), seed=5), random_ids(model, 2, 20)

    np.testing.assert_array_equal(found(ids).logits, model(ids).logits)
    names = [weights.short_name(variable) for variable in found.trainable_variables]
    assert len(names) == 2 * 5 and all(".lora." in name for name in names)


@pytest.mark.parametrize("settings", [StepSettings(), StepSettings(precision="bfloat16", recompute=True, accumulate=2)], ids=str)
def test_a_step_moves_the_changes_and_nothing_else(model, settings):
    found = add_lora(model, LoraConfig(rank=2, dropout=0.2, matrices=EVERYWHERE), seed=5)
    before = weights.state(found)
    found.compile(optimizer=tf_keras.optimizers.SGD(1.0), settings=settings)

    for step in range(2):  # in the first one b is 0, so that a has no gradient
        found.train_on_batch(batch_of(random_ids(model, 4, 17, seed=step)))

    after = weights.state(found)
    assert {name for name in before if (before[name] != after[name]).any()} == {name for name in before if ".lora." in name}


def test_the_changed_function_is_that_of_the_changed_matrices(changed, model):
    ids, state = random_ids(model, 2, 20), weights.state(changed)
    plain = {name: array for name, array in state.items() if ".lora." not in name}
    for name in [name for name in plain if f"{name.removesuffix('.weight')}.lora.a" in state]:
        path = name.removesuffix(".weight")
        plain[name] = plain[name] + 2.0 * state[f"{path}.lora.a"] @ state[f"{path}.lora.b"]  # alpha / rank

    expected = GPT2LMHeadModel(model.config).eval()
    expected.load_state_dict({name: torch.tensor(array) for name, array in plain.items()}, strict=False)

    with torch.no_grad():
        np.testing.assert_allclose(changed(ids).logits, expected(torch.tensor(ids).long()).logits, atol=2e-4)  # of logits to 60: fp32 in another order


def test_merged_and_unmerged_again_it_is_the_same_to_1e_5(changed, tmp_path):
    ids = random_ids(changed, 2, 20)
    save_lora(changed, tmp_path)

    merged = merge_lora(changed)
    apart = unmerge_lora(merged, tmp_path)

    assert merged.low_ranks == {} and merged.adaptation.lora.rank == 0
    scale = np.abs(changed(ids).logits).max()
    np.testing.assert_allclose(merged(ids).logits / scale, changed(ids).logits / scale, atol=MERGED)
    np.testing.assert_allclose(apart(ids).logits / scale, changed(ids).logits / scale, atol=MERGED)
    before, after = weights.state(changed), weights.state(apart)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_allclose(after[name], before[name], atol=MERGED, err_msg=name)


def test_saved_alone_they_are_small_and_load_onto_the_model_again(changed, model, tmp_path):
    save_lora(changed, tmp_path)

    again = load_lora(model, tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG_FILE, TENSORS_FILE]
    np.testing.assert_array_equal(again(random_ids(model, 2, 9)).logits, changed(random_ids(model, 2, 9)).logits)
    assert again.adaptation.lora.alpha == 6.0


def test_of_rank_8_they_are_under_a_fiftieth_of_gpt2():
    layers, width = 12, 768
    of_all_matrices = sum(8 * (nx + nf) for nx, nf in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))) * layers

    assert of_all_matrices / parameter_count(ModelConfig(size="gpt2"), 1024, 50_257) < 0.02


def test_peft_gives_the_same_logits_with_their_folder(model, model_folder, tmp_path):
    found = add_lora(model, LoraConfig(rank=3, alpha=6.0, matrices=("h.*.attn", "h.1.mlp")), seed=5)
    for number, variable in enumerate(found.trainable_variables):
        variable.assign(tf.random.stateless_normal(variable.shape, [number, 8], stddev=0.1))
    save_lora(found, tmp_path)
    ids = random_ids(model, 2, 20)

    theirs = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(model_folder), str(tmp_path)).eval()

    with torch.no_grad():
        np.testing.assert_allclose(found(ids).logits, theirs(torch.tensor(ids).long()).logits, atol=2e-4)


def test_a_folder_of_peft_is_read(model, model_folder, tmp_path):
    from peft import LoraConfig as TheirConfig
    from peft import get_peft_model

    torch.manual_seed(3)
    theirs = get_peft_model(GPT2LMHeadModel.from_pretrained(model_folder),
                            TheirConfig(r=4, lora_alpha=4, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, init_lora_weights=False)).eval()
    theirs.save_pretrained(str(tmp_path))
    ids = random_ids(model, 2, 20)

    ours = load_lora(model, tmp_path)

    with torch.no_grad():
        expected = theirs(torch.tensor(ids).long()).logits.numpy()
    np.testing.assert_allclose(ours(ids).logits, expected, atol=2e-4)
    assert np.abs(expected - model(ids).logits).max() > 0.1  # their changes are not 0


def test_saved_loaded_and_exported_it_is_the_same_model(changed, tokenizer, tmp_path):
    ids = random_ids(changed, 2, 20)
    changed.save_pretrained(tmp_path / "model")
    expected = TextModel(changed, tokenizer).generate(["It was"], max_new_tokens=6)[0].text

    loaded = load_model(tmp_path / "model")
    served = LoadedModel(export(TextModel(changed, tokenizer), tmp_path / "export"))

    np.testing.assert_array_equal(loaded(ids).logits, changed(ids).logits)
    assert served.predict("generate", {"prompt": ["It was"], "max_new_tokens": [6]})["text"][0].decode() == expected


@pytest.mark.parametrize(("weights_", "engine"), [("bfloat16", "graph"), ("int8", "graph"), ("float32", "lite")])
def test_weights_in_fewer_bits_and_engine_lite_hold_the_changes(changed, tmp_path, weights_, engine):
    changed.save_pretrained(tmp_path)
    ids = tf.constant(random_ids(changed, 1, 12))
    places = tf.range(12)[tf.newaxis]
    expected = changed.read(ids, places, places, None)[0].numpy()

    found = load_model(tmp_path, weights_, engine).read(ids, places, places, None)[0].numpy()

    tolerance = {"float32": 1e-5, "bfloat16": 0.02, "int8": 0.03}[weights_]  # of the largest: half of their last bit, through two layers
    np.testing.assert_allclose(found / np.abs(expected).max(), expected / np.abs(expected).max(), atol=tolerance)


@pytest.mark.parametrize(("change", "message"), [
    ({"peft_type": "IA3"}, "peft_type is 'IA3'; LORA alone is understood"),
    ({"use_dora": True}, "use_dora is True; False alone is understood"),
])
def test_a_folder_of_another_kind_is_refused(changed, model, tmp_path, change, message):
    save_lora(changed, tmp_path)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(json.loads((tmp_path / CONFIG_FILE).read_text()) | change))

    with pytest.raises(ValueError, match=message):
        load_lora(model, tmp_path)


def test_what_cannot_be_is_refused(model, changed, tmp_path):
    with pytest.raises(ValueError, match=r"adapt.lora.matrices: the pattern 'h.9.attn' matches no matrix; there are wte, h.0.attn.c_attn"):
        add_lora(model, LoraConfig(rank=2, matrices=("h.9.attn",)))
    with pytest.raises(ValueError, match="has low-rank changes already"):
        add_lora(changed, LoraConfig(rank=2))
    with pytest.raises(ValueError, match="no low-rank changes"):
        save_lora(model, tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no adapter_config.json"):
        load_lora(model, tmp_path)
