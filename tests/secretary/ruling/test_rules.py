"""The first rule that matches decides, by flow and by transfer; who goes before whom; a flow is one 5-tuple, written in
one way.
"""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_network
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import RemoteProtocolError
from billpay.header import MAX_AMOUNT_NANODOLLARS
from billpay.messages import FlowSelector
from secretary.opinions import Course, Opinion
from secretary.ruling.precedence import Rulebook, default_most
from secretary.ruling.rules import (
    Hits,
    HitsSnapshot,
    Hours,
    Most,
    Pay,
    Rule,
    Source,
    check_exact,
    condition_text,
    find_rule,
    outcome_text,
)
from secretary.transfers import Moment, Transfer

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


# --- rules about transfers --------------------------------------------------------------------------------------------

MB = 10**6
BERLIN = ZoneInfo("Europe/Berlin")
ZOOM = Transfer(
    user="ann",
    program="zoom.real",
    kind="call",
    task="standup",
    destination="Eu1.Meet.Example.",
    network="phone",
    foreground=True,
    size_bytes=10 * MB,
    price_nanodollars=1000,
)


def at(day: int, clock: str) -> Moment:
    """2026-06-01 was a Monday; local time in Berlin."""
    hour, minute = map(int, clock.split(":"))
    unix_s = int(datetime(2026, 6, day, hour, minute, tzinfo=BERLIN).timestamp())
    return Moment(unix_s=unix_s, boot_ns=0, boot="b", zone=BERLIN)


MONDAY_NOON = at(1, "12:00")


@pytest.mark.row("BP-37")
@pytest.mark.parametrize(
    ("conditions", "matches"),
    [
        ({"programs": ("zoom.real",)}, True),
        ({"programs": ("zoom*", "teams")}, True),
        ({"programs": ("zoom",)}, False),
        ({"programs": ("/opt/zoom/*",)}, False),  # the host knows a file name only
        ({"users": ("ann", "bob")}, True),
        ({"users": ("bob",)}, False),
        ({"tasks": ("stand*",)}, True),
        ({"tasks": ("nightly",)}, False),
        ({"kinds": ("call",)}, True),
        ({"kinds": ("web",)}, False),
        ({"networks": ("ph?ne",)}, True),
        ({"networks": ("office",)}, False),
        ({"destination_names": ("*.meet.example",)}, True),
        ({"destination_names": ("meet.example",)}, False),
        ({"destinations": (ip_network("10.0.0.0/8"),)}, False),  # it is a name
        ({"destinations": (ip_network("10.0.0.0/8"),), "destination_names": ("eu1.*",)}, True),  # one of both
        ({"foreground": True}, True),
        ({"foreground": False}, False),
        ({"protocol": 6}, False),  # of what flow?
        ({"ports": frozenset({443})}, False),
        ({"programs": ("zoom*",), "kinds": ("web",)}, False),
    ],
)
def test_a_rule_about_transfers(conditions: dict[str, Any], matches: bool) -> None:
    assert Rule(name="it", **conditions).matches(None, ZOOM, MONDAY_NOON) is matches
    assert not Rule(name="it", **conditions).matches(None, Transfer(), MONDAY_NOON), "what is not known matches nothing"


def test_a_program_is_known_by_its_path_where_the_rule_has_one() -> None:
    by_path = Transfer(program="/opt/zoom/zoom")
    assert Rule(name="it", programs=("zoom",)).matches(None, by_path)
    assert Rule(name="it", programs=("/opt/*/zoom",)).matches(None, by_path)
    assert not Rule(name="it", programs=("/usr/bin/zoom",)).matches(None, by_path)


def test_a_flow_and_its_transfer_are_matched_together() -> None:
    rule = Rule(name="it", programs=("zoom*",), ports=frozenset({443}), destinations=(ip_network("10.0.2.0/24"),))
    assert rule.matches(V4, ZOOM)
    assert not rule.matches(V6, ZOOM)
    assert not rule.matches(V4, Transfer(program="git"))
    assert not rule.matches(V4), "a flow alone does not say which program it is of"


def test_an_address_is_a_destination_too() -> None:
    rule = Rule(name="it", destinations=(ip_network("10.0.0.0/8"),))
    assert rule.matches(None, Transfer(destination="10.1.2.3"))
    assert not rule.matches(None, Transfer(destination="11.1.2.3"))


@pytest.mark.parametrize(
    ("hours", "days", "when", "matches"),
    [
        ("08:00-18:00", (), at(1, "08:00"), True),
        ("08:00-18:00", (), at(1, "17:59"), True),
        ("08:00-18:00", (), at(1, "18:00"), False),
        ("", (0,), at(1, "23:59"), True),
        ("", (1,), at(1, "23:59"), False),
        ("23:00-06:00", (), at(1, "05:59"), True),
        ("23:00-06:00", (), at(1, "06:00"), False),
        ("23:00-06:00", (4,), at(5, "23:30"), True),  # Friday's night
        ("23:00-06:00", (4,), at(6, "05:00"), True),  # … goes on on Saturday
        ("23:00-06:00", (5,), at(6, "05:00"), False),
        ("23:00-06:00", (6,), at(8, "01:00"), True),  # Sunday's, on Monday
    ],
)
def test_times_are_the_persons_own(hours: str, days: tuple[int, ...], when: Moment, matches: bool) -> None:
    spans: tuple[Hours, ...] = ()
    if hours:
        first, last = (int(part[:2]) * 60 + int(part[3:]) for part in hours.split("-"))
        spans = (Hours(first, last),)
    rule = Rule(name="it", hours=spans, days=frozenset(days))
    assert rule.matches(None, ZOOM, when) is matches
    assert not rule.matches(None, ZOOM), "nobody said what time it is"


# --- maximum prices ---------------------------------------------------------------------------------------------------


def test_of_a_maximum_price_all_parts_hold() -> None:
    assert Most().of_transfer(MB) is None
    assert Most(mb_nanodollars=100).of_transfer(5 * MB) == 500
    assert Most(mb_nanodollars=100, transfer_nanodollars=300).of_transfer(5 * MB) == 300
    assert Most(packet_nanodollars=2).of_transfer(3001) == 6
    assert Most(mb_nanodollars=100).of_transfer(0) == 100, "of unknown size: its first megabyte"
    assert Most(mb_nanodollars=1_000_000).of_packet() == 1500
    assert Most(transfer_nanodollars=10**12).of_packet() == MAX_AMOUNT_NANODOLLARS
    assert str(Most(mb_nanodollars=5, packet_nanodollars=1)) == "5 n$ a MB and 1 n$ a packet"


PRICES = st.integers(0, 10**7)


@given(PRICES, PRICES, st.integers(0, 10**8), st.sampled_from(Pay))
@pytest.mark.row("MV-52", "MV-05")
def test_a_price_is_compared_with_the_most_and_cheaper_is_never_worse(
    price: int, most: int, size: int, pay: Pay
) -> None:
    bound = None if pay is Pay.NEVER else most
    book = Rulebook(own=(Rule(name="it", pay=pay, most=Most(transfer_nanodollars=bound), amount_nanodollars=1),))
    transfer = msgspec.structs.replace(ZOOM, price_nanodollars=price, size_bytes=size)
    opinion, _, _ = book.opinion(transfer, MONDAY_NOON)
    if Course.PAY in (opinion.course, opinion.otherwise):
        assert price <= opinion.limit_nanodollars, "never above the bid"
        cheaper = msgspec.structs.replace(transfer, price_nanodollars=price // 2)
        again, _, _ = book.opinion(cheaper, MONDAY_NOON)
        assert Course.PAY in (again.course, again.otherwise)
    if pay is Pay.UP_TO and 0 < price <= most:
        assert opinion.course is Course.PAY


@pytest.mark.row("MV-02")
def test_default_bids_rise_from_files_over_mail_and_shells_to_calls() -> None:
    programs = [("rsync", "ftp"), ("thunderbird", "mutt"), ("ssh", "mosh-client"), ("zoom", "jami")]
    bids = [[default_most(Transfer(program=name))[0].of_transfer(MB) or 0 for name in names] for names in programs]
    for cheaper, dearer in pairwise(bids):
        assert max(cheaper) < min(dearer)
    assert default_most(Transfer(program="new", kind="backup")) == default_most(Transfer(program="restic"))
    assert default_most(Transfer(program="new"))[0] == default_most(Transfer())[0]


# --- who goes before whom ---------------------------------------------------------------------------------------------


def learned(limit: int, course: Course = Course.PAY) -> Opinion:
    return Opinion(
        course=course,
        otherwise=Course.DECLINE,
        limit_nanodollars=limit,
        accept_ppm=900_000,
        low_nanodollars=0,
        high_nanodollars=limit,
        answers=5,
        basis="your 5 answers about zoom",
    )


def own(number: int, pay: Pay = Pay.UP_TO, **conditions: Any) -> Rule:
    return Rule(name=f"own{number}", file="10.toml", pay=pay, most=Most(transfer_nanodollars=number), **conditions)


ORGANISATION = Rule(name="org", source=Source.ORGANISATION, most=Most(transfer_nanodollars=3000))


@pytest.mark.row("MV-06", "BP-37")
def test_the_order_is_own_rules_organisation_learned_kinds() -> None:
    """An answer goes before them all: test_judging.py."""
    full: dict[str, Any] = {"own": (own(2000), own(2001)), "organisation": (ORGANISATION,)}
    expected = [
        (Source.PERSON, 2000, "own", ()),
        (Source.ORGANISATION, 3000, "organisation", ()),
    ]
    for source, limit, weakest, nothing in expected:
        opinion, found, _ = Rulebook(**full).opinion(ZOOM, MONDAY_NOON, learned=lambda _: learned(1))
        assert (found, opinion.limit_nanodollars, opinion.course) == (source, limit, Course.PAY)
        full[weakest] = nothing
    opinion, found, _ = Rulebook().opinion(ZOOM, MONDAY_NOON, learned=lambda _: learned(4000))
    assert (found, opinion.limit_nanodollars) == (Source.LEARNED, 4000)
    opinion, found, _ = Rulebook().opinion(ZOOM, MONDAY_NOON, learned=lambda _: None)
    assert (found, opinion.limit_nanodollars) == (Source.KINDS, 200_000_000)
    assert opinion.basis == "what people pay for calls and meetings"


@pytest.mark.expectation(11)
def test_each_outcome_says_which_rule_and_why() -> None:
    def by(rule: Rule) -> Opinion:
        return Rulebook(own=(rule,)).opinion(ZOOM, MONDAY_NOON, learned=lambda _: learned(9000))[0]

    paid, dear = by(own(1000)), by(own(999))
    assert (paid.course, dear.course) == (Course.PAY, Course.DECLINE)
    assert paid.basis == "your rule own1000 in 10.toml (anything): up to 1000 n$ a transfer"
    never = by(Rule(name="no", pay=Pay.NEVER, programs=("zoom*",)))
    assert (never.course, never.limit_nanodollars) == (Course.DECLINE, 0)
    assert never.basis == "your rule no (program zoom*): never"
    asks = by(Rule(name="q", pay=Pay.ASK))
    assert (asks.course, asks.otherwise) == (Course.ASK, Course.DECLINE)
    pays_meanwhile = by(own(1000, Pay.ASK))
    assert (pays_meanwhile.course, pays_meanwhile.otherwise) == (Course.ASK, Course.PAY)
    assert (by(Rule(name="l", pay=Pay.LEARN)).limit_nanodollars, by(own(500, Pay.LEARN)).course) == (
        9000,
        Course.DECLINE,
    )
    bounded = by(own(2000, Pay.LEARN))
    assert (bounded.course, bounded.limit_nanodollars) == (Course.PAY, 2000)
    for opinion in (paid, never, asks, bounded):
        assert "\n" not in opinion.basis


def test_an_amount_in_each_packet_bounds_a_transfer_too() -> None:
    opinion, _, _ = Rulebook(own=(Rule(name="old", amount_nanodollars=20),)).opinion(ZOOM, MONDAY_NOON)
    assert opinion.limit_nanodollars == 20 * -(-10 * MB // 1500)


def test_rules_are_said_in_words() -> None:
    rule = Rule(
        name="it",
        programs=("zoom",),
        protocol=17,
        ports=frozenset({5004, 443}),
        destinations=(ip_network("10.0.0.0/8"),),
        destination_names=("*.example",),
        days=frozenset({0, 4}),
        hours=(Hours(480, 1080),),
        foreground=False,
        pay=Pay.LEARN,
    )
    assert condition_text(rule) == (
        "program zoom, protocol udp, to 10.0.0.0/8 *.example, port 443 5004, on mon fri, at 08:00-18:00, "
        "in the background"
    )
    assert [outcome_text(Rule(name="it", pay=pay)) for pay in (Pay.NEVER, Pay.ASK, Pay.LEARN)] == [
        "never",
        "ask",
        "as learned",
    ]
    assert outcome_text(Rule(name="it", amount_nanodollars=20)) == "up to 20 n$ a packet"


# --- counters ---------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(11)
def test_each_rule_counts_its_hits_over_restarts_and_moves_in_its_file() -> None:
    hits = Hits()
    first, second = own(1), own(2)
    for rule in (first, first, second):
        hits.count(rule, 1000)
    kept = msgspec.json.decode(msgspec.json.encode(hits.snapshot()), type=HitsSnapshot)
    hits = Hits(kept)
    hits.count(first, 2000)
    assert (hits.of(first), hits.of(second), hits.of(ORGANISATION)) == (3, 1, 0)
    hits.forget_all_but([first])
    assert (hits.of(first), hits.of(second)) == (3, 0)
    assert hits.snapshot().counts[0].last_unix_s == 2000
