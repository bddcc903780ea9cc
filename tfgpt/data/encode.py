"""From examples to packed sequences: tokenized part by part, framed by end-of-text, cut, packed, and counted."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfgpt.data.examples import Example
from tfgpt.data.packing import IGNORED, Tokens, cut_documents, last_pieces, pack, trained_pieces
from tfgpt.recipe import JUDGED, DataConfig, RecipeError
from tfgpt.text.encode import BatchEncoder


@dataclass
class SplitCounts:
    """What one part of a corpus holds; goes to stats.json."""

    documents: int = 0
    bytes: int = 0
    """Of the text that is trained on, in UTF-8."""
    tokens: int = 0
    """That are trained on: of the text, and an end-of-text token for each document; where a head is to judge, the labels."""
    sequences: int = 0
    """Packed ones."""
    filled: int = 0
    """Places of the sequences that hold a token and not padding."""
    cut: int = 0
    """Documents longer than a sequence: cut into several pieces; of a text to classify the end is kept, of a translation both beginnings."""
    too_long: int = 0
    """Pairs that no sequence takes (data.long_pairs), which are not trained on, and not among `documents`."""
    words_cut: int = 0
    """Words of over a million characters, which the tokenizer was given in pieces."""

    def add(self, other: SplitCounts) -> None:
        """Add what other texts hold."""
        for key, value in vars(other).items():
            setattr(self, key, getattr(self, key) + value)

    def fill_rate(self, length: int) -> float:
        """Return the share of the places of all sequences that hold a token and not padding."""
        return self.filled / (self.sequences * length) if self.sequences else 0.0


class SequenceMaker:
    """Makes packed sequences of examples.

    Args:
        config: how examples are framed, cut and packed.
        encoder: of the tokenizer.
        end_of_text: its end-of-text token.
        labels: names of the classes, for texts or words to classify.
    """

    def __init__(self, config: DataConfig, encoder: BatchEncoder, end_of_text: int, labels: Sequence[str] = ()):
        self._config, self._encoder, self._end_of_text = config, encoder, end_of_text
        self._label_ids: Mapping[str, int] = {label: number for number, label in enumerate(labels)}
        self._judges = config.examples in JUDGED and bool(labels or config.examples == "choice")

    def sequences(self, examples: Sequence[Example], stride: int, counts: SplitCounts) -> Iterator[dict[str, np.ndarray]]:
        """Yield blocks of packed sequences (see `pack`) of examples that are packed together, and fill in `counts`.

        Args:
            examples: of one split.
            stride: tokens from one piece of a long document to the next; `data.length` = no overlap.
            counts: of these examples; complete when the last block has been taken.
        """
        length = self._config.length
        tokens = self.tokens(examples)
        room = length if tokens.groups is None else length // np.bincount(tokens.groups)[tokens.groups]  # choices share a sequence
        by_their_ends = (self._judges and self._config.examples != "tags") or self._config.long_pairs != "pieces"
        pieces = last_pieces(tokens.sizes, room) if by_their_ends else cut_documents(tokens.sizes, length, stride)
        too_long, kept = tokens.sizes > room, np.array([not example.continues for example in examples], bool)
        if self._config.long_pairs != "pieces":
            left_out = self._leave_out_long_pairs(tokens, examples)
            counts.too_long += int(np.count_nonzero(left_out))
            kept &= ~left_out
        if tokens.groups is not None:
            too_long = np.bincount(tokens.groups, too_long, len(examples)) > 0
        if tokens.cut is not None:
            too_long |= tokens.cut
        if tokens.encoder_sizes is not None:  # what the encoder reads is cut at its end already, and what is written is cut likewise
            pieces = pieces.take(pieces.starts == (np.cumsum(tokens.sizes) - tokens.sizes)[pieces.documents])
            too_long |= tokens.encoder_cut
        pieces = trained_pieces(tokens, pieces)
        counts.documents += int(np.count_nonzero(kept))
        counts.bytes += sum(len(text.encode()) for example, is_kept in zip(examples, kept) if is_kept or example.continues
                            for text, trained in example.parts if trained)
        counts.cut += int(np.count_nonzero(too_long & kept))
        counts.filled += int(pieces.sizes.sum())
        counts.words_cut += tokens.words_cut + sum(example.ends_in_word for example in examples)
        for block in pack(tokens, pieces, length, self._config.source_length or length):
            counts.sequences += len(block["input_ids"])
            counts.tokens += int(np.count_nonzero(block["labels"] != IGNORED))
            yield block

    def tokens(self, examples: Sequence[Example]) -> Tokens:
        """Return examples tokenized: each begins with the end-of-text token, and that is the label of its last token.

        The last label is trained on if the last part is. A text to classify has its class as the label of its last token, and no other; words
        have theirs as that of the last token of each. Choices are documents of their own, with 2 x their number, and 1 more where it is the right
        one, as that of their last token.
        A section that continues a document does not begin with that token, and one that is unfinished does not end with it.
        """
        documents = [document for example in examples for document in example.documents]
        ids, part_sizes, words_cut = self._encoder.encode([text for document in documents for text, _ in document])
        parts = np.array([len(document) for document in documents], np.int64)
        last_part = np.cumsum(parts) - 1
        cut = None
        if self._config.long_pairs == "window":
            ids, part_sizes, cut = self._first_windows(ids, part_sizes, parts)
        sizes = np.add.reduceat(np.append(part_sizes, 0), np.append(0, last_part[:-1] + 1)) if len(parts) else parts
        ends = np.cumsum(sizes)
        inputs = np.insert(ids, ends - sizes, self._end_of_text)
        if self._judges:
            last_of_parts = np.cumsum(part_sizes) + np.repeat(np.arange(len(parts)), parts)        # an end-of-text token before each document
            return self._judged(Tokens(inputs, np.full(len(inputs), IGNORED, np.int32), sizes + 1, words_cut=words_cut), last_of_parts, examples)
        else:
            trained = np.array([trained for document in documents for _, trained in document], bool)
            of_token = np.insert(np.repeat(trained, part_sizes), ends, trained[last_part])
            labels = np.where(of_token, np.insert(ids, ends, self._end_of_text), IGNORED).astype(np.int32)
        if self._config.examples != "translation":
            return _without_false_ends(Tokens(inputs, labels, sizes + 1, cut=cut, words_cut=words_cut), examples)
        read, read_sizes, more_cut = self._encoder.encode([example.encoder_text for example in examples])
        most = (self._config.source_length or self._config.length) - 1
        kept_sizes = np.minimum(read_sizes, most)
        within = np.arange(len(read)) - np.repeat(np.cumsum(read_sizes) - read_sizes, read_sizes)
        closed = np.insert(read[within < most], np.cumsum(kept_sizes), self._end_of_text)  # what the encoder reads is never empty
        return Tokens(inputs, labels, sizes + 1, closed, kept_sizes + 1, read_sizes > most, words_cut + more_cut)

    def _first_windows(self, ids, part_sizes, parts):
        """Take the last tokens of the first part of each document away that is longer than a sequence; also return which these are, bool [documents]."""
        first_part = np.cumsum(parts) - parts
        sizes = np.add.reduceat(part_sizes, first_part) if len(parts) else parts
        extra = np.clip(sizes + 1 - self._config.length, 0, part_sizes[first_part])            # an end-of-text token before each document
        kept_sizes = part_sizes.copy()
        kept_sizes[first_part] -= extra
        within = np.arange(len(ids)) - np.repeat(np.cumsum(part_sizes) - part_sizes, part_sizes)
        return ids[within < np.repeat(kept_sizes, part_sizes)], kept_sizes, extra > 0

    def _leave_out_long_pairs(self, tokens, examples) -> np.ndarray:
        """Train on no pair that is longer than a sequence, or, where prompts are cut, whose target is; return which these are, bool [examples]."""
        documents = np.repeat(np.arange(len(examples)), tokens.sizes)
        targets = np.bincount(documents, tokens.labels != IGNORED, len(examples)).astype(np.int64)
        sizes, what = (targets, "its target has") if self._config.long_pairs == "cut" else (tokens.sizes, "its prompt and target have")
        if self._config.long_pairs == "window":
            what = "its target and the end of its prompt have"
        too_long = sizes > self._config.length
        if tokens.encoder_cut is not None:
            too_long |= tokens.encoder_cut
        if too_long.any() and self._config.bad_records == "refuse":
            first = int(np.argmax(too_long))
            if tokens.encoder_cut is not None and tokens.encoder_cut[first]:
                raise RecipeError(f"{examples[first].place}: its source has more than the {self._config.source_length or self._config.length} tokens of "
                                  "data.source_length (0 = data.length); raise that, shorten it, or set data.bad_records to skip")
            raise RecipeError(f"{examples[first].place}: {what} {sizes[first]:,} tokens, and a sequence {self._config.length} (data.length); raise that, "
                              "shorten it, or set data.bad_records to skip")
        tokens.labels[too_long[documents]] = IGNORED
        return too_long

    def _judged(self, tokens, last_of_parts, examples) -> Tokens:
        """Give tokens the labels that a head is to find, where the token of each part's end is known."""
        last_of_documents = np.cumsum(tokens.sizes) - 1
        if self._config.examples == "choice":
            tokens.labels[last_of_documents] = [2 * number + (number == example.answer) for example in examples for number in range(len(example.parts) - 1)]
            return dataclasses.replace(tokens, groups=np.repeat(np.arange(len(examples)), [len(example.parts) - 1 for example in examples]))
        if self._config.examples == "tags":
            tags = [tag for example in examples for tag in example.tags]
            judged = [number for number, tag in enumerate(tags) if tag is not None]
            tokens.labels[last_of_parts[judged]] = [self._label_ids[tags[number]] for number in judged]
        else:
            tokens.labels[last_of_documents] = [self._label_ids[example.label] for example in examples]
        return tokens


def _without_false_ends(tokens, examples) -> Tokens:
    """Take the end-of-text tokens away where a section goes on with its document, or where the next one does."""
    continues, unfinished = (np.array([getattr(example, key) for example in examples], bool) for key in ("continues", "unfinished"))
    if not (continues.any() or unfinished.any()):
        return tokens
    ends = np.cumsum(tokens.sizes)
    kept = np.ones(len(tokens.inputs), bool)
    kept[(ends - tokens.sizes)[continues]] = False
    kept[ends[unfinished] - 1] = False
    return dataclasses.replace(tokens, inputs=tokens.inputs[kept], labels=tokens.labels[kept], sizes=tokens.sizes - continues - unfinished)
