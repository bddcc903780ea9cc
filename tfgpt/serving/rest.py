"""TensorFlow Serving's REST protocol over a catalog: predict, status and metadata.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""
from __future__ import annotations

import json

import tensorflow as tf
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from google.protobuf import json_format

from tfgpt.serving.catalog import Catalog
from tfgpt.serving.errors import BadRequestError, NotServedError, QueueFullError, ServingError
from tfgpt.serving.rest_codec import decode_predict, encode_predict
from tfgpt.serving.saved_model import LoadedModel

HTTP_CODES = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "FAILED_PRECONDITION": 412, "RESOURCE_EXHAUSTED": 429, "CANCELLED": 499,
              "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504, "INTERNAL": 500}  # fmt: skip


def add_rest(app: FastAPI, catalog: Catalog) -> None:
    """Add the routes of the REST protocol, and its error bodies for all routes of `app`."""

    @app.exception_handler(ServingError)
    async def refused(request: Request, error: ServingError) -> Response:
        return json_response({"error": str(error)}, HTTP_CODES[error.code], retry_headers(error))

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def no_route(request: Request, error: Exception) -> Response:
        return json_response({"error": f"Malformed request: {request.method} {request.url.path}"}, 404)

    @app.get("/v1/models/{name}")
    @app.get("/v1/models/{name}/versions/{version}")
    @app.get("/v1/models/{name}/labels/{label}")
    async def status(name: str, version: str | None = None, label: str | None = None) -> Response:
        found = catalog.status(name, _number(version), label)
        states = [{"version": str(one.version), "state": one.state, "status": {"error_code": one.error_code, "error_message": one.error_message}}
                  for one in found]
        return json_response({"model_version_status": states})

    @app.get("/v1/models/{name}/metadata")
    @app.get("/v1/models/{name}/versions/{version}/metadata")
    @app.get("/v1/models/{name}/labels/{label}/metadata")
    async def metadata(name: str, version: str | None = None, label: str | None = None) -> Response:
        with catalog.lease(name, _number(version), label) as served:
            signatures = {key: json_format.MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
                          for key, value in served.loaded.signatures.items()}
        spec = {"name": name, "signature_name": "", "version": str(served.version)}
        return json_response({"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}})

    @app.post("/v1/models/{name}:predict")
    @app.post("/v1/models/{name}/versions/{version}:predict")
    @app.post("/v1/models/{name}/labels/{label}:predict")
    async def predict(request: Request, name: str, version: str | None = None, label: str | None = None) -> Response:
        body = await request.body()
        with catalog.lease(name, _number(version), label) as served:
            return json_response(await run_in_threadpool(_predict, served.loaded, body))


def json_response(content: dict, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response with text as it is, not escaped."""
    return Response(json.dumps(content, ensure_ascii=False), status_code=status, headers=headers, media_type="application/json")


def retry_headers(error: ServingError) -> dict[str, str]:
    """Return the headers that tell a client when to ask again, where that is known."""
    return {"Retry-After": str(error.retry_after)} if isinstance(error, QueueFullError) else {}


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


def _number(version: str | None) -> int | None:
    if version is None:
        return None
    if not (version.isascii() and version.isdecimal()):
        raise NotServedError(f"Malformed request: {version} is no version; give a whole number")
    if int(version) >= 2**63:
        raise BadRequestError(f"Failed to convert version: {version} to numeric.")
    return int(version)
