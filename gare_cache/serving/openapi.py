"""The OpenAPI description of the API, made from its table and its models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gare_cache.serving.schema import Fault

_REFERENCE = "#/components/schemas/{model}"


@dataclass(frozen=True)
class Endpoint:
    """One address of the API.

    Attributes:
        method: ``get`` or ``post``.
        path: with parameters in braces.
        name: of the handler and the operation.
        summary: one sentence.
        answer: model of the JSON, or the media type of a file.
        status: of an answer.
        body: model of the JSON, or the media type, that is posted; None is none.
        faults: statuses of answers with a ``Fault``.
        ranges: whether parts of the file can be asked for.
        query: optional numbers after the path, with what they mean.
    """

    method: str
    path: str
    name: str
    summary: str
    answer: type[BaseModel] | str
    status: int = 200
    body: type[BaseModel] | str | None = None
    faults: tuple[int, ...] = ()
    ranges: bool = False
    query: Mapping[str, str] = field(default_factory=dict)


def openapi(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """Return the description (OpenAPI 3.1).

    Args:
        endpoints: the API.
        version: of the package.
    """
    endpoints = list(endpoints)
    models = {Fault: None} | {
        part: None
        for of in endpoints
        for part in (of.body, of.answer)
        if part is not None and not isinstance(part, str)
    }
    _, schemas = models_json_schema(
        [(model, "serialization") for model in models], ref_template=_REFERENCE
    )
    paths: dict[str, Any] = {}
    for of in endpoints:
        paths.setdefault(of.path, {})[of.method] = _operation(of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "gare-cache search", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # Without a token on loopback, with one elsewhere.
        "security": [{}, {"token": []}],
    }


def _operation(of: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": of.name,
        "summary": of.summary,
        "responses": {
            str(of.status): _content(HTTPStatus(of.status).phrase, of.answer),
            **{
                str(status): _content(HTTPStatus(status).phrase, Fault)
                for status in (401, *of.faults)
            },
        },
    }
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", of.path)
    ]
    parameters += [
        {"name": name, "in": "query", "description": meaning, "schema": {"type": "number"}}
        for name, meaning in of.query.items()
    ]
    if parameters:
        operation["parameters"] = parameters
    if of.ranges:
        operation["responses"]["206"] = _content("Partial Content", of.answer)
        for status in (400, 416):  # of the header Range, without a body of JSON
            operation["responses"][str(status)] = {"description": HTTPStatus(status).phrase}
    if of.body is not None:
        operation["requestBody"] = {"required": True, **_content(None, of.body)}
    return operation


def _content(description: str | None, part: type[BaseModel] | str) -> dict[str, Any]:
    if isinstance(part, str):
        content: dict[str, Any] = {part: {}}
    else:
        content = {"application/json": {"schema": {"$ref": _REFERENCE.format(model=part.__name__)}}}
    return (
        {"content": content}
        if description is None
        else {
            "description": description,
            "content": content,
        }
    )
