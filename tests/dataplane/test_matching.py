"""Which class a flow belongs to: the first rule that matches, built-in control traffic, the default."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.metering import UNATTRIBUTED, Kind, Program
from dataplane.shaping.matching import Matcher, class_of
from dataplane.shaping.plan import CONTROL, DEFAULT, Match, Protocol, Rule, ShapingPlan, TrafficClass

TCP, UDP, ICMP, ICMPV6, ESP = 6, 17, 1, 58, 50
BULK, WEB = 2, 3
CURL = Program(
    kind=Kind.PROGRAM, executable="/usr/bin/curl", unit="session-2.scope", container="4f00", task="mirror", user_id=1000
)


def plan_of(*matches: Match, classes: int = 4) -> ShapingPlan:
    """The first match leads to class 2, the next to class 3 ..."""
    return ShapingPlan(
        classes=tuple(TrafficClass(name=f"class {number}") for number in range(classes)),
        rules=tuple(Rule(match=match, traffic_class=number) for number, match in enumerate(matches, BULK)),
    )


def decide(
    match: Match,
    program: Program = CURL,
    *,
    protocol: int = TCP,
    local_port: int = 40000,
    remote: str = "198.51.100.7",
    remote_port: int = 443,
    inbound: bool = False,
) -> bool:
    packed = ip_address(remote).packed
    return class_of(plan_of(match), program, protocol, local_port, packed, remote_port, inbound) == BULK


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (Match(), True),
        (Match(program="curl"), True),
        (Match(program="/usr/bin/curl"), True),
        (Match(program="/bin/curl"), False),
        (Match(program="bin/curl"), False),
        (Match(program="wget"), False),
        (Match(program="/"), False),
        (Match(unit="session-2.scope"), True),
        (Match(unit="session-2"), False),
        (Match(unit="session-*"), True),
        (Match(unit="*"), True),
        (Match(unit="session-2.scope*"), True),
        (Match(unit="docker-*"), False),
        (Match(task="mirror"), True),
        (Match(task="mirr"), False),
        (Match(user_id=1000), True),
        (Match(user_id=0), False),
        (Match(protocol=Protocol.TCP), True),
        (Match(protocol=Protocol.UDP), False),
        (Match(protocol=Protocol.ICMP), False),
        (Match(remote="198.51.100.7"), True),
        (Match(remote="198.51.100.0/24"), True),
        (Match(remote="198.51.100.99/24"), True),
        (Match(remote="198.51.101.0/24"), False),
        (Match(remote="0.0.0.0/0"), True),
        (Match(remote="::/0"), False),
        (Match(ports=(443, 443)), True),
        (Match(ports=(1, 442)), False),
        (Match(ports=(40000, 40000)), False),
        (Match(program="curl", ports=(443, 443), remote="198.51.100.7", user_id=1000, task="mirror"), True),
        (Match(program="curl", ports=(443, 443), remote="198.51.100.8", user_id=1000, task="mirror"), False),
    ],
)
def test_all_that_is_given_must_hold(match: Match, expected: bool) -> None:
    assert decide(match) == expected


@pytest.mark.parametrize("match", [Match(program=""), Match(unit=""), Match(task=""), Match(user_id=0)])
def test_what_is_not_known_matches_no_name(match: Match) -> None:
    assert not decide(match, UNATTRIBUTED)


def test_ports_are_the_services_own() -> None:
    match = Match(ports=(8000, 8999))
    assert decide(match, remote_port=8080)
    assert not decide(match, local_port=8080)
    assert decide(match, local_port=8080, inbound=True)
    assert not decide(match, remote_port=8080, inbound=True)


def test_a_prefix_is_of_one_ip_version() -> None:
    match = Match(remote="2001:db8::/33")
    assert decide(match, remote="2001:db8:7fff::1")
    assert not decide(match, remote="2001:db8:8000::1")
    assert not decide(match, remote="32.1.13.184")


def test_icmp_is_of_both_versions() -> None:
    assert decide(Match(protocol=Protocol.ICMP), protocol=ICMP)
    assert decide(Match(protocol=Protocol.ICMP), protocol=ICMPV6, remote="fe80::1")


@pytest.mark.parametrize(
    ("protocol", "port", "expected"),
    [
        (UDP, 53, CONTROL),
        (TCP, 53, CONTROL),
        (TCP, 853, CONTROL),
        (UDP, 853, CONTROL),
        (UDP, 67, CONTROL),
        (UDP, 68, CONTROL),
        (UDP, 546, CONTROL),
        (UDP, 547, CONTROL),
        (TCP, 67, DEFAULT),
        (UDP, 123, CONTROL),
        (TCP, 123, DEFAULT),
        (TCP, 7414, CONTROL),
        (UDP, 7414, DEFAULT),
        (TCP, 22, CONTROL),
        (UDP, 22, DEFAULT),
        (ICMP, 0, CONTROL),
        (ICMPV6, 0, CONTROL),
        (ESP, 0, DEFAULT),
        (TCP, 443, DEFAULT),
    ],
)
def test_control_traffic_without_a_rule(protocol: int, port: int, expected: int) -> None:
    plan = plan_of()
    assert class_of(plan, CURL, protocol, 40000, bytes(4), port, False) == expected
    assert class_of(plan, CURL, protocol, port, bytes(4), 40000, True) == expected
    if port:
        assert class_of(plan, CURL, protocol, port, bytes(4), 40000, False) == DEFAULT


def test_a_users_rule_comes_before_the_built_in_one_and_the_first_rule_before_the_others() -> None:
    plan = plan_of(Match(program="scp"), Match(ports=(22, 22)))
    scp = Program(kind=Kind.PROGRAM, executable="/usr/bin/scp")
    assert class_of(plan, scp, TCP, 40000, bytes(4), 22, False) == BULK
    assert class_of(plan, CURL, TCP, 40000, bytes(4), 22, False) == WEB


def test_a_class_that_is_not_there_and_a_prefix_that_is_none_are_refused() -> None:
    for plan in (plan_of(Match(), classes=2), plan_of(Match(remote="10.0.0.0/33"))):
        with pytest.raises(ValueError, match=r"class|33"):
            Matcher(plan)


def test_nobody_has_to_be_known_where_it_makes_no_difference() -> None:
    matcher = Matcher(plan_of(Match(program="curl", protocol=Protocol.TCP), Match(remote="192.0.2.0/24")))
    there = ip_address("192.0.2.1").packed
    assert matcher.class_of_anyone(TCP, 40000, bytes(4), 80, False) is None
    assert matcher.class_of_anyone(UDP, 40000, bytes(4), 80, False) == DEFAULT
    assert matcher.class_of_anyone(UDP, 40000, bytes(4), 53, False) == CONTROL
    assert matcher.class_of_anyone(UDP, 40000, there, 53, False) == WEB


texts = st.sampled_from([None, "curl", "wget", "/usr/bin/curl", "session-*", "*", "mirror"])
matches = st.builds(
    Match,
    program=texts,
    unit=texts,
    task=st.sampled_from([None, None, "mirror"]),
    user_id=st.sampled_from([None, None, 0, 1000]),
    protocol=st.sampled_from([None, *Protocol]),
    remote=st.sampled_from([None, None, "198.51.100.0/24", "::/0"]),
    ports=st.sampled_from([None, None, (0, 65535), (22, 443), (8000, 9000)]),
)


@given(
    rules=st.lists(matches, max_size=2),
    program=st.sampled_from([UNATTRIBUTED, CURL, Program(kind=Kind.PROGRAM, executable="wget", user_id=0)]),
    protocol=st.sampled_from([TCP, UDP, ICMP, ESP]),
    ports=st.tuples(st.sampled_from([0, 22, 8080, 40000]), st.sampled_from([0, 53, 443, 8080])),
    inbound=st.booleans(),
)
def test_what_holds_for_anyone_holds_for_each(
    rules: list[Match], program: Program, protocol: int, ports: tuple[int, int], inbound: bool
) -> None:
    matcher = Matcher(plan_of(*rules))
    remote = ip_address("198.51.100.7").packed
    anyone = matcher.class_of_anyone(protocol, ports[0], remote, ports[1], inbound)
    mine = matcher.class_of(program, protocol, ports[0], remote, ports[1], inbound)
    assert anyone in (None, mine)
    assert mine == class_of(plan_of(*rules), program, protocol, ports[0], remote, ports[1], inbound)
