"""The OpenAPI document and the JSON schemas: valid, not stale, and true of what a running agent answers."""

from __future__ import annotations

import enum
import json
import re
import types
import typing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import jsonschema
import msgspec
import pytest
from desks import FakeDesk, examples, full_snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from billpay.configuration import load_toml
from hostagent import api
from hostagent.configuration import Configuration
from hostagent.endpoints import ENDPOINTS, EVENT_STREAM, JSON, Endpoint
from hostagent.openapi import document
from hostagent.schemas import VALUES, schema_for, schema_of
from hostagent.server import LocalServer

ROOT = Path(__file__).parents[2]
STORED = ROOT / "docs" / "spec" / "openapi.json"
REGENERATE = "python -m hostagent.openapi > docs/spec/openapi.json"
QUERIES = {
    "probe": {"number": 1},
    "session": {"session": "0" * 32},
    "why": {"flow": "rsync"},
    "statement": {"month": "2026-11"},
}
BODIES = {
    "answers": "Answer",
    "mode": "ModeChange",
    "worths": "WorthChange",
    "trust": "Trust",
    "forget": "Forget",
    "end": "SessionEnd",
    "worth": "SessionWorth",
    "sessions": "SessionRequest",
    "access": "AccessChange",
    "probes": "ProbeRequest",
}
DOCUMENT = document()


# --- the document -----------------------------------------------------------------------------------------------------


@pytest.mark.expectation(23)
def test_the_document_is_openapi() -> None:
    validate(DOCUMENT, cls=OpenAPIV31SpecValidator)


def test_the_stored_document_is_not_stale() -> None:
    assert json.loads(STORED.read_text(encoding="utf-8")) == json.loads(json.dumps(DOCUMENT)), f"run: {REGENERATE}"


def test_every_endpoint_is_in_it() -> None:
    said = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert said == {(each.method, each.path) for each in ENDPOINTS}
    operations = [method["operationId"] for methods in DOCUMENT["paths"].values() for method in methods.values()]
    assert len(operations) == len(set(operations))


def test_it_has_the_bounds_of_parameters_and_bodies() -> None:
    asked = {each["name"]: each for each in DOCUMENT["paths"]["/v1/history"]["get"]["parameters"]}
    assert asked["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 1000}
    assert asked["step"]["schema"]["enum"] == ["all", "day", "hour", "month"]
    assert not any(each["required"] for each in asked.values())
    (flow,) = DOCUMENT["paths"]["/v1/why"]["get"]["parameters"]
    assert (flow["name"], flow["required"], flow["schema"]["maxLength"]) == ("flow", True, 400)
    assert DOCUMENT["paths"]["/v1/reload"]["post"]["requestBody"]["required"] is False
    assert DOCUMENT["paths"]["/v1/mode"]["post"]["requestBody"]["required"] is True


# --- true of a running agent ------------------------------------------------------------------------------------------


def value_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type of the local API."""
    if typing.get_origin(kind) is tuple:
        return st.lists(value_of(typing.get_args(kind)[0]), max_size=2).map(tuple)
    if isinstance(kind, types.UnionType):
        return st.one_of(*map(value_of, typing.get_args(kind)))
    if issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{field.name: value_of(hints[field.name]) for field in msgspec.structs.fields(kind)})
    if issubclass(kind, enum.Enum):
        return st.sampled_from(kind)
    plain = {str: st.text(st.characters(codec="utf-8"), max_size=8), int: st.integers(-(2**53), 2**53)}
    return {**plain, bool: st.booleans(), types.NoneType: st.none()}[kind]


SNAPSHOTS = value_of(api.Snapshot)


@pytest.mark.expectation(23)
@given(snapshot=st.one_of(st.just(full_snapshot()), SNAPSHOTS))
@settings(max_examples=10)
async def test_every_answer_of_a_running_agent_is_as_the_document_says(
    tmp_path_factory: pytest.TempPathFactory, snapshot: api.Snapshot
) -> None:
    socket = tmp_path_factory.mktemp("agent") / "agent.sock"
    desk = FakeDesk(snapshot)
    server = LocalServer(socket, desk)
    await server.start()
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session:
            for endpoint in ENDPOINTS:
                await check(session, endpoint)
    finally:
        await server.stop()


async def check(session: aiohttp.ClientSession, endpoint: Endpoint) -> None:
    said = DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]["responses"]
    body = examples()[BODIES[endpoint.name]] if endpoint.name in BODIES else None
    url = f"http://agent{endpoint.path}?{urlencode(QUERIES.get(endpoint.name, {}))}"
    async with session.request(endpoint.method, url, data=body) as response:
        content = said["200" if response.status == 200 else "default"]["content"]
        assert response.content_type in content
        schema = content[response.content_type]["schema"]
        if response.content_type == EVENT_STREAM:
            data = [await response.content.readline() for _ in range(4)][-1]
            validated(json.loads(data.removeprefix(b"data: ")), schema["x-event-data"])
        elif response.content_type == JSON:
            validated(await response.json(), schema)
        assert response.status == 200 or endpoint.name == "why"


def validated(value: object, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema | {"components": DOCUMENT["components"]}).validate(value)


async def test_a_problem_is_as_the_document_says(tmp_path: Path) -> None:
    server = LocalServer(tmp_path / "agent.sock", FakeDesk())
    await server.start()
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "agent.sock"))) as session:
            for path in ("/v1/why", "/v1/nothing", "/v1/why?flow=nobody"):
                async with session.get(f"http://agent{path}") as response:
                    assert response.status != 200
                    validated(await response.json(), DOCUMENT["components"]["schemas"]["Problem"])
    finally:
        await server.stop()


# --- schemas of what commands print -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VALUES)
def test_every_schema_is_one_and_fits_an_example(name: str) -> None:
    schema = schema_of(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"] == f"hostagent {name}"
    kind = VALUES[name]
    item = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
    if item is Configuration:
        return
    example = json.loads(examples()[item.__name__])
    jsonschema.validate([example] if item is not kind else example, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(3, schema)


def test_an_unknown_name_has_none() -> None:
    with pytest.raises(KeyError):
        schema_of("weather")


def test_any_type_has_a_schema() -> None:
    assert schema_for(tuple[int, ...], title="numbers") == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "array",
        "items": {"type": "integer"},
        "title": "numbers",
    }


@pytest.mark.expectation(23)
def test_the_commented_sample_fits_the_schema_of_the_configuration() -> None:
    schema = schema_of("configuration")
    assert schema["type"] == "object"  # its keywords stand at the top, where an editor looks
    assert schema["additionalProperties"] is False
    sample = ROOT / "docs" / "samples" / "hostagent.toml"
    told = msgspec.to_builtins(load_toml(sample, Configuration))
    jsonschema.validate(without_nulls(told), schema)
    misspelt = without_nulls(told) | {"lnks": []}
    with pytest.raises(jsonschema.ValidationError, match=re.escape("'lnks' was unexpected")):
        jsonschema.validate(misspelt, schema)


def without_nulls(value: Any) -> Any:
    """TOML has none."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list | tuple) else value
