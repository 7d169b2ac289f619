"""Two drivers over loopback, with real datagrams and signatures, and an engine in memory."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec
import pytest
from session_worlds import MS, NOTHING, Kelly
from session_worlds import Path as Link

from billpay.sessions import MarkPrice, MarkReport, TargetRate
from billpay.signing import SigningKey
from dataplane.host_engine import Ability, EngineName, HostEngine, Limit, PacedFlow
from dataplane.metering import FlowKey, FlowMeter, Kind, Program
from dataplane.shaping.plan import Match
from hostagent import api
from hostagent.desk import Refused
from hostagent.reacting.days import FILE_NAME, DayFile
from hostagent.reacting.door import MOST_IN_VAIN
from hostagent.reacting.matching import IDLE_NS, SessionRule
from hostagent.reacting.prices import Provider
from hostagent.reacting.reacting import Reacting
from hostagent.reacting.wire import Disbelief, write
from neighbour.identity import NodeIdentity
from pricereactor.policy import TaskKind, TaskPolicy
from secretary.clock import SystemClock

A, B = "127.0.0.1", "127.0.0.2"
TASK = TaskPolicy(name="film", willingness_nanodollars_per_s=100_000, day_budget_nanodollars=10**12)
PROVIDER = SigningKey(b"p" * 32)


@dataclass(frozen=True)
class Peer:
    name: str
    addresses: tuple[str, ...]
    certificate: str


@dataclass
class Engine:
    """Counts what a link carries at the pace that it was asked for; only the calls that sessions make."""

    link: Link
    sends: bool
    name: EngineName = EngineName.EBPF
    limits: tuple[Limit, ...] = ()
    paces: list[tuple[PacedFlow, ...]] = field(default_factory=list)
    meters_asked: int = 0
    last_ns: int = 0

    async def meters(self, keys: Sequence[FlowKey]) -> list[FlowMeter | None]:
        self.meters_asked += len(keys)
        now_ns = time.monotonic_ns()
        if self.sends:
            paced = self.paces[-1][0] if self.paces and self.paces[-1] else None
            rate = paced.pace_bit_s if paced is not None and paced.pace_bit_s is not None else 5_000_000
            if self.last_ns:
                elapsed_ms = (now_ns - self.last_ns) // MS
                self.link.carry(rate, elapsed_ms, ect=paced is not None and paced.answers_marks)
                self.last_ns += elapsed_ms * MS
            else:
                self.last_ns = now_ns
        return [self._meter(key, now_ns) for key in keys]

    def _meter(self, key: FlowKey, now_ns: int) -> FlowMeter:
        return FlowMeter(
            key=key,
            program_number=1,
            process_id=0,
            traffic_class=1,
            sent=self.link.sent if self.sends else NOTHING,
            received=NOTHING if self.sends else self.link.received,
            first_ns=0,
            last_ns=now_ns,
        )

    async def pace(self, flows: Sequence[PacedFlow]) -> None:
        self.paces.append(tuple(flows))


@dataclass
class Agent:
    reacting: Reacting
    engine: Engine
    identity: NodeIdentity
    said: list[tuple[str, str]]
    changes: list[int]


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        port: int = sock.getsockname()[1]
        return port


def make_agent(directory: Path, address: str, peers: tuple[Peer, ...], link: Link, port: int) -> Agent:
    identity = NodeIdentity.load_or_create(directory, name=directory.name)
    engine, said, changes = Engine(link, sends=address == A), list[tuple[str, str]](), list[int]()

    def kelly(policy: TaskPolicy, **_: int) -> Kelly:
        return Kelly(policy, interval_ns=20 * MS)

    reacting = Reacting(
        peers=peers,
        identity=identity,
        engine=lambda: cast("HostEngine", engine),  # what sessions call of it
        directory=directory,
        clock=SystemClock(),
        tasks={TASK.name: TASK},
        prices=[Provider(name="p2", public_key=PROVIDER.public_key, nanodollars_per_mark=1_000)],
        on_change=lambda: changes.append(1),
        say=lambda code, words: said.append((code, words)),
        views=lambda keys: [None] * len(keys),
        make_reactor=kelly,
        listen=(address,),
        port=port,
    )
    return Agent(reacting, engine, identity, said, changes)


@contextlib.asynccontextmanager
async def both(directory: Path, *, trusted: bool = True) -> AsyncIterator[tuple[Agent, Agent]]:
    port, link = free_port(), Link()
    known = {}
    for address, name in ((A, "a"), (B, "b")):
        known[address] = NodeIdentity.load_or_create(directory / name, name=name).certificate_path
    peer_of_a, peer_of_b = Peer("b", (B,), str(known[B])), Peer("a", (A,), str(known[A]))
    a = make_agent(directory / "a", A, (peer_of_a,), link, port)
    b = make_agent(directory / "b", B, (peer_of_b,) if trusted else (), link, port)
    async with a.reacting.running(), b.reacting.running():
        works = [asyncio.create_task(each.reacting.work()) for each in (a, b)]
        try:
            yield a, b
        finally:
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)


def request(*, sends: bool = True, pays: bool = True, **more: object) -> api.SessionRequest:
    near, far = ((A, 4000), (B, 5004)) if sends else ((B, 5004), (A, 4000))
    given: dict[str, object] = {"task": "film" if pays else "", **more}
    return api.SessionRequest(
        protocol="udp",
        local=near[0],
        local_port=near[1],
        remote=far[0],
        remote_port=far[1],
        sends=sends,
        pays=pays,
        **given,  # type: ignore[arg-type]
    )


async def until(agent: Agent, session: str, holds: Callable[[api.Session], bool]) -> api.Session:
    view = await agent.reacting.wait(session, 0, 5.0)
    async with asyncio.timeout(20):
        while not holds(view):
            view = await agent.reacting.wait(session, view.number, 5.0)
    return view


@pytest.mark.row("DPH-06")
async def test_sender_pays_over_loopback(tmp_path: Path) -> None:
    async with both(tmp_path) as (a, b):
        opened = await a.reacting.open(request(), program="player")
        assert (opened.program, opened.verdict, opened.kind) == ("player", "go", TaskKind.ELASTIC.value)
        assert a.engine.paces[-1][0].pace_bit_s == 1_000_000
        view = await until(a, opened.session, lambda each: each.marks > 10)
        assert view.spent_nanodollars == 1_000 * view.marks
        assert (view.source, view.billed) == ("receiver marks", True)
        assert a.engine.paces[-1][0].answers_marks
        assert a.changes
        assert not b.reacting.sessions(), "who only counts has no session"
        await a.reacting.close(opened.session)
        assert a.engine.paces[-1] == ()
        assert a.reacting.sessions() == ()
    kept = msgspec.json.decode((tmp_path / "a" / FILE_NAME).read_bytes(), type=DayFile)
    assert kept.spent_nanodollars["film"] >= view.spent_nanodollars


@pytest.mark.row("DPH-05")
@pytest.mark.parametrize("sender_first", [True, False])
async def test_receiver_pays_over_loopback(tmp_path: Path, sender_first: bool) -> None:
    async with both(tmp_path) as (a, b):
        if sender_first:
            sending = await a.reacting.open(request(pays=False))
            receiving = await b.reacting.open(request(sends=False))
        else:
            receiving = await b.reacting.open(request(sends=False))
            sending = await a.reacting.open(request(pays=False))
        view = await until(b, receiving.session, lambda each: each.marks > 10)
        assert view.spent_nanodollars == 1_000 * view.marks
        obeying = await until(a, sending.session, lambda each: each.target_bit_s is not None)
        assert not obeying.pays
        await b.reacting.close(receiving.session)
        await until(a, sending.session, lambda each: each.verdict == "let go")


async def test_who_is_no_peer_is_not_counted_for_and_nothing_paces(tmp_path: Path) -> None:
    async with both(tmp_path, trusted=False) as (a, b):
        opened = await a.reacting.open(request())
        await until(a, opened.session, lambda each: each.verdict == "let go")
        assert b.reacting.disbelieved[Disbelief.UNKNOWN_SENDER] > 0
        assert a.engine.paces[-1] == ()


def datagram_to(port: int, address: str, data: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(data, (address, port))


def target() -> TargetRate:
    return TargetRate(session="e" * 32, sequence=time.time_ns() // MS, target_bit_s=1)


async def counted(agent: Agent, disbelief: Disbelief) -> None:
    async with asyncio.timeout(10):
        while not agent.reacting.disbelieved[disbelief]:
            await asyncio.sleep(0.005)


async def test_forged_stale_and_foreign_messages_change_nothing(tmp_path: Path) -> None:
    async with both(tmp_path) as (a, b):
        opened = await a.reacting.open(request())
        view = await until(a, opened.session, lambda each: each.marks > 0)
        port = a.reacting._port
        report = MarkReport(
            session=opened.session,
            sequence=time.time_ns() // MS - 500_000,
            counted_ms=1,
            packets=10**9,
            bytes=10**12,
            ce_packets=10**9,
            ect_packets=0,
        )
        datagram_to(port, A, write(b.identity.key, report))
        await counted(a, Disbelief.WRONG_TIME)
        datagram_to(port, A, write(b.identity.key, msgspec.structs.replace(report, session="e" * 32)))
        await counted(a, Disbelief.UNKNOWN_SESSION)
        datagram_to(port, A, write(SigningKey(b"x" * 32), report))
        await counted(a, Disbelief.UNKNOWN_SENDER)
        datagram_to(port, A, b"{}")
        await counted(a, Disbelief.MALFORMED)
        good = write(b.identity.key, msgspec.structs.replace(report, sequence=time.time_ns() // MS + 60_000))
        datagram_to(port, A, good.replace(b'"signature":"', b'"signature":"AA', 1).replace(b'=="}', b'"}'))
        assert (await until(a, opened.session, lambda each: each.number > view.number)).marks < 10**9


@pytest.mark.row("DPH-26", "DPH-21")
async def test_a_price_is_pushed_and_only_by_its_provider(tmp_path: Path) -> None:
    async with both(tmp_path) as (a, _):
        opened = await a.reacting.open(request())
        await until(a, opened.session, lambda each: each.marks > 5)
        now_ms = time.time_ns() // MS
        push = MarkPrice(
            provider="p2",
            serial=7,
            nanodollars_per_mark=50,
            valid_from_unix_ms=now_ms + 50,
            published_unix_s=now_ms // 1000,
        )
        port = a.reacting._port
        datagram_to(port, A, write(SigningKey(b"x" * 32), msgspec.structs.replace(push, nanodollars_per_mark=1)))
        await counted(a, Disbelief.UNKNOWN_SENDER)
        datagram_to(port, A, write(PROVIDER, push))
        datagram_to(port, B, write(PROVIDER, push))
        view = await until(a, opened.session, lambda each: each.nanodollars_per_mark == 50)
        later = await until(a, opened.session, lambda each: each.marks > view.marks + 20)
        spent, marks = later.spent_nanodollars, later.marks
        assert spent < 1_000 * marks
        assert (1_000 * marks - spent) % 950 == 0, "each mark cost the one price or the other"


async def test_with_no_sessions_nothing_is_read_and_nobody_is_woken(tmp_path: Path) -> None:
    async with both(tmp_path) as (a, _):
        await asyncio.sleep(0.05)
        assert a.engine.meters_asked == 0
        assert len(a.reacting._wheel) == 0


async def test_what_was_spent_today_is_known_after_a_crash(tmp_path: Path) -> None:
    async with both(tmp_path) as (a, _):
        opened = await a.reacting.open(request())
        view = await until(a, opened.session, lambda each: each.marks > 50)
        # As the file is at this moment: the agent is killed now.
        kept = msgspec.json.decode((tmp_path / "a" / FILE_NAME).read_bytes(), type=DayFile)
        assert kept.spent_nanodollars["film"] >= view.spent_nanodollars


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"task": "nothing"}, "no-such-task"),
        ({"task": ""}, "no-policy"),
        ({"policy": TASK}, "no-policy"),
        ({"pays": False, "sends": False}, "nothing-to-do"),
        ({"pays": False, "policy": TASK}, "not-ours-to-pay"),
        ({"task": "", "policy": TaskPolicy(name="bulk", kind=TaskKind.BULK)}, "no-rate"),
    ],
)
async def test_what_cannot_be_is_refused(tmp_path: Path, wrong: dict[str, object], code: str) -> None:
    async with both(tmp_path) as (a, _):
        with pytest.raises(Refused) as refused:
            await a.reacting.open(request(**wrong))  # type: ignore[arg-type]
        assert refused.value.code == code
        assert a.reacting.sessions() == ()


async def test_more_refusals(tmp_path: Path) -> None:
    async with both(tmp_path) as (a, b):
        await a.reacting.open(request())
        with pytest.raises(Refused, match="already"):
            await a.reacting.open(request())
        with pytest.raises(Refused, match="peers"):
            await a.reacting.open(msgspec.structs.replace(request(pays=False), remote="127.0.0.9", remote_port=1))
        with pytest.raises(Refused, match="no such session"):
            await a.reacting.close("f" * 32)
        with pytest.raises(Refused, match="no such session"):
            await a.reacting.wait("f" * 32, 0, 0.0)
        b.engine.name = EngineName.SOCKETS
        with pytest.raises(Refused, match="counts no marks"):
            await b.reacting.open(request(sends=False))
        b.engine.limits = (Limit(ability=Ability.PACE_FLOW, cause="no queue here"),)
        with pytest.raises(Refused, match="no queue here"):
            await b.reacting.open(msgspec.structs.replace(request(), local=B, remote=A))


@pytest.mark.row("DPH-33")
async def test_a_program_that_knows_nothing_of_it_gets_a_session_and_loses_it(tmp_path: Path) -> None:
    async with both(tmp_path) as (a, _):
        rules = [SessionRule(task="film", match=Match(program="curl"))]
        key = FlowKey(3, 6, bytes((127, 0, 0, 1)), 4000, bytes((127, 0, 0, 2)), 80)
        flow = a.engine._meter(key, time.monotonic_ns())
        curl = Program(kind=Kind.PROGRAM, executable="/usr/bin/curl")
        other = Program(kind=Kind.PROGRAM, executable="/usr/bin/wget")
        await a.reacting.match(rules, [(flow, other)])
        assert a.reacting.sessions() == ()
        await a.reacting.match(rules, [(flow, curl)])
        (session,) = a.reacting.sessions()
        assert (session.program, session.task) == ("curl", "film")
        assert a.engine.paces[-1][0].key == key._replace(interface_index=0)
        await a.reacting.match(rules, [(flow, curl)])
        assert len(a.reacting.sessions()) == 1
        idle = msgspec.structs.replace(flow, last_ns=time.monotonic_ns() - IDLE_NS)
        await a.reacting.match(rules, [(idle, curl)])
        assert a.reacting.sessions() == ()
        assert a.engine.paces[-1] == ()


async def test_a_rule_that_cannot_be_kept_is_said_once_and_not_tried_each_second(tmp_path: Path) -> None:
    async with both(tmp_path) as (a, _):
        rules = [SessionRule(task="nothing", match=Match())]
        key = FlowKey(3, 6, bytes((127, 0, 0, 1)), 4000, bytes((127, 0, 0, 2)), 80)
        for _ in range(3):
            flow = a.engine._meter(key, time.monotonic_ns())
            await a.reacting.match(rules, [(flow, Program(kind=Kind.PROGRAM, executable="/usr/bin/curl"))])
        assert len(a.said) == 1
        assert "no task 'nothing'" in a.said[0][1]


async def test_what_a_person_ended_is_not_begun_again_by_a_rule(tmp_path: Path) -> None:
    async with both(tmp_path) as (a, _):
        rules = [SessionRule(task="film", match=Match())]
        key = FlowKey(3, 6, bytes((127, 0, 0, 1)), 4000, bytes((127, 0, 0, 2)), 80)
        curl = Program(kind=Kind.PROGRAM, executable="/usr/bin/curl")
        flow = a.engine._meter(key, time.monotonic_ns())
        await a.reacting.match(rules, [(flow, curl)])
        (session,) = a.reacting.sessions()
        await a.reacting.close(session.session)
        await a.reacting.match(rules, [(flow, curl)])
        assert a.reacting.sessions() == ()
        await a.reacting.match(rules, [])
        await a.reacting.match(rules, [(flow, curl)])
        assert len(a.reacting.sessions()) == 1, "another flow, though it is called the same"


async def test_nothing_is_said_to_a_stranger(tmp_path: Path) -> None:
    async with both(tmp_path) as (a, b):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.9", a.reacting._port))
            stranger.setblocking(False)
            await a.reacting.open(msgspec.structs.replace(request(), remote="127.0.0.9"))
            known = await a.reacting.open(request())
            await until(a, known.session, lambda each: each.marks > 0)
            with pytest.raises(BlockingIOError):
                stranger.recv(2_000)
        assert not b.reacting.disbelieved


async def test_who_only_observes_asks_nobody_for_a_rate_and_promises_none(tmp_path: Path) -> None:
    async with both(tmp_path) as (a, b):
        sending = await a.reacting.open(request(pays=False))
        await b.reacting.open(request(sends=False))
        await until(a, sending.session, lambda each: each.target_bit_s is not None)
        b.reacting._acts = lambda: False
        await until(a, sending.session, lambda each: each.verdict == "let go")
        async with asyncio.timeout(5):
            while b.reacting.sessions():
                await asyncio.sleep(0.01)
        with pytest.raises(Refused, match="only observes"):
            await b.reacting.open(request(sends=False))


async def test_forged_datagrams_are_dropped_unread_after_some(tmp_path: Path) -> None:
    async with both(tmp_path) as (a, b):
        opened = await a.reacting.open(request())
        await until(a, opened.session, lambda each: each.marks > 0)
        forged = msgspec.json.decode(write(SigningKey(b"x" * 32), target()))
        forged["signer"] = b.identity.key.fingerprint
        datagram = msgspec.json.encode(forged)
        for _ in range(3 * MOST_IN_VAIN):
            if a.reacting._door.admits("127.0.0.66", 0):
                a.reacting._on_datagram(datagram, "127.0.0.66")
        assert a.reacting.disbelieved[Disbelief.BAD_SIGNATURE] == MOST_IN_VAIN
        marks = a.reacting.sessions()[0].marks
        await until(a, opened.session, lambda each: each.marks > marks)


async def test_a_day_begins_before_its_first_session_does(tmp_path: Path) -> None:
    yesterday = DayFile(day="2020-01-01", spent_nanodollars={"film": 10**12})
    async with both(tmp_path) as (a, _):
        book = a.reacting._open_days().book
        book.day = yesterday.day
        book.add("film", 10**12)
        opened = await a.reacting.open(request())
        assert opened.spent_today_nanodollars == 0
