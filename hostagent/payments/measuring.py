"""Echoes and probes on their sockets: the far end's view of our traffic, and ours of what others send us.

A driver: moves datagrams between the echo port and the pure parts (`echoes`, `probing`, the cartographer), and fetches
the gateways' signed descriptions. Whatever is forged, altered or replayed is counted and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from itertools import islice
from typing import NamedTuple

from billpay.errors import RemoteProtocolError
from billpay.header import Slot
from billpay.introductions import Introductions
from billpay.messages import ECHO_PORT, Echo, FlowSelector, OadDescription, ProbeReply
from billpay.signing import verify
from dataplane.supervisor import ReaderUnavailable
from hostagent.configuration import Configuration
from hostagent.datagrams import udp_socket
from hostagent.payments.commands import Answer, Command, FlowReport, Oads, PayFlow, ProbeSeen
from hostagent.payments.echoes import Disbelief, EchoPeer, EchoReader, EchoWriter
from hostagent.payments.flowbook import FlowBook, path_text, reverse
from hostagent.payments.flows import Flow
from hostagent.payments.probing import Probe, decode_probe, encode_probe
from hostagent.payments.uplinks import Uplink
from neighbour.control import Unreachable
from neighbour.identity import NodeIdentity, PeerCertificate
from pricereactor.reactor import TimelyPayment

LOG = logging.getLogger("hostagent")
DATAGRAM_BYTES_MAX = 4096
ECHO_EVERY_NS = 250_000_000
MAX_ECHOES_A_TURN = 100
MAX_PROBES_WAITING = 16
MAX_PROBED_FLOWS = 1024
MAX_ASKED = 256
PROBED_NS = 3_000_000_000
"""For a flow that has been silent for so long nothing is probed."""
MAX_PRICES = 16
"""Destinations whose price is asked each time."""
PRICE_BYTES = 1000
LOST_NS = 3_000_000_000
"""A probe that nobody answered for so long is lost."""


class Asked(NamedTuple):
    """A paid probe under way."""

    destination: str
    slots: tuple[Slot, ...]
    amount_nanodollars: int
    sent_ns: int


class Measuring:
    """`tell` sends a command to the packet core. `own_addresses` are this host's, kept current by the daemon."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        identity: NodeIdentity,
        flows: FlowBook,
        session: str,
        tell: Callable[[Command], Awaitable[Answer]],
        heard: Callable[[Echo, int], object] = lambda _echo, _amount: None,
    ) -> None:
        """`heard(echo, amount)`: whoever else wants to know what was left of our payments of so much each."""
        peers = [_peer_of(section.name, section.addresses, section.certificate) for section in configuration.peers]
        self._peer_addresses = frozenset(address for peer in peers for address in peer.addresses)
        self._may_probe = configuration.paths.probe
        self._writer = EchoWriter(identity.key, session)
        self._reader = EchoReader(peers)
        self._flows = flows
        self._tell = tell
        self._heard = heard
        self.own_addresses: frozenset[str] = frozenset()
        self.disbelieved: Counter[Disbelief] = Counter()
        self._echoed: dict[FlowSelector, tuple[int, int]] = {}  # when, and how many packets had arrived
        self._probes_seen: dict[FlowSelector, list[ProbeSeen]] = {}
        self._asked: dict[int, Asked] = {}  # by the probe's number, the oldest first
        self._ways: dict[tuple[str, tuple[Slot, ...]], str] = {}  # destination and slots → the path that answered
        self._probe_number = 0
        self._gateway_keys: dict[int, bytes] = {}
        self._claimed: set[tuple[str, int, int]] = set()  # destination, AS and alternative that is said to be congested
        self._introductions = Introductions(own_as=0, neighbours=self._gateway_keys)
        self._sockets: dict[int, socket.socket] = {}
        self._probe_sockets: dict[int, socket.socket] = {}

    # --- sockets ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises EnvironmentFault when the echo port is taken."""
        loop = asyncio.get_running_loop()
        for version, wildcard in ((4, "0.0.0.0"), (6, "::")):  # noqa: S104
            self._sockets[version] = udp_socket(wildcard, ECHO_PORT)
            self._probe_sockets[version] = udp_socket(wildcard, 0)
            for sock in (self._sockets[version], self._probe_sockets[version]):
                loop.add_reader(sock, self._receive, sock)

    def stop(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in (*self._sockets.values(), *self._probe_sockets.values()):
            loop.remove_reader(sock)
            sock.close()

    def _receive(self, sock: socket.socket) -> None:
        for _ in range(64):
            try:
                datagram, _ = sock.recvfrom(DATAGRAM_BYTES_MAX)
            except OSError:  # nothing there any more, or an ICMP error for something that we sent
                return
            if decode_probe(datagram) is None:  # a probe counts by what the packet core saw in its header
                self._on_echo(datagram)

    def _send(self, sock: socket.socket, data: bytes, address: str, port: int) -> None:
        try:
            sock.sendto(data, (address, port))
        except OSError as error:  # no route, a full buffer: the next one says it all again
            LOG.debug("echo to %s: %s", address, error)

    # --- echoes that come -------------------------------------------------------------------------------------------

    def _on_echo(self, datagram: bytes) -> None:
        now_ns = time.monotonic_ns()
        echo = self._reader.read(datagram, own_addresses=self.own_addresses, unix_ms=time.time_ns() // 1_000_000)
        if isinstance(echo, Disbelief):
            self.disbelieved[echo] += 1
            LOG.warning("an echo changes nothing: %s", echo.value)
            return
        flow = self._flows.on_echo(echo, now_ns)
        if flow is not None:
            self._heard(echo, flow.amount_nanodollars)
            self._on_probe_replies(echo, now_ns)

    def _on_probe_replies(self, echo: Echo, now_ns: int) -> None:
        for reply in echo.probes:
            asked = self._asked.pop(reply.probe, None)
            if asked is None:
                continue
            destination, toll = asked.destination, max(0, asked.amount_nanodollars - reply.remaining)
            round_trip_ns = max(1, now_ns - reply.sent_ns - reply.held_ns)
            self._note_way(asked, path_text(reply.oads))
            self._flows.on_probe(destination, path_text(reply.oads), toll)
            self._flows.cartographer.on_probe_reply(
                destination,
                asked.slots,
                reply.oads,
                toll_nanodollars=toll if asked.amount_nanodollars else None,
                round_trip_ns=round_trip_ns,
                now_ns=now_ns,
                amount_nanodollars=asked.amount_nanodollars,
            )
            for flow in self._flows.flows.values():
                if flow.selector.destination == destination and flow.amount_nanodollars:
                    flow.round_trip_ns = round_trip_ns

    def _note_way(self, asked: Asked, path: str) -> None:
        self._ways.pop((asked.destination, asked.slots), None)
        self._ways[asked.destination, asked.slots] = path
        if len(self._ways) > MAX_ASKED:
            del self._ways[next(iter(self._ways))]

    def _give_up_lost(self, now_ns: int) -> None:
        """A probe that asked for a way which answered before says that this one loses."""
        for number, asked in list(self._asked.items()):
            if now_ns - asked.sent_ns < LOST_NS:
                break
            del self._asked[number]
            LOG.info("probe %d to %s asking %s is lost", number, asked.destination, asked.slots)
            self._flows.cartographer.on_probe_lost(
                asked.destination, asked.slots, now_ns, amount_nanodollars=asked.amount_nanodollars
            )
            path = self._ways.get((asked.destination, asked.slots))
            if path is not None:
                self._flows.on_probe(asked.destination, path, None)

    # --- echoes that go ---------------------------------------------------------------------------------------------

    def on_probe(self, seen: ProbeSeen) -> None:
        """A paid probe arrived: it is answered with the next echo of its flow, which is due at once."""
        if seen.flow not in self._probes_seen and len(self._probes_seen) >= MAX_PROBED_FLOWS:
            return
        waiting = self._probes_seen.setdefault(seen.flow, [])
        if len(waiting) < MAX_PROBES_WAITING:
            waiting.append(seen)
        self._echoed.pop(seen.flow, None)

    def send_echoes(self, now_ns: int, unix_ms: int) -> None:
        """To everybody who pays us, and to known agents about what else they send us."""
        sent = 0
        for selector, report in self._flows.arriving.items():
            if sent >= MAX_ECHOES_A_TURN:
                break
            when_ns, packets = self._echoed.get(selector, (0, -1))
            if packets == report.in_packets or now_ns - when_ns < ECHO_EVERY_NS:
                continue
            if not self._is_owed_an_echo(selector, report):
                continue
            self._echoed[selector] = (now_ns, report.in_packets)
            self._send_echo(selector, report, unix_ms)
            sent += 1
        if len(self._echoed) > 2 * len(self._flows.arriving) + 64:
            self._echoed = {key: value for key, value in self._echoed.items() if key in self._flows.arriving}

    def _is_owed_an_echo(self, selector: FlowSelector, report: FlowReport) -> bool:
        if selector.protocol == 17 and ECHO_PORT in (selector.source_port, selector.destination_port):
            return selector.destination_port == ECHO_PORT != selector.source_port  # probes, but never echoes of echoes
        back = self._flows.flows.get(reverse(selector))
        if back is not None and back.grant is not None:
            return False  # it answers a flow that we pay for: its sender is told nothing new by it
        return bool(report.received_nanodollars) or selector.source in self._peer_addresses

    def _send_echo(self, selector: FlowSelector, report: FlowReport, unix_ms: int) -> None:
        """One datagram; of a probe flow one for each probe, since an answer with many slots fills one."""
        back = self._flows.flows.get(reverse(selector))
        is_probe = selector.destination_port == ECHO_PORT and selector.protocol == 17
        answers = [reply for seen in self._probes_seen.pop(selector, []) if (reply := _reply_to(seen))]
        batches: list[tuple[ProbeReply, ...]] = [(answer,) for answer in answers] or [()]
        for probes in batches:
            datagram = self._writer.write(
                report,
                returned_nanodollars=back.report.sent_returned_nanodollars if back is not None else 0,
                probes=probes,
                unix_ms=unix_ms,
            )
            port = selector.source_port if is_probe else ECHO_PORT
            self._send(self._sockets[ip_address(selector.source).version], datagram, selector.source, port)

    # --- probes -----------------------------------------------------------------------------------------------------

    async def send_probes(self, now_ns: int) -> None:
        """Asks along the alternatives of those destinations that we pay towards. Those of a timely flow are paid for by
        its own rule, as long as their budget lasts.
        """
        self._give_up_lost(now_ns)
        if not self._may_probe:
            return
        targets: dict[str, Flow] = {}
        for flow in self._flows.flows.values():
            if flow.is_probe or not flow.amount_nanodollars or now_ns - flow.report.last_ns > PROBED_NS:
                continue
            destination = flow.selector.destination
            if flow.grant is None or destination not in self._peer_addresses:
                continue
            if destination not in targets or (_prober(flow) and not _prober(targets[destination])):
                targets[destination] = flow
        for destination, flow in targets.items():
            prober = _prober(flow)
            if prober is not None and not prober.may_probe:  # the flow's reason says how much they were
                continue
            due = self._flows.cartographer.probes_due(destination, now_ns, own_budget=prober is not None)
            for slots in due:
                if not await self._send_probe(destination, flow, slots, now_ns):
                    self._flows.cartographer.on_probe_unsent(destination, slots)

    async def _send_probe(self, destination: str, paying: Flow, slots: tuple[Slot, ...], now_ns: int) -> bool:
        """Whether it left paid. The probe's own flow has to be judged and granted first: until then its datagrams go
        unpaid and unanswered.
        """
        sock = self._probe_sockets[ip_address(destination).version]
        selector = FlowSelector(
            source=paying.selector.source,
            destination=destination,
            protocol=17,
            source_port=sock.getsockname()[1],
            destination_port=ECHO_PORT,
        )
        prober = _prober(paying)
        self._flows.pay_probes_by(selector, paying.grant.grant if prober is not None and paying.grant else "")
        flow = self._flows.flows.get(selector)
        self._probe_number += 1
        number, is_paid = self._probe_number, False
        if flow is not None:
            flow.is_probe = True
            if flow.grant is not None and flow.opened_at and flow.judged:
                amount = paying.amount_nanodollars if prober is None else prober.take_probe() or 0
                oads: Oads = tuple((slot.as_number, slot.alternatives, slot.choice) for slot in slots)
                try:
                    await self._tell(PayFlow(flow=selector, grant=flow.grant, amount_nanodollars=amount, slots=oads))
                except ReaderUnavailable:
                    return False
                flow.amount_nanodollars, flow.slots = amount, oads
                flow.told = flow.wanted()
                while len(self._asked) >= MAX_ASKED:
                    self._asked.pop(next(iter(self._asked)))
                self._asked[number] = Asked(destination, slots, amount, now_ns)
                is_paid = True
        probe = encode_probe(Probe(number, time.monotonic_ns()))
        self._send(sock, probe, destination, ECHO_PORT)
        return is_paid

    # --- descriptions -----------------------------------------------------------------------------------------------

    async def learn_descriptions(self, uplink: Uplink) -> None:
        """The alternatives that a gateway publishes, and those that it hands on.

        Of its own only what its own key signed is taken in, of others' what `billpay.introductions` believes.
        """
        if not uplink.agreed:
            return
        try:
            await self._learn_own(uplink)
            await self._learn_introduced(uplink)
        except (Unreachable, RemoteProtocolError) as error:
            LOG.warning("alternatives of %s: %s", uplink.name, error)

    async def _learn_own(self, uplink: Uplink) -> None:
        prefixes, as_number = [], uplink.section.gateway_as
        for signed in await uplink.caller.client.oads():
            description = verify(signed, uplink.certificate.public_key, OadDescription)
            if description.as_number != as_number:
                raise RemoteProtocolError("wrong-as", f"a description of AS {description.as_number}")
            self._take_in(description)
            prefixes.append(description.prefix)
        self._flows.cartographer.on_published(uplink.certificate.fingerprint, as_number, prefixes)

    async def _learn_introduced(self, uplink: Uplink) -> None:
        as_number = uplink.section.gateway_as
        self._gateway_keys[as_number] = uplink.certificate.public_key
        introduced = await uplink.caller.client.introduced_oads()
        for description in self._introductions.hear(as_number, introduced.documents, now_unix_s=int(time.time())):
            self._take_in(description)

    def _take_in(self, description: OadDescription) -> None:
        self._flows.cartographer.on_description(description, int(time.time()), time.monotonic_ns())

    async def learn_prices(self, uplink: Uplink) -> None:
        """Whether the gateway itself says that it is congested, where we pay it: then there must be signs of it."""
        if not uplink.agreed:
            return
        now_ns, as_number = time.monotonic_ns(), uplink.section.gateway_as
        amounts: dict[str, int] = {}
        for flow in self._flows.flows.values():
            if flow.opened_at == uplink.name and flow.amount_nanodollars and flow.is_active(now_ns):
                amounts[flow.selector.destination] = flow.amount_nanodollars
        claims: dict[tuple[str, int, int], int] = {}
        try:
            for destination, amount in islice(amounts.items(), MAX_PRICES):
                quote = await uplink.caller.client.price(destination, PRICE_BYTES, amount_nanodollars=amount)
                for price in quote.prices:
                    claims[destination, as_number, price.alternative] = price.congestion_picodollars
        except (Unreachable, RemoteProtocolError) as error:
            LOG.debug("prices of %s: %s", uplink.name, error)
        for destination, number, alternative in {key for key in self._claimed if key[1] == as_number} - claims.keys():
            claims[destination, number, alternative] = 0  # what is not said any more does not hold any more
        for (destination, number, alternative), congestion in claims.items():
            self._flows.cartographer.on_congestion_claimed(
                destination, number, alternative, congestion, time.monotonic_ns()
            )
        self._claimed = {key for key in self._claimed if key[1] != as_number}
        self._claimed |= {key for key, congestion in claims.items() if congestion}


def _reply_to(seen: ProbeSeen) -> ProbeReply | None:
    """It leaves at once: whatever it waited for is not the way's."""
    probe = decode_probe(seen.payload)
    if probe is None:
        return None
    return ProbeReply(
        probe=probe.number,
        sent_ns=probe.sent_ns,
        held_ns=max(0, time.monotonic_ns() - seen.arrived_ns),
        remaining=seen.remaining,
        oads=seen.oads,
    )


def _prober(flow: Flow) -> TimelyPayment | None:
    """Whoever has a budget for probes."""
    return flow.timely if flow.timely is not None and flow.timely.has_probes else None


def _peer_of(name: str, addresses: tuple[str, ...], certificate: str) -> EchoPeer:
    known = PeerCertificate.read(certificate)
    return EchoPeer(
        name=name,
        public_key=known.public_key,
        fingerprint=known.fingerprint,
        addresses=frozenset(str(ip_address(address)) for address in addresses),
    )
