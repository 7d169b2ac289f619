"""The parts that are measured, as their readers make them: loaded once, then attached and detached as often as asked.

Decides nothing. Read in the namespace of the part.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from pathlib import Path
from typing import Final, Protocol

import msgspec

from bench.payments import plans
from bench.payments.network import R_LEFT, R_RIGHT, go_on_program
from bench.payments.plans import Role
from dataplane import command, rules
from dataplane.command import Kind
from dataplane.counters import CounterFile
from dataplane.desired import Chain, DesiredState, QueueRule
from dataplane.ebpf.libbpf import AttachType, Link, Program
from dataplane.nfqueue import QueueConfig
from dataplane.reader import run_reader
from gateway.datapath import GatewayCore
from gateway.kernel_queue import KernelQueues

QUEUE: Final = 1
QUEUE_LENGTH: Final = 4096


class Part(Protocol):
    """`programs`: what runs for each packet, by name."""

    programs: dict[str, Program]

    def attach(self) -> None: ...

    def detach(self) -> None: ...

    def on_time(self, now_ns: int) -> float:
        """Does what is due; seconds until the next time."""
        ...

    def paid_packets(self) -> int:
        """Since ever: with a payment that was made, or was found good."""
        ...

    def price_to_effect_ns(self, trials: int) -> list[int]:
        """Of so many changes of the price, under traffic: from writing it until a packet has paid it."""
        ...

    def close(self) -> None: ...


def part_of(role: Role, directory: Path, family: int, flows: int) -> Part:
    match role:
        case Role.EMPTY:
            return EmptyPart()
        case Role.NFQUEUE:
            return QueuePart(directory)
        case Role.TREE:
            return TreePart(directory)
        case Role.HOST:
            from bench.payments.payer_part import PayerPart  # the others need no programs that are built

            return PayerPart(family, flows)
        case _:
            from bench.payments.gateway_part import GatewayPart

            return GatewayPart(role, directory)


class _UnpaidPart:
    """What takes part and moves no money."""

    def on_time(self, _now_ns: int) -> float:
        return 1.0

    def paid_packets(self) -> int:
        return 0

    def price_to_effect_ns(self, _trials: int) -> list[int]:
        return []

    def close(self) -> None:
        """Nothing more."""


class EmptyPart(_UnpaidPart):
    """A program that lets each packet pass: what an attached program costs in itself, and how exact the bench is."""

    def __init__(self) -> None:
        self.programs = {"bench_nothing": go_on_program("bench_nothing")}
        self._links: list[Link] = []

    def attach(self) -> None:
        for name, kind in ((R_LEFT, AttachType.TCX_INGRESS), (R_RIGHT, AttachType.TCX_EGRESS)):
            index = socket.if_nametoindex(name)
            self._links.append(self.programs["bench_nothing"].attach(index, kind, where=name))

    def detach(self) -> None:
        for link in self._links:
            link.close()
        self._links = []


class TreePart(_UnpaidPart):
    """The queue of the link with a rate, without the programs: what the kernel's own HTB costs."""

    def __init__(self, directory: Path) -> None:
        self.programs: dict[str, Program] = {}
        self._queues = KernelQueues(plans.gateway_plan(Role.TREE).links, directory / "queues")

    def attach(self) -> None:
        self._queues.apply()

    def detach(self) -> None:
        self._queues.restore()


class QueuePart:
    """The same gateway behind packet queues: the core in Python, for scale."""

    def __init__(self, directory: Path) -> None:
        self.programs: dict[str, Program] = {}
        self._record = directory / "record"
        self._counters = CounterFile.open(directory / "counters")
        self._paid = self._counters.index("link/a/received_packets")
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._thread: threading.Thread | None = None

    def attach(self) -> None:
        core = GatewayCore(plans.gateway_plan(Role.FIRST), self._counters, random.Random(1).random)
        for order in plans.gateway_orders(Role.FIRST):
            core.on_message(msgspec.json.encode(order), time.monotonic_ns(), int(time.time()))
        queues = tuple(
            QueueRule(family=family, chain=Chain.PREROUTING, interface=name, queue=QUEUE, skip_local=True)
            for name in (R_LEFT, R_RIGHT)
            for family in (4, 6)
        )
        rules.apply(DesiredState(owner="bench", queues=queues), self._record)
        self._thread = threading.Thread(target=self._run, args=(core,))
        self._ours.send(command.encode(Kind.GO, 1))
        self._thread.start()
        time.sleep(0.05)  # until it listens

    def _run(self, core: GatewayCore) -> None:
        config = QueueConfig(queue=QUEUE, length=QUEUE_LENGTH)
        run_reader(core, queues=[config], counters=self._counters, command_fd=self._theirs.fileno())

    def detach(self) -> None:
        if self._thread is not None:
            self._ours.send(command.encode(Kind.STOP, 0))
            self._thread.join()
            self._thread = None
        rules.restore(self._record)

    def on_time(self, _now_ns: int) -> float:
        return 1.0

    def paid_packets(self) -> int:
        return self._counters.value(self._paid)

    def price_to_effect_ns(self, _trials: int) -> list[int]:
        return []

    def close(self) -> None:
        self._counters.close()
