"""Long texts inside of prompts: how much of one a model reads at once, and what it writes of each of its pieces."""
from __future__ import annotations

from collections.abc import Sequence

from tfgpt.generation.batches import batches
from tfgpt.generation.results import Continuation
from tfgpt.generation.text_model import TextModel
from tfgpt.tasks.task import as_in_training
from tfgpt.text.windows import token_count


def most_read(text_model: TextModel, before: str, behind: str, room: int) -> int:
    """Return how many tokens of a text a model reads at once.

    Args:
        text_model: the model; an encoder reads the text alone, and all that it takes.
        before: what stands before the text in a prompt.
        behind: what stands behind it.
        room: tokens that are to be left for what is written.

    Raises:
        ValueError: there is no room for any, since the rest of the prompt takes all.
    """
    model = text_model.model
    if model.encoder is not None:
        return model.encoder.context - 1
    context = model.config.n_positions
    most = context - room - 1 - sum(token_count(part, text_model.python_tokenizer) for part in (before, behind))
    if most < 1:
        raise ValueError(f"template: {before + behind!r} leaves no room for a text in a context of {context} tokens; give a shorter one")
    return most


def written_of_pieces(text_model: TextModel, pieces: Sequence[Sequence[str]], before: str, behind: str, max_new_tokens: int, batch_size: int,
                      advance) -> list[list[Continuation]]:
    """Return what a model writes of each piece of each text.

    Args:
        text_model: the model.
        pieces: of each text, one at least.
        before: what stands before a piece in its prompt.
        behind: what stands behind it.
        max_new_tokens: the most tokens to write.
        batch_size: pieces that are read together, whichever texts they are of.
        advance: called with how many texts were finished since.
    """
    before = as_in_training(text_model, before)
    asked = [(number, piece) for number, of_text in enumerate(pieces) for piece in of_text]
    written: list[list[Continuation]] = [[] for _ in pieces]
    finished = 0
    for some in batches(asked, batch_size):
        rows = text_model.generate([before + piece + behind for _, piece in some], max_new_tokens)
        for (number, _), row in zip(some, rows):
            written[number].append(row)
        before_that, finished = finished, some[-1][0] + (len(written[some[-1][0]]) == len(pieces[some[-1][0]]))
        advance(finished - before_that)
    return written
