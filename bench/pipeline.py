"""What a whole gateway costs: grant, MAC, toll, route, slot, name and accounts for each packet, against plain
forwarding.

Decides nothing. The network and the rounds are those of `bench.nfqueue`; the core is the real one (`gateway.datapath`)
in the real engine, with crash-proof counters. The sender puts a valid header into every packet by IP_OPTIONS, so that
only the gateway is measured; `chain` adds real agent cores at both ends, all on the same machine.
Run as root: `python -m bench.pipeline [--json]`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final

import msgspec

from bench.nfqueue import Network, against_plain, inside, received_packets, spawn
from billpay.header import Header, Slot, base_word, encode, slot_word
from billpay.mac import compute_mac, epoch_of
from billpay.messages import FlowSelector, Grant, GrantKind
from billpay.packet import FlowKey
from billpay.tolls import TollSchedule
from dataplane import command, rules
from dataplane.command import Kind
from dataplane.counters import ACCEPTS, CounterFile
from dataplane.desired import Chain, DesiredState, QueueRule
from dataplane.nfqueue import QueueConfig
from dataplane.port import PacketCore
from dataplane.reader import run_reader
from gateway import commands as gateway_commands
from gateway.datapath import GatewayCore
from gateway.plan import AlternativePlan, GatewayPlan, LinkPlan, Peer, RoutePlan
from hostagent.payments import commands as host_commands
from hostagent.payments.datapath import HostCore
from hostagent.payments.plan import INPUT_QUEUE, OUTPUT_QUEUE, HostPlan, UplinkPlan

ROUNDS: Final = 3
SECONDS: Final = 2.5
GATEWAY_AS: Final = 64512
AMOUNT: Final = 20
KEY: Final = bytes(range(16))
A, B = "10.9.1.1", "10.9.2.1"
UDP_PORTS: Final = (40000, 9)
TCP_PORTS: Final = (40001, 5300)
QUEUE: Final = 1
SLOTS: Final = (Slot(0, 0, 0), Slot(0, 0, 0), Slot(0, 0, 0))
CHUNK: Final = bytes(1 << 18)


def grant(protocol: int, ports: tuple[int, int]) -> Grant:
    now = int(time.time())
    flow = FlowSelector(source=A, destination=B, protocol=protocol, source_port=ports[0], destination_port=ports[1])
    return Grant(
        grant=f"{protocol:032x}",
        serial=1,
        kind=GrantKind.SPEND,
        flow=flow,
        cap_nanodollars=1 << 60,
        rate_nanodollars_per_s=10**12,
        burst_nanodollars=10**12,
        not_before_unix_s=now - 100,
        expires_unix_s=now + 10_000,
        key=KEY.hex(),
    )


def option(protocol: int, ports: tuple[int, int]) -> bytes:
    """The IPv4 option with a header that the gateway accepts for the next two minutes."""
    flow = FlowKey(ip_address(A).packed, ip_address(B).packed, protocol, *ports)
    words = base_word(AMOUNT, 0, len(SLOTS)).to_bytes(4) + b"".join(slot_word(slot).to_bytes(4) for slot in SLOTS)
    mac = compute_mac(KEY, flow, epoch_of(int(time.time())), words)
    header = encode(Header(AMOUNT, 0, SLOTS, mac))
    return bytes((0x9E, len(header) + 2)) + header


# --- the cores ------------------------------------------------------------------------------------------------------


def gateway_core(counters: CounterFile) -> tuple[PacketCore, list[QueueConfig]]:
    interface = {name: socket.if_nametoindex(name) for name in ("r1", "r2")}
    toll = TollSchedule(fixed_nanodollars_per_packet=1, fixed_picodollars_per_byte=2)
    plan = GatewayPlan(
        as_number=GATEWAY_AS,
        links=(
            LinkPlan(name="a", interface_index=interface["r1"], peer=Peer.HOST, toll=toll),
            LinkPlan(name="b", interface_index=interface["r2"], peer=Peer.HOST, toll=toll),
        ),
        routes=tuple(
            RoutePlan(prefix=ip_network(f"{address}/32"), alternatives=(AlternativePlan(number=1, link=link),))
            for address, link in ((A, "a"), (B, "b"))
        ),
    )
    core = GatewayCore(plan, counters, random.Random(1).random)
    orders: list[gateway_commands.Command] = [
        gateway_commands.SetLink(link=name, agreed=True, in_default=False) for name in ("a", "b")
    ]
    orders += [gateway_commands.OpenGrant(link="a", grant=grant(*which)) for which in ((17, UDP_PORTS), (6, TCP_PORTS))]
    for order in orders:
        core.on_message(msgspec.json.encode(order), time.monotonic_ns(), int(time.time()))
    return core, [QueueConfig(queue=QUEUE, length=4096)]


def host_core(counters: CounterFile, *, pays: bool) -> tuple[PacketCore, list[QueueConfig]]:
    uplink = UplinkPlan(name="r", interface_index=socket.if_nametoindex("h0"), gateway_as=GATEWAY_AS)
    core = HostCore(HostPlan(uplinks=(uplink,)), counters)
    orders: list[host_commands.Command] = [host_commands.SetUplink(uplink="r", agreed=True)]
    if pays:
        document = grant(6, TCP_PORTS)
        slots = tuple((slot.as_number, slot.alternatives, slot.choice) for slot in SLOTS)
        orders.append(host_commands.PayFlow(flow=document.flow, grant=document, amount_nanodollars=AMOUNT, slots=slots))
    for order in orders:
        core.on_message(msgspec.json.encode(order), time.monotonic_ns(), int(time.time()))
    return core, [QueueConfig(queue=queue) for queue in (OUTPUT_QUEUE, INPUT_QUEUE)]


def queue_rules(who: str) -> tuple[QueueRule, ...]:
    if who == "gateway":
        return tuple(
            QueueRule(family=4, chain=Chain.PREROUTING, interface=name, queue=QUEUE, skip_local=True)
            for name in ("r1", "r2")
        )
    return (
        QueueRule(family=4, chain=Chain.OUTPUT, interface="h0", queue=OUTPUT_QUEUE),
        QueueRule(family=4, chain=Chain.PREROUTING, interface="h0", queue=INPUT_QUEUE),
    )


def read(who: str) -> None:
    """One reader in the namespace that it was started in, until SIGTERM."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    signal.signal(signal.SIGTERM, lambda *_: ours.send(command.encode(Kind.STOP, 0)))
    with tempfile.TemporaryDirectory() as directory:
        record = Path(directory, "record")
        rules.apply(DesiredState(owner="bench", queues=queue_rules(who)), record)
        ours.send(command.encode(Kind.GO, 1))
        counters = CounterFile.open(Path(directory, "counters"))
        core, queues = gateway_core(counters) if who == "gateway" else host_core(counters, pays=who == "payer")
        print(Path(directory, "counters"), flush=True)
        try:
            run_reader(core, queues=queues, counters=counters, command_fd=theirs.fileno())
        finally:
            rules.restore(record)


# --- traffic --------------------------------------------------------------------------------------------------------


def blast(paid: bool) -> None:
    """Small datagrams as fast as one core sends them."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind((A, UDP_PORTS[0]))
    sender.connect((B, UDP_PORTS[1]))
    if paid:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, option(17, UDP_PORTS))
    payload = ctypes.create_string_buffer(22)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(payload), 22)
    messages = (ctypes.c_size_t * (64 * 8))(*([0, 0, ctypes.addressof(vector), 1, 0, 0, 0, 0] * 64))
    send = ctypes.CDLL(None).sendmmsg
    print("started", flush=True)
    end_s = time.monotonic() + SECONDS
    while time.monotonic() < end_s:
        send(sender.fileno(), ctypes.byref(messages), 64, 0)


def serve() -> None:
    """Receives one TCP connection and prints Mbit/s of payload."""
    listener = socket.create_server((B, TCP_PORTS[1]))
    print("listening", flush=True)
    connection, _ = listener.accept()
    buffer, received, began_s = bytearray(1 << 20), 0, time.monotonic()
    while count := connection.recv_into(buffer):
        received += count
    print(received * 8 / (time.monotonic() - began_s) / 1e6, flush=True)


def stream(paid: bool) -> None:
    sender = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sender.bind((A, TCP_PORTS[0]))
    if paid:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, option(6, TCP_PORTS))
    sender.connect((B, TCP_PORTS[1]))
    end_s = time.monotonic() + SECONDS
    while time.monotonic() < end_s:
        sender.sendall(CHUNK)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # the port is free for the next round
    sender.shutdown(socket.SHUT_WR)
    sender.recv(1)


# --- measuring ------------------------------------------------------------------------------------------------------


class Readers:
    """The readers of one configuration; ended on leaving."""

    def __init__(self, network: Network, who: Sequence[str]) -> None:
        places = {"gateway": network.r, "payer": network.a, "payee": network.b}
        self.processes = []
        self.counters: Path | None = None
        for role in who:
            process = spawn(places[role], sys.executable, "-m", "bench.pipeline", "--read", role)
            assert process.stdout is not None
            path = Path(process.stdout.readline().strip())
            self.processes.append(process)
            if role == "gateway":
                self.counters = path

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait()


def udp_packets_per_s(network: Network, *, who: Sequence[str], paid: bool) -> float:
    """What the gateway let through (by the interface at b where there is none)."""
    with Readers(network, who) as readers:
        blaster = spawn(network.a, sys.executable, "-m", "bench.pipeline", "--blast", str(int(paid)))
        assert blaster.stdout is not None
        blaster.stdout.readline()
        file = CounterFile.attach(readers.counters) if readers.counters else None

        def passed() -> int:
            if file is None:
                return received_packets(network.b, "h0")
            return file.committed("link/b/sent_packets") if paid else file.committed(ACCEPTS)

        before, began_s = passed(), time.monotonic()
        blaster.wait()
        rate = (passed() - before) / (time.monotonic() - began_s)
        if file is not None:
            file.close()
        return rate


def tcp_mbit_s(network: Network, *, who: Sequence[str], paid: bool) -> float:
    with Readers(network, who):
        server = spawn(network.b, sys.executable, "-m", "bench.pipeline", "--serve")
        assert server.stdout is not None
        server.stdout.readline()
        client = spawn(network.a, sys.executable, "-m", "bench.pipeline", "--stream", str(int(paid)))
        output, _ = server.communicate()
        client.kill()
        client.wait()
        return float(output)


CASES: Final = {
    "udp": (("plain", (), False), ("gateway, unpaid", ("gateway",), False), ("gateway, paid", ("gateway",), True)),
    "tcp": (
        ("plain", (), False),
        ("gateway, unpaid", ("gateway",), False),
        ("gateway, paid", ("gateway",), True),
        ("chain, paid", ("payer", "gateway", "payee"), False),
    ),
}


def bench(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """{"udp" | "tcp": {case: {"value": packets/s or Mbit/s, "ratio": to plain in the same round}}}."""
    network = Network()
    results: dict[str, dict[str, dict[str, float]]] = {}
    try:
        for host in (network.a, network.b):
            inside(host, "ip", "link", "set", "lo", "up")
        for what, cases in CASES.items():
            network.offload(what == "tcp")
            measure = udp_packets_per_s if what == "udp" else tcp_mbit_s
            samples: dict[str, list[float]] = {name: [] for name, _, _ in cases}
            for _ in range(rounds):
                for name, who, paid in cases:
                    samples[name].append(measure(network, who=who, paid=paid))
            results[what] = against_plain(samples)
    finally:
        network.close()
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.pipeline", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    for hidden in ("--read", "--blast", "--stream"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.read:
        read(options.read)
    elif options.blast:
        blast(options.blast == "1")
    elif options.serve:
        serve()
    elif options.stream:
        stream(options.stream == "1")
    else:
        _show(bench(options.rounds), as_json=options.json)
    return 0


def _show(results: dict[str, dict[str, dict[str, float]]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(results))
        return
    for what, cases in results.items():
        unit, scale = ("kpps", 1e3) if what == "udp" else ("Mbit/s", 1.0)
        for name, found in cases.items():
            print(f"{what:4} {name:16} {found['value'] / scale:10.1f} {unit:7} ratio {found['ratio']:.3f}")


if __name__ == "__main__":
    sys.exit(main())
