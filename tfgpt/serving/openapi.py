"""What OpenAPI is told of TensorFlow Serving's REST routes, whose bodies are read by hand: the description is for people and for fuzzers."""
from __future__ import annotations

import math

from tfgpt.generation.controls import CONTROLS, SEARCH_CONTROLS, SEARCHED


def _number(control):
    bounds = {"minimum": control.lowest, "maximum": control.highest}
    return {"type": "integer" if control.is_whole else "number"} | {key: bound for key, bound in bounds.items() if math.isfinite(bound)}


LEAF = {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"},
                  {"type": "object", "properties": {"b64": {"type": "string"}}, "required": ["b64"], "additionalProperties": False}]}  # fmt: skip
IDS = {"type": "array", "items": {"type": "integer"}}
PROMPT = {"prompt": {"type": "string"}, "stop": {"type": "array", "items": {"type": "string"}}, "banned_tokens": IDS, "forced_tokens": IDS}
GENERATE = PROMPT | {name: _number(control) for name, control in CONTROLS.items()}
INPUTS = {
    ("generate", "serving_default"): GENERATE,
    ("search",): PROMPT | {name: _number(CONTROLS[name]) for name in SEARCHED} | {name: _number(control) for name, control in SEARCH_CONTROLS.items()},
    ("score", "tokenize", "embed", "classify", "regress", "tag"): {"text": {"type": "string"}},
    ("detokenize",): {"ids": IDS},
}
"""Of the signatures that tfgpt exports; what stands first must be given."""


def _predict_body(row, column, signature):
    """Return the schema of a body in row format or column format."""
    forms = {"instances": {"type": "array", "minItems": 1, "items": row}, "inputs": column}
    return [{"type": "object", "properties": {"signature_name": signature, key: schema}, "required": ["signature_name", key], "additionalProperties": False}
            for key, schema in forms.items()]


def _inputs(properties):
    return {"type": "object", "properties": properties, "required": [next(iter(properties))], "additionalProperties": False}


def _columns_of(properties):
    return {name: {"type": "array", "items": schema} for name, schema in properties.items()}


PREDICT = {
    "description": "For models that tfgpt exports. Others have signatures of their own, which /metadata lists.",
    "anyOf": [body for names, row in INPUTS.items() for body in _predict_body(_inputs(row), _inputs(_columns_of(row)), {"enum": list(names)})],
}  # fmt: skip
EXAMPLE = {"type": "object", "additionalProperties": {"anyOf": [LEAF, {"type": "array", "items": LEAF}]}}
EXAMPLES = {
    "type": "object",
    "properties": {"signature_name": {"type": "string"}, "context": EXAMPLE, "examples": {"type": "array", "minItems": 1, "items": EXAMPLE}},
    "required": ["examples"],
    "additionalProperties": False,
}
BODIES = {"predict": PREDICT, "classify": EXAMPLES, "regress": EXAMPLES}
ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"], "additionalProperties": False}
PARTS = {"type": "object", "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": ["string", "null"]},
                                          "code": {"type": ["string", "null"]}}, "required": ["message", "type", "param", "code"]}  # fmt: skip
OPENAI_ERROR = {"type": "object", "properties": {"error": PARTS}, "required": ["error"], "additionalProperties": False}


def errors_of(schema: dict) -> dict:
    """Return the `responses` of a route, whose errors all have one form."""
    content = {"application/json": {"schema": schema}}
    return {"4XX": {"description": "What is wrong with the request", "content": content}, "5XX": {"description": "What failed", "content": content}}


def described(path: str, body: dict | None = None) -> dict:
    """Return the arguments that describe a route of TensorFlow Serving's protocol.

    Args:
        path: with {version} or {label}, which the route reads by hand: FastAPI would take them out of the query where the path has none.
        body: the schema of its body.
    """
    kinds = {"version": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, "label": {"type": "string", "minLength": 1}}
    parameters = [{"name": name, "in": "path", "required": True, "schema": schema} for name, schema in kinds.items() if f"{{{name}}}" in path]
    extra = {"parameters": parameters} if parameters else {}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return {"responses": errors_of(ERROR), "openapi_extra": extra}
