"""Ask an exported model in a fresh process: prompts and controls as JSON on standard input, answers as JSON on standard output.

`python -m tfgpt.serving.ask EXPORT/VERSION` loads nothing but TensorFlow, which shows that the SavedModel needs nothing else.
"""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfgpt.serving.saved_model import LoadedModel


def ask_in_fresh_process(version: Path, prompts: list[str], **controls: float) -> list[dict]:
    """Return what the SavedModel writes after each prompt, loaded by a new Python process.

    Args:
        version: the version's folder.
        prompts: one answer each.
        controls: inputs of the `generate` signature, one number for all prompts.

    Returns:
        For each prompt its `text`, `token_count`, `log_prob` and `finish_reason`.

    Raises:
        RuntimeError: the process failed; the message ends with what it wrote.
    """
    request = json.dumps({"prompts": prompts, "controls": controls})
    command = [sys.executable, "-m", "tfgpt.serving.ask", str(version)]
    done = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{version} could not be asked in a fresh process:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout)


def answer(version: Path, request: dict) -> list[dict]:
    """Answer one request; see `ask_in_fresh_process`."""
    model = LoadedModel(version)
    kinds = {name: tf.as_dtype(info.dtype).as_numpy_dtype for name, info in model.signatures["generate"].inputs.items()}
    given = {"prompt": request["prompts"]} | {name: [value] for name, value in request["controls"].items()}
    outputs = model.predict("generate", {name: np.array(value, kinds[name]) for name, value in given.items()})
    rows = zip(*(column.tolist() for column in outputs.values()))
    return [{name: value.decode() if isinstance(value, bytes) else value for name, value in zip(outputs, row)} for row in rows]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(Path(sys.argv[1]), json.load(sys.stdin))))
