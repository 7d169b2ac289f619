"""The local API as an OpenAPI 3.1 document, made from the values themselves.

Decides nothing: `hostagent.endpoints` has the endpoints, `hostagent.api` the values.  The stored copy is written by
`python -m hostagent.openapi > docs/spec/openapi.json`.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

import msgspec

from hostagent import endpoints
from hostagent.api import SOCKET_NAME
from hostagent.endpoints import ENDPOINTS, EVENT_STREAM, JSON, METRICS_TEXT, Endpoint, Problem

REF: Final = "#/components/schemas/{name}"
STATED: Final = 200
ABOUT: Final = (
    "What the agent tells people and programs on its own machine, over a unix socket. Who may ask is known by the "
    "user and the groups of the process that connects: every GET needs the right to read, everything else the right "
    "to spend. Money is integer nanodollars, traffic is bytes at the IP layer, a megabyte is 10^6 bytes."
)


def document() -> dict[str, Any]:
    types = _types()
    schemas, components = msgspec.json.schema_components(types, ref_template=REF)
    of_type = dict(zip(map(_key, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, of_type, components)
    for question in {endpoint.query for endpoint in ENDPOINTS if endpoint.query is not None}:
        del components[question.__name__]  # each of its fields is a parameter
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "hostagent: the local API", "version": endpoints.VERSION, "description": ABOUT},
        "servers": [{"url": "http://hostagent", "description": f"on the unix socket {SOCKET_NAME}; any name does"}],
        "paths": paths,
        "components": {"schemas": dict(sorted(components.items()))},
    }
    return as_json(whole)


def as_json(made: dict[str, Any]) -> dict[str, Any]:
    """As a reader of the text has it: msgspec leaves tuples in what it makes."""
    read: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
    return read


def _types() -> list[Any]:
    """Each once."""
    used: list[Any] = [Problem]
    for endpoint in ENDPOINTS:
        used += [each for each in (endpoint.answer, endpoint.query, endpoint.body) if each is not None]
    return list({_key(each): each for each in used}.values())


def _key(answer: Any) -> str:
    return str(answer)


def _operation(endpoint: Endpoint, of_type: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{endpoint.method.lower()}_{endpoint.name.replace('.', '_')}",
        "summary": endpoint.summary,
        "responses": {
            str(STATED): {"description": "so it is", "content": _content(endpoint, of_type)},
            "default": {"description": "a problem", "content": {JSON: {"schema": of_type[_key(Problem)]}}},
        },
    }
    if endpoint.query is not None:
        operation["parameters"] = _parameters(components[endpoint.query.__name__])
    if endpoint.body is not None:
        schema = of_type[_key(endpoint.body)]
        needed = bool(components[endpoint.body.__name__].get("required"))
        operation["requestBody"] = {"required": needed, "content": {JSON: {"schema": schema}}}
    return operation


def _content(endpoint: Endpoint, of_type: dict[str, Any]) -> dict[str, Any]:
    schema = of_type[_key(endpoint.answer)]
    match endpoint.media_type:
        case endpoints.EVENT_STREAM:
            about = "events named snapshot; `data` is JSON as `x-event-data` says, `id` its sequence"
            return {EVENT_STREAM: {"schema": {"type": "string", "description": about, "x-event-data": schema}}}
        case endpoints.METRICS_TEXT:
            return {METRICS_TEXT: {"schema": {"type": "string"}}}
        case _:
            return {JSON: {"schema": schema}}


def _parameters(question: dict[str, Any]) -> list[dict[str, Any]]:
    required = set(question.get("required", ()))
    return [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in question["properties"].items()
    ]


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")
