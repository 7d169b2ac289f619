"""A household under attack: a real secretary with its doors, a real gateway with its books, and what a thief can do.

Decides nothing: it carries questions, documents and payments, and reads what the gateway counted. Time is virtual.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

import msgspec

from billpay.errors import RemoteProtocolError
from billpay.mac import compute_mac, epoch_of
from billpay.messages import FlowSelector, Grant, Signed, SignedUsage
from billpay.packet import FlowKey
from billpay.settlement import Role as SettlementRole
from billpay.signing import SigningKey, verify
from dataplane.counters import CounterFile
from dataplane.fake import FakeDataPlane
from gateway.commands import Answer, Command, SetLink, Tick
from gateway.configuration import Configuration as GatewayConfiguration
from gateway.configuration import GatewaySection, LinkSection
from gateway.datapath import GatewayCore
from gateway.grant_store import GrantStore
from gateway.granting import GrantDesk
from gateway.neighbours import Neighbour, Neighbours
from gateway.plan import GatewayPlan, LinkPlan, Peer
from gateway.secretary_keys import SecretaryChain
from neighbour.identity import NodeIdentity, PeerCertificate
from secretary.asking import Asker, RemoteDoors, Role
from secretary.client import PersonClient, RemoteSecretary, SecretaryClient
from secretary.configuration import load
from secretary.listening import Listener
from secretary.messages import NO_TRANSFER, Granted, PersonQuestion, Question, Unpaid
from secretary.messages import Answer as SecretaryAnswer
from secretary.process import SecretaryProcess
from secretary.transfers import Moment, Transfer

DAY_S: Final = 86_400
NOON: Final = 20_000 * DAY_S + DAY_S // 2
HOST_ADDRESS, FAR_ADDRESS = "198.51.100.10", "203.0.113.20"
LINK: Final = "host"
LOOPBACK: Final = "127.0.0.1"
DAY_BUDGET: Final = 10_000_000
PROGRAM_BUDGET: Final = 1_000_000
LARGEST_PAYMENT: Final = 1 << 20
NOTICE_WITHIN_S: Final = 1_800

FILE: Final = f"""
[secretary]
name = "host"
state_directory = "{{state}}"

[access]
agents = ["65533"]

[keys]
store = "sealed-file"

[budget]
day_nanodollars = {DAY_BUDGET}

[[budgets]]
name = "game"
program = "game"
period = "day"
limit_nanodollars = {PROGRAM_BUDGET}

[questions]
quiet = ""
pause_s = 0

[[rules]]
name = "web"
protocol = "tcp"
ports = [443]
amount_nanodollars = 20000
grant_nanodollars = 1000000
rate_nanodollars_per_s = 1000000
burst_nanodollars = 1000000
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`cap_nanodollars`: what may be lost at most. `found`: what somebody is told, and when."""

    cap_nanodollars: int
    loss_nanodollars: int
    found: str


class VirtualClock:
    """What the secretary reads; the boot's clock goes on whatever the wall's is set to."""

    def __init__(self) -> None:
        self.now_s = NOON
        self.elapsed_s = 0

    def wait(self, seconds: int) -> None:
        self.now_s += seconds
        self.elapsed_s += seconds

    def monotonic_ns(self) -> int:
        return self.elapsed_s * 10**9

    def unix_s(self) -> int:
        return self.now_s

    def zone(self) -> ZoneInfo:
        return ZoneInfo("UTC")

    def moment(self) -> Moment:
        boot_ns = (NOON + self.elapsed_s) * 10**9
        return Moment(unix_s=self.now_s, boot_ns=boot_ns, boot="bench", zone=self.zone())


class Edge:
    """A gateway: its desk with its store on the disk, and the payment core of its packet reader."""

    def __init__(self, directory: Path, *, name: str, secretary: PeerCertificate, unix_s: Callable[[], int]) -> None:
        directory.mkdir()
        self.identity = NodeIdentity.load_or_create(directory, name=name)
        self._unix_s = unix_s
        section = LinkSection(name=LINK, interface="h0", peer="host")
        configuration = GatewayConfiguration(
            gateway=GatewaySection(name=name, as_number=64512, state_directory=str(directory)), links=(section,)
        )
        self._host = Neighbour(
            section=section, certificate=secretary, signers=SecretaryChain(secretary), role=SettlementRole.ANSWERER
        )
        neighbours = Neighbours(
            configuration=configuration,
            identity=self.identity,
            book=cast("Any", None),
            read=cast("Any", None),
            on_change=lambda _: None,
        )
        neighbours.by_link[LINK] = self._host
        self._counters = CounterFile.in_memory(capacity=8192)
        links = (LinkPlan(name=LINK, interface_index=1, peer=Peer.HOST),)
        self.core = GatewayCore(GatewayPlan(as_number=64512, links=links, routes=()), self._counters, lambda: 0.5)
        self._plane = FakeDataPlane(self.core, self._counters, unix_s=unix_s())
        self.store = GrantStore(directory / "grants.sqlite")
        self.desk = GrantDesk(
            identity=self.identity,
            neighbours=neighbours,
            store=self.store,
            ask=self._ask,
            read=self._counters.snapshot,
            clock=unix_s,
        )
        self._known: set[str] = set()
        self._command(SetLink(link=LINK, agreed=True, in_default=False))
        self.second(0)

    @property
    def fingerprint(self) -> str:
        return self.identity.fingerprint

    def _command(self, command: Command) -> Answer:
        reply = self._plane.command(msgspec.json.encode(command))
        assert reply is not None
        answer: Answer = msgspec.json.decode(reply, type=Answer)
        return answer

    async def _ask(self, command: Command) -> Answer:
        return self._command(command)

    def second(self, passed_s: int) -> None:
        self._plane.unix_s = self._unix_s()
        self._plane.advance(passed_s * 10**9)
        self._command(Tick())

    async def open(self, signed: Signed) -> str:
        """The refusal's code; "" for none."""
        grant = msgspec.json.decode(signed.document, type=Grant).grant
        try:
            await self.desk.open(self._host, grant, signed)
        except RemoteProtocolError as error:
            return error.code
        self._known.add(grant)
        return ""

    async def close(self, grant: str) -> SignedUsage:
        return await self.desk.close(self._host, grant)

    async def usage(self, grant: str) -> SignedUsage:
        return await self.desk.usage(self._host, grant)

    def pay(self, grant: Grant, amount_nanodollars: int) -> bool:
        """A packet's payment with a MAC by the grant's key."""
        flow = grant.flow
        place = FlowKey(
            ip_address(flow.source).packed,
            ip_address(flow.destination).packed,
            flow.protocol,
            flow.source_port,
            flow.destination_port,
        )
        words = amount_nanodollars.to_bytes(4, "big")
        mac = compute_mac(bytes.fromhex(grant.key), place, epoch_of(self._unix_s()), words)
        taken = self.core.grants.take(LINK, place, words, mac, amount_nanodollars, self._plane.now_ns)
        self._counters.begin(0)
        self._counters.commit()
        return taken is None

    def drain(self, grant: Grant) -> None:
        """All that can be got of it now: the largest payments first."""
        amount = LARGEST_PAYMENT
        while amount:
            if not self.pay(grant, amount):
                amount //= 2

    @property
    def loss_nanodollars(self) -> int:
        """As counted here: by the receipts of what is closed, by the counters of what is open."""
        counted = self._counters.snapshot()
        total = 0
        for grant in self._known:
            stored = self.store.find(grant)
            receipt = stored.receipt if stored is not None else None
            total += (
                receipt.usage.spent_nanodollars
                if receipt is not None
                else counted.get(f"grant/{grant}/spent_nanodollars", 0)
            )
        return total

    @property
    def open_caps_nanodollars(self) -> int:
        """Of the grants that are open here."""
        documents = (known.signed for known in self.store.not_closed())
        return sum(msgspec.json.decode(each.document, type=Grant).cap_nanodollars for each in documents if each)


class Home:
    """The secretary and its gateway. The thief's doors are `thief` (the agent's) and `as_person`, with one key."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.clock = VirtualClock()
        self._file = directory / "secretary.toml"
        self._file.write_text(FILE.format(state=self.state))
        self.state.mkdir(mode=0o700)
        self.process = SecretaryProcess(load(self._file), self._file, clock=self.clock)
        self.certificate = PeerCertificate.read(self.state / "node.pem")
        self.edge = self.gateway("edge")
        self._listener = Listener(self._answer, on_fault=_raise)
        self._ports = iter(range(1024, 60_000))
        self.documents: list[Signed] = []
        self.grants: dict[str, Grant] = {}

    def gateway(self, name: str) -> Edge:
        return Edge(self.directory / name, name=name, secretary=self.certificate, unix_s=self.clock.unix_s)

    async def restart(self) -> None:
        await self.process.close()
        self.process = SecretaryProcess(load(self._file), self._file, clock=self.clock)

    def _answer(self, question: Question, asker: Asker) -> SecretaryAnswer:
        return self.process.answer(question, asker)

    async def __aenter__(self) -> Home:
        agent = NodeIdentity.load_or_create(self.directory / "agent", name="agent")
        server = NodeIdentity.load_or_create(self.directory / "transport", name="secretary")
        doors = RemoteDoors(askers={agent.fingerprint: Asker(roles=frozenset({Role.AGENT}))})
        port = await self._listener.listen_remotely(LOOPBACK, 0, server, (agent.certificate,), doors)
        where = RemoteSecretary(address=LOOPBACK, port=port, identity=agent, certificate=server.certificate)
        self.thief, self.as_person = SecretaryClient(where), PersonClient(where)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.thief.close()
        await self.as_person.close()
        await self._listener.close()
        await self.process.close()
        self.edge.store.close()

    # --- what the agent's holder does -------------------------------------------------------------------------------

    def flow(self, **changes: Any) -> FlowSelector:
        """Another one each time."""
        given: dict[str, Any] = {
            "source": HOST_ADDRESS,
            "destination": FAR_ADDRESS,
            "protocol": socket.IPPROTO_TCP,
            "source_port": next(self._ports),
            "destination_port": 443,
        }
        return FlowSelector(**(given | changes))

    async def ask(
        self,
        flow: FlowSelector | None = None,
        *,
        gateway: str | None = None,
        transfer: Transfer = NO_TRANSFER,
        price: int = 0,
        edge: Edge | None = None,
    ) -> Grant | str:
        """A grant, open at the gateway where that takes it; or why not."""
        there = edge or self.edge
        answer = await self.thief.ask_grant(
            flow or self.flow(),
            gateway=there.fingerprint if gateway is None else gateway,
            transfer=transfer,
            price_nanodollars_per_mb=price,
        )
        return await self.opened(answer, there)

    async def extend(self, grant: Grant, spent_nanodollars: int) -> Grant | str:
        return await self.opened(await self.thief.extend(grant.grant, spent_nanodollars), self.edge)

    async def opened(self, answer: Granted | Unpaid, edge: Edge) -> Grant | str:
        if isinstance(answer, Unpaid):
            return answer.code
        grant = verify(answer.signed, self.certificate.public_key, Grant)
        self.documents.append(answer.signed)
        self.grants[grant.grant] = grant
        await edge.open(answer.signed)
        return grant

    async def says(self, question: PersonQuestion) -> str:
        """The refusal's code, "" for none."""
        try:
            await self.as_person.ask(question, cast("Any", object))
        except RemoteProtocolError as error:
            return error.code
        return ""

    async def closes(self, grant: str, spent_nanodollars: int, **receipt: Any) -> str:
        """At the secretary: the refusal's code, "" for none."""
        try:
            await self.thief.close_grant(grant, spent_nanodollars, **receipt)
        except RemoteProtocolError as error:
            return error.code
        return ""

    def drain_all(self) -> None:
        for grant in self.grants.values():
            self.edge.drain(grant)

    def wait(self, seconds: int) -> None:
        """Time for everybody."""
        self.clock.wait(seconds)
        self.edge.second(seconds)
        self.process.secretary.on_time(self.clock.moment())
        self.process.secretary.on_minute(self.clock.moment())

    # --- what is found ----------------------------------------------------------------------------------------------

    def outcome(self, *, cap_nanodollars: int = DAY_BUDGET, found: str = "") -> Outcome:
        """`found` "": when a budget's notice tells."""
        loss = self.edge.loss_nanodollars
        return Outcome(cap_nanodollars=cap_nanodollars, loss_nanodollars=loss, found=found or self._notice())

    def _notice(self) -> str:
        """A grant that nobody closes counts at its end, if it was not told before."""
        begun_s = self.clock.elapsed_s
        while self.clock.elapsed_s - begun_s <= NOTICE_WITHIN_S:
            lines = self.process.secretary.budget_lines(self.clock.moment())
            told = {line.name: line.noticed_percent for line in lines if line.noticed_percent}
            if told:
                name, percent = max(told.items(), key=lambda item: item[1])
                after_s = self.clock.elapsed_s - begun_s
                return f"budget {name} told {percent} % after {after_s} s"
            self.wait(60)
        return f"no notice within {NOTICE_WITHIN_S} s"


def forger() -> SigningKey:
    return SigningKey(b"thief" * 6 + b"!!")


def _raise(fault: Exception) -> None:
    raise fault
