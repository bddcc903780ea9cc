"""Checkpoints of a run: model and optimizer at a step, in folders that appear under their name only when whole."""
from __future__ import annotations

import re
import shutil
from pathlib import Path

import tensorflow as tf

from tfgpt.files import whole_folder

NAME = re.compile(r"step-(\d{9})")


class Checkpoints:
    """The newest few checkpoints in a folder, `step-000000100` and so on.

    Args:
        folder: where they lie; made when missing.
        model: a built `GPTLMHeadModel`.
        optimizer: its optimizer.
        keep: how many to keep.
    """

    def __init__(self, folder: Path, model, optimizer, keep: int):
        optimizer.build(model.trainable_variables)  # so that its state exists before it is restored
        self._folder, self._keep = folder, keep
        self._state = tf.train.Checkpoint(model=model, optimizer=optimizer)

    def steps(self) -> list[int]:
        """Return the steps at which there is a checkpoint, in rising order."""
        names = [NAME.fullmatch(path.name) for path in self._folder.glob("step-*")]
        return sorted(int(name[1]) for name in names if name)

    def save(self, step: int) -> None:
        """Write the checkpoint of this step and remove the oldest ones past `keep`."""
        with whole_folder(self._path(step)) as partial:
            self._state.write(str(partial / "state"))
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self._path(old))

    def restore_newest(self) -> int:
        """Load the newest checkpoint and return its step; without one change nothing and return 0.

        Raises:
            AssertionError: the checkpoint belongs to another model.
        """
        steps = self.steps()
        if not steps:
            return 0
        self._state.read(str(self._path(steps[-1]) / "state")).assert_existing_objects_matched()
        return steps[-1]

    def _path(self, step):
        return self._folder / f"step-{step:09d}"
