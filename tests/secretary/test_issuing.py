"""Grants: one for a flow, within the rule and the day, extended and returned as the journal's entries say."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from clerk import CALLS, DAY_S, GATEWAY, NOON, SECRETARY, Clerk, denied, flow, granted
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import RemoteProtocolError
from billpay.messages import FlowSelector, Grant, GrantKind
from billpay.signing import sign, verify
from secretary.issuing import EXPIRY_GRACE_S, Ended
from secretary.messages import Granted, Unpaid
from secretary.money.spending import Word
from secretary.ruling.rules import Rule
from secretary.secretary import Entry

# --- asking -----------------------------------------------------------------------------------------------------------


def test_a_grant_is_the_rules() -> None:
    clerk = Clerk()
    assert clerk.ask(flow()) == Grant(
        grant="0" * 31 + "1",
        serial=1,
        kind=GrantKind.SPEND,
        flow=flow(),
        cap_nanodollars=100,
        rate_nanodollars_per_s=50,
        burst_nanodollars=40,
        not_before_unix_s=NOON - EXPIRY_GRACE_S,
        expires_unix_s=NOON + 600,
        key="0" * 31 + "2",
        gateway=GATEWAY.fingerprint,
    )
    assert clerk.sums == (0, 100)


def test_the_same_question_again_is_the_same_grant_and_no_news() -> None:
    clerk = Clerk()
    first = clerk.ask(flow())
    clerk.unix_s += 60
    assert clerk.ask(flow()) == first
    assert clerk.sums == (0, 100)
    assert len(clerk.journal) == 1


def test_each_flow_has_a_grant_and_a_key_of_its_own() -> None:
    clerk = Clerk()
    grants = [clerk.ask(flow(port)) for port in range(1, 5)]
    assert len({grant.grant for grant in grants} | {grant.key for grant in grants}) == 8
    assert clerk.sums == (0, 400)


def test_a_flow_that_no_rule_names_is_unpaid() -> None:
    clerk = Clerk()
    assert denied(clerk.try_ask(flow(destination_port=80))) == "no-rule"
    assert clerk.journal == []


def test_near_its_end_a_grant_that_is_asked_for_gets_a_later_one() -> None:
    clerk = Clerk()
    first = clerk.ask(flow())
    clerk.unix_s += 500
    later = clerk.ask(flow())
    assert later == msgspec.structs.replace(
        first, serial=2, not_before_unix_s=NOON + 500 - EXPIRY_GRACE_S, expires_unix_s=NOON + 1100
    )


def test_the_last_of_the_budget_makes_a_smaller_grant_and_then_none() -> None:
    clerk = Clerk(day=130)
    assert clerk.ask(flow(1)).cap_nanodollars == 100
    assert clerk.ask(flow(2)).cap_nanodollars == 30
    assert denied(clerk.try_ask(flow(3))) == "budget"
    assert clerk.sums == (0, 130)


def test_a_rest_that_pays_for_no_packet_is_not_granted() -> None:
    clerk = Clerk(day=119)
    clerk.ask(flow(1))
    assert denied(clerk.try_ask(flow(2))) == "budget"


def test_what_is_no_single_flow_is_refused() -> None:
    clerk = Clerk(Rule(name="all", amount_nanodollars=1, grant_nanodollars=10))
    everything = FlowSelector(source="10.0.1.1")
    for ask in (clerk.try_ask, lambda selector: clerk.try_return(selector, 10, 1)):
        with pytest.raises(RemoteProtocolError, match="not-one-flow"):
            ask(everything)
    assert clerk.journal == []


# --- extending --------------------------------------------------------------------------------------------------------


def test_an_extension_is_a_whole_grant_on_top_of_what_was_spent() -> None:
    clerk = Clerk()
    first = clerk.ask(flow())
    clerk.unix_s += 10
    second = clerk.extend(first, 60)
    assert (second.serial, second.cap_nanodollars, second.expires_unix_s) == (2, 160, NOON + 610)
    assert (second.grant, second.key, second.flow, second.kind) == (first.grant, first.key, first.flow, first.kind)
    assert clerk.sums == (60, 100)
    assert clerk.ask(flow()) == second


def test_a_grants_length_stays_the_rules_however_often_it_is_extended() -> None:
    """Who extends it in the last quarter of its time would otherwise ask ever more often."""
    clerk = Clerk(day=10**6)
    grant = clerk.ask(flow())
    for _ in range(20):
        clerk.unix_s += 450
        grant = clerk.extend(grant, 0)
        assert grant.expires_unix_s - grant.not_before_unix_s == 600 + EXPIRY_GRACE_S


def test_who_claims_to_have_spent_more_than_the_cap_gets_no_more_for_it() -> None:
    clerk = Clerk()
    first = clerk.ask(flow())
    assert clerk.extend(first, 10**15).cap_nanodollars == 200


def test_an_extension_takes_the_last_of_the_budget_and_then_there_is_none() -> None:
    clerk = Clerk(day=130)
    grant = clerk.ask(flow())
    grant = clerk.extend(grant, 60)
    assert grant.cap_nanodollars == 130
    written = len(clerk.journal)
    clerk.unix_s += 1
    assert denied(clerk.try_extend(grant.grant, 120)) == "budget"
    assert len(clerk.journal) == written


def test_without_budget_there_is_still_a_later_end_when_it_is_needed() -> None:
    clerk = Clerk(day=130)
    grant = clerk.extend(clerk.ask(flow()), 60)
    clerk.unix_s = grant.expires_unix_s - 100
    later = clerk.extend(grant, 120)
    assert (later.cap_nanodollars, later.expires_unix_s) == (130, clerk.unix_s + 600)


@pytest.mark.parametrize("grant", ["f" * 32, "closed", "return"])
def test_only_an_open_spending_grant_is_extended(grant: str) -> None:
    clerk = Clerk()
    if grant == "closed":
        grant = clerk.ask(flow()).grant
        clerk.close(grant, 0)
    elif grant == "return":
        grant = clerk.ask_return(flow(), 10, 1).grant
    assert denied(clerk.try_extend(grant, 0)) == "unknown-grant"


# --- ending -----------------------------------------------------------------------------------------------------------


def test_closing_books_what_was_spent_and_frees_the_rest() -> None:
    clerk = Clerk()
    grant = clerk.ask(flow())
    clerk.close(grant.grant, 42)
    clerk.close(grant.grant, 42)
    assert clerk.sums == (42, 0)
    again = clerk.ask(flow())
    assert again.grant != grant.grant
    assert again.serial == 1


def test_without_a_receipt_a_grant_stays_open_and_counts_whole() -> None:
    """Whoever has the agent in hand frees nothing by saying that little was spent."""
    clerk = Clerk()
    grant = clerk.ask(flow())
    for told in (0, 99):
        with pytest.raises(RemoteProtocolError, match="no-receipt"):
            clerk.present(grant.grant, None, told=told)
    assert clerk.sums == (0, 100)
    assert clerk.present(grant.grant, None, told=100) == 100
    assert clerk.sums == (100, 0)


def test_the_receipt_of_a_grant_that_was_given_up_sets_its_sum_right() -> None:
    clerk = Clerk(credit_nanodollars=1000)
    grant = clerk.ask(flow())
    assert clerk.present(grant.grant, None, told=100) == 100
    assert clerk.secretary.treasury.purse.balance_nanodollars == -100
    assert clerk.close(grant.grant, 30) == 30
    assert clerk.secretary.treasury.purse.balance_nanodollars == -30
    assert [entry.word for entry in clerk.entries(Ended)] == [Word.ASSUMED, Word.CONFIRMED]
    assert clerk.close(grant.grant, 30) == 0  # asked again
    assert len(clerk.entries(Ended)) == 2


def test_a_receipt_for_more_than_the_cap_books_the_cap() -> None:
    clerk = Clerk()
    assert clerk.close(clerk.ask(flow()).grant, 10**9) == 100
    assert clerk.sums == (100, 0)


def test_a_grant_that_expired_without_a_word_counts_as_spent() -> None:
    clerk = Clerk()
    clerk.ask(flow())
    clerk.unix_s += 600 + EXPIRY_GRACE_S
    clerk.tick()
    assert clerk.sums == (0, 100)
    clerk.unix_s += 1
    clerk.tick()
    assert clerk.sums == (100, 0)
    assert clerk.open_grants == []


def test_a_grant_that_lives_for_days_gets_each_days_budget() -> None:
    clerk = Clerk(day=100)
    grant = clerk.ask(flow())
    for day in range(1, 6):
        while clerk.unix_s < NOON + day * DAY_S:
            clerk.wait(450)
            grant = clerk.extend(grant, grant.cap_nanodollars)
            assert sum(clerk.sums) <= 100
        assert grant.cap_nanodollars == 100 * (day + 1)


def test_tomorrow_there_is_a_new_budget_and_an_old_grant_gets_of_it() -> None:
    clerk = Clerk(day=130)
    clerk.unix_s = 20_001 * DAY_S - 60
    grant = clerk.extend(clerk.ask(flow()), 60)
    assert denied(clerk.try_extend(grant.grant, 120)) == "budget"
    clerk.unix_s += 120
    assert clerk.extend(grant, 120).cap_nanodollars == 60 + 130  # 60 were reported as spent before midnight


# --- another rules file -----------------------------------------------------------------------------------------------


def test_a_flow_that_falls_under_another_rule_now_keeps_its_grant_on_the_new_terms() -> None:
    clerk = Clerk()
    grant = clerk.ask(flow())
    clerk.start_again(Rule(name="less", amount_nanodollars=2, grant_nanodollars=10, rate_nanodollars_per_s=7))
    answer = clerk.try_ask(flow())
    assert isinstance(answer, Granted)
    assert answer.rule == "less"
    now = granted(answer)
    assert (now.grant, now.serial, now.cap_nanodollars, now.rate_nanodollars_per_s) == (grant.grant, 2, 100, 7)


def test_a_flow_that_no_rule_names_any_more_gets_nothing_new() -> None:
    clerk = Clerk()
    grant = clerk.ask(flow())
    clerk.start_again(CALLS)
    assert denied(clerk.try_ask(flow())) == "no-rule"
    assert denied(clerk.try_extend(grant.grant, 60)) == "no-rule"
    assert clerk.sums == (0, 100)


# --- returning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("received", "packets", "cap"), [(100, 10, 120), (0, 0, 30), (5, 10, 30), (100, 100, 30)])
def test_receipts_less_the_share_and_the_float_may_go_back(received: int, packets: int, cap: int) -> None:
    clerk = Clerk()
    grant = clerk.ask_return(flow(), received, packets)
    assert (grant.kind, grant.cap_nanodollars, grant.serial) == (GrantKind.RETURN, cap, 1)
    assert clerk.sums == (0, 0)
    assert clerk.returned == (0, cap)


def test_a_return_grant_rises_with_the_receipts_and_never_falls() -> None:
    clerk = Clerk()
    first = clerk.ask_return(flow(), 100, 10)
    second = clerk.ask_return(flow(), 200, 20)
    assert (second.grant, second.key, second.serial, second.cap_nanodollars) == (first.grant, first.key, 2, 210)
    assert clerk.ask_return(flow(), 200, 20) == second
    clerk.unix_s += 1
    assert clerk.ask_return(flow(), 0, 0).cap_nanodollars == 210  # the agent counts anew


def test_no_more_goes_back_in_a_day_than_the_bound() -> None:
    clerk = Clerk(returns_day=100)
    first = clerk.ask_return(flow(1), 80, 0)
    assert first.cap_nanodollars == 100
    assert denied(clerk.try_return(flow(2), 80, 0)) == "budget"
    assert clerk.ask_return(flow(1), 500, 0).cap_nanodollars == 100
    clerk.close(first.grant, 60)
    assert clerk.ask_return(flow(2), 80, 0).cap_nanodollars == 40


def test_a_flow_may_spend_and_return_at_once() -> None:
    clerk = Clerk()
    spend, back = clerk.ask(flow()), clerk.ask_return(flow(), 50, 5)
    assert spend.grant != back.grant
    assert clerk.ask(flow()) == spend
    clerk.close(back.grant, 10)
    assert clerk.ask(flow()) == spend
    assert clerk.sums == (0, 100)


# --- all of it --------------------------------------------------------------------------------------------------------

NUMBERS = st.integers(0, 400)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "call", "extend", "close", "return", "wait", "kill"]),
        st.integers(0, 5),
        NUMBERS,
        NUMBERS,
    ),
    max_size=60,
)


def play(clerk: Clerk, steps: list[tuple[str, int, int, int]], check: Callable[[], None]) -> None:
    """Any agent: in order or not, honest or not, killed secretaries between."""
    known: list[str] = ["f" * 32]
    for step, which, number, more in steps:
        name = known[which % len(known)]
        answer: Granted | Unpaid | None = None
        match step:
            case "ask":
                answer = clerk.try_ask(flow(which))
            case "call":
                answer = clerk.try_ask(flow(which, protocol=17))
            case "extend":
                answer = clerk.try_extend(name, number)
            case "close":
                clerk.close(name, number)
            case "return":
                answer = clerk.try_return(flow(which), number, more)
            case "wait":
                clerk.unix_s += number * 5
                clerk.tick()
            case _:
                clerk.start_again()
                clerk.tick()
        if isinstance(answer, Granted):
            known.append(granted(answer).grant)
        check()


@given(day=st.integers(0, 700), returns_day=st.integers(0, 300), steps=STEPS)
def test_open_caps_and_spent_stay_within_the_day_whatever_is_asked(
    day: int, returns_day: int, steps: list[tuple[str, int, int, int]]
) -> None:
    """Within one day: the caps themselves, as a gateway sees them."""
    clerk = Clerk(day=day, returns_day=returns_day)
    clerk.unix_s = 20_000 * DAY_S

    def check() -> None:
        if clerk.unix_s >= 20_001 * DAY_S:  # 60 longest waits are more than a day
            return
        for kind, (spent, reserved), limit in (
            (GrantKind.SPEND, clerk.sums, day),
            (GrantKind.RETURN, clerk.returned, returns_day),
        ):
            caps = sum(grant.cap_nanodollars for grant in clerk.open_grants if grant.kind is kind)
            assert spent >= 0
            assert reserved <= caps  # what was told as spent is not reserved any more
            assert spent + reserved <= limit

    play(clerk, steps, check)


@given(steps=STEPS)
def test_over_days_what_is_promised_and_spent_stays_within_each(steps: list[tuple[str, int, int, int]]) -> None:
    clerk = Clerk(day=500, returns_day=200)

    def check() -> None:
        for (spent, reserved), limit in ((clerk.sums, 500), (clerk.returned, 200)):
            assert min(spent, reserved) >= 0
            assert spent + reserved <= limit

    play(clerk, [(s, w, n * 100 if s == "wait" else n, m) for s, w, n, m in steps], check)


@given(steps=STEPS)
def test_a_killed_secretary_is_the_same_one_again(steps: list[tuple[str, int, int, int]]) -> None:
    clerk = Clerk(day=500)
    play(clerk, [(s, w, n * 100 if s == "wait" else n, m) for s, w, n, m in steps], lambda: None)
    clerk.tick()
    before = (clerk.open_grants, clerk.sums, clerk.returned)
    clerk.start_again()
    clerk.tick()
    assert (clerk.open_grants, clerk.sums, clerk.returned) == before


@given(steps=STEPS)
def test_documents_of_a_grant_only_grow_and_every_one_verifies(steps: list[tuple[str, int, int, int]]) -> None:
    clerk = Clerk()
    last: dict[str, Grant] = {}

    def check() -> None:
        for grant in clerk.open_grants:
            assert verify(sign(SECRETARY, grant), SECRETARY.public_key, Grant) == grant
            old = last.get(grant.grant, grant)
            assert (grant.flow, grant.kind, grant.key) == (old.flow, old.kind, old.key)
            assert grant == old or grant.serial > old.serial
            assert grant.cap_nanodollars >= old.cap_nanodollars > 0
            assert grant.expires_unix_s >= old.expires_unix_s
            assert grant.expires_unix_s > grant.not_before_unix_s >= old.not_before_unix_s
            last[grant.grant] = grant

    play(clerk, steps, check)


def test_a_journal_of_before_reports_and_terms_were_in_it_is_still_read() -> None:
    clerk = Clerk()
    grant = clerk.ask(flow())
    text = msgspec.json.encode(clerk.journal[0]).replace(b',"spent_nanodollars":0', b"").split(b',"unix_s"')[0] + b"}"
    clerk.journal = [msgspec.json.decode(text, type=Entry)]
    clerk.start_again()
    clerk.tick()
    assert clerk.sums == (0, 100)
    again = clerk.ask(flow())
    assert (again.grant, again.serial, again.cap_nanodollars) == (grant.grant, 2, 100)
    assert clerk.sums == (0, 100)
