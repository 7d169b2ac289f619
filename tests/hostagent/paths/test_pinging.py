"""An echo by one interface, and the whole of it: measured, decided, and the kernel told, in real namespaces."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns import Namespace, connect

from billpay.errors import EnvironmentFault
from cartographer.values import Wants
from dataplane.network_state import NetworkReader
from hostagent import api
from hostagent.configuration import AccessSection
from hostagent.networks.judging import judge
from hostagent.networks.situation import Seen, Situation
from hostagent.paths.access import AccessChoice
from hostagent.paths.pinging import echo_request, is_reply, ping

FAR = ("10.9.9.9", "fd09:9::9")
NONCE = bytes(range(16))


def test_an_answer_is_known_by_its_nonce_with_and_without_a_header() -> None:
    request = echo_request(socket.AF_INET, NONCE)
    assert sum(int.from_bytes(request[at : at + 2], "big") for at in range(0, len(request), 2)) % 0xFFFF == 0
    reply = b"\0" + request[1:]
    assert is_reply(socket.AF_INET, reply, NONCE)
    assert is_reply(socket.AF_INET, b"\x45" + bytes(19) + reply, NONCE)
    assert not is_reply(socket.AF_INET, request, NONCE), "our own, seen by a raw socket"
    assert not is_reply(socket.AF_INET, reply, NONCE[::-1])
    assert is_reply(socket.AF_INET6, b"\x81" + echo_request(socket.AF_INET6, NONCE)[1:], NONCE)
    assert not is_reply(socket.AF_INET, b"", NONCE)


class Two:
    """a reaches b by x1 and by x2; b is both routers."""

    def __init__(self) -> None:
        self.a, self.b = Namespace(), Namespace()
        for each in (self.a, self.b):
            each.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        for address in FAR:
            self.b.run("ip", "address", "add", address, "dev", "lo")
        for n in (1, 2):
            connect(self.a, f"x{n}", self.b, f"y{n}", offloads=True)
            for end, name, last in ((self.a, f"x{n}", 1), (self.b, f"y{n}", 2)):
                end.run("ip", "address", "add", f"10.{n}.0.{last}/24", "dev", name)
                end.run("ip", "address", "add", f"fd09:{n}::{last}/64", "dev", name, "nodad")
            self.a.run("ip", "route", "add", "default", "via", f"10.{n}.0.2", "metric", f"{n}00")
            self.a.run("ip", "-6", "route", "add", "default", "via", f"fd09:{n}::2", "metric", f"{n}00")

    def close(self) -> None:
        self.a.close()
        self.b.close()


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    network = Two()
    yield network
    network.close()


@pytest.mark.netns
@pytest.mark.parametrize("groups", ["0 2147483647", "1 0"], ids=["its own kind", "raw"])
@pytest.mark.parametrize(
    ("address", "program", "protocol"), [(FAR[0], "iptables", "icmp"), (FAR[1], "ip6tables", "128")]
)
def test_each_interface_has_its_own_round_trip(
    two: Two, groups: str, address: str, program: str, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostagent.paths.pinging.PATIENCE_S", 0.5)
    two.a.run("sysctl", "-qw", f"net.ipv4.ping_group_range={groups}")
    kind = ["-p", "icmp", "--icmp-type", "8"] if protocol == "icmp" else ["-p", "icmpv6", "--icmpv6-type", protocol]
    drop = ["INPUT", "-i", "y1", *kind, "-j", "DROP"]

    async def both() -> list[int | None]:
        return list(await asyncio.gather(ping("x1", address), ping("x2", address)))

    two.b.run(program, "-A", *drop)
    try:
        dropped, answered = two.a.call(lambda: asyncio.run(both()))
    finally:
        two.b.run(program, "-D", *drop)
    assert dropped is None, "the main table prefers x1"
    assert answered is not None
    assert answered > 0
    there = two.a.call(lambda: asyncio.run(ping("x1", address)))
    assert there is not None


@pytest.mark.netns
def test_where_no_way_leads_nothing_comes_back(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostagent.paths.pinging.PATIENCE_S", 0.1)
    assert two.a.call(lambda: asyncio.run(ping("lo", "10.9.9.9"))) is None
    assert two.a.call(lambda: asyncio.run(ping("x9", "10.9.9.9"))) is None, "it went a moment ago"


async def test_who_may_not_send_echoes_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_arguments: object) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("hostagent.paths.pinging.socket.socket", forbidden)
    with pytest.raises(EnvironmentFault, match="probe by eth0: Operation not permitted"):
        await ping("eth0", "192.0.2.1")


@pytest.mark.netns
@pytest.mark.row("BP-19", "BP-60")
def test_a_host_measures_its_isps_and_sends_new_flows_by_the_cheaper_one(two: Two, tmp_path: Path) -> None:
    class Saw:
        local, remote, delivered_packets, lost_packets = "10.1.0.1", "10.9.9.9", 5, 0

    said: list[str] = []
    choice = AccessChoice(
        AccessSection(choose="act"),
        Wants(name="timely", delay_nanodollars_per_ms=10, loss_nanodollars=2000),
        state_directory=tmp_path,
        say=lambda _code, message: said.append(message),
        acts=lambda: True,
        prices=lambda: [
            api.Price(interface="x1", direction="out", nanodollars_per_mb=2_000_000, source="data plan"),
        ],
    )

    async def live(reader: NetworkReader) -> None:
        before: Situation | None = None
        async with choice.running():
            for second in range(30):
                situation = before = judge(Seen(state=reader.read()), before)
                choice.on_second(situation, second * 1_000_000_000, [Saw()])
                for task in (choice._probing, choice._work):
                    if task is not None:
                        await task
                if choice.in_force:
                    break
            assert choice.in_force, said
            after = judge(Seen(state=reader.read()), before)
            assert after.primary is not None
            assert after.primary.interface == "x2", "the kernel itself says so now"
            choice.on_second(after, 40_000_000_000, [])
            assert choice.view()[0].interface == "x2"
            assert choice.view()[0].used
            assert all(row.delay_ns for row in choice.view())
        assert len(said) == 1
        assert said[0].startswith("new flows go by container network on x2: ")

    def inside() -> None:
        reader = NetworkReader()
        try:
            asyncio.run(live(reader))
        finally:
            reader.close()

    rules = two.a.run("ip", "rule", "show")
    two.a.call(inside)
    assert two.a.run("ip", "rule", "show") == rules
    assert not list(tmp_path.iterdir())
