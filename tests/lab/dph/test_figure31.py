"""Six hosts, two providers, a stream beside cross traffic: counted twice, billed once, cleared between all of them."""

from __future__ import annotations

import struct

import msgspec
import pytest

from billpay.sessions import Payer
from lab.dph.figure31 import FAST, Figure31, ladder, level_at, said_of, secret_policy
from lab.dph.parts.figure31 import judged, measure
from lab.dph.topology31 import RATE_BIT_S, scenario31, tcp_payload
from lab.dph.values import Holds
from lab.plan import make_plan
from lab.streaming.describing import Description, description_text
from lab.streaming.timeline import Change
from pricereactor import sdp
from pricereactor.policy import check

RAN = Figure31(
    payer=Payer.RECEIVER,
    seconds=30.0,
    ended="all shown",
    nanodollars_per_mark=1_000,
    ladder_bit_s=(100_000, 200_000),
    levels=(
        Change(at_ms=0, level=1, rate_bit_s=200_000),
        Change(at_ms=12_000, level=0, rate_bit_s=100_000),
        Change(at_ms=25_000, level=1, rate_bit_s=200_000),
    ),
    cross_begins_ms=10_000,
    cross_ends_ms=18_000,
    cross_packets=500,
    stalls=0,
    edge_packets=900,
    edge_marks=10,
    metered_marks=10,
    arrived_packets=900,
    arrived_marks=10,
    program_packets=900,
    program_marks=10,
    reckoned=10_000,
    bill=10_000,
    owed_by_payer=11_000,
    due_to_provider=10_000,
    cost_of_customer=0,
    kept_by_house=1_000,
    books_balance=True,
    told_messages=60,
    control_messages=60,
    control_bytes=9_000,
    documents=4,
    leaked_bytes=0,
    waited_share=0.0,
)


def failing(**changes: object) -> list[str]:
    changed = msgspec.structs.replace(RAN, **changes)
    return [each.name for each in judged([RAN, changed]) if each.holds is Holds.NO]


def frame(protocol: int, payload: bytes) -> bytes:
    """With 4 bytes of IP options, 8 of TCP options, and the padding of a short Ethernet frame."""
    ip = struct.pack("!BBHHHBBH4s4s4x", 0x46, 0, 24 + 28 + len(payload), 0, 0, 64, protocol, 0, b"\1" * 4, b"\2" * 4)
    tcp = struct.pack("!HHIIBBHHH8x", 1, 2, 3, 4, 7 << 4, 0, 0, 0, 0)
    return bytes(12) + b"\x08\x00" + ip + tcp + payload + b"pad"


def test_the_figure_has_six_hosts_and_two_providers() -> None:
    scenario = scenario31()
    plan = make_plan(scenario)
    assert {node.name for node in scenario.nodes} == {"h1", "h2", "h3", "h4", "r1", "r2"}
    assert len({node.as_number for node in scenario.nodes if plan.forwards(node.name)}) == 2
    for source, destination in (("h1", "h3"), ("h2", "h4")):
        assert all(plan.passes(source, destination, router) for router in ("r1", "r2"))
    assert [set(link.ends) for link in scenario.links if link.marking != "none"] == [{"r1", "r2"}]


def test_what_has_to_agree_fails_by_one() -> None:
    assert failing() == []
    for count in ("edge_marks", "metered_marks", "arrived_marks", "program_marks", "arrived_packets"):
        assert "provider and payer count the same marks" in failing(**{count: 11})
    for money in ("bill", "reckoned", "owed_by_payer", "due_to_provider", "cost_of_customer", "kept_by_house"):
        assert failing(**{money: 1}) == ["a real session is billed and cleared to the nanodollar"]
    assert failing(books_balance=False) == ["a real session is billed and cleared to the nanodollar"]
    assert failing(levels=RAN.levels[:2]) == ["a real stream makes way for cross traffic"]
    assert failing(levels=RAN.levels[:1]) == ["a real stream makes way for cross traffic"]
    assert failing(leaked_bytes=1) == ["nothing of the payer's policy is between the hosts"]
    assert failing(control_messages=59) == ["nothing of the payer's policy is between the hosts"]


def test_no_marks_prove_nothing() -> None:
    none = dict.fromkeys(("edge_marks", "metered_marks", "arrived_marks", "program_marks"), 0)
    assert "provider and payer count the same marks" in failing(**none)


def test_a_policy_is_found_in_what_was_said() -> None:
    policy = secret_policy()
    check(policy)
    local = sdp.with_policy("v=0\r\n", policy).encode()
    assert said_of(policy, local) > 40
    assert said_of(policy, b"SET_PARAMETER\r\n\r\nwillingness: 12347\r\n") == 5
    assert said_of(policy, b"a=range:npt=0-30\r\nname: secret-film\r\n") == 11
    public = Description(ladder_bit_s=policy.ladder_bit_s, duration_ms=30_000, segment_ms=1_000)
    assert said_of(policy, description_text(public).encode()) == 0
    assert said_of(policy, b"Session: a12347f\r\nbytes: 612347\r\n") == 0


def test_control_messages_are_read_from_frames() -> None:
    assert tcp_payload(frame(6, b"PLAY rtsp")) == b"PLAY rtsp"
    assert tcp_payload(frame(6, b"")) == b""
    assert tcp_payload(frame(17, b"media")) == b""
    assert tcp_payload(frame(6, b"")[:40]) == b""


def test_the_best_encoding_fits_the_link_only_without_the_cross_traffic() -> None:
    scale_ppm, best = ladder()
    assert best * FAST < 0.95 * 0.96 * RATE_BIT_S < best * FAST + 0.6 * RATE_BIT_S
    assert secret_policy().ladder_bit_s[-1] == pytest.approx(best, rel=1e-4)
    assert 0 < scale_ppm < 1_000_000


def test_levels_before_the_first_change_are_the_lowest() -> None:
    assert [level_at(RAN.levels, at_ms) for at_ms in (-1, 0, 11_999, 12_000, 30_000)] == [0, 1, 1, 0, 1]


@pytest.mark.netns
@pytest.mark.exact
@pytest.mark.row("DPH-12", "DPH-13", "DPH-15", "DPH-16", "DPH-19")
def test_a_stream_that_its_sender_pays_for() -> None:
    found = measure(Payer.SENDER, seconds=10.0)
    assert found.counts_agree, found
    assert found.bill_is_exact, found
    assert found.ledgers_agree, found
    assert found.reacted, found
    assert found.is_secret, found
    assert found.cross_packets > 300, found
    assert found.ended == "all shown", found
