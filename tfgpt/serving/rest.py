"""TensorFlow Serving's REST protocol over a catalog: predict, classify, regress, status, metadata and metrics.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from google.protobuf import json_format

from tfgpt.serving import examples
from tfgpt.serving.batched import BatchedModel
from tfgpt.serving.catalog import Catalog
from tfgpt.serving.errors import BadRequestError
from tfgpt.serving.http_errors import json_response
from tfgpt.serving.metrics import CONTENT_TYPE, PATH, Metrics
from tfgpt.serving.openapi import BODIES, described
from tfgpt.serving.predicting import run_signature
from tfgpt.serving.presence import Presence
from tfgpt.serving.rest_codec import decode_predict, encode_predict

PLACES = ("/v1/models/{name}", "/v1/models/{name}/versions/{version}", "/v1/models/{name}/labels/{label}")


def add_rest(app: FastAPI, catalog: Catalog, metrics: Metrics) -> None:
    """Add the routes of the REST protocol to `app`."""

    async def status(request: Request, name: str) -> Response:
        if ":" in name:  # a method that is none, or one that wants POST
            raise BadRequestError(f"Malformed request: GET {request.url.path}")
        found = await run_in_threadpool(catalog.status, name, *_which(request))  # of a gateway it asks another server
        states = [{"version": str(one.version), "state": one.state, "status": {"error_code": one.error_code, "error_message": one.error_message}}
                  for one in found]
        return json_response({"model_version_status": states})

    async def metadata(request: Request, name: str) -> Response:
        version, signatures = await run_in_threadpool(described_signatures, name, *_which(request))
        spec = {"name": name, "signature_name": "", "version": str(version)}
        return json_response({"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}})

    def described_signatures(name, version, label):
        with catalog.lease(name, version, label) as served:
            return served.version, {key: json_format.MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
                                    for key, value in served.loaded.signatures.items()}

    for place in PLACES:
        app.get(place, **described(place))(status)
        app.get(f"{place}/metadata", **described(place))(metadata)
    for method, work in {"predict": _predict, "classify": _classify, "regress": _regress}.items():
        _add_inference(app, catalog, metrics, method, work)

    @app.get(PATH)
    async def page() -> Response:
        return Response(await run_in_threadpool(metrics.page), media_type=CONTENT_TYPE)


def _add_inference(app: FastAPI, catalog: Catalog, metrics: Metrics, method: str, work: Callable[[BatchedModel, bytes, Presence], dict]) -> None:
    def answer(name, which, body, presence):  # in a thread, the lease too: it ends with the work, and not when a client leaves before
        with metrics.request(name, method, "REST"), catalog.lease(name, *which) as served:
            return work(served.loaded, body, presence)

    async def infer(request: Request, name: str) -> Response:
        body = await request.body()
        async with _presence_of(request) as presence:
            return json_response(await run_in_threadpool(answer, name, _which(request), body, presence))

    for place in PLACES:
        app.post(f"{place}:{method}", **described(place, BODIES[method]))(infer)


@contextlib.asynccontextmanager
async def _presence_of(request: Request) -> AsyncIterator[Presence]:
    """Give the presence of a client whose body is read: it leaves when the connection ends, or else with the block, whatever ends that."""
    presence = Presence()

    async def watch():
        while (await request.receive())["type"] != "http.disconnect":
            pass
        presence.leave()

    watching = asyncio.create_task(watch())
    try:
        yield presence
    finally:
        watching.cancel()
        presence.leave()


def _which(request):
    """Return the version and the label of a request's path, each `None` if it has none."""
    return _number(request.path_params.get("version")), request.path_params.get("label")


def _predict(loaded, body, presence):
    signature, row_format, inputs = decode_predict(body, loaded.signatures)
    return encode_predict(run_signature(loaded, signature, inputs, presence), row_format)


def _classify(loaded, body, presence):
    return examples.encode_classes(examples.classify(loaded, *examples.decode_examples(body), presence))


def _regress(loaded, body, presence):
    return examples.encode_values(examples.regress(loaded, *examples.decode_examples(body), presence))


def _number(version: str | None) -> int | None:
    if version is None:
        return None
    if not (version.isascii() and version.isdecimal()):
        raise BadRequestError(f"Malformed request: {version} is no version; give a whole number")
    if len(version) > 19 or int(version) >= 2**63:
        raise BadRequestError(f"Failed to convert version: {version[:40]} to numeric.")
    return int(version)
