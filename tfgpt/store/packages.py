"""What of a folder is published, and what is refused: only safetensors, SavedModels and the texts beside them.

A pickle runs code when it is read, so none is taken, under whatever name. A SavedModel is a program too, within what TensorFlow's operations can do: pull
only from a store whose publishers you trust.
"""
from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tfgpt.store.errors import StoreError

GIB = 2**30
PARTS = ("model", "tokenizer")
"""Folders of a run that are published as they are, beside the export."""
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors", "adaptation.safetensors", "model.safetensors.index.json")
LOOSE = ("recipe.yaml", "evaluation.json")
"""Files of a run beside the folders; the card, README.md, is written from what is said of the model."""
JSON, TEXTS = (".json",), (".txt", ".md", ".yaml", ".yml", ".jinja")
NUMBERS = (".safetensors", ".pb", ".index")
NAMES = ("tf_serving_warmup_requests",)
PICKLES = (".pkl", ".pickle", ".bin", ".pt", ".pth", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".hdf5", ".keras", ".msgpack")
MOST_TEXT_BYTES = 64 * 2**20
"""Of a text or JSON, which is read as a whole to be checked."""


@dataclass(frozen=True)
class Limits:
    """What a publish may have at most."""

    max_file_bytes: int = 16 * GIB
    max_model_bytes: int = 64 * GIB
    """All files of a version together."""
    max_files: int = 2000

    def __post_init__(self):
        for key in ("max_file_bytes", "max_model_bytes", "max_files"):
            if type(getattr(self, key)) is not int or getattr(self, key) < 1:
                raise StoreError(f"{key}: {getattr(self, key)!r} lets nothing through; give 1 or more")


def packed_files(folder: Path, export: Path | None, limits: Limits) -> dict[str, Path]:
    """Return which files of a folder are published, by their path in the store, all of them checked.

    Args:
        folder: a run's, with model/ and tokenizer/; or one that holds a model and its tokenizer, as on a hub.
        export: the version folder of a SavedModel; `None` = none is published.
        limits: of sizes and numbers.

    Raises:
        FileNotFoundError: no model there.
        StoreError: a file of another kind, a pickle, a link that leads out of the folder, something too large; it is named.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give a run's, such as runs/quickstart")
    found: dict[str, Path] = {}
    if (folder / "model" / "config.json").is_file():
        for part in PARTS:
            if not (folder / part).is_dir():
                raise FileNotFoundError(f"{folder} holds no {part}/; give a run's folder, which has one")
            found |= {f"{part}/{name}": path for name, path in _files_under(folder / part, limits).items()}
    elif (folder / "config.json").is_file():
        found |= _of_one_place(_files_under(folder, limits))
    elif export is None:
        raise FileNotFoundError(f"{folder} holds no model (model/config.json or config.json); give a run's folder, such as runs/quickstart")
    for name in LOOSE:
        if (folder / name).exists():
            found[name] = _own_file(folder / name, folder)
    if export is not None:
        if not (export / "saved_model.pb").is_file():
            raise FileNotFoundError(f"{export} holds no saved_model.pb; give the folder of a version, such as runs/quickstart/export/quickstart/1")
        found |= {f"export/{name}": path for name, path in _files_under(export, limits).items()}
    _check_sizes(found, limits)
    for name, path in found.items():
        check_path(name)
        _check_content(name, path)
    return dict(sorted(found.items()))


def newest_export(folder: Path) -> Path | None:
    """Return the version folder that a run's recipe has exported, the newest of the only model; `None` if there is no export.

    Raises:
        StoreError: exports of several names.
    """
    bases = sorted(path for path in (folder / "export").glob("*") if path.is_dir() and any(_versions(path)))
    if len(bases) > 1:
        raise StoreError(f"{folder / 'export'}: exports of several names ({', '.join(path.name for path in bases)}); say which with --export DIR")
    return max(_versions(bases[0]), key=lambda path: int(path.name)) if bases else None


def check_path(path: str) -> None:
    """Refuse a path that could lead out of the folder that it is put into.

    Raises:
        StoreError: anything but relative names with / between them.
    """
    parts = path.split("/")
    plain = all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)
    if not plain or len(path) > 1000 or PurePosixPath(path).is_absolute() or any(letter in '\\:<>"|?*' or not letter.isprintable() for letter in path):
        raise StoreError(f"path: {path!r} is no plain relative path; use names with / between them")


def _of_one_place(files):
    """Return the files of a model and its tokenizer that lie in one folder, as they lie in a run's."""
    shards = {name for name in files if name.endswith(".safetensors") and "/" not in name}
    model = {f"model/{name}": path for name, path in files.items() if name in MODEL_FILES or name in shards}
    tokenizer = {f"tokenizer/{name}": path for name, path in files.items() if name in TOKENIZER_FILES}
    if not shards:
        raise StoreError(f"{next(iter(files.values())).parent}: has no safetensors; weights of another kind, such as pytorch_model.bin, are not published")
    return model | tokenizer


def _files_under(folder: Path, limits: Limits) -> dict[str, Path]:
    """Return the files of a folder, by their path in it. Hidden ones are no part of a model."""
    found, waiting = {}, [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                    continue
                found[path.relative_to(folder).as_posix()] = _own_file(path, folder)
                if len(found) > limits.max_files:
                    raise StoreError(f"{folder}: more than {limits.max_files:,} files; publish a model alone")
    return found


def _own_file(path, folder):
    """Return a file of a folder; a link is followed if it leads to one within it."""
    resolved = path.resolve()
    if not resolved.is_relative_to(folder.resolve()):
        raise StoreError(f"{path}: leads to {resolved}, out of the folder; put the file itself there")
    if not stat.S_ISREG(path.stat().st_mode if path.exists() else 0):
        raise StoreError(f"{path}: is no file; remove it")
    return path


def _check_sizes(found, limits):
    total = 0
    for path in found.values():
        size = path.stat().st_size
        total += size
        if size > limits.max_file_bytes:
            raise StoreError(f"{path}: {size:,} bytes are more than a file may have here ({limits.max_file_bytes:,})")
    if total > limits.max_model_bytes:
        raise StoreError(f"{total:,} bytes are more than a model may have here ({limits.max_model_bytes:,})")
    if len(found) > limits.max_files:
        raise StoreError(f"{len(found):,} files are more than a model may have here ({limits.max_files:,})")


def _check_content(name, path):
    """Refuse what is not what its name says."""
    kind, file = PurePosixPath(name).suffix, PurePosixPath(name).name
    if kind in PICKLES:
        raise StoreError(f"{path}: {kind} may hold a pickle, which runs code when it is read; publish safetensors and SavedModels, and remove it")
    is_weights = file.startswith("variables.data-")
    if not (kind in (*JSON, *TEXTS, *NUMBERS) or file in NAMES or is_weights):
        raise StoreError(f"{path}: is of no kind that is published ({', '.join((*JSON, *TEXTS, *NUMBERS))}); remove it")
    _refuse_magic(path)
    if kind == ".safetensors":
        _check_safetensors(path)
    elif kind in (*JSON, *TEXTS):
        _check_text(path, kind in JSON)


def _refuse_magic(path):
    """Refuse a pickle, and the archives in which PyTorch and NumPy keep some, under any name."""
    with open(path, "rb") as file:
        head = file.read(8)
        file.seek(-min(path.stat().st_size, 1), os.SEEK_END)
        last = file.read(1)
    if head[:1] == b"\x80" and 2 <= (head[1] if len(head) > 1 else 0) <= 5 and last == b".":  # PROTO at the beginning, STOP at the end
        raise StoreError(f"{path}: is a pickle, which runs code when it is read; publish safetensors and SavedModels, and remove it")
    if head.startswith((b"PK\x03\x04", b"\x93NUMPY", b"\x89HDF\r\n", b"\x1f\x8b")):
        raise StoreError(f"{path}: is an archive or array of another kind than its name says, which may hold a pickle; remove it")


def _check_safetensors(path):
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            tensors.keys()
    except SafetensorError as error:
        raise StoreError(f"{path}: is no safetensors file, or one that was cut short ({error}); save the model again") from error


def _check_text(path, is_json):
    if path.stat().st_size > MOST_TEXT_BYTES:
        raise StoreError(f"{path}: {path.stat().st_size:,} bytes are too many for a text ({MOST_TEXT_BYTES:,})")
    try:
        text = path.read_text("utf-8")
        if is_json:
            json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: is no {'JSON' if is_json else 'UTF-8'} ({error}); save it again, or remove it") from error


def _versions(base):
    return (path for path in base.iterdir() if path.name.isascii() and path.name.isdecimal() and (path / "saved_model.pb").is_file())
