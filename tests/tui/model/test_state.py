"""What is known, and what the first lines say of it."""

from __future__ import annotations

import msgspec
from snapshots import FLOWS, NOW_UNIX_S, flow, household, snapshot

from hostagent import api
from tui.model import head
from tui.model.state import QUIET_S, State


def shown_by(snapshot_: api.Snapshot) -> State:
    state = State()
    state.on_snapshot(snapshot_)
    return state


def header(state: State) -> str:
    return head.header(state, "laptop").plain.strip()


def test_a_lost_agent_is_said_first_and_its_last_snapshot_stays() -> None:
    state = State()
    assert header(state) == "laptop  connecting …"
    state.on_lost("no agent answers on /x: no such file (start it)")
    assert header(state) == "laptop  NOT CONNECTED, trying again"
    assert head.warnings(state) == ["! no agent answers on /x: no such file (start it)"]
    state.on_snapshot(household())
    assert header(state) == "laptop  OBSERVING · Wi-Fi Home · 1.20/GB now · today 420m of 2 USD · ok"
    assert head.warnings(state) == []
    state.on_lost("no agent answers")
    assert header(state).startswith("laptop  NOT CONNECTED, trying again  last seen: OBSERVING")
    assert head.warnings(state) == ["! no agent answers"]
    assert state.shown is not None
    state.on_snapshot(household())
    assert "NOT CONNECTED" not in header(state)


def test_an_agent_that_says_nothing_is_not_shown_as_if_it_lived() -> None:
    state = shown_by(household())
    state.on_quiet(QUIET_S)
    assert not state.is_old
    state.on_quiet(QUIET_S + 1)
    assert header(state).startswith(f"laptop  NOTHING HEARD for {QUIET_S + 1} s  last seen: OBSERVING")
    state.on_snapshot(household())
    assert not state.is_old


def test_modes_are_said() -> None:
    trial = header(shown_by(household(mode=api.Mode.TRIAL, trial_seconds_left=42)))
    assert trial.startswith("laptop   TRIAL 42 s left: c keeps it")
    assert "ACTING" in header(shown_by(household(mode=api.Mode.ACT)))
    worse = header(shown_by(snapshot(warnings=(api.Warning(code="c", message="m", since_unix_s=0),))))
    assert worse == "laptop  ACTING · no network · no price · today 166µ of 1 USD · ! degraded"


def test_a_frozen_display_keeps_its_snapshot_and_data_go_on_behind_it() -> None:
    state = shown_by(household())
    state.freeze(True)
    later = household(unix_s=NOW_UNIX_S + 12, flows=FLOWS[:1])
    state.on_snapshot(later)
    assert state.shown is not None
    assert len(state.shown.flows) == len(FLOWS)
    assert header(state).startswith("laptop  FROZEN for 12 s: space goes on")
    assert len(state.history.of(("flow", FLOWS[0].flow))) == 7  # six steps, five of them not heard
    state.freeze(False)
    assert state.shown is later
    assert "FROZEN" not in header(state)


def test_frozen_before_anything_was_known_the_first_snapshot_is_shown() -> None:
    state = State()
    state.freeze(True)
    state.on_snapshot(household())
    assert state.shown is not None
    state.freeze(False)
    assert not State().frozen


def test_the_history_has_flows_programs_kinds_links_and_prices() -> None:
    state = shown_by(household())
    assert list(state.history.of(("link", "wlan0"), 1)) == [8_490_000]
    assert list(state.history.of(("price", "wlan0 out"))) == [1_200_000]
    assert list(state.history.of(("kind", "backup"))) == [12_700_000]
    for number in range(50):
        state.on_snapshot(msgspec.structs.replace(snapshot(flows=(flow(f"flow {number}"),)), unix_s=2 * number + 2))
    assert len(state.history) == 1


def test_the_price_of_the_header_is_that_of_the_network_that_is_used() -> None:
    whole = household()
    other = api.Price(interface="eth9", direction="out", nanodollars_per_mb=9 * 10**9, source="tariff")
    state = shown_by(msgspec.structs.replace(whole, prices=(*whole.prices, other)))
    assert "1.20/GB" in header(state)
    nowhere = msgspec.structs.replace(whole, prices=(*whole.prices, other), networks=())
    assert "9.00k/GB" in header(shown_by(nowhere))


def test_the_line_of_tabs_fits_and_counts_questions() -> None:
    for questions, waiting in ((0, "3 inbox"), (2, "3 inbox!2"), (10, "3 inbox!+")):
        texts = head.tab_texts(80, questions)
        assert texts[2] == waiting
        assert sum(len(text) + 1 for text in texts) <= 80
    assert "6 month's statement" in head.tab_texts(160, 0)
    assert len({tab.name[0] for tab in head.TABS}) == len(head.TABS)
    assert all(tab.long_name.startswith(tab.name[0]) for tab in head.TABS)
