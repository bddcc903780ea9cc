"""A loaded model that writes the texts of all its callers in one batch, joins their other calls, and refuses what goes beyond the server's limits."""
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2

from tfgpt.generation.constraints import NO_TOKEN
from tfgpt.generation.controls import CONTROLS, SEARCH_CONTROLS, SEARCHED, checked_numbers, controls_of
from tfgpt.generation.sampling import Constraints
from tfgpt.serving.errors import BadRequestError
from tfgpt.serving.joining import Joiner, joinable_of
from tfgpt.serving.limits import Limits
from tfgpt.serving.pieces import SIGNATURES
from tfgpt.serving.presence import Presence
from tfgpt.serving.saved_model import LoadedModel
from tfgpt.serving.scheduler import Prompt, Scheduler, Ticket

LOG = logging.getLogger(__name__)
CHAT_TEMPLATE = "chat_template.jinja"
GENERATE_INPUTS = {"prompt", *CONTROLS, *Constraints._fields}
SEARCH_INPUTS = {"prompt", *SEARCHED, *SEARCH_CONTROLS, *Constraints._fields}


class BatchedModel(LoadedModel):
    """A version of an exported model whose `generate` is batched between tokens (see `Scheduler`), and whose other signatures are joined (see `Joiner`).

    A SavedModel that another program or an earlier tfgpt wrote has no functions for the one, and nobody has said of it that the rows of its batch know
    nothing of each other; its requests run one by one.

    Args:
        folder: as for `LoadedModel`.
        limits: what a request may ask for.
    """

    def __init__(self, folder: Path, limits: Limits | None = None):
        super().__init__(folder)
        try:
            self._begin(Path(folder), limits or Limits())
        except BaseException:  # or the graph and its weights would stay until some later collection
            super().close()
            raise

    def _begin(self, folder, limits):
        self.limits = limits
        self.scheduler = None
        joinable = set() if self.stepper is None else joinable_of(self.signatures)
        self.joiner = Joiner(super().predict, joinable, self.limits.max_rows, self.limits.max_waiting)
        template = folder / "assets" / CHAT_TEMPLATE
        self.chat_template = template.read_text("utf-8") if template.is_file() else None
        """Jinja, as the tokenizer of the model has it; `None` = it has none."""
        if any(map(self._writes, self.signatures)):
            self._begin_batching(folder)

    def predict(self, signature: str, inputs: dict[str, np.ndarray], seconds: float | None = None, presence: Presence | None = None) -> dict[str, np.ndarray]:
        """Call a signature as `LoadedModel.predict` does.

        Args:
            signature: its name.
            inputs: by name.
            seconds: how long a continuation may take, and other calls may wait; `None` = what the limits say.
            presence: of whoever waits for it; its rows leave the batch and the queue when it leaves.

        Raises:
            ServingError: beyond a limit, too much to do, or too late; and as `LoadedModel.predict`.
        """
        self._check_sizes(signature, inputs)
        inputs, given = self.with_defaults(signature, inputs), inputs
        if self.limits.max_new_tokens and makes_texts(self.signatures[signature]) and "max_new_tokens" not in given:
            inputs = inputs | {"max_new_tokens": np.minimum(inputs["max_new_tokens"], self.limits.max_new_tokens)}  # nobody asked for the export's default
        if set(inputs) == SEARCH_INPUTS:
            self._check_search(inputs)
        if self.scheduler is None or not self._writes(signature):
            return self.joiner.predict(signature, inputs, self._deadline(seconds), presence)
        ticket = self.submit(self._prompts(inputs), seconds)
        if presence is not None:
            presence.on_leaving(ticket.cancel)
        written = ticket.result()
        return {
            "text": np.array([row.text.encode() for row in written], object),
            "token_count": np.array([row.token_count for row in written], np.int32),
            "log_prob": np.array([row.log_prob for row in written], np.float32),
            "finish_reason": np.array([row.finish_reason.encode() for row in written], object),
        }

    def submit(self, prompts: Sequence[Prompt], seconds: float | None = None, notify: Callable[[], None] = lambda: None) -> Ticket:
        """Hand in rows to be written; see `Scheduler.submit`.

        Raises:
            ServingError: beyond a limit, or too much to do.
        """
        check_prompts(prompts, self.limits, self._most())
        for prompt in prompts:
            self._check_tokens(prompt.banned_tokens, prompt.forced_tokens)
        return self.scheduler.submit(prompts, self._deadline(seconds), notify)

    @property
    def running(self) -> int:
        """Rows that it writes or that are in calls which run."""
        return self.joiner.running + (0 if self.scheduler is None else self.scheduler.running)

    @property
    def waiting(self) -> int:
        """Rows that wait for either."""
        return self.joiner.waiting + (0 if self.scheduler is None else self.scheduler.waiting)

    @property
    def writes(self) -> bool:
        """Whether it takes what is handed in."""
        return self.scheduler is not None

    def close(self) -> None:
        """End what is being written, and let go of the graph."""
        if self.scheduler is not None:
            self.scheduler.close()
        self.joiner.close()
        super().close()

    def _deadline(self, seconds):
        return time.monotonic() + (self.limits.request_seconds if seconds is None else min(seconds, self.limits.request_seconds))

    def _begin_batching(self, folder):
        if self.stepper is None:
            LOG.warning("%s was exported by an earlier tfgpt, and its texts are written one by one, none in pieces; export it again", folder)
            return
        self.prepare(SIGNATURES)  # while nobody waits: the version that this one replaces still answers
        told = self.stepper.describe()
        self.token_texts, self.vocab, self.context = told["texts"].tolist(), int(told["vocab"]), int(told["context"])
        self.scheduler = Scheduler(self.stepper, self.limits.max_rows, self.limits.max_waiting, name=folder.parent.name)

    def _writes(self, signature):
        return signature in self.signatures and set(self.signatures[signature].inputs) == GENERATE_INPUTS

    def _check_sizes(self, signature, inputs):
        check_inputs(inputs, self.limits, self._most() if signature in self.signatures and makes_texts(self.signatures[signature]) else None)

    def _check_search(self, inputs):
        """Refuse numbers out of their ranges, and tokens that there are not, of which a search's graph would make others in silence."""
        check_controls(inputs)
        _, banned, forced = (self._lists(name, inputs[name].tolist(), len(inputs["prompt"])) for name in Constraints._fields)
        if self.scheduler is not None:  # which knows the vocabulary
            for lists in zip(banned, forced):
                self._check_tokens(*lists)

    def _check_tokens(self, banned, forced):
        """Refuse tokens that the model does not have: the graph would pass over them in silence."""
        for name, tokens, lowest in (("banned_tokens", banned, 0), ("forced_tokens", forced, NO_TOKEN)):
            if wrong := [token for token in tokens if not lowest <= token < self.vocab]:
                raise BadRequestError(f"{name}: {wrong[0]} is no token; give ids from 0 to {self.vocab - 1}")

    def _most(self):
        """Return the longest list of each kind that a row may have."""
        return longest_lists(self.limits) | ({} if self.scheduler is None else {"banned_tokens": self.vocab, "forced_tokens": self.context})

    def _prompts(self, inputs):
        """Return a prompt for each row of the signature's inputs, checked; what has one row holds for all."""
        texts = inputs["prompt"].tolist()
        rows = len(texts)
        controls = controls_of({name: inputs[name].tolist() for name in CONTROLS}, rows)
        controls = {name: np.broadcast_to(values, [rows]).tolist() for name, values in controls._asdict().items()}
        lists = {name: self._lists(name, inputs[name].tolist(), rows) for name in Constraints._fields}
        return [Prompt(text, {name: values[number] for name, values in controls.items()}, **{name: of[number] for name, of in lists.items()})
                for number, text in enumerate(texts)]

    def _lists(self, name, lists, rows):
        """Return what is in each row's list beside what fills it up; of forced tokens what fills up their end, since between them it leaves a place free."""
        if len(lists) not in (1, rows):
            raise BadRequestError(f"{name}: {len(lists)} lists for {rows} prompts; give one for all, or one for each")
        filler = b"" if name == "stop" else NO_TOKEN
        if name == "forced_tokens":
            kept = [tuple(row[: max((place + 1 for place, token in enumerate(row) if token != filler), default=0)]) for row in lists]
        else:
            kept = [tuple(item for item in row if item != filler) for row in lists]
        return kept * rows if len(kept) == 1 else kept


def makes_texts(definition: meta_graph_pb2.SignatureDef) -> bool:
    """Tell whether a signature takes prompts and writes on, by drawing or by a search."""
    return set(definition.inputs) in (GENERATE_INPUTS, SEARCH_INPUTS)


def longest_lists(limits: Limits) -> dict[str, int]:
    """Return the longest list of each kind that a row of any model may have."""
    return {"stop": limits.max_stops}


def check_inputs(inputs: Mapping[str, np.ndarray], limits: Limits, most: Mapping[str, int] | None) -> None:
    """Raise `BadRequestError` for inputs of a signature that go beyond the limits of a request, before anything is made of them.

    Args:
        inputs: by name.
        limits: of the server.
        most: the longest list of a row by its name, of a signature that writes texts; `None` = it writes none.
    """
    for name, value in inputs.items():
        value = np.asarray(value)
        if value.ndim:
            check_rows(len(value), limits, name)
        if most and value.ndim > 1 and value.shape[1] > most.get(name, value.shape[1]):
            raise BadRequestError(f"{name}: {value.shape[1]} in a row; give at most {most[name]}")
        if value.dtype.kind == "O" and max((len(text) for text in value.reshape(-1)), default=0) > limits.max_prompt_bytes:
            raise BadRequestError(f"{name}: a text of more than {limits.max_prompt_bytes} bytes; give a shorter one")
        if most is not None and name == "max_new_tokens" and value.size:
            check_new_tokens(value.max(), limits)


def check_controls(inputs: Mapping[str, np.ndarray]) -> None:
    """Raise `ValueError` for inputs of a signature that makes texts which are controls out of their range, or not one for all or for each prompt."""
    for name, control in (CONTROLS | SEARCH_CONTROLS).items():
        if name in inputs:
            checked_numbers(name, control, np.asarray(inputs[name]).tolist(), np.size(inputs["prompt"]))


def check_rows(rows: int, limits: Limits, name: str) -> None:
    """Raise `BadRequestError` for more rows than a request may have."""
    if rows > limits.max_batch:
        raise BadRequestError(f"{name}: {rows} rows; give at most {limits.max_batch} at once")


def check_prompts(prompts: Sequence[Prompt], limits: Limits, most: Mapping[str, int] | None = None) -> None:
    """Raise `BadRequestError` for what goes beyond the limits of a request; `most` is the longest list of a row by its name, `None` = of any model."""
    check_rows(len(prompts), limits, "prompt")
    for prompt in prompts:
        check_new_tokens(prompt.controls.get("max_new_tokens", 0), limits)
        if len(prompt.text) > limits.max_prompt_bytes:
            raise BadRequestError(f"prompt: {len(prompt.text)} bytes; give at most {limits.max_prompt_bytes}")
        for name, longest in (longest_lists(limits) if most is None else most).items():
            if len(getattr(prompt, name)) > longest:
                raise BadRequestError(f"{name}: {len(getattr(prompt, name))} in a row; give at most {longest}")
        if (longest := max(map(len, prompt.stop), default=0)) > limits.max_prompt_bytes:
            raise BadRequestError(f"stop: a text of {longest} bytes; give at most {limits.max_prompt_bytes}")


def check_new_tokens(asked: int, limits: Limits, name: str = "max_new_tokens") -> None:
    """Raise `BadRequestError` for more tokens than a server writes; `name` is the caller's word for them."""
    if limits.max_new_tokens and asked > limits.max_new_tokens:
        raise BadRequestError(f"{name}: {asked} is more than this server writes; give at most {limits.max_new_tokens}")
