"""Checkpoints of a run: all that training goes on from, in folders that appear under their name only when whole, with checksums."""
from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from tfgpt.files import sha256_of_file, whole_folder, write_json

NAME = re.compile(r"step-(\d{9})")
MANIFEST = "manifest.json"
logger = logging.getLogger(__name__)


@dataclass
class Standing:
    """How the evaluations of a run stand."""

    best_loss: float | None = None
    """The lowest validation loss, in nats a token."""
    best_step: int = 0
    """Where it was measured."""
    since_best: int = 0
    """Evaluations after it."""

    def add(self, step: int, loss: float) -> None:
        """Take in an evaluation."""
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_step, self.since_best = loss, step, 0
        else:
            self.since_best += 1


class Checkpoints:
    """The newest few checkpoints in a folder, `step-000000100` and so on, and the best one.

    A checkpoint holds the weights, the optimizer (with its step, and the running averages of the weights if there are any), the count of skipped
    steps, the loss scale, and how the evaluations stand. The place in the data, the schedule and all randomness follow from the step.

    Args:
        folder: where they lie; made when missing.
        model: a built `GPTLMHeadModel`.
        optimizer: its optimizer.
        keep: how many of the newest to keep.
        keep_best: whether to keep the one with the lowest validation loss too.
    """

    def __init__(self, folder: Path, model, optimizer, keep: int, keep_best: bool = True):
        optimizer.build(model.trainable_variables)  # so that its state exists before it is restored
        self.standing = Standing()
        self._folder, self._keep, self._keep_best = folder, keep, keep_best
        self._state = tf.train.Checkpoint(model=model, optimizer=optimizer, guard=model.guard.variables)

    def steps(self) -> list[int]:
        """Return the steps at which there is a checkpoint, in rising order."""
        names = [NAME.fullmatch(path.name) for path in self._folder.glob("step-*")]
        return sorted(int(name[1]) for name in names if name)

    def save(self, step: int, skipped: int = 0) -> None:
        """Write the checkpoint of this step and remove those that are not to be kept.

        Args:
            step: where training stands.
            skipped: steps in a row, up to this one, that were skipped: the newest checkpoint from before them is kept too, since its weights may be the
                last good ones.
        """
        with whole_folder(self._path(step)) as partial:
            self._state.write(str(partial / "state"))
            sums = {path.name: sha256_of_file(path) for path in sorted(partial.iterdir())}
            write_json(partial / MANIFEST, {"step": step, "standing": dataclasses.asdict(self.standing), "sha256": sums})
        steps, good = self.steps(), self.newest_before(step - skipped) if skipped else None
        best = self.standing.best_step if self._keep_best else None
        for old in steps[: -self._keep]:
            if old not in (best, good):
                shutil.rmtree(self._path(old))

    def newest_before(self, step: int) -> int | None:
        """Return the step of the newest checkpoint from before a step; `None` if there is none."""
        return max((one for one in self.steps() if one < step), default=None)

    def restore_newest(self) -> int:
        """Load the newest checkpoint that is whole and return its step; without any change nothing and return 0.

        Damaged ones are named in the log and renamed, so that they are not taken for the newest, by which older ones would be removed.

        Raises:
            RuntimeError: there are checkpoints, and none is whole.
            AssertionError: the checkpoint belongs to another model.
        """
        steps, damages = self.steps(), {}
        for step in reversed(steps):
            if damage := self._damage(step):
                damages[step] = damage
                continue
            self.restore(step)
            for damaged, what in damages.items():
                logger.warning("%s; going on from an earlier checkpoint; that folder is now %s, and may be removed", what, self._set_aside(damaged).name)
            return step
        if steps:
            raise RuntimeError(f"{self._folder}: none of its {len(steps)} checkpoints is whole; remove that folder to begin anew")
        return 0

    def restore(self, step: int) -> None:
        """Load the checkpoint of a step.

        Raises:
            RuntimeError: it is damaged.
        """
        if damage := self._damage(step):
            raise RuntimeError(f"{damage}; remove it to go on from another one")
        self._state.read(str(self._path(step) / "state")).assert_existing_objects_matched()
        self.standing = Standing(**json.loads((self._path(step) / MANIFEST).read_text("utf-8"))["standing"])

    def _damage(self, step) -> str:
        """Return what is wrong with a checkpoint, empty for nothing."""
        path = self._path(step)
        try:
            sums = json.loads((path / MANIFEST).read_text("utf-8"))["sha256"]
        except (OSError, ValueError, KeyError):
            return f"{path}: no readable {MANIFEST}"
        for name, checksum in sums.items():
            if not (path / name).is_file() or sha256_of_file(path / name) != checksum:
                return f"{path / name}: cut short, changed or gone, by its SHA-256"
        return ""

    def _set_aside(self, step):
        """Rename a checkpoint, in the place of an earlier one of that name, and return the new path."""
        aside = self._path(step).with_name(f"damaged-{self._path(step).name}")
        if aside.exists():
            shutil.rmtree(aside)
        return self._path(step).rename(aside)

    def _path(self, step):
        return self._folder / f"step-{step:09d}"
