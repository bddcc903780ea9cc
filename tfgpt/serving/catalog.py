"""The models, versions and labels that a server has, whatever protocol asks for them.

Versions come and go as in TensorFlow Serving: folders with a number under a model's base path are looked for again and again, a new version is loaded
before the one that it replaces is unloaded, and one that is unloaded answers the requests that it has begun.

Source: https://www.tensorflow.org/tfx/serving/architecture, https://www.tensorflow.org/tfx/serving/serving_config
"""
from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError

from tfgpt.serving.batched import BatchedModel
from tfgpt.serving.config import ServableConfig
from tfgpt.serving.drain import DRAIN_SECONDS
from tfgpt.serving.errors import BadRequestError, NotServedError, PreconditionError, UnavailableError

LOG = logging.getLogger(__name__)
POLL_SECONDS = 1.0
# What reading a SavedModel brings up where one of its files is cut short or of another kind.
DAMAGE = (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, ImportError, MemoryError,
          StopIteration, DecodeError, tf.errors.OpError)  # fmt: skip


@dataclass(frozen=True)
class ServedModel:
    """A version that answers requests. It is there for as long as the lease that gave it."""

    name: str
    version: int
    loaded: BatchedModel


@dataclass(frozen=True)
class VersionStatus:
    """Where a version is on its way, as TensorFlow Serving's ModelVersionStatus says it."""

    version: int
    state: str
    """START, LOADING, AVAILABLE, UNLOADING or END."""
    error_code: str = "OK"
    error_message: str = ""
    load_seconds: float = 0.0
    """How long the last attempt to load took; 0 = none ended yet."""
    path: str = ""
    """The version's folder."""


class _Version:
    """A version's record. What changes in it is changed with the catalog's lock held."""

    def __init__(self, number, path):
        self.number, self.path = number, path
        self.state, self.code, self.message = "START", "OK", ""
        self.loaded = None
        self.leases = 0
        self.load_seconds = 0.0

    def status(self) -> VersionStatus:
        return VersionStatus(self.number, self.state, self.code, self.message, self.load_seconds, str(self.path))


class Catalog:
    """Models by name, with their versions loaded. Thread-safe.

    Args:
        configs: what is served.
        poll_seconds: how often base paths are looked at for versions that came or went; 0 = once, now.
        verify: called with a version's folder before it is loaded; raises RuntimeError to refuse it.
        load: loads a version's folder; what it returns has what `BatchedModel` has. Its `close` is called when the version is unloaded and its
            last lease has ended.

    Raises:
        FileNotFoundError: a base path without a version to serve.
        RuntimeError: no version of a model can be loaded.
        PreconditionError: a label of a version that is not available.
        BadRequestError: two models of one name.
    """

    def __init__(self, configs: Iterable[ServableConfig], poll_seconds: float = POLL_SECONDS, verify: Callable[[Path], None] | None = None,
                 load: Callable[[Path], BatchedModel] = BatchedModel):
        self._verify, self._load_folder = verify, load
        self._configs: dict[str, ServableConfig] = {}
        self._models: dict[str, dict[int, _Version]] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._failed: dict[tuple[str, Path], tuple[list, str]] = {}
        """Of each model's folders that could not be loaded what they looked like, and why: one is tried again when it looks otherwise."""
        self._away: set[Path] = set()
        """Base paths that could not be looked at the last time, which is told once."""
        self._state = threading.Condition()  # guards all records; never held while a model is loaded or runs, or a folder is looked at
        self._changing = threading.Lock()  # one change of what is loaded at a time
        self._closed = threading.Event()
        self.reload(configs)
        self._watcher = None
        if poll_seconds > 0:
            self._watcher = threading.Thread(target=self._watch, args=(poll_seconds,), name="tfgpt-catalog", daemon=True)
            self._watcher.start()

    @contextlib.contextmanager
    def lease(self, name: str, version: int | None = None, label: str | None = None) -> Iterator[ServedModel]:
        """Give a version that stays loaded until the block ends.

        Args:
            name: the model.
            version: its version; `None` = the highest that is available, and so is 0 where no version has that number: OpenVINO's clients say it so.
            label: the version with this label instead.

        Raises:
            NotServedError: no such model, or the version is not available.
            BadRequestError: no such label.
            UnavailableError: the server is closing.
        """
        held = self._take(name, version, label)
        try:
            yield ServedModel(name, held.number, held.loaded)
        finally:
            self._give_back(held)

    def status(self, name: str, version: int | None = None, label: str | None = None) -> list[VersionStatus]:
        """Return the states of a model's versions, those that have ended too, the highest version first.

        Raises:
            NotServedError: no such model or version.
            BadRequestError: no such label.
        """
        with self._state:
            version = self._version_of(name, version, label)
            versions = self._models.get(name, {})
            if version is not None and version not in versions:
                raise NotServedError(f"Could not find version {version} of model {name}")
            if not versions:
                raise NotServedError(f"Could not find any versions of model {name}")
            return [versions[number].status() for number in sorted(versions, reverse=True) if version in (None, number)]

    def names(self) -> list[str]:
        """Return the names of the models that are to be served."""
        with self._state:
            return sorted(self._configs)

    def loaded(self) -> list[ServedModel]:
        """Return the versions that are loaded now, those too that answer their last requests. Without a lease they may end at any time."""
        with self._state:
            return [ServedModel(name, version.number, version.loaded) for name, versions in sorted(self._models.items())
                    for version in versions.values() if version.loaded is not None]  # fmt: skip

    def labels(self, name: str) -> dict[str, int]:
        """Return the labels of a model and the version of each."""
        with self._state:
            return dict(self._labels.get(name, {}))

    def reload(self, configs: Iterable[ServableConfig]) -> None:
        """Serve these models, and no others. Returns when they are available; what they replace is unloaded as its requests end.

        On an error the models stay those that they were.

        Raises:
            The errors of the class.
        """
        wanted = list(configs)
        by_name = {config.name: config for config in wanted}
        if len(by_name) != len(wanted):
            raise BadRequestError(f"Two models have one name; the names are {[config.name for config in wanted]}, give each its own")
        with self._changing:
            if self._closed.is_set():
                raise UnavailableError("The server is closing")
            try:
                for config in wanted:
                    self._begin(config)
                self._adopt(by_name)
            finally:
                for name in list(self._models):
                    with contextlib.suppress(OSError):  # a base path that is away: what is loaded of it stays
                        self._unload_replaced(name)

    def poll(self) -> None:
        """Look at the base paths now: load versions that have come, unload those that are no longer to be served."""
        with self._changing:
            for config in list(self._configs.values()):
                if self._closed.is_set():
                    return
                try:
                    self._load_new(config)
                    self._unload_replaced(config.name)
                    self._away.discard(config.base_path)
                except OSError as error:  # a file system that is away for a while; what is loaded goes on
                    if config.base_path not in self._away:
                        LOG.warning("%s: the versions of %s cannot be looked up (%s); those loaded stay", config.base_path, config.name, error)
                    self._away.add(config.base_path)

    def close(self, limit_seconds: float = DRAIN_SECONDS) -> bool:
        """Give no more leases, wait for those given at most so long, and unload everything.

        Returns:
            Whether all leases have ended, and no version is being loaded. A version whose lease has not is unloaded when it ends.
        """
        self._closed.set()
        ends = time.monotonic() + limit_seconds
        if not self._changing.acquire(timeout=limit_seconds):  # a version is being loaded, which nothing can end
            return False
        try:
            with self._state:
                running = [version for versions in self._models.values() for version in versions.values()]
        finally:
            self._changing.release()
        for version in running:
            self._unload(version)
        with self._state:
            return self._state.wait_for(lambda: all(version.state == "END" for version in running), max(0.0, ends - time.monotonic()))

    def _take(self, name, version, label):
        with self._state:
            if self._closed.is_set():
                raise UnavailableError("The server is closing")
            version = self._version_of(name, version, label)
            versions = self._models.get(name, {})
            available = [number for number, held in versions.items() if held.state == "AVAILABLE" and version in (None, number)]
            if not available:
                request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise NotServedError(f"Servable not found for request: {request}")
            held = versions[max(available)]
            held.leases += 1
            return held

    def _give_back(self, held):
        with self._state:
            held.leases -= 1
            last = held.leases == 0 and held.state == "UNLOADING"
        if last:  # by a thread of its own: the lease may have been the event loop's, which is not to wait for an engine's end and freed memory
            threading.Thread(target=self._end, args=(held,), name="tfgpt-unload").start()

    def _version_of(self, name, version, label):
        if label is None:
            return None if version == 0 and 0 not in self._models.get(name, {}) else version
        if label not in self._labels.get(name, {}):
            raise BadRequestError(f"Unrecognized servable version label: {label}")
        return self._labels[name][label]

    def _watch(self, poll_seconds):
        while not self._closed.wait(poll_seconds):
            try:
                self.poll()
            except DAMAGE:  # or no new version would ever be seen again
                LOG.exception("the versions of the models could not be looked up; this is tried again")

    def _begin(self, config):
        """Load what a config asks for; an error if nothing of it is available then."""
        if not Path(config.base_path).is_dir() or not _aspired(config):
            raise FileNotFoundError(f"{config.base_path} holds no version of an exported model{config.policy.wanted()}; "
                                    "give the folder above the numbers, such as export/NAME")
        self._load_new(config)
        versions = self._models[config.name]
        aspired = _aspired(config)
        if not any(version.state == "AVAILABLE" and aspired.get(version.number) == version.path for version in versions.values()):
            messages = "; ".join(self._failed[config.name, path][1] for path in aspired.values() if (config.name, path) in self._failed)
            raise RuntimeError(f"model {config.name}: no version became available: {messages}")

    def _adopt(self, by_name):
        """Put the configs in force, labels included."""
        with self._state:
            for config in by_name.values():
                for label, number in config.labels.items():
                    version = self._models[config.name].get(number)
                    if version is None or version.state != "AVAILABLE":
                        raise PreconditionError(f"Request to assign label {label} to version {number} of model {config.name}, "
                                                "which is not currently available for inference")
            self._configs = by_name
            self._labels = {config.name: dict(config.labels) for config in by_name.values()}

    def _load_new(self, config):
        """Load the versions that are to be served and are not, the highest first."""
        wanted = sorted(_aspired(config).items(), reverse=True)
        unchanged = {path for _, path in wanted if (config.name, path) in self._failed and self._failed[config.name, path][0] == _look_of(path)}
        with self._state:
            versions = self._models.setdefault(config.name, {})
            begun = []
            for number, path in wanted:
                old = versions.get(number)
                serves = old is not None and old.state == "AVAILABLE"
                if (serves and old.path == path) or path in unchanged:
                    continue
                begun.append(_Version(number, path))
                if not serves:  # else the base path is another one: the old folder answers until the new one can
                    versions[number] = begun[-1]
        for version in begun:
            self._load(config.name, version)

    def _load(self, name, version):
        with self._state:
            version.state = "LOADING"
        look, started, loaded, failure = [], time.monotonic(), None, None
        try:
            look = _look_of(version.path)
            if self._verify is not None:
                self._verify(version.path)
            loaded = self._load_folder(version.path)
        except DAMAGE as error:
            failure = error
            LOG.error("%s cannot be loaded; what is served stays. %s", version.path, error)
        with self._state:
            version.load_seconds = time.monotonic() - started
            old = self._models[name][version.number]
            if failure is not None:
                version.state = "END"
                version.code, version.message = _code_and_message(version.path, failure)
                self._failed[name, version.path] = look, version.message
                return
            self._failed.pop((name, version.path), None)
            version.state, version.loaded = "AVAILABLE", loaded
            self._models[name][version.number] = version
            self._state.notify_all()
        LOG.info("%s version %d is available after %.1f s", name, version.number, version.load_seconds)
        if old is not version:
            self._unload(old)

    def _unload_replaced(self, name):
        """Unload what is no longer to be served, once something that is to be served is available, or nothing is to be."""
        config = self._configs.get(name)
        aspired = {} if config is None else _aspired(config)
        with self._state:
            versions = [version for version in self._models[name].values() if version.state == "AVAILABLE"]
            old = [version for version in versions if aspired.get(version.number) != version.path]
        if not aspired or len(old) < len(versions):
            for version in old:
                self._unload(version)

    def _unload(self, version):
        """Give the version to no new request; it ends with its last one."""
        with self._state:
            if version.state != "AVAILABLE":
                return
            version.state = "UNLOADING"
            idle = version.leases == 0
        if idle:
            self._end(version)

    def _end(self, version):
        version.loaded.close()
        with self._state:
            version.loaded, version.state = None, "END"
            self._state.notify_all()
        LOG.info("%s is unloaded", version.path)


def _aspired(config) -> dict[int, Path]:
    """Return the folders of the versions that a config asks for and that are there, by number; raises OSError where the base path is away."""
    found = {}
    for path in sorted(Path(config.base_path).iterdir()):
        if path.name.isascii() and path.name.isdecimal() and int(path.name) < 2**63 and (path / "saved_model.pb").is_file():
            found.setdefault(int(path.name), path)
    chosen = config.policy.choose(found)
    return {number: path for number, path in found.items() if number in chosen}


def _look_of(folder):
    """Return names, sizes and times of change of a folder's files: when they change, a copy went on or was mended."""
    stats = [(str(path), path.stat()) for path in sorted(folder.rglob("*"))]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _code_and_message(path, error):
    """Return the canonical code and one line for a version that cannot be loaded."""
    codes = {FileNotFoundError: "NOT_FOUND", tf.errors.NotFoundError: "NOT_FOUND", tf.errors.DataLossError: "DATA_LOSS",
             MemoryError: "RESOURCE_EXHAUSTED", tf.errors.ResourceExhaustedError: "RESOURCE_EXHAUSTED"}  # fmt: skip
    lines = str(error).splitlines()
    text = lines[0] if lines else type(error).__name__
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), "UNKNOWN")
    return code, text if str(path) in text else f"{path}: {text}"
