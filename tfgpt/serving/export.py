"""Write a `TextModel` as a SavedModel for TensorFlow Serving: strings in, strings out."""
from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
import yaml

from tfgpt import __version__
from tfgpt.files import whole_folder, write_json, write_text
from tfgpt.generation.beam import EARLY_STOPPING
from tfgpt.generation.controls import SEARCHED, Controls, controls_of
from tfgpt.generation.judging import head_signatures
from tfgpt.generation.sampling import Constraints
from tfgpt.generation.stepping import CONSTRAINT_SPECS, CONTROL_SPECS
from tfgpt.generation.text_model import SEARCH_SPECS, TextModel
from tfgpt.models.compiled import CompiledModel
from tfgpt.models.lite import LiteModel
from tfgpt.progress import console
from tfgpt.recipe import ExportConfig
from tfgpt.serving.layout import write_server_files
from tfgpt.serving.manifest import write_manifest
from tfgpt.serving.model_card import model_card
from tfgpt.serving.pieces import stepper_signatures
from tfgpt.serving.saved_model import read_signatures
from tfgpt.serving.warmup import write_warmup

OPTIONS = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
"""Nobody trains what was exported, and the functions for it were a part of every version."""
SETTINGS = "export.json"
"""In `assets.extra` of a version: what it was exported with."""


def export(text_model: TextModel, folder: str | Path, config: ExportConfig | None = None, assets: Sequence[Path] = (), extra: Sequence[Path] = ()) -> Path:
    """Write FOLDER/<version>, which appears only when it is whole, and the files for servers beside it; return the version's path.

    Every input has the batch first. Controls have defaults, written into the graph and into `SignatureDef.defaults`, so a request may
    send the prompt alone; a control of one row holds for all. Of a model with an encoder the prompt is the source, and there is no signature `score`.
    A model with a head has a signature for it (see `head_signatures`), which is also `serving_default`, unless the head was trained beside a language
    model; the names of its labels are the asset `labels.txt`.

    A version holds, beside the SavedModel: in `assets` the vocabulary and a model card; in `assets.extra` the settings (export.json), requests that
    warm TensorFlow Serving up, and a manifest of all files. For the files beside it see `tfgpt.serving.layout`; those that were edited are left as they
    are, and a line on standard error says so.

    Args:
        text_model: model and tokenizer; and the draft model, if it has one, whose path in `config` is not looked at.
        folder: the model's base path for TensorFlow Serving; its name is the model's.
        config: version, defaults and what the server is told; `None` = version 1 and the defaults of a recipe.
        assets: files copied into `assets`; recipe.yaml is one that the model card tells of.
        extra: files copied into `assets.extra`; evaluation.json is one that the model card tells of.

    Raises:
        ValueError: a model behind LiteRT; settings that do not suit the model.
    """
    if isinstance(text_model.model, LiteModel):
        raise ValueError("export: a model with engine lite runs in Python alone; load it with engine='graph' and export that")
    config, base = config or ExportConfig(), Path(folder)
    lengths = config.lengths(text_model.model.config.n_positions)
    text_model, version = laid_out(text_model, config), base / str(config.version)
    with whole_folder(version) as partial:
        kept = tf.Module()  # and not the text model itself, of which every function would be traced and stored beside the signatures
        kept.tables, kept.weights = text_model.tokenizer.tables, text_model.weights
        with tempfile.TemporaryDirectory() as scratch:
            if text_model.model.adaptation.head.labels:
                labels = Path(scratch) / "labels.txt"
                labels.write_text("".join(f"{label}\n" for label in text_model.model.adaptation.head.labels), "utf-8")
                kept.labels = tf.saved_model.Asset(str(labels))
            pieces = stepper_signatures(text_model.stepper)  # for a server that batches between tokens; nobody asks TensorFlow Serving for them
            tf.saved_model.save(kept, str(partial), signatures=signatures_of(text_model, config) | pieces, options=OPTIONS)
        _write_assets(partial, base.resolve().name, text_model, config, assets, extra)
        write_warmup(partial, base.resolve().name, text_model.python_tokenizer, lengths, config.batch_sizes)
        write_manifest(partial)
    for edited in write_server_files(base.resolve(), config):
        console.print(f"export: {edited} was edited, or is not ours, and is kept as it is; remove it to have it written anew")
    return version


def _write_assets(version, name, text_model, config, assets, extra):
    """Write what lies beside the graph but for the labels, the warm-up requests and the manifest."""
    for part, files in (("assets", assets), ("assets.extra", extra)):
        (version / part).mkdir(exist_ok=True)
        for file in files:
            shutil.copy(file, version / part)
    text_model.python_tokenizer.save_pretrained(version / "assets")
    by_name = {Path(file).name: Path(file) for file in (*assets, *extra)}
    recipe = yaml.safe_load(by_name["recipe.yaml"].read_text("utf-8")) if "recipe.yaml" in by_name else None
    evaluation = json.loads(by_name["evaluation.json"].read_text("utf-8")) if "evaluation.json" in by_name else None
    write_text(version / "assets" / "model_card.md", model_card(name, text_model, config, read_signatures(version), recipe, evaluation))
    write_json(version / "assets.extra" / SETTINGS, {"settings": dataclasses.asdict(config), "versions": {"tfgpt": __version__, "tensorflow": tf.__version__}})


def laid_out(text_model: TextModel, config: ExportConfig) -> TextModel:
    """Return the text model as it is exported: compiled, or with its tokenizer kept on the host, where that is asked for."""
    if not config.jit and config.device == "any":
        return text_model
    lengths = config.lengths(text_model.model.config.n_positions)
    model, draft = (CompiledModel(part, config.batch_sizes, lengths) if config.jit and part is not None else part
                    for part in (text_model.model, text_model.draft))
    return TextModel(model, text_model.python_tokenizer, draft, text_model.draft_tokens, text_device="/CPU:0" if config.device == "gpu" else "")


def signatures_of(text_model: TextModel, config: ExportConfig) -> dict[str, tf.types.experimental.PolymorphicFunction]:
    """Return the signatures of a model by name, with the defaults that the settings give.

    They call what was traced before, in Python's use or here: while a SavedModel is written, TensorFlow would trace every function once more.
    """
    text, tokenizer = tf.TensorSpec([None], tf.string, name="text"), text_model.tokenizer
    begin, advance = (function.get_concrete_function() for function in (text_model.stepper.begin, text_model.stepper.advance))
    to_ids, to_text = (function.get_concrete_function() for function in (tokenizer.tokenize, tokenizer.detokenize))
    scored = text_model.score_graph.get_concrete_function() if text_model.model.encoder is None else None
    embedded = text_model.embed_graph.get_concrete_function()
    nothing = Constraints(tf.constant([[""]]), tf.constant([[-1]]), tf.constant([[-1]]))  # not empty: a server that joins batches cannot pad what is
    default = Controls(*map(tf.constant, controls_of({"max_new_tokens": config.max_new_tokens}, rows=1)))  # greedy, every rule off

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name="prompt"), *CONTROL_SPECS, *CONSTRAINT_SPECS])
    def generate(
        prompt,
        max_new_tokens=default.max_new_tokens,
        temperature=default.temperature,
        top_k=default.top_k,
        top_p=default.top_p,
        repetition_penalty=default.repetition_penalty,
        seed=default.seed,
        min_p=default.min_p,
        typical_p=default.typical_p,
        presence_penalty=default.presence_penalty,
        frequency_penalty=default.frequency_penalty,
        no_repeat_ngram_size=default.no_repeat_ngram_size,
        min_new_tokens=default.min_new_tokens,
        prompt_lookup_num_tokens=default.prompt_lookup_num_tokens,
        stop=nothing.stop,
        banned_tokens=nothing.banned_tokens,
        forced_tokens=nothing.forced_tokens,
    ):
        controls = Controls(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed, min_p, typical_p, presence_penalty,
                            frequency_penalty, no_repeat_ngram_size, min_new_tokens, prompt_lookup_num_tokens)
        rows = begin(prompt, list(controls), [stop, banned_tokens, forced_tokens], tf.constant(0))
        _, outputs = advance(rows, tf.constant(text_model.model.config.n_positions))      # as a server does between tokens, but to the end
        return {name: outputs[name] for name in ("text", "token_count", "log_prob", "finish_reason")}

    @tf.function(autograph=False, input_signature=[text])
    def score(text):
        return scored(text, tf.constant(0))

    @tf.function(autograph=False, input_signature=[text])
    def embed(text):
        return {"embedding": embedded(text)}

    @tf.function(autograph=False, input_signature=[text])
    def tokenize(text):
        ids = to_ids(text)
        return {"ids": ids.to_tensor(tokenizer.end_of_text), "length": tf.cast(ids.row_lengths(), tf.int32)}

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None], tf.int32, name="ids")])
    def detokenize(ids):
        return {"text": to_text(ids)}

    of_text = {"score": score} if scored is not None else {}
    of_search = {"search": _search_signature(text_model, config.beams, default, nothing)} if config.beams else {}
    of_head = head_signatures(text_model.judge) if text_model.model.head is not None else {}
    judges = bool(of_head) and text_model.model.adaptation.head.weight == 1
    first = next(iter(of_head.values())) if judges else generate
    return {"serving_default": first, "generate": generate, **of_search, **of_text, **of_head, "embed": embed, "tokenize": tokenize, "detokenize": detokenize}


def _search_signature(text_model, beams, default, nothing):
    """Return the function of a beam search; `default` and `nothing` are the controls and constraints that a request gets when it does not say."""
    even, patient = tf.constant([1.0]), tf.constant([EARLY_STOPPING.index(False)])
    graph = text_model.search_graph.get_concrete_function()
    searched = [CONTROL_SPECS[CONTROL_SPECS._fields.index(name)] for name in SEARCHED]

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name="prompt"), *searched, *SEARCH_SPECS[1:], *CONSTRAINT_SPECS])
    def search(
        prompt,
        max_new_tokens=default.max_new_tokens,
        min_new_tokens=default.min_new_tokens,
        no_repeat_ngram_size=default.no_repeat_ngram_size,
        repetition_penalty=default.repetition_penalty,
        presence_penalty=default.presence_penalty,
        frequency_penalty=default.frequency_penalty,
        length_penalty=even,
        early_stopping=patient,
        stop=nothing.stop,
        banned_tokens=nothing.banned_tokens,
        forced_tokens=nothing.forced_tokens,
    ):
        neutral = Controls(*map(tf.constant, controls_of({}, rows=1)))
        controls = neutral._replace(max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens, no_repeat_ngram_size=no_repeat_ngram_size,
                                    repetition_penalty=repetition_penalty, presence_penalty=presence_penalty, frequency_penalty=frequency_penalty)
        constraints = Constraints(stop, banned_tokens, forced_tokens)
        outputs = graph(prompt, controls, constraints, tf.constant(beams), length_penalty, early_stopping)
        return {name: outputs[name] for name in ("text", "token_count", "log_prob", "score", "finish_reason")}

    return search
