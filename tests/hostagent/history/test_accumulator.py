"""From readings to rows: every byte once, links and rows alike, whatever restarts, moves or comes late."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.metering import UNATTRIBUTED, FlowKey, FlowMeter, Kind, LinkMeter, Program, ProgramMeter, Reading, Tally
from hostagent.history.accumulator import (
    DESTINATIONS_PER_HOUR,
    FREE_DESTINATIONS,
    MUCH_BYTES,
    Accumulator,
    NetworkPrice,
    Surroundings,
)
from hostagent.history.values import Counts, Increments, LinkKey, Payment, RowKey, split

HOUR = 1_764_000_000
NS = 10**9
AROUND = Surroundings(
    networks={"eth0": "cable", "wlan0": "home"},
    interfaces={2: "eth0", 3: "wlan0"},
    kinds=("control", "default", "bulk"),
)
CURL = Program(kind=Kind.PROGRAM, executable="/usr/bin/curl")
SSH = Program(kind=Kind.PROGRAM, executable="/usr/bin/ssh")


def name_of(program: Program) -> str:
    return program.executable.rpartition("/")[2] or "(unattributed)"


def tally(size_bytes: int, packets: int | None = None, ce: int = 0) -> Tally:
    return Tally(size_bytes // 100 if packets is None else packets, size_bytes, ce, 0)


def program(number: int, who: Program, sent: int, received: int = 0) -> ProgramMeter:
    return ProgramMeter(number=number, program=who, sent=tally(sent), received=tally(received))


def link(interface: str, sent: int, received: int = 0) -> LinkMeter:
    return LinkMeter(
        interface=interface,
        sent=tally(sent),
        received=tally(received),
        interface_sent_packets=0,
        interface_received_packets=0,
    )


def flow(
    number: int, remote: int, sent: int, received: int = 0, *, index: int = 2, kind: int = 1, first_ns: int = 0
) -> FlowMeter:
    return FlowMeter(
        key=FlowKey(index, 6, b"\x0a\0\0\1", 40000, remote.to_bytes(4, "big"), 443),
        program_number=number,
        process_id=0,
        traffic_class=kind,
        sent=tally(sent),
        received=tally(received),
        first_ns=first_ns,
        last_ns=0,
    )


def reading(
    programs: Sequence[ProgramMeter], links: Sequence[LinkMeter], *, now_s: int = 0, tracked: int = 0
) -> Reading:
    return Reading(now_ns=now_s * NS, programs=tuple(programs), links=tuple(links), flows_tracked=tracked)


def bytes_by(increments: Increments, *fields: str) -> dict[tuple[str, ...], int]:
    found: Counter[tuple[str, ...]] = Counter()
    for key, amounts in increments.traffic.items():
        found[tuple(getattr(key, field) for field in fields)] += amounts.sent_bytes + amounts.received_bytes
    return {key: value for key, value in found.items() if value}


def assert_rows_are_links(increments: Increments) -> None:
    """For each hour and network, in each of the five counts."""
    rows: dict[tuple[int, str], Counts] = {}
    for key, amounts in increments.traffic.items():
        at = (key.from_unix_s, key.network)
        rows[at] = rows.get(at, Counts()).plus(Counts(*amounts[:5]))
    links: dict[tuple[int, str], Counts] = {}
    for link_key, counts in increments.links.items():
        at = (link_key.from_unix_s // 3600 * 3600, link_key.network)
        links[at] = links.get(at, Counts()).plus(counts)
    assert {at: counts for at, counts in rows.items() if any(counts)} == links


# --- what goes where --------------------------------------------------------------------------------------------------


def test_bytes_go_to_the_destinations_and_kinds_of_their_flows_and_the_rest_to_none() -> None:
    accumulator = Accumulator(name_of)
    meters = [program(0, UNATTRIBUTED, 40), program(1, CURL, 1000, 300)]
    flows = [flow(1, 1, 600, 300, kind=2), flow(1, 2, 300)]
    accumulator.on_second(HOUR, reading(meters, [link("eth0", 1040, 300)]), flows, AROUND)
    taken = accumulator.take()
    assert bytes_by(taken, "program", "kind", "destination", "network") == {
        ("curl", "bulk", "0.0.0.1", "cable"): 900,
        ("curl", "default", "0.0.0.2", "cable"): 300,
        ("curl", "default", "", "cable"): 100,  # the kind of its last flow
        ("(unattributed)", "default", "", "cable"): 40,
    }
    assert_rows_are_links(taken)
    assert not accumulator.take()


def test_flows_that_are_read_every_few_seconds_still_name_the_destinations() -> None:
    accumulator = Accumulator(name_of)
    for second in range(1, 6):
        now = reading([program(1, CURL, 1000 * second)], [link("eth0", 1000 * second)], now_s=second, tracked=3000)
        flows = [flow(1, 1, 1000 * second, first_ns=1)] if second == 5 else None
        accumulator.on_second(HOUR + second, now, flows, AROUND)
    assert bytes_by(accumulator.take(), "destination") == {("0.0.0.1",): 5000}


def test_what_programs_are_ahead_of_the_links_is_booked_when_the_links_have_it() -> None:
    accumulator = Accumulator(name_of)
    accumulator.on_second(HOUR, reading([program(1, CURL, 1500)], [link("eth0", 1000)]), [flow(1, 1, 1600)], AROUND)
    assert bytes_by(accumulator.take(), "program", "destination") == {("curl", "0.0.0.1"): 1000}
    after = reading([program(1, CURL, 1600)], [link("eth0", 1600)], now_s=1)
    accumulator.on_second(HOUR + 1, after, [flow(1, 1, 1600)], AROUND)
    assert bytes_by(accumulator.take(), "program", "destination") == {("curl", "0.0.0.1"): 600}


def test_what_links_are_ahead_waits_for_its_program_a_second() -> None:
    accumulator = Accumulator(name_of)
    accumulator.on_second(HOUR, reading([program(1, CURL, 0)], [link("eth0", 1000)]), [], AROUND)
    accumulator.on_second(HOUR + 1, reading([program(1, CURL, 1000)], [link("eth0", 1000)]), [], AROUND)
    assert bytes_by(accumulator.take(), "program") == {("curl",): 1000}


def test_what_no_program_claims_is_unattributed() -> None:
    accumulator = Accumulator(name_of)
    for second in range(3):
        accumulator.on_second(HOUR + second, reading([], [link("eth0", 1000)]), [], AROUND)
    accumulator.on_second(HOUR + 3, reading([program(1, CURL, 900)], [link("eth0", 1000)]), [], AROUND)
    taken = accumulator.take()
    assert bytes_by(taken, "program") == {("(unattributed)",): 1000}
    assert_rows_are_links(taken)


def test_with_two_networks_flows_tell_and_the_rest_goes_where_links_have_moved_more() -> None:
    accumulator = Accumulator(name_of)
    meters = [program(1, CURL, 1000), program(2, SSH, 400)]
    flows = [flow(1, 1, 500), flow(1, 2, 300, index=3)]
    accumulator.on_second(HOUR, reading(meters, [link("eth0", 900), link("wlan0", 500)]), flows, AROUND)
    taken = accumulator.take()
    found = bytes_by(taken, "program", "network")
    # beyond flows: curl 200 and ssh 400; eth0 400 and wlan0 200
    assert found == {("curl", "cable"): 633, ("curl", "home"): 367, ("ssh", "cable"): 267, ("ssh", "home"): 133}
    assert_rows_are_links(taken)


def test_an_interface_of_no_known_network_is_counted_too() -> None:
    accumulator = Accumulator(name_of)
    accumulator.on_second(HOUR, reading([program(1, CURL, 10)], [link("tun0", 10)]), [], AROUND)
    assert bytes_by(accumulator.take(), "program", "network") == {("curl", ""): 10}


# --- restarts and moves -----------------------------------------------------------------------------------------------


@pytest.mark.expectation(13)
def test_counters_that_begin_anew_are_neither_lost_nor_counted_twice() -> None:
    accumulator = Accumulator(name_of)
    accumulator.on_second(HOUR, reading([program(1, CURL, 1000)], [link("eth0", 1000)]), [flow(1, 1, 1000)], AROUND)
    again = reading([program(1, CURL, 300)], [link("eth0", 300)], now_s=1)
    accumulator.on_second(HOUR + 1, again, [flow(1, 1, 300, first_ns=NS)], AROUND)
    taken = accumulator.take()
    assert bytes_by(taken, "program", "destination") == {("curl", "0.0.0.1"): 1300}


def test_another_engine_may_have_counted_more_than_the_last_one_did() -> None:
    accumulator = Accumulator(name_of)
    accumulator.on_second(HOUR, reading([program(1, CURL, 100)], [link("eth0", 100)]), [], AROUND, life=1)
    accumulator.on_second(HOUR + 1, reading([program(7, CURL, 5000)], [link("eth0", 5000)]), [], AROUND, life=2)
    assert bytes_by(accumulator.take(), "program") == {("curl",): 5100}


def test_an_interface_that_begins_anew_leaves_the_others_alone() -> None:
    accumulator = Accumulator(name_of)
    accumulator.on_second(HOUR, reading([program(1, CURL, 1500)], [link("eth0", 1000), link("wlan0", 500)]), [], AROUND)
    after = reading([program(1, CURL, 1600)], [link("eth0", 1000), link("wlan0", 100)])
    accumulator.on_second(HOUR + 1, after, [], AROUND)
    assert bytes_by(accumulator.take(), "network") == {("cable",): 1000, ("home",): 600}


@pytest.mark.parametrize("number", [1, 9])
def test_a_program_that_gets_another_name_moves_nothing(number: int) -> None:
    """First unattributed, then named; and by its file's name alone when it has ended, under a number of the ended."""
    ended = Program(kind=Kind.PROGRAM, executable="curl")
    accumulator = Accumulator(name_of)
    around = [link("eth0", 1000)]
    accumulator.on_second(
        HOUR, reading([program(0, UNATTRIBUTED, 50), program(1, UNATTRIBUTED, 950)], around), [], AROUND
    )
    accumulator.on_second(HOUR + 1, reading([program(0, UNATTRIBUTED, 50), program(1, CURL, 950)], around), [], AROUND)
    accumulator.on_second(
        HOUR + 2, reading([program(0, UNATTRIBUTED, 50), program(number, ended, 960)], [link("eth0", 1010)]), [], AROUND
    )
    taken = accumulator.take()
    assert bytes_by(taken, "program") == {("(unattributed)",): 1000, ("curl",): 10}


def test_a_number_that_serves_another_program_is_another_program() -> None:
    accumulator = Accumulator(name_of)
    accumulator.on_second(HOUR, reading([program(1, CURL, 1000)], [link("eth0", 1000)]), [], AROUND)
    after = reading([program(1, SSH, 1200), program(5000, CURL, 1000)], [link("eth0", 2200)])
    accumulator.on_second(HOUR + 1, after, [], AROUND)
    assert bytes_by(accumulator.take(), "program") == {("curl",): 1000, ("ssh",): 1200}


def test_a_flow_that_is_met_late_explains_nothing_of_its_past() -> None:
    accumulator = Accumulator(name_of)
    accumulator.on_second(HOUR, reading([program(1, CURL, 1000)], [link("eth0", 1000)], now_s=5), [], AROUND)
    after = reading([program(1, CURL, 3000)], [link("eth0", 3000)], now_s=6)
    flows = [flow(1, 1, 900, first_ns=NS), flow(1, 2, 500, first_ns=5 * NS + 1)]
    accumulator.on_second(HOUR + 1, after, flows, AROUND)
    assert bytes_by(accumulator.take(), "destination") == {("",): 2500, ("0.0.0.2",): 500}


def test_a_list_of_flows_that_is_missing_is_not_an_empty_one() -> None:
    accumulator = Accumulator(name_of)
    accumulator.on_second(
        HOUR, reading([program(1, CURL, 1000)], [link("eth0", 1000)], now_s=1), [flow(1, 1, 1000)], AROUND
    )
    accumulator.on_second(
        HOUR + 1, reading([program(1, CURL, 1500)], [link("eth0", 1500)], now_s=2, tracked=1), [], AROUND
    )
    now = reading([program(1, CURL, 2000)], [link("eth0", 2000)], now_s=3, tracked=1)
    accumulator.on_second(HOUR + 2, now, [flow(1, 1, 2000)], AROUND)
    assert bytes_by(accumulator.take(), "destination") == {("0.0.0.1",): 2000}


counts = st.tuples(*[st.integers(0, 5000)] * 2)


@st.composite
def days(draw: st.DrawFn) -> list[tuple[str, object]]:
    """What happens to a host: traffic of flows on two links, restarts, seconds with and without flows, hours."""
    return draw(
        st.lists(
            st.one_of(
                st.tuples(
                    st.just("traffic"),
                    st.lists(
                        st.tuples(st.integers(0, 3), st.integers(1, 5), st.sampled_from([2, 3]), counts), max_size=6
                    ),
                ),
                st.tuples(st.just("late"), st.tuples(st.sampled_from(["eth0", "wlan0"]), st.integers(0, 2000))),
                st.tuples(st.just("read"), st.booleans()),
                st.tuples(st.just("restart"), st.booleans()),
                st.tuples(st.just("rename"), st.integers(1, 3)),
                st.tuples(st.just("take"), st.none()),
                st.tuples(st.just("sleep"), st.sampled_from([1, 300, 3600])),
            ),
            max_size=40,
        )
    )


@pytest.mark.expectation(13)
@pytest.mark.expectation(18)
@settings(max_examples=150, deadline=None)
@given(days())
def test_every_byte_of_the_links_is_booked_once_whatever_happens(events: list[tuple[str, object]]) -> None:
    """The model moves bytes; `late` lets a link run ahead of its programs; restarts zero what the engine counted."""
    model = _Host()
    for what, value in events:
        getattr(model, what)(value)
    model.read(True)
    model.take(None)
    assert_rows_are_links(model.booked)
    for network, moved in model.moved.items():
        booked = sum(c.bytes for key, c in model.booked.links.items() if key.network == network)
        assert booked == moved
    assert all(min(amounts) >= 0 for amounts in model.booked.traffic.values())


class _Host:
    def __init__(self) -> None:
        self.accumulator, self.booked = Accumulator(name_of), Increments()
        self.moved = {"cable": 0, "home": 0}
        self._unix_s, self._now_s, self._life, self._version = HOUR, 1, 0, [0] * 4
        self._links: Counter[tuple[str, int]] = Counter()
        self._programs: Counter[tuple[int, int]] = Counter()
        self._flows: dict[tuple[int, int, int], list[int]] = {}

    def traffic(self, moves: list[tuple[int, int, int, tuple[int, int]]]) -> None:
        for number, remote, index, (sent, received) in moves:
            interface = AROUND.interfaces[index]
            self.moved[AROUND.networks[interface]] += sent + received
            entry = self._flows.setdefault((number, remote, index), [self._now_s * NS, 0, 0])
            for direction, value in enumerate((sent, received)):
                self._links[interface, direction] += value
                self._programs[number, direction] += value
                entry[1 + direction] += value

    def late(self, ahead: tuple[str, int]) -> None:
        interface, value = ahead
        self._links[interface, 0] += value
        self.moved[AROUND.networks[interface]] += value

    def read(self, with_flows: bool) -> None:
        self._now_s += 1
        meters = [
            program(number, self._program(number), self._programs[number, 0], self._programs[number, 1])
            for number in range(4)
        ]
        links = [link(name, self._links[name, 0], self._links[name, 1]) for name in ("eth0", "wlan0")]
        flows = [
            flow(number, remote, sent, received, index=index, first_ns=first)
            for (number, remote, index), (first, sent, received) in self._flows.items()
        ]
        now = reading(meters, links, now_s=self._now_s, tracked=len(flows))
        self.accumulator.on_second(self._unix_s, now, flows if with_flows else None, AROUND, life=self._life)

    def _program(self, number: int) -> Program:
        if number == 0:
            return UNATTRIBUTED
        return Program(kind=Kind.PROGRAM, executable=f"/bin/p{number}-{self._version[number]}")

    def restart(self, _: bool) -> None:
        self.read(False)
        self._links.clear()
        self._programs.clear()
        self._flows.clear()
        self._life += 1

    def rename(self, number: int) -> None:
        self._version[number] += 1

    def take(self, _: None) -> None:
        self.booked.add(self.accumulator.take())

    def sleep(self, seconds: int) -> None:
        self._unix_s += seconds


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_destinations_of_an_hour_are_bounded_and_the_rest_is_others() -> None:
    accumulator = Accumulator(name_of)
    many = [flow(1, remote, 10) for remote in range(1, 1001)]
    accumulator.on_second(HOUR, reading([program(1, CURL, 10_000)], [link("eth0", 10_000)]), many, AROUND)
    big = [flow(1, remote, MUCH_BYTES, first_ns=1) for remote in range(2000, 2200)]
    total = 10_000 + 200 * MUCH_BYTES
    accumulator.on_second(HOUR + 1, reading([program(1, CURL, total)], [link("eth0", total)]), [*many, *big], AROUND)
    taken = accumulator.take()
    found = bytes_by(taken, "destination")
    assert len(found) == DESTINATIONS_PER_HOUR + 1
    assert found[("(others)",)] == 10 * (1000 - FREE_DESTINATIONS) + 100 * MUCH_BYTES
    assert sum(found.values()) == total
    accumulator.on_second(HOUR + 3600, reading([program(1, CURL, total + 5)], [link("eth0", total + 5)]),
                          [flow(1, 999, 15, first_ns=0)], AROUND)  # fmt: skip
    assert bytes_by(accumulator.take(), "destination") == {("0.0.3.231",): 5}


def test_programs_of_an_hour_are_bounded_too() -> None:
    accumulator = Accumulator(name_of)
    meters = [program(n, Program(kind=Kind.PROGRAM, executable=f"/p{n}"), 1) for n in range(1500)]
    accumulator.on_second(HOUR, reading(meters, [link("eth0", 1500)]), [], AROUND)
    found = bytes_by(accumulator.take(), "program")
    assert len(found) == 999
    assert sum(found.values()) == 1500


# --- slots and money --------------------------------------------------------------------------------------------------


@pytest.mark.expectation(18)
def test_links_are_counted_by_five_minutes_and_belong_to_the_time_of_the_reading() -> None:
    accumulator = Accumulator(name_of)
    for second, total in ((299, 100), (300, 250), (3600, 1250)):
        accumulator.on_second(HOUR + second, reading([program(1, CURL, total)], [link("eth0", total)]), [], AROUND)
    taken = accumulator.take()
    assert {key: c.bytes for key, c in taken.links.items()} == {
        LinkKey(HOUR, "cable"): 100, LinkKey(HOUR + 300, "cable"): 150, LinkKey(HOUR + 3600, "cable"): 1000,
    }  # fmt: skip
    assert bytes_by(taken, "program", "network") == {("curl", "cable"): 1250}
    assert_rows_are_links(taken)


def test_internal_money_is_exact_to_the_nanodollar_over_many_small_bookings() -> None:
    around = Surroundings(networks=AROUND.networks, interfaces={}, kinds=(), prices={"cable": NetworkPrice(7, 3)})
    accumulator, booked = Accumulator(name_of), Increments()
    for second in range(1, 101):
        now = reading([program(1, CURL, 12_345 * second, 99_999 * second)],
                      [link("eth0", 12_345 * second, 99_999 * second)])  # fmt: skip
        accumulator.on_second(HOUR + second, now, [], around)
        booked.add(accumulator.take())
    priced = sum(amounts.priced_nanodollars for amounts in booked.traffic.values())
    assert priced == 1_234_500 * 7 // 10**6 + 9_999_900 * 3 // 10**6


@pytest.mark.expectation(17)
def test_real_payments_are_booked_once_also_when_a_flow_is_told_again() -> None:
    accumulator = Accumulator(name_of)
    key = RowKey(HOUR, "curl", "bulk", "192.0.2.9", "cable")
    for spent in (100, 100, 250, 40):  # at the end its payer began anew
        payment = Payment("tcp a → b", "curl", "bulk", "192.0.2.9", "cable", spent)
        accumulator.on_second(HOUR, reading([], []), [], AROUND, payments=[payment])
    assert accumulator.take().traffic[key].spent_nanodollars == 290


# --- parts of a whole -------------------------------------------------------------------------------------------------


@given(st.integers(-(10**15), 10**15), st.lists(st.integers(0, 10**12), max_size=30))
def test_parts_sum_up_to_the_whole(whole: int, weights: list[int]) -> None:
    parts = split(whole, weights)
    assert len(parts) == len(weights)
    assert sum(parts) == (whole if weights else 0)
    total = sum(weights)
    if total >= max(1, abs(whole)):
        assert all(abs(part) <= weight for part, weight in zip(parts, weights, strict=True))
