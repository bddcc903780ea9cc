"""A server of exported models that speaks TensorFlow Serving's REST protocol: predict, status and metadata.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from google.protobuf import json_format

from tfgpt.serving.rest_codec import BadRequestError, decode_predict, encode_predict
from tfgpt.serving.saved_model import LoadedModel, newest_version


@dataclass(frozen=True)
class ServedModel:
    """A model's newest version, loaded."""

    name: str
    version: int
    loaded: LoadedModel


class NotServedError(LookupError):
    """A request for a model or version that is not here."""


def load_models(folders: dict[str, Path]) -> dict[str, ServedModel]:
    """Load the newest version of each model.

    Args:
        folders: the base path, which holds the numbered versions, by the model's name.

    Raises:
        FileNotFoundError: a folder without a version.
    """
    models = {}
    for name, folder in folders.items():
        version = newest_version(folder)
        models[name] = ServedModel(name, version, LoadedModel(Path(folder) / str(version)))
    return models


def create_app(models: dict[str, ServedModel]) -> FastAPI:
    """Return the ASGI application that serves `models`."""
    app = FastAPI(title="tfgpt", docs_url=None, redoc_url=None)

    @app.exception_handler(NotServedError)
    @app.exception_handler(404)
    @app.exception_handler(405)
    async def not_found(request: Request, error: Exception) -> Response:
        text = str(error) if isinstance(error, NotServedError) else f"Malformed request: {request.method} {request.url.path}"
        return _json({"error": text}, 404)

    @app.exception_handler(BadRequestError)
    async def bad_request(request: Request, error: BadRequestError) -> Response:
        return _json({"error": str(error)}, 400)

    @app.get("/v1/models/{name}")
    @app.get("/v1/models/{name}/versions/{version}")
    async def status(name: str, version: str | None = None) -> Response:
        model = _find(models, name, version, f"Could not find any versions of model {name}")
        state = {"version": str(model.version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        return _json({"model_version_status": [state]})

    @app.get("/v1/models/{name}/metadata")
    @app.get("/v1/models/{name}/versions/{version}/metadata")
    async def metadata(name: str, version: str | None = None) -> Response:
        model = _find(models, name, version, _not_found(name, version))
        signatures = {key: json_format.MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
                      for key, value in model.loaded.signatures.items()}
        spec = {"name": name, "signature_name": "", "version": str(model.version)}
        return _json({"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}})

    @app.post("/v1/models/{name}:predict")
    @app.post("/v1/models/{name}/versions/{version}:predict")
    async def predict(request: Request, name: str, version: str | None = None) -> Response:
        model = _find(models, name, version, _not_found(name, version))
        return _json(await run_in_threadpool(_predict, model.loaded, await request.body()))

    return app


def _predict(loaded: LoadedModel, body: bytes) -> dict:
    signature, row_format, inputs = decode_predict(body, loaded.signatures)
    try:
        outputs = loaded.predict(signature, inputs)
    except KeyError as error:
        raise BadRequestError(error.args[0]) from error
    except (tf.errors.InvalidArgumentError, TypeError, ValueError) as error:
        raise BadRequestError(_reason(error)) from error
    return encode_predict(outputs, row_format)


def _reason(error) -> str:
    """Return what is wrong in one line; TensorFlow writes a headline before it and a graph's trace behind it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "Graph execution error" not in line and "defined at" not in line]
    return lines[0] if lines else type(error).__name__


def _find(models, name, version, message) -> ServedModel:
    model = models.get(name)
    if model is None or (version is not None and version != str(model.version)):
        raise NotServedError(message)
    return model


def _not_found(name, version):
    return f"Servable not found for request: Latest({name})" if version is None else f"Servable not found for request: Specific({name}, {version})"


def _json(content: dict, status: int = 200) -> Response:
    return Response(json.dumps(content, ensure_ascii=False), status_code=status, media_type="application/json")
