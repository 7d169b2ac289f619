"""A user's root qdisc comes back exactly as it was, and what could not is left alone."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns import Namespace, connect

from billpay.errors import EnvironmentFault
from dataplane import rules
from dataplane.desired import DesiredState
from dataplane.record import QdiscUndo, Record
from dataplane.shaping import qdiscs
from dataplane.shaping import rtnetlink as rt
from dataplane.shaping.htb import build_size_table
from dataplane.shaping.repeating import prepare, reason_against
from dataplane.shaping.rtnetlink import TcMessage, TcSocket

LINK = "left"
HTB = """
qdisc add dev left root handle 1: htb default 0x20 r2q 20
class add dev left parent 1: classid 1:1 htb rate 50mbit burst 20k
class add dev left parent 1:1 classid 1:10 htb rate 10mbit ceil 30mbit prio 2 quantum 3000
class add dev left parent 1:1 classid 1:20 htb rate 20gbit ceil 40gbit
class add dev left parent 1:10 classid 1:11 htb rate 1mbit overhead 24 linklayer ethernet
class add dev left parent 1:10 classid 1:12 htb rate 2mbit
qdisc add dev left parent 1:11 handle 30: pfifo limit 77
qdisc add dev left parent 1:12 handle 20: tbf rate 1mbit burst 3k latency 50ms
qdisc add dev left parent 20:1 handle 40: bfifo limit 9000
qdisc add dev left parent 1:20 handle 8005: htb
class add dev left parent 8005: classid 8005:7 htb rate 3mbit
"""
FILTERS = """
filter add dev left parent 1: protocol ip prio 5 u32 match ip dport 53 0xffff flowid 1:11
filter add dev left parent 1: protocol ipv6 prio 6 u32 match ip6 dst fd00::/8 flowid 1:12
filter add dev left parent 1: protocol ip prio 5 handle 7: u32 divisor 16
filter add dev left parent 1: protocol ip prio 5 u32 ht 7:3: match ip src 10.0.0.3/32 flowid 1:20
filter add dev left parent 1: protocol ip prio 5 u32 ht 800:: match ip dst 10.0.0.0/8 hashkey mask 0xf at 12 link 7:
filter add dev left parent 1: protocol all prio 9 u32 match u32 0 0 flowid 1:20 action mirred egress mirror dev other
filter add dev left parent 1:10 protocol ip prio 3 u32 match ip tos 0x10 0xff flowid 1:12
filter add dev left parent 1: protocol ip prio 8 bpf bytecode "1,6 0 0 1" flowid 1:10
"""
WIDE = "qdisc add dev left root handle 1: htb\n" + "".join(
    f"class add dev left parent 1: classid 1:{minor:x} htb rate 1mbit\n"
    f"qdisc add dev left parent 1:{minor:x} handle {minor:x}: pfifo limit {minor}\n"
    for minor in range(0x100, 0x118)
)
TREES = {
    "default": "",
    "pfifo": "qdisc add dev left root pfifo limit 123",
    "bfifo": "qdisc add dev left root handle 5: bfifo limit 4567",
    "noqueue": "qdisc replace dev left root noqueue",
    "tbf": "qdisc add dev left root tbf rate 5mbit burst 1514 limit 20000",
    "tbf with a peak rate": "qdisc add dev left root tbf rate 5mbit burst 9k latency 70ms peakrate 7mbit mtu 1600",
    "tbf, fast": "qdisc add dev left root handle 9: tbf rate 40gbit burst 300001 limit 30000000",
    "htb": HTB,
    "htb with filters": HTB + FILTERS,
    "many classes": WIDE,
    "sizes": "qdisc add dev left root stab overhead 24 handle 3: tbf rate 5mbit burst 3k limit 20000",
    "beside a classifier": "qdisc add dev left clsact\nqdisc add dev left root pfifo limit 9",
}


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace() as one:
        one.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        connect(one, LINK, one, "other", offloads=True)
        yield one


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(path=tmp_path / "record.json", desired=DesiredState(owner="test"))


def make(namespace: Namespace, text: str) -> None:
    namespace.run("tc", "-batch", "-", text=text.strip() + "\n")


def shown(namespace: Namespace) -> dict[str, str]:
    """Everything that tc tells of the interface, but no statistics (HTB has one that is always shown)."""
    commands = ["qdisc show", "class show", "filter show", "filter show parent 1:10", "-d qdisc show"]
    found = {words: namespace.run("tc", *words.split(), "dev", LINK) for words in commands}
    found["link"] = namespace.run("ip", "link", "show", LINK)
    found["links"] = namespace.run("ip", "-br", "link")
    return {words: re.sub(r"direct_packets_stat \d+", "", text) for words, text in found.items()}


def take(namespace: Namespace, record: Record) -> None:
    """What is at the root is recorded, and our HTB takes its place."""

    def replace() -> None:
        device = qdiscs.read_device(LINK)
        qdiscs.save_root(device, record)
        qdiscs.put_ours(device, build_size_table(1500, 14), is_new=True)

    namespace.call(replace)


@pytest.mark.netns
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_what_tc_shows_is_the_same_again_byte_by_byte(namespace: Namespace, record: Record, tree: str) -> None:
    if tree:
        make(namespace, tree)
    before = shown(namespace)
    take(namespace, record)
    assert "htb 7414:" in shown(namespace)["qdisc show"]
    assert shown(namespace)["links"] == before["links"], "nothing is left of the rehearsal"
    assert namespace.call(lambda: rules.restore(record.path)) is True
    assert shown(namespace) == before
    assert namespace.call(lambda: rules.restore(record.path)) is False


@pytest.mark.netns
def test_the_queue_of_a_real_interface_comes_back(namespace: Namespace, record: Record) -> None:
    """Here an ifb stands for it: it has the kernel's default queue, and several of them."""
    namespace.run("ip", "link", "del", LINK)
    namespace.run("ip", "link", "add", LINK, "numtxqueues", "4", "type", "ifb")
    namespace.run("ip", "link", "set", LINK, "up")
    before = shown(namespace)
    assert "mq" in before["qdisc show"]
    take(namespace, record)
    namespace.call(lambda: rules.restore(record.path))
    assert shown(namespace) == before


@pytest.mark.netns
def test_a_queue_length_of_none_comes_back(namespace: Namespace, record: Record) -> None:
    namespace.run("ip", "link", "set", LINK, "txqueuelen", "0")
    before = shown(namespace)
    take(namespace, record)
    assert shown(namespace)["link"] != before["link"]
    namespace.call(lambda: rules.restore(record.path))
    assert shown(namespace) == before


def refused(namespace: Namespace, record: Record) -> str:
    """Why, after nothing was touched."""
    before = shown(namespace)
    with pytest.raises(EnvironmentFault) as fault:
        take(namespace, record)
    assert shown(namespace) == before
    assert record.undos == []
    assert "tc qdisc del dev left root" in fault.value.remedy
    return str(fault.value)


@pytest.mark.netns
def test_a_filter_that_runs_an_ebpf_program_is_refused(namespace: Namespace, record: Record) -> None:
    make(namespace, HTB)

    def attach() -> None:
        program = load_program()
        options = rt.pack([(6, struct.pack("=I", program)), (7, b"mine\0"), (8, struct.pack("=I", 1))])
        attributes = ((rt.TCA_KIND, b"bpf\0"), (rt.TCA_OPTIONS, options))
        index = qdiscs.read_device(LINK).ifindex
        info = 7 << 16 | 0x0300  # priority, and every protocol in network byte order
        message = TcMessage(
            type=rt.RTM_NEWTFILTER, interface_index=index, handle=0, parent=0x10000, info=info, attributes=attributes
        )
        with TcSocket() as kernel:
            kernel.change(message, rt.CREATE, target="a filter")
        os.close(program)

    namespace.call(attach)
    assert "mine" in shown(namespace)["filter show"]
    assert "qdisc htb 1: cannot be put back exactly: filter bpf 0:1 runs an eBPF program" in refused(namespace, record)


def load_program() -> int:
    """`return 0`, by bpf(2)."""
    code = ctypes.create_string_buffer(bytes.fromhex("b700000000000000 9500000000000000".replace(" ", "")))
    text = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack("=IIQQIIQ", 3, 2, ctypes.addressof(code), ctypes.addressof(text), 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(321, 5, ctypes.create_string_buffer(attributes), len(attributes))
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    return int(descriptor)


@pytest.mark.netns
def test_a_table_of_sizes_is_refused(namespace: Namespace, record: Record) -> None:
    make(namespace, "qdisc add dev left root stab linklayer atm overhead 9 mtu 2048 handle 3: pfifo limit 5")
    assert "its qdisc pfifo 3: cannot be put back exactly" in refused(namespace, record)


@pytest.mark.netns
def test_our_own_tree_without_a_record_is_refused(namespace: Namespace, record: Record) -> None:
    make(namespace, "qdisc add dev left root handle 7414: htb")
    assert "of which we have no record" in refused(namespace, record)


@pytest.mark.netns
def test_a_qdisc_that_somebody_put_there_meanwhile_stays(namespace: Namespace, record: Record) -> None:
    make(namespace, HTB)
    take(namespace, record)
    make(namespace, "qdisc replace dev left root handle 1: htb default 3")
    later = shown(namespace)
    namespace.call(lambda: rules.restore(record.path))
    assert shown(namespace) == later


@pytest.mark.netns
@pytest.mark.parametrize("rate", ["64kbit", "5mbit", "933mbit"])
def test_the_burst_of_a_tbf_is_asked_for_to_the_byte(namespace: Namespace, rate: str) -> None:
    """The kernel tells how long it takes, in whole ticks; a packet of 1514 bytes must still fit into 1514 bytes."""
    make(namespace, f"qdisc add dev left root tbf rate {rate} burst 1514 limit 20000")
    raw = namespace.call(lambda: qdiscs.read_tree(qdiscs.read_device(LINK).ifindex)[0])
    asked = rt.unpack(prepare(rt.read(raw), 1).options or b"")
    assert 1514 <= int.from_bytes(rt.find(asked, 6) or b"", "little") <= 1522


@pytest.mark.netns
def test_an_interface_that_has_gone_is_no_fault(namespace: Namespace, record: Record) -> None:
    make(namespace, HTB)
    take(namespace, record)
    namespace.run("ip", "link", "del", LINK)
    connect(namespace, LINK, namespace, "other")
    before = shown(namespace)
    namespace.call(lambda: rules.restore(record.path))
    assert shown(namespace) == before
    assert not record.path.exists()


@pytest.mark.netns
def test_a_restore_that_was_cut_short_is_finished(namespace: Namespace, record: Record) -> None:
    """After each of its changes in turn."""
    make(namespace, HTB + FILTERS)
    before = shown(namespace)
    take(namespace, record)
    undo = next(each for each in record.undos if isinstance(each, QdiscUndo))
    change, cuts = TcSocket.change, 0

    class CutError(Exception):
        pass

    def restore_until(left: int) -> None:
        def counted(self: TcSocket, message: TcMessage, flags: int, *, target: str) -> None:
            nonlocal left
            if left == 0:
                raise CutError
            left -= 1
            change(self, message, flags, target=target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TcSocket, "change", counted)
            qdiscs.restore_root(undo)

    while True:
        try:
            namespace.call(lambda: restore_until(1))
            break
        except CutError:
            cuts += 1
            assert cuts < 100
    assert cuts > 15
    assert shown(namespace) == before


def qdisc(kind: str, *attributes: tuple[int, bytes]) -> TcMessage:
    return TcMessage(
        type=rt.RTM_NEWQDISC,
        interface_index=1,
        handle=0x10000,
        parent=rt.TC_H_ROOT,
        info=0,
        attributes=((rt.TCA_KIND, kind.encode() + b"\0"), *attributes),
    )


def test_what_a_dump_leaves_out_is_refused() -> None:
    delayed = struct.pack("=6I", 1000, 100, 0, 0, 0, 0)
    assert reason_against(qdisc("pfifo")) == reason_against(qdisc("netem", (rt.TCA_OPTIONS, delayed))) == ""
    jittery = struct.pack("=6I", 1000, 100, 0, 0, 0, 10)
    assert "jitter" in reason_against(qdisc("netem", (rt.TCA_OPTIONS, jittery)))
    assert reason_against(qdisc("taprio")) == "qdisc taprio 1: is of a kind that we do not know"
    estimated = rt.pack([(1, bytes(16)), (2, bytes(8))])
    assert "rate estimator" in reason_against(qdisc("pfifo", (rt.TCA_STATS2, estimated)))


def test_messages_are_taken_apart_and_put_together() -> None:
    attributes = [(1, b"htb\0"), (2, b"odd"), (1, b"")]
    assert rt.unpack(rt.pack(attributes)) == attributes
    assert rt.unpack(rt.pack(attributes)[:-9]) == attributes[:1]
    assert [rt.show_handle(each) for each in (0x10000, 0x1_000A, 0, rt.TC_H_ROOT)] == ["1:", "1:a", "0:", "root"]
