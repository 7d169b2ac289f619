"""Which ways are checked for what they do to marks, and what follows for who listens to marks."""

from __future__ import annotations

import msgspec
import pytest

from cartographer.measuring.ecn import EcnVerdict
from cartographer.measuring.packets import Transport
from cartographer.measuring.report import Ecn, Mtu, ProbeReport
from hostagent.paths.checking import AGAIN_NS, GAP_NS, HOLDS_NS, NS_PER_S, Checks

HERE, THERE = "203.0.113.1", "2001:db8::1"


def report(verdict: EcnVerdict, mtu: int | None = 1492) -> ProbeReport:
    return ProbeReport(
        destination=HERE,
        address=HERE,
        transport=Transport.UDP,
        port=33434,
        final=True,
        ecn=Ecn(verdict=verdict, words="ECT(0) arrives as not-ECT from hop 3 on"),
        mtu=Mtu(bytes=mtu),
    )


def checked(checks: Checks, destination: str, verdict: EcnVerdict, now_ns: int) -> None:
    assert checks.next([destination], now_ns) == destination
    checks.on_report(destination, report(verdict), now_ns)
    checks.on_ended()


def test_one_at_a_time_and_seldom() -> None:
    checks = Checks()
    assert checks.next([HERE, THERE], 0) == HERE
    assert checks.next([THERE], GAP_NS) is None, "one is under way"
    checks.on_report(HERE, report(EcnVerdict.TRUSTED), GAP_NS)
    checks.on_ended()
    assert checks.next([HERE, THERE], GAP_NS - 1) is None
    assert checks.next([HERE, THERE], GAP_NS) == THERE


def test_a_verdict_holds_for_an_hour_and_none_for_five_minutes() -> None:
    checks = Checks()
    checked(checks, HERE, EcnVerdict.BLEACHED, 0)
    assert checks.next([HERE], HOLDS_NS - 1) is None
    assert checks.next([HERE], HOLDS_NS) == HERE
    checks.on_failed(HERE, "no route", HOLDS_NS)
    checks.on_ended()
    assert checks.survive(HERE), "what could not be checked is trusted until traffic shows otherwise"
    assert checks.next([HERE], HOLDS_NS + AGAIN_NS - 1) is None
    assert checks.next([HERE], HOLDS_NS + AGAIN_NS) == HERE


@pytest.mark.parametrize("verdict", EcnVerdict)
def test_marks_are_believed_unless_the_way_spoils_them(verdict: EcnVerdict) -> None:
    checks = Checks()
    checked(checks, HERE, verdict, 0)
    spoils = {EcnVerdict.BLEACHED, EcnVerdict.REMARKED, EcnVerdict.DROPPED}
    assert checks.survive(HERE) == (verdict not in spoils)
    assert checks.survive(THERE)


def test_another_network_has_other_ways() -> None:
    checks = Checks()
    checked(checks, HERE, EcnVerdict.BLEACHED, 0)
    checks.forget(1)
    assert checks.survive(HERE)
    assert checks.next([HERE], 1) == HERE


def test_a_probe_that_was_begun_on_another_network_says_nothing_of_this_one() -> None:
    checks = Checks()
    checks.forget(20 * NS_PER_S)
    checks.on_report(HERE, msgspec.structs.replace(report(EcnVerdict.BLEACHED), seconds=10.0), 25 * NS_PER_S)
    assert checks.survive(HERE)
    checks.on_report(HERE, msgspec.structs.replace(report(EcnVerdict.BLEACHED), seconds=10.0), 30 * NS_PER_S)
    assert not checks.survive(HERE)


def test_a_destination_that_is_forgotten_is_not_shown_any_more() -> None:
    checks = Checks()
    checked(checks, HERE, EcnVerdict.BLEACHED, 0)
    checks.forget_destination(HERE)
    assert checks.view(1) == ()


def test_what_was_found_is_shown_with_its_age() -> None:
    checks = Checks()
    checked(checks, HERE, EcnVerdict.BLEACHED, 0)
    (shown,) = checks.view(40_000_000_000)
    assert (shown.destination, shown.ecn, shown.age_s, shown.mtu) == (HERE, "bleached", 40, 1492)
    assert "hop 3" in shown.reason
