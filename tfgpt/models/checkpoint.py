"""Weights and configuration in a folder or on the hub, of GPT-2 and GPT-1, as safetensors or as TensorFlow's h5.

Weights are read by name, one at a time: files stay on the disk, so a model is loaded without a second copy of its weights. Nothing here runs code
that a file brings: pickled weights (`pytorch_model.bin` and the like) are refused, and never downloaded.
"""
from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import safe_open
from transformers import GPT2Config

from tfgpt.models import gpt1
from tfgpt.models.weights import ADDED_FILE, FILE

H5_FILE = "tf_model.h5"
WEIGHT_FILES = (FILE, f"{FILE}.index.json", H5_FILE, f"{H5_FILE}.index.json")
"""Any of these a folder must hold; the first that is there is read. An index names the files that the weights are spread over."""
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
"""What may be said of a download, as `huggingface_hub.snapshot_download` takes it."""
CONFIG = "config.json"
DOWNLOADS = ((FILE, "model-*.safetensors", f"{FILE}.index.json", ADDED_FILE), (H5_FILE, "tf_model-*.h5", f"{H5_FILE}.index.json"))
"""Patterns of the files that hold weights; the second kind is asked for only where there is none of the first."""
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
PART = 2**22
"""Numbers of a weight that are read at once, else the file's pages would take as much memory as the weight; a larger one is an `OnDisk`."""
NO_WEIGHTS = re.compile(r"\.attn\.(bias|masked_bias)$")
"""Constants that old checkpoints hold among their weights."""


def folder_of(source: str | Path, weights: bool = True, **hub: object) -> Path:
    """Return the folder that a model is in; what is on the hub is downloaded first, without any pickled file.

    Args:
        source: folder or hub id.
        weights: whether they are wanted; else the configuration alone is downloaded.
        hub: of `HUB_OPTIONS`.

    Raises:
        FileNotFoundError: neither a folder with a config.json nor a model of the hub that can be reached.
        ValueError: an option of a download that there is not.
    """
    if unknown := sorted(hub.keys() - set(HUB_OPTIONS)):
        raise ValueError(f"load: {', '.join(unknown)} not taken; there are {', '.join(HUB_OPTIONS)}")
    if (folder := Path(source)).is_dir():
        if not (folder / CONFIG).is_file():
            raise FileNotFoundError(f"{source} has no config.json")
        return folder
    try:
        folder = Path(snapshot_download(str(source), allow_patterns=[CONFIG], **hub))
        for patterns in DOWNLOADS if weights else ():
            folder = Path(snapshot_download(str(source), allow_patterns=[CONFIG, *patterns], **hub))
            if _index_of(folder):
                break
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(f"{source} is neither a folder with a model's config.json nor a model of the hub that can be reached") from error
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{source}: the hub has no config.json of it, or it was never downloaded and the hub cannot be reached")
    return folder


def config_in(folder: Path) -> GPT2Config:
    """Return the configuration in a folder, that of a GPT-1 with the keys of GPT-2.

    Raises:
        ValueError: another kind of model, or a variant of attention that is none of GPT-2's.
    """
    try:
        content = json.loads((folder / CONFIG).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: is no JSON ({error}); get it again") from error
    kind = content.get("model_type") or (gpt1.MODEL_TYPE if "afn" in content else GPT2Config.model_type)
    if kind not in (GPT2Config.model_type, gpt1.MODEL_TYPE):
        raise ValueError(f"{folder / 'config.json'}: model_type is {kind}; gpt2 and openai-gpt can be loaded")
    config = gpt1.config_of_gpt1(content) if kind == gpt1.MODEL_TYPE else GPT2Config.from_dict(content)
    if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
        raise ValueError(f"{folder / 'config.json'}: scale_attn_by_inverse_layer_idx or scale_attn_weights is not as in GPT-2 (false, true); no such "
                         "model can be loaded")
    if config.n_embd % config.n_head:
        raise ValueError(f"{folder / 'config.json'}: n_embd {config.n_embd} is not a multiple of n_head {config.n_head}; the file is damaged")
    return config


def check_weights(folder: Path) -> None:
    """Check that a folder holds weights that can be read, by what stands at the beginning of each file.

    Raises:
        FileNotFoundError: it holds none, or not all that it lists.
        ValueError: it holds pickled ones alone, or a file that is cut short or of another format.
    """
    if _index_of(folder):
        for path in _files_of(folder):
            for _ in _weights_of(path):
                break
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise ValueError(f"{folder} holds {pickled[0]}, and pickled weights are not loaded, since they can run any code; convert them, in a sandbox: "
                         f"""python -c "from transformers import AutoModelForCausalLM as M; M.from_pretrained('{folder}').save_pretrained('NEW', """
                         """safe_serialization=True)" """.strip())
    raise FileNotFoundError(f"{folder} holds no weights: no {', '.join(WEIGHT_FILES)} beside its config.json (pickled ones, such as pytorch_model.bin, "
                            "are not loaded)")


class OnDisk:
    """A large weight in a file, float32: of a slice its rows alone are read, and numpy and TensorFlow read it whole where they want an array.

    Args:
        shape: of the weight.
        read: returns its rows from one number to another, float [rows, ...].
    """

    def __init__(self, shape: tuple[int, ...], read: Callable[[int, int], np.ndarray]):
        self.shape, self.ndim, self._read = shape, len(shape), read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(len(self))
        assert step == 1
        return np.asarray(self._read(start, stop), np.float32)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        whole, rows = np.empty(self.shape, dtype or np.float32), max(PART // math.prod(self.shape[1:]), 1)
        for start in range(0, len(self), rows):
            whole[start : start + rows] = self[start : start + rows]
        return whole


class Tensors(Mapping[str, "np.ndarray | OnDisk"]):
    """The weights in a folder, float32, by the names that `tfgpt.models.weights.state` gives them; each is read when it is asked for.

    Args:
        folder: with weights.
        tied: whether the output matrix is the embeddings'; a copy of it in the files is then passed over.

    Raises:
        FileNotFoundError: no such file.
        ValueError: one that is cut short, of another format, or pickled.
    """

    def __init__(self, folder: Path, tied: bool):
        check_weights(folder)
        self._readers = {}
        for path in _files_of(folder):
            for name, read in _weights_of(path):
                whole = gpt1.model_name(name if name.startswith(("transformer.", "lm_head.", "head.", "encoder.")) else f"transformer.{name}")
                if not NO_WEIGHTS.search(name) and not (tied and whole == "lm_head.weight"):
                    self._readers[whole] = read

    def __getitem__(self, name: str) -> np.ndarray | OnDisk:
        found = self._readers[name]()
        return found if isinstance(found, OnDisk) else np.asarray(found, np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def _weights_of(path):
    return _h5_weights(path) if path.suffix == ".h5" else _safetensors_weights(path)


def _safetensors_weights(path):
    """Yield the name of each weight of a file, and a function that reads it."""

    def part(name, start=0, stop=None):
        with safe_open(path, framework="np") as file:  # anew for each: what was read of the file would stay in memory for as long as it is open
            return file.get_slice(name)[start:stop] if stop else file.get_tensor(name)

    def read(name):
        with safe_open(path, framework="np") as file:
            shape = file.get_slice(name).get_shape()
        return part(name) if math.prod(shape) <= PART else OnDisk(tuple(shape), functools.partial(part, name))

    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise ValueError(f"{path}: is no safetensors file, or a damaged one ({error}); get it again") from error
    for name in names:
        yield name, functools.partial(read, name)


def _h5_weights(path):
    """Yield the name, as PyTorch has it, of each weight of a file that TensorFlow's transformers wrote, and a function that reads it."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: is no HDF5 file, or a damaged one ({error}); get it again") from error
    places = []
    file.visititems(lambda place, item: places.append(place) if isinstance(item, h5py.Dataset) and "transformer/" in place else None)
    for place in places:
        yield _name_in_pytorch(place), lambda place=place: _without_first_axis(file[place][()], place)


def _name_in_pytorch(place):
    """Return the name of a weight of TensorFlow's transformers.

    >>> _name_in_pytorch("transformer/tfgpt2lm_head_model/transformer/h_._0/ln_1/gamma:0")
    'transformer.h.0.ln_1.weight'
    """
    *parts, last = place.removesuffix(":0").split("transformer/")[-1].replace("h_._", "h/").split("/")
    return ".".join(["transformer", *parts, {"gamma": "weight", "embeddings": "weight", "beta": "bias"}.get(last, last)])


def _without_first_axis(array, place):
    return array[0] if place.endswith("/bias:0") and array.ndim == 2 else array  # [1, n]


def _index_of(folder):
    """Return the first of `WEIGHT_FILES` that a folder holds, or `None`."""
    return next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)


def _files_of(folder):
    """Return the files that a folder's weights are in."""
    first = _index_of(folder)
    names = [first.name] if first.suffix != ".json" else sorted(set(json.loads(first.read_text("utf-8"))["weight_map"].values()))
    files = [folder / Path(name).name for name in names] + [path for path in [folder / ADDED_FILE] if path.is_file()]
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: {first.name} names it, and it is not there; get it again")
    return files
