"""Checkpoints of GPT-2 and GPT-1 in every form against PyTorch's classes on the same weights; pickled ones are refused."""
import json
import pickle
import shutil

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    TFGPT2LMHeadModel,
    TFOpenAIGPTLMHeadModel,
)

import tfgpt.models.checkpoint
from tfgpt.generation.text_model import TextModel
from tfgpt.models import build, checkpoint
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.models.transformer import segment_mask
from tfgpt.recipe import RecipeError

FP32 = 1e-4
"""Of logits of size 1 to 20: two layers of fp32 sums in another order."""
SHAPE = {"vocab_size": 512, "n_positions": 48, "n_embd": 32, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def with_large_weights(model):
    """Return a model whose greedy texts differ from prompt to prompt, and none of whose biases and norms goes unnoticed."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter * 8.0 if parameter.ndim > 1 else parameter + 0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def gpt1():
    torch.manual_seed(1)
    return with_large_weights(OpenAIGPTLMHeadModel(OpenAIGPTConfig(**SHAPE)))


@pytest.fixture(scope="module")
def gpt1_folder(gpt1, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt1")
    gpt1.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(2)
    return with_large_weights(GPT2LMHeadModel(GPT2Config(**SHAPE, bos_token_id=0, eos_token_id=0)))


@pytest.fixture(scope="module")
def gpt2_folder(gpt2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    gpt2.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(3).integers(0, SHAPE["vocab_size"], [3, 40]).astype(np.int32)


def logits_of(torch_model, ids):
    with torch.no_grad():
        return torch_model(torch.tensor(ids).long()).logits.numpy()


def assert_same_function(model, torch_model, ids, tolerance=FP32):
    np.testing.assert_allclose(model(ids).logits, logits_of(torch_model, ids), atol=tolerance)


def rewritten(folder, to, change):
    """Copy a folder, its weights changed by a function of their dict."""
    shutil.copytree(folder, to)
    save_file(change(load_file(folder / "model.safetensors")), to / "model.safetensors", metadata={"format": "pt"})
    return to


@pytest.mark.parametrize("kind", ["gpt1", "gpt2"])
def test_a_folder_that_pytorch_wrote_gives_its_logits(kind, request, ids):
    folder, theirs = request.getfixturevalue(f"{kind}_folder"), request.getfixturevalue(kind)

    assert_same_function(build.load_model(folder), theirs, ids)
    assert_same_function(GPTLMHeadModel.from_pretrained(str(folder)), theirs, ids)


@pytest.mark.parametrize("kind", ["gpt1", "gpt2"])
def test_the_engine_writes_the_tokens_that_pytorch_writes(kind, request, ids, tokenizer):
    folder, theirs = request.getfixturevalue(f"{kind}_folder"), request.getfixturevalue(kind)
    text_model = TextModel(build.load_model(folder), tokenizer)
    theirs.generation_config.eos_token_id = tokenizer.eos_token_id

    ours = text_model.generate_from_ids(ids[:, :9], max_new_tokens=30, top_log_probs=1)

    for row, answer in zip(ids[:, :9], ours):
        with torch.no_grad():
            expected = theirs.generate(torch.tensor(row[np.newaxis]).long(), attention_mask=torch.ones(1, 9), max_new_tokens=30, do_sample=False,
                                       pad_token_id=0)[0, 9:].tolist()
        written = [token.id for token in answer.tokens]
        assert written == expected[: len(written)] and len(written) >= len(expected) - 1  # PyTorch's have the end-of-text token
    assert len({tuple(token.id for token in answer.tokens) for answer in ours}) == 3


def test_a_saved_gpt1_loads_in_its_class_of_pytorch_and_here(gpt1, gpt1_folder, ids, tmp_path):
    model = build.load_model(gpt1_folder)
    model.transformer.h[1].mlp.c_fc.weight.assign_add(tf.ones_like(model.transformer.h[1].mlp.c_fc.weight) * 0.1)
    model.save_pretrained(tmp_path)
    ours = model(ids).logits.numpy()

    again, theirs = build.load_model(tmp_path), OpenAIGPTLMHeadModel.from_pretrained(tmp_path).eval()

    assert np.abs(ours - logits_of(gpt1, ids)).max() > 0.1
    np.testing.assert_array_equal(again(ids).logits, ours)
    assert_same_function(model, theirs, ids)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["architectures"], config["afn"]) == ("openai-gpt", ["OpenAIGPTLMHeadModel"], "gelu")
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(gpt1_folder / "model.safetensors").keys()


def test_a_gpt1_keeps_segments_apart_and_learns_by_pytorchs_gradients(gpt1, gpt1_folder, ids):
    model = build.load_model(gpt1_folder)
    ids, segments, positions = ids[:1, :20], np.array([[1] * 8 + [2] * 12], np.int32), np.array([[*range(8), *range(12)]], np.int32)
    packed = model(ids, attention_mask=segment_mask(segments), position_ids=positions).logits.numpy()
    np.testing.assert_allclose(packed[0, 8:], logits_of(gpt1, ids[:, 8:])[0], atol=FP32)

    with tf.GradientTape() as tape:
        loss = model.loss_terms({"input_ids": ids[:, :-1], "labels": ids[:, 1:]}, training=True).objective
    ours = tape.gradient(loss, [model.transformer.h[0].ln_1.gamma, model.transformer.h[0].attn.c_attn.weight])
    gpt1.zero_grad()
    logits = gpt1(torch.tensor(ids[:, :-1]).long()).logits
    torch.nn.functional.cross_entropy(logits[0], torch.tensor(ids[0, 1:]).long(), reduction="sum").backward()

    block = gpt1.transformer.h[0]
    for mine, theirs in zip(ours, (block.ln_1.weight.grad, block.attn.c_attn.weight.grad)):
        np.testing.assert_allclose(mine, theirs.numpy(), atol=2e-5 * float(theirs.abs().max()))  # fp32, through two layers and back


def test_a_gpt1_trains_in_bfloat16_too(gpt1_folder, ids):
    from tfgpt.models.step import StepSettings

    model = build.load_model(gpt1_folder)
    model.compile(tf_keras.optimizers.AdamW(1e-3), StepSettings(precision="bfloat16"))
    batch = tf.data.Dataset.from_tensors({"input_ids": ids[:, :-1], "labels": ids[:, 1:]}).repeat()

    losses = model.fit(batch, steps_per_epoch=15, epochs=2, verbose=0).history["loss"]

    assert losses[1] < losses[0] - 0.5  # nats: a batch is being learned by heart


@pytest.mark.parametrize("part", [checkpoint.PART, 1000], ids=["at once", "in parts"])
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_weights_of_sixteen_bits_are_read_as_float32(kind, part, gpt2, gpt2_folder, ids, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "PART", part)
    dtype = getattr(torch, kind)
    folder = rewritten(gpt2_folder, tmp_path / "half", lambda weights: {name: array.to(dtype) for name, array in weights.items()})
    rounded = GPT2LMHeadModel.from_pretrained(gpt2_folder, torch_dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_(parameter.to(dtype).float())

    model = build.load_model(folder)

    assert {variable.dtype for variable in model.weights} == {tf.float32}
    assert_same_function(model, rounded, ids)


@pytest.mark.parametrize("kind", ["gpt1", "gpt2"])
def test_names_without_prefix_and_old_buffers_are_understood(kind, request, ids, tmp_path):
    folder, theirs = request.getfixturevalue(f"{kind}_folder"), request.getfixturevalue(kind)

    def as_in_2019(weights):
        plain = {name.removeprefix("transformer."): array for name, array in weights.items()}
        buffers = {f"h.{layer}.attn.{name}": value for layer in range(2) for name, value in
                   (("bias", torch.ones(1, 1, 48, 48).tril()), ("masked_bias", torch.tensor(-1e4)))}
        embeddings = plain.get("wte.weight", plain.get("tokens_embed.weight"))
        return plain | buffers | {"lm_head.weight": embeddings.clone()}  # a copy of the embeddings, as some files have it

    assert_same_function(build.load_model(rewritten(folder, tmp_path / "old", as_in_2019)), theirs, ids)


def test_a_config_of_2019_without_a_model_type_is_understood(gpt1, gpt1_folder, ids, tmp_path):
    folder = shutil.copytree(gpt1_folder, tmp_path / "old")
    content = json.loads((folder / "config.json").read_text())
    del content["model_type"]
    (folder / "config.json").write_text(json.dumps(content | {"n_special": 0, "n_ctx": 48, "predict_special_tokens": True}))

    assert_same_function(build.load_model(folder), gpt1, ids)


def test_a_model_without_its_output_layer_is_a_language_model_too(gpt2, ids, tmp_path):
    bare = GPT2Model(gpt2.config)
    bare.load_state_dict(gpt2.transformer.state_dict())
    bare.save_pretrained(tmp_path)  # what gpt2's own file on the hub is

    assert_same_function(build.load_model(tmp_path), gpt2, ids)


def test_an_output_matrix_of_its_own_is_kept(ids, tmp_path):
    torch.manual_seed(4)
    theirs = with_large_weights(GPT2LMHeadModel(GPT2Config(**SHAPE, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False)))
    theirs.save_pretrained(tmp_path)

    assert_same_function(build.load_model(tmp_path), theirs, ids)


def test_files_in_several_pieces_are_read(gpt2, ids, tmp_path):
    gpt2.save_pretrained(tmp_path, max_shard_size="30KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))

    assert len(shards) > 2 and not (tmp_path / "model.safetensors").exists()
    assert_same_function(build.load_model(tmp_path), gpt2, ids)

    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"{shards[1].name}: model.safetensors.index.json names it"):
        build.load_model(tmp_path)


@pytest.mark.parametrize(("kind", "tf_class"), [("gpt1", TFOpenAIGPTLMHeadModel), ("gpt2", TFGPT2LMHeadModel)])
@pytest.mark.parametrize("size", ["1GB", "30KB"])
def test_tensorflows_files_are_read_whole_or_in_pieces(kind, tf_class, size, request, ids, tmp_path):
    folder, theirs = request.getfixturevalue(f"{kind}_folder"), request.getfixturevalue(kind)
    tf_class.from_pretrained(folder).save_pretrained(tmp_path, max_shard_size=size)

    assert ((tmp_path / "tf_model.h5.index.json").exists(), (tmp_path / "tf_model.h5").exists()) == (size == "30KB", size == "1GB")
    assert not list(tmp_path.glob("*.safetensors"))
    assert_same_function(build.load_model(tmp_path), theirs, ids)


def test_the_names_of_tensorflows_first_files_are_understood(gpt2, gpt2_folder, ids, tmp_path):
    TFGPT2LMHeadModel.from_pretrained(gpt2_folder).save_pretrained(tmp_path / "new")
    (tmp_path / "old").mkdir()
    shutil.copy(gpt2_folder / "config.json", tmp_path / "old")
    with h5py.File(tmp_path / "new" / "tf_model.h5") as new, h5py.File(tmp_path / "old" / "tf_model.h5", "w") as old:
        def write(place, item):
            if isinstance(item, h5py.Dataset):
                old[place.replace("tfgpt2lm_head_model", "tfgp_t2lm_head_model_1").replace("wte/embeddings:0", "wte/weight:0")] = item[()]
        new.visititems(write)

    assert_same_function(build.load_model(tmp_path / "old"), gpt2, ids)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "model.ckpt"])
def test_pickled_weights_are_refused_and_never_opened(name, gpt2_folder, tmp_path):
    folder, sign = tmp_path / "pickled", tmp_path / "was-run"
    folder.mkdir()
    shutil.copy(gpt2_folder / "config.json", folder)
    (folder / name).write_bytes(pickle.dumps(Trap(str(sign))))

    for load in (build.load_model, GPTLMHeadModel.from_pretrained):
        with pytest.raises(ValueError, match=f"{name}, and pickled weights are not loaded.*convert.*safe_serialization=True"):
            load(folder)
    with pytest.raises(RecipeError, match=f"model.init: .*{name}, and pickled weights are not loaded"):
        build.check_start(str(folder), length=8)
    assert not sign.exists()


def test_pickled_weights_beside_others_are_left_alone(gpt2, gpt2_folder, ids, tmp_path):
    folder, sign = shutil.copytree(gpt2_folder, tmp_path / "both"), tmp_path / "was-run"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(str(sign))))

    assert_same_function(build.load_model(folder), gpt2, ids)
    assert not sign.exists()


class Hub:
    """Stands for the hub: gives a folder those files of another that match the patterns, and remembers what was asked."""

    def __init__(self, repository, cache):
        self.repository, self.cache, self.asked = repository, cache, []

    def __call__(self, repo_id, allow_patterns, **options):
        from fnmatch import fnmatch

        self.asked.append((repo_id, options))
        self.cache.mkdir(exist_ok=True)
        for path in self.repository.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, self.cache)
        return str(self.cache)


@pytest.mark.parametrize(("form", "wanted"), [("safetensors", "model.safetensors"), ("h5", "tf_model.h5")])
def test_of_a_hub_id_only_one_form_of_the_weights_is_downloaded(form, wanted, gpt2, gpt2_folder, ids, tmp_path, monkeypatch):
    repository = tmp_path / "repository"
    TFGPT2LMHeadModel.from_pretrained(gpt2_folder).save_pretrained(repository)
    if form == "safetensors":
        shutil.copy(gpt2_folder / "model.safetensors", repository)
    for name in ("pytorch_model.bin", "flax_model.msgpack", "rust_model.ot", "modeling_gpt2.py"):
        (repository / name).write_text("not to be downloaded")
    hub = Hub(repository, tmp_path / "cache")
    monkeypatch.setattr(tfgpt.models.checkpoint, "snapshot_download", hub)

    build.config_of("someone/gpt2")
    assert {path.name for path in hub.cache.iterdir()} == {"config.json"}
    model = GPTLMHeadModel.from_pretrained("someone/gpt2", revision="v1", local_files_only=True)

    assert {path.name for path in hub.cache.iterdir()} == {"config.json", wanted}
    assert hub.asked[-1] == ("someone/gpt2", {"revision": "v1", "local_files_only": True})
    assert_same_function(model, gpt2, ids)


def test_a_hub_id_with_pickled_weights_alone_is_refused(gpt2_folder, tmp_path, monkeypatch):
    repository = tmp_path / "repository"
    repository.mkdir()
    shutil.copy(gpt2_folder / "config.json", repository)
    (repository / "pytorch_model.bin").write_bytes(b"x")
    monkeypatch.setattr(tfgpt.models.checkpoint, "snapshot_download", Hub(repository, tmp_path / "cache"))

    with pytest.raises(FileNotFoundError, match="pickled ones, such as pytorch_model.bin, are not loaded"):
        build.load_model("someone/gpt2")


def test_a_name_that_is_no_folder_and_cannot_be_had_says_so():
    for source in ("no-such/model", "no/such/folder/here", "/no/such/folder"):
        with pytest.raises(FileNotFoundError, match="is neither a folder with a model's config.json nor a model of the hub"):
            build.load_model(source)


def test_further_arguments_of_transformers_are_refused(gpt2_folder):
    with pytest.raises(ValueError, match="from_pt, use_safetensors not taken; there are cache_dir, force_download"):
        GPTLMHeadModel.from_pretrained(gpt2_folder, from_pt=True, use_safetensors=False)


@pytest.mark.parametrize(("change", "message"), [
    (lambda content: content | {"model_type": "gpt_neo"}, "model_type is gpt_neo; gpt2 and openai-gpt can be loaded"),
    (lambda content: content | {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx or scale_attn_weights"),
    (lambda content: content | {"n_head": 5}, "n_embd 32 is not a multiple of n_head 5"),
    (lambda content: content | {"n_embd": 64}, r"weights: transformer.wpe.weight has the shape \[48, 32\], and the model's is \[48, 64\]"),
    (lambda content: content | {"n_layer": 3}, r"weights: transformer.h.2.attn.c_attn.bias is missing \(12 such\)"),
    (lambda content: content | {"n_layer": 1}, r"the model has no place for transformer.h.1.attn.c_attn.bias \(12 such\)"),
])  # fmt: skip
def test_what_cannot_be_loaded_is_refused(change, message, gpt2_folder, tmp_path):
    folder = shutil.copytree(gpt2_folder, tmp_path / "odd")
    (folder / "config.json").write_text(json.dumps(change(json.loads((folder / "config.json").read_text()))))

    with pytest.raises(ValueError, match=message):
        build.load_model(folder)


@pytest.mark.parametrize(("name", "message"), [("model.safetensors", "is no safetensors file, or a damaged one"), ("tf_model.h5", "is no HDF5 file")])
def test_a_damaged_file_is_refused(name, message, gpt2_folder, tmp_path):
    shutil.copy(gpt2_folder / "config.json", tmp_path)
    (tmp_path / name).write_bytes(b"\x05\x00\x00\x00\x00\x00\x00\x00hello")

    with pytest.raises(ValueError, match=message):
        build.load_model(tmp_path)


def test_a_folder_without_weights_is_refused(gpt2_folder, tmp_path):
    shutil.copy(gpt2_folder / "config.json", tmp_path)

    with pytest.raises(FileNotFoundError, match="holds no weights: no model.safetensors"):
        build.load_model(tmp_path)


def test_weights_are_read_one_at_a_time(gpt2_folder):
    tensors = checkpoint.Tensors(gpt2_folder, tied=True)

    assert len(tensors) == 2 + 2 * 12 + 2
    assert tensors["transformer.wte.weight"] is not tensors["transformer.wte.weight"]  # nothing is kept

