"""What screens say of kinds, budgets, statements, networks, paths, accounts, health and modes."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text
from snapshots import (
    ALTERNATIVES,
    BUDGETS,
    CAMPUS,
    FINGERPRINT,
    FLOWS,
    HOME,
    KINDS,
    NOTICES,
    NOVEMBER,
    NOW_UNIX_S,
    PHONE,
    flow,
    household,
    link,
    program,
    snapshot,
)

from hostagent import api
from tui.model import accounts, budgets, flows, health, inbox, kinds, modes, networks, paths, statement
from tui.model.columns import Sorting, columns_for


def said(lines: list[Text]) -> str:
    return "\n".join(line.plain for line in lines)


# --- flows --------------------------------------------------------------------------------------------------------


def test_paying_flows_come_first_silent_ones_last() -> None:
    unordered = (
        flow("silent", active=False, amount=20),
        flow("unpaid fast", rate=9_000_000),
        flow("paid slow", rate=1000, amount=20),
        flow("paid fast", rate=2000, amount=20),
    )
    order = [shown.flow for shown in flows.listing(unordered, Sorting(), "").things]
    assert order == ["paid fast", "paid slow", "unpaid fast", "silent"]


def test_where_only_payments_are_known_they_take_the_place_of_prices() -> None:
    def titles(*shown: api.Flow) -> list[str]:
        return [column.title for column in columns_for(flows.listing(shown, Sorting(), "").columns, 79)]

    paid = titles(flow("one", amount=20), flow("two"))
    assert paid == ["program", "destination", "out", "in", "spent", "pays", "toll"]
    assert "worth" in titles(flow("one", amount=20), FLOWS[0])
    assert "worth" in titles(flow("two"))


def test_details_have_the_whole_decision_and_path() -> None:
    reason = "pays 20 of at most 200 n$, " * 30 + "end"
    detail = said(flows.detail(flow("one", amount=20, reason=reason)))
    assert "pays 20n a packet, the path keeps 11n; spent 200n, 60n came back" in detail
    assert "path AS64512:1 AS64513:1" in detail
    assert f"decision  {reason}" in detail
    assert "nobody said what it is worth; no price" in detail
    assert "pays nothing now" in said(flows.detail(flow("two")))
    unknown = msgspec.structs.replace(flow("three", amount=20), toll_nanodollars=None)
    assert "nobody told yet what the path keeps" in said(flows.detail(unknown))
    call = said(flows.detail(FLOWS[0]))
    assert "program zoom · kind call · by Wi-Fi Home" in call
    assert "worth 20.0 a GB; a GB costs 1.20 now" in call


def test_a_destination_has_its_port_where_it_is_known() -> None:
    assert flows.destination_of(FLOWS[0]) == "203.0.113.20:3478"
    assert flows.destination_of(msgspec.structs.replace(FLOWS[0], flow="", destination="x")) == "x"


# --- kinds and programs -------------------------------------------------------------------------------------------


def test_kinds_run_are_slowed_or_wait() -> None:
    by_name = {kind.name: kind for kind in KINDS}
    assert kinds.state_text(by_name["call"]) == "runs"
    assert kinds.state_text(by_name["backup"]) == "slowed to 12.7M"
    assert kinds.state_text(by_name["update"]) == "waits"
    detail = said(kinds.kind_detail(by_name["backup"], household().rules))
    assert "can wait for a better moment" in detail
    assert "rule  program is restic (word): 1 flow" in detail
    many = [api.Rule(number=n, source="kinds", condition=f"c{n}", kind="call", flows=n) for n in range(10)]
    assert "4 more rules" in said(kinds.kind_detail(by_name["call"], many))
    assert "at least 256 kbit/s; is never made to wait" in said(kinds.kind_detail(by_name["call"], ()))


def test_a_program_shows_what_a_person_said_of_it() -> None:
    restic = program(FLOWS[1])
    words = (
        api.Worth(program="restic", kind="backup", nanodollars_per_mb=None, term=api.Term.TODAY, seconds_left=60),
        api.Worth(program="/usr/bin/restic", kind=None, nanodollars_per_mb=20, term=api.Term.ALWAYS, seconds_left=None),
        api.Worth(program="other", kind="call", nanodollars_per_mb=None, term=api.Term.ALWAYS, seconds_left=None),
    )
    detail = said(kinds.program_detail(restic, words))
    assert "your word  as backup, for 1 min yet" in detail
    assert "your word  worth 20.0µ a GB, always" in detail
    assert "call" not in detail
    assert "task photos" in detail


# --- inbox --------------------------------------------------------------------------------------------------------


def test_the_most_urgent_question_is_first_and_the_latest_notice() -> None:
    shown = inbox.entries(household().questions, (), NOW_UNIX_S)
    assert [entry.question.number for entry in inbox.listing(shown, Sorting(), "").things] == [8, 7]
    lines = inbox.notice_lines(NOTICES)
    assert "data plan" in lines[0].plain
    assert said(inbox.notice_lines(())) == inbox.NO_NOTICES


# --- budgets ------------------------------------------------------------------------------------------------------


def test_a_budget_shows_use_pace_forecast_and_a_flat_rate() -> None:
    text = said(budgets.lines(BUDGETS, NOW_UNIX_S, 76))
    assert "payments  2.00 USD a day" in text
    assert "0.67 USD a day, 0.67 USD at the reset in 8 h 53 min" in text
    assert "at this pace 14.20 USD a month" in text
    assert "520 MB used, 52 %" in text
    assert "! will go 430 MB over" in text
    assert "told at ■ 50 %  □ 80 %  □ 100 %" in text
    assert said(budgets.lines((), NOW_UNIX_S, 76)) == budgets.EMPTY


def test_a_budget_that_is_used_up_or_rests_says_so() -> None:
    over = msgspec.structs.replace(BUDGETS[1], used=1_200_000_000)
    assert "! 200 MB over" in said(budgets.lines((over,), NOW_UNIX_S, 76))
    resting = msgspec.structs.replace(BUDGETS[1], burn_per_day=0)
    assert "nothing goes at present" in said(budgets.lines((resting,), NOW_UNIX_S, 76))


@given(
    used=st.integers(0, 10**13),
    forecast=st.integers(0, 10**13),
    limit=st.integers(0, 10**13),
    width=st.integers(10, 90),
)
def test_a_bar_is_used_then_forecast_then_left(used: int, forecast: int, limit: int, width: int) -> None:
    budget = msgspec.structs.replace(BUDGETS[0], used=used, forecast=forecast, limit=limit)
    drawn = budgets.bar(budget, width)
    assert len(drawn) == width
    assert re.fullmatch("█*▒*░*", drawn)
    if limit and used:
        assert drawn.startswith("█")


# --- statement ----------------------------------------------------------------------------------------------------


@pytest.mark.expectation(17)
def test_a_statement_adds_up_on_the_screen() -> None:
    text = said(statement.lines(NOVEMBER, 76))
    amounts = {
        word: int(number.replace(",", "").replace(".", ""))
        for word, number in re.findall(r"(opening|topped up|spent|fees|closing) +([\d,]+\.\d{9})", text)
    }
    assert amounts["opening"] + amounts["topped up"] - amounts["spent"] - amounts["fees"] == amounts["closing"]
    assert "at this pace 14.20 USD a month" in text
    assert "0.402118000 USD at internal prices, nobody's bill" in text
    rows = re.findall(r"^(?:restic|firefox|zoom).* ([\d.]+)$", text, re.MULTILINE)
    assert sum(int(row.replace(".", "")) for row in rows) == amounts["spent"]
    nothing = msgspec.structs.replace(NOVEMBER, lines=(), fee_lines=(), internal_nanodollars=0)
    assert statement.NO_LINES in said(statement.lines(nothing, 76))


@pytest.mark.parametrize(
    ("month", "by", "other"), [("2026-11", -1, "2026-10"), ("2026-01", -1, "2025-12"), ("2026-12", 1, "2027-01")]
)
def test_months_are_counted_over_years(month: str, by: int, other: str) -> None:
    assert statement.other_month(month, by) == other
    assert statement.month_name("2026-11") == "November 2026"


# --- networks and paths -------------------------------------------------------------------------------------------


def test_a_network_says_whether_it_is_metered_and_who_says_so() -> None:
    prices = household().prices
    home = said(networks.detail(HOME, prices))
    assert "not metered: NetworkManager says so" in home
    assert "price out  1.20 a GB by embedded gateway, 71 % used: a backup fills the uplink" in home
    assert "metered: the phone's DHCP vendor option" in said(networks.detail(PHONE, prices))
    assert "no gateway: nobody prices this network" in said(networks.detail(PHONE, prices))
    campus = said(networks.detail(CAMPUS, prices))
    assert "nobody says whether it is metered" in campus
    assert FINGERPRINT in campus.replace(" ", "")
    assert "! trust: new · waits for your word  g: trust it" in campus


def test_only_a_fingerprint_that_waits_can_be_trusted() -> None:
    assert networks.can_be_trusted(CAMPUS) is CAMPUS.gateway
    assert CAMPUS.gateway is not None
    changed = msgspec.structs.replace(CAMPUS.gateway, trust="changed")
    assert networks.can_be_trusted(msgspec.structs.replace(CAMPUS, gateway=changed)) is changed
    known = msgspec.structs.replace(CAMPUS.gateway, trust="first use")
    assert networks.can_be_trusted(msgspec.structs.replace(CAMPUS, gateway=known)) is None
    assert networks.can_be_trusted(HOME) is None
    assert networks.can_be_trusted(PHONE) is None
    assert networks.can_be_trusted(None) is None


def test_a_sender_sees_what_it_can_choose_from_and_what_each_costs() -> None:
    shown = household()
    lines = [line.plain for line in paths.network_lines(shown.networks, shown.prices, 150)]
    assert lines[1].startswith("used  Wi-Fi Home")
    assert re.search(r"1\.20 +0  flat, 29.90 USD a month · embedded gateway", lines[1])
    assert "1 GB a month, then 5 USD per GB" in "\n".join(lines)
    assert "20 n$ a packet when busy · found gateway gateway.campus.example" in "\n".join(lines)
    assert said(paths.network_lines((), (), 120)) == paths.NO_NETWORK
    detail = said(paths.detail(ALTERNATIVES[1]))
    assert "way 2 of AS64512  not used" in detail
    assert "toll 22n a packet, delay 17.9 ms" in detail
    assert "toll ? a packet, delay ?" in said(paths.detail(ALTERNATIVES[2]))


# --- accounts -----------------------------------------------------------------------------------------------------


def test_an_account_shows_both_sides_books() -> None:
    unheard = msgspec.structs.replace(link("Y"), peer_received_nanodollars=None, peer_sent_nanodollars=None)
    table = accounts.listing((link("X"), unheard), Sorting(), "")
    shown = [{column.title: column.text(account) for column in table.columns} for account in table.things]
    assert shown[0]["neighbour"] == "X"
    assert (shown[0]["we sent"], shown[0]["they got"]) == ("166µ", "166µ")
    assert (shown[0]["they sent"], shown[0]["we got"]) == ("59.9µ", "59.9µ")
    assert (shown[0]["we owe"], shown[0]["settled"], shown[0]["times"]) == ("6.39µ", "100µ", "5")
    assert (shown[1]["they got"], shown[1]["they sent"]) == ("?", "?")
    assert "both books agree up to interval 12" in said(accounts.detail(link()))
    differs = msgspec.structs.replace(link(), agrees=False)
    assert "! the books differ" in said(accounts.detail(differs))


def test_the_latest_losses_and_settlements_stand_below_and_the_rest_is_counted() -> None:
    shown = snapshot(
        losses=tuple(
            api.LossLine(link="X", direction="in" if n % 2 else "out", interval=n, nanodollars=19, kind="loss")
            for n in range(accounts.MAX_LINES + 3)
        ),
        settlements=(
            api.SettlementLine(link="X", number=1, debtor="us", nanodollars=20_000, reason="threshold"),
            api.SettlementLine(link="X", number=2, debtor="peer", nanodollars=30_000, reason="period"),
        ),
    )
    lines = [line.plain for line in accounts.lines(shown.accounts)]
    assert lines[0].startswith("kept as our share 0 USD · came back to us 0 USD")
    assert lines[1] == "loss: 19 nUSD to X in interval 6"
    assert lines[2] == "loss: 19 nUSD from X in interval 5"
    assert lines[accounts.MAX_LINES + 1] == "3 earlier losses are not shown"
    assert lines[accounts.MAX_LINES + 2 :] == [
        "settled: X paid us 30 µUSD (period)",
        "settled: we paid X 20 µUSD (threshold)",
    ]


# --- health and modes ---------------------------------------------------------------------------------------------


def test_health_says_engine_limits_warnings_and_whether_meters_match() -> None:
    warning = api.Warning(code="no-agreement", message="X: unreachable", since_unix_s=NOW_UNIX_S)
    text = said(health.lines(household(warnings=(warning,))))
    assert "engine     ebpf: the kernel is 6.1 and lets us load programs" in text
    assert "! degraded: traffic goes on" in text
    assert "! no-agreement: X: unreachable (since 2026-11-11 12:26)" in text
    assert "incoming traffic is not slowed: no ifb module in this kernel" in text
    assert re.search(r"in +2,122,000 +2,122,003 +3", text)
    assert "0.4 % of a core, 46 MB of memory" in text
    assert "no interface is counted" in said(health.lines(snapshot()))


def test_before_it_acts_a_person_reads_what_changes() -> None:
    text = said(modes.act_lines(household()))
    assert "7 kinds of traffic share Wi-Fi Home by what they are worth" in text
    assert "update: waits" in text
    assert "backup: slowed to 12.7M" in text
    assert "payments may leave, up to 2 USD today" in text
    assert "trial of 60 s" in text
    stop = said(modes.observe_lines(household(mode=api.Mode.ACT)))
    assert "no longer slowed: update, backup" in stop
    assert "nothing is slowed any more" in said(modes.observe_lines(snapshot()))
