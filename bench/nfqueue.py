"""What the NFQUEUE engine costs: plain forwarding, accepting and rewriting, as ratios in one run.

Decides nothing. Each round measures every configuration once, in turn, so that a busy machine hits all of them alike; a
ratio is the median of the rounds' ratios. Everything (generator, router, reader, receiver) shares the machine's cores.
Namespaces a – r – b of its own; nothing of the machine's is touched. Run as root: `python -m bench.nfqueue [--json]`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dataplane import command, rules
from dataplane.command import Kind
from dataplane.counters import ACCEPTS, CounterFile
from dataplane.desired import Chain, DesiredState, QueueRule
from dataplane.nfqueue import QueueConfig
from dataplane.port import Action, Packet, Verdict
from dataplane.reader import run_reader

ROUNDS: Final = 3
UDP_S: Final = 1.2
TCP_S: Final = 1.5
QUEUE: Final = 1
OWNER: Final = "bench"
OPTION: Final = bytes((0x9E, 24)) + bytes(22)
_HEAD_WORDS: Final = struct.Struct("!HH").unpack_from


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One configuration; mode None = plain forwarding."""

    name: str
    mode: str | None
    gso: bool = False


UDP_ENGINES: Final = (
    Engine(name="plain", mode=None),
    Engine(name="accept", mode="accept"),
    Engine(name="rewrite", mode="rewrite"),
)
TCP_ENGINES: Final = (*UDP_ENGINES, Engine(name="accept, GSO", mode="accept", gso=True))


class BenchCore:
    """Accepts, or inserts a 24-byte IPv4 option: the least that a core with a header does."""

    def __init__(self, mode: str) -> None:
        self._rewrite = mode == "rewrite"

    def on_batch(self, batch: list[Packet], _now_ns: int) -> Sequence[Action]:
        new = tuple.__new__
        if not self._rewrite:
            return [new(Verdict, (packet[0], packet[1], True, packet[3], None)) for packet in batch]
        return [new(Verdict, (packet[0], packet[1], True, packet[3], with_option(packet[4]))) for packet in batch]

    def on_timer(self, _now_ns: int) -> Sequence[Action]:
        return ()

    def next_deadline_ns(self) -> int | None:
        return None

    def on_drain(self, _now_ns: int) -> Sequence[Action]:
        return ()

    def on_message(self, _data: bytes, _now_ns: int, _unix_s: int) -> bytes | None:
        return None

    def take_events(self) -> list[bytes]:
        return []


def with_option(packet: bytes) -> bytes:
    """The IPv4 packet (without options) with 24 bytes more."""
    length = len(packet) + 24
    head = bytes((0x4B, packet[1])) + length.to_bytes(2, "big") + packet[4:10] + b"\0\0" + packet[12:20] + OPTION
    checksum = -int.from_bytes(head, "big") % 65535
    return head[:10] + checksum.to_bytes(2, "big") + head[12:] + packet[20:]


# -- the network -----------------------------------------------------------------------------------------------------


class Network:
    """a – r – b, each namespace alive as long as its holder process."""

    def __init__(self) -> None:
        self.holders = [
            subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]) for _ in "arb"
        ]
        self.a, self.r, self.b = (holder.pid for holder in self.holders)
        ours = os.readlink("/proc/self/ns/net")
        while any(os.readlink(f"/proc/{holder.pid}/ns/net") == ours for holder in self.holders):
            time.sleep(0.01)
        for host, number in ((self.a, 1), (self.b, 2)):
            name = f"r{number}"
            inside(host, "ip", "link", "add", "h0", "type", "veth", "peer", "name", name, "netns", str(self.r))
            inside(host, "ip", "addr", "add", f"10.9.{number}.1/24", "dev", "h0")
            inside(self.r, "ip", "addr", "add", f"10.9.{number}.2/24", "dev", name)
            inside(host, "ip", "link", "set", "h0", "up")
            inside(self.r, "ip", "link", "set", name, "up")
            # Room for the option: a packet that grows past the MTU would vanish.
            inside(host, "ip", "route", "add", "default", "via", f"10.9.{number}.2", "mtu", "1460")
        inside(self.r, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def offload(self, on: bool) -> None:
        for host, name in ((self.a, "h0"), (self.r, "r1"), (self.r, "r2"), (self.b, "h0")):
            switch = "on" if on else "off"
            inside(host, "ethtool", "-K", name, "tso", switch, "gso", switch, "gro", switch)

    def close(self) -> None:
        for holder in self.holders:
            holder.kill()
            holder.wait()


def inside(pid: int, *arguments: str) -> str:
    done = subprocess.run(["nsenter", "-t", str(pid), "-n", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def spawn(pid: int, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(["nsenter", "-t", str(pid), "-n", *arguments], stdout=subprocess.PIPE, text=True)


def received_packets(pid: int, name: str) -> int:
    """By the interface's own counter; /proc/PID/net is that process's namespace."""
    for line in Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii").splitlines():
        if line.strip().startswith(f"{name}:"):
            return int(line.split(":")[1].split()[1])
    raise LookupError(name)


# -- measuring -------------------------------------------------------------------------------------------------------


def measure(network: Network, engine: Engine, what: str) -> float:
    """Packets/s or Mbit/s of one configuration."""
    reader = counters = None
    if engine.mode is not None:
        reader = spawn(network.r, sys.executable, "-m", "bench.nfqueue", "--reader", engine.mode, str(int(engine.gso)))
        assert reader.stdout is not None
        counters = Path(reader.stdout.readline().strip())
    try:
        return udp_packets_per_s(network, counters) if what == "udp" else tcp_mbit_s(network)
    finally:
        if reader is not None:
            reader.send_signal(signal.SIGTERM)
            reader.wait()


def udp_packets_per_s(network: Network, counters: Path | None) -> float:
    """At b; of the engine only what it accepted, not what passed because its queue was full."""
    blaster = spawn(network.a, sys.executable, "-m", "bench.nfqueue", "--blast", str(UDP_S))
    assert blaster.stdout is not None
    blaster.stdout.readline()
    file = CounterFile.attach(counters) if counters is not None else None
    before, began_s = _passed(network, file), time.monotonic()
    blaster.wait()
    rate = (_passed(network, file) - before) / (time.monotonic() - began_s)
    if file is not None:
        file.close()
    return rate


def _passed(network: Network, counters: CounterFile | None) -> int:
    return received_packets(network.b, "h0") if counters is None else counters.committed(ACCEPTS)


def tcp_mbit_s(network: Network) -> float:
    server = spawn(network.b, "iperf3", "-s", "-1", "-p", "5201", "--forceflush")
    assert server.stdout is not None
    server.stdout.readline()
    client = spawn(network.a, "iperf3", "-c", "10.9.2.1", "-t", str(TCP_S), "-J")
    output, _ = client.communicate()
    server.kill()
    server.wait()
    end = json.loads(output).get("end", {})
    return float(end.get("sum_received", {}).get("bits_per_second", 0.0)) / 1e6


def bench(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """{"udp": {engine: {"value", "ratio"}}, "tcp": ...}; and "tcp_wire" with offloads off: each packet as on a wire."""
    network = Network()
    results: dict[str, dict[str, dict[str, float]]] = {}
    try:
        for what, engines, offload in (
            ("udp", UDP_ENGINES, False),
            ("tcp_wire", UDP_ENGINES, False),
            ("tcp", TCP_ENGINES, True),
        ):
            network.offload(offload)
            samples: dict[str, list[float]] = {engine.name: [] for engine in engines}
            for _ in range(rounds):
                for engine in engines:
                    samples[engine.name].append(measure(network, engine, what))
            results[what] = against_plain(samples)
    finally:
        network.close()
    return results


def against_plain(samples: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Of each configuration the median, and the median of its rounds' ratios to "plain"."""
    return {
        name: {
            "value": statistics.median(found),
            "ratio": statistics.median(value / base for value, base in zip(found, samples["plain"], strict=True)),
        }
        for name, found in samples.items()
    }


# -- the children ----------------------------------------------------------------------------------------------------


def read(mode: str, gso: bool) -> None:
    """The engine with a bench core, in the namespace that it was started in, until SIGTERM."""
    desired = DesiredState(
        owner=OWNER, queues=(QueueRule(family=4, chain=Chain.PREROUTING, interface="r1", queue=QUEUE, skip_local=True),)
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    signal.signal(signal.SIGTERM, lambda *_: ours.send(command.encode(Kind.STOP, 0)))
    with tempfile.TemporaryDirectory() as directory:
        record = Path(directory, "record")
        rules.apply(desired, record)
        ours.send(command.encode(Kind.GO, 1))
        counters = CounterFile.open(Path(directory, "counters"))
        print(Path(directory, "counters"), flush=True)
        queues = [QueueConfig(queue=QUEUE, gso=gso)]
        try:
            run_reader(BenchCore(mode), queues=queues, counters=counters, command_fd=theirs.fileno())
        finally:
            rules.restore(record)


def blast(duration_s: float) -> None:
    """Small datagrams to b as fast as one core sends them: 64 in each sendmmsg()."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(("10.9.2.1", 9))
    payload = ctypes.create_string_buffer(22)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(payload), 22)
    # struct mmsghdr is 8 words: name, its length, vector, its count, control, its length, flags; sent bytes.
    messages = (ctypes.c_size_t * (64 * 8))(*([0, 0, ctypes.addressof(vector), 1, 0, 0, 0, 0] * 64))
    send = ctypes.CDLL(None).sendmmsg
    print("started", flush=True)
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        send(sender.fileno(), ctypes.byref(messages), 64, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.nfqueue", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--reader", nargs=2, metavar=("MODE", "GSO"), help=argparse.SUPPRESS)
    parser.add_argument("--blast", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.reader:
        read(options.reader[0], options.reader[1] == "1")
    elif options.blast:
        blast(options.blast)
    else:
        results = bench(options.rounds)
        if options.json:
            print(json.dumps(results))
            return 0
        for what, engines in results.items():
            unit, scale = ("kpps", 1e3) if what == "udp" else ("Mbit/s", 1.0)
            for name, found in engines.items():
                print(f"{what:9} {name:12} {found['value'] / scale:10.1f} {unit:7} ratio {found['ratio']:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
