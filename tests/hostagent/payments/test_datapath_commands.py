"""The host's packet core as its main process meets it: commands, reports, events, and bounds that nobody can break."""

from __future__ import annotations

import msgspec
import pytest
from gateway_network import (
    A_V4,
    B_V4,
    OTHER_KEY,
    X,
    grant_for,
    named,
    plain,
)
from one_host import SPEND_ID, Host, flow_of, turned

from billpay.messages import FlowSelector, GrantKind
from dataplane.counters import CounterFile
from hostagent.payments.commands import (
    Command,
    PayFlow,
    Refused,
    ReturnFlow,
    SetUplink,
)
from hostagent.payments.datapath import MAX_EVENTS
from hostagent.payments.flowtable import MAX_FLOWS, REPORTS_AT_ONCE


def refusal_of(host: Host, command: Command) -> str:
    answer = host.ask(command)
    assert isinstance(answer, Refused)
    return answer.code


def test_a_grant_of_the_wrong_kind_or_of_another_flow_is_refused() -> None:
    host, packet = Host(), plain()
    flow, spend = flow_of(packet), grant_for(packet)
    back = grant_for(packet, kind=GrantKind.RETURN)
    for command, code in (
        (PayFlow(flow=flow, grant=back, amount_nanodollars=1), "wrong-kind"),
        (ReturnFlow(flow=flow, grant=spend, share_nanodollars=0, ceiling_nanodollars=1), "wrong-kind"),
        (PayFlow(flow=flow_of(plain(sport=9)), grant=spend, amount_nanodollars=1), "other-flow"),
    ):
        assert refusal_of(host, command) == code
    assert host.leave(packet) == [packet]


@pytest.mark.parametrize(
    ("amount", "slots"),
    [(-1, ()), (1 << 24, ()), (1, ((0, 0, 0),) * 8), (1, ((1 << 16, 0, 0),)), (1, ((1, 1 << 12, 0),)),
     (1, ((1, 1, 16),))],
)  # fmt: skip
def test_a_payment_that_no_header_holds_is_refused(amount: int, slots: tuple[tuple[int, int, int], ...]) -> None:
    host, packet = Host(), plain()
    pay = PayFlow(flow=flow_of(packet), grant=grant_for(packet), amount_nanodollars=amount, slots=slots)
    assert refusal_of(host, pay) == "malformed"
    assert host.leave(packet) == [packet]


def test_an_older_document_or_one_with_another_key_does_not_replace_a_grant() -> None:
    host, packet = Host(), plain()
    host.pay(packet, 20, cap=100, serial=5)
    for grant, code in (
        (grant_for(packet, grant=SPEND_ID, serial=4, cap=10**6), "old-serial"),
        (grant_for(packet, grant=SPEND_ID, serial=6, key=OTHER_KEY.hex()), "other-key"),
    ):
        assert refusal_of(host, PayFlow(flow=flow_of(packet), grant=grant, amount_nanodollars=20)) == code
    assert host.amounts(packet, 6) == [20, 20, 20, 20, 20, 0]


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"type":"Tick\xff"}', b'{"type":"Tock"}'])
def test_a_command_that_is_none_is_answered(data: bytes) -> None:
    reply = Host().plane.command(data)
    assert reply is not None
    assert msgspec.json.decode(reply)["code"] == "malformed"


def test_unknown_names_and_addresses_are_refused() -> None:
    host, packet = Host(), plain()
    flow = msgspec.structs.replace(flow_of(packet), destination="10.0.0.256")
    grant = msgspec.structs.replace(grant_for(packet), flow=flow)
    assert refusal_of(host, PayFlow(flow=flow, grant=grant, amount_nanodollars=1)) == "malformed"
    assert refusal_of(host, SetUplink(uplink="Q", agreed=True)) == "unknown-uplink"


def test_without_a_free_counter_a_flow_goes_unpaid() -> None:
    host = Host(counters=CounterFile.in_memory(capacity=48))
    codes = []
    for number in range(48):
        packet = plain(sport=1000 + number)
        grant = grant_for(packet, grant=f"{number:032x}")
        answer = host.ask(PayFlow(flow=flow_of(packet), grant=grant, amount_nanodollars=20))
        codes.append(answer.code if isinstance(answer, Refused) else "")
    assert set(codes) == {"", "no-room"}
    assert host.amounts(packet) == [0]
    assert host.amounts(plain(sport=1000)) == [20]


def test_reports_say_what_changed_since_the_last_time() -> None:
    host, first, second = Host(), plain(sport=1), plain(sport=2)
    host.leave(first, second)
    reports = host.reports()
    assert {report.flow for report in reports.flows} == {flow_of(first), flow_of(second)}
    host.leave(second)
    (changed,) = host.reports(reports.turn).flows
    assert (changed.flow, changed.out_packets) == (flow_of(second), 2)
    assert len(host.reports(0).flows) == 2
    assert host.reports(host.reports().turn).flows == ()


def test_flows_that_find_no_room_in_a_report_are_in_the_next_ones() -> None:
    host = Host()
    paying_one = plain(sport=1)
    host.pay(paying_one, 20)
    packets = [plain(sport=port) for port in range(1, 2 * REPORTS_AT_ONCE + 50)]
    host.leave(*packets)
    told: list[FlowSelector] = []
    turn = 0
    for _ in range(3):
        reports = host.reports(turn)
        assert len(reports.flows) <= REPORTS_AT_ONCE
        turn = reports.turn
        told += [report.flow for report in reports.flows]
    assert told[0] == flow_of(paying_one)
    assert sorted(map(str, told)) == sorted(str(flow_of(packet)) for packet in packets)
    assert host.reports(turn).flows == ()


def test_events_are_bounded() -> None:
    host = Host()
    host.leave(*[plain(sport=port, size=0) for port in range(1, MAX_EVENTS + 10)])
    assert len(host.events()) == MAX_EVENTS


def test_many_new_flows_do_not_push_out_those_that_pay() -> None:
    host, packet, reply = Host(), plain(), plain(sport=9)
    host.pay(packet, 20)
    host.give_back(reply)
    host.arrive(named(turned((A_V4, B_V4), dport=9), 9, by=X))
    template = plain(B_V4, A_V4)
    flood = [template[:20] + port.to_bytes(2) + template[22:] for port in range(1, MAX_FLOWS + 100)]
    host.leave(*flood)
    assert len(host.core.flows) == MAX_FLOWS
    assert (host.amounts(packet), host.amounts(reply)) == ([20], [8])


def test_when_all_pay_the_oldest_is_forgotten_with_its_pool_on_the_books() -> None:
    host, template = Host(), named(plain(B_V4, A_V4), 9, by=X)
    ports = 20 + 12
    packets = [template[:ports] + port.to_bytes(2) + template[ports + 2 :] for port in range(1, MAX_FLOWS // 2 + 2)]
    host.arrive(*packets)
    assert len(host.core.flows) == MAX_FLOWS
    books = host.books()
    assert (host.received(), books["unreturned"]) == (9 * len(packets), 9)
