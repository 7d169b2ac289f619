"""A data plan with real packets: the books are the interface's counters, to the byte; backups wait, calls do not."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from netns import Namespace
from two_hosts import HOSTS, TwoHosts, stop

from dataplane.engines import makers
from dataplane.host_engine import EngineName, HostEngine
from dataplane.metering import Reading
from dataplane.shaping.plan import Match, ShapedLink
from hostagent.api import KindState
from hostagent.sharing.dataplan import Beyond, DataPlan, Judgement, PlanKind
from hostagent.sharing.planbook import PlanBook, Voucher
from hostagent.sharing.policy import KindTerms, NamedRule, Source, Verdict, compose
from secretary.money.periods import Cycle

pytestmark = [pytest.mark.netns, pytest.mark.exact]

ETHERNET_BYTES = 14
DATAGRAM_BYTES = 228
SLOWEST_BIT_S = 8_000
BUNDLE = 4_000_000
PLAN = DataPlan(scope="hotspot", beyond=Beyond.THROTTLED, bundle_bytes=BUNDLE, cycle=Cycle.DAY)
KINDS = (
    KindTerms(name="control", title="", worth_nanodollars_per_mb=50_000_000),
    KindTerms(name="default", title="", worth_nanodollars_per_mb=1_000_000),
    KindTerms(name="call", title="", worth_nanodollars_per_mb=20_000_000),
    KindTerms(name="backup", title="", worth_nanodollars_per_mb=100_000, can_wait=True, plan_share_ppm=100_000),
)
RULES = tuple(
    NamedRule(match=Match(program=name), kind=name, source=Source.CONFIGURATION) for name in ("call", "backup")
)
NIGHT = int(datetime.fromisoformat("2026-11-10T23:50+01:00").timestamp())
"""The day's allowance is known by then, and what can wait may use it in minutes."""

# 100 datagrams a second, as a call; and half a megabyte a second, as a backup: no queue drops what was counted.
CALL = """
use IO::Socket::IP; use Socket; use Time::HiRes qw(sleep time);
my $s = IO::Socket::IP->new(PeerHost => $ARGV[0], PeerPort => 5004, Proto => 'udp', Type => SOCK_DGRAM) or die "$@";
my $next = time;
while (1) { $s->send("x" x 200); $next += 0.01; my $wait = $next - time; sleep($wait) if $wait > 0; }
"""
BACKUP = """
use IO::Socket::IP; use Socket; use Time::HiRes qw(sleep);
my $s = IO::Socket::IP->new(PeerHost => $ARGV[0], PeerPort => 8022, Proto => 'tcp', Type => SOCK_STREAM) or die "$@";
my $block = "x" x 16384;
while (1) { syswrite($s, $block) or die "$!"; sleep 0.03; }
"""
SINKS = """
import socket, threading
def swallow(peer):
    while peer.recv(65536): pass
def welcome(server):
    while True: threading.Thread(target=swallow, args=server.accept()[:1], daemon=True).start()
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); udp.bind(("::", 5004))
tcp = socket.create_server(("::", 8022), family=socket.AF_INET6, dualstack_ipv6=True)
threading.Thread(target=welcome, args=(tcp,), daemon=True).start()
while True: udp.recv(2048)
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[TwoHosts]:
    """Every packet on the link is one that its interfaces count alone, and nobody asks for neighbours."""
    with TwoHosts() as two:
        two.set_offloads(on=False)
        for host, name, peer, other in ((two.left, "left", two.right, "right"), (two.right, "right", two.left, "left")):
            mac = peer.run("ip", "-br", "link", "show", other).split()[2]
            for family in HOSTS.values():
                address = family.right if name == "left" else family.left
                host.run("ip", "neigh", "replace", address, "lladdr", mac, "dev", name, "nud", "permanent")
        for program in ("call", "backup"):
            shutil.copy("/usr/bin/perl", tmp_path / program)
        yield two


def interface_counts(host: Namespace, name: str) -> tuple[int, int, int, int]:
    """Packets and bytes sent, packets and bytes received."""
    (link,) = json.loads(host.run("ip", "-j", "-s", "link", "show", name))
    sent, received = link["stats64"]["tx"], link["stats64"]["rx"]
    return sent["packets"], sent["bytes"], received["packets"], received["bytes"]


def within_reach(verdicts: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """A kernel's class owes a packet's time, up to a minute: after a slower cap this test would have to wait for it."""
    return {
        name: replace(verdict, cap_bit_s=max(verdict.cap_bit_s, SLOWEST_BIT_S)) if verdict.cap_bit_s else verdict
        for name, verdict in verdicts.items()
    }


class Metered:
    """What the agent does each second for a metered network: reads, books, judges, applies."""

    def __init__(self, engine: HostEngine) -> None:
        self.engine = engine
        self.book = PlanBook(PLAN, [PlanKind.of(kind) for kind in KINDS], ZoneInfo("Europe/Berlin"), unix_s=NIGHT)
        self.counted: dict[str, tuple[int, int]] = {}
        self.unix_s = NIGHT
        self.judgement: Judgement = self.book.judge(NIGHT)
        self.policy = compose(KINDS, RULES, (), LINKS, {})
        self.reading: Reading | None = None

    async def second(self, *, apply: bool) -> None:
        await self.engine.on_second()
        self.reading = await self.engine.read()
        counted: dict[str, tuple[int, int]] = {}
        for meter in self.reading.programs:
            name = meter.program.executable.rpartition("/")[2]
            kind = name if name in ("call", "backup") else "default"
            sent, received = counted.get(kind, (0, 0))
            counted[kind] = (sent + meter.sent.bytes, received + meter.received.bytes)
        before, self.counted = self.counted, counted
        nothing = (0, 0)
        self.unix_s += 1
        self.book.add(
            {
                kind: (sent - before.get(kind, nothing)[0], received - before.get(kind, nothing)[1])
                for kind, (sent, received) in counted.items()
            },
            unix_s=self.unix_s,
        )
        self.judgement = self.book.judge(self.unix_s)
        policy = compose(KINDS, RULES, (), LINKS, within_reach(self.judgement.verdicts))
        if apply and policy.plan != self.policy.plan:
            self.policy = policy
            await self.engine.apply(policy.plan)

    def used(self, kind: str) -> int:
        return self.book.usage(self.unix_s).on_today.get(kind, 0)

    async def seconds(self, count: int, *, apply: bool = True) -> dict[str, int]:
        """Bytes by kind in so many seconds."""
        before = {kind.name: self.used(kind.name) for kind in KINDS}
        for _ in range(count):
            await asyncio.sleep(1)
            await self.second(apply=apply)
        return {name: self.used(name) - was for name, was in before.items()}


LINKS = (ShapedLink(interface="left"),)


@pytest.mark.row("UD-09", "MV-44")
def test_a_small_plan_on_a_real_link(hosts: TwoHosts, tmp_path: Path) -> None:
    sinks = hosts.right.popen(sys.executable, "-c", SINKS)
    hosts.wait_for_listener(hosts.right, 8022)
    hosts.wait_for_listener(hosts.right, 5004, udp=True)
    programs: list[subprocess.Popen[bytes]] = []

    def begin(name: str, text: str, family: int) -> None:
        programs.append(hosts.left.popen(str(tmp_path / name), "-e", text, HOSTS[family].right))

    async def scenario() -> None:
        engine = makers("ebpf", state_directory=tmp_path)[EngineName.EBPF]()
        before = await start_in_silence(engine, hosts.left)
        try:
            metered = Metered(engine)
            begin("call", CALL, 4)
            begin("backup", BACKUP, 6)
            while metered.used("backup") <= metered.judgement.shares_bytes["backup"]:
                await metered.seconds(1, apply=False)
            assert metered.judgement.verdicts["backup"].state is KindState.WAITS
            await metered.seconds(2)  # what is under way comes to rest
            waiting = await metered.seconds(3)
            assert waiting["backup"] < 2 * 3 * SLOWEST_BIT_S // 8, "its share is gone"
            assert waiting["call"] >= 3 * 90 * DATAGRAM_BYTES, "the call goes on"
            metered.book.top_up(Voucher(name="day pass", bytes=6_000_000_000))
            await metered.seconds(1)
            begin("backup", BACKUP, 4)  # the first one's TCP has a timer from before
            topped_up = await metered.seconds(2)
            assert topped_up["backup"] > 200_000
            assert topped_up["call"] >= 2 * 90 * DATAGRAM_BYTES
            while programs:
                stop(programs.pop())
            await metered.seconds(1)
            assert metered.judgement.verdicts["call"].cap_bit_s is None
            assert_books_are_the_counters(metered, before, interface_counts(hosts.left, "left"))
        finally:
            await engine.close()

    try:
        hosts.left.call(lambda: asyncio.run(scenario()))
    finally:
        for process in (*programs, sinks):
            stop(process)


async def start_in_silence(engine: HostEngine, host: Namespace) -> tuple[int, int, int, int]:
    """The counters at the start; once more where the kernel sent a packet of its own meanwhile."""
    while True:
        before = interface_counts(host, "left")
        await engine.start(compose(KINDS, RULES, (), LINKS, {}).plan)
        if interface_counts(host, "left") == before:
            return before
        await engine.close()


def assert_books_are_the_counters(
    metered: Metered, before: tuple[int, int, int, int], after: tuple[int, int, int, int]
) -> None:
    """What the interface did, without its frames' headers, is what was booked, and what the bill is about."""
    packets_sent, bytes_sent, packets_received, bytes_received = (
        now - was for now, was in zip(after, before, strict=True)
    )
    ip_bytes = bytes_sent + bytes_received - ETHERNET_BYTES * (packets_sent + packets_received)
    assert metered.book.usage(metered.unix_s).used_bytes == ip_bytes
    bill = metered.judgement.bill
    assert bill.voucher_bytes + bill.bundle_bytes + bill.beyond_bytes == metered.judgement.budget.used == ip_bytes
