"""What survives: a restart, a change of networks, a withdrawn description; and what others' beliefs are good for."""

from __future__ import annotations

import gc
import sys
from random import Random

import msgspec
import pytest

from billpay.header import isp_oad, user_oad
from billpay.messages import OadAlternative, OadDescription
from cartographer.cartographer import Cartographer
from cartographer.policy import PathPolicy
from cartographer.priors import MAX_PREFIXES, MAX_WAYS, slots_of
from cartographer.remembered import RememberedMap
from cartographer.topology import DESTINATION, HERE, Link
from cartographer.values import Estimate, Quantity

MS = 1_000_000
S = 1000 * MS
NOW = 1000 * S
X, Y, Z = 64512, 64513, 64514
B = "10.0.1.1"
BY_1 = (isp_oad(X, available=[1, 2], choice=1), isp_oad(Y, available=[1], choice=1))
BY_2 = (
    isp_oad(X, available=[1, 2], choice=2),
    isp_oad(Z, available=[1], choice=1),
    isp_oad(Y, available=[1], choice=1),
)
ASK_2 = (user_oad(X, choice=2),)
WAY_1, WAY_2 = f"AS{X}:1 AS{Y}:1", f"AS{X}:2 AS{Z}:1 AS{Y}:1"
DELAY, TOLL = Quantity.DELAY_NS, Quantity.FORWARD_TOLL_PICODOLLARS


def described(serial: int = 1, *, issuer: str = "a" * 64, prefix: str = "10.0.0.0/16") -> OadDescription:
    return OadDescription(
        issuer=issuer,
        as_number=X,
        serial=serial,
        prefix=prefix,
        alternatives=(OadAlternative(number=1, title="direct"), OadAlternative(number=2, title="through Z")),
        published_unix_s=0,
        expires_unix_s=3600,
    )


def learned(destination: str = B, *, now_ns: int = NOW, draw: float = 0.5) -> Cartographer:
    """A cartographer that has measured both ways to a destination."""
    cartographer = Cartographer(PathPolicy(delay_value_nanodollars_per_ms=1), draw=lambda: draw)
    cartographer.on_description(described(), 0, now_ns)
    teach(cartographer, destination, now_ns)
    return cartographer


def teach(cartographer: Cartographer, destination: str, now_ns: int) -> None:
    cartographer.choose(destination, now_ns)
    for _ in range(4):
        cartographer.on_oads_seen(destination, BY_1, 20, 6, now_ns, packets=10, lost=1, marked=2, asked=())
        cartographer.on_probe_reply(destination, (), BY_1, 14, 20 * MS, now_ns, amount_nanodollars=20)
        cartographer.on_probe_reply(destination, ASK_2, BY_2, 6, 20 * MS, now_ns, amount_nanodollars=20)
    cartographer.on_return_toll(destination, WAY_1, 3_000, now_ns)
    cartographer.on_goodput(destination, WAY_1, 7_000_000, now_ns)


@pytest.mark.row("BP-24", "BP-31")
def test_all_seven_quantities_are_kept_apart_by_way_and_direction() -> None:
    cartographer = learned()
    ways = {item.way: item.estimates for item in cartographer.quality(NOW)}
    assert set(ways) == {WAY_1, WAY_2}
    assert set(ways[WAY_1]) == set(Quantity)
    assert ways[WAY_1][TOLL].value == 14_000
    assert ways[WAY_1][Quantity.RETURN_TOLL_PICODOLLARS].value == 3_000
    assert ways[WAY_1][Quantity.THROUGHPUT_BIT_S].value == 7_000_000
    assert ways[WAY_1][Quantity.LOSS_PPM].value > ways[WAY_2][Quantity.LOSS_PPM].value
    assert ways[WAY_1][Quantity.MARKS_PPM].value > 0
    assert Quantity.RETURN_TOLL_PICODOLLARS not in ways[WAY_2]


def test_sockets_tell_of_destinations_without_bill_pay() -> None:
    cartographer = Cartographer(PathPolicy(delay_value_nanodollars_per_ms=1))
    cartographer.on_round_trip("192.0.2.1", 30 * MS, NOW)
    cartographer.on_loss("192.0.2.1", sent=1000, lost=10, now_ns=NOW)
    (quality,) = cartographer.quality(NOW)
    assert (quality.way, quality.estimates[DELAY].value) == ("", 30 * MS)
    assert quality.estimates[Quantity.LOSS_PPM].value > 1000
    choice = cartographer.choose("192.0.2.1", NOW)
    assert (choice.way, choice.chosen) == ("", ())
    cartographer.on_oads_seen("192.0.2.1", BY_1, 20, 6, NOW, asked=())
    assert {item.way for item in cartographer.quality(NOW)} == {WAY_1}, "from now on its ways have names"


# --- over restarts and networks ---------------------------------------------------------------------------------------


def test_a_restart_keeps_everything_and_ages_grow_by_the_time_that_passed() -> None:
    before = learned()
    before.choose(B, NOW + S)
    stored = msgspec.json.decode(msgspec.json.encode(before.remember(NOW + S)), type=RememberedMap)
    after = Cartographer(PathPolicy(delay_value_nanodollars_per_ms=1))
    after.recall(stored, 5 * S, elapsed_ns=60 * S)
    then = {item.way: item.estimates for item in before.quality(NOW + S)}
    now = {item.way: item.estimates for item in after.quality(5 * S)}
    assert then.keys() == now.keys()
    for way, estimates in then.items():
        for quantity, estimate in estimates.items():
            again = now[way][quantity]
            assert again.value == estimate.value
            assert again.samples == pytest.approx(estimate.samples)
            assert estimate.measured_ns is not None
            assert again.measured_ns == 5 * S - 60 * S - (NOW + S - estimate.measured_ns)
    assert after.choose(B, 5 * S).way == WAY_2, "what was learned decides at once"
    assert after.choose(B, 5 * S).slots[0] == ASK_2[0]
    assert after.topology.descriptions()[0].message == described()
    assert set(after.topology.links()) == {
        Link(as_number=item.as_number, alternative=item.alternative, following=item.following, seen_ns=-56 * S)
        for item in before.topology.links()
    }


def test_another_network_is_another_map_and_the_old_one_is_recalled() -> None:
    home, away = learned(), Cartographer()
    kept = home.remember(NOW)
    away.choose(B, NOW)
    assert list(away.quality(NOW)) == []
    again = Cartographer()
    again.recall(kept, NOW + 86_400 * S, elapsed_ns=86_400 * S)
    assert {item.way for item in again.quality(NOW + 86_400 * S)} == {WAY_1, WAY_2}
    assert again.topology.descriptions() == (), "it has expired meanwhile"


def test_what_is_known_already_is_newer_than_what_is_recalled() -> None:
    stored = learned().remember(NOW)
    later = learned(now_ns=2 * NOW)
    later.on_round_trip(B, 90 * MS, 2 * NOW, way=WAY_1)
    before = list(later.quality(2 * NOW))
    later.recall(stored, 2 * NOW, elapsed_ns=10 * S)
    assert list(later.quality(2 * NOW)) == before


# --- the topology -----------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-22", "BP-31")
def test_the_topology_is_what_packets_met_and_what_isps_say() -> None:
    cartographer = learned()
    links = {(item.as_number, item.alternative, item.following) for item in cartographer.topology.links()}
    assert links == {(HERE, 0, X), (X, 1, Y), (X, 2, Z), (Z, 1, Y), (Y, 1, DESTINATION)}
    (held,) = cartographer.topology.descriptions()
    assert (held.message.issuer, held.message.serial, str(held.prefix)) == ("a" * 64, 1, "10.0.0.0/16")
    assert held.learned_ns == NOW


def test_the_longest_prefix_says_what_holds() -> None:
    cartographer = learned()
    closed = msgspec.structs.replace(
        described(prefix="10.0.1.0/24"), alternatives=(OadAlternative(number=2, title="", available=False),)
    )
    assert cartographer.on_description(closed, 0, NOW)
    cartographer.choose(B, NOW + S)
    assert {fact.alternative for fact in cartographer.view(NOW + S) if fact.as_number == X} == {1}
    assert cartographer.on_withdrawn("a" * 64, X, "10.0.1.0/24")
    cartographer.choose(B, NOW + 2 * S)
    assert {fact.alternative for fact in cartographer.view(NOW + 2 * S) if fact.as_number == X} == {1, 2}
    assert not cartographer.on_withdrawn("b" * 64, X, "10.0.0.0/16"), "not this issuer's"
    assert not cartographer.on_withdrawn("a" * 64, X, "nonsense")


def test_links_are_bounded() -> None:
    cartographer = Cartographer(PathPolicy(max_links=10))
    for number in range(1, 100):
        cartographer.on_oads_seen(B, [isp_oad(number, available=[1], choice=1)], 1, 1, NOW + number)
    assert len(cartographer.topology.links()) == 10


# --- what a pool believes ---------------------------------------------------------------------------------------------


def believed(value: int, samples: float = 20.0) -> Estimate:
    return Estimate(value=value, uncertainty=value // 20, spread=value // 10, samples=samples, measured_ns=None)


@pytest.mark.row("BP-32")
def test_a_pools_beliefs_decide_before_anything_was_measured_here_and_not_after() -> None:
    cartographer = Cartographer(PathPolicy(delay_value_nanodollars_per_ms=1))
    assert cartographer.on_prior("10.0.0.0/8", WAY_1, {TOLL: believed(14_000), DELAY: believed(20 * MS)})
    assert cartographer.on_prior("10.0.0.0/8", WAY_2, {TOLL: believed(5_000), DELAY: believed(20 * MS)})
    cartographer.choose(B, NOW)
    cartographer.on_oads_seen(B, BY_1, 20, 6, NOW, asked=())
    choice = cartographer.choose(B, NOW + S)
    assert choice.slots[0] == ASK_2[0], "nobody here was there yet"
    for step in range(50):
        now_ns = NOW + (step + 2) * S
        cartographer.choose(B, now_ns)
        cartographer.on_probe_reply(B, ASK_2, BY_2, 40, 20 * MS, now_ns, amount_nanodollars=50)
        cartographer.on_probe_reply(B, (), BY_1, 14, 20 * MS, now_ns, amount_nanodollars=50)
    assert cartographer.on_prior("10.0.0.0/8", WAY_2, {TOLL: believed(1_000)})
    assert cartographer.choose(B, NOW + 60 * S).way == WAY_1


def test_priors_are_of_real_ways_and_prefixes_and_bounded() -> None:
    cartographer = Cartographer()
    for prefix, way in (("10.0.0.1/8", WAY_1), ("10.0.0.0/8", ""), ("10.0.0.0/8", "AS1:1 AS1:2"), ("nonsense", WAY_1)):
        assert not cartographer.on_prior(prefix, way, {})
    for number in range(MAX_PREFIXES + 10):
        cartographer.on_prior(f"10.{number >> 8}.{number & 255}.0/24", WAY_1, {})
    assert len(cartographer._priors._prefixes) == MAX_PREFIXES
    for number in range(1, MAX_WAYS + 10):
        cartographer.on_prior("10.5.5.0/24", f"AS{number}:1", {})
    assert len(cartographer._priors._prefixes["10.5.5.0/24"][1]) == MAX_WAYS
    assert slots_of("AS1:x") == slots_of("AS70000:1") == slots_of("AS1:12") == ()


# --- pairs, flows -----------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-46")
def test_duplicates_get_two_ways_that_share_no_isp() -> None:
    cartographer = Cartographer()
    by_1 = (isp_oad(X, available=[1, 2], choice=1), isp_oad(Y, available=[1], choice=1))
    by_2 = (isp_oad(X, available=[1, 2], choice=2), isp_oad(Z, available=[1], choice=1))
    cartographer.choose(B, NOW, wants="timely")
    cartographer.on_oads_seen(B, by_1, 20, 6, NOW, packets=100, lost=5, asked=())
    assert cartographer.disjoint_pair(B, NOW) is None
    cartographer.on_probe_reply(B, ASK_2, by_2, 6, 20 * MS, NOW)
    cartographer.on_traffic(B, f"AS{X}:2 AS{Z}:1", sent=100, lost=5, now_ns=NOW)
    pair = cartographer.disjoint_pair(B, NOW + S)
    assert pair is not None
    assert {pair.first.way, pair.second.way} == {f"AS{X}:1 AS{Y}:1", f"AS{X}:2 AS{Z}:1"}
    second = cartographer.choice_of_way(B, f"AS{X}:2 AS{Z}:1", NOW + S)
    assert second is not None
    assert second.slots[0] == ASK_2[0]
    assert cartographer.disjoint_pair("10.9.9.9", NOW) is None
    assert cartographer.choice_of_way(B, "AS9:9", NOW) is None


def test_flows_are_spread_by_their_numbers_as_the_shares_say() -> None:
    random = Random(7)
    cartographer = Cartographer(PathPolicy(delay_value_nanodollars_per_ms=1), draw=random.random)
    teach(cartographer, B, NOW)
    flows = [random.getrandbits(64) for _ in range(400)]
    for step in range(40):
        now_ns = NOW + step * 20 * MS
        cartographer.on_probe_reply(B, (), BY_1, 14, 20 * MS, now_ns)
        cartographer.on_probe_reply(B, ASK_2, BY_2, 30, 20 * MS, now_ns)
        taken = [cartographer.choose(B, now_ns, flow_number=flow).way for flow in flows]
        shares = {fact.way: fact.share_ppm for fact in cartographer.ways(now_ns, B)}
        assert taken.count(WAY_2) / 400 == pytest.approx(shares.get(WAY_2, 0) / 1e6, abs=0.08)
    assert taken.count(WAY_1) == 400


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_ten_thousand_destinations_are_kept_and_no_more() -> None:
    """The bound is `max_destinations`; here with a hundredth, and what one takes."""
    cartographer = Cartographer(PathPolicy(max_destinations=100))
    for number in range(300):
        teach(cartographer, f"10.1.{number >> 8}.{number & 255}", NOW + number)
        cartographer.choose(f"10.1.{number >> 8}.{number & 255}", NOW + number)
    assert len(cartographer._map.destinations()) == 100
    assert len(cartographer._deciding) <= 101
    record = cartographer._map.get("10.1.1.40")
    assert record is not None
    assert _bytes_of(record) < 12_000, "so ten thousand take 120 MB at most"


def _bytes_of(top: object) -> int:
    """Of everything that only this refers to, roughly: shared singletons are left out."""
    seen: set[int] = set()
    waiting, total = [top], 0
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type) or callable(item):
            continue
        seen.add(id(item))
        if isinstance(item, int | float | str | Quantity) and sys.getrefcount(item) > 100:
            continue
        total += sys.getsizeof(item)
        waiting += gc.get_referents(item)
    return total
