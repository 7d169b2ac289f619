"""The kernel's queue of a gateway's link: the tree, who is let in, and what real packets get of it."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from netns import Namespace, Routed

from billpay.errors import EnvironmentFault
from billpay.tolls import CLASS_CONTROL
from dataplane.ebpf.gateway_layout import LINK_TERMS
from dataplane.ebpf.libbpf import AttachType, BpfObject, Map, Program
from dataplane.shaping.qdiscs import Device
from gateway import kernel_queue
from gateway.kernel_queue import KernelQueues, QueueClass, correction_bytes, leaf_minor, level_bytes, tree, tree_lines
from gateway.plan import LinkPlan, Peer, Queueing

ROOT = Path(__file__).resolve().parents[2]
NS_PER_S = 1_000_000_000
FRAME = 1514
ZERO = bytes(4)
LINK = LinkPlan(name="y-b", interface_index=1, peer=Peer.HOST, rate_bit_s=10_000_000)
LIMIT = 125_000
UNPAID, PAID, MORE, MOST = 0, 3, 5, 7


# --- the tree -------------------------------------------------------------------------------------------------------


def by_minor(plan: LinkPlan) -> dict[int, QueueClass]:
    return {each.minor: each for each in tree(plan)}


def test_what_is_promised_is_the_links_rate_and_an_unpaid_packet_has_a_twentieth() -> None:
    classes = by_minor(LINK)
    nodes = [each for each in classes.values() if not each.limit_bytes]
    assert [(each.rate_bit_s, each.ceil_bit_s) for each in nodes] == [
        (10_000_000, 10_000_000),
        (9_500_000, 10_000_000),
        (500_000, 10_000_000),
    ]
    unpaid, least = classes[leaf_minor(0, 15)], classes[leaf_minor(1, 0)]
    assert classes[unpaid.parent].rate_bit_s == 500_000
    assert classes[least.parent].rate_bit_s == 9_500_000


def test_who_pays_more_goes_first_and_control_before_all() -> None:
    classes = by_minor(LINK)
    priorities = [classes[leaf_minor(service_class, 0)].priority for service_class in range(1, CLASS_CONTROL + 1)]
    assert priorities == [7, 6, 5, 4, 3, 2, 1, 0]
    assert classes[kernel_queue.OTHER_MINOR].priority == 0


def test_each_class_comes_after_its_parent_and_all_of_a_fair_queue_have_leaves() -> None:
    seen = {0}
    for each in tree(LINK):
        assert each.parent in seen
        assert each.minor not in seen
        seen.add(each.minor)
    assert {leaf_minor(service_class, leaf) for service_class in range(8) for leaf in range(16)} < seen


def test_a_fifo_has_one_leaf_for_everybody_who_passes() -> None:
    minors = [each.minor for each in tree(replace(LINK, queueing=Queueing.FIFO))]
    assert minors == [kernel_queue.LINK_MINOR, kernel_queue.OTHER_MINOR, leaf_minor(0, 0)]


@pytest.mark.parametrize(
    ("overhead", "link_type", "words"),
    [
        (14, "ether", ""),
        (38, "ether", " overhead 24"),
        (0, "ether", " stab overhead -14"),
        (14, "none", " overhead 14"),
    ],
)
def test_a_packet_counts_with_the_links_overhead(overhead: int, link_type: str, words: str) -> None:
    device = Device(ifindex=1, ifname="x", mtu=1500, link_type=link_type)
    lines = list(tree_lines("x", replace(LINK, overhead_bytes=overhead), device, can_segment=True))
    assert ("stab" in lines[0]) == ("stab" in words)
    assert (words if "stab" in words else "") in lines[0]
    assert lines[1].endswith(words) or "stab" in words


def test_long_packets_are_segmented_where_one_would_take_long() -> None:
    assert by_minor(LINK)[leaf_minor(0, 0)].longest_packet_bytes == 1522
    assert by_minor(replace(LINK, rate_bit_s=100_000_000))[leaf_minor(0, 0)].longest_packet_bytes == 12_500
    assert by_minor(replace(LINK, rate_bit_s=1_000_000_000))[leaf_minor(0, 0)].longest_packet_bytes == 0


# --- corrections ----------------------------------------------------------------------------------------------------


def test_the_level_goes_on_falling_after_it_was_written() -> None:
    queue = struct.pack("=8xQ8xQ", 5 * NS_PER_S, 100_000)
    assert level_bytes(queue, rate_bit_s=8_000_000, now_ns=5 * NS_PER_S) == 100_000
    assert level_bytes(queue, rate_bit_s=8_000_000, now_ns=5 * NS_PER_S + 40_000_000) == 60_000
    assert level_bytes(queue, rate_bit_s=8_000_000, now_ns=6 * NS_PER_S) == 0


def test_half_of_a_lasting_difference_is_corrected_and_a_burst_is_none() -> None:
    assert correction_bytes(LINK, waiting_bytes=50_000, level_bytes=45_000) == 0
    assert correction_bytes(LINK, waiting_bytes=60_000, level_bytes=40_000) == 10_000
    assert correction_bytes(LINK, waiting_bytes=0, level_bytes=40_000) == -20_000
    assert correction_bytes(LINK, waiting_bytes=900_000, level_bytes=0) == LIMIT // 4


def test_a_statement_waits_for_what_a_full_queue_holds() -> None:
    assert 0.105 < kernel_queue.passing_s(LINK) < 0.15
    assert kernel_queue.passing_s(replace(LINK, rate_bit_s=0)) == 0
    assert kernel_queue.passing_s(replace(LINK, limit_bytes=10_000_000)) == 1.0


# --- who is let in: the program, at times of ours -------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("no clang: the test's program cannot be compiled")
    made = tmp_path_factory.mktemp("queue") / "queue.bpf.o"
    machine = subprocess.check_output(["uname", "-m"], text=True).strip()
    includes = [f"-I/usr/include/{machine}-linux-gnu", f"-I{ROOT / 'dataplane/ebpf'}"]
    options = ["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3"]
    source = str(ROOT / "tests" / "queue.bpf.c")
    subprocess.run([clang, *options, *includes, "-c", source, "-o", str(made)], check=True)
    return made


def write_terms(programs: BpfObject, plan: LinkPlan) -> None:
    terms = LINK_TERMS.pack(
        interface_index=plan.interface_index,
        header_bytes=14,
        queueing=2 if plan.queueing is Queueing.FIFO else 1,
        overhead_bytes=plan.overhead_bytes,
        rate_bytes_per_s=plan.rate_bit_s // 8,
        limit_bytes=kernel_queue.limit_bytes(plan),
    )
    programs.map("terms").update(ZERO, terms)


class Asked:
    """The queue of a link at a clock of its own."""

    def __init__(self, compiled: Path, plan: LinkPlan = LINK) -> None:
        self._programs = BpfObject(compiled)
        write_terms(self._programs, plan)
        self._ask: Program = self._programs.program("ask")
        self.corrections: Map = self._programs.map("queue_corrections")
        self.now_ns = NS_PER_S
        self.admitted: Counter[tuple[int, int]] = Counter()

    def close(self) -> None:
        self._programs.close()

    def admits(self, service_class: int, *, flow: int = 1, size: int = FRAME) -> bool:
        question = struct.pack("=IIIIQ", service_class, flow, size, 0, self.now_ns)
        place = self._ask.test_run(bytes(14) + question).retval
        if place:
            assert place >> 8 == 0x74
            self.admitted[service_class, flow] += size
        return bool(place)

    def leaf(self, service_class: int, *, flow: int) -> int:
        question = struct.pack("=IIIIQ", service_class, flow, 100, 0, self.now_ns)
        return self._ask.test_run(bytes(14) + question).retval & 15

    def level(self) -> int:
        """What waits of all classes."""
        queue = self._programs.map("queues").lookup(ZERO)
        assert queue is not None
        found: int = struct.unpack_from("=Q", queue, 24)[0]
        return found

    def fill(self, service_class: int, *, flow: int = 1) -> int:
        packets = 0
        while self.admits(service_class, flow=flow):
            packets += 1
        return packets

    def offer(self, for_ns: int, *offered: tuple[int, int, int]) -> None:
        """(class, flow, bit/s) each, evenly, for so long."""
        due = dict.fromkeys(offered, self.now_ns)
        until_ns = self.now_ns + for_ns
        while (at := min(due, key=lambda each: due[each])) and due[at] < until_ns:
            self.now_ns = max(self.now_ns, due[at])
            self.admits(at[0], flow=at[1])
            due[at] += FRAME * 8 * NS_PER_S // at[2]
        self.now_ns = until_ns


@pytest.fixture
def asked(compiled: Path) -> Iterator[Asked]:
    with closing(Asked(compiled)) as one:
        yield one


@pytest.mark.netns
def test_one_flow_may_fill_most_of_the_queue_and_leaves_room_for_another(asked: Asked) -> None:
    first = asked.fill(PAID) * FRAME
    assert LIMIT * 8 // 10 < first < LIMIT
    assert asked.admits(PAID, flow=2)
    assert not asked.admits(PAID, flow=1)


@pytest.mark.netns
def test_what_waits_drains_at_the_links_rate_to_the_byte(asked: Asked) -> None:
    for _ in range(60):
        assert asked.admits(PAID)
    before = asked.level()
    for _ in range(1_000):  # 799 ns are a byte less a 1250th
        asked.now_ns += 799
        asked.admits(PAID, size=0)
    assert before - asked.level() == 799 * 1_000 * 10 // 8_000


@pytest.mark.netns
def test_a_class_sees_only_what_goes_before_it(asked: Asked) -> None:
    asked.fill(UNPAID)
    asked.fill(UNPAID, flow=2)
    assert asked.fill(PAID) > 60
    assert asked.fill(MOST) > 60
    assert not asked.admits(PAID)
    for _ in range(200):
        assert asked.admits(CLASS_CONTROL)


@pytest.mark.netns
def test_when_all_send_too_much_the_best_payer_has_all_but_the_unpaid_twentieth(asked: Asked) -> None:
    asked.offer(10 * NS_PER_S, (UNPAID, 1, 20_000_000), (PAID, 2, 20_000_000), (MORE, 3, 20_000_000))
    link = 10 * 1_250_000
    assert asked.admitted[MORE, 3] == pytest.approx(link * 0.95, rel=0.015)
    assert asked.admitted[UNPAID, 1] == pytest.approx(link * 0.05, rel=0.25)  # and a whole queue at the beginning
    assert asked.admitted[PAID, 2] <= LIMIT


@pytest.mark.netns
def test_what_the_payers_leave_is_the_others(asked: Asked) -> None:
    asked.offer(10 * NS_PER_S, (UNPAID, 1, 20_000_000), (PAID, 2, 3_000_000), (MORE, 3, 3_000_000))
    assert asked.admitted[MORE, 3] == asked.admitted[PAID, 2] == pytest.approx(10 * 375_000, abs=FRAME)
    assert asked.admitted[UNPAID, 1] == pytest.approx(10 * 500_000, rel=0.03)


@pytest.mark.netns
def test_equal_payers_share_alike_and_the_modest_one_is_never_refused(asked: Asked) -> None:
    asked.offer(10 * NS_PER_S, (PAID, 1, 50_000_000), (PAID, 2, 12_000_000), (PAID, 3, 2_000_000))
    link = 10 * 1_250_000
    assert asked.admitted[PAID, 3] == pytest.approx(10 * 250_000, abs=FRAME)
    assert asked.admitted[PAID, 1] == pytest.approx(asked.admitted[PAID, 2], rel=0.02)
    assert sum(asked.admitted.values()) == pytest.approx(link + LIMIT, abs=2 * FRAME + LIMIT // 8)


@pytest.mark.netns
def test_flows_have_leaves_of_their_own_as_long_as_there_are_enough(asked: Asked) -> None:
    assert len({asked.leaf(PAID, flow=flow) for flow in range(100, 116)}) == 16
    assert len({asked.leaf(PAID, flow=100) for _ in range(5)}) == 1


@pytest.mark.netns
def test_a_fifo_makes_no_difference_between_anybody(compiled: Path) -> None:
    with closing(Asked(compiled, replace(LINK, queueing=Queueing.FIFO))) as asked:
        assert asked.fill(UNPAID) == LIMIT // FRAME
        assert not asked.admits(MOST, flow=2)
        assert not asked.admits(CLASS_CONTROL, flow=3)


@pytest.mark.netns
def test_what_is_longer_than_the_queue_passes_an_idle_link(asked: Asked) -> None:
    assert asked.admits(PAID, size=2 * LIMIT)
    assert not asked.admits(PAID, size=100)


@pytest.mark.netns
def test_a_correction_counts_where_something_waits(asked: Asked) -> None:
    asked.corrections.update(ZERO, struct.pack("=q", 50_000))
    assert asked.admits(PAID)
    assert asked.level() == FRAME
    asked.corrections.update(ZERO, struct.pack("=q", 60_000))
    assert asked.admits(PAID)
    assert asked.level() == 2 * FRAME + 10_000
    asked.corrections.update(ZERO, struct.pack("=q", 0))
    assert asked.admits(PAID)
    assert asked.level() == FRAME


# --- real packets ---------------------------------------------------------------------------------------------------


class Queued:
    """a – r – b with r's link to b limited by a TBF, as somebody else left it, and then by a queue of ours."""

    def __init__(self, compiled: Path, record: Path, plan: LinkPlan, *, offloads: bool = False) -> None:
        self.network = Routed(offloads=offloads)
        self.r: Namespace = self.network.r
        shape = ["tbf", "rate", "10mbit", "burst", "5000", "limit", "62500"]
        self.r.run("tc", "qdisc", "add", "dev", "rb", "root", "handle", "9:", *shape)
        self.before = self.qdiscs()
        self._ra, rb = (json.loads(self.r.run("ip", "-j", "link", "show", name))[0]["ifindex"] for name in ("ra", "rb"))
        self.plan = replace(plan, interface_index=rb)
        self.queues = KernelQueues([self.plan], record)
        self._programs = BpfObject(compiled)
        write_terms(self._programs, self.plan)

    def start(self) -> None:
        self.r.call(self.queues.apply)
        maps = self._programs.map("queues"), self._programs.map("queue_corrections")
        self.queues.watch(*maps, {self.plan.name: 0})
        self._links = self.r.call(
            lambda: [
                self._programs.program("arrive").attach(self._ra, AttachType.TCX_INGRESS, where="ra"),
                self._programs.program("leave").attach(self.plan.interface_index, AttachType.TCX_EGRESS, where="rb"),
            ]
        )

    def stop(self) -> None:
        for link in self._links:
            link.close()
        self.r.call(self.queues.restore)

    def qdiscs(self) -> str:
        return self.r.run("tc", "qdisc", "show", "dev", "rb")

    def refused(self, service_class: int) -> int:
        found = self._programs.map("refused").lookup(ZERO)
        assert found is not None
        count: int = struct.unpack_from("=16Q", found)[service_class]
        return count

    def dropped(self) -> int:
        """By any qdisc."""
        shown = json.loads(self.r.run("tc", "-s", "-j", "qdisc", "show", "dev", "rb"))
        return sum(each["drops"] for each in shown)

    def close(self) -> None:
        self._programs.close()
        for each in (self.network.a, self.network.r, self.network.b):
            each.close()

    def flood(self, *, for_s: float, **bit_s_by_class: float) -> dict[int, float]:
        """`c3=20e6`: so much of class 3; what b gets of each class in bit/s of frames, after half a second."""
        ports = {int(name[1:]): rate for name, rate in bit_s_by_class.items()}
        sockets = self.network.b.call(lambda: {each: listen(7000 + each) for each in ports})
        senders = [self.network.a.thread(lambda c=c, rate=rate: send(c, rate, for_s)) for c, rate in ports.items()]
        got = dict.fromkeys(ports, 0)
        since_s = time.monotonic() + 0.5
        until_s = since_s + for_s - 0.6
        readers = [threading.Thread(target=count, args=(sockets[c], got, c, since_s, until_s)) for c in ports]
        for each in readers:
            each.start()
        while time.monotonic() < until_s:
            time.sleep(0.1)
            self.r.call(lambda: self.queues.on_period(self.plan.name, time.monotonic_ns()))
        for thread in (*readers, *senders):
            thread.join()
        for each in sockets.values():
            each.close()
        return {c: size * 8 / (until_s - since_s) for c, size in got.items()}


PAYLOAD = 1400
UDP_FRAME = PAYLOAD + 28 + 14


def listen(port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("", port))
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    one.settimeout(0.05)
    return one


def count(source: socket.socket, got: dict[int, int], service_class: int, since_s: float, until_s: float) -> None:
    while (now_s := time.monotonic()) < until_s:
        try:
            source.recv(PAYLOAD)
        except TimeoutError:
            continue
        if now_s >= since_s:
            got[service_class] += UDP_FRAME


def send(service_class: int, bit_s: float, for_s: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, service_class << 4)
        due_s = time.monotonic()
        until_s = due_s + for_s
        while due_s < until_s:
            one.sendto(bytes(PAYLOAD), ("10.9.2.1", 7000 + service_class))
            due_s += UDP_FRAME * 8 / bit_s
            time.sleep(max(0.0, due_s - time.monotonic()))


@pytest.fixture
def queued(compiled: Path, tmp_path: Path) -> Iterator[Queued]:
    with closing(Queued(compiled, tmp_path / "queue.json", LINK)) as one:
        yield one


@pytest.mark.netns
def test_a_flood_gets_the_links_rate_and_the_kernel_drops_nothing(queued: Queued) -> None:
    queued.start()
    got = queued.flood(for_s=3.6, c0=16e6, c3=16e6)
    assert sum(got.values()) == pytest.approx(10e6, rel=0.02)
    assert got[0] == pytest.approx(0.5e6, rel=0.3)
    assert queued.refused(3) > 0 < queued.refused(0)
    assert queued.dropped() == 0
    queued.stop()


@pytest.mark.netns
def test_what_was_at_the_root_is_back_and_nothing_that_was_let_in_is_lost(queued: Queued) -> None:
    queued.start()
    assert "htb 7414:" in queued.qdiscs()
    with queued.network.b.call(lambda: listen(7003)) as sink:
        queued.network.a.call(lambda: [send(3, 1e9, 0.0005)])
        queued.stop()
        sent = int(0.0005 / (UDP_FRAME * 8 / 1e9)) + 1
        assert sum(1 for _ in iter(lambda: receives(sink), False)) == sent
    assert queued.qdiscs() == queued.before


def receives(source: socket.socket) -> bool:
    try:
        return bool(source.recv(PAYLOAD))
    except TimeoutError:
        return False


@pytest.mark.netns
def test_who_comes_after_a_killed_gateway_puts_the_link_right(queued: Queued, tmp_path: Path) -> None:
    queued.r.call(queued.queues.apply)
    successor = KernelQueues([queued.plan], tmp_path / "queue.json")
    queued.r.call(successor.apply)
    queued.r.call(successor.restore)
    queued.r.call(successor.restore)
    assert queued.qdiscs() == queued.before


@pytest.mark.netns
def test_where_a_tree_cannot_be_made_all_is_as_before(queued: Queued, tmp_path: Path) -> None:
    gone = replace(LINK, name="gone", interface_index=9999)
    queues = KernelQueues([queued.plan, gone], tmp_path / "queue.json")
    with pytest.raises(EnvironmentFault, match="gone"):
        queued.r.call(queues.apply)
    assert queued.qdiscs() == queued.before
    assert not (tmp_path / "queue.json").exists()


@pytest.mark.netns
def test_the_gateways_own_packets_go_first_and_leave_less_for_the_others(queued: Queued) -> None:
    queued.start()
    with queued.network.b.call(lambda: listen(7008)) as sink:
        own = queued.r.thread(lambda: send(8, 4e6, 3.0))
        got = queued.flood(for_s=2.6, c3=16e6)
        own.join()
        came = sum(1 for _ in iter(lambda: receives(sink), False))
    assert came == pytest.approx(3.0 * 4e6 / (UDP_FRAME * 8), rel=0.02)
    assert got[3] == pytest.approx(6e6, rel=0.05)
    assert queued.dropped() == 0
    queued.stop()
