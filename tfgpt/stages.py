"""What each stage of a run does; `pipeline` decides which of them are run."""
from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tfgpt.data.cleaning import Cleaner
from tfgpt.data.corpus import read_corpus
from tfgpt.data.counts import token_counts
from tfgpt.data.intake import Account
from tfgpt.data.labels import count_labels, read_labels
from tfgpt.data.pipeline import evaluation_batches, training_batches
from tfgpt.data.prepare import tokenized_documents
from tfgpt.data.shards import ShardedData
from tfgpt.data.sources import input_files, inputs_sha256
from tfgpt.data.unlabelled import check_unlabelled, prepare_unlabelled, unlabelled_data
from tfgpt.evaluation.evaluate import figures, share_with_interval, summed_loss
from tfgpt.evaluation.general import general_data, general_figures, general_texts
from tfgpt.evaluation.heads import baselines, evaluate_head, evaluate_language, ngram_baseline
from tfgpt.evaluation.ngram import NgramModel
from tfgpt.evaluation.report import write_report
from tfgpt.evaluation.translation import check_packages, evaluate_translation, held_out_pairs
from tfgpt.files import sha256_of_file, whole_folder, write_json
from tfgpt.generation.text_model import TextModel
from tfgpt.models import build
from tfgpt.models.adapt import adapt, choose_trained, finished, fitted, rehearse, with_output
from tfgpt.models.adaptation import Adaptation, Head, matches
from tfgpt.models.encoder import added_parameters
from tfgpt.models.heads import for_head, for_language
from tfgpt.models.lora import save_lora
from tfgpt.models.pruning import head_importance
from tfgpt.models.regularization import new_weights
from tfgpt.models.word_vector_files import check_word_vectors, load_word_vectors
from tfgpt.models.word_vectors import ONE_HOT, put_one_hot, put_word_vectors
from tfgpt.progress import console, progress_bar
from tfgpt.recipe import JUDGED, AdaptConfig, DataConfig, EncoderConfig, ModelConfig, PretrainConfig, Recipe, RecipeError, TrainConfig
from tfgpt.recipe_checks import check
from tfgpt.recipe_file import VERSIONS_OF
from tfgpt.recipe_model import Size
from tfgpt.serving.export import export
from tfgpt.text.bpe import char_tokenizer, is_byte_level, load_tokenizer, train_tokenizer, with_special_tokens
from tfgpt.text.chat import DEFAULT_TEMPLATE
from tfgpt.text.tokens import load_old_tokenizer
from tfgpt.training.control import BarCallback
from tfgpt.training.curves import RunFigures
from tfgpt.training.devices import Devices
from tfgpt.training.estimate import Estimate, estimate, peak_flops
from tfgpt.training.fit import train
from tfgpt.training.tensorboard import PROJECTED_TOKENS, write_projector
from tfgpt.training.views import draw_views

LANGUAGE_MODELLING = ("text", "pairs", "chat", "translation")
"""What data.examples may be where a language model is trained."""

IMPORTANCE_SEQUENCES = 512
"""Of the training part, on which it is measured how much each attention head matters."""

EXAMPLES_OF = {"classes": "labels", "labels": "labels", "number": "numbers", "tags": "tags", "choice": "choice"}
"""What data.examples must be for a head."""

PACKING_KEYS = ("length", "stride", "source_length", "bpe_dropout", "tokenizations", "service")
"""Keys of data that change nothing in the text that a tokenizer is trained on."""


def check_before_work(recipe: Recipe, training: bool = True) -> None:
    """Refuse what can be known to fail before anything is written.

    Args:
        recipe: of the run.
        training: whether a model is to be trained, and not data prepared alone.

    Raises:
        RecipeError: a corpus, tokenizer or starting model that is not there, or one that does not fit the rest; a package that is missing.
    """
    input_files(recipe.data)
    Cleaner(recipe.data.clean, Account())
    vocab = None if recipe.tokenizer.init == "train" else len(_load_tokenizer(recipe.tokenizer.init))
    if not training:
        return
    _check_examples(recipe.data.examples, recipe.adapt.head.kind)
    if recipe.model.init != "random":
        _check_start(recipe, recipe.tokenizer.vocab if vocab is None else vocab)
    _check_encoder(recipe)
    if is_adapted(recipe):
        rehearse(build.start_config(recipe.model, recipe.data.length), adapt_config(recipe))
    check(not recipe.train.l2_start or recipe.model.init != "random" or is_pretrained(recipe), f"train.l2_start: {recipe.train.l2_start} would hold a new "
          "model near its random weights; set it to 0, or give a model.init or adapt.pretrain.steps")
    if _measures_loss_of_knowledge(recipe):
        next(general_texts(recipe))  # what cannot be measured on is known at once
    if is_pretrained(recipe):
        check_unlabelled(recipe.data, recipe.adapt.pretrain)
        check(not _starts_with_encoder(recipe), f"adapt.pretrain.steps: {recipe.adapt.pretrain.steps}, and {recipe.model.init} (model.init) has an encoder, "
              "for which text without labels has nothing to read; set it to 0")
    if recipe.adapt.embeddings.vectors:
        _check_vectors(recipe)


def _check_vectors(recipe):
    source, begun_anew = recipe.adapt.embeddings.vectors, [one for one in recipe.adapt.reinitialize if matches(one, "wte.weight")]
    check(not begun_anew, f"adapt.embeddings.vectors: {source} with adapt.reinitialize {begun_anew}, which would undo it; leave one of them out")
    try:
        if source != ONE_HOT:
            check_word_vectors(source)
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        raise RecipeError(str(error)) from error


def _check_start(recipe, vocab):
    exchanged = recipe.adapt.embeddings.vocabulary == "tokenizer"
    build.check_start(recipe.model.init, recipe.data.length, None if exchanged else vocab, recipe.adapt.context)
    if exchanged:
        _old_tokenizer(recipe)


def _old_tokenizer(recipe):
    """Return the tokenizer of the starting model."""
    try:
        return load_old_tokenizer(recipe.model.init)
    except (FileNotFoundError, OSError) as error:
        raise RecipeError(f"adapt.embeddings.vocabulary: tokenizer needs the one that model.init ({recipe.model.init}) was trained with ({error}); put it "
                          "beside the model") from error


def _check_examples(examples, head):
    if head != "none":
        check(examples == EXAMPLES_OF[head], f"data.examples: {examples} is not what adapt.head.kind {head} is trained on; set it to {EXAMPLES_OF[head]}")
        return
    heads = " or ".join(kind for kind, wanted in EXAMPLES_OF.items() if wanted == examples)
    check(examples not in JUDGED, f"data.examples: {examples} is for a head, and adapt.head.kind is none; set it to {heads}, or prepare the data alone "
          "with tfgpt data prepare")
    check(examples in LANGUAGE_MODELLING, f"data.examples: {examples} is not what a language model is trained on; set it to one of "
          f"{', '.join(LANGUAGE_MODELLING)}, or prepare the data alone with tfgpt data prepare")


def _check_encoder(recipe):
    """Refuse sources that nothing would read, and an encoder that nothing is given."""
    data, encoder, has_one = recipe.data, _encoder_of(recipe), _starts_with_encoder(recipe)
    named = "model.init: its model" if has_one else f"adapt.encoder.kind: {encoder.kind}"
    if encoder.kind == "none":
        check(data.examples != "translation", "data.examples: translation needs a model with an encoder; set adapt.encoder.kind to new or copy, or prepare "
              "the data alone with tfgpt data prepare")
        return
    check(data.examples == "translation", f"{named} reads sources, which data.examples: {data.examples} has not; set data.examples to translation")
    check(_source_length(data) <= encoder.context, f"data.source_length: {_source_length(data)} tokens is longer than the {encoder.context} that the encoder "
          f"takes; set it to {encoder.context} or less" + ("" if has_one else ", or raise adapt.encoder.context"))
    if recipe.evaluate.translations >= 0:
        check_packages()


def _encoder_of(recipe) -> EncoderConfig:
    """Return the encoder of the starting model, or else the one that it gets."""
    there = Adaptation.of(build.start_config(recipe.model, recipe.data.length)).encoder
    return there if there.kind != "none" else adapt_config(recipe).encoder


def _starts_with_encoder(recipe):
    return Adaptation.of(build.start_config(recipe.model, recipe.data.length)).encoder.kind != "none"


def _source_length(data):
    return data.source_length or data.length


def adapt_config(recipe: Recipe) -> AdaptConfig:
    """Return how the model is changed; an encoder takes sources as long as the data's, unless it is said otherwise."""
    encoder = recipe.adapt.encoder
    if encoder.kind == "none":
        return recipe.adapt
    return dataclasses.replace(recipe.adapt, encoder=dataclasses.replace(encoder, context=encoder.context or _source_length(recipe.data)))


def tokenizer_settings(recipe: Recipe) -> tuple:
    """Return what a tokenizer depends on: the corpus and its split, and where the tokenizer comes from."""
    source = {key: value for key, value in dataclasses.asdict(recipe.data).items() if key not in PACKING_KEYS}
    return inputs_sha256(recipe.data), source, recipe.tokenizer, _files_of(recipe.tokenizer.init)


def data_settings(recipe: Recipe) -> DataConfig:
    """Return what the packed data depends on, beside its text and tokenizer."""
    return dataclasses.replace(recipe.data, service="")


def train_settings(recipe: Recipe) -> tuple:
    """Return what the training depends on; on which devices it goes on is free."""
    return dataclasses.replace(recipe.train, strategy="auto"), recipe.seed


def model_settings(recipe: Recipe) -> tuple:
    """Return what the model at the start depends on."""
    adapt, tokenizer = recipe.adapt, recipe.adapt.embeddings
    return recipe.model, recipe.seed, _files_of(recipe.model.init), adapt.context, adapt.positions, adapt.dropout, tokenizer.vocabulary, tokenizer.new_rows


def pretrain_settings(recipe: Recipe) -> tuple:
    """Return what the training on text without labels depends on."""
    own = recipe.adapt.pretrain
    corpus = inputs_sha256(unlabelled_data(recipe.data, own)) if own.path or own.sources else ""
    return own, dataclasses.replace(pretrain_config(recipe), strategy="auto"), recipe.seed, corpus


def adapt_settings(recipe: Recipe) -> tuple:
    """Return what the changes of the model depend on."""
    vectors = Path(recipe.adapt.embeddings.vectors)
    return dataclasses.replace(recipe.adapt, pretrain=PretrainConfig()), recipe.seed, sha256_of_file(vectors) if vectors.is_file() else ""


def evaluate_settings(recipe: Recipe) -> tuple:
    """Return what the figures depend on, beside the model and the data."""
    return recipe.evaluate, inputs_sha256(general_data(recipe)) if _measures_loss_of_knowledge(recipe) else ""


def _files_of(init: str) -> list[str]:
    """Return a hash of every file of a folder that a recipe starts from; nothing for random, train or a hub id."""
    if init in ("random", "train"):
        return []
    return [sha256_of_file(path) for path in sorted(Path(init).glob("*")) if path.is_file()]


def make_tokenizer(recipe: Recipe, folder: Path) -> None:
    """Train the tokenizer on the training part, or copy the one that the recipe names; write tokenizer/."""
    settings = recipe.tokenizer
    if settings.init == "train":
        with progress_bar("tokenizer: reading documents") as advance:
            texts = _counted(_texts(recipe, "train"), advance)
            if settings.kind == "char":
                tokenizer = char_tokenizer(texts, settings.special_tokens)
            else:
                tokenizer = train_tokenizer(texts, settings.vocab, settings.special_tokens)
    else:
        tokenizer = with_special_tokens(_load_tokenizer(settings.init), settings.special_tokens)
    if "chat" in {source.examples for source in recipe.data.all_sources()}:
        tokenizer.chat_template = recipe.data.chat_template or tokenizer.chat_template or DEFAULT_TEMPLATE
    with whole_folder(folder / "tokenizer") as partial:
        tokenizer.save_pretrained(partial)
    console.print(f"tokenizer: {len(tokenizer):,} tokens")


def make_data(recipe: Recipe, folder: Path, prepare: Callable[..., dict]) -> None:
    """Tokenize, pack and write the shards, index.json and stats.json of data/."""
    with progress_bar("data: tokenizing and packing", unit="documents") as advance:
        stats = prepare(recipe.data, load_tokenizer(folder / "tokenizer"), folder / "data", advance=advance)
    for split, of_split in stats["splits"].items():
        console.print(f"data: {split} has {of_split['tokens']:,} tokens of {of_split['documents']:,} documents "
                      f"in {of_split['sequences']:,} sequences, {of_split['fill_rate']:.1%} full")
    if stats["files_passed_over"]:
        console.print(f"data: {stats['files_passed_over']:,} files with other endings are passed over, such as {stats['passed_over'][0]}")
    lost = stats["empty"] + sum(stats["refused"].values()) + sum(stats["filtered"].values())
    if lost:
        console.print(f"data: {lost:,} of {stats['documents_read']:,} documents are left out; data/stats.json says why")


def make_model(recipe: Recipe, folder: Path) -> None:
    """Write the model that the run starts from to checkpoints/start; it takes the data, so its vocabulary, context and positions are already changed."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    if recipe.model.init == "random":
        model = build.new_model(recipe.model, recipe.model.shape.context or recipe.data.length, tokenizer, recipe.seed)
    else:
        _check_start(recipe, len(tokenizer))
        model = build.load_model(recipe.model.init)
    model = fitted(model, recipe.adapt, tokenizer, lambda: _old_tokenizer(recipe))
    _save(model, folder / "checkpoints" / "start")
    config = model.config
    console.print(f"model: {model.count_params():,} weights in {config.n_layer} layers of width {config.n_embd}, "
                  f"vocabulary {config.vocab_size:,}, context {config.n_positions}")


def adapt_model(recipe: Recipe, folder: Path) -> None:
    """Write the model with all its layers to checkpoints/initial."""
    def importance(model):
        data, most = ShardedData(folder / "data"), IMPORTANCE_SEQUENCES // recipe.train.global_batch_size
        batches = training_batches(data, recipe.train.global_batch_size, recipe.seed).take(max(most, 1)).map(_without_sources)
        if _has_head(recipe):
            batches = batches.map(lambda batch: for_language(for_head(batch), Head(recipe.adapt.head.kind), model.config.eos_token_id))
        with progress_bar("adapt: which heads matter"):
            found = head_importance(model, batches)
        write_json(folder / "checkpoints" / "head-importance.json", found)
        return found

    labels = count_labels(folder / "data") if _has_head(recipe) else {}
    model = build.load_model(folder / start_of("adapt", recipe))
    if recipe.adapt.embeddings.vectors:
        model = _with_vectors(model, recipe, folder)
    model = adapt(model, adapt_config(recipe), recipe.seed, importance, labels)
    _save(model, folder / "checkpoints" / "initial")
    trained = sum(variable.shape.num_elements() for variable in model.trainable_variables)
    console.print(f"adapt: {trained:,} of {model.count_params():,} weights are trained")


def _with_vectors(model, recipe, folder):
    """Return a model with the recipe's word vectors in its embeddings; an output matrix of its own keeps what they were."""
    config, random = recipe.adapt.embeddings, recipe.model.init == "random" and not is_pretrained(recipe)
    model = with_output(model, config)
    if config.vectors == ONE_HOT:
        model, coverage = put_one_hot(model, recipe.seed)
    else:
        tokenizer, counts = load_tokenizer(folder / "tokenizer"), token_counts(ShardedData(folder / "data"), model.config.vocab_size)
        try:
            vectors = load_word_vectors(config.vectors)
            model, coverage = put_word_vectors(model, vectors, tokenizer, not random, config.vectors_min_shared, counts, recipe.seed)
        except ValueError as error:
            raise RecipeError(str(error)) from error
    console.print(f"adapt: {coverage}")
    return model


def _without_sources(batch):
    """Return a batch as a model has it before it gets an encoder."""
    return {key: value for key, value in batch.items() if not key.startswith("encoder_")}


def _has_head(recipe):
    return recipe.adapt.head.kind != "none"


def _is_language_model(recipe):
    """Tell whether a language model is trained, perhaps beside a head."""
    return not _has_head(recipe) or recipe.adapt.head.weight < 1


def is_adapted(recipe: Recipe) -> bool:
    """Tell whether the model is changed between its start, or its training on text without labels, and its training."""
    return dataclasses.replace(recipe.adapt, pretrain=PretrainConfig()) != AdaptConfig()


def is_pretrained(recipe: Recipe) -> bool:
    """Tell whether the model is first trained on text without labels."""
    return recipe.adapt.pretrain.steps > 0


def start_of(stage: str, recipe: Recipe) -> str:
    """Return the folder, in the run's, of the model that a stage starts from: what the last stage before it wrote that the recipe has.

    >>> start_of("train", Recipe(DataConfig(path="text.txt")))
    'checkpoints/start'
    """
    written = {"model": "start", "pretrain": "pretrained", "adapt": "initial"}
    wanted = {"model": True, "pretrain": is_pretrained(recipe), "adapt": is_adapted(recipe)}
    before = list(written)[: list(written).index(stage)] if stage in written else written
    return "checkpoints/" + written[[one for one in before if wanted[one]][-1]]


def _save(model, folder):
    with whole_folder(folder) as partial:
        model.save_pretrained(partial)


@dataclass(frozen=True)
class _Training:
    """One of a run's trainings."""

    stage: str
    config: TrainConfig
    data: DataConfig
    """What its shards were made by."""
    shards: str
    """This and the two below are folders in the run's."""
    checkpoints: str
    logs: str


def pretrain_model(recipe: Recipe, folder: Path, devices: Devices) -> None:
    """Train checkpoints/start as a language model on text without labels, made to data-pretrain/; write checkpoints/pretrained and logs/pretrain.

    It goes on from where an interrupted one stands; workers take part as in `train_model`.
    """
    own = recipe.adapt.pretrain
    if devices.is_chief and not (folder / "data-pretrain").exists():  # where it was interrupted it goes on with what is there
        with progress_bar("pretrain: tokenizing and packing", unit="documents") as advance:
            stats = prepare_unlabelled(recipe.data, own, load_tokenizer(folder / "tokenizer"), folder / "data-pretrain", advance)
        console.print(f"pretrain: {stats['splits']['train']['tokens']:,} tokens of {stats['splits']['train']['documents']:,} documents without labels")
    training = _Training("pretrain", pretrain_config(recipe), unlabelled_data(recipe.data, own), "data-pretrain", "checkpoints/pretrain-steps", "logs/pretrain")
    model = _trained(recipe, folder, devices, training)
    if devices.is_chief:
        _save(model, folder / "checkpoints" / "pretrained")


def pretrain_config(recipe: Recipe) -> TrainConfig:
    """Return how a model is trained on text without labels: as the recipe trains, but for steps, peak of the learning rate, and what is the fine-tune's."""
    own, schedule = recipe.adapt.pretrain, recipe.train.schedule
    schedule = dataclasses.replace(schedule, peak=own.peak, floor=min(schedule.floor, own.peak), decay_steps=min(schedule.decay_steps, own.steps))
    return dataclasses.replace(recipe.train, steps=own.steps, schedule=schedule, profile=(), l2_start=0.0, layer_decay=1.0, unfreeze_every=0)


def train_model(recipe: Recipe, folder: Path, devices: Devices) -> None:
    """Train the model that `start_of` names, or from where an interrupted training stands; write model/ and logs/.

    Every worker of a cluster does so with the same folder; the chief, which the others wait for, alone writes and shows.
    """
    model = _trained(recipe, folder, devices, _Training("train", recipe.train, recipe.data, "data", "checkpoints/steps", "logs"))
    if not devices.is_chief:
        return
    tokenizer = load_tokenizer(folder / "tokenizer")
    tokens = [tokenizer.decode([number]) for number in range(min(len(tokenizer), PROJECTED_TOKENS))]
    write_projector(folder / "logs" / "embeddings", model.transformer.wte.embeddings, tokens)
    if model.low_ranks:
        with whole_folder(folder / "adapter") as partial:
            save_lora(model, partial)
    _save(finished(model, recipe.adapt), folder / "model")


def _trained(recipe, folder, devices, training):
    """Return the trained model; the chief shows how it goes."""
    if devices.is_chief:
        devices.call(training.stage)
    data, settings, stage = ShardedData(folder / training.shards), training.config, training.stage
    data.check()
    with devices.strategy.scope():
        model = build.load_model(folder / start_of(stage, recipe))
    judges = stage == "train" and _has_head(recipe)
    if stage == "train":
        choose_trained(model, recipe.adapt)
    if judges:
        model.name_labels(read_labels(folder / training.shards))
    model.seed_dropout(recipe.seed)
    weights = [source.weight for source in training.data.sources if source.weight is not None]

    def as_trained(batches):
        return batches.map(for_head) if judges else batches

    def batches(first_step, **worker):
        return as_trained(training_batches(data, settings.global_batch_size, recipe.seed, first_step, weights, service=recipe.data.service, **worker))

    validation = as_trained(evaluation_batches(data, "validation", recipe.evaluate.batch_size))
    new = new_weights(recipe.adapt, model.config.n_layer - len(recipe.adapt.insert_blocks)) if stage == "train" else ()
    fit = functools.partial(train, model, settings, batches, validation, folder / training.checkpoints, folder / training.logs, devices=devices, new=new)
    if not devices.is_chief:
        console.print(f"{stage}: worker {devices.worker} of {devices.workers}; what is to be seen, the chief shows")
        fit()
        return model
    with progress_bar(stage, total=settings.steps, unit="steps") as advance:
        fit(callbacks=[BarCallback(advance, console.print, stage)], **_shown(recipe, folder, model, devices, training))
    return model


def _shown(recipe, folder, model, devices, training) -> dict:
    """Return what a training shows beside its losses, by the names of `train`."""
    settings, stats, written = training.config, _read_stats(folder / training.shards)["splits"], {}
    tokenizer = load_tokenizer(folder / "tokenizer")
    text_model = TextModel(model, tokenizer)
    needed = training_estimate(dataclasses.replace(recipe, train=settings), model.config.vocab_size, devices.replicas)
    on = f" on {devices.replicas} devices" if devices.replicas > 1 else ""
    each = " on each" if devices.replicas > 1 else ""
    console.print(f"{training.stage}: {needed.tokens_per_step:,} tokens a step{on}, {needed.flops_per_token * needed.tokens_per_step / 1e9:,.0f} billion "
                  f"floating-point operations, about {needed.memory_bytes / 1e9:.1f} GB of tensors{each}")

    def sample():
        answers = text_model.generate(list(settings.sample_prompts), settings.sample_tokens, temperature=0.8, seed=recipe.seed)
        written.update({prompt: answer.text for prompt, answer in zip(settings.sample_prompts, answers)})
        return list(written.items())

    def draw():
        prompt, text = next(iter(written.items()))
        return draw_views(model, tokenizer, prompt + text)

    # The bytes of what a head judges are no text that is written.
    judges = training.stage == "train" and _has_head(recipe)
    bytes_per_token = {} if judges else {
        split: stats[split]["bytes"] * _tokenizations(recipe, split) / stats[split]["tokens"] for split in ("train", "validation")
    }
    writes = settings.sample_prompts and not (judges and not _is_language_model(recipe))
    return {
        "sample": sample if writes else None,
        "draw": draw if writes and model.encoder is None else None,  # a text without its source would show a decoder that sees nothing
        "figures": RunFigures(bytes_per_token, needed.flops_per_token, peak_flops(settings.precision) * devices.replicas),
        "hparams": _hparams(recipe) if training.stage == "train" else None,
    }


def _tokenizations(recipe, split):
    """Return how often a split's text is stored; its bytes are counted once."""
    return recipe.data.tokenizations if split == "train" else 1


def _hparams(recipe) -> dict:
    """Return the numbers and names by which trainings are compared."""
    shape, train = recipe.model.shape, recipe.train
    chosen = {key: getattr(train, key) for key in ("steps", "global_batch_size", "precision", "optimizer", "beta_2", "weight_decay", "label_smoothing", "ema")}
    return chosen | {"peak": train.schedule.peak, "schedule": train.schedule.kind, "warmup_steps": train.schedule.warmup_steps, "layers": shape.layers,
                     "width": shape.width, "heads": shape.heads, "dropout": recipe.model.dropout, "init": recipe.model.init,
                     "length": recipe.data.length, "seed": recipe.seed}


def training_estimate(recipe: Recipe, vocab: int, replicas: int = 1) -> Estimate:
    """Return what the training of a recipe takes with a vocabulary of so many tokens; memory is that of one of the replicas."""
    if recipe.model.init == "random":
        shape = recipe.model.shape
        parameters = build.parameter_count(recipe.model, shape.context or recipe.data.length, vocab)
    else:
        config = build.config_of(recipe.model.init)
        shape = Size(config.n_layer, config.n_embd, config.n_head, recipe.adapt.context or config.n_positions)
        vocab = config.vocab_size if recipe.adapt.embeddings.vocabulary == "keep" else vocab
        parameters = build.parameter_count(ModelConfig(layers=shape.layers, width=shape.width, heads=shape.heads), shape.context, vocab)
    if (encoder := _encoder_of(recipe)).kind == "none":
        return estimate(shape, vocab, recipe.data.length, recipe.train, parameters, replicas)
    layers = encoder.layers or shape.layers
    parameters += added_parameters(shape.layers, shape.width, layers, encoder.context)
    as_many = round(shape.layers * 4 / 3 + layers * _source_length(recipe.data) / recipe.data.length)  # cross-attention is a third of a block
    needed = estimate(shape._replace(layers=as_many), vocab, recipe.data.length, recipe.train, parameters, replicas)
    return dataclasses.replace(needed, shape=shape)


def vocabulary_of(recipe: Recipe) -> int:
    """Return the tokens of a recipe's vocabulary as far as they are known before anything is done."""
    return recipe.tokenizer.vocab if recipe.tokenizer.init == "train" else len(_load_tokenizer(recipe.tokenizer.init))


def evaluate_model(recipe: Recipe, folder: Path) -> None:
    """Measure the trained model on the validation part, beside a baseline; write evaluation.json and report.html."""
    start = time.monotonic()
    model = build.load_model(folder / "model")
    of_language = _language_evaluation(recipe, folder, model) if _is_language_model(recipe) else {}
    of_head = _head_evaluation(recipe, folder, model) if _has_head(recipe) else {}
    of_general = {"general": _general_evaluation(recipe, folder, model)} if _measures_loss_of_knowledge(recipe) else {}
    evaluation = (of_language | {"head": of_head} if of_language and of_head else of_language or of_head) | of_general | {
        "split": "validation",
        "seconds": round(time.monotonic() - start, 1),
        "versions": {name: metadata.version(name) for name in VERSIONS_OF},
    }
    write_report(folder, recipe, evaluation)
    write_json(folder / "evaluation.json", evaluation)


def _measures_loss_of_knowledge(recipe):
    """Tell whether it is asked what a fine-tune has forgotten: where there was something to forget."""
    return bool(recipe.evaluate.general) and (recipe.model.init != "random" or is_pretrained(recipe))


def _general_evaluation(recipe, folder, model):
    """Return the figures of the starting model and of the trained one on general text."""
    texts, tokenizer = list(general_texts(recipe)), load_tokenizer(folder / "tokenizer")
    start, source, own_tokenizer = _known_before(recipe, folder, tokenizer)
    length = min(recipe.data.length, start.config.n_positions)
    with progress_bar("evaluate: general text", unit="batches") as advance:
        before = general_figures(start, own_tokenizer, texts, length, recipe.evaluate.batch_size, advance)
        after = general_figures(model, tokenizer, texts, length, recipe.evaluate.batch_size, advance)
    same = own_tokenizer is tokenizer
    return {"path": recipe.evaluate.general, "tokens": after["tokens"], "start": source, "same_vocabulary": same, "before": before, "after": after}


def _known_before(recipe, folder, tokenizer):
    """Return the model before the fine-tune, where it comes from, and its tokenizer: a model given with another vocabulary is measured with that."""
    if recipe.adapt.embeddings.vocabulary == "tokenizer" and is_byte_level(old := _old_tokenizer(recipe)) and old.eos_token_id is not None:
        return build.load_model(recipe.model.init), recipe.model.init, old
    source = "checkpoints/pretrained" if recipe.model.init == "random" else "checkpoints/start"  # of random weights nothing is forgotten
    return build.load_model(folder / source), source, tokenizer


def _head_evaluation(recipe, folder, model):
    """Return a head's figures beside its baselines'."""
    with progress_bar("evaluate: head", total=_validation_batches(recipe, folder), unit="batches") as advance:
        found = evaluate_head(model, folder / "data", "validation", recipe.evaluate.batch_size, recipe.seed, advance)
    with progress_bar("evaluate: baselines of the head"):
        return found | baselines(model, recipe.data, "validation", recipe.seed)


def _language_evaluation(recipe, folder, model):
    """Return the language model's figures beside an n-gram model's on the same tokens."""
    settings, total = recipe.evaluate, _validation_batches(recipe, folder)
    if _has_head(recipe):
        texts = TextModel(model, load_tokenizer(folder / "tokenizer")).tokenizer.texts.numpy()
        with progress_bar("evaluate: model", total=total, unit="batches") as advance:
            found = evaluate_language(model, folder / "data", "validation", settings.batch_size, texts, advance)
        with progress_bar(f"evaluate: {settings.ngram_order}-gram baseline"):
            baseline = ngram_baseline(model, folder / "data", "validation", settings.ngram_order, settings.ngram_tokens, texts)
        accuracy = share_with_interval(found.pop("correct"), found["tokens"])
        return found | {"baseline": baseline, "metrics": {"accuracy": accuracy}}
    text_bytes = _read_stats(folder / "data")["splits"]["validation"]["bytes"]
    batches = evaluation_batches(ShardedData(folder / "data"), "validation", settings.batch_size)
    with progress_bar("evaluate: model", total=total, unit="batches") as advance:
        loss_sum, tokens, correct = summed_loss(model, batches, advance)
    evaluation = figures(loss_sum, tokens, text_bytes) | {
        "tokens": tokens,
        "baseline": _baseline(recipe, folder, text_bytes),
        "metrics": {"accuracy": share_with_interval(correct, tokens)},
    }
    return _with_translations(recipe, folder, model, evaluation) if model.encoder is not None and settings.translations >= 0 else evaluation


def _with_translations(recipe, folder, model, evaluation):
    """Return an evaluation with the metrics of written targets, and beside those of the n-gram model, which writes none, those of copied sources."""
    pairs, batch_size = held_out_pairs(recipe.data, "validation", recipe.evaluate.translations), recipe.evaluate.batch_size
    with progress_bar("evaluate: translations", total=-(-len(pairs) // batch_size), unit="batches") as advance:
        found = evaluate_translation(TextModel(model, load_tokenizer(folder / "tokenizer")), pairs, batch_size, advance)
    return evaluation | {"translated": found["translated"], "metrics": evaluation["metrics"] | found["metrics"],
                         "baseline": evaluation["baseline"] | {"metrics_of": "the source, copied", "metrics": found["copied"]}}


def _validation_batches(recipe, folder):
    return -(-_read_stats(folder / "data")["splits"]["validation"]["sequences"] // recipe.evaluate.batch_size)


def export_model(recipe: Recipe, folder: Path) -> None:
    """Write export/NAME/VERSION, and what the weights of fewer bits cost."""
    model, weights = build.load_model(folder / "model", recipe.export.weights), recipe.export.weights
    assets = [folder / "recipe.yaml", folder / "evaluation.json"]
    with tempfile.TemporaryDirectory() as scratch:
        if weights != "float32":
            assets.append(Path(scratch) / "weights.json")
            write_json(assets[-1], _cost_of_weights(recipe, folder, model))
        with progress_bar("export: SavedModel"):
            export(TextModel(model, load_tokenizer(folder / "tokenizer")), folder / "export" / recipe.name, recipe.export, assets)


def _cost_of_weights(recipe, folder, model):
    """Return the figures of the weights that are exported beside those of float32, on the validation part: the perplexity; of a head its metrics."""
    of_split, before = _read_stats(folder / "data")["splits"]["validation"], json.loads((folder / "evaluation.json").read_text("utf-8"))
    batches = evaluation_batches(ShardedData(folder / "data"), "validation", recipe.evaluate.batch_size)
    weights = recipe.export.weights
    if _has_head(recipe):
        before = before.get("head", before)
        after = evaluate_head(model, folder / "data", "validation", recipe.evaluate.batch_size, recipe.seed)
        of_each = {name: {"float32": of["value"], weights: after["metrics"][name]["value"]} for name, of in before["metrics"].items()}
        return {"weights": weights, "split": "validation", "judged": after["judged"], "loss": {"float32": before["loss"], weights: after["loss"]},
                "metrics": of_each}
    with progress_bar(f"export: {weights} weights", total=-(-of_split["sequences"] // recipe.evaluate.batch_size), unit="batches") as advance:
        loss_sum, tokens, _ = summed_loss(model, batches, advance)
    after = figures(loss_sum, tokens, of_split["bytes"])
    return {"weights": weights, "split": "validation", "tokens": tokens, "perplexity": {"float32": before["perplexity"], weights: after["perplexity"]},
            "ratio": after["perplexity"] / before["perplexity"]}


def export_outputs(recipe: Recipe) -> list[str]:
    """Return what `export_model` writes, relative to the run's folder."""
    return [f"export/{recipe.name}/{recipe.export.version}"]


def _texts(recipe: Recipe, split: str) -> Iterator[str]:
    return (example.text for example in read_corpus(recipe.data) if example.split == split)


def _counted(texts: Iterable[str], advance) -> Iterator[str]:
    for text in texts:
        advance()
        yield text


def _baseline(recipe, folder, text_bytes):
    """Return the n-gram model's figures on the tokens that the GPT is measured on."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    order, most = recipe.evaluate.ngram_order, recipe.evaluate.ngram_tokens
    with progress_bar(f"evaluate: {order}-gram baseline"):
        held_out, counted = zip(*tokenized_documents(recipe.data, tokenizer, "validation"))
        train, tokens = [], 0
        for ids, _ in tokenized_documents(recipe.data, tokenizer, "train"):
            train.append(ids)
            tokens += len(ids)
            if tokens >= most > 0:
                break
        ngram = NgramModel(train, order, len(tokenizer), tokenizer.eos_token_id)
        seen = f", first {tokens:,} tokens" if tokens >= most > 0 else ""
        return {"name": f"{order}-gram, modified Kneser-Ney{seen}"} | figures(*ngram.summed_loss(held_out, counted), text_bytes)


def _load_tokenizer(source):
    try:
        return load_tokenizer(source)
    except FileNotFoundError as error:
        raise RecipeError(f"tokenizer.init: {error}; give train, such a folder or a hub id") from error
    except ValueError as error:
        raise RecipeError(f"tokenizer.init: {error}") from error


def _read_stats(shards):
    return json.loads((shards / "stats.json").read_text("utf-8"))
