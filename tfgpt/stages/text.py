"""The stages that make a tokenizer and packed data of a corpus."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tfgpt.data.corpus import read_corpus
from tfgpt.files import whole_folder
from tfgpt.progress import console, progress_bar
from tfgpt.recipe import Recipe
from tfgpt.stages.plan import tokenizer_of
from tfgpt.text.bpe import char_tokenizer, load_tokenizer, train_tokenizer, with_special_tokens
from tfgpt.text.chat import DEFAULT_TEMPLATE


def make_tokenizer(recipe: Recipe, folder: Path) -> None:
    """Train the tokenizer on the training part, or copy the one that the recipe names; write tokenizer/."""
    settings = recipe.tokenizer
    if settings.init == "train":
        with progress_bar("tokenizer: reading documents") as advance:
            texts = _counted((example.text for example in read_corpus(recipe.data) if example.split == "train"), advance)
            if settings.kind == "char":
                tokenizer = char_tokenizer(texts, settings.special_tokens)
            else:
                tokenizer = train_tokenizer(texts, settings.vocab, settings.special_tokens)
    else:
        tokenizer = with_special_tokens(tokenizer_of(settings.init), settings.special_tokens)
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
        console.print(f"data: {split} has {of_split['tokens']:,} trained tokens of {of_split['documents']:,} documents "
                      f"in {of_split['sequences']:,} sequences, {of_split['fill_rate']:.1%} full")
        if of_split["too_long"]:
            console.print(f"data: {of_split['too_long']:,} documents of {split} do not fit a sequence (data.length: {recipe.data.length}), and are not in "
                          "the data")
        if of_split["cut"] and (how := _how_cut(recipe.data)):
            console.print(f"data: {of_split['cut']:,} documents of {split} are longer than a sequence (data.length: {recipe.data.length}); {how}")
    if stats["files_passed_over"]:
        console.print(f"data: {stats['files_passed_over']:,} files with other endings are passed over, such as {stats['passed_over'][0]}")
    lost = stats["empty"] + sum(stats["refused"].values()) + sum(stats["filtered"].values())
    if lost:
        console.print(f"data: {lost:,} of {stats['documents_read']:,} documents are left out; data/stats.json says why")


def _how_cut(data):
    """Return what becomes of documents that are too long; nothing where they go on in the next sequence."""
    if data.long_pairs in ("cut", "window"):
        return f"their prompts keep their {'last' if data.long_pairs == 'cut' else 'first'} tokens"
    which = {"labels": "last", "numbers": "last", "translation": "first"}.get(data.examples)
    return f"their {which} tokens are read" if which else ""


def _counted(texts: Iterable[str], advance) -> Iterator[str]:
    for text in texts:
        advance()
        yield text
