"""docs/spec/local-api.md against the code: every endpoint, every field, every example."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from hostagent import api
from hostagent.client import LocalClient
from hostagent.server import EVENT_GAP_S, MAX_STREAMS, WRITE_S

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "docs" / "spec" / "local-api.md").read_text(encoding="utf-8")
SERVER = (ROOT / "hostagent" / "server.py").read_text(encoding="utf-8")
VIEWS = "".join((ROOT / "hostagent" / f"{name}.py").read_text(encoding="utf-8") for name in ("views", "traffic"))
EXAMPLES = dict(re.findall(r"```json (\w+)\n(.*?)\n```", SPEC, re.DOTALL))
WHOLE = ("Status", "Flow", "Program", "Link", "Question", "Answer", "Accounts", "Paths", "Snapshot")


def test_every_endpoint_is_there_and_no_other() -> None:
    served = set(re.findall(r'add_(?:get|post)\("(/\S+?)"', SERVER))
    assert len(served) == SERVER.count(".add_")
    assert set(re.findall(r"^\| `(?:GET|POST) (/\S+)`", SPEC, re.MULTILINE)) == served
    assert {f"/v1/{name}" for name in vars(LocalClient) if not name.startswith("_")} == served


def test_every_value_has_an_example() -> None:
    assert set(EXAMPLES) == set(WHOLE)


@pytest.mark.parametrize("name", WHOLE)
def test_example_is_the_value_with_all_its_fields(name: str) -> None:
    value = msgspec.json.decode(EXAMPLES[name], type=getattr(api, name))
    assert json.loads(msgspec.json.encode(value)) == json.loads(EXAMPLES[name])


def test_every_field_of_a_flow_is_explained() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", SPEC, re.MULTILINE)
    explained = {field for row in rows for field in re.findall(r"`(\w+)`", row)}
    assert {field.name for field in msgspec.structs.fields(api.Flow)} <= explained


@pytest.mark.parametrize("health", api.Health)
def test_every_health_is_explained(health: api.Health) -> None:
    assert f"`{health.value}`" in SPEC


def test_every_problem_and_warning_is_named() -> None:
    problems = set(re.findall(r'\d+: "([a-z-]+)"', SERVER)) | {"malformed"}
    assert set(re.findall(r"^\| (?:\d+|other 4xx) \| `([a-z-]+)` \|", SPEC, re.MULTILINE)) == problems
    warnings = set(re.findall(r'code="([a-z-]+)"', VIEWS))
    named = re.search(r"\| warning \| meaning \|\n\|---\|---\|\n((?:\|.*\n)+)", SPEC)
    assert named is not None
    assert set(re.findall(r"^\| `([a-z-]+)`", named[1], re.MULTILINE)) == warnings


def test_limits_are_the_codes() -> None:
    text = " ".join(SPEC.split())
    assert f"{MAX_STREAMS} event streams at most" in text
    assert f"takes nothing for {WRITE_S:.0f} s" in text
    assert 1 / EVENT_GAP_S == 4
    assert "at most four a second" in text
    assert f"`{api.SOCKET_NAME}`" in text
