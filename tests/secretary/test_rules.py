"""The first rule that matches decides; a flow is one 5-tuple, written in one way."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import msgspec
import pytest

from billpay.errors import RemoteProtocolError
from billpay.messages import FlowSelector
from secretary.rules import Rule, check_exact, find_rule

V4 = FlowSelector(source="10.0.1.1", destination="10.0.2.1", protocol=6, source_port=40_000, destination_port=443)
V6 = FlowSelector(source="fd00:1::1", destination="fd00:2::1", protocol=17, source_port=5004, destination_port=5004)


@pytest.mark.parametrize("flow", [V4, V6])
def test_a_rule_without_conditions_matches_all(flow: FlowSelector) -> None:
    assert Rule(name="all").matches(flow)


@pytest.mark.parametrize(
    ("conditions", "matches"),
    [
        ({"protocol": 6}, (True, False)),
        ({"protocol": 17}, (False, True)),
        ({"ports": frozenset({443, 80})}, (True, False)),
        ({"ports": frozenset({40_000})}, (False, False)),  # the source's port decides nothing
        ({"destinations": (ip_network("10.0.2.0/24"),)}, (True, False)),
        ({"destinations": (ip_network("10.0.2.1"),)}, (True, False)),
        ({"destinations": (ip_network("10.0.1.0/24"),)}, (False, False)),  # nor does its address
        ({"destinations": (ip_network("10.0.0.0/8"), ip_network("fd00::/16"))}, (True, True)),
        ({"destinations": (ip_network("::/0"),)}, (False, True)),
        ({"destinations": (ip_network("0.0.0.0/0"),)}, (True, False)),
        ({"protocol": 6, "ports": frozenset({443}), "destinations": (ip_network("10.0.2.0/24"),)}, (True, False)),
        ({"protocol": 17, "ports": frozenset({443})}, (False, False)),
    ],
)
def test_all_conditions_of_a_rule_have_to_hold(conditions: dict[str, Any], matches: tuple[bool, bool]) -> None:
    rule = Rule(name="it", **conditions)
    assert (rule.matches(V4), rule.matches(V6)) == matches


def test_the_first_rule_that_matches_wins() -> None:
    rules = (Rule(name="udp", protocol=17), Rule(name="web", ports=frozenset({443})), Rule(name="all"))
    assert [rule.name for flow in (V4, V6) if (rule := find_rule(rules, flow))] == ["web", "udp"]
    assert find_rule(tuple(reversed(rules)), V4) == rules[2]
    assert find_rule(rules[:1], V4) is None
    assert find_rule((), V4) is None


@pytest.mark.parametrize("flow", [V4, V6, msgspec.structs.replace(V4, protocol=1, source_port=0, destination_port=0)])
def test_an_exact_flow_is_one(flow: FlowSelector) -> None:
    check_exact(flow)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"protocol": 0}, "not-one-flow"),
        ({"destination": ""}, "bad-address"),
        ({"destination": "host.example"}, "bad-address"),
        ({"destination": "10.0.2.0/24"}, "bad-address"),
        ({"destination": "fd00:2::1"}, "bad-address"),  # one end is IPv4
        ({"source": "10.0.1.256"}, "bad-address"),
        ({"source": "FD00:1::1", "destination": "fd00:2::1"}, "bad-address"),
        ({"source": "fd00:1:0::1", "destination": "fd00:2::1"}, "bad-address"),
        ({"source": "fe80::1%eth0", "destination": "fd00:2::1"}, "bad-address"),
    ],
)
def test_anything_else_is_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        check_exact(msgspec.structs.replace(V4, **changes))
    assert caught.value.code == code
    assert len(str(caught.value).splitlines()) == 1
