"""docs/spec/local-api.md against the code: every endpoint, every value, every field, every code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from desks import examples

from hostagent import answering, api, client, endpoints, server
from hostagent.answering import CODES, READ_S, REFUSED_STATUS, REFUSED_STATUSES, WRITE_S
from hostagent.client import LocalClient
from hostagent.endpoints import CHANGES, ENDPOINTS
from hostagent.server import HEARTBEAT_S, MAX_STREAMS
from hostagent.streams import EVENT_GAP_S, RETRY_MS

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "docs" / "spec" / "local-api.md").read_text(encoding="utf-8")
FLAT = " ".join(SPEC.split())
VIEWS = "".join(
    (ROOT / "hostagent" / f"{name}.py").read_text(encoding="utf-8")
    for name in ("views", "payments/view", "paths/view", "traffic", "steering")
)
PARTLY = {"LinkAccount", "LossLine", "SettlementLine", "PathAlternative", "StatementLine", "WhyLine"}
PARTLY |= {"Finding", "Access", "PathCheck", "Figure", "MapAlternative", "MapNode", "MapLink"}
PARTLY |= {"Warning", "Limit", "Gateway"}  # in the examples of the values that they are parts of
NOT_OURS = (api.ApiValue, api.Telling, api.TaskPolicy, api.ProbeReport)  # explained in documents of their own
WHOLE = {
    each.__name__: each
    for each in (*vars(api).values(), endpoints.Trust, endpoints.SessionEnd, endpoints.Problem, endpoints.ProbeRequest)
    if isinstance(each, type) and issubclass(each, msgspec.Struct) and each not in NOT_OURS
}
OWN_EXAMPLES = sorted(WHOLE.keys() - PARTLY)


def test_every_endpoint_is_there_and_no_other() -> None:
    said = re.findall(r"^\| `(GET|POST|PUT) (/\S+)` \|(.*?)\|", SPEC, re.MULTILINE)
    assert {(method, path) for method, path, _ in said} == {(each.method, each.path) for each in ENDPOINTS}
    for endpoint in ENDPOINTS:
        asked = next(
            asked.strip() for method, path, asked in said if (method, path) == (endpoint.method, endpoint.path)
        )
        if endpoint.query is not None:
            fields = [field.name for field in msgspec.structs.fields(endpoint.query)]
            assert asked == f"`?{'&'.join(f'{name}=' for name in fields)}`"
        elif endpoint.body not in (None, endpoints.Nothing):
            assert asked == f"`{endpoint.body.__name__}`"
        else:
            assert asked == ""


def test_the_client_has_a_method_for_every_endpoint() -> None:
    named = {"answers": "answer", "mode": "set_mode", "worths": "set_worth", "end": "end_session"}
    named |= {"worth": "set_session_worth", "access": "set_access"}
    asking = {"map": "network_map", "probe": "probing", "probes": "probe"}
    changes = {named.get(each.name, each.name) for each in CHANGES} | {"open_session"}
    others = {asking.get(each.name, each.name.removesuffix(".json")) for each in ENDPOINTS if each not in CHANGES}
    assert {name for name in vars(LocalClient) if not name.startswith("_")} == changes | others


def test_every_value_has_an_example() -> None:
    assert sorted(examples()) == OWN_EXAMPLES


@pytest.mark.parametrize("name", OWN_EXAMPLES)
def test_example_is_the_value_with_all_its_fields(name: str) -> None:
    value: Any = msgspec.json.decode(examples()[name], type=WHOLE[name])
    assert json.loads(msgspec.json.encode(value)) == json.loads(examples()[name])


@pytest.mark.parametrize("name", sorted(PARTLY))
def test_the_parts_of_values_are_in_their_examples(name: str) -> None:
    fields = {field.name for field in msgspec.structs.fields(WHOLE[name])}
    found: list[set[str]] = []

    def look(value: object) -> None:
        if isinstance(value, dict):
            found.append(set(value))
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            look(each)

    for text in examples().values():
        look(json.loads(text))
    assert fields in found


def test_every_field_of_a_flow_is_explained() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", SPEC, re.MULTILINE)
    explained = {field for row in rows for field in re.findall(r"`(\w+)`", row)}
    assert {field.name for field in msgspec.structs.fields(api.Flow)} <= explained


@pytest.mark.parametrize("choice", [*api.Health, *api.Mode, *api.Term, *api.KindState])
def test_every_choice_is_explained(choice: Any) -> None:
    assert f"`{choice.value}`" in SPEC


def test_every_problem_is_named_with_its_status() -> None:
    own = {value for value in vars(answering).values() if isinstance(value, tuple) and len(value) == 2}
    own |= set(CODES.items()) | {(status, code) for code, status in REFUSED_STATUSES.items()}
    said = re.findall(r"^\| (\d+) \| `([a-z-]+)` \|", SPEC, re.MULTILINE)
    assert {(int(status), code) for status, code in said} == own
    assert f"| {REFUSED_STATUS} | the refusal's own |" in SPEC


def test_every_warning_is_named() -> None:
    warnings = set(re.findall(r'Warning\(\s*code="([a-z-]+)"', VIEWS))
    named = re.search(r"\| warning \| meaning \|\n\|---\|---\|\n((?:\|.*\n)+)", SPEC)
    assert named is not None
    assert set(re.findall(r"^\| `([a-z-]+)`", named[1], re.MULTILINE)) >= warnings


def test_limits_are_the_codes() -> None:
    for text in (
        f"{MAX_STREAMS} event streams at most",
        f"takes nothing for {WRITE_S:.0f} s",
        f"did not come within {READ_S:.0f} s",
        f"nothing has changed for {HEARTBEAT_S:.0f} s",
        f"nothing for {client.SILENCE_S} s hangs",
        f"more than {client.ANSWER_BYTES_MAX >> 20} MiB",
        f"hold {server.USER_CONNECTIONS} connections, all who may not {server.STRANGERS_CONNECTIONS} together",
        f"at most {endpoints.BODY_BYTES_MAX:,} bytes",
        f"0 to {endpoints.NANODOLLARS_PER_MB_MAX:,}",
        f"1 to {endpoints.ROWS_MAX:,}; 1,000",
        f"({endpoints.TRIAL_S_MAX:,} at most)",
        f"since {endpoints.HISTORY_S // 86400} days before",
        f"retry: {RETRY_MS}",
        f"`{api.SOCKET_NAME}`",
        "at most four a second",
    ):
        assert text in FLAT
    assert EVENT_GAP_S == 1 / 4
    for dimension in get_args(endpoints.Dimension):
        assert f"`{dimension}`" in SPEC
