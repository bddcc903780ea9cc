"""What a server is to serve: models, the versions of each, and labels."""
from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tfgpt.serving.errors import BadRequestError, PermissionDeniedError


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions under a base path are served."""

    latest: int = 1
    """So many of the highest versions; 0 = all of them."""
    specific: tuple[int, ...] = ()
    """These versions and no others; () = by `latest`."""

    def __post_init__(self):
        if self.latest < 0:
            raise ValueError(f"latest: {self.latest} is no number of versions; give 1 or more, or 0 for all")

    def choose(self, found: Collection[int]) -> set[int]:
        """Return the versions that are to be served, of those that are there."""
        if self.specific:
            return set(self.specific) & set(found)
        return set(sorted(found, reverse=True)[: self.latest or None])

    def wanted(self) -> str:
        """Return words for an error where none of the versions asked for is there; '' where any would do."""
        return f" among {sorted(self.specific)}" if self.specific else ""


@dataclass(frozen=True)
class ServableConfig:
    """A model to be served."""

    name: str
    base_path: Path
    """The folder that holds the numbered versions."""
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)
    """Names for versions, such as stable and canary."""

    def __post_init__(self):
        if not self.name or "/" in self.name or ":" in self.name:
            raise ValueError(f"name: {self.name!r} is no name of a model; give one without / and :")


class BasePaths:
    """The base paths that whoever runs the server has named. A request chooses among them; what it writes itself never reaches the file system.

    Args:
        configs: which name them.
    """

    def __init__(self, configs: Iterable[ServableConfig]):
        self._known: dict[str, Path] = {}
        self.add(configs)

    def add(self, configs: Iterable[ServableConfig]) -> None:
        """Let these be chosen too, under the path as it was given and under the one that its symbolic links lead to."""
        for config in configs:
            for spelling in (os.path.abspath(config.base_path), os.path.realpath(config.base_path)):
                self._known[spelling] = config.base_path

    def confine(self, configs: Iterable[ServableConfig]) -> list[ServableConfig]:
        """Return configs of a request with the server's own paths in place of the request's.

        Raises:
            PermissionDeniedError: a base path that is none of them.
        """
        confined = []
        for config in configs:
            known = self._known.get(os.path.abspath(config.base_path))  # of the text alone: a link that leads elsewhere is not followed
            if known is None:
                raise PermissionDeniedError(f"base_path: {config.base_path} of {config.name} is none of those that this server was started with; "
                                            "give one of them, or start it with --allow-reload-paths")
            confined.append(replace(config, base_path=known))
        return confined


def read_config(path: Path) -> list[ServableConfig]:
    """Return what a file in TensorFlow Serving's text format (ModelServerConfig) asks for.

    Raises:
        FileNotFoundError: no such file.
        ValueError: anything in it that is not understood.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; give one with a model_config_list")
    try:
        message = text_format.Parse(path.read_text("utf-8"), model_server_config_pb2.ModelServerConfig())
        return configs_of(message)
    except (text_format.ParseError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def configs_of(message) -> list[ServableConfig]:
    """Return what a `ModelServerConfig` asks for.

    Raises:
        BadRequestError: no list of models, or something in it that cannot be served.
    """
    if message.WhichOneof("config") != "model_config_list":
        raise BadRequestError("ServerModelConfig type not supported; give a model_config_list")
    return [_config_of(model) for model in message.model_config_list.config]


def _config_of(model):
    if model.model_platform not in ("", "tensorflow"):
        raise BadRequestError(f'model_platform: {model.model_platform} of {model.name} is not served here; give "tensorflow"')
    if not model.base_path:
        raise BadRequestError(f"base_path: is missing for {model.name}; give the folder that holds the numbered versions")
    policy = model.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "specific" and not policy.specific.versions:
        raise BadRequestError(f"model_version_policy of {model.name}: specific names no version; give versions")
    chosen = {
        None: VersionPolicy(),
        "all": VersionPolicy(latest=0),
        "latest": VersionPolicy(latest=policy.latest.num_versions or 1),  # 0 = not given, which is 1 there
        "specific": VersionPolicy(specific=tuple(policy.specific.versions)),
    }[kind]
    try:
        return ServableConfig(model.name, Path(model.base_path), chosen, dict(model.version_labels))
    except ValueError as error:
        raise BadRequestError(str(error)) from error
