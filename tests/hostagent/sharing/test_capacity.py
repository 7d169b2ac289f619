"""The estimator on a virtual clock, before a modem that is a queue of fluid and a TCP that fills it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.sharing.capacity import (
    BLIND_NS,
    FLOOR_BIT_S,
    FLOOR_PPM,
    KNOWN_PPM,
    NS_PER_S,
    PPM,
    Estimate,
    LinkCapacity,
    Look,
    Source,
    Trip,
)

BASE_MS = 30.0
STEP_S = 0.01
MBIT = 1_000_000


@dataclass
class Modem:
    """One direction: a rate, a queue of 400 ms, and one upload with TCP's window, in bits; times in seconds."""

    capacity: float = 20e6
    queue_s: float = 0.4
    app_limit: float = 1e12
    queue: float = 0.0
    window: float = 1e5
    smoothed_ms: float = BASE_MS
    deaf_s: float = 0.0
    sent: float = 0.0

    def run(self, seconds: float, shape: int | None) -> None:
        for _ in range(round(seconds / STEP_S)):
            trip_s = BASE_MS / 1e3 + self.queue / self.capacity
            rate = min(self.window / trip_s, self.app_limit, shape or 1e12)
            self.sent += rate * STEP_S
            self.queue = max(0.0, self.queue + (rate - self.capacity) * STEP_S)
            self.deaf_s -= STEP_S
            limit = self.capacity * self.queue_s
            if self.queue > limit:
                self.queue = limit
                if self.deaf_s <= 0:
                    self.window *= 0.7  # CUBIC's beta
                    self.deaf_s = trip_s
            elif rate >= 0.99 * self.window / trip_s:  # it is the window that holds it back
                self.window += 10 * 12_000 * STEP_S / trip_s
            self.smoothed_ms += (trip_s * 1e3 - self.smoothed_ms) * min(1.0, STEP_S / trip_s * 4)


@dataclass
class World:
    """An uplink behind a modem, and who is talked to: the upload's server, and others by the same queue."""

    modem: Modem = field(default_factory=Modem)
    remembered: int | None = None
    others: int = 1
    trips: bool = True
    acts: bool = True
    jitter_ms: Callable[[int], float] = lambda _: 0.0
    only_trips: Callable[[World], list[Trip]] | None = None
    now_s: int = 0
    received: int = 0

    def __post_init__(self) -> None:
        self.capacity = LinkCapacity(egress_bit_s=self.remembered)
        self.shapes: list[int | None] = []
        self.delays_ms: list[float] = []

    @property
    def up(self) -> Estimate:
        return self.capacity.estimate.egress

    def run(self, seconds: int) -> Estimate:
        for _ in range(seconds):
            self.modem.run(1, self.up.shape_bit_s if self.acts else None)
            self.now_s += 1
            self.received += 30_000
            self.capacity.on_look(
                Look(
                    now_ns=self.now_s * NS_PER_S,
                    sent_bytes=int(self.modem.sent / 8),
                    received_bytes=self.received,
                    trips=self.said() if self.trips else (),
                    acts=self.acts,
                )
            )
            self.shapes.append(self.up.shape_bit_s)
            self.delays_ms.append(self.modem.queue / self.modem.capacity * 1e3)
        return self.up

    def said(self) -> list[Trip]:
        if self.only_trips is not None:
            return self.only_trips(self)
        now_us = int((self.modem.smoothed_ms + self.jitter_ms(self.now_s)) * 1000)
        return [
            Trip(remote=bytes([number]), now_us=now_us, least_us=int(BASE_MS * 1e3))
            for number in range(1 + self.others)
        ]


def assert_near(estimate: Estimate, rate: float, part: float = 0.1) -> None:
    assert estimate.rate_bit_s is not None, estimate
    assert abs(estimate.rate_bit_s - rate) <= part * rate, (estimate, rate)


# -- finding it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1e6, 5e6, 20e6, 300e6])
def test_a_rate_that_nobody_said_is_found_within_15_s(rate: float) -> None:
    world = World(Modem(capacity=rate, window=rate * 0.1))
    assert world.up.shape_bit_s is None
    found = world.run(15 if rate < 100e6 else 40)
    assert_near(found, rate)
    assert found.source is Source.MEASURED


def test_once_found_it_stays_and_the_queue_is_ours() -> None:
    world = World()
    world.run(30)
    for _ in range(600):
        assert_near(world.run(1), 20e6)
    later = sorted(world.delays_ms[30:])
    assert later[int(0.95 * len(later))] < 5
    assert later[-1] < 120  # trials are short
    assert world.up.confidence_ppm >= 650_000
    assert sum(shape or 0 for shape in world.shapes[30:]) >= 0.9 * 20e6 * len(world.shapes[30:])


def test_nothing_is_shaped_before_something_filled_the_link() -> None:
    world = World(Modem(app_limit=8e6))
    estimate = world.run(300)
    assert (estimate.rate_bit_s, estimate.shape_bit_s, estimate.source) == (None, None, Source.UNKNOWN)


@pytest.mark.parametrize("factor", [0.5, 2.0, 0.25])
def test_a_rate_that_changes_is_followed_within_a_minute(factor: float) -> None:
    world = World()
    world.run(60)
    world.modem.capacity *= factor
    for _ in range(60):
        world.run(1)
    assert_near(world.up, 20e6 * factor, 0.12)


def test_a_halved_rate_is_followed_within_15_s() -> None:
    world = World()
    world.run(60)
    world.modem.capacity = 10e6
    assert_near(world.run(15), 10e6, 0.15)


def test_what_was_remembered_holds_from_the_first_second_and_is_put_right() -> None:
    world = World(remembered=20 * MBIT)
    assert (world.up.rate_bit_s, world.up.source) == (20 * MBIT, Source.REMEMBERED)
    assert max(world.delays_ms or [0]) < 5
    wrong = World(remembered=10 * MBIT)  # it was another room of the house
    wrong.run(40)
    assert_near(wrong.up, 20e6)


def test_who_only_watches_finds_the_rate_too() -> None:
    """Nothing is shaped, so the queue stays as long as it is: that is no reason to think less and less of the link."""
    world = World(acts=False)
    world.run(20)
    for _ in range(300):
        assert_near(world.run(1), 20e6)


# -- what does not count ---------------------------------------------------------------------------------------------


@pytest.mark.expectation(21)
def test_without_round_trips_the_rate_is_held_and_then_drifts_to_the_good_one() -> None:
    world = World()
    found = world.run(60).rate_bit_s
    world.trips = False
    held = world.run(BLIND_NS // NS_PER_S)
    assert held.rate_bit_s == found
    for _ in range(600):
        assert_near(world.run(1), 20e6)


@pytest.mark.expectation(21)
def test_without_any_round_trip_ever_nothing_is_shaped() -> None:
    world = World(trips=False)
    assert world.run(120).shape_bit_s is None


@pytest.mark.expectation(21)
def test_a_link_with_a_remembered_rate_and_no_round_trips_keeps_it() -> None:
    world = World(remembered=20 * MBIT, trips=False)
    assert world.run(120).rate_bit_s == 20 * MBIT


def test_one_slow_remote_host_among_others_changes_nothing() -> None:
    """The upload to it waits in its own queue; everybody else is as quick as ever."""

    def said(world: World) -> list[Trip]:
        slow = Trip(remote=b"slow", now_us=430_000, least_us=30_000)
        return [slow, *(Trip(remote=bytes([n]), now_us=31_000, least_us=30_000) for n in range(2))]

    world = World(Modem(app_limit=6e6), only_trips=said)
    assert world.run(120).shape_bit_s is None
    known = World(Modem(app_limit=6e6), remembered=20 * MBIT, only_trips=said)
    assert known.run(120).rate_bit_s == 20 * MBIT


def test_a_slow_remote_host_that_is_alone_does_not_hold_the_link_down_for_long() -> None:
    """Its round trip is as long whatever we do: after some seconds the rate is given back."""
    world = World(
        Modem(capacity=1e9, app_limit=12e6),
        remembered=14 * MBIT,
        only_trips=lambda _: [Trip(remote=b"slow", now_us=430_000, least_us=30_000)],
    )
    world.run(60)
    assert world.up.rate_bit_s == 14 * MBIT
    assert "not this link" in world.up.reason
    world.run(300)
    low = [shape for shape in world.shapes if shape is not None and shape < 13 * MBIT]
    assert len(low) < 60


def test_jitter_of_a_wifi_does_not_lower_a_rate() -> None:
    def jitter_ms(second: int) -> float:
        return 18.0 * (second * 2654435761 % 97) / 97 + (60.0 if second % 11 == 0 else 0.0)

    world = World(remembered=20 * MBIT, jitter_ms=jitter_ms)
    for _ in range(300):
        estimate = world.run(1)
        assert estimate.rate_bit_s is not None
        assert estimate.rate_bit_s >= 0.9 * 20e6


def test_an_application_that_wants_less_neither_raises_nor_lowers() -> None:
    world = World(Modem(app_limit=5e6), remembered=20 * MBIT)
    for _ in range(300):
        assert world.run(1).rate_bit_s == 20 * MBIT


def test_long_round_trips_on_an_idle_link_are_not_its_fault() -> None:
    world = World(
        Modem(app_limit=1e5),
        remembered=20 * MBIT,
        only_trips=lambda _: [Trip(remote=b"far", now_us=900_000, least_us=30_000)],
    )
    assert world.run(120).rate_bit_s == 20 * MBIT


def test_a_neighbour_on_the_same_network_says_nothing_of_the_modem() -> None:
    """A copy to the network's own disk at a rate that the modem never had; who is far away knows of nothing."""

    def said(_: World) -> list[Trip]:
        near = Trip(remote=b"disk", now_us=90_000, least_us=500, is_near=True)
        return [near, Trip(remote=b"far", now_us=31_000, least_us=30_000)]

    world = World(Modem(app_limit=500e6, capacity=900e6, window=1e9), only_trips=said)
    assert world.run(60).shape_bit_s is None


def test_a_weak_moment_is_forgotten_at_low_load() -> None:
    world = World()
    world.run(100)
    world.modem.capacity = 8e6
    world.run(20)
    world.modem.capacity, world.modem.app_limit = 20e6, 1e6
    estimate = world.run(120)
    assert estimate.rate_bit_s is not None
    assert 11e6 <= estimate.rate_bit_s <= 20.5e6


def test_the_download_is_blamed_for_its_own_queue() -> None:
    """Round trips are long while 50 Mbit/s arrive, and 1 Mbit/s of acknowledgements leaves."""
    capacity = LinkCapacity()
    for second in range(8):
        is_long = second >= 2
        trip = Trip(remote=b"far", now_us=None, receiving_us=230_000 if is_long else 30_000, least_us=30_000)
        look = Look(
            now_ns=second * NS_PER_S, sent_bytes=second * 125_000, received_bytes=second * 6_250_000, trips=[trip]
        )
        both = capacity.on_look(look)
    assert both.egress.shape_bit_s is None
    assert both.ingress.rate_bit_s is not None
    assert 40e6 <= both.ingress.rate_bit_s <= 50e6


def test_pages_beside_an_upload_are_not_what_is_full() -> None:
    """The uplink, known to carry 20 Mbit/s, carries 10 now; 1.5 Mbit/s of pages arrive meanwhile."""
    capacity = LinkCapacity(egress_bit_s=20 * MBIT)
    for second in range(12):
        trip = Trip(remote=b"far", now_us=330_000 if second else 30_000, least_us=30_000)
        look = Look(
            now_ns=second * NS_PER_S, sent_bytes=second * 1_250_000, received_bytes=second * 190_000, trips=[trip]
        )
        both = capacity.on_look(look)
        if both.egress.rate_bit_s != 20 * MBIT:
            break
    assert both.ingress.shape_bit_s is None
    assert both.egress.rate_bit_s is not None
    assert 8e6 <= both.egress.rate_bit_s <= 11e6


def test_acknowledgements_of_a_download_are_not_what_is_full() -> None:
    """By an uplink that is known, and by a downlink that is not."""
    capacity = LinkCapacity(egress_bit_s=20 * MBIT)
    for second in range(8):
        trip = Trip(remote=b"far", now_us=230_000 if second > 2 else 30_000, least_us=30_000)
        look = Look(
            now_ns=second * NS_PER_S, sent_bytes=second * 400_000, received_bytes=second * 12_500_000, trips=[trip]
        )
        both = capacity.on_look(look)
    assert both.egress.rate_bit_s == 20 * MBIT
    assert both.ingress.rate_bit_s is not None


def test_looks_that_come_ten_times_a_second_say_the_same() -> None:
    modem, capacity = Modem(), LinkCapacity()
    for tenth in range(300):
        modem.run(0.1, capacity.estimate.egress.shape_bit_s)
        trip = Trip(remote=b"far", now_us=int(modem.smoothed_ms * 1000), least_us=30_000)
        capacity.on_look(
            Look(now_ns=tenth * NS_PER_S // 10, sent_bytes=int(modem.sent / 8), received_bytes=0, trips=[trip])
        )
    assert_near(capacity.estimate.egress, 20e6)


def test_another_interface_of_that_name_and_a_long_sleep_are_no_traffic() -> None:
    world = World(remembered=20 * MBIT)
    world.run(10)
    world.modem.sent = 0
    assert world.run(1).rate_bit_s is not None
    before = world.up.rate_bit_s
    world.now_s += 86_400
    after = world.run(1).rate_bit_s
    assert before is not None
    assert after is not None
    assert abs(after - before) <= before * 0.2


# -- whatever happens ------------------------------------------------------------------------------------------------

SECONDS = st.lists(
    st.tuples(
        st.integers(0, 10**9),  # bit/s out
        st.integers(0, 10**9),
        st.lists(
            st.tuples(st.integers(0, 4), st.none() | st.integers(1, 5 * 10**6), st.none() | st.integers(1, 10**6)),
            max_size=4,
        ),
    ),
    max_size=60,
)


@given(seconds=SECONDS, remembered=st.none() | st.integers(64_000, 10**10))
def test_an_estimate_keeps_its_bounds_and_changes_by_steps(
    seconds: list[tuple[int, int, list[tuple[int, int | None, int | None]]]], remembered: int | None
) -> None:
    capacity = LinkCapacity(egress_bit_s=remembered)
    sent = received = 0
    before = capacity.estimate
    for number, (out, into, trips) in enumerate(seconds):
        sent, received = sent + out // 8, received + into // 8
        said = [Trip(remote=bytes([who]), now_us=now, receiving_us=now, least_us=least) for who, now, least in trips]
        after = capacity.on_look(Look(now_ns=number * NS_PER_S, sent_bytes=sent, received_bytes=received, trips=said))
        for old, new in ((before.egress, after.egress), (before.ingress, after.ingress)):
            assert (new.rate_bit_s is None) == (new.shape_bit_s is None) == (new.source is Source.UNKNOWN)
            assert 0 <= new.confidence_ppm <= PPM
            assert new.reason
            if new.rate_bit_s is not None and new.shape_bit_s is not None:
                assert 64_000 <= new.shape_bit_s <= max(new.rate_bit_s, 64_000)
            if new.rate_bit_s is not None and old.rate_bit_s is not None and "not this link" not in new.reason:
                assert old.rate_bit_s // 2 - 1 <= new.rate_bit_s <= max(old.rate_bit_s * 12 // 10, FLOOR_BIT_S)
        before = after


@given(
    remembered=st.integers(FLOOR_BIT_S * PPM // FLOOR_PPM, 10**10), loads=st.lists(st.integers(0, 10**10), max_size=50)
)
def test_no_load_without_a_round_trip_lowers_a_rate(remembered: int, loads: list[int]) -> None:
    capacity = LinkCapacity(egress_bit_s=remembered)
    sent = 0
    for number, load in enumerate(loads):
        sent += load // 8
        estimate = capacity.on_look(Look(now_ns=number * NS_PER_S, sent_bytes=sent, received_bytes=0)).egress
        assert estimate.rate_bit_s == remembered


def test_the_constants_agree() -> None:
    assert KNOWN_PPM > PPM  # else nothing would ever be tried quickly
