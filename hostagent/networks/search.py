"""Carries out a search for a gateway: asks the link, asks a name server on it, connects, reads a certificate.

Decides: how long each step may take. Refuses to know: which steps there are (`hostagent.networks.discovery`), and
whether what was found is trusted (`hostagent.networks.known`).
Source: RFC 6762 section 5.1 (one-shot multicast DNS queries: from a port of our own, the answer comes to it by
unicast), RFC 8446 (a server shows its certificate, and proves its key, before it asks for ours).

We show no certificate of our own: a router that we have never met learns nothing that would name this host.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import ip_address
from typing import Any, Final

from billpay.errors import ConfigurationError
from hostagent.networks.discovery import (
    LINK_SERVICE,
    SERVICE,
    WELL_KNOWN_NAME,
    AskLink,
    AskName,
    Endpoint,
    Finding,
    FoundGateway,
    How,
    Rounds,
    Tried,
    Try,
    endpoints_of,
    is_local,
    plan,
    well_known_endpoints,
)
from hostagent.networks.dns_messages import (
    MESSAGE_BYTES_MAX,
    MalformedMessage,
    Record,
    RecordType,
    pack_query,
    read_answers,
)
from hostagent.networks.situation import ActiveNetwork, Connectivity, Situation, printable
from neighbour.identity import PeerCertificate

ANSWER_S: Final = 1.0
"""A responder may take up to 0.12 s (RFC 6762 section 6)."""
LATE_S: Final = 0.1
"""After the first answer."""
CONNECT_S: Final = 2.0
DATAGRAMS_MAX: Final = 16
_MDNS: Final = {4: "224.0.0.251", 6: "ff02::fb"}
_MDNS_PORT: Final = 5353
_DNS_PORT: Final = 53
_HOPS: Final = 255


class NoGateway(Exception):  # noqa: N818 - an answer, not a fault
    """Nothing that could be a gateway; one line says why."""


class GatewaySearch:
    """Searches each network that the host comes to, once; `found` gets what each search came to.

    Call `look` with every situation, in a running loop. A search ends when its network is left.
    """

    def __init__(
        self,
        found: Callable[[Finding], None],
        *,
        configured: Sequence[tuple[str, int]] = (),
        draw: Callable[[], float] = random.random,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._found = found
        self._configured = tuple(configured)
        self._rounds = Rounds(draw=draw)
        self._monotonic_ns = clock
        self._tasks: dict[str, tuple[str, asyncio.Task[None]]] = {}

    def look(self, situation: Situation, now_ns: int | None = None) -> None:
        """`now_ns`: by `clock`, which is the monotonic one."""
        now_ns = self._monotonic_ns() if now_ns is None else now_ns
        networks = {
            each.key: each
            for each in reversed(situation.networks)  # the primary one, where two interfaces are on one network
            if each.is_settled and each.connectivity is not Connectivity.PORTAL
        }
        for key, (interface, task) in list(self._tasks.items()):
            if task.done():
                del self._tasks[key]
            elif key not in networks or networks[key].interface != interface:
                task.cancel()
        self._rounds.see(networks, now_ns)
        for key in self._rounds.start(now_ns):
            network = networks[key]
            task = asyncio.create_task(self._search(network), name=f"gateway search on {network.interface}")
            self._tasks[key] = (network.interface, task)

    def again(self, key: str) -> None:
        """A person asks, or the gateway that was found no longer answers."""
        self._rounds.again(key, self._monotonic_ns())

    async def close(self) -> None:
        tasks = [task for _, task in self._tasks.values()]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _search(self, network: ActiveNetwork) -> None:
        finding = await find_gateway(network, configured=self._configured)
        is_last = finding.gateway is not None or bool(network.metered)
        self._rounds.end(network.key, is_last=is_last, now_ns=self._monotonic_ns())
        self._found(finding)


async def find_gateway(network: ActiveNetwork, *, configured: Sequence[tuple[str, int]] = ()) -> Finding:
    """The first that shows a node's certificate. Raises nothing; takes at most some ten seconds."""
    steps = plan(network, configured=configured)
    tried: list[Tried] = []
    seen: set[tuple[str, int]] = set()
    for step in steps.steps:
        async for endpoint in _endpoints(step, network, tried):
            if (endpoint.address, endpoint.port) in seen:
                continue
            seen.add((endpoint.address, endpoint.port))
            what = f"{endpoint.url} ({endpoint.how.value})"
            try:
                certificate = await read_certificate(endpoint)
            except NoGateway as reason:
                tried.append(Tried(what=what, outcome=str(reason)))
                continue
            tried.append(Tried(what=what, outcome=f"{printable(certificate.name)}, {certificate.fingerprint}"))
            gateway = FoundGateway(endpoint=endpoint, certificate=certificate)
            return Finding(key=network.key, interface=network.interface, gateway=gateway, tried=tuple(tried))
    return Finding(key=network.key, interface=network.interface, tried=tuple(tried), because=steps.because)


async def read_certificate(endpoint: Endpoint, *, patience_s: float = CONNECT_S) -> PeerCertificate:
    """What the node there shows, with the proof that it has the key. Nothing of ours is shown. Raises NoGateway."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whom it is to be trusted as is decided by the fingerprint
    try:
        async with asyncio.timeout(patience_s):
            return await _handshake(endpoint, context)
    except TimeoutError as error:
        raise NoGateway("no answer") from error
    except ssl.SSLError as error:
        raise NoGateway(f"no TLS 1.3: {error.reason or error}") from error
    except ConfigurationError as error:
        raise NoGateway("what answers is not a gateway: its certificate is of another kind") from error
    except OSError as error:
        raise NoGateway(os.strerror(error.errno).lower() if error.errno else str(error)) from error


async def _handshake(endpoint: Endpoint, context: ssl.SSLContext) -> PeerCertificate:
    loop = asyncio.get_running_loop()
    connection = _socket(endpoint.address, endpoint.interface, socket.SOCK_STREAM)
    try:
        await loop.sock_connect(connection, _sockaddr(endpoint.address, endpoint.port, endpoint.interface))
    except BaseException:
        connection.close()
        raise
    # From here on the transport closes it, also when it is cancelled.
    _, writer = await asyncio.open_connection(sock=connection, ssl=context, server_hostname="")
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    if not shown:
        raise NoGateway("it shows no certificate")
    return PeerCertificate.from_pem(ssl.DER_cert_to_PEM_cert(shown), source=endpoint.url)


async def _endpoints(
    step: Try | AskLink | AskName, network: ActiveNetwork, tried: list[Tried]
) -> AsyncIterator[Endpoint]:
    """What a step leads to; what it did not lead to is added to `tried`."""
    match step:
        case Try(endpoint=endpoint):
            yield endpoint
            return
        case AskLink(families=families):
            found = await ask_link(network, families)
            what = f"{LINK_SERVICE} on {network.interface}"
        case AskName(domain=domain, server=server):
            found = await ask_name(network, domain=domain, server=server)
            what = f"{SERVICE}.{domain} and {WELL_KNOWN_NAME}.{domain} at {server}"
    if not found:
        tried.append(Tried(what=what, outcome="nobody says so"))
    for endpoint in found:
        yield endpoint


async def ask_link(network: ActiveNetwork, families: Sequence[int] = (4, 6)) -> tuple[Endpoint, ...]:
    """One multicast question for each family; the answers of the first second."""
    question = pack_query([(LINK_SERVICE, RecordType.PTR)], identifier=0, recursion=False, unicast=True)
    answers = await asyncio.gather(*(_ask_family(network, family, question) for family in families))
    found = [endpoint for each in answers for endpoint in each]
    return tuple({(each.address, each.port): each for each in reversed(found)}.values())[::-1]


async def _ask_family(network: ActiveNetwork, family: int, question: bytes) -> tuple[Endpoint, ...]:
    try:
        with contextlib.closing(_socket(_MDNS[family], network.interface, socket.SOCK_DGRAM)) as asking:
            _set_multicast(asking, family, network.index)
            to = _sockaddr(_MDNS[family], _MDNS_PORT, network.interface)
            received = await _exchange(asking, to, question, lambda source: is_local(source, network))
    except OSError:  # the interface has gone, or has no address of this family any more
        return ()
    found: list[Endpoint] = []
    for source, records in received:
        found += endpoints_of(records, network, source=source, how=How.ANNOUNCED)
    return tuple(found)


async def ask_name(network: ActiveNetwork, *, domain: str, server: str) -> tuple[Endpoint, ...]:
    """The domain's SRV records, else the well-known name's addresses."""
    service = await _ask_server(network, server, [(f"{SERVICE}.{domain}", RecordType.SRV)])
    targets = [each.text for each in service if each.type is RecordType.SRV and each.text][:2]
    known = {each.name for each in service if each.type in (RecordType.A, RecordType.AAAA)}
    for target in targets:
        if target not in known:
            service += await _ask_addresses(network, server, target)
    found = endpoints_of(service, network, source="", how=How.NAME)
    if found or targets:
        return found
    records = await _ask_addresses(network, server, f"{WELL_KNOWN_NAME}.{domain}")
    return well_known_endpoints(records, network, domain=domain)


async def _ask_addresses(network: ActiveNetwork, server: str, name: str) -> list[Record]:
    records: list[Record] = []
    for record_type in (RecordType.A, RecordType.AAAA):
        records += await _ask_server(network, server, [(name, record_type)])
    return records


async def _ask_server(network: ActiveNetwork, server: str, questions: list[tuple[str, RecordType]]) -> list[Record]:
    identifier = secrets.randbelow(1 << 16)
    try:
        question = pack_query(questions, identifier=identifier, recursion=True)
        with contextlib.closing(_socket(server, network.interface, socket.SOCK_DGRAM)) as asking:
            to = _sockaddr(server, _DNS_PORT, network.interface)
            plain = ip_address(server.partition("%")[0])
            received = await _exchange(
                asking,
                to,
                question,
                lambda source: ip_address(source.partition("%")[0]) == plain,
                identifier=identifier,
                is_one=True,
            )
    except (OSError, ValueError):  # the link has gone; a domain that cannot be asked for
        return []
    return [record for _, records in received for record in records]


async def _exchange(
    asking: socket.socket,
    to: Any,
    question: bytes,
    may_answer: Callable[[str], bool],
    *,
    identifier: int | None = None,
    is_one: bool = False,
) -> list[tuple[str, tuple[Record, ...]]]:
    """Who answered, and what. `is_one`: the first answer ends it."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendto(asking, question, to)
    received: list[tuple[str, tuple[Record, ...]]] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_S) as patience:
            for _ in range(DATAGRAMS_MAX):
                data, source = await loop.sock_recvfrom(asking, MESSAGE_BYTES_MAX)
                try:
                    answers = read_answers(data)
                except MalformedMessage:
                    continue
                if not may_answer(source[0]) or identifier not in (None, answers.identifier):
                    continue
                received.append((source[0].partition("%")[0], answers.records))
                if is_one:
                    break
                patience.reschedule(min(patience.when() or 0.0, loop.time() + LATE_S))
    return received


def _socket(address: str, interface: str, kind: socket.SocketKind) -> socket.socket:
    """Bound to the interface: whatever a VPN routes elsewhere, this stays on the link."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    with contextlib.suppress(PermissionError):  # before Linux 5.7 only the superuser may; prefixes lead there as well
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
    return made


def _set_multicast(asking: socket.socket, family: int, index: int) -> None:
    if family == 4:
        on = struct.pack("=4s4si", bytes(4), bytes(4), index)
        asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, on)
        asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _HOPS)
    else:
        asking.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        asking.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOPS)


def _sockaddr(address: str, port: int, interface: str) -> tuple[str, int] | tuple[str, int, int, int]:
    if ":" not in address:
        return (address, port)
    plain = ip_address(address.partition("%")[0])
    needs_scope = plain.is_link_local or plain.is_multicast
    return (str(plain), port, 0, socket.if_nametoindex(interface) if needs_scope else 0)
