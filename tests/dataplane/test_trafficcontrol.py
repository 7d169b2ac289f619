"""HTB in a real kernel: what a cap lets through, what changes in place, and that everything comes back."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from arrivals import NS_PER_S, listening
from netns import Namespace, connect
from two_hosts import HOSTS, TwoHosts

from dataplane import rules
from dataplane.shaping.htb import FLOW_LEAVES, HANDLE, flow_leaf_minor, leaf_minor
from dataplane.shaping.plan import NO_SHAPING, ShapedLink, ShapingPlan, TrafficClass
from dataplane.shaping.trafficcontrol import LinkShape, TrafficControl

pytestmark = pytest.mark.netns

CAP = 8_000_000
PORT = 7000
SO_PRIORITY = 12
TCP, UDP = 6, 17
USERS_TREE = """
qdisc add dev left root handle 1: htb default 0x20
class add dev left parent 1: classid 1:20 htb rate 10mbit
qdisc add dev left parent 1:20 handle 30: pfifo limit 77
filter add dev left parent 1: protocol ip prio 5 u32 match ip dport 53 0xffff flowid 1:20
"""


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace() as one:
        one.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        connect(one, "left", one, "other", offloads=True)
        yield one


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record.json"


def plan_of(*classes: TrafficClass, interface: str = "left", **link: int) -> ShapingPlan:
    shaped = ShapedLink(interface=interface, **link)
    return ShapingPlan(classes=(*NO_SHAPING.classes, *classes), links=(shaped,))


CAPPED = plan_of(TrafficClass(name="a", cap_bit_s=CAP))


def state(namespace: Namespace) -> dict[str, str]:
    words = ["qdisc show", "class show dev left", "class show dev other", "filter show dev left"]
    found = {each: namespace.run("tc", *each.split()) for each in words}
    found["links"] = namespace.run("ip", "link")
    return {each: re.sub(r"direct_packets_stat \d+", "", text) for each, text in found.items()}


def classes_on(namespace: Namespace, interface: str) -> dict[int, str]:
    """What tc says of each class, by its minor number."""
    lines = namespace.run("tc", "class", "show", "dev", interface).splitlines()
    found = (re.match(rf"class htb {HANDLE:x}:(\w+) (.*)", line) for line in lines)
    return {int(each[1], 16): each[2] for each in found if each}


def apply(namespace: Namespace, control: TrafficControl, plan: ShapingPlan) -> dict[str, LinkShape]:
    return namespace.call(lambda: control.apply(plan))


# -- what goes through -----------------------------------------------------------------------------------------------


def open_sender(family: int, kind: socket.SocketKind, minor: int) -> socket.socket:
    """Its packets are of that class, as if the eBPF program had said so."""
    opened = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
    opened.setsockopt(socket.SOL_SOCKET, SO_PRIORITY, HANDLE << 16 | minor)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    return opened


def flood(address: str, family: int, minor: int, size: int, seconds: float) -> None:
    """Datagrams of `size` bytes at the IP layer, at one and a half times the cap."""
    data = bytes(size - (28 if family == 4 else 48))
    with open_sender(family, socket.SOCK_DGRAM, minor) as sender:
        begun_s = time.monotonic()
        sent = 0
        while (now_s := time.monotonic() - begun_s) < seconds:
            while sent * size * 8 < 1.5 * CAP * now_s:
                sender.sendto(data, (address, PORT))
                sent += 1
            time.sleep(0.001)


@pytest.mark.parametrize(("family", "size"), [(4, 1500), (6, 240)])
@pytest.mark.exact
def test_a_cap_is_of_bytes_at_the_ip_layer(record: Path, family: int, size: int) -> None:
    control = TrafficControl(record)
    with TwoHosts() as hosts:
        apply(hosts.left, control, CAPPED)
        with listening(hosts.right, "right") as arrivals:
            hosts.left.call(lambda: flood(HOSTS[family].right, family, leaf_minor(2), size, 1.55))
        assert arrivals.rates_bit_s(UDP, PORT, step_ns=500_000_000) == pytest.approx([CAP] * 2, rel=0.01)
        hosts.left.call(control.restore)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.exact
def test_a_cap_holds_for_packets_that_are_segmented_later(record: Path, family: int) -> None:
    """One of 64 kB would be more than 5 % of a second's bytes, and it carries a header for each of its segments."""
    control = TrafficControl(record)
    with TwoHosts() as hosts:
        apply(hosts.left, control, CAPPED)
        listener = hosts.right.call(
            lambda: socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
        )
        listener.settimeout(5)
        end_s = time.monotonic() + 2.5  # what is judged is over well before it ends

        def send() -> None:
            with open_sender(family, socket.SOCK_STREAM, leaf_minor(2)) as sender:
                # One that fills its queue: how bbr gets to its rate is not what is asked here.
                sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
                sender.connect((HOSTS[family].right, PORT))
                while time.monotonic() < end_s:
                    sender.send(bytes(1 << 16))
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        def receive() -> None:
            accepted, _ = listener.accept()
            with accepted:
                try:
                    while accepted.recv(1 << 16):
                        pass
                except ConnectionResetError:
                    return

        thread = threading.Thread(target=receive)
        thread.start()
        with listening(hosts.right, "right") as arrivals:
            hosts.left.call(send)
        thread.join()
        listener.close()
        rates = arrivals.rates_bit_s(TCP, PORT)[:6]
        assert max(rates) <= 1.02 * CAP
        assert min(rates) >= 0.97 * CAP
        hosts.left.call(control.restore)


@pytest.mark.exact
def test_a_link_without_a_link_layer_header_has_the_same_cap(namespace: Namespace, record: Path) -> None:
    def open_tunnel() -> int:
        opened = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(opened, 0x400454CA, struct.pack("16sH14x", b"tun0", 0x0001 | 0x1000))  # TUNSETIFF: TUN, NO_PI
        return opened

    tunnel = namespace.call(open_tunnel)
    control = TrafficControl(record)
    try:
        namespace.run("ip", "addr", "add", "10.5.0.1/24", "dev", "tun0")
        namespace.run("ip", "link", "set", "tun0", "up")
        apply(namespace, control, plan_of(TrafficClass(name="a", cap_bit_s=CAP), interface="tun0"))
        sender = namespace.thread(lambda: flood("10.5.0.2", 4, leaf_minor(2), 200, 1.3))
        received, begun_s = 0, 0.0
        while not begun_s or time.monotonic() < begun_s + 1:
            try:
                received += len(os.read(tunnel, 2048))
            except BlockingIOError:
                time.sleep(0.0005)
                continue
            begun_s = begun_s or time.monotonic()
        sender.join()
        assert received * 8 == pytest.approx(CAP, rel=0.015)
        namespace.call(control.restore)
    finally:
        os.close(tunnel)


@pytest.mark.exact
def test_a_rate_changes_in_place_and_no_packet_is_lost(record: Path) -> None:
    """Fifty packets wait at 64 kbit/s; at 8 Mbit/s they are gone in a moment."""
    slow = plan_of(TrafficClass(name="a", cap_bit_s=64_000), TrafficClass(name="b", flow_cap_bit_s=64_000))
    fast = plan_of(TrafficClass(name="a", cap_bit_s=CAP), TrafficClass(name="b", flow_cap_bit_s=CAP))
    minors = (leaf_minor(2), flow_leaf_minor(3, 5))
    control = TrafficControl(record)
    with TwoHosts() as hosts:
        apply(hosts.left, control, slow)

        def send() -> None:
            for minor in minors:
                with open_sender(4, socket.SOCK_DGRAM, minor) as sender:
                    for _ in range(50):
                        sender.sendto(bytes(1200), (HOSTS[4].right, PORT))

        with listening(hosts.right, "right") as arrivals:
            hosts.left.call(send)
            apply(hosts.left, control, fast)
            until_s = time.monotonic() + 5
            while len(arrivals.packets.get((UDP, PORT), ())) < 100 and time.monotonic() < until_s:
                time.sleep(0.02)
        times = [time_ns for time_ns, _ in arrivals.packets[(UDP, PORT)]]
        assert len(times) == 100
        assert times[-1] - times[0] < 2 * NS_PER_S, "at 64 kbit/s it would be 8 s"
        hosts.left.call(control.restore)


# -- what is there ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", ["", USERS_TREE], ids=["default", "with a tree of the user's"])
def test_applied_idempotently_and_restored_exactly(namespace: Namespace, record: Path, tree: str) -> None:
    if tree:
        namespace.run("tc", "-batch", "-", text=tree)
    before = state(namespace)
    control = TrafficControl(record)
    shapes = apply(namespace, control, CAPPED)
    applied = state(namespace)
    index = int(namespace.run("ip", "-o", "link", "show", "left").split(":")[0])
    ifb = int(namespace.run("ip", "-o", "link", "show", f"ha-ifb{index}").split(":")[0])
    assert shapes == {"left": LinkShape(egress=True, ingress_ifb_index=ifb)}
    assert set(classes_on(namespace, "left")) == set(classes_on(namespace, f"ha-ifb{index}")) == {1, 0x10, 0x11, 0x12}
    assert "ceil 8Mbit" in classes_on(namespace, "left")[0x12]
    assert "UP" in namespace.run("ip", "link", "show", f"ha-ifb{index}")
    assert apply(namespace, control, CAPPED) == shapes
    assert state(namespace) == applied
    namespace.call(control.restore)
    assert state(namespace) == before
    namespace.call(control.restore)
    assert not record.exists()


def test_a_new_process_undoes_what_its_killed_predecessor_left(namespace: Namespace, record: Path) -> None:
    before = state(namespace)
    apply(namespace, TrafficControl(record), CAPPED)
    successor = TrafficControl(record)
    apply(namespace, successor, plan_of(TrafficClass(name="a", minimum_bit_s=64_000)))
    assert "ifb" not in namespace.run("ip", "link")
    namespace.call(successor.restore)
    assert state(namespace) == before


def test_what_is_not_needed_any_more_goes_when_told(namespace: Namespace, record: Path) -> None:
    before = state(namespace)
    control = TrafficControl(record)
    flows = plan_of(TrafficClass(name="a", flow_cap_bit_s=CAP), TrafficClass(name="b"), egress_bit_s=CAP)
    apply(namespace, control, flows)
    assert len(classes_on(namespace, "left")) == 5 + FLOW_LEAVES
    apply(namespace, control, plan_of(egress_bit_s=CAP))
    assert len(classes_on(namespace, "left")) == 5 + FLOW_LEAVES, "a packet may still be on its way there"
    assert "ha-ifb" in namespace.run("ip", "link")
    namespace.call(control.drop_unused)
    assert set(classes_on(namespace, "left")) == {1, 0x10, 0x11}
    assert "ha-ifb" not in namespace.run("ip", "link")
    apply(namespace, control, NO_SHAPING)
    namespace.call(control.drop_unused)
    assert state(namespace) == before
    namespace.call(control.restore)


def test_a_class_gets_a_leaf_for_each_flow_and_loses_them_again(namespace: Namespace, record: Path) -> None:
    control = TrafficControl(record)
    plain, by_flow = CAPPED, plan_of(TrafficClass(name="a", flow_cap_bit_s=CAP, cap_bit_s=2 * CAP))
    for _ in range(2):
        apply(namespace, control, plain)
        assert "leaf 12:" in classes_on(namespace, "left")[leaf_minor(2)]
        apply(namespace, control, by_flow)
        assert "leaf" not in classes_on(namespace, "left")[leaf_minor(2)]
        assert "leaf 102f:" in classes_on(namespace, "left")[flow_leaf_minor(2, FLOW_LEAVES - 1)]
    namespace.call(control.restore)


def test_a_queue_becomes_one_of_another_kind_with_the_rate(namespace: Namespace, record: Path) -> None:
    """Where a long packet is no lump any more, none is segmented."""
    control = TrafficControl(record)
    for rate, kind in ((CAP, "tbf 12:"), (600_000_000, "bfifo 6012:"), (CAP, "tbf 12:")):
        apply(namespace, control, plan_of(TrafficClass(name="a", cap_bit_s=rate)))
        assert f"qdisc {kind} parent 7414:12" in namespace.run("tc", "qdisc", "show", "dev", "left")
    namespace.call(control.restore)


def test_a_link_whose_qdisc_cannot_come_back_is_left_alone_and_the_others_are_shaped(
    namespace: Namespace, record: Path
) -> None:
    namespace.run(
        "tc",
        *[
            "qdisc",
            "add",
            "dev",
            "left",
            "root",
            "stab",
            "linklayer",
            "atm",
            "overhead",
            "9",
            "mtu",
            "2048",
            "pfifo",
            "limit",
            "5",
        ],
    )
    before = namespace.run("tc", "qdisc", "show", "dev", "left")
    links = (*CAPPED.links, ShapedLink(interface="other"), ShapedLink(interface="nobody"))
    control = TrafficControl(record)
    shapes = apply(namespace, control, msgspec.structs.replace(CAPPED, links=links))
    assert set(shapes) == {"left", "other"}
    assert shapes["other"].egress
    assert not shapes["left"].egress
    assert "nothing is shaped there (if nobody needs it: tc qdisc del dev left root)" in shapes["left"].refused
    assert namespace.run("tc", "qdisc", "show", "dev", "left") == before
    namespace.call(control.restore)


def test_an_interface_that_comes_back_as_another_is_shaped_again(namespace: Namespace, record: Path) -> None:
    control = TrafficControl(record)
    first = apply(namespace, control, CAPPED)["left"]
    namespace.run("ip", "link", "del", "left")
    assert apply(namespace, control, CAPPED) == {}
    assert "ha-ifb" not in namespace.run("ip", "link")
    connect(namespace, "left", namespace, "other", offloads=True)
    before = state(namespace)
    second = apply(namespace, control, CAPPED)["left"]
    assert second.egress
    assert second.ingress_ifb_index not in (0, first.ingress_ifb_index)
    assert classes_on(namespace, "left")
    namespace.call(control.restore)
    assert state(namespace) == before


def test_what_somebody_took_away_is_put_there_again(namespace: Namespace, record: Path) -> None:
    before = state(namespace)
    control = TrafficControl(record)
    apply(namespace, control, CAPPED)
    applied = state(namespace)
    namespace.run("tc", "qdisc", "del", "dev", "left", "root")
    apply(namespace, control, CAPPED)
    assert state(namespace) == applied
    namespace.run("ip", "link", "del", namespace.run("ip", "-o", "link", "show", "type", "ifb").split(": ")[1])
    assert apply(namespace, control, CAPPED)["left"].ingress_ifb_index
    namespace.call(control.restore)
    assert state(namespace) == before


def test_another_mtu_is_followed(namespace: Namespace, record: Path) -> None:
    """A packet that is longer than a queue takes is lost."""
    namespace.run("ip", "addr", "add", "10.8.0.1/24", "dev", "left")
    namespace.run("ip", "neigh", "add", "10.8.0.2", "lladdr", "02:00:00:00:00:02", "dev", "left", "nud", "permanent")
    control = TrafficControl(record)
    plan = plan_of(TrafficClass(name="a", cap_bit_s=64_000))
    apply(namespace, control, plan)
    namespace.run("ip", "link", "set", "left", "mtu", "9000")
    apply(namespace, control, plan)

    def send() -> None:
        with open_sender(4, socket.SOCK_DGRAM, leaf_minor(2)) as sender:
            sender.sendto(bytes(8000), ("10.8.0.2", PORT))

    namespace.call(send)
    shown = namespace.run("tc", "-s", "class", "show", "dev", "left", "classid", f"{HANDLE:x}:{leaf_minor(2):x}")
    assert "Sent 8028 bytes 1 pkt (dropped 0" in shown, "its bytes at the IP layer"
    namespace.call(control.restore)


KILLED_IN_BETWEEN = """
import os, signal, sys
from pathlib import Path
import msgspec
from dataplane import kernel_tools
from dataplane.shaping.plan import ShapingPlan
from dataplane.shaping.rtnetlink import TcSocket
from dataplane.shaping.trafficcontrol import TrafficControl

left = int(sys.argv[3])

def killing(function):
    def counted(*arguments, **options):
        global left
        done = function(*arguments, **options)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    return counted

kernel_tools.run = killing(kernel_tools.run)
TcSocket.change = killing(TcSocket.change)
control = TrafficControl(Path(sys.argv[2]))
control.apply(msgspec.json.decode(sys.argv[1], type=ShapingPlan))
control.restore()
"""


def test_killed_after_each_change(namespace: Namespace, record: Path) -> None:
    namespace.run("tc", "-batch", "-", text=USERS_TREE)
    before = state(namespace)
    plan = msgspec.json.encode(CAPPED).decode()
    root = Path(__file__).parents[2]
    for step in range(1, 100):
        arguments = namespace.command(sys.executable, "-c", KILLED_IN_BETWEEN, plan, str(record), str(step))
        done = subprocess.run(arguments, cwd=root, check=False)
        namespace.call(lambda: rules.restore(record))
        assert state(namespace) == before, f"after step {step}"
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert step > 20
