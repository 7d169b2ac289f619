"""Networks that come and go, in real namespaces: a host with two uplinks, IPv6 alone, a VPN, bridges beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from netns import Namespace, connect

from billpay.errors import EnvironmentFault
from dataplane.network_state import Clocks, DefaultRoute, InterfaceKind, InterfaceState, NetworkState, Prefix
from hostagent.networks.situation import ChangeKind, NetworkKind, Situation
from hostagent.networks.watch import NetworkWatch

MACS = {"home": "02:00:00:00:00:01", "office": "02:00:00:00:00:02"}


class Travelling:
    """A host with a cable to two routers: by br0 (as virtual machines' hosts have it) to `home`, by u1 to `office`."""

    def __init__(self) -> None:
        self.host, self.home, self.office = Namespace(), Namespace(), Namespace()
        for namespace in (self.host, self.home, self.office):
            for scope in ("all", "default"):
                namespace.run("sysctl", "-qw", f"net.ipv6.conf.{scope}.accept_dad=0")
        connect(self.host, "u0", self.home, "r0")
        connect(self.host, "u1", self.office, "r0")
        for number, (name, router) in enumerate((("home", self.home), ("office", self.office)), start=1):
            router.run("ip", "link", "set", "r0", "address", MACS[name])
            router.run("ip", "addr", "add", f"10.8.{number}.1/24", "dev", "r0")
            router.run("ip", "addr", "add", "fe80::1/64", "dev", "r0", "nodad")
        self.host.run("ip", "link", "add", "br0", "type", "bridge")
        self.host.run("ip", "link", "set", "u0", "master", "br0")
        self.host.run("ip", "link", "set", "br0", "up")
        self.host.run("ip", "addr", "add", "10.8.1.7/24", "dev", "br0")
        self.host.run("ip", "addr", "add", "10.8.2.7/24", "dev", "u1")

    def __enter__(self) -> Travelling:
        return self

    def __exit__(self, *_: object) -> None:
        for namespace in (self.host, self.home, self.office):
            namespace.close()

    def route(self, *words: str) -> None:
        self.host.run("ip", *words)


def until(watch: NetworkWatch, wanted: Callable[[Situation], bool]) -> Situation:
    """Looks until it is so; the kernel resolves a router's MAC meanwhile."""
    until_s = time.monotonic() + 5
    while not wanted(situation := watch.look()):
        assert time.monotonic() < until_s, situation
        time.sleep(0.01)
    return situation


def settled(situation: Situation) -> bool:
    return bool(situation.networks) and all(each.is_settled for each in situation.networks)


@pytest.mark.expectation(20)
@pytest.mark.netns
def test_roaming_between_two_routers_by_a_change_of_route() -> None:
    with Travelling() as world:

        def travel() -> None:
            watch = NetworkWatch()
            assert watch.look().networks == ()
            world.route("route", "add", "default", "via", "10.8.1.1", "metric", "100")
            home = until(watch, settled).networks[0]
            assert (home.title, home.kind) == ("cable on br0 (router 10.8.1.1)", NetworkKind.CABLE)
            world.route("route", "add", "default", "via", "10.8.2.1", "metric", "50")
            both = until(watch, settled)
            assert [each.interface for each in both.networks] == ["u1", "br0"]
            assert [each.kind for each in both.changes] == [
                ChangeKind.ARRIVED,
                ChangeKind.SETTLED,
                ChangeKind.PRIMARY,
            ]
            world.route("route", "del", "default", "via", "10.8.2.1")
            back = watch.look()
            assert [each.key for each in back.networks] == [home.key]
            assert [each.kind for each in back.changes] == [ChangeKind.LEFT, ChangeKind.PRIMARY]
            watch.close()

        world.host.call(travel)


@pytest.mark.netns
def test_one_key_over_ipv4_alone_ipv6_alone_and_both_and_after_the_interface_was_made_anew() -> None:
    with Travelling() as world:

        def travel() -> None:
            watch = NetworkWatch()
            world.route("route", "add", "default", "via", "10.8.1.1")
            key = until(watch, settled).networks[0].key
            world.route("-6", "route", "add", "default", "via", "fe80::1", "dev", "br0")
            both = until(watch, lambda seen: len(seen.networks[0].routers) == 2 and settled(seen))
            assert both.networks[0].key == key
            world.route("route", "del", "default")
            six = until(watch, settled).networks[0]
            assert (six.key, six.router, six.metrics[0]) == (key, "fe80::1", None)
            old_index = six.index
            world.route("link", "del", "br0")
            assert watch.look().networks == ()
            world.route("link", "add", "br0", "type", "bridge")
            world.route("link", "set", "u0", "master", "br0")
            world.route("link", "set", "br0", "up")
            world.route("addr", "add", "10.8.1.8/24", "dev", "br0")
            world.route("route", "add", "default", "via", "10.8.1.1")
            again = until(watch, settled).networks[0]
            assert again.key == key
            assert again.index != old_index
            watch.close()

        world.host.call(travel)


@pytest.mark.expectation(3)
@pytest.mark.netns
def test_a_vpn_goes_up_and_down_over_the_same_network() -> None:
    with Travelling() as world:
        world.route("route", "add", "default", "via", "10.8.1.1", "metric", "100")
        world.route("tuntap", "add", "dev", "vpn0", "mode", "tun")
        # Its carrier comes from the program that holds it open.
        holder = world.host.popen(
            "python3",
            "-c",
            "import fcntl, struct, time\n"
            "tun = open('/dev/net/tun', 'r+b', buffering=0)\n"
            "fcntl.ioctl(tun, 0x400454CA, struct.pack('16sH', b'vpn0', 0x1001))\n"
            "print(flush=True)\n"
            "time.sleep(60)",
            stdout=-1,
        )
        assert holder.stdout is not None
        try:
            holder.stdout.readline()

            def travel() -> None:
                watch = NetworkWatch()
                before = until(watch, settled)
                world.route("addr", "add", "10.99.0.2/24", "dev", "vpn0")
                world.route("link", "set", "vpn0", "up")
                world.route("route", "add", "0.0.0.0/1", "dev", "vpn0")  # as OpenVPN does
                world.route("route", "add", "128.0.0.0/1", "dev", "vpn0")
                up = watch.look()
                assert [each.key for each in up.networks] == [before.networks[0].key]
                assert [(each.interface, each.kind, each.underlay) for each in up.tunnels] == [("vpn0", "tun", "br0")]
                assert [each.kind for each in up.changes] == [ChangeKind.TUNNEL_UP]
                world.route("link", "set", "vpn0", "down")
                assert [each.kind for each in watch.look().changes] == [ChangeKind.TUNNEL_DOWN]
                watch.close()

            world.host.call(travel)
        finally:
            holder.kill()
            holder.wait()
            holder.stdout.close()


@pytest.mark.netns
def test_bridges_and_tunnels_beside_it_are_no_networks() -> None:
    with Travelling() as world:
        world.route("route", "add", "default", "via", "10.8.2.1")
        world.route("link", "add", "docker0", "type", "bridge")
        world.route("addr", "add", "172.17.0.1/16", "dev", "docker0")
        world.route("link", "set", "docker0", "up")
        world.route("tuntap", "add", "dev", "tap7", "mode", "tap")

        def look() -> None:
            watch = NetworkWatch()
            situation = until(watch, settled)
            assert [each.title for each in situation.networks] == ["container network on u1"]
            assert situation.tunnels == ()
            watch.close()

        world.host.call(look)


# -- the driver alone ------------------------------------------------------------------------------------------------


class Scripted:
    """A reader that tells what a test wrote."""

    def __init__(self, state: NetworkState) -> None:
        self.state = state
        self.resolved: list[tuple[str, str]] = []
        self.fault: EnvironmentFault | None = None

    def read(self) -> NetworkState:
        if self.fault is not None:
            raise self.fault
        return self.state

    def resolve(self, interface: str, router: str) -> None:
        self.resolved.append((interface, router))

    def close(self) -> None:
        pass


def unresolved() -> NetworkState:
    card = InterfaceState(
        index=2,
        name="eth0",
        kind=InterfaceKind.CABLE,
        prefixes=(Prefix(address="192.0.2.7", network="192.0.2.0/24"),),
    )
    route = DefaultRoute(family=4, metric=0, interface="eth0", router="192.0.2.1")
    return NetworkState(interfaces=(card,), default_routes=(route,), carriers=("eth0", ""))


def test_only_a_router_that_is_not_known_is_asked_for(tmp_path: Path) -> None:
    reader = Scripted(unresolved())
    watch = NetworkWatch(reader=reader, root=tmp_path)
    watch.look()
    assert reader.resolved == [("eth0", "192.0.2.1")]
    known = replace(reader.state.default_routes[0], router_mac="02:00:00:00:00:01")
    reader.state = replace(reader.state, default_routes=(known,))
    watch.look()
    assert len(reader.resolved) == 1


def test_a_kernel_that_does_not_answer_leaves_everything_as_it_was(tmp_path: Path) -> None:
    reader = Scripted(unresolved())
    watch = NetworkWatch(reader=reader, root=tmp_path)
    first = watch.look()
    reader.fault = EnvironmentFault("ask", "the kernel by netlink", "no buffer space")
    unread = watch.look()
    assert (unread.networks, unread.changes) == (first.networks, ())
    assert "no buffer space" in unread.unread
    reader.fault = None
    assert watch.look().unread == ""


@pytest.mark.expectation(20)
def test_a_sleep_is_noticed_and_said_once(tmp_path: Path) -> None:
    reader = Scripted(unresolved())
    watch = NetworkWatch(reader=reader, root=tmp_path)
    watch.look()
    reader.state = replace(reader.state, clocks=Clocks(monotonic_ns=10**9, boottime_ns=7201 * 10**9))
    woken = watch.look()
    assert woken.resumed_s == 7200
    assert woken.changes[0].message == "the machine slept for 7200 s"
    assert watch.look().resumed_s == 0


def test_a_lease_is_read_when_addresses_change(tmp_path: Path) -> None:
    reader = Scripted(unresolved())
    watch = NetworkWatch(reader=reader, root=tmp_path)
    assert watch.look().networks[0].metered is None
    leases = tmp_path / "run/systemd/netif/leases"
    leases.mkdir(parents=True)
    leases.joinpath("2").write_text("ADDRESS=192.0.2.8\nVENDOR_SPECIFIC=414e44524f49445f4d455445524544\n")
    assert watch.look().networks[0].metered is None
    card = replace(reader.state.interfaces[0], prefixes=(Prefix(address="192.0.2.8", network="192.0.2.0/24"),))
    reader.state = replace(reader.state, interfaces=(card,))
    assert watch.look().networks[0].metered is True
