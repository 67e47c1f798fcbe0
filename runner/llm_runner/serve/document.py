"""The OpenAPI document: what the framework writes of the routes, with the errors that this server really tells.

The framework knows nothing of errors but its own 422, which is never sent here. Changes nothing about the routes.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

Document = dict[str, Any]

BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
"""Pydantic's own names, which it leaves in where a number may be written in several ways."""
EVERYWHERE = {500: "Something that nobody expects went wrong.", 503: "The model is still being loaded."}
WITH_BODY = {
    400: "The body is wrong; the message says where and what to write.",
    404: "There is no model of this name, or it has no task for rows.",
    413: "The body is too large.",
    429: "All places are taken; Retry-After says when to come back.",
}
ERRORS: Mapping[str, Mapping[int, str]] = {
    "/v1/models": EVERYWHERE,
    "/v1/models/{name}": {404: WITH_BODY[404], **EVERYWHERE},
    "/v1/completions": {**WITH_BODY, **EVERYWHERE},
    "/v1/chat/completions": {**WITH_BODY, **EVERYWHERE},
    "/v1/predict": {**WITH_BODY, **EVERYWHERE},
}
UNREADY: Mapping[str, Mapping[int, str]] = {
    "/healthz": {500: "The engine has ended."},
    "/readyz": {503: "The model is being loaded, or the server is stopping."},
}
GUARDED = {401: "The key is missing or wrong."}
KEY_SCHEME = "apiKey"


class ErrorDetail(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Of every answer that isn't one."""

    error: ErrorDetail


def add_document(app: FastAPI, *, is_guarded: bool) -> None:
    """Lets the application serve the document at its usual path."""
    generate = app.openapi
    document: Document = {}

    def openapi() -> Document:
        if not document:
            document.update(build_document(generate(), is_guarded=is_guarded))
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def build_document(generated: Document, *, is_guarded: bool) -> Document:
    """Changes the document in place, and gives it."""
    _rename_bounds(generated)
    schemas = generated["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["ErrorDetail"] = ErrorDetail.model_json_schema()
    schemas["ErrorBody"] = ErrorBody.model_json_schema(ref_template="#/components/schemas/{model}")
    del schemas["ErrorBody"]["$defs"]
    for path, operations in generated["paths"].items():
        for operation in operations.values():
            _describe_errors(path, operation, is_guarded=is_guarded)
    if is_guarded:
        scheme = {"type": "http", "scheme": "bearer"}
        generated["components"]["securitySchemes"] = {KEY_SCHEME: scheme}
    return generated


def _describe_errors(path: str, operation: Document, *, is_guarded: bool) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    for status, words in UNREADY.get(path, {}).items():
        responses[str(status)] = _to_response(words, "text/plain", {"type": "string"})
    if path not in ERRORS:
        return
    body = {"$ref": "#/components/schemas/ErrorBody"}
    errors = {**ERRORS[path], **(GUARDED if is_guarded else {})}
    for status, words in sorted(errors.items()):
        responses[str(status)] = _to_response(words, "application/json", body)
    if "429" in responses:
        seconds = {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer", "minimum": 1}}
        responses["429"]["headers"] = {"Retry-After": seconds}
    if is_guarded:
        operation["security"] = [{KEY_SCHEME: []}]


def _to_response(words: str, media_type: str, schema: Document) -> Document:
    return {"description": words, "content": {media_type: {"schema": schema}}}


def _rename_bounds(node: Any) -> None:
    if isinstance(node, dict):
        if node.get("type") in ("number", "integer"):
            for found, wanted in BOUNDS.items():
                if found in node:
                    node[wanted] = node.pop(found)
        for value in node.values():
            _rename_bounds(value)
    elif isinstance(node, list):
        for value in node:
            _rename_bounds(value)
