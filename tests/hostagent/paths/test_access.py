"""Accesses once a second: what is measured, when the kernel hears of it, and what people see. A virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from billpay.errors import EnvironmentFault
from cartographer.values import Wants
from dataplane.access_routes import AccessApplied, AccessRoutes
from hostagent import api
from hostagent.configuration import AccessSection
from hostagent.desk import Refused
from hostagent.networks.situation import ActiveNetwork, Connectivity, NetworkKind, Router, Situation, Tunnel
from hostagent.paths.access import AccessChoice, system_choice
from hostagent.paths.targets import Targets

S = 1_000_000_000
CALLS = Wants(name="timely", delay_nanodollars_per_ms=10, loss_nanodollars=2000)
FREE = Wants(name="default", delay_nanodollars_per_ms=0)
FAR, FAR_6 = "203.0.113.20", "2001:db8:7::20"


def network(interface: str, number: int, **changes: object) -> ActiveNetwork:
    values: dict[str, object] = {
        "key": f"key-{interface}",
        "aliases": (f"key-{interface}",),
        "is_settled": True,
        "title": f"cable on {interface}",
        "kind": NetworkKind.CABLE,
        "interface": interface,
        "index": number,
        "is_primary": number == 1,
        "metrics": (number * 100, None),
        "routers": (Router(family=4, address=f"192.0.2.{number}", mac=""),),
        "prefixes": (),
        "addresses": (f"198.51.100.{number}",),
    }
    return ActiveNetwork(**(values | changes))  # type: ignore[arg-type]


ETH, WLAN = network("eth0", 1), network("wlan0", 2)


@dataclass(frozen=True, slots=True)
class Saw:
    local: str = "198.51.100.1"
    remote: str = FAR
    delivered_packets: int = 3
    lost_packets: int = 0


@dataclass(slots=True)
class Kernel:
    """Instead of `AccessRoutes`."""

    orders: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    restored: int = 0
    refusal: EnvironmentFault | None = None

    def apply(self, chosen: str, accesses: list[str]) -> AccessApplied:
        if self.refusal is not None:
            raise self.refusal
        self.orders.append((chosen, tuple(accesses)))
        return AccessApplied(families=(4, 6))

    def restore(self) -> bool:
        self.restored += 1
        return True


class Host:
    """Round trips in ms by interface; None: no answer."""

    def __init__(self, *networks: ActiveNetwork, choose: str = "act", wants: Wants = CALLS, acts: bool = True) -> None:
        self.networks = networks or (ETH, WLAN)
        self.tunnels: tuple[Tunnel, ...] = ()
        self.round_trips: dict[str, int | None] = {"eth0": 60, "wlan0": 20}
        self.kernel, self.said = Kernel(), list[str]()
        self.prices: list[api.Price] = []
        self.acts, self.now_ns = acts, 0
        self.asked: list[tuple[int, str, str]] = []
        self.forbidden = False
        self.choice = AccessChoice(
            AccessSection(choose=choose),  # type: ignore[arg-type]
            wants,
            state_directory=Path("/nonexistent"),
            say=lambda _code, message: self.said.append(message),
            acts=lambda: self.acts,
            prices=lambda: self.prices,
            ask=self._ask,
            routes=self.kernel,  # type: ignore[arg-type]
        )

    async def _ask(self, interface: str, address: str) -> int | None:
        if self.forbidden:
            raise EnvironmentFault("probe by", interface, "not permitted")
        self.asked.append((self.now_ns // S, interface, address))
        found = self.round_trips[interface]
        return None if found is None else found * 1_000_000

    async def run(self, seconds: int, *, seen: tuple[Saw, ...] = (Saw(),)) -> None:
        for _ in range(seconds):
            self.now_ns += S
            situation = Situation(networks=self.networks, tunnels=self.tunnels)
            self.choice.on_second(situation, self.now_ns, seen)
            await self.settle()

    async def settle(self) -> None:
        for task in (self.choice._probing, self.choice._work):
            if task is not None:
                await asyncio.gather(task, return_exceptions=True)

    def row(self, interface: str) -> api.Access:
        return next(each for each in self.choice.view() if each.interface == interface)


@contextlib.asynccontextmanager
async def running(host: Host) -> AsyncIterator[Host]:
    async with host.choice.running():
        yield host


# --- acting -----------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-19")
async def test_the_kernel_hears_of_the_better_access_once_and_everything_is_undone_at_the_end() -> None:
    async with running(Host()) as host:
        assert host.kernel.restored == 1, "what a killed agent left"
        await host.run(25)
        assert host.kernel.orders == [("wlan0", ("eth0", "wlan0"))]
        assert host.choice.in_force
        row = host.row("wlan0")
        assert (row.chosen_by, row.delay_ns, row.loss_ppm) == ("agent", 20_000_000, 0)
        assert row.cost_nanodollars_per_packet == 200
        assert "n$ more than wlan0" in host.row("eth0").reason
        assert len(host.said) == 1
        assert host.said[0].startswith("new flows go by cable on wlan0: ")
        await host.run(60)
        assert {order[0] for order in host.kernel.orders} == {"wlan0"}
        assert len(host.kernel.orders) == 3, "others may have taken the rules away: it is looked at now and then"
    assert host.kernel.restored == 2


async def test_nothing_is_changed_where_the_system_does_it_right() -> None:
    async with running(Host()) as host:
        host.round_trips = {"eth0": 20, "wlan0": 60}
        await host.run(30)
        assert host.kernel.orders == []
        assert host.said == []
        assert host.row("eth0").chosen_by == "system"


@pytest.mark.parametrize(("choose", "acts"), [("advise", True), ("act", False), ("off", True)])
async def test_who_only_observes_or_advises_changes_nothing(choose: str, acts: bool) -> None:
    async with running(Host(choose=choose, acts=acts)) as host:
        await host.run(30)
        assert host.kernel.orders == []
        if choose == "off":
            assert (host.said, host.asked) == ([], [])
        else:
            assert [each.partition(":")[0] for each in host.said] == ["new flows would go by cable on wlan0"]
            assert host.row("wlan0").reason.startswith("would be taken, but")
        assert len(host.choice.view()) == 2


@pytest.mark.row("BP-60")
async def test_a_person_chooses_and_leaves_it_to_the_agent_again() -> None:
    async with running(Host(choose="advise", wants=FREE)) as host:
        await host.run(3)
        with pytest.raises(Refused, match="wwan0 leads nowhere; accesses are: eth0, wlan0"):
            host.choice.change(api.AccessChange(interface="wwan0"))
        host.choice.change(api.AccessChange(interface="wlan0"))
        await host.run(2)
        assert host.kernel.orders == [("wlan0", ("eth0", "wlan0"))]
        assert host.row("wlan0").chosen_by == "person"
        assert host.row("wlan0").reason.startswith("a person said so")
        host.choice.change(api.AccessChange())
        await host.run(2)
        assert not host.choice.in_force
        assert host.kernel.restored == 2
        assert host.said[-1] == "new flows go as the system says: costs least: 0 n$ a packet"


async def test_a_persons_word_does_nothing_in_an_agent_that_observes() -> None:
    async with running(Host(acts=False, wants=FREE)) as host:
        await host.run(1)
        host.choice.change(api.AccessChange(interface="wlan0"))
        await host.run(2)
        assert host.kernel.orders == []
        assert "the agent only observes" in host.row("wlan0").reason
        host.acts = True
        await host.run(1)
        assert host.kernel.orders == [("wlan0", ("eth0", "wlan0"))]
        host.acts = False
        await host.run(1)
        assert not host.choice.in_force


async def test_a_vpn_for_everything_is_left_alone() -> None:
    async with running(Host()) as host:
        await host.run(25)
        host.tunnels = (Tunnel(interface="wg0", kind="wireguard", underlay="eth0", families=(4,)),)
        await host.run(1)
        assert not host.choice.in_force
        assert "VPN wg0 carries default traffic" in host.row("wlan0").reason


async def test_a_refusal_is_said_once_and_tried_again_later() -> None:
    async with running(Host()) as host:
        host.kernel.refusal = EnvironmentFault("change", "rules", "not permitted")
        await host.run(40)
        assert sum("not permitted" in message for message in host.said) == 1
        assert "not permitted" in host.row("wlan0").reason
        host.kernel.refusal = None
        await host.run(60)
        assert host.choice.in_force


# --- what is usable ---------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-19")
async def test_an_access_where_nothing_comes_back_is_left_within_seconds() -> None:
    async with running(Host()) as host:
        host.round_trips = {"eth0": 20, "wlan0": 60}
        await host.run(20)
        host.round_trips["eth0"] = None
        begin = host.now_ns
        while not host.kernel.orders:
            await host.run(1, seen=())
            assert host.now_ns - begin < 20 * S
        assert host.kernel.orders == [("wlan0", ("eth0", "wlan0"))]
        await host.run(6, seen=())
        assert host.row("eth0").reason.startswith("dead: nothing comes back any more")
        host.round_trips["eth0"] = 20
        await host.run(80, seen=(Saw(),))
        assert host.kernel.orders[-1][0] == "eth0", "it is asked still, and came back"


async def test_sockets_that_live_show_that_the_access_does() -> None:
    async with running(Host()) as host:
        host.round_trips = {"eth0": 20, "wlan0": 60}
        await host.run(20)
        host.round_trips["eth0"] = None  # somebody filters echoes
        await host.run(60)
        assert "dead" not in host.row("eth0").reason


async def test_what_is_metered_and_has_no_price_is_the_last_resort() -> None:
    async with running(Host(ETH, replace(WLAN, metered=True))) as host:
        await host.run(80)
        assert host.kernel.orders == []
        assert host.row("wlan0").reason.startswith("metered, and nobody says what it costs")
    async with running(Host(replace(ETH, metered=True), replace(WLAN, metered=True))) as host:
        host.prices = [api.Price(interface="wlan0", direction="in", nanodollars_per_mb=1000, source="data plan")]
        await host.run(80)
        assert host.kernel.orders[0][0] == "wlan0", "it has a price, and is faster"


async def test_a_captive_portal_is_no_access() -> None:
    portal = replace(WLAN, connectivity=Connectivity.PORTAL, connectivity_because="NetworkManager's check")
    async with running(Host(ETH, portal)) as host:
        await host.run(25)
        assert host.kernel.orders == []
        assert host.row("wlan0").reason.startswith("a captive portal: log in there first (NetworkManager's check)")


@pytest.mark.row("BP-19")
async def test_a_data_plan_that_gets_dear_loses_the_traffic_but_our_own_queue_does_not_count() -> None:
    host = Host(wants=FREE)
    own = api.Price(interface="eth0", direction="out", nanodollars_per_mb=9_000_000, source="embedded gateway")
    plan = api.Price(interface="eth0", direction="in", nanodollars_per_mb=2_000_000, source="data plan")
    async with running(host):
        host.prices = [own]
        await host.run(3)
        assert host.kernel.orders == []
        host.prices = [own, plan]
        await host.run(3)
        assert host.kernel.orders == [("wlan0", ("eth0", "wlan0"))]
        assert host.row("eth0").price_nanodollars_per_mb == 2_000_000
        assert host.row("eth0").cost_nanodollars_per_packet == 3000


# --- what is measured -------------------------------------------------------------------------------------------------


async def test_all_are_asked_for_the_same_few_destinations_and_seldom() -> None:
    async with running(Host()) as host:
        many = tuple(Saw(remote=f"203.0.113.{number}") for number in range(20))
        await host.run(100, seen=many)
        by_round: dict[int, dict[str, set[str]]] = {}
        for second, interface, address in host.asked:
            by_round.setdefault(second, {}).setdefault(interface, set()).add(address)
        assert len(by_round) <= 10 + 1
        for asked in by_round.values():
            assert asked["eth0"] == asked["wlan0"]
            assert len(asked["eth0"]) <= 3


async def test_what_is_metered_is_asked_less_often_and_one_access_never() -> None:
    async with running(Host(ETH, replace(WLAN, metered=True))) as host:
        await host.run(120)
        assert len([each for each in host.asked if each[1] == "wlan0"]) <= 3
    async with running(Host(ETH)) as host:
        await host.run(30)
        assert host.asked == []


async def test_without_destinations_a_router_is_asked_whether_it_lives() -> None:
    async with running(Host()) as host:
        await host.run(12, seen=())
        assert {each[1:] for each in host.asked} == {("eth0", "192.0.2.1"), ("wlan0", "192.0.2.2")}
        assert host.row("wlan0").delay_ns is None, "a router's delay says nothing of the Internet's"


async def test_where_no_echo_may_be_sent_it_is_said_once() -> None:
    async with running(Host()) as host:
        host.forbidden = True
        await host.run(40)
        assert host.said == ["accesses without traffic are not measured: probe by eth0: not permitted"]


def test_targets_are_those_in_use_that_answer() -> None:
    targets = Targets()
    for address in (FAR, FAR_6, "127.0.0.1", "fe80::1", "203.0.113.9"):
        targets.use(address, 0)
    assert targets.choose({4}, 1) == ["203.0.113.9", FAR]
    assert targets.choose({4, 6}, 1) == ["203.0.113.9", FAR_6, FAR]
    assert targets.on_answer(FAR, answered=True)
    assert targets.choose({4}, 1)[0] == FAR
    for _ in range(3):
        assert not targets.on_answer("203.0.113.9", answered=False)
    assert targets.choose({4}, 1) == [FAR]
    assert targets.on_answer(FAR, answered=False), "its silence is a loss"
    for number in range(100):
        targets.use(f"10.0.0.{number}", S)
    assert targets.choose({4}, S)[0] == FAR, "one that answers is not forgotten for those of which nothing is known"
    assert FAR not in targets.choose({4}, 600 * S), "nobody uses it any more"
    assert targets.choose({4}, 601 * S) == []


def test_what_the_system_would_do_is_the_lowest_metric() -> None:
    assert system_choice([WLAN, ETH]) == "eth0"
    assert system_choice([replace(ETH, metrics=(None, 5)), WLAN]) == "wlan0"
    assert system_choice([]) == ""


def test_the_record_is_where_restore_looks(tmp_path: Path) -> None:
    choice = AccessChoice(
        AccessSection(), CALLS, state_directory=tmp_path, say=lambda _code, _text: None, acts=lambda: True
    )
    assert isinstance(choice._routes, AccessRoutes)
    assert choice._routes._path == tmp_path / "access-routes.json"
