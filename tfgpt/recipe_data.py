"""What the `data` section of a recipe may say: where text comes from, how it is cleaned, what an example is, how it is split and packed."""
from __future__ import annotations

import codecs
from dataclasses import dataclass, field, replace
from typing import Literal

from tfgpt.recipe_checks import check, check_at_least, check_choices

BUILT_IN_CORPORA = ("python-docs", "python-stdlib", "python-docstrings", "library-docstrings", "python-sentences", "number-words", "numbers-and-dates",
                    "made-questions", "made-dialogues", "made-reviews", "made-verse", "made-commands", "python-summaries", "gensim-news")
"""Corpora that every machine with Python has, makes (numbers and dates with the package num2words), or gets with a package (gensim-news, with gensim)."""

PERSONAL_DATA = ("email", "phone", "card", "iban", "ip", "key")
"""What `data.clean.mask` can mask."""

JUDGED = ("labels", "numbers", "tags", "choice")
"""What data.examples may be for a head: what is to be found is a label of the text, and not the text itself."""

Kind = Literal["auto", "text", "jsonl", "csv", "tsv", "parquet", "tfrecord", "hf", "tfds", "python-docs", "python-stdlib", "python-docstrings",
               "library-docstrings", "python-sentences", "number-words", "numbers-and-dates", "made-questions", "made-dialogues", "made-reviews", "made-verse",
               "made-commands", "python-summaries", "gensim-news"]  # fmt: skip
Unit = Literal["file", "block", "line"]
Examples = Literal["text", "pairs", "chat", "labels", "numbers", "tags", "choice", "translation"]
LongPairs = Literal["pieces", "cut", "window", "refuse"]
TOGETHER = ("text", "pairs", "chat")
"""Examples of a language model, which sources of a mixture may differ in."""


@dataclass(frozen=True)
class ColumnsConfig:
    """Names of the columns (keys, features) of a record that an example is made of; see data.examples for which are used."""

    text: str = "text"
    """The text of a document, or the text to classify."""
    prompt: str = "prompt"
    """What the model is given, in pairs; what each choice follows on, in choice."""
    prompt_end: str = ""
    """What the model is given behind the prompt, in pairs, and is not cut with it where data.long_pairs is window; empty = nothing."""
    target: str = "target"
    """What the model is to write, in pairs and translations."""
    source: str = "source"
    """What the encoder reads, in translations."""
    label: str = "label"
    """The class of a text, in labels, or several: a list, or a text with | between them, | alone for none; the number of a text, in numbers."""
    tokens: str = "tokens"
    """The words of a text, in tags: a list, or a text with white space between them."""
    tags: str = "tags"
    """The class of each word, in tags: as many; null = not judged."""
    choices: str = "choices"
    """What may follow on the prompt, in choice: a list of texts, each with the space it begins with."""
    answer: str = "answer"
    """Which of them is right, in choice, counted from 0."""
    messages: str = "messages"
    """The turns of a chat: a list of {role, content}."""
    split: str = ""
    """Which part a record belongs to: train, validation or test; empty = none says so, and data.split does."""
    place: str = ""
    """Where a record comes from, such as notes.csv:7, as messages name it; empty = the file and line that it is read from."""


@dataclass(frozen=True)
class SourceConfig:
    """One source of a mixture. What is not given is as in `data`."""

    path: str = ""
    """As data.path."""
    kind: Kind | None = None
    """As data.kind."""
    weight: float | None = None
    """Share of the training sequences, in proportion to the other weights; all sources have one, or none has (= as much as each holds)."""
    endings: tuple[str, ...] | None = None
    """As data.endings."""
    documents: Unit | None = None
    """As data.documents."""
    examples: Examples | None = None
    """As data.examples; text, pairs and chat go together."""
    replay: bool | None = None
    """Whether it is general text beside the task's, so that this is not forgotten: it is trained on and measured by nothing, and what would be its
    held-out part is left out. Not given = where its examples are others than data.examples."""
    columns: ColumnsConfig | None = None
    """As data.columns."""
    column_names: tuple[str, ...] | None = None
    """As data.column_names."""
    encoding: str | None = None
    """As data.encoding."""
    dataset_config: str | None = None
    """As data.dataset_config."""
    dataset_split: str | None = None
    """As data.dataset_split."""


@dataclass(frozen=True)
class CleanConfig:
    """What is changed in the documents or leaves them out, in this order; every change is counted in stats.json. Nothing by default."""

    normalize: Literal["none", "nfc", "nfkc"] = "none"
    """Unicode normalisation: nfc joins letters and their accents, nfkc also maps look-alikes such as full-width letters."""
    mask: tuple[str, ...] = ()
    """Personal data to replace by placeholders such as <EMAIL>: any of email, phone, card, iban, ip, key (secrets); needs tfgpt[privacy]."""
    min_chars: int = 0
    """Shorter documents are left out; in characters, 0 = none."""
    max_chars: int = 0
    """Longer documents are left out; in characters, 0 = none."""
    deduplicate: Literal["none", "exact", "near"] = "none"
    """Leave out documents that came before: exact = the same but for white space and case, near = also those nearly the same (MinHash); the
    hash of every document is held in memory, 0.1 kB each for exact, 6 kB for near."""
    near_threshold: float = 0.8
    """Jaccard similarity of two documents' five-character shingles from which they count as near duplicates, between 0 and 1, both excluded."""

    def __post_init__(self):
        check_choices("data.clean", self)
        unknown = [kind for kind in self.mask if kind not in PERSONAL_DATA]
        check(not unknown, f"data.clean.mask: {unknown and unknown[0]} is no kind of personal data; choose from {', '.join(PERSONAL_DATA)}")
        for key in ("min_chars", "max_chars"):
            check_at_least(f"data.clean.{key}", getattr(self, key), 0)
        check(not self.max_chars or self.min_chars <= self.max_chars, f"data.clean.min_chars: {self.min_chars} is more than "
              f"data.clean.max_chars ({self.max_chars}); nothing would be left")
        check(0 < self.near_threshold < 1, f"data.clean.near_threshold: {self.near_threshold} is not between 0 and 1; 0.8 is usual")


@dataclass(frozen=True)
class DataConfig:
    """The corpus, what is made of it, its held-out parts, and the length of the packed sequences."""

    path: str = ""
    """One source: a file, a folder, a glob, a URL (s3://, gs://, https://: what fsspec opens), a dataset's name (kind hf, tfds), or a built-in
    corpus: python-docs (Python's language reference), python-stdlib (its source), python-docstrings (texts with the package of each as label),
    library-docstrings (all of its docstrings with the module of each as tags), python-sentences (10,000 plain sentences of all these),
    number-words (20,000 numbers with columns digits, en and de: in English and in German words), numbers-and-dates (these, and 12,000 dates),
    made-questions (40,800 questions with passages and answers),
    made-dialogues (8,000 dialogues whose last reply needs what was said before), made-reviews (10,000 short reviews with their sentiment),
    made-verse (6,000 couplets that rhyme and scan), made-commands (6,000 spoken commands with the intent of each),
    python-summaries (6,400 functions of Python's library with the sentence that says what each does),
    gensim-news (300 news articles, with gensim)."""
    sources: tuple[SourceConfig, ...] = ()
    """Several sources, instead of data.path."""
    kind: Kind = "auto"
    """auto = by the ending: .txt .md .rst .py text, .jsonl, .csv, .tsv, .parquet, .tfrecord; text, jsonl, csv and tsv also .gz, .bz2, .xz.
    hf = a Hugging Face dataset, tfds = a TensorFlow dataset, by name or by the folder it was prepared in."""
    endings: tuple[str, ...] = ()
    """Of the files that a folder contributes, such as [.py, .js], which are text where kind does not say otherwise; empty = those of kind auto."""
    documents: Unit = "file"
    """What one document of a text file is: the whole file, a block between blank lines, or a line."""
    examples: Examples = "text"
    """What a record is: text to continue; prompt and target, of which the target is trained on; a chat, of which the assistant's turns are; a text
    and its class or classes (labels), or its number (numbers); words and their classes (tags); a prompt, its choices and the right one (choice); or
    source and target for an encoder-decoder."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Names of the columns used."""
    column_names: tuple[str, ...] = ()
    """Names of the columns of a csv or tsv file that has no header line; empty = its first line holds them."""
    chat_template: str = ""
    """Jinja template of a chat, in which {% generation %} marks what is trained on; empty = the tokenizer's own, else "User: ...\\nAssistant: ..."."""
    encoding: str = "utf-8"
    """Character encoding of text, jsonl, csv and tsv."""
    invalid_utf8: Literal["replace", "refuse"] = "replace"
    """Bytes that are not in that encoding: replace them by U+FFFD and count them in stats.json, or refuse the file."""
    bad_records: Literal["refuse", "skip"] = "refuse"
    """Records that cannot be used (broken JSON, a missing column, a value that is no text): stop with file and line, or skip and count them.
    An empty text, or null, is no error: it is counted as empty."""
    dataset_config: str = ""
    """Configuration of an hf dataset; empty = its default one."""
    dataset_split: str = "train"
    """Split of an hf or tfds dataset that is read; the held-out parts are cut from it."""
    clean: CleanConfig = field(default_factory=CleanConfig)
    """What is changed or left out."""
    validation: float = 0.1
    """Share held out for validation, above 0."""
    test: float = 0.0
    """Share held out for a last test of your own: it is in data/, and no stage looks at it; 0 = none."""
    split: Literal["auto", "hash", "tail"] = "auto"
    """How to hold out: hash = whole documents, by a hash of their text, so that adding some moves none; tail = the end of the corpus, cut at a
    line; auto = hash, but tail where there is one document of running text only."""
    length: int = 256
    """Tokens in a packed sequence."""
    stride: int = 0
    """Tokens from one piece of a document longer than that to the next; what overlaps is history, trained on once. 0 = length, no overlap."""
    source_length: int = 0
    """Tokens of the encoder's side of a packed sequence, for translation; 0 = length."""
    long_pairs: LongPairs = "pieces"
    """A prompt and target longer than a sequence: pieces = they go on in the next one, cut = the prompt keeps its last tokens, as when it is asked,
    window = the prompt keeps its first tokens, refuse = the record is one that cannot be used. So is one whose target is longer by itself, but for pieces.
    Chats and translations: pieces (of a translation the first ones) or refuse."""
    bpe_dropout: float = 0.0
    """Share of the tokenizer's merges left out at random in training text, so that a small corpus shows rare pieces of words too; 0 = off."""
    tokenizations: int = 1
    """Times the training text is tokenized and stored, each with other merges left out; more than 1 needs bpe_dropout."""
    service: str = ""
    """Address of a tf.data service dispatcher that makes the training batches, such as grpc://10.0.0.5:5050; empty = made where training runs."""

    def __post_init__(self):
        check_choices("data", self)
        check(bool(self.path or self.sources), "data.path: empty; give a file, a folder, a glob, a URL, or one of " + ", ".join(BUILT_IN_CORPORA))
        check(not (self.path and self.sources), f"data.path: {self.path} and {len(self.sources)} data.sources; give one of the two")
        self._check_sources()
        check(self.validation > 0 and self.test >= 0 and self.validation + self.test < 1,
              f"data.validation: {self.validation} with data.test {self.test} leaves nothing to train on or to validate; "
              "validation must be above 0, and both together under 1; 0.1 holds out a tenth")
        check_at_least("data.length", self.length, 2)
        check(0 <= self.stride <= self.length, f"data.stride: {self.stride} is not between 0 and data.length ({self.length}); 0 = no overlap")
        check_at_least("data.source_length", self.source_length, 0, " (0 = data.length)")
        check(0 <= self.bpe_dropout < 1, f"data.bpe_dropout: {self.bpe_dropout} is not in [0, 1); 0 turns it off")
        check_at_least("data.tokenizations", self.tokenizations, 1)
        check(self.tokenizations == 1 or self.bpe_dropout > 0, f"data.tokenizations: {self.tokenizations} copies of the same tokens would be "
              "stored; set data.bpe_dropout above 0, or leave data.tokenizations at 1")
        kinds = {source.examples for source in self.all_sources()}
        check(self.long_pairs == "pieces" or kinds == {"pairs"} or (self.long_pairs == "refuse" and kinds in ({"chat"}, {"translation"})), f"data.long_pairs: "
              f"{self.long_pairs}, and there are other examples than pairs (or chats or translations, which may be refused); set it to pieces")
        check(self.split != "tail" or not self.columns.split, f"data.split: tail, and data.columns.split ({self.columns.split}) says where each record "
              "belongs; set one of them")
        check(self.split != "tail" or self.examples == "text", f"data.split: tail cuts running text, and data.examples is {self.examples}; set it to hash")
        check(not self.service or self.service.startswith("grpc://"), f"data.service: {self.service} is no address such as grpc://10.0.0.5:5050")

    def _check_sources(self):
        given = [source.weight for source in self.sources if source.weight is not None]
        check(len(given) in (0, len(self.sources)), f"data.sources: {len(given)} of {len(self.sources)} have a weight; give one to each, or to none")
        for number, source in enumerate(self.sources):
            check_choices(f"data.sources[{number}]", source)
            check(bool(source.path), f"data.sources[{number}].path: empty; give a file, a folder, a glob or a URL")
            check(source.weight is None or source.weight > 0, f"data.sources[{number}].weight: {source.weight} is not above 0")
            check(source.examples in (None, self.examples) or {source.examples, self.examples} <= set(TOGETHER), f"data.sources[{number}].examples: "
                  f"{source.examples} beside data.examples {self.examples}, and of different examples only {', '.join(TOGETHER)} go together; leave it out")
        check(len(self.replayed) < len(self.all_sources()), "data.sources: each is replay, and nothing is left that is the task; set data.sources[0].replay "
              "to false, or data.examples to what they are")
        check(self.split != "tail" or not self.replayed, "data.split: tail cuts one running text, and there is text to replay beside it; set it to hash, and "
              "data.documents to block or line")
        for source in self.all_sources():
            check(source.kind not in BUILT_IN_CORPORA or source.kind == source.path,
                  f"data.kind: {source.kind} is a corpus of its own, not how {source.path} is read; set data.path to {source.kind}, or data.kind to auto")
            wrong = [ending for ending in source.endings if not ending.startswith(".") or len(ending) < 2]
            check(not wrong, f"data.endings: {wrong and wrong[0]!r} is no ending of a file's name; write it with its point, such as .py")
            check(_is_encoding(source.encoding), f"data.encoding: {source.encoding} is no encoding that Python knows; utf-8 and latin-1 are two")

    def all_sources(self) -> tuple[SourceConfig, ...]:
        """Return the sources, every one with each of its settings given."""
        shared = {key: getattr(self, key) for key in
                  ("kind", "endings", "documents", "examples", "columns", "column_names", "encoding", "dataset_config", "dataset_split")}
        sources = [source if source.replay is not None else replace(source, replay=source.examples not in (None, self.examples))
                   for source in self.sources or (SourceConfig(path=self.path),)]
        return tuple(replace(source, **{key: value for key, value in shared.items() if getattr(source, key) is None}) for source in sources)

    @property
    def replayed(self) -> frozenset[int]:
        """The numbers of the sources that are general text beside the task's."""
        return frozenset(number for number, source in enumerate(self.all_sources()) if source.replay)

    def splits(self) -> tuple[str, ...]:
        """Return the names of the parts of the corpus."""
        return ("train", "validation", "test") if self.test else ("train", "validation")


def _is_encoding(name):
    try:
        codecs.lookup(name)
    except LookupError:
        return False
    return True
