"""A path whose routers do as they are told, behind the `Prober` protocol: no clock but the one that pauses move."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cartographer.measuring.packets import Answer, AnswerKind, ProbePacket, Transport

SYN_ACK = 0x12
ECE = 0x40
NS_PER_S = 1_000_000_000


@dataclass(slots=True, kw_only=True)
class Router:
    """`change`: what it makes of the traffic class of what it forwards. `loss`: of what arrives, there."""

    address: str
    change: Callable[[int], int] = lambda traffic_class: traffic_class
    quotes: Callable[[int], int] = lambda traffic_class: traffic_class
    drops: Callable[[ProbePacket], bool] = lambda probe: False
    silent: bool = False
    loss: float = 0.0
    mtu: int = 1500  # of the link behind it
    tells_mtu: bool = True
    answers_per_s: float | None = None
    burst: int = 2
    tokens: float = field(default=0.0, init=False)
    filled_ns: int = field(default=0, init=False)

    def may_answer(self, now_ns: int) -> bool:
        if self.silent:
            return False
        if self.answers_per_s is None:
            return True
        if self.filled_ns == 0:
            self.tokens = self.burst
        self.tokens = min(self.burst, self.tokens + (now_ns - self.filled_ns) / NS_PER_S * self.answers_per_s)
        self.filled_ns = max(1, now_ns)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(slots=True, kw_only=True)
class ScriptedPath:
    """The last router is the destination. `accepts_ecn`: what its TCP says to a SYN with ECE and CWR."""

    routers: list[Router]
    seed: int = 1
    accepts_ecn: bool = True
    drops_ecn_syn: bool = False
    answers_udp: bool = True
    reflects: bool = True
    sent: int = 0
    now_ns: int = 0
    most_mtu_seen: int = 0
    draw: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)

    async def pause(self, nanoseconds: int = NS_PER_S) -> None:
        self.now_ns += nanoseconds

    async def second(self) -> None:
        self.now_ns += NS_PER_S

    async def ask(self, packets: Sequence[ProbePacket], *, wait_ns: int) -> list[Answer | None]:
        answers = [self._one(packet) for packet in packets]
        self.now_ns += wait_ns if None in answers else 10_000_000
        return answers

    def _one(self, probe: ProbePacket) -> Answer | None:
        self.sent += 1
        arrived = probe.dscp << 2 | probe.ecn
        for number, router in enumerate(self.routers, 1):
            if self.draw.random() < router.loss:
                return None
            if number == len(self.routers):
                return self._destination(probe, router, arrived, number)
            if probe.ttl == number:
                kind = AnswerKind.TIME_EXCEEDED
                return self._error(kind, router, router.quotes(arrived), number)
            if router.drops(probe):
                return None
            if probe.size_bytes > router.mtu:
                if not router.tells_mtu:
                    return None
                return self._error(AnswerKind.TOO_BIG, router, arrived, number, mtu=router.mtu)
            arrived = router.change(arrived)
        raise AssertionError

    def _error(
        self, kind: AnswerKind, router: Router, quoted: int, number: int, mtu: int | None = None
    ) -> Answer | None:
        if not router.may_answer(self.now_ns):
            return None
        return Answer(
            kind=kind,
            address=router.address,
            round_trip_ns=number * 1_000_000,
            quoted_traffic_class=quoted,
            mtu=mtu,
        )

    def _destination(self, probe: ProbePacket, router: Router, arrived: int, number: int) -> Answer | None:
        if probe.transport is Transport.UDP:
            if not self.answers_udp:
                return None
            return self._error(AnswerKind.UNREACHABLE, router, router.quotes(arrived), number)
        flags = None
        if probe.transport is Transport.TCP:
            asks = probe.tcp_flags & ECE
            if asks and self.drops_ecn_syn:
                return None
            flags = SYN_ACK | (ECE if asks and self.accepts_ecn else 0)
        if not router.may_answer(self.now_ns):
            return None
        back = arrived if self.reflects and probe.transport is Transport.ICMP else 0
        for each in reversed(self.routers[:-1]):
            back = each.change(back)
        return Answer(
            kind=AnswerKind.REPLY,
            address=router.address,
            round_trip_ns=number * 1_000_000,
            traffic_class=back,
            tcp_flags=flags,
        )


def path(count: int = 4, **options: object) -> ScriptedPath:
    """So many routers and the destination, 192.0.2.1 and up."""
    return ScriptedPath(routers=[Router(address=f"192.0.2.{number}") for number in range(1, count + 2)], **options)  # type: ignore[arg-type]
