"""What the OpenAPI document says beyond the routes: bodies, errors, classes, an example, the token."""

from typing import Any

from fastapi import FastAPI

from qdet.serving import replies
from qdet.serving.service import Service
from qdet.serving.uploads import ANY, FORM, IMAGES

ERRORS: dict[int, str] = {
    400: "The request is empty, cut off or a broken form.",
    401: "The bearer token is missing or wrong.",
    404: "There is no such path.",
    405: "The path takes another method.",
    408: "The request did not arrive in time.",
    413: "Too many bytes, files or pixels.",
    415: "Not a JPEG, PNG or WebP image, or another content type.",
    422: "The image is damaged, or a parameter cannot be used.",
    503: "Too many requests wait, or the model does not answer; see Retry-After.",
}
"""Every status of an error that a client can cause or meet."""
_BINARY = {"type": "string", "format": "binary"}
_FILES = {"type": "object", "properties": {"file": {"type": "array", "items": _BINARY}}}
IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": _BINARY} for kind in (*IMAGES.values(), ANY)}
        | {FORM: {"schema": _FILES}},
    }
}
"""How `/predict` takes images."""


def error_replies(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the entries of a route's responses for those statuses."""
    return {s: {"model": replies.ErrorReply, "description": ERRORS[s]} for s in statuses}


def document(app: FastAPI, service: Service) -> None:
    """Put the model's classes and an example into the OpenAPI document."""
    schema = app.openapi()
    names, model = list(service.model.classes.names), replies.model_info(service.model.description)
    schema["components"]["schemas"]["Detection"]["properties"]["name"]["enum"] = names
    answer = schema["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]
    answer["example"] = replies.example(service.model.classes, model)
    schema["info"]["description"] += f" {len(names)} classes: {', '.join(names)}."
    if service.settings.token is not None:
        schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"token": []}]
