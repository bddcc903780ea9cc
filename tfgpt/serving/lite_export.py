"""A version for LiteRT instead of TensorFlow Serving: the model's step as model.tflite, and beside it what stands around that.

It maps numbers to numbers: texts become ids outside of it, by the tokenizer's files (README.md says why).
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from tfgpt.files import whole_folder, write_text
from tfgpt.models.lite import EMBEDDINGS, SCALES
from tfgpt.models.lite_file import write_lite
from tfgpt.serving.manifest import write_manifest

MODEL, TOKENIZER = "model.tflite", "tokenizer"


def export_lite(model, tokenizer, folder: str | Path, version: int, weights: str = "float32") -> Path:
    """Write FOLDER/<version>, which appears only when it is whole, and return its path.

    It holds model.tflite, the token embeddings as embeddings.npy and embedding_scales.npy, config.json, the tokenizer, a README.md and a manifest;
    `LiteModel.open` reads it. No folder for TensorFlow Serving, which would take its number for a SavedModel's.

    Args:
        model: a `GPTLMHeadModel` in float32.
        tokenizer: its own, in Python.
        folder: of all versions.
        version: 1 or more.
        weights: of the matrices, `float32` or `int8`.

    Raises:
        ValueError: other weights, or a model that LiteRT cannot have (see `write_lite`); a folder with SavedModels.
    """
    version = Path(folder) / str(version)
    if found := next(version.parent.glob("[0-9]*/saved_model.pb"), None):
        raise ValueError(f"--output: {version.parent} holds SavedModels ({found.parent.name}), and a server would take a LiteRT model for one; "
                         "give another folder")
    with whole_folder(version) as partial:
        table = write_lite(model, partial / MODEL, weights)
        np.save(partial / EMBEDDINGS, table.values)
        np.save(partial / SCALES, table.scale)
        tokenizer.save_pretrained(partial / TOKENIZER)
        model.config.save_pretrained(partial)
        write_text(partial / "README.md", _readme(model, weights))
        write_manifest(partial)
    return version


def _readme(model, weights):
    config, window = model.config, model.adaptation.window
    (heads, width), *_ = model.head_shapes
    return f"""# A GPT-2-family model for LiteRT

`model.tflite` is one step of a model of {config.n_layer} layers, context {config.n_positions} and {config.vocab_size} tokens, with weights in {weights}: it
reads some tokens behind others, and tells what may come next. Its operations are LiteRT's own: no Flex, no custom ones. Every size that is a word
here may be changed with `resize_tensor_input`.

| input | kind | what |
| --- | --- | --- |
| `embeddings` | float32 [batch, queries, {config.n_embd}] | `embeddings.npy`[ids] * `embedding_scales.npy`[ids] of the tokens to read |
| `positions` | int32 [batch, queries] | their places in the text, from 0 |
| `seen` | bool [batch, queries, slots + queries] | which each sees of the slots, and of those read now{f', {window} at most' if window else ''} |
| `last` | int32 [batch, wanted] | behind which of the queries logits are wanted |
| `key_0`, `value_0`, ... | float32 [batch, {heads}, slots, {width}] | of each layer, of tokens read before (fewer heads where some were pruned) |

| output | kind | what |
| --- | --- | --- |
| `logits` | float32 [batch, wanted, {config.vocab_size}] | before the softmax |
| `new_key_0`, `new_value_0`, ... | float32 [batch, {heads}, queries, {width}] | to be kept in the slots of these tokens |

Ids come from `tokenizer/` (`tokenizer.json`, or vocab.json and merges.txt: a byte-level BPE as GPT-2's). In Python all of this is done by:

```python
from tfgpt.generation.text_model import TextModel
from tfgpt.models.lite import LiteModel
from tfgpt.text.bpe import load_tokenizer

text_model = TextModel(LiteModel.open("."), load_tokenizer("tokenizer"))
print(text_model.generate(["It was"])[0].text)
```
"""
