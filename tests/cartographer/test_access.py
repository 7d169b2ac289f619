"""The cheapest usable access, a person's word first, and no running to and fro."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from cartographer.access import (
    AGENT,
    PERSON,
    SYSTEM,
    AccessChooser,
    AccessFacts,
    AccessTerms,
    comparable,
    made_of,
    price_of_packet,
)
from cartographer.statistics import WayStatistics
from cartographer.values import Quantity, Wants

S = 1_000_000_000
MS = 1_000_000
CALLS = Wants(name="timely", delay_nanodollars_per_ms=10, loss_nanodollars=2000)


class Access:
    """One that is measured once a second."""

    def __init__(self, interface: str, delay_ms: float, *, price: int = 0, seed: int = 0) -> None:
        self.interface, self.delay_ms, self.price = interface, delay_ms, price
        self.unusable = self.last_resort = ""
        self.statistics = WayStatistics()
        self._draw = random.Random(seed)

    def measure(self, now_ns: int, *, lost: bool = False) -> None:
        self.statistics.on_packets(sent=1, lost=int(lost), marked=0, now_ns=now_ns)
        if not lost:
            self.statistics.on_sample(Quantity.DELAY_NS, self._draw.gauss(self.delay_ms, 0.3) * MS, now_ns)

    @property
    def facts(self) -> AccessFacts:
        return AccessFacts(
            interface=self.interface,
            statistics=self.statistics,
            price_picodollars=self.price,
            unusable=self.unusable,
            last_resort=self.last_resort,
        )


class Host:
    def __init__(self, *accesses: Access, wants: Wants = CALLS, system: str = "") -> None:
        self.chooser = AccessChooser(wants)
        self.accesses = list(accesses)
        self.system = system or accesses[0].interface
        self.now_ns = 0
        self.decision = self.decide()

    def decide(self) -> object:
        facts = [each.facts for each in self.accesses]
        self.decision = self.chooser.decide(facts, system=self.system, now_ns=self.now_ns)
        return self.decision

    def run(self, seconds: int) -> list[str]:
        """Where the flows went in each of them."""
        found = []
        for _ in range(seconds):
            self.now_ns += S
            for each in self.accesses:
                each.measure(self.now_ns)
            self.decide()
            found.append(self.decision.interface)
        return found

    def reason(self, interface: str) -> str:
        verdict = self.decision.of(interface)
        assert verdict is not None
        return verdict.reason


@pytest.mark.row("BP-19")
def test_the_faster_access_is_taken_and_the_reasons_say_what_it_costs() -> None:
    host = Host(Access("eth0", 60), Access("wlan0", 20))
    assert host.run(30)[-1] == "wlan0"
    assert host.decision.chosen_by == AGENT
    assert "now costs least" in host.reason("wlan0") or "costs least" in host.reason("wlan0")
    assert host.reason("eth0").startswith("costs 400") or "n$ more than wlan0" in host.reason("eth0")
    assert "60" in host.reason("eth0")


@pytest.mark.row("BP-19")
def test_an_isp_that_gets_dearer_loses_the_traffic() -> None:
    wants = Wants(name="bulk", delay_nanodollars_per_ms=0)
    eth, wlan = Access("eth0", 10, price=1000), Access("wlan0", 10, price=2000)
    host = Host(eth, wlan, wants=wants)
    assert set(host.run(5)) == {"eth0"}
    eth.price = 2100
    assert set(host.run(5)) == {"eth0"}, "5 % are not worth another ISP"
    eth.price = 4000
    assert host.run(1) == ["wlan0"]
    eth.price = 1000
    assert set(host.run(58)) == {"wlan0"}, "it changed only a short time ago"
    assert "stays for" in host.decision.reason
    assert host.run(5)[-1] == "eth0"


def test_equal_accesses_are_not_changed_for_noise() -> None:
    host = Host(Access("eth0", 30, seed=1), Access("wlan0", 29.7, seed=2))
    assert set(host.run(600)) == {"eth0"}
    assert host.decision.chosen_by == SYSTEM


def test_two_that_take_turns_in_being_better_change_seldom() -> None:
    eth, wlan = Access("eth0", 20, seed=1), Access("wlan0", 30, seed=2)
    host = Host(eth, wlan)
    went = []
    for turn in range(30):
        eth.delay_ms, wlan.delay_ms = (20, 30) if turn % 2 else (30, 20)
        went += host.run(20)
    changes = sum(before != now for before, now in pairwise(went))
    assert changes <= 600 / 60


def test_a_dead_access_is_left_at_once_and_returned_to_after_a_while() -> None:
    eth, wlan = Access("eth0", 20), Access("wlan0", 60)
    host = Host(eth, wlan)
    host.run(20)
    eth.unusable = "no connectivity"
    assert host.run(1) == ["wlan0"]
    assert host.reason("eth0").startswith("no connectivity")
    eth.unusable = ""
    assert set(host.run(50)) == {"wlan0"}, "it may die again"
    assert host.run(20)[-1] == "eth0"


def test_when_none_is_usable_the_system_decides() -> None:
    eth, wlan = Access("eth0", 20), Access("wlan0", 60)
    host = Host(eth, wlan)
    eth.unusable = wlan.unusable = "a captive portal"
    host.run(1)
    assert (host.decision.interface, host.decision.chosen_by) == ("", SYSTEM)
    assert host.decision.reason == "no access is usable"


def test_a_last_resort_is_taken_where_nothing_else_is_usable() -> None:
    eth, lte = Access("eth0", 60), Access("wwan0", 5)
    lte.last_resort = "metered, and nobody says what it costs"
    host = Host(eth, lte)
    assert set(host.run(30)) == {"eth0"}, "however fast it is"
    assert host.reason("wwan0").startswith("metered, and nobody says what it costs")
    eth.unusable = "no connectivity"
    assert host.run(1) == ["wwan0"]


@pytest.mark.row("BP-60")
def test_a_persons_word_goes_first_while_its_access_is_usable() -> None:
    eth, lte = Access("eth0", 20), Access("wwan0", 80, price=10**6)
    host = Host(eth, lte)
    host.chooser.say("wwan0")
    assert host.run(3) == ["wwan0"] * 3
    assert host.decision.chosen_by == PERSON
    lte.unusable = "dead: nothing comes back any more"
    assert host.run(1) == ["eth0"]
    assert host.decision.reason.startswith("a person wants wwan0, but dead")
    lte.unusable = ""
    assert host.run(1) == ["wwan0"]
    host.chooser.say("")
    assert host.run(1) == ["eth0"]


def test_what_the_class_minds_and_nobody_measured_is_not_known() -> None:
    host = Host(Access("eth0", 20), Access("wlan0", 5))
    for _ in range(10):
        host.now_ns += S
        host.accesses[0].measure(host.now_ns)
        host.decide()
    assert host.decision.interface == "eth0"
    assert host.reason("wlan0") == "nothing is known of it yet"


def test_a_new_choice_of_the_system_is_followed_where_nothing_is_to_be_saved() -> None:
    free = Wants(name="default")
    host = Host(Access("eth0", 20), Access("wlan0", 20), wants=free)
    assert host.run(3)[-1] == "eth0"
    host.system = "wlan0"
    assert host.run(1) == ["wlan0"]
    assert host.decision.chosen_by == SYSTEM


def test_nothing_is_known_of_a_rate_unless_of_all() -> None:
    wants = Wants(name="bulk", target_bit_s=10**7, short_nanodollars=20)
    eth, wlan = Access("eth0", 20), Access("wlan0", 20)
    eth.statistics.on_sample(Quantity.THROUGHPUT_BIT_S, 10**6, 1)
    assert not comparable(wants, [eth.facts, wlan.facts], 2).short_nanodollars
    wlan.statistics.on_sample(Quantity.THROUGHPUT_BIT_S, 10**7, 1)
    assert comparable(wants, [eth.facts, wlan.facts], 2) is wants
    host = Host(eth, wlan, wants=wants)
    assert host.run(1) == ["wlan0"]


def test_who_wants_nothing_gets_what_the_system_does() -> None:
    host = Host(Access("eth0", 20), Access("wlan0", 2), wants=Wants(delay_nanodollars_per_ms=0, toll_ppm=0))
    host.run(3)
    assert host.decision.interface == ""
    host.accesses.clear()
    host.run(1)
    assert host.decision.reason == "there is no access"


def test_one_access_is_no_choice() -> None:
    host = Host(Access("eth0", 20))
    assert host.run(3)[-1] == "eth0"
    assert host.decision.reason == "the only usable access"


def test_a_price_of_a_megabyte_is_a_packets() -> None:
    assert price_of_packet(2_000_000) == 3_000_000  # 2 USD/GB: 3 µ$ for 1,500 bytes
    access = Access("eth0", 20, price=3_000_000)
    access.measure(S)
    assert made_of(access.facts, CALLS, S).endswith("0 % lost, price 3000 n$")
    assert AccessTerms().hysteresis_ppm > 0
