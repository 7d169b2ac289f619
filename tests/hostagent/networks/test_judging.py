"""What follows from what was seen: keys, titles, the primary network, VPNs, metering, changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.network_state import Clocks, DefaultRoute, InterfaceKind, InterfaceState, NetworkState, Prefix
from hostagent.networks.judging import SETTLE_NS, judge
from hostagent.networks.leases import Lease
from hostagent.networks.situation import (
    ActiveNetwork,
    ChangeKind,
    Connectivity,
    Managed,
    ManagedDevice,
    ManagedMetered,
    NetworkKind,
    Seen,
    Situation,
    printable,
)

SECOND = 1_000_000_000
ROUTER_MAC = "02:00:00:00:aa:01"


def interface(
    name: str = "eth0",
    kind: InterfaceKind = InterfaceKind.CABLE,
    addresses: Sequence[str] = ("192.0.2.7/24", "fe80::7/64"),
    *,
    index: int = 3,
    ssid: str = "",
    link_kind: str = "",
    driver: str = "",
    temporary: str = "",
) -> InterfaceState:
    parsed = [ip_interface(each) for each in addresses]
    prefixes = tuple(
        Prefix(address=str(each.ip), network=str(each.network), is_temporary=str(each) == temporary) for each in parsed
    )
    return InterfaceState(
        index=index, name=name, kind=kind, prefixes=prefixes, ssid=ssid, link_kind=link_kind, driver=driver
    )


def route(router: str = "192.0.2.1", *, name: str = "eth0", mac: str = ROUTER_MAC, metric: int = 100) -> DefaultRoute:
    family = 6 if router and ip_address(router).version == 6 else 4
    return DefaultRoute(family=family, metric=metric, interface=name, router=router, router_mac=mac)


def state(
    interfaces: Sequence[InterfaceState],
    routes: Sequence[DefaultRoute],
    *,
    carriers: tuple[str, str] | None = None,
    at_s: float = 10,
    slept_s: int = 0,
) -> NetworkState:
    if carriers is None:
        first = {each.family: each.interface for each in sorted(routes, key=lambda each: -each.metric)}
        carriers = (first.get(4, ""), first.get(6, ""))
    now_ns = int(at_s * SECOND)
    clocks = Clocks(monotonic_ns=now_ns, boottime_ns=now_ns + slept_s * SECOND)
    return NetworkState(interfaces=tuple(interfaces), default_routes=tuple(routes), carriers=carriers, clocks=clocks)


def look(seen: Seen | NetworkState, before: Situation | None = None) -> Situation:
    return judge(seen if isinstance(seen, Seen) else Seen(state=seen), before)


def only(seen: Seen | NetworkState, before: Situation | None = None) -> ActiveNetwork:
    networks = look(seen, before).networks
    assert len(networks) == 1
    return networks[0]


def kinds(situation: Situation) -> list[ChangeKind]:
    return [each.kind for each in situation.changes]


# -- the key ---------------------------------------------------------------------------------------------------------

FOUR, SIX = route("192.0.2.1"), route("fe80::1")


@pytest.mark.expectation(20)
@pytest.mark.parametrize("routes", [[FOUR], [SIX], [FOUR, SIX]])
def test_one_network_has_one_key_over_either_family_or_both(routes: list[DefaultRoute]) -> None:
    expected = only(state([interface()], [FOUR])).key
    assert only(state([interface()], routes)).key == expected


def test_the_key_holds_under_another_interface_index_name_and_address() -> None:
    here = only(state([interface()], [FOUR]))
    there = only(state([interface("enx9", index=77, addresses=("192.0.2.99/24",))], [route(name="enx9")]))
    behind_a_bridge = only(state([interface("br0", InterfaceKind.BRIDGE)], [route(name="br0")]))
    assert here.key == there.key == behind_a_bridge.key
    assert only(state([interface()], [route(mac="02:00:00:00:aa:02")])).key != here.key


def test_wifi_is_known_by_its_name_whichever_access_point_answers() -> None:
    home = interface("wlan0", InterfaceKind.WIFI, ssid="Home")
    first = only(state([home], [route(name="wlan0", mac="02:00:00:00:00:01")]))
    second = only(state([home], [route(name="wlan0", mac="02:00:00:00:00:02")]))
    assert (first.key, first.title, first.kind) == (second.key, "Wi-Fi Home", NetworkKind.WIFI)
    cafe = interface("wlan0", InterfaceKind.WIFI, ssid="Cafe")
    assert only(state([cafe], [route(name="wlan0", mac="02:00:00:00:00:01")])).key != first.key


def test_a_virtual_router_mac_is_told_apart_by_the_prefix() -> None:
    shared = route(mac="00:00:5e:00:01:01")
    here = only(state([interface()], [shared]))
    there = only(state([interface(addresses=("10.1.0.7/16",))], [replace(shared, router="10.1.0.1")]))
    assert here.key != there.key
    assert only(state([interface(addresses=("192.0.2.200/24",))], [shared])).key == here.key


def test_a_container_network_is_known_by_its_prefix_since_macs_are_drawn_anew() -> None:
    card = interface("eth0", InterfaceKind.CONTAINER, addresses=("172.17.0.2/16",))
    monday = only(state([card], [route("172.17.0.1", mac="02:42:00:00:00:01")]))
    tuesday = only(state([card], [route("172.17.0.1", mac="02:42:00:00:00:02")]))
    assert (monday.key, monday.title, monday.is_settled) == (tuesday.key, "container network on eth0", True)
    both = interface("eth0", InterfaceKind.CONTAINER, addresses=("172.17.0.2/16", "fd00::2/64"))
    assert monday.key in only(state([both], [route("172.17.0.1")])).aliases


def test_a_temporary_address_says_nothing_about_a_network() -> None:
    lasting, temporary = "2001:db8::7/64", "2001:db8:0:9::1234/64"
    without = interface("eth0", InterfaceKind.CONTAINER, addresses=(lasting,))
    with_one = interface("eth0", InterfaceKind.CONTAINER, addresses=(temporary, lasting), temporary=temporary)
    routes = [route("fe80::1", mac="")]
    assert only(state([without], routes)).key == only(state([with_one], routes)).key


def test_a_network_is_not_settled_until_its_router_is_known_or_silent() -> None:
    nobody = state([interface()], [route(mac="")], at_s=10)
    first = look(nobody)
    assert not first.networks[0].is_settled
    assert ChangeKind.SETTLED not in kinds(first)
    known = look(state([interface()], [FOUR], at_s=11), first)
    assert known.networks[0].is_settled
    assert known.networks[0].key != first.networks[0].key
    silent = look(state([interface()], [route(mac="")], at_s=10 + SETTLE_NS / SECOND), first)
    assert kinds(silent) == [ChangeKind.SETTLED]
    assert silent.networks[0].key == first.networks[0].key


def test_a_forgotten_mac_changes_nothing_and_another_mac_does() -> None:
    first = look(state([interface()], [FOUR]))
    forgotten = look(state([interface()], [route(mac="")], at_s=400), first)
    assert forgotten.changes == ()
    assert forgotten.networks == first.networks
    replaced = look(state([interface()], [route(mac="02:00:00:00:aa:99")], at_s=401), forgotten)
    assert kinds(replaced) == [ChangeKind.LEFT, ChangeKind.ARRIVED, ChangeKind.SETTLED, ChangeKind.PRIMARY]


def test_after_a_sleep_a_mac_is_not_taken_from_before() -> None:
    first = look(state([interface()], [FOUR]))
    woken = look(state([interface()], [route(mac="")], at_s=20, slept_s=3600), first)
    assert not woken.networks[0].routers[0].mac
    assert woken.resumed_s == 3600
    assert ChangeKind.RESUMED in kinds(woken)


def test_a_late_second_router_does_not_make_it_another_network() -> None:
    early = look(state([interface()], [SIX]))
    late = look(state([interface()], [route(mac="02:00:00:00:bb:01"), SIX]), early)
    assert late.networks[0].key == early.networks[0].key
    assert late.changes == ()


def test_a_remembered_key_is_kept_for_a_network_that_is_met_by_another_family() -> None:
    both = only(state([interface()], [route(mac="02:00:00:00:bb:01"), SIX]))
    old = only(state([interface()], [SIX])).key
    assert old in both.aliases
    assert old != both.key
    remembered = judge(
        Seen(state=state([interface()], [route(mac="02:00:00:00:bb:01"), SIX])),
        None,
        canonical=lambda keys: old if old in keys else keys[0],
    )
    assert remembered.networks[0].key == old


@given(
    index=st.integers(1, 10_000),
    host=st.integers(2, 250),
    name=st.sampled_from(["eth0", "enp3s0", "usb7"]),
    metric=st.integers(0, 5000),
    families=st.sampled_from([(4,), (6,), (4, 6)]),
    at_s=st.integers(1, 10**6),
    mac=st.binary(min_size=5, max_size=5),
)
def test_a_key_depends_on_nothing_but_the_router(
    index: int, host: int, name: str, metric: int, families: tuple[int, ...], at_s: int, mac: bytes
) -> None:
    router_mac = f"02:{mac.hex(':')}"
    card = interface(name, index=index, addresses=(f"192.0.2.{host}/24", f"2001:db8::{host:x}/64", "fe80::9/64"))
    routes = [
        route({4: "192.0.2.1", 6: "fe80::1"}[family], name=name, mac=router_mac, metric=metric) for family in families
    ]
    plain = state([interface()], [route(mac=router_mac)])
    assert only(state([card], routes, at_s=at_s)).key == only(plain).key


# -- which, and what it is called ------------------------------------------------------------------------------------


def test_titles_for_people() -> None:
    def title(card: InterfaceState, **device: object) -> str:
        seen = Seen(
            state=state([card], [route(name=card.name)]),
            managed=Managed(absent="", devices={card.name: ManagedDevice(**device)}),  # type: ignore[arg-type]
        )
        return only(seen).title

    assert title(interface()) == "cable on eth0 (router 192.0.2.1)"
    assert title(interface("wlan0", InterfaceKind.WIFI)) == "Wi-Fi on wlan0"
    assert title(interface("wlan0", InterfaceKind.WIFI), ssid="Home") == "Wi-Fi Home"
    phone = interface("wlan0", InterfaceKind.WIFI, ssid="Pixel", addresses=("172.20.10.2/28",))
    assert title(phone) == "phone hotspot Pixel"
    assert title(interface("usb0", InterfaceKind.PHONE, driver="ipheth")) == "phone hotspot on usb0"
    assert title(interface("wwan0", InterfaceKind.MOBILE), connection="Operator") == "mobile network Operator"
    assert title(interface("ppp0", InterfaceKind.PPP)) == "dial-up or PPPoE on ppp0 (router 192.0.2.1)"
    assert title(interface("x0", InterfaceKind.OTHER)) == "network on x0 (router 192.0.2.1)"


def test_what_strangers_call_themselves_steers_no_terminal() -> None:
    assert printable("Café 5 GHz") == "Café 5 GHz"
    assert "\x1b" not in printable("\x1b[2J evil")
    assert "\u202e" not in printable("\u202eevil")
    assert len(printable("x" * 1000)) == 200
    evil = interface("wlan0", InterfaceKind.WIFI, ssid="\x1b[2J evil")
    assert "\x1b" not in only(state([evil], [route(name="wlan0")])).title


def test_no_network_at_all_is_said_once() -> None:
    nothing = look(state([interface()], []))
    assert nothing.networks == ()
    assert kinds(nothing) == [ChangeKind.OFFLINE]
    assert look(state([interface()], []), nothing).changes == ()
    without_carrier = replace(interface(), is_running=False)
    assert look(state([without_carrier], [FOUR])).networks == ()


@pytest.mark.expectation(20)
def test_wifi_and_cable_both_up_are_two_networks_and_the_lower_metric_is_primary() -> None:
    cards = [interface(), interface("wlan0", InterfaceKind.WIFI, ssid="Home", index=4)]
    wifi = route("192.168.1.1", name="wlan0", metric=600)
    both = look(state(cards, [wifi, FOUR]))
    assert [each.title for each in both.networks] == ["cable on eth0 (router 192.0.2.1)", "Wi-Fi Home"]
    assert [each.is_primary for each in both.networks] == [True, False]
    unplugged = look(state(cards, [wifi]), both)
    assert [each.message for each in unplugged.changes] == [
        "left cable on eth0 (router 192.0.2.1)",
        "traffic goes by Wi-Fi Home",
    ]
    plugged = look(state(cards, [wifi, FOUR]), unplugged)
    assert plugged.networks[0].key == both.networks[0].key
    assert kinds(plugged) == [ChangeKind.ARRIVED, ChangeKind.SETTLED, ChangeKind.PRIMARY]


def test_an_interface_that_comes_back_under_another_index_is_the_same_network() -> None:
    first = look(state([interface(index=3)], [FOUR]))
    gone = look(state([], []), first)
    assert kinds(gone) == [ChangeKind.LEFT, ChangeKind.OFFLINE]
    back = look(state([interface(index=12)], [FOUR]), gone)
    assert (back.networks[0].key, back.networks[0].index) == (first.networks[0].key, 12)


@pytest.mark.expectation(3)
def test_a_vpn_goes_over_the_network_below_it() -> None:
    cards = [interface(), interface("wg0", InterfaceKind.TUNNEL, ("10.9.0.2/32",), link_kind="wireguard")]
    before = look(state(cards, [FOUR]))
    up = look(state(cards, [FOUR], carriers=("wg0", "")), before)
    assert [each.interface for each in up.networks] == ["eth0"]
    assert up.networks[0].is_primary
    assert (up.tunnels[0].kind, up.tunnels[0].underlay, up.tunnels[0].families) == ("wireguard", "eth0", (4,))
    assert [each.message for each in up.changes] == ["VPN wg0 (wireguard) carries default traffic over eth0"]
    assert up.on("wg0") == up.networks[0]
    down = look(state(cards, [FOUR]), up)
    assert kinds(down) == [ChangeKind.TUNNEL_DOWN]


def test_a_vpn_moves_from_cable_to_wifi() -> None:
    cards = [
        interface(),
        interface("wlan0", InterfaceKind.WIFI, ssid="Home", index=4),
        interface("tun0", InterfaceKind.TUNNEL, ("10.9.0.2/24",), link_kind="tun"),
    ]
    wifi, vpn = route("192.168.1.1", name="wlan0", metric=600), route("", name="tun0", mac="", metric=50)
    docked = look(state(cards, [vpn, FOUR, wifi]))
    assert docked.tunnels[0].underlay == "eth0"
    undocked = look(state(cards, [vpn, wifi]), docked)
    assert undocked.tunnels[0].underlay == "wlan0"
    assert ChangeKind.TUNNEL_UP in kinds(undocked)


def test_a_tunnel_or_line_that_is_all_there_is_is_the_network() -> None:
    tunnel = interface("tun0", InterfaceKind.TUNNEL, ("10.9.0.2/24",), link_kind="tun")
    alone = look(state([tunnel], [route("", name="tun0", mac="")]))
    assert [(each.kind, each.title) for each in alone.networks] == [(NetworkKind.VPN, "VPN on tun0")]
    assert alone.tunnels == ()
    line = interface("ppp0", InterfaceKind.PPP, ("100.64.0.9/32",), link_kind="ppp")
    over_the_line = look(
        state([line, tunnel], [route("", name="ppp0", mac=""), route("", name="tun0", mac="", metric=5)])
    )
    assert [each.interface for each in over_the_line.networks] == ["ppp0"]
    assert [(each.interface, each.underlay) for each in over_the_line.tunnels] == [("tun0", "ppp0")]


def test_a_default_route_of_another_table_is_a_network_too() -> None:
    cards = [interface(), interface("eth1", addresses=("10.1.0.2/24",), index=4)]
    both = look(state(cards, [FOUR], carriers=("eth1", "")))
    assert [each.interface for each in both.networks] == ["eth1", "eth0"]


# -- metered, connectivity -------------------------------------------------------------------------------------------


def metered(
    card: InterfaceState, word: ManagedMetered | None = None, lease: Lease | None = None
) -> tuple[bool | None, str, NetworkKind]:
    managed = Managed() if word is None else Managed(absent="", devices={card.name: ManagedDevice(metered=word)})
    leases = {card.name: lease} if lease is not None else {}
    network = only(Seen(state=state([card], [route(name=card.name)]), managed=managed, leases=leases))
    return network.metered, network.metered_because, network.kind


WIFI = interface("wlan0", InterfaceKind.WIFI, ssid="x")
ANDROID = Lease(source="systemd-networkd", is_android_metered=True)
IPHONE = interface("wlan0", InterfaceKind.WIFI, ssid="x", addresses=("172.20.10.3/28",))


@pytest.mark.parametrize(
    ("card", "word", "lease", "expected"),
    [
        (WIFI, None, None, (None, "unknown: NetworkManager is not there", NetworkKind.WIFI)),
        (WIFI, ManagedMetered.UNKNOWN, None, (None, "unknown: NetworkManager does not say", NetworkKind.WIFI)),
        (WIFI, ManagedMetered.YES, None, (True, "set in NetworkManager", NetworkKind.WIFI)),
        (WIFI, ManagedMetered.GUESS_NO, None, (False, "NetworkManager's guess", NetworkKind.WIFI)),
        (WIFI, ManagedMetered.GUESS_YES, None, (True, "NetworkManager's guess", NetworkKind.HOTSPOT)),
        (
            WIFI,
            ManagedMetered.GUESS_NO,
            ANDROID,
            (True, "the DHCP server says ANDROID_METERED (systemd-networkd)", NetworkKind.HOTSPOT),
        ),
        (WIFI, ManagedMetered.NO, ANDROID, (False, "set in NetworkManager", NetworkKind.HOTSPOT)),
        (IPHONE, None, None, (True, "172.20.10.0/28 is an iPhone's hotspot", NetworkKind.HOTSPOT)),
        (
            interface("usb0", InterfaceKind.PHONE, driver="rndis_host"),
            None,
            None,
            (True, "a phone on usb0 (driver rndis_host)", NetworkKind.HOTSPOT),
        ),
        (
            interface("wwan0", InterfaceKind.MOBILE),
            ManagedMetered.UNKNOWN,
            None,
            (True, "a mobile connection", NetworkKind.MOBILE),
        ),
    ],
)
def test_metered_by_whose_word(
    card: InterfaceState,
    word: ManagedMetered | None,
    lease: Lease | None,
    expected: tuple[bool | None, str, NetworkKind],
) -> None:
    assert metered(card, word, lease) == expected


@pytest.mark.expectation(20)
def test_a_captive_portal_is_seen_and_so_is_its_end() -> None:
    def seen(connectivity: Connectivity) -> Seen:
        device = ManagedDevice(connectivity=connectivity, metered=ManagedMetered.GUESS_NO)
        return Seen(state=state([interface()], [FOUR]), managed=Managed(absent="", devices={"eth0": device}))

    portal = look(seen(Connectivity.PORTAL))
    assert portal.networks[0].connectivity is Connectivity.PORTAL
    free = look(seen(Connectivity.FULL), portal)
    assert [each.message for each in free.changes] == ["cable on eth0 (router 192.0.2.1): connectivity is full"]
    unmanaged = look(state([interface()], [FOUR]), free)
    assert kinds(unmanaged) == [ChangeKind.METERED, ChangeKind.CONNECTIVITY]
    assert unmanaged.networks[0].connectivity_because == "unknown: NetworkManager is not there"
