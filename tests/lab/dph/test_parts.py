"""How the parts judge what they measure, on values of which the answer is known."""

from __future__ import annotations

import msgspec
import pytest

from lab.dph.parts import honesty, limits, marking, payers, realshares, shares, stability, tasks
from lab.dph.values import Mean
from lab.dph.worlds import ALL_WILLING, AVQ, REM, bottleneck, one_to_three


def mean(value: float) -> Mean:
    return Mean(mean=value, half=0.1, runs=3)


def test_users_have_one_and_three_in_turn_and_the_same_in_all() -> None:
    for users in (2, 8, 32):
        willing = [flow["willingness_nanodollars_per_s"] for flow in one_to_three(users, rtt_ms=40.0)]
        assert sum(willing) == pytest.approx(ALL_WILLING)
        assert willing[1] == pytest.approx(3 * willing[0])


def test_a_rule_has_its_parameters() -> None:
    flows = one_to_three(2, rtt_ms=40.0)
    rem = bottleneck(flows, rule=REM, seconds=1.0, warm_up_s=0.1, theta=0.5).links[0].marking
    avq = bottleneck(flows, rule=AVQ, seconds=1.0, warm_up_s=0.1, theta=0.9).links[0].marking
    assert (rem.gain, rem.phi, avq.gamma) == (0.002, 1.05, 0.9)


def test_a_queue_is_read_off_between_two_points() -> None:
    def point(utilisation: float, queue_ms: float) -> marking.Point:
        return marking.Point(
            marking="VQ",
            theta=0.9,
            cross=False,
            utilisation=mean(utilisation),
            queue_mean_ms=mean(queue_ms),
            queue_p99_ms=mean(0),
            lost_share=mean(0),
            marked_share=mean(0),
        )

    points = [point(0.9, 20.0), point(0.7, 10.0)]
    assert marking.queue_at(points, 0.8) == pytest.approx(15.0)
    assert marking.queue_at(points, 0.95) is None


def test_shares_within_a_tenth_are_proportional() -> None:
    point = shares.Point(
        marking="VQ",
        users=2,
        rtt_ms=(40.0,),
        ratio=mean(3.29),
        worst=mean(0),
        utilisation=mean(0),
        marked_share=mean(0),
    )
    assert shares.is_proportional(point)
    assert not shares.is_proportional(msgspec.structs.replace(point, ratio=mean(3.31)))


def test_the_largest_change_is_over_ten_seconds_and_no_more() -> None:
    rates = [(0.0, 100), (5.0, 150), (16.0, 120), (17.0, 60)]
    up, down = limits.largest_changes(rates)
    assert up == pytest.approx(0.5)
    assert down == pytest.approx(0.5)


@pytest.mark.parametrize("reported", [0, 500_000])
def test_who_reports_too_little_is_found(reported: int) -> None:
    found = honesty.marks_until_found(list(range(0, 600, 3)), reported)
    assert found is not None
    assert found <= 100


def test_who_reports_everything_is_not_accused() -> None:
    assert honesty.marks_until_found(list(range(0, 3000, 7)), 1_000_000) is None


def test_a_number_of_the_policy_on_the_wire_is_counted() -> None:
    assert payers.leaks(payers.SECRET, b'{"target_bit_s":61357,"name":"x"}') == 5
    assert payers.leaks(payers.SECRET, b"..." + (8_642_097).to_bytes(4, "big") + b"...") == 4
    assert payers.leaks(payers.SECRET, b'{"name":"secret-film"}') == 11
    assert payers.leaks(payers.SECRET, b'{"packets":613570,"bytes":161357}') == 0


def test_the_staircase_has_all_its_steps_both_ways() -> None:
    stairs, switches = tasks.staircase(20.0)
    assert max(step.level for step in stairs) == 5
    assert [switch.lower_level for switch in switches] == [4, 3, 2, 1, 0, 0, 1, 2, 3, 4]
    assert [switch.goes_up for switch in switches] == [False] * 5 + [True] * 5


def test_half_of_the_bound_stands_still_and_twice_of_it_swings() -> None:
    still = stability.measure(stability.Run(rtt_ms=40.0, gain_of_bound=0.5, round_trips=100))
    swings = stability.measure(stability.Run(rtt_ms=40.0, gain_of_bound=2.0, round_trips=100))
    assert still.amplitude < stability.STILL < stability.SWINGS < swings.amplitude


def test_real_cases_have_each_program_both_families_and_both_round_trips() -> None:
    cases = realshares.all_cases()
    flows = [flow for case in cases for flow in case.flows]
    assert {flow.program for flow in flows} == {"reno", "cubic", "bbr", "udp"}
    assert {flow.family for flow in flows} == {4, 6}
    assert {flow.round_trip_ms for flow in flows} == {10, 80}
    assert [case.reacts for case in cases][-1] is False
    assert {case.senders_pay for case in cases} == {True, False}


@pytest.mark.netns
@pytest.mark.deep
def test_real_programs_share_as_they_are_worth() -> None:
    mixed = realshares.all_cases()[-3]
    found = realshares.measure(mixed, runs=1, seconds=12.0)
    assert found.worst <= 0.15
