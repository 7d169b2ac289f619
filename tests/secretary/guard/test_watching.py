"""The guard against scripted thieves, and against honest people."""

from __future__ import annotations

import statistics
from dataclasses import replace
from datetime import UTC

import msgspec
import numpy
import pytest

from bench.guard import DAY_MINUTES, START_S, STEADY, Host, Payment, Trained, attack, boil, tenfold, train
from secretary.guard.baseline import fit
from secretary.guard.runlength import DRIFT, SURGE, threshold_for
from secretary.guard.snapshots import GuardPulse, GuardSnapshot
from secretary.guard.values import MINUTES_PER_MONTH, SHARES, Alarm, Detector, GuardSettings, Spend
from secretary.guard.watching import Guard
from secretary.transfers import Moment

SYNC = STEADY[0]


def stolen_minute(trained: Trained, destination: str = "thief.net") -> list[Payment]:
    return [Payment(trained.programs[0].name, destination, 12 * trained.programs[0].nanodollars, None)]


def rob(host: Host, payments: list[Payment], *, minutes: int = 15) -> list[Alarm]:
    for _ in range(minutes):
        for _, _, alarms in host.play(payments, parts=6):
            if alarms:
                return alarms
    return []


# --- what it finds ----------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-40")
def test_a_tenfold_stream_is_found_in_three_minutes(steady: Trained) -> None:
    delays = []
    for seed in range(80):
        outcome = attack(
            replace(steady, seed=100 + seed), tenfold(SYNC, steady.sigma, destination="thief.net"), minutes=30
        )
        assert outcome.delay_s is not None
        delays.append(outcome.delay_s)
    delays.sort()
    assert statistics.mean(delays) <= 150
    assert delays[len(delays) // 2] <= 150
    assert sum(delay <= 180 for delay in delays) >= 0.8 * len(delays)  # what theory allows: 0.9


@pytest.mark.row("BP-40")
def test_its_loss_is_some_minutes_of_the_stream(steady: Trained) -> None:
    outcome = attack(steady, tenfold(SYNC, steady.sigma, destination="thief.net"))
    assert outcome.lost_nanodollars < 5 * 10 * SYNC.nanodollars * 2


@pytest.mark.row("BP-40")
def test_honest_people_are_wrongly_stopped_less_than_once_in_a_month() -> None:
    """Both minute charts of 200 people for a month, on baselines that were estimated; all other detectors together may
    be wrong as often as their shares say, so they are added in full.
    """
    rng = numpy.random.default_rng(3)
    people, sigma = 200, 0.67
    fitted = [fit(rng.normal(12.2, sigma, 3000).tolist(), [0] * 3000) for _ in range(people)]
    middles = numpy.array([baseline.middle for baseline in fitted])
    sigmas = numpy.array([baseline.sigma for baseline in fitted])
    settings = GuardSettings()
    alarms = 0
    for detector, chart in ((Detector.SURGE, SURGE), (Detector.DRIFT, DRIFT)):
        limit = threshold_for(chart, MINUTES_PER_MONTH / (settings.false_alarms_per_month * SHARES[detector]))
        statistic = numpy.zeros(people)
        for _ in range(MINUTES_PER_MONTH):
            z = (rng.normal(12.2, sigma, people) - middles) / sigmas
            statistic = numpy.maximum(0.0, statistic + z - chart.slack)
            over = statistic > limit
            alarms += int(over.sum())
            statistic[over] = 0.0
    others = sum(share for detector, share in SHARES.items() if detector not in {Detector.SURGE, Detector.DRIFT})
    assert alarms / people + others * settings.false_alarms_per_month <= 1.0


@pytest.mark.row("BP-40")
def test_honest_learning_and_a_fortnight_after_it_pass_without_an_alarm(steady: Trained) -> None:
    host, person = steady.host()
    assert len(steady.alarms) + len(host.live(person, 7 * DAY_MINUTES)) <= 1


@pytest.mark.deep
@pytest.mark.row("BP-40")
def test_two_hundred_user_months_have_at_most_as_many_alarms() -> None:
    alarms = 0
    for seed in range(200):
        trained = train(STEADY, 0.67, seed, days=10, forest=False)
        host, person = trained.host()
        alarms += len(host.live(person, MINUTES_PER_MONTH))
    assert alarms <= 200


@pytest.mark.row("BP-43")
def test_a_hijacked_program_at_night_in_the_background_to_a_new_destination_is_found(home: Trained) -> None:
    script = tenfold(home.programs[0], home.sigma, destination="thief.net", fg=False)
    outcome = attack(home, script, hour=3)
    assert outcome.alarm is not None
    assert outcome.delay_s is not None
    assert outcome.delay_s <= 180
    assert (outcome.alarm.program, outcome.alarm.destination) == ("firefox", "thief.net")
    assert "thief.net, which it never paid before" in outcome.alarm.why
    assert "03:0" in outcome.alarm.why


@pytest.mark.row("BP-43")
def test_the_usual_rate_in_an_unusual_way_is_found_by_the_forest(home: Trained) -> None:
    """Nothing for the charts: the same program at its own rate, but at night, unseen, and to somebody new."""
    script = tenfold(home.programs[0], home.sigma, destination="thief.net", factor=2.0, fg=False)
    outcome = attack(home, script, hour=3)
    assert outcome.alarm is not None
    assert outcome.alarm.detector is Detector.PATTERN
    assert outcome.lost_nanodollars < 60 * home.programs[0].nanodollars


@pytest.mark.row("BP-43")
def test_a_thief_who_boils_slowly_is_found_before_he_has_doubled_the_stream(steady: Trained) -> None:
    outcome = boil(steady, 1.2, days=13)
    assert outcome.delay_s is not None
    assert 0.1 * 1.2 ** (outcome.delay_s / 86_400) < 1.0


@pytest.mark.row("BP-43")
def test_a_thief_who_invents_programs_is_found_by_the_total(home: Trained) -> None:
    host, person = home.host(12)
    amount = 20 * sum(program.nanodollars for program in home.programs)
    for number in range(10):
        invented = [Payment(f"invented-{number}", "thief.net", amount, None)]
        for _, _, alarms in host.play(person.minute(host.at) + invented, parts=2):
            if alarms:
                assert alarms[0].detector in {Detector.TOTAL_SURGE, Detector.TOTAL_DRIFT}
                assert alarms[0].program.startswith("invented-")
                return
    pytest.fail("not found")


def test_an_alarm_states_its_rate_and_all_rates_together_keep_the_promise(steady: Trained) -> None:
    host, _ = steady.host()
    (alarm,) = rob(host, stolen_minute(steady))
    assert 0 < alarm.false_alarms_per_month < 1
    assert alarm.statistic > alarm.threshold
    assert sum(SHARES.values()) * GuardSettings().false_alarms_per_month <= 1
    assert "times its usual rate" in alarm.why


# --- what it freezes --------------------------------------------------------------------------------------------------


def test_only_the_odd_stream_is_frozen(home: Trained) -> None:
    host, _ = home.host(12)
    (alarm,) = rob(host, stolen_minute(home))
    freeze = host.guard.check("firefox", "thief.net")
    assert freeze is not None
    assert freeze.alarm == alarm
    assert host.guard.check("firefox", "firefox-0.net") is None
    assert host.guard.check("zoom", "thief.net") is None


def test_money_spread_over_many_destinations_freezes_the_program(home: Trained) -> None:
    host, _ = home.host(12)
    spread = [Payment("firefox", f"thief-{i}.net", 4 * home.programs[0].nanodollars, False) for i in range(5)]
    (alarm,) = rob(host, spread)
    assert alarm.destination == ""
    assert host.guard.check("firefox", "firefox-0.net") is not None
    assert host.guard.check("zoom", "zoom-0.net") is None


def test_a_thief_who_moves_on_is_stopped_as_a_whole_at_the_second_destination(steady: Trained) -> None:
    host, _ = steady.host()
    (first,) = rob(host, stolen_minute(steady, "one.net"))
    (second,) = rob(host, stolen_minute(steady, "two.net"))
    assert (first.destination, second.destination) == ("one.net", "")
    assert host.guard.check("sync", "three.net") is not None


def test_what_was_mine_is_thawed_and_learnt(steady: Trained) -> None:
    host, _ = steady.host()
    (alarm,) = rob(host, stolen_minute(steady))
    assert host.guard.thaw(alarm.alarm, is_mine=True)
    assert host.guard.check("sync", "thief.net") is None
    assert rob(host, stolen_minute(steady), minutes=120) == []
    assert not host.guard.thaw(alarm.alarm, is_mine=True)


def test_what_was_not_mine_stays_frozen_and_teaches_nothing(steady: Trained) -> None:
    host, _ = steady.host()
    before = steady.snapshot.streams["sync"].minutes
    (alarm,) = rob(host, stolen_minute(steady))
    assert host.guard.thaw(alarm.alarm, is_mine=False)
    assert rob(host, stolen_minute(steady), minutes=60) == []
    (freeze,) = host.guard.freezes
    assert freeze.refused
    after = host.guard.snapshot().streams["sync"].minutes
    assert after.values == before.values
    assert after.baseline == before.baseline


# --- replays, clocks, lies --------------------------------------------------------------------------------------------


def test_a_replayed_report_is_nothing(steady: Trained) -> None:
    once, _ = steady.host()
    twice, _ = steady.host()
    for minute in range(5):
        total = 200_000 * (minute + 1)
        spend = Spend(grant="g", program="sync", destination="sync-0.net", total_nanodollars=total)
        older = msgspec.structs.replace(spend, total_nanodollars=total // 2)
        for host in (once, twice):
            host.guard.on_spend(spend, host.moment(host.at + minute, 10))
        for again in (spend, older, spend):
            assert twice.guard.on_spend(again, twice.moment(twice.at + minute, 20)) == []
    for host in (once, twice):
        host.guard.on_minute(host.moment(host.at + 5, 30))
    assert once.guard.snapshot().streams == twice.guard.snapshot().streams


@pytest.mark.parametrize("jump_s", [-86_400, -3600, 40 * 86_400])
def test_a_clock_that_is_set_changes_nothing_about_finding(steady: Trained, jump_s: int) -> None:
    host, person = steady.host()
    host.live(person, 1)

    def moment(minute: int, second: int) -> Moment:
        right = Host.moment(host, minute, second)
        return replace(right, unix_s=right.unix_s + jump_s)

    host.moment = moment  # type: ignore[method-assign]
    (alarm,) = rob(host, stolen_minute(steady))
    assert alarm.program == "sync"


def test_after_a_reboot_with_an_earlier_date_it_goes_on(steady: Trained) -> None:
    host, _ = steady.host()
    assert host.guard.on_minute(Moment(unix_s=START_S, boot_ns=5, boot="next", zone=UTC)) == []
    host.moment = lambda minute, second: Moment(  # type: ignore[method-assign]
        unix_s=START_S + minute, boot_ns=(minute * 60 + second) * 10**9, boot="next", zone=UTC
    )
    assert rob(host, stolen_minute(steady))


def test_a_late_report_is_no_burst(steady: Trained) -> None:
    host, person = steady.host()
    host.live(person, 3)
    guard, at = host.guard, host.at
    name = "sync sync-0.net"
    total = host.totals["sync", "sync-0.net"]
    guard.on_spend(Spend(grant=name, program="sync", destination="sync-0.net", total_nanodollars=total + 1),
                   host.moment(at, 0))  # fmt: skip
    late = Spend(
        grant=name,
        program="sync",
        destination="sync-0.net",
        total_nanodollars=total + 10 * SYNC.nanodollars,
        covers_s=600,
    )
    assert guard.on_spend(late, host.moment(at + 10, 0)) == []
    assert guard.on_minute(host.moment(at + 11, 0)) == []


def test_who_says_that_every_report_is_late_is_believed_only_since_the_one_before(steady: Trained) -> None:
    host, _ = steady.host()
    for minute in range(15):
        spend = Spend(
            grant="g",
            program="sync",
            destination="thief.net",
            total_nanodollars=(minute + 1) * 12 * SYNC.nanodollars,
            covers_s=600,
        )
        if host.guard.on_spend(spend, host.moment(host.at + minute, 30)):
            return
    pytest.fail("not found")


# --- learning ---------------------------------------------------------------------------------------------------------


def test_a_program_without_a_baseline_is_not_judged_and_says_so() -> None:
    host = Host(Guard())
    assert host.guard.is_learning("sync")
    assert rob(host, [Payment("sync", "a.net", 10**9, None)], minutes=60) == []
    assert host.guard.is_learning("sync")


def test_after_learning_it_says_so_too(steady: Trained) -> None:
    host, _ = steady.host()
    assert not host.guard.is_learning("sync")
    assert not host.guard.has_forest


# --- restarts and bounds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coder", [msgspec.msgpack, msgspec.json])
def test_a_restart_loses_nothing(steady: Trained, coder: object) -> None:
    first, _ = steady.host()
    stolen = stolen_minute(steady)
    honest = [Payment("sync", "sync-0.net", 700_000, None)]
    for _, _, alarms in first.play(honest):
        assert not alarms
    bytes_ = coder.encode(first.guard.snapshot())  # type: ignore[attr-defined]
    second = Host(Guard(), first.at, dict(first.totals))
    second.guard.restore(coder.decode(bytes_, type=GuardSnapshot))  # type: ignore[attr-defined]
    assert second.guard.snapshot() == first.guard.snapshot()
    for host in (first, second):
        rob(host, stolen)
    assert second.guard.freezes == first.guard.freezes
    assert len(second.guard.freezes) == 1
    third = Guard()
    third.restore(second.guard.snapshot())
    assert third.freezes == second.guard.freezes


@pytest.mark.row("BP-43")
def test_who_makes_the_secretary_restart_every_minute_gains_nothing(steady: Trained) -> None:
    """The pulse of every minute is enough, with an old snapshot."""
    host, _ = steady.host()
    payments = [Payment("sync", "thief.net", 5 * SYNC.nanodollars, None)]
    pulse: bytes | None = None
    for _ in range(20):
        guard = Guard()
        guard.restore(steady.snapshot, msgspec.msgpack.decode(pulse, type=GuardPulse) if pulse else None)
        host.guard = guard
        if any(alarms for _, _, alarms in host.play(payments)):
            return
        pulse = msgspec.msgpack.encode(guard.pulse())
    pytest.fail("not found")


def test_an_alarm_of_the_journal_is_adopted_once(steady: Trained) -> None:
    host, _ = steady.host()
    (alarm,) = rob(host, stolen_minute(steady))
    fresh, _ = steady.host()
    fresh.guard.adopt(alarm)
    fresh.guard.adopt(alarm)
    assert fresh.guard.freezes == host.guard.freezes
    (second,) = rob(fresh, stolen_minute(steady, "two.net"))
    assert second.alarm != alarm.alarm


def test_state_is_bounded() -> None:
    settings = GuardSettings(programs_max=8, destinations_max=16, grants_max=32)
    host = Host(Guard(settings))
    for number in range(100):
        payments = [Payment(f"program-{number}", f"d{i}.net", 1000, None) for i in range(40)]
        list(host.play(payments))
    state = host.guard.snapshot()
    assert len(state.streams) == 8
    assert len(state.pulse.grants) == 32
    assert all(len(stream.known) <= 16 for stream in state.streams.values())
    assert all(len(paid) <= 33 for stream in state.streams.values() for _, paid in stream.recent)


def test_inventing_names_pushes_out_neither_what_is_frozen_nor_what_is_known(steady: Trained) -> None:
    host, _ = steady.host()
    rob(host, stolen_minute(steady))
    for number in range(200):
        list(host.play([Payment(f"invented-{number}", "x.net", 10, None)]))
    assert host.guard.check("sync", "thief.net") is not None
    assert not host.guard.is_learning("sync")
