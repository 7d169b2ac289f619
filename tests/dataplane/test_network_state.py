"""What is read of the network: by packed messages alone, and of real interfaces in a namespace."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netns import Namespace, connect

from dataplane import network_messages as messages
from dataplane.attribution.netlink import Answer, attribute
from dataplane.network_state import (
    Clocks,
    InterfaceKind,
    NetworkReader,
    NetworkState,
    container_reason,
    kind_of,
    read_hardware,
    slept_ns,
)


def link(**changes: object) -> messages.LinkMessage:
    values: dict[str, object] = {
        "index": 2,
        "name": "x0",
        "hardware": 1,
        "kind": "",
        "is_up": True,
        "has_carrier": True,
        "operstate": "up",
        "mac": "02:00:00:00:00:01",
        "master_index": 0,
    }
    return messages.LinkMessage(**(values | changes))  # type: ignore[arg-type]


def answer(data: bytes) -> Answer:
    return Answer(0, data, 0, len(data))


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_link", "device_type", "driver", "kind"),
    [
        (link(), "", "e1000e", InterfaceKind.CABLE),
        (link(), "wlan", "iwlwifi", InterfaceKind.WIFI),
        (link(), "wwan", "cdc_mbim", InterfaceKind.MOBILE),
        (link(hardware=519), "", "", InterfaceKind.MOBILE),
        (link(), "", "ipheth", InterfaceKind.PHONE),
        (link(), "", "rndis_host", InterfaceKind.PHONE),
        (link(), "bluetooth", "", InterfaceKind.PHONE),
        (link(kind="veth"), "", "", InterfaceKind.CONTAINER),
        (link(kind="bridge"), "bridge", "", InterfaceKind.BRIDGE),
        (link(kind="bond"), "bond", "", InterfaceKind.CABLE),
        (link(kind="wireguard", hardware=0xFFFE), "wireguard", "", InterfaceKind.TUNNEL),
        (link(kind="tun", hardware=0xFFFE), "", "tun", InterfaceKind.TUNNEL),
        (link(kind="tun"), "", "tun", InterfaceKind.TUNNEL),
        (link(kind="ppp", hardware=512), "ppp", "", InterfaceKind.PPP),
        (link(hardware=512), "", "", InterfaceKind.PPP),
        (link(hardware=772), "", "", InterfaceKind.LOOPBACK),
        (link(kind="dummy"), "", "", InterfaceKind.OTHER),
        (link(hardware=1000), "", "", InterfaceKind.OTHER),
    ],
)
def test_kind_of_an_interface(given_link: messages.LinkMessage, device_type: str, driver: str, kind: object) -> None:
    assert kind_of(given_link, device_type=device_type, driver=driver) is kind


@pytest.mark.expectation(20)
def test_sleep_is_what_one_clock_counts_and_the_other_does_not() -> None:
    before = Clocks(monotonic_ns=5_000, boottime_ns=9_000)
    assert slept_ns(before, Clocks(monotonic_ns=6_000, boottime_ns=10_000)) == 0
    assert slept_ns(before, Clocks(monotonic_ns=6_000, boottime_ns=3_610_000)) == 3_600_000
    assert slept_ns(before, Clocks(monotonic_ns=6_001, boottime_ns=10_000)) == 0  # read one after the other


def test_a_wifi_name_is_read_as_it_is_written_on_the_air() -> None:
    def told(ssid: bytes) -> str:
        return messages.read_ssid(answer(struct.pack("=BBxx", 7, 1) + attribute(3, bytes(4)) + attribute(52, ssid)))

    assert told("Café 5 GHz".encode()) == "Café 5 GHz"
    assert told(b"\xff\xfe") == "\\xff\\xfe"
    assert messages.read_ssid(answer(struct.pack("=BBxx", 7, 1))) == ""


def test_all_next_hops_of_a_route_are_read_and_dead_ones_are_not() -> None:
    def hop(flags: int, index: int, router: bytes) -> bytes:
        body = attribute(5, router)
        return struct.pack("=HBBi", 8 + len(body), flags, 0, index) + body

    hops = hop(0, 7, bytes([10, 0, 0, 1])) + hop(1, 8, bytes([10, 0, 1, 1])) + hop(16, 9, bytes([10, 0, 2, 1]))
    head = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0)
    data = head + attribute(15, struct.pack("=I", 254)) + attribute(6, struct.pack("=I", 50)) + attribute(9, hops)
    assert list(messages.read_default_routes(answer(data))) == [
        messages.RouteMessage(family=4, metric=50, index=7, router="10.0.0.1")
    ]
    other_table = head + attribute(15, struct.pack("=I", 100)) + attribute(4, struct.pack("=I", 7))
    assert not list(messages.read_default_routes(answer(other_table)))


@given(st.binary(min_size=16, max_size=120))
def test_no_message_breaks_the_reading(data: bytes) -> None:
    messages.read_link(answer(data))
    list(messages.read_default_routes(answer(data)))
    messages.read_neighbour(answer(data))
    messages.read_ssid(answer(data))


def test_hardware_is_believed_only_of_the_same_interface(tmp_path: Path) -> None:
    directory = tmp_path / "wlan0"
    (directory / "phy80211").mkdir(parents=True)
    (directory / "uevent").write_text("INTERFACE=wlan0\nIFINDEX=3\n")
    (directory / "ifindex").write_text("3\n")
    (tmp_path / "drivers/iwlwifi").mkdir(parents=True)
    (directory / "device").mkdir()
    (directory / "device/driver").symlink_to(tmp_path / "drivers/iwlwifi")
    assert read_hardware(directory, 3) == ("wlan", "iwlwifi")
    assert read_hardware(directory, 4) == ("", "")  # sysfs of another namespace
    assert read_hardware(tmp_path / "eth9", 9) == ("", "")


def test_a_container_says_so(tmp_path: Path) -> None:
    assert container_reason(tmp_path) == ""
    (tmp_path / "run/systemd").mkdir(parents=True)
    (tmp_path / "run/systemd/container").write_text("lxc\n")
    assert container_reason(tmp_path) == "systemd says: lxc"
    (tmp_path / ".dockerenv").touch()
    assert container_reason(tmp_path) == "there is a /.dockerenv"


# -- real interfaces -------------------------------------------------------------------------------------------------


@pytest.mark.netns
def test_everything_is_read_of_a_real_namespace() -> None:
    with Namespace() as host, Namespace() as router:
        connect(host, "u0", router, "r0")
        router.run("ip", "addr", "add", "10.8.0.1/24", "dev", "r0")
        router.run("ip", "link", "set", "r0", "address", "02:00:00:00:08:01")
        host.run("ip", "addr", "add", "10.8.0.2/24", "dev", "u0")
        host.run("ip", "addr", "add", "fd08::2/64", "dev", "u0", "nodad")
        host.run("ip", "route", "add", "default", "via", "10.8.0.1", "metric", "100")
        host.run("ip", "route", "add", "default", "via", "10.8.0.1", "table", "77")
        host.run("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "u0", "metric", "1024")
        host.run("ip", "link", "add", "br7", "type", "bridge")
        host.run("ip", "link", "add", "p7", "type", "veth", "peer", "name", "p8")
        host.run("ip", "link", "set", "p7", "master", "br7")

        def look() -> None:
            reader = NetworkReader()
            try:
                state = reader.read()
                found = state.interface("u0")
                assert found is not None
                assert (found.kind, found.link_kind, found.is_running) == (InterfaceKind.CONTAINER, "veth", True)
                networks = {each.network for each in found.prefixes}
                assert {"10.8.0.0/24", "fd08::/64"} <= networks
                routes = [(each.family, each.metric, each.interface, each.router) for each in state.default_routes]
                assert routes == [(4, 100, "u0", "10.8.0.1"), (6, 1024, "u0", "fe80::1")]
                assert state.carriers == ("u0", "u0")
                bridge = state.interface("br7")
                assert bridge is not None
                assert (bridge.kind, bridge.ports) == (InterfaceKind.BRIDGE, ("p7",))
                assert {each.router_mac for each in state.default_routes} == {""}
                _wait_for_mac(reader)
            finally:
                reader.close()

        host.call(look)


def _wait_for_mac(reader: NetworkReader) -> None:
    """The kernel asks the link, without any program that sends."""
    reader.resolve("u0", "10.8.0.1")
    reader.resolve("u0", "10.8.0.99")  # nobody
    until_s = time.monotonic() + 5
    while (state := reader.read()).default_routes[0].router_mac != "02:00:00:00:08:01":
        assert time.monotonic() < until_s, state.default_routes
        time.sleep(0.01)


@pytest.mark.netns
def test_only_what_the_kernel_reports_is_read_again() -> None:
    with Namespace() as host:
        host.run("ip", "link", "add", "u0", "type", "veth", "peer", "name", "far")
        host.run("ip", "link", "set", "far", "up")

        def look() -> None:
            reader = NetworkReader()
            try:
                for _ in range(20):
                    reader.read()
                assert reader.reads == 1
                host.run("ip", "link", "set", "u0", "up")
                host.run("ip", "addr", "add", "10.8.1.2/24", "dev", "u0")
                assert _routes(reader.read()) == []
                host.run("ip", "route", "add", "default", "dev", "u0")
                assert _routes(reader.read()) == [("u0", "")]
                assert reader.reads == 3
                host.run("ip", "link", "set", "u0", "down")
                assert _routes(reader.read()) == []
            finally:
                reader.close()

        host.call(look)


def _routes(state: NetworkState) -> list[tuple[str, str]]:
    return [(each.interface, each.router) for each in state.default_routes]


@pytest.mark.netns
def test_a_vpn_by_policy_rules_is_seen_as_the_carrier() -> None:
    """As wg-quick does it: a default route in a table of its own, and a rule that leads there."""
    with Namespace() as host:
        host.run("ip", "link", "add", "u0", "type", "veth", "peer", "name", "far")
        host.run("ip", "link", "set", "far", "up")
        host.run("ip", "link", "set", "u0", "up")
        host.run("ip", "addr", "add", "10.8.1.2/24", "dev", "u0")
        host.run("ip", "route", "add", "default", "via", "10.8.1.1")
        host.run("ip", "tuntap", "add", "dev", "vpn0", "mode", "tun")

        def look() -> None:
            reader = NetworkReader()
            try:
                assert reader.read().carriers == ("u0", "")
                host.run("ip", "link", "set", "vpn0", "up")
                host.run("ip", "route", "add", "default", "dev", "vpn0", "table", "51820")
                host.run("ip", "rule", "add", "not", "fwmark", "51820", "table", "51820")
                state = reader.read()
                assert state.carriers == ("vpn0", "")
                tunnel = state.interface("vpn0")
                assert tunnel is not None
                assert tunnel.kind is InterfaceKind.TUNNEL
                assert [each.interface for each in state.default_routes] == ["u0"]
            finally:
                reader.close()

        host.call(look)


@pytest.mark.netns
def test_a_router_with_very_many_routes_is_read_quickly_and_rightly() -> None:
    with Namespace() as host:
        host.run("ip", "link", "add", "u0", "type", "veth", "peer", "name", "far")
        host.run("ip", "link", "set", "far", "up")
        host.run("ip", "link", "set", "u0", "up")
        lines = "".join(f"route add 10.{a}.{b}.0/24 dev u0\n" for a in range(20) for b in range(256))
        host.run("ip", "-batch", "-", text=lines)
        host.run("ip", "route", "add", "default", "dev", "u0")

        def look() -> None:
            reader = NetworkReader()
            try:
                assert _routes(reader.read()) == [("u0", "")]
                host.run("ip", "addr", "add", "192.0.2.7/32", "dev", "u0")  # the next read goes on after a broken dump
                assert _routes(reader.read()) == [("u0", "")]
            finally:
                reader.close()

        host.call(look)
