"""The sides of `tfgpt bench generate`, each a process that decodes the prompts whenever it is told to: `python -m tfgpt.bench.decoders SIDE SETTINGS`.

See `tfgpt.bench.turns` for how it is told and what it answers. All sides read the same weights, which a process of its own writes first.
No side may end early: the end-of-text token is forbidden to all of them alike, not left out, since a server has one.
"""
from __future__ import annotations

import functools
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tfgpt.bench.turns import serve

WEIGHTS = {"graph": ("float32", "bfloat16", "int8"), "lite": ("float32", "int8")}
"""In which this package decodes, with each of its engines."""
CONVERTED = ("float32", "int8")
"""In which CTranslate2 does."""
FULL = "float32"
"""The weights as they are: all sides with these write the same tokens."""


@dataclass(frozen=True)
class Settings:
    """What every side decodes."""

    layers: int
    width: int
    heads: int
    vocab: int
    context: int
    batch: int = 1
    prompt: int = 32
    """Tokens in each prompt."""
    new_tokens: int = 64
    """Tokens that every row gets."""
    folder: str = ""
    """Where the weights are."""

    @property
    def end_of_text(self) -> int:
        """Id of that token: the last one, as in GPT-2's own vocabulary."""
        return self.vocab - 1


@dataclass(frozen=True)
class Side:
    """One way to decode."""

    make: Callable[..., Callable[[], np.ndarray]]
    """Takes the settings, `weights` and what else is in `options`; returns the function that continues the prompts: ids, int [batch, new_tokens]."""
    weights: str = FULL
    options: tuple[str, ...] = ()


def prompts_of(settings: Settings) -> np.ndarray:
    """Return the prompts, int32 [batch, prompt]; a batch begins with the rows of a smaller one."""
    return np.random.default_rng(1).integers(0, settings.end_of_text, [settings.batch, settings.prompt], dtype=np.int32)


def write_weights(settings: Settings) -> None:
    """Write random weights to the folder `model`, as `save_pretrained` does, and for CTranslate2.

    They are larger than those a training begins with, under which a row repeats the last token of its prompt, whatever else a side gets wrong.
    Larger ones still would bring more logits together than rounding keeps apart.
    """
    from transformers import GPT2Config

    from tfgpt.models.causal_lm import GPTLMHeadModel
    from tfgpt.models.weights import initialize

    sizes = {"vocab_size": settings.vocab, "n_positions": settings.context, "n_embd": settings.width, "n_layer": settings.layers, "n_head": settings.heads}
    ends = {"bos_token_id": settings.end_of_text, "eos_token_id": settings.end_of_text}
    model = GPTLMHeadModel(GPT2Config(**sizes, **ends, initializer_range=2.0 / math.sqrt(settings.width)))
    model.build_in_name_scope()
    initialize(model, seed=1)
    model.save_pretrained(_model_folder(settings))
    convert_weights(settings)


def convert_weights(settings: Settings) -> None:
    """Write the weights of the folder `model` for CTranslate2, a folder for each kind in `CONVERTED`."""
    import ctranslate2
    from transformers import GPT2LMHeadModel

    for weights in CONVERTED:
        loader = ctranslate2.converters.transformers.GPT2Loader()  # without its converter, which wants a tokenizer
        spec = loader.get_model_spec(GPT2LMHeadModel.from_pretrained(_model_folder(settings)))
        spec.register_vocabulary(list(map(str, range(settings.vocab))))
        spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = str(settings.end_of_text)
        spec.validate()
        spec.optimize(quantization=weights)
        folder = _converted_folder(settings, weights)
        folder.mkdir()
        spec.save(str(folder))


def tfgpt_decoder(settings: Settings, weights: str, engine: str, draft_weights: str = "") -> Callable[[], np.ndarray]:
    """Return this package's decoding with one of its engines, as `TextModel.generate` does it between its tokenizers.

    Args:
        settings: what is decoded.
        weights: of the model.
        engine: of it.
        draft_weights: in which the model itself guesses tokens ahead; empty = it does not.
    """
    from tfgpt.cli_support import import_tensorflow_quietly

    import_tensorflow_quietly()
    import tensorflow as tf

    from tfgpt.models.build import load_model

    model, draft = (load_model(_model_folder(settings), kind, engine) if kind else None for kind in (weights, draft_weights))
    prompts = tf.RaggedTensor.from_row_lengths(prompts_of(settings).reshape(-1), [settings.prompt] * settings.batch)
    decode = _decoding(model, settings, draft)
    return lambda: decode(prompts).numpy()


def _decoding(model, settings, draft):
    """Return a function from prompts, int32 [batch, (tokens)], to continuations: the only place here that knows the decoding loop.

    Nothing but the lengths is asked for, so it is the loop without the other rules, as in `TextModel.generate`.
    """
    import tensorflow as tf

    from tfgpt.generation.calling import call
    from tfgpt.generation.controls import LENGTHS, Controls
    from tfgpt.generation.decoding import decode
    from tfgpt.generation.stepping import CONTROL_SPECS

    lengths = [tf.fill([settings.batch], settings.new_tokens)] * len(LENGTHS)

    @tf.function(autograph=False, input_signature=[tf.RaggedTensorSpec([None, None], tf.int32), *(getattr(CONTROL_SPECS, name) for name in LENGTHS)])
    def generate(prompts, *lengths):
        return decode(model, prompts, Controls.plain(*lengths), settings.end_of_text, draft).ids

    return lambda prompts: call(generate, prompts, *lengths)


def transformers_decoder(settings: Settings, weights: str) -> Callable[[], np.ndarray]:
    """Return the decoding of transformers' TFGPT2LMHeadModel in a graph."""
    import tensorflow as tf
    from transformers import TFGPT2LMHeadModel

    from tfgpt.models.compat import mend_safetensors_loading

    mend_safetensors_loading()
    model = TFGPT2LMHeadModel.from_pretrained(_model_folder(settings))
    length = settings.prompt + settings.new_tokens  # it has no min_new_tokens

    @tf.function
    def generate(ids):
        mask = tf.ones_like(ids)
        return model.generate(ids, attention_mask=mask, max_length=length, min_length=length, do_sample=False, pad_token_id=settings.end_of_text)

    prompts = tf.constant(prompts_of(settings))
    return lambda: generate(prompts).numpy()[:, settings.prompt :]


def pytorch_decoder(settings: Settings, weights: str) -> Callable[[], np.ndarray]:
    """Return the decoding of PyTorch's GPT2LMHeadModel."""
    import torch
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(_model_folder(settings)).eval()
    ids = torch.from_numpy(prompts_of(settings)).long()
    mask, counts = torch.ones_like(ids), dict.fromkeys(("max_new_tokens", "min_new_tokens"), settings.new_tokens)

    @torch.inference_mode()
    def generate():
        return model.generate(ids, attention_mask=mask, **counts, do_sample=False, pad_token_id=settings.end_of_text).numpy()[:, settings.prompt :]

    return generate


def ctranslate2_decoder(settings: Settings, weights: str) -> Callable[[], np.ndarray]:
    """Return the decoding of CTranslate2, on all cores of this process: by itself it would take four."""
    import ctranslate2

    cores = len(os.sched_getaffinity(0))
    generator = ctranslate2.Generator(str(_converted_folder(settings, weights)), compute_type=weights, inter_threads=1, intra_threads=cores)
    prompts = [list(map(str, row)) for row in prompts_of(settings).tolist()]
    counts = dict.fromkeys(("max_length", "min_length"), settings.new_tokens)

    def generate():
        found = generator.generate_batch(prompts, **counts, beam_size=1, sampling_topk=1, include_prompt_in_result=False)
        return np.array([row.sequences_ids[0] for row in found])

    return generate


SIDES = {
    **{f"tfgpt {engine} {weights}": Side(tfgpt_decoder, weights, (engine,)) for engine, kinds in WEIGHTS.items() for weights in kinds},
    "tfgpt lite float32, int8 draft": Side(tfgpt_decoder, FULL, ("lite", "int8")),
    "transformers TF graph": Side(transformers_decoder),
    "PyTorch": Side(pytorch_decoder),
    **{f"CTranslate2 {weights}": Side(ctranslate2_decoder, weights) for weights in CONVERTED},
}
FRAMEWORKS = {"weights": "both", "PyTorch": "PyTorch"}
"""Of `tfgpt.bench.turns.USE_TORCH`; TensorFlow for the rest."""


def arguments_of(name: str, settings: Settings) -> list[str]:
    """Return the command of a side, or of the process that writes the `weights`."""
    return [sys.executable, "-m", "tfgpt.bench.decoders", name, json.dumps(asdict(settings))]


def worker(name: str, settings: Settings) -> Callable[[int], dict]:
    """Return the function that lets a side decode so many times, and answers with the ids of the last; or the one that writes the `weights`."""
    if name == "weights":
        return lambda times: {"written": write_weights(settings)}
    generate = SIDES[name].make(settings, SIDES[name].weights, *SIDES[name].options)

    def work(times):
        for _ in range(times):
            ids = generate()
        return {"tokens": times * ids.size, "ids": ids.tolist()}

    return work


def _model_folder(settings) -> Path:
    return Path(settings.folder) / "model"


def _converted_folder(settings, weights) -> Path:
    return Path(settings.folder) / f"ctranslate2-{weights}"


if __name__ == "__main__":
    name, given = sys.argv[1:]
    serve(functools.partial(worker, name, Settings(**json.loads(given))), FRAMEWORKS.get(name, "TensorFlow"))
