"""The files beside the versions of a model: what TensorFlow Serving, Docker and Kubernetes want to be told.

A server that watches the folder looks at numbers alone, so they do not disturb it. Each begins with the sha256 of what follows: a file that was edited is
never overwritten.
"""
from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from google.protobuf import text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from tfgpt.files import write_text
from tfgpt.recipe import ExportConfig

GRPC_PORT, REST_PORT = 8500, 8501
METRICS = "/monitoring/prometheus/metrics"
"""Where Prometheus finds a server's figures, on the REST port."""
SERVED_VERSIONS = 2
"""Newest versions that are served side by side, so that a caller can go back."""
BATCH_TIMEOUT_MICROS = 2000
"""How long a request waits for others to share its batch; a token takes longer."""
ENQUEUED_BATCHES = 100
IMAGE = "tensorflow/serving:latest"
HEAD = "# Written by tfgpt export, and again by the next one unless you change it; sha256 of what follows: "


def write_server_files(base: Path, config: ExportConfig) -> list[Path]:
    """Write models.config, batching_parameters.txt, monitoring.config, docker-compose.yml and kubernetes.yaml into a model's base path.

    Args:
        base: holds the versions; its name is the model's.
        config: of the version exported last.

    Returns:
        Those that were edited by hand, or are someone else's, and so were left as they are.
    """
    name, versions = base.name, sorted(int(path.name) for path in base.iterdir() if path.name.isdecimal())
    contents = {
        "models.config": _models(name, versions),
        "batching_parameters.txt": _batching(config.batch_sizes),
        "monitoring.config": f'prometheus_config {{\n  enable: true\n  path: "{METRICS}"\n}}\n',
        "docker-compose.yml": _compose(name, config),
        "kubernetes.yaml": _kubernetes(name, config),
    }
    edited = [base / file for file in contents if _is_edited(base / file)]
    for file, content in contents.items():
        if base / file not in edited:
            write_text(base / file, f"{HEAD}{_hash(content)}\n{content}")
    return edited


def _hash(content):
    return hashlib.sha256(content.encode()).hexdigest()


def _is_edited(path):
    """Tell whether there is a file that is not as `write_server_files` wrote it."""
    if not path.exists():
        return False
    head, _, content = path.read_text("utf-8", errors="replace").partition("\n")
    return head != HEAD + _hash(content)


def _models(name: str, versions: Sequence[int]) -> str:
    """Return a `ModelServerConfig` as text; the newest version has the label latest, the one before it previous."""
    config = model_server_config_pb2.ModelServerConfig()
    model = config.model_config_list.config.add(name=name, base_path=f"/models/{name}", model_platform="tensorflow")
    model.model_version_policy.latest.num_versions = SERVED_VERSIONS
    for label, version in zip(("latest", "previous"), reversed(versions)):
        model.version_labels[label] = version
    return text_format.MessageToString(config)


def _batching(batch_sizes: Sequence[int]) -> str:
    """Return `BatchingParameters` as text."""
    wrapped = {"max_batch_size": batch_sizes[-1], "batch_timeout_micros": BATCH_TIMEOUT_MICROS, "max_enqueued_batches": ENQUEUED_BATCHES}
    lines = [f"{key} {{ {text_format.MessageToString(wrappers_pb2.Int64Value(value=value), as_one_line=True)} }}" for key, value in wrapped.items()]
    lines += [f"allowed_batch_sizes: {size}" for size in batch_sizes]
    return "\n".join([*lines, "# lists of rows, such as stop, are filled up to the longest in the batch with their own first entry",
                      "pad_variable_length_inputs: true", ""])  # fmt: skip


def _arguments(name, config, device):
    """Return the options of `tensorflow_model_server`."""
    folder = f"/models/{name}"
    options = [f"--port={GRPC_PORT}", f"--rest_api_port={REST_PORT}", f"--model_config_file={folder}/models.config",
               "--model_config_file_poll_wait_seconds=60", "--allow_version_labels_for_unavailable_models=true", "--enable_batching=true",
               f"--batching_parameters_file={folder}/batching_parameters.txt", f"--monitoring_config_file={folder}/monitoring.config"]
    return options + ([f"--xla_{device}_compilation_enabled=true"] if config.jit else [])


def health_command(name: str, port: int = REST_PORT) -> list[str]:
    """Return a command that succeeds if a server on this machine has the model ready; the image has bash, but neither curl nor wget."""
    return ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET /v1/models/{name} HTTP/1.0\\r\\n\\r\\n' >&3; grep -q '\"AVAILABLE\"' <&3"]


def _compose(name, config):
    """Return a Compose file with the profiles cpu and gpu, of the folder in which it lies."""
    def service(device):
        return {
            "profiles": [device], "image": IMAGE + ("-gpu" if device == "gpu" else ""), "entrypoint": ["tensorflow_model_server"],
            "command": _arguments(name, config, device), "volumes": [f".:/models/{name}:ro"], "restart": "unless-stopped",
            "ports": [f"127.0.0.1:{port}:{port}" for port in (GRPC_PORT, REST_PORT)],
            "healthcheck": {"test": ["CMD", *health_command(name)], "interval": "10s", "timeout": "5s", "retries": 3, "start_period": "300s"},
        }  # fmt: skip

    gpu = service("gpu") | {"deploy": {"resources": {"reservations": {"devices": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}}}}
    body = {"services": {"serving": service("cpu"), "serving-gpu": gpu}}
    return "# docker compose --profile cpu up, or --profile gpu with the NVIDIA container toolkit\n" + yaml.safe_dump(body, sort_keys=False, width=1000)


def _kubernetes(name, config):
    """Return a Deployment and its Service."""
    named = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:50].strip("-") or "model"  # which Kubernetes wants so
    ready = {"exec": {"command": health_command(name)}, "periodSeconds": 10, "timeoutSeconds": 5}
    labels = {"app": named}
    container = {
        "name": "serving", "image": IMAGE, "command": ["tensorflow_model_server"], "args": _arguments(name, config, "cpu"),
        "ports": [{"name": "grpc", "containerPort": GRPC_PORT}, {"name": "rest", "containerPort": REST_PORT}],
        "startupProbe": ready | {"failureThreshold": 60}, "readinessProbe": ready,
        "livenessProbe": {"tcpSocket": {"port": GRPC_PORT}, "periodSeconds": 20, "failureThreshold": 3},
        "volumeMounts": [{"name": "model", "mountPath": f"/models/{name}", "readOnly": True}],
    }  # fmt: skip
    pod = {"containers": [container], "volumes": [{"name": "model", "persistentVolumeClaim": {"claimName": f"{named}-model", "readOnly": True}}]}
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(REST_PORT), "prometheus.io/path": METRICS}
    template = {"metadata": {"labels": labels, "annotations": scraped}, "spec": pod}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": named, "labels": labels},
                  "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}}
    ports = [{"name": key, "port": port, "targetPort": key} for key, port in (("grpc", GRPC_PORT), ("rest", REST_PORT))]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": named}, "spec": {"selector": labels, "ports": ports}}
    note = (f"# The claim {named}-model holds the content of this folder. On a GPU: the image {IMAGE}-gpu, resources.limits nvidia.com/gpu: 1"
            + (", and --xla_gpu_compilation_enabled" if config.jit else "") + "\n")
    return note + yaml.safe_dump_all([deployment, service], sort_keys=False, width=1000)
