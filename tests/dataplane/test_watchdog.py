"""When a silence is long enough to kill for, on a virtual clock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dataplane.heartbeat import Beat, HeartbeatFile, Role, process_state
from dataplane.watchdog import PERIOD_NS, READER_SILENCE_NS, RUNNABLE_READER_SILENCE_NS, Patient

SECOND_NS = 1_000_000_000


def patient() -> Patient:
    return Patient(limit_ns=READER_SILENCE_NS, runnable_limit_ns=RUNNABLE_READER_SILENCE_NS)


def looks_until_killed(state: str, elapsed_ns: int = PERIOD_NS) -> int:
    watched = patient()
    for look in range(1000):
        if watched.witness(Beat(42, 7, 100), elapsed_ns=elapsed_ns, state=state):
            return look
    raise AssertionError("never killed")


@pytest.mark.parametrize(("state", "silence_ns"), [("S", 300_000_000), ("T", 300_000_000), ("R", 700_000_000)])
def test_a_silent_reader_is_killed_after_its_limit_and_not_before(state: str, silence_ns: int) -> None:
    assert looks_until_killed(state) * PERIOD_NS == silence_ns + PERIOD_NS


def test_a_beating_reader_lives() -> None:
    watched = patient()
    for look in range(100):
        assert not watched.witness(Beat(42, 7, look // 5), elapsed_ns=PERIOD_NS, state="S")


def test_a_starved_watchdog_blames_nobody() -> None:
    """It slept for ten seconds: so, perhaps, did the reader."""
    watched = patient()
    watched.witness(Beat(42, 7, 100), elapsed_ns=PERIOD_NS, state="R")
    assert not watched.witness(Beat(42, 7, 100), elapsed_ns=10 * SECOND_NS, state="R")
    assert not watched.witness(Beat(42, 7, 101), elapsed_ns=PERIOD_NS, state="S")


def test_a_new_reader_starts_with_a_clean_slate_and_nobody_is_never_killed() -> None:
    watched = patient()
    for _ in range(6):
        watched.witness(Beat(42, 7, 100), elapsed_ns=PERIOD_NS, state="S")
    assert not watched.witness(Beat(43, 8, 100), elapsed_ns=PERIOD_NS, state="S")
    for _ in range(50):
        assert not watched.witness(Beat(0, 0, 0), elapsed_ns=PERIOD_NS, state="")


def test_a_beat_is_seen_through_another_mapping_of_the_page(tmp_path: Path) -> None:
    mine, theirs = HeartbeatFile(tmp_path / "page"), HeartbeatFile(tmp_path / "page")
    mine.enrol(Role.READER, 5)
    mine.beat(Role.READER, 6)
    state, start_ticks = process_state(os.getpid())
    assert theirs.read(Role.READER) == Beat(os.getpid(), start_ticks, 6)
    assert state == "R"
    mine.leave(Role.READER)
    assert theirs.read(Role.READER).pid == 0
    mine.close()
    theirs.close()
    assert process_state(2**22 + 1) == ("", 0)
