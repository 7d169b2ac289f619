"""Congestion control by price: shares by weight behind a link that marks, losses, and a registration that dies with us.

The link is a packet core in the middle of three namespaces: a rate, a delay, a buffer and a rule of `billpay.marking`.
"""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from netns import Namespace, Routed

from billpay.errors import EnvironmentFault
from billpay.marking import Marking, RedSettings, VirtualLink, VirtualRed
from dataplane import command, rules
from dataplane.command import Kind
from dataplane.counters import CounterFile
from dataplane.desired import Chain, DesiredState, QueueRule
from dataplane.ebpf import congestion
from dataplane.ebpf.congestion import NAME, WEIGHTS, PriceControl
from dataplane.ebpf.libbpf import BpfObject, Map
from dataplane.nfqueue import QueueConfig
from dataplane.port import Action, Packet, Verdict
from dataplane.reader import run_reader
from gateway.marking import is_ect, with_ce

pytestmark = [pytest.mark.netns, pytest.mark.exact]

ROOT = Path(__file__).parents[2]
AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
BYTES_PER_S = 3_000_000
DELAY_NS = 15_000_000
BUFFER_PACKETS = 60
QUEUE = 6
SECOND_NS = 1_000_000_000
PATIENCE_S = 10
ENDS = {socket.AF_INET: "10.9.2.1", socket.AF_INET6: "fd09:2::1"}
CHILD = """
import sys
from dataplane.ebpf.congestion import PriceControl
control = PriceControl()
print("registered", flush=True)
sys.stdin.read()
"""


class BottleneckCore:
    """Packets leave one after the other at the link's rate, and arrive a delay later."""

    def __init__(self, marking: Marking | None) -> None:
        self.marking = marking
        self.packets = self.ect_packets = self.dropped_packets = 0
        self._free_ns = 0
        self._held: deque[tuple[int, Verdict]] = deque()
        self._draw = random.Random(14).random

    def on_batch(self, batch: list[Packet], now_ns: int) -> Sequence[Action]:
        return [verdict for packet in batch if (verdict := self._arrival(packet, now_ns)) is not None]

    def _arrival(self, packet: Packet, now_ns: int) -> Verdict | None:
        size = len(packet.payload)
        new = None
        self.packets += 1
        if is_ect(packet.payload):
            self.ect_packets += 1
            if self.marking is not None and self.marking.on_arrival(size, now_ns, self._draw):
                new = with_ce(packet.payload)
        if (self._free_ns - now_ns) * BYTES_PER_S > BUFFER_PACKETS * 1500 * SECOND_NS:
            self.dropped_packets += 1
            return Verdict(packet.packet_id, packet.queue, accept=False)
        self._free_ns = max(self._free_ns, now_ns) + size * SECOND_NS // BYTES_PER_S
        verdict = Verdict(packet.packet_id, packet.queue, accept=True, mark=packet.mark, payload=new)
        self._held.append((self._free_ns + DELAY_NS, verdict))
        return None

    def on_timer(self, now_ns: int) -> Sequence[Action]:
        due: list[Action] = []
        while self._held and self._held[0][0] <= now_ns:
            due.append(self._held.popleft()[1])
        return due

    def next_deadline_ns(self) -> int | None:
        return self._held[0][0] if self._held else None

    def on_drain(self, now_ns: int) -> Sequence[Action]:
        held, self._held = self._held, deque()
        return [verdict for _, verdict in held]

    def on_message(self, data: bytes, now_ns: int, unix_s: int) -> bytes | None:
        return None

    def take_events(self) -> list[bytes]:
        return []


class Transfer:
    """A TCP connection from a to b that sends as much as it may."""

    def __init__(self, network: Bottleneck, family: socket.AddressFamily, congestion_control: str = NAME) -> None:
        listener = network.routed.b.call(lambda: socket.create_server((ENDS[family], 0), family=family))
        self.socket = network.routed.a.call(lambda: socket.socket(family, socket.SOCK_STREAM))
        choose(self.socket, congestion_control)
        self.socket.connect(listener.getsockname()[:2])
        self._far, _ = listener.accept()
        listener.close()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # shut down by `close`
            while True:
                self.socket.sendall(bytes(65536))

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while self._far.recv(1 << 18):
                pass

    def acknowledged_bytes(self) -> int:
        """tcpi_bytes_acked."""
        return int(struct.unpack_from("=Q", self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128), 120)[0])

    def is_sending(self) -> bool:
        began, until_s = self.acknowledged_bytes(), time.monotonic() + PATIENCE_S
        while self.acknowledged_bytes() < began + 100_000:
            if time.monotonic() > until_s:
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        for end in (self.socket, self._far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        self.socket.close()
        self._far.close()


class Bottleneck:
    """a – link – b, with everything that is under way on it."""

    def __init__(self, directory: Path, marking: Marking | None, *, ecn: bool = True) -> None:
        self.routed = Routed()
        for host in (self.routed.a, self.routed.b):
            host.run("sysctl", "-qw", f"net.ipv4.tcp_ecn={int(ecn)}")
        queues = tuple(
            QueueRule(family=family, chain=Chain.PREROUTING, interface="ra", queue=QUEUE, skip_local=True)
            for family in (4, 6)
        )
        desired = DesiredState(owner="price", queues=queues)
        self.routed.r.call(lambda: rules.apply(desired, directory / "record.json"))
        self.core = BottleneckCore(marking)
        self._counters = CounterFile.open(directory / "counters")
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(PATIENCE_S)
        self._reader = self.routed.r.thread(self._read)
        self._ours.send(command.encode(Kind.GO, 1))
        assert command.decode(self._ours.recv(command.FRAME_LIMIT_BYTES)).kind is Kind.READY
        self._transfers: list[Transfer] = []

    def _read(self) -> None:
        queues = [QueueConfig(queue=QUEUE)]
        run_reader(self.core, queues=queues, counters=self._counters, command_fd=self._theirs.fileno())

    def __enter__(self) -> Bottleneck:
        return self

    def __exit__(self, *_: object) -> None:
        for transfer in self._transfers:
            transfer.close()
        self._ours.send(command.encode(Kind.STOP, 2))
        self._reader.join(PATIENCE_S)
        self._ours.close()
        self._theirs.close()
        self._counters.close()
        self.routed.close()

    def transfer(self, family: socket.AddressFamily, congestion_control: str = NAME) -> Transfer:
        transfer = Transfer(self, family, congestion_control)
        self._transfers.append(transfer)
        return transfer


def choose(connection: socket.socket, congestion_control: str) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control.encode())


def chosen(connection: socket.socket) -> str:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def weigh(control: PriceControl, connection: socket.socket, weight: int) -> None:
    control.weights.update(struct.pack("=i", connection.fileno()), struct.pack("=I", weight))


def weight_of(control: PriceControl, connection: socket.socket) -> int | None:
    found = control.weights.lookup(struct.pack("=i", connection.fileno()))
    return None if found is None else int(struct.unpack("=I", found)[0])


def virtual_red() -> VirtualRed:
    """Marks that are spread over packets: what a flow of weight w expects."""
    link = VirtualLink(capacity_bytes_per_s=BYTES_PER_S, buffer_bytes=45_000)
    return VirtualRed(link, RedSettings(min_bytes=7_500, max_bytes=45_000, weight_shift=5, packet_bytes=1_500))


def eventually(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def is_registered() -> bool:
    return NAME in AVAILABLE.read_text().split()


@contextlib.contextmanager
def registered(weights: Map | None = None) -> Iterator[PriceControl]:
    """One for each machine: waits for one that just ends."""
    with contextlib.suppress(AssertionError):  # then the constructor says what is wrong
        eventually(lambda: not is_registered())
    with PriceControl(weights=weights) as control:
        yield control


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    source, built = (ROOT / "dataplane" / "ebpf" / f"price.bpf.{end}" for end in "co")
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        subprocess.run([ROOT / "scripts" / "build-ebpf"], check=True)


# -- registration ----------------------------------------------------------------------------------------------------


def test_the_name_is_there_while_it_is_registered_and_no_longer() -> None:
    with registered() as control:
        assert is_registered()
        control.close()
        assert not is_registered()


def test_a_second_agent_is_told_that_the_name_is_taken() -> None:
    with registered():
        with pytest.raises(EnvironmentFault, match="the name is taken"):
            PriceControl()
        assert is_registered()


@pytest.mark.parametrize("lack", ["permission", "BTF", "program"])
def test_what_is_missing_is_said_in_one_line(lack: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if lack == "permission":
        report = "import billpay.errors as e\ntry:\n    " + CHILD.replace("\n", "\n    ")
        report += "\nexcept e.EnvironmentFault as fault:\n    print(fault)"
        command_line = ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", report]
        said = subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert "CAP_BPF" in said
    else:
        if lack == "BTF":
            monkeypatch.setattr(congestion, "_BTF", tmp_path / "none")
        with pytest.raises(EnvironmentFault) as raised:
            PriceControl(path=tmp_path / "none.o")
        said = f"{raised.value}\n"
        assert ("BTF" if lack == "BTF" else "not built") in said
    assert said.count("\n") == 1


def test_a_killed_agent_leaves_no_name_and_its_sockets_go_on(tmp_path: Path) -> None:
    eventually(lambda: not is_registered())
    arguments = [sys.executable, "-c", CHILD]
    with (
        Bottleneck(tmp_path, virtual_red()) as network,
        subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent,
    ):
        assert agent.stdout
        assert agent.stdout.readline() == b"registered\n"
        old = network.transfer(socket.AF_INET)
        assert old.is_sending()
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        eventually(lambda: not is_registered())
        assert chosen(old.socket) == NAME
        assert old.is_sending()
        with network.routed.a.call(socket.socket) as new, pytest.raises(FileNotFoundError):
            choose(new, NAME)
        with registered() as control:
            choose(old.socket, NAME)
            weigh(control, old.socket, 2)
            assert old.is_sending()
        assert old.is_sending()


# -- sockets ---------------------------------------------------------------------------------------------------------


def test_an_accepted_connection_has_its_listeners_weight_and_control() -> None:
    with registered() as control, Namespace() as namespace:
        listener = namespace.call(lambda: socket.create_server(("127.0.0.1", 0)))
        choose(listener, NAME)
        weigh(control, listener, 7)
        client = namespace.call(lambda: socket.create_connection(listener.getsockname()))
        accepted, _ = listener.accept()
        assert (chosen(accepted), weight_of(control, accepted)) == (NAME, 7)
        assert weight_of(control, client) is None
        for each in (accepted, client, listener):
            each.close()


def test_only_the_privileged_choose_it() -> None:
    choosing = "import socket\ntry: socket.socket().setsockopt(6, 13, b'price')\nexcept PermissionError: print('no')"
    with registered(), Namespace() as namespace:
        unprivileged = ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", choosing]
        assert namespace.run(*unprivileged) == "no\n"
        namespace.run(sys.executable, "-c", choosing)


# -- shares ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="class")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bottleneck]:
    with Bottleneck(tmp_path_factory.mktemp("shares"), virtual_red()) as network:
        yield network


@pytest.fixture(scope="class")
def control() -> Iterator[PriceControl]:
    """Its weights are in another object's map, as they are in an engine."""
    engine = BpfObject(ROOT / "dataplane" / "ebpf" / "price.bpf.o")
    with registered(engine.map(WEIGHTS)) as control:
        yield control
    engine.close()


@pytest.fixture(scope="class")
def halves(control: PriceControl, network: Bottleneck) -> tuple[list[Transfer], list[Transfer]]:
    first, second = ([network.transfer(family) for family in ENDS] for _ in range(2))
    return first, second


class TestShares:
    """Four connections, IPv4 and IPv6 in each half, over one link that marks."""

    SETTLING_S = 1.0
    WINDOW_S = 3.5

    def shares(self, halves: tuple[list[Transfer], list[Transfer]]) -> tuple[float, float]:
        """Of the link's rate, once the weights have had a second to act."""
        time.sleep(self.SETTLING_S)
        before = [sum(each.acknowledged_bytes() for each in half) for half in halves]
        began_s = time.monotonic()
        time.sleep(self.WINDOW_S)
        took_s = time.monotonic() - began_s
        after = [sum(each.acknowledged_bytes() for each in half) for half in halves]
        left, right = ((new - old) / took_s / BYTES_PER_S for old, new in zip(before, after, strict=True))
        return left, right

    @pytest.mark.parametrize(("weights", "expected", "tolerance"), [((1, 1), 1, 0.20), ((1, 3), 3, 0.25)])
    def test_shares_are_as_the_weights(
        self,
        control: PriceControl,
        network: Bottleneck,
        halves: tuple[list[Transfer], list[Transfer]],
        weights: tuple[int, int],
        expected: float,
        tolerance: float,
    ) -> None:
        for half, weight in zip(halves, weights, strict=True):
            for each in half:
                weigh(control, each.socket, weight)
        left, right = self.shares(halves)
        assert right / left == pytest.approx(expected, rel=tolerance)
        assert left + right > 0.75, "the link is used"

    def test_swapped_weights_swap_the_shares(
        self, control: PriceControl, network: Bottleneck, halves: tuple[list[Transfer], list[Transfer]]
    ) -> None:
        for half, weight in zip(halves, (1, 3), strict=True):
            for each in half:
                weigh(control, each.socket, weight)
        time.sleep(self.SETTLING_S)
        for half, weight in zip(halves, (3, 1), strict=True):
            for each in half:
                weigh(control, each.socket, weight)
        dropped_packets = network.core.dropped_packets
        left, right = self.shares(halves)
        assert left / right == pytest.approx(3, rel=0.25)
        assert network.core.dropped_packets == dropped_packets, "marks alone control the windows"


@pytest.mark.parametrize("weight", [1, 1000])
def test_losses_keep_any_weight_in_bounds(weight: int, tmp_path: Path) -> None:
    with Bottleneck(tmp_path, None, ecn=False) as network, registered() as control:
        heavy = [network.transfer(family) for family in ENDS]
        for each in heavy:
            weigh(control, each.socket, weight)
        time.sleep(0.8)  # slow start
        core, began_s = network.core, time.monotonic()
        packets, dropped_packets = core.packets, core.dropped_packets
        sent_bytes = sum(each.acknowledged_bytes() for each in heavy)
        time.sleep(1.2)
        used = (sum(each.acknowledged_bytes() for each in heavy) - sent_bytes) / (time.monotonic() - began_s)
        assert used > 0.75 * BYTES_PER_S
        assert (core.dropped_packets - dropped_packets) / (core.packets - packets) < 0.05
        assert core.ect_packets == 0, "marks on what cannot echo them would be lost"
