"""New flows go by the access that was chosen; the user's own routes and rules stay as they were. On real interfaces."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns import Namespace, connect

from billpay.errors import EnvironmentFault
from dataplane import rules
from dataplane.access_routes import (
    OURS,
    AccessApplied,
    AccessRoutes,
    ShownRule,
    is_ours,
    read_ground,
    takes_default,
)
from dataplane.desired import AccessRoute
from dataplane.record import ACCESS_RECORD, Record

BOTH = ("x1", "x2")
SERVER = {socket.AF_INET: "10.9.9.9", socket.AF_INET6: "fd09:9::9"}
IN_FORCE = AccessApplied(families=(4, 6))


# --- others' rules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("not from all fwmark 0xca6c lookup 51820", 51820),  # wg-quick
        ("from all lookup 254 suppress_prefixlength 0", 0),
        ("from all lookup 52", 52),  # Tailscale
        ("from all fwmark 0x80000/0xff0000 lookup 254", 0),
        ("from all to 10.0.0.0/8 lookup 9", 0),
        ("from 192.0.2.7 lookup 9", 0),
        ("from all iif eth0 lookup 9", 0),
        ("from all iif lo lookup 9", 9),
        ("from all lookup [l3mdev-table]", 0),
        ("from all blackhole", None),
        ("from all goto 100", None),
    ],
)
def test_which_of_others_rules_could_take_everything(text: str, table: int | None) -> None:
    assert takes_default(text) == table


def test_ours_are_known_by_place_and_table() -> None:
    assert is_ours(ShownRule(32700, "from all iif lo lookup 254 suppress_prefixlength 0"))
    assert is_ours(ShownRule(32701, f"from 192.0.2.1 iif lo lookup {OURS + 3}"))
    assert not is_ours(ShownRule(32701, "from 192.0.2.1 lookup 100"))
    assert not is_ours(ShownRule(32000, f"from all iif lo lookup {OURS}"))


# --- a host with two ISPs ---------------------------------------------------------------------------------------------


class TwoIsps:
    """a reaches b by r1 (x1, what the main table prefers) and by r2 (x2). IPv6 next hops are link-local."""

    def __init__(self) -> None:
        self.a, self.b = Namespace(), Namespace()
        self.routers = (Namespace(), Namespace())
        for each in (self.a, self.b, *self.routers):
            each.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        self.b.run("ip", "address", "add", "10.9.9.9/32", "dev", "lo")
        self.b.run("ip", "address", "add", "fd09:9::9/128", "dev", "lo")
        for number, router in enumerate(self.routers, start=1):
            router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
            for end, name, far in ((self.a, f"x{number}", f"ra{number}"), (self.b, f"y{number}", f"rb{number}")):
                connect(end, name, router, far, offloads=True)
            self._address(router, number)

    def _address(self, router: Namespace, number: int) -> None:
        a, b, n = self.a, self.b, number
        a.run("ip", "address", "add", f"10.{n}.0.1/24", "dev", f"x{n}")
        a.run("ip", "address", "add", f"fd09:{n}::1/64", "dev", f"x{n}", "nodad")
        router.run("ip", "address", "add", f"10.{n}.0.2/24", "dev", f"ra{n}")
        router.run("ip", "address", "add", f"fd09:{n}::2/64", "dev", f"ra{n}", "nodad")
        router.run("ip", "address", "add", f"fe80::{n}/64", "dev", f"ra{n}", "nodad")
        for far, name, last in ((router, f"rb{n}", 2), (b, f"y{n}", 1)):
            far.run("ip", "address", "add", f"10.10{n}.0.{last}/24", "dev", name)
            far.run("ip", "address", "add", f"fd09:10{n}::{last}/64", "dev", name, "nodad")
        router.run("ip", "route", "add", "10.9.9.9", "via", f"10.10{n}.0.1")
        router.run("ip", "route", "add", "fd09:9::9", "via", f"fd09:10{n}::1")
        b.run("ip", "route", "add", f"10.{n}.0.0/24", "via", f"10.10{n}.0.2")
        b.run("ip", "route", "add", f"fd09:{n}::/64", "via", f"fd09:10{n}::2")
        self.add_defaults(n)

    def add_defaults(self, n: int) -> None:
        self.a.run("ip", "route", "add", "default", "via", f"10.{n}.0.2", "dev", f"x{n}", "metric", f"{n}00")
        self.a.run("ip", "-6", "route", "add", "default", "via", f"fe80::{n}", "dev", f"x{n}", "metric", f"{n}00")

    def close(self) -> None:
        for each in (self.a, self.b, *self.routers):
            each.close()

    def kernel(self) -> str:
        """All that may not be changed for good."""
        return "".join(
            self.a.run("ip", f"-{family}", *what)
            for family in (4, 6)
            for what in (("rule", "show"), ("route", "show", "table", "all"))
        )

    def outgoing(self, family: socket.AddressFamily) -> str:
        words = self.a.run("ip", "route", "get", SERVER[family]).split()
        return words[words.index("dev") + 1]

    def apply(self, record: Path, chosen: str) -> AccessApplied:
        return self.a.call(lambda: AccessRoutes(record).apply(chosen, BOTH))

    def restore(self, record: Path) -> bool:
        return self.a.call(lambda: rules.restore(record))


@pytest.fixture(scope="module")
def two() -> Iterator[TwoIsps]:
    network = TwoIsps()
    yield network
    network.close()


@pytest.fixture
def record(two: TwoIsps, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / ACCESS_RECORD
    before = two.kernel()
    yield path
    two.restore(path)
    assert two.kernel() == before, "all is as it was before"
    assert not path.exists()


@contextlib.contextmanager
def _connected(two: TwoIsps, family: socket.AddressFamily) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection from a to b."""
    server = two.b.call(lambda: socket.create_server(("", 0), family=family))
    client = two.a.call(lambda: socket.create_connection((SERVER[family], server.getsockname()[1]), timeout=5))
    far, _ = server.accept()
    far.settimeout(5)
    with server, client, far:
        yield client, far


def _carries(client: socket.socket, far: socket.socket) -> bool:
    client.sendall(b"there")
    far.sendall(b"back")
    return far.recv(9) == b"there" and client.recv(9) == b"back"


@pytest.mark.netns
@pytest.mark.row("BP-19", "BP-60")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_new_flows_move_and_those_that_are_there_keep_their_isp(
    two: TwoIsps, record: Path, family: socket.AddressFamily
) -> None:
    with _connected(two, family) as (old, old_far):
        before = old.getsockname()[0]
        assert two.apply(record, "x2") == IN_FORCE
        with _connected(two, family) as (new, new_far):
            assert before.split("::")[0] in ("10.1.0.1", "fd09:1")
            assert new.getsockname()[0].split("::")[0] in ("10.2.0.1", "fd09:2")
            assert _carries(old, old_far)
            assert _carries(new, new_far)
            assert two.apply(record, "x1") == IN_FORCE
            assert _carries(new, new_far), "also after the next change"
            assert two.outgoing(family) == "x1"


@pytest.mark.netns
def test_doing_it_twice_changes_nothing_and_a_switch_is_one_route(two: TwoIsps, record: Path) -> None:
    two.apply(record, "x2")
    once, written = two.kernel(), record.read_bytes()
    two.apply(record, "x2")
    assert (two.kernel(), record.read_bytes()) == (once, written)
    two.apply(record, "x1")
    assert [line for line in two.kernel().splitlines() if line not in once.splitlines()] == [
        f"default via 10.1.0.2 dev x1 table {OURS} ",
        *(line for line in two.kernel().splitlines() if line.startswith(f"default via fe80::1 dev x1 table {OURS} ")),
    ]
    assert record.read_bytes() == written


@pytest.mark.netns
def test_more_specific_routes_keep_their_word(two: TwoIsps, record: Path) -> None:
    for family, prefix, via in (("-4", "10.9.9.0/24", "10.1.0.2"), ("-6", "fd09:9::/64", "fe80::1")):
        two.a.run("ip", family, "route", "add", prefix, "via", via, "dev", "x1")
    try:
        assert two.apply(record, "x2") == IN_FORCE
        assert {two.outgoing(family) for family in SERVER} == {"x1"}
        assert " dev x2 " in two.a.run("ip", "route", "get", "198.51.100.1")
        assert " dev x1 " in two.a.run("ip", "route", "get", "10.1.0.2", "from", "10.2.0.1"), "the link itself"
        two.restore(record)
    finally:
        for family, prefix in (("-4", "10.9.9.0/24"), ("-6", "fd09:9::/64")):
            two.a.run("ip", family, "route", "del", prefix)


@pytest.mark.netns
@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (("not", "from", "all", "fwmark", "51820", "lookup", "51820"), "sends everything by table 51820"),
        (("priority", "32750", "from", "10.77.0.0/16", "lookup", "9"), "stands where ours would"),
        (("priority", "100", "from", "all", "blackhole"), "decides where packets go"),
    ],
)
def test_where_others_decide_nothing_is_done(two: TwoIsps, record: Path, rule: tuple[str, ...], says: str) -> None:
    two.apply(record, "x2")  # it comes while ours are there
    two.a.run("ip", "rule", "add", *rule)
    two.a.run("ip", "route", "add", "default", "dev", "x1", "table", "51820")
    try:
        applied = two.apply(record, "x2")
        assert applied.families == (6,)
        assert says in applied.obstacles[0]
        assert str(OURS) not in two.a.run("ip", "-4", "rule", "show")
        assert str(OURS) in two.a.run("ip", "-6", "rule", "show")
    finally:
        two.a.run("ip", "rule", "del", *rule)
        two.a.run("ip", "route", "flush", "table", "51820")


@pytest.mark.netns
def test_a_vpn_without_a_route_is_in_nobodys_way(two: TwoIsps, record: Path) -> None:
    two.a.run("ip", "rule", "add", "priority", "5270", "lookup", "52")
    two.a.run("ip", "route", "add", "10.88.0.0/16", "dev", "x1", "table", "52")
    try:
        assert two.apply(record, "x2") == IN_FORCE
        assert " dev x1 " in two.a.run("ip", "route", "get", "10.88.0.1")
        two.restore(record)
    finally:
        two.a.run("ip", "route", "flush", "table", "52")
        two.a.run("ip", "rule", "del", "priority", "5270", "lookup", "52")


@pytest.mark.netns
@pytest.mark.row("BP-19")
def test_when_the_interface_goes_the_systems_own_way_holds_at_once(two: TwoIsps, record: Path) -> None:
    two.apply(record, "x2")
    assert {two.outgoing(family) for family in SERVER} == {"x2"}
    two.a.run("sysctl", "-qw", "net.ipv6.conf.x2.keep_addr_on_down=1")
    two.a.run("ip", "link", "set", "x2", "down")
    try:
        assert {two.outgoing(family) for family in SERVER} == {"x1"}
        applied = two.apply(record, "x2")
        assert applied == AccessApplied(obstacles=("IPv4: x2 has no default route", "IPv6: x2 has no default route"))
        assert not record.exists(), "nothing of ours is left"
    finally:
        two.a.run("ip", "link", "set", "x2", "up")
        two.add_defaults(2)


@pytest.mark.netns
def test_after_a_kill_what_is_left_is_undone_to_the_byte(two: TwoIsps, record: Path) -> None:
    before = two.kernel()
    code = (
        "import os, signal; from pathlib import Path; from dataplane.access_routes import AccessRoutes;"
        f"AccessRoutes(Path({str(record)!r})).apply('x2', ('x1', 'x2')); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(two.a.command(sys.executable, "-c", code), check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert two.outgoing(socket.AF_INET) == "x2", "the dead one's rules go on"
    assert two.restore(record)
    assert two.kernel() == before
    assert not two.restore(record), "there is nothing more to undo"


@pytest.mark.netns
def test_addresses_that_come_and_go_are_followed(two: TwoIsps, record: Path) -> None:
    two.apply(record, "x2")
    two.a.run("ip", "address", "add", "10.1.0.77/24", "dev", "x1")
    two.apply(record, "x2")
    assert "from 10.1.0.77 iif lo" in two.a.run("ip", "rule", "show")
    two.a.run("ip", "address", "del", "10.1.0.77/24", "dev", "x1")
    two.apply(record, "x2")
    assert "10.1.0.77" not in two.a.run("ip", "rule", "show")
    known = Record.load(record)
    assert known is not None
    assert "10.1.0.77" not in str(known.undos)


@pytest.mark.netns
def test_a_refusal_undoes_all(two: TwoIsps, record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = two.kernel()

    def refuse(_family: int, _lines: object) -> None:
        raise EnvironmentFault("change", "rules", "no")

    two.apply(record, "x1")
    monkeypatch.setattr("dataplane.access_routes._batch", refuse)
    with pytest.raises(EnvironmentFault):
        two.apply(record, "x2")
    assert two.kernel() == before


@pytest.mark.netns
def test_the_main_tables_route_is_copied_with_all_that_it_says(two: TwoIsps) -> None:
    words = ("default", "via", "10.1.0.2", "dev", "x1", "onlink", "src", "10.1.0.1", "mtu", "1400", "metric", "50")
    two.a.run("ip", "route", "add", *words)
    try:
        ground = two.a.call(lambda: read_ground(4))
        assert ground.defaults["x1"] == AccessRoute(
            family=4, interface="x1", via="10.1.0.2", is_onlink=True, source="10.1.0.1", mtu=1400
        )
    finally:
        two.a.run("ip", "route", "del", *words)
