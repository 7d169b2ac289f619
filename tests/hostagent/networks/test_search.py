"""Finding a gateway on a real link: on the router, by an announcement (zeroconf as the other side), by a name.

`Link`: a host and a router in namespaces; gateways are servers with neighbours' TLS on the router, and a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import zeroconf
from netns import Namespace, connect
from real_gateway import RealGateway
from scapy.layers.dns import DNS, DNSRR, DNSRRSRV

from hostagent.networks.discovery import Endpoint, Finding, How
from hostagent.networks.known import KnownFile, Meeting
from hostagent.networks.leases import Lease
from hostagent.networks.search import GatewaySearch, NoGateway, ask_link, find_gateway, read_certificate
from hostagent.networks.situation import ActiveNetwork, Connectivity, Situation
from hostagent.networks.watch import NetworkWatch
from neighbour.identity import NodeIdentity
from neighbour.tls import PinnedPeers, server_context

pytestmark = pytest.mark.netns
Result = TypeVar("Result")
HOST_FOUR, ROUTER_FOUR, PORT = "10.8.1.7", "10.8.1.1", 7414


class Link:
    """The host's address, default routes of both families to the router, and whatever listens there."""

    def __init__(self) -> None:
        self.host, self.router = Namespace(), Namespace()
        for namespace in (self.host, self.router):
            for scope in ("all", "default"):
                namespace.run("sysctl", "-qw", f"net.ipv6.conf.{scope}.accept_dad=0")
        connect(self.host, "u0", self.router, "r0")
        self.router.run("ip", "addr", "add", f"{ROUTER_FOUR}/24", "dev", "r0")
        self.router.run("ip", "addr", "add", "fe80::1/64", "dev", "r0", "nodad")
        self.host.run("ip", "addr", "add", f"{HOST_FOUR}/24", "dev", "u0")
        self.host.run("ip", "route", "add", "default", "via", ROUTER_FOUR)
        self.host.run("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "u0")
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.host.close()
        self.router.close()

    def listen(self, identity: NodeIdentity, address: str = "::", port: int = PORT) -> Listener:
        return self._stack.enter_context(Listener(self.router, identity, address, port))

    def look(self) -> tuple[NetworkWatch, ActiveNetwork]:
        watch = NetworkWatch()
        until_s = time.monotonic() + 5
        while not (networks := watch.look().networks) or not networks[0].is_settled:
            assert time.monotonic() < until_s
            time.sleep(0.01)
        return watch, networks[0]

    def network(self, **changes: Any) -> ActiveNetwork:
        """What the host is on, with words that nobody says here."""
        watch, network = self.host.call(self.look)
        watch.close()
        return replace(network, **changes)

    def run(self, action: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """In the host."""
        return self.host.call(lambda: asyncio.run(action()))

    def find(self, network: ActiveNetwork, **options: Any) -> Finding:
        return self.run(lambda: find_gateway(network, **options))


class Listener:
    """A control port as a gateway has it: TLS 1.3, and only for certificates that it knows (here: none)."""

    def __init__(self, where: Namespace, identity: NodeIdentity, address: str, port: int) -> None:
        self.identity = identity
        self._context = server_context(identity, PinnedPeers())
        self._socket = where.call(
            lambda: socket.create_server((address, port), family=_family(address), dualstack_ipv6=address == "::")
        )
        self.connections = 0
        self.certificates: list[bytes | None] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.settimeout(5)
            with (
                contextlib.suppress(OSError),
                connection,
                self._context.wrap_socket(connection, server_side=True) as tls,
            ):
                self.certificates.append(tls.getpeercert(binary_form=True))


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@pytest.fixture(name="link")
def make_link() -> Iterator[Link]:
    with Link() as link:
        yield link


def identity(directory: Path, name: str = "R") -> NodeIdentity:
    return NodeIdentity.load_or_create(directory / name, name=name)


@pytest.mark.expectation(20)
def test_the_router_answers_as_a_gateway_and_learns_nothing_of_us(link: Link, tmp_path: Path) -> None:
    router = link.listen(identity(tmp_path))
    finding = link.find(link.network())
    assert finding.gateway is not None
    assert finding.gateway.endpoint.url == f"https://{ROUTER_FOUR}:{PORT}"
    assert finding.gateway.certificate.fingerprint == router.identity.fingerprint
    assert finding.gateway.certificate == router.identity.certificate
    assert [each.outcome for each in finding.tried] == ["nobody says so", f"R, {router.identity.fingerprint}"]
    assert router.certificates == []  # no handshake was completed with a certificate of ours


def test_an_ipv6_only_network_is_searched_by_its_link_local_router(link: Link, tmp_path: Path) -> None:
    link.host.run("ip", "-4", "addr", "flush", "dev", "u0")
    router = link.listen(identity(tmp_path))
    finding = link.find(link.network())
    assert finding.gateway is not None
    assert finding.gateway.endpoint.url == f"https://[fe80::1%u0]:{PORT}"
    assert finding.gateway.certificate.fingerprint == router.identity.fingerprint


def test_what_is_no_gateway_is_said_to_be_none(link: Link, tmp_path: Path) -> None:
    def outcome(port: int) -> str:
        endpoint = Endpoint(address=ROUTER_FOUR, port=port, interface="u0", how=How.ROUTER)
        with pytest.raises(NoGateway) as caught:
            link.run(lambda: read_certificate(endpoint, patience_s=0.3))
        return str(caught.value)

    assert outcome(PORT) == "connection refused"
    silent = link.router.call(lambda: socket.create_server((ROUTER_FOUR, 7000)))
    with contextlib.closing(silent):
        assert outcome(7000) == "no answer"
    plain = link.router.call(lambda: socket.create_server((ROUTER_FOUR, 7001)))

    def greet() -> None:
        connection, _ = plain.accept()
        with connection:
            connection.sendall(b"220 welcome to a mail server\r\n" * 10)
            connection.recv(1000)

    thread = threading.Thread(target=greet)
    thread.start()
    assert outcome(7001).startswith("no TLS 1.3: ")
    thread.join()
    plain.close()
    web = link.listen(identity(tmp_path), port=7002)
    web._context.load_cert_chain(*_rsa_certificate(tmp_path))
    assert outcome(7002) == "what answers is not a gateway: its certificate is of another kind"


def _rsa_certificate(directory: Path) -> tuple[Path, Path]:
    """As a router's web interface has it."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "router")])
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day + datetime.timedelta(days=9999))
    certificate_path, key_path = directory / "web.pem", directory / "web.key"
    certificate_path.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key_path.write_bytes(private)
    return certificate_path, key_path


# -- announced on the link -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def announced(link: Link, addresses: list[str], *, version: zeroconf.IPVersion, port: int = PORT) -> Iterator[None]:
    """By an implementation of somebody else."""

    def start() -> zeroconf.Zeroconf:
        peer = zeroconf.Zeroconf(interfaces=zeroconf.InterfaceChoice.All, ip_version=version)
        service = zeroconf.ServiceInfo(
            "_billpay._tcp.local.",
            "R._billpay._tcp.local.",
            port=port,
            server="gateway-r.local.",
            parsed_addresses=addresses,
        )
        peer.register_service(service, cooperating_responders=True)
        return peer

    peer = link.router.call(start)
    try:
        yield
    finally:
        peer.close()


@pytest.mark.parametrize("version", [zeroconf.IPVersion.V4Only, zeroconf.IPVersion.V6Only])
def test_a_gateway_that_announces_itself_is_found(link: Link, version: zeroconf.IPVersion) -> None:
    network = link.network()
    with announced(link, [ROUTER_FOUR, "fe80::1", "203.0.113.9"], version=version, port=7500):
        found = link.run(lambda: ask_link(network))
    assert [(each.name, each.url, each.how) for each in found] == [
        ("r", f"https://{ROUTER_FOUR}:7500", How.ANNOUNCED),
        ("r", "https://[fe80::1%u0]:7500", How.ANNOUNCED),
    ]


def test_the_announced_one_comes_before_the_router(link: Link, tmp_path: Path) -> None:
    link.listen(identity(tmp_path, "router"))
    better = link.listen(identity(tmp_path, "better"), port=7500)
    network = link.network()
    with announced(link, [ROUTER_FOUR], version=zeroconf.IPVersion.V4Only, port=7500):
        finding = link.find(network)
    assert finding.gateway is not None
    assert finding.gateway.certificate.fingerprint == better.identity.fingerprint
    assert finding.gateway.endpoint.how is How.ANNOUNCED


# -- named by DNS ----------------------------------------------------------------------------------------------------


class NameServer:
    """A name server on the router, with scapy's messages."""

    def __init__(self, link: Link, records: dict[tuple[str, int], Any]) -> None:
        self._socket = link.router.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._socket.bind((ROUTER_FOUR, 53))
        self._records = records
        self.asked: list[tuple[str, int]] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> NameServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        self._socket.settimeout(0.05)
        while not self._stopping:
            try:
                data, source = self._socket.recvfrom(2000)
            except TimeoutError:
                continue
            query = DNS(data)
            question = query.qd[0]
            asked = (question.qname.decode(), question.qtype)
            self.asked.append(asked)
            record = self._records.get(asked)
            reply = DNS(id=query.id, qr=1, rcode=0 if record else 3, qd=query.qd, an=[record] if record else [])
            self._socket.sendto(bytes(reply), source)


def test_the_domains_service_record_names_it(link: Link, tmp_path: Path) -> None:
    gateway = link.listen(identity(tmp_path), port=7600)
    lease = Lease(source="dhclient", domains=("campus.example",), name_servers=("9.9.9.9", ROUTER_FOUR))
    network = link.network(lease=lease)
    service = DNSRRSRV(rrname="_billpay._tcp.campus.example.", port=7600, target="gw.campus.example.", ttl=60)
    address = DNSRR(rrname="gw.campus.example.", type="A", rdata=ROUTER_FOUR, ttl=60)
    records = {("_billpay._tcp.campus.example.", 33): service, ("gw.campus.example.", 1): address}
    with NameServer(link, records):
        finding = link.find(network)
    assert finding.gateway is not None
    assert finding.gateway.certificate.fingerprint == gateway.identity.fingerprint
    assert finding.gateway.endpoint.how is How.NAME


def test_the_well_known_name_is_asked_for_and_addresses_elsewhere_are_left_alone(link: Link, tmp_path: Path) -> None:
    link.listen(identity(tmp_path))
    lease = Lease(source="dhclient", domains=("campus.example",), name_servers=(ROUTER_FOUR,))
    network = link.network(lease=lease, routers=())
    elsewhere = DNSRR(rrname="billpay.campus.example.", type="A", rdata="198.51.100.9", ttl=60)
    with NameServer(link, {("billpay.campus.example.", 1): elsewhere}) as server:
        finding = link.find(network)
    assert finding.gateway is None
    assert [each.outcome for each in finding.tried] == ["nobody says so", "nobody says so"]
    assert [name for name, _ in server.asked] == ["_billpay._tcp.campus.example."] + ["billpay.campus.example."] * 2


# -- trust on first use, and when ------------------------------------------------------------------------------------


@pytest.mark.expectation(20)
def test_another_key_on_the_same_network_is_refused_until_a_person_trusts_it(tmp_path: Path) -> None:
    """A real gateway, restarted with a new key, as after a swap of the box, or of whoever sits in its place."""
    world = RealGateway(tmp_path)
    file = KnownFile(tmp_path)
    try:
        world.start()
        before = world.gateway.fingerprint
        meetings = [_meet(world, file)]
        world.stop()
        shutil.rmtree(world.state)
        world.gateway = NodeIdentity.load_or_create(world.state, name="R")
        world.start()
        meetings += [_meet(world, file), _meet(world, file)]
        assert world.gateway.fingerprint != before
        known, _ = file.load()
        assert known.trust(world.gateway.fingerprint, 9) == (known.networks[0].key,)
        file.save(known)
        meetings.append(_meet(world, file))
    finally:
        world.close()
    assert meetings == [
        (Meeting.FIRST, before),
        (Meeting.CHANGED, world.gateway.fingerprint),
        (Meeting.CHANGED, world.gateway.fingerprint),
        (Meeting.KNOWN, world.gateway.fingerprint),
    ]


def _meet(world: RealGateway, file: KnownFile) -> tuple[Meeting, str]:
    """A host that starts anew, looks where it is, and asks what listens there."""
    known, message = file.load()
    assert message == ""

    def look() -> Finding:
        watch = NetworkWatch(canonical=known.canonical)
        try:
            network = watch.look().networks[0]
        finally:
            watch.close()
        known.saw(network.key, aliases=network.aliases, title=network.title, kind=network.kind.value, now_unix_s=1)
        configured = [(network.router, 7414)]
        return asyncio.run(find_gateway(network, configured=configured))

    gateway = world.network.a.call(look)
    assert gateway.gateway is not None, gateway.tried
    certificate, endpoint = gateway.gateway.certificate, gateway.gateway.endpoint
    meeting, _ = known.met(
        gateway.key,
        fingerprint=certificate.fingerprint,
        name=certificate.name,
        url=endpoint.url,
        how=endpoint.how.value,
        now_unix_s=2,
    )
    file.save(known)
    return meeting, certificate.fingerprint


def test_a_network_is_searched_once_and_a_portal_not_at_all(link: Link, tmp_path: Path) -> None:
    router = link.listen(identity(tmp_path))
    network = link.network(addresses=())  # nobody is asked by multicast: it takes a second
    second = 1_000_000_000

    async def stay() -> list[Finding]:
        found: list[Finding] = []
        search = GatewaySearch(found.append, draw=lambda: 0.0)
        portal = replace(network, connectivity=Connectivity.PORTAL)
        for now_ns in range(0, 10 * second, second):
            search.look(Situation(networks=(portal,)), now_ns)
        await asyncio.sleep(0)
        assert router.connections == 0
        for now_ns in range(10 * second, 20 * second, second):
            search.look(Situation(networks=(network,)), now_ns)
            await asyncio.sleep(0)
        while not found:
            await asyncio.sleep(0.01)
        for now_ns in range(20 * second, 90 * second, second):
            search.look(Situation(networks=(network,)), now_ns)
            await asyncio.sleep(0)
        await search.close()
        return found

    found = link.run(stay)
    assert [each.gateway is not None for each in found] == [True]
    assert router.connections == 1


def test_a_search_ends_when_its_network_is_left(link: Link) -> None:
    silent = link.router.call(lambda: socket.create_server((ROUTER_FOUR, PORT)))
    network = link.network(addresses=(), routers=())

    async def leave() -> list[Finding]:
        found: list[Finding] = []
        search = GatewaySearch(found.append, configured=[(ROUTER_FOUR, PORT)], draw=lambda: 0.0)
        search.look(Situation(networks=(network,)), 0)
        search.look(Situation(networks=(network,)), 1_000_000_000)
        await asyncio.sleep(0.05)
        search.look(Situation(), 2_000_000_000)
        await asyncio.sleep(0.05)
        assert [task.done() for _, task in search._tasks.values()] == [True]
        await search.close()
        return found

    with contextlib.closing(silent):
        assert link.run(leave) == []


def test_a_metered_network_sends_one_attempt_and_no_question(link: Link, tmp_path: Path) -> None:
    router = link.listen(identity(tmp_path))
    network = link.network(metered=True, metered_because="set in NetworkManager")
    finding = link.find(network)
    assert finding.gateway is not None
    assert [each.what for each in finding.tried] == [f"https://{ROUTER_FOUR}:{PORT} (the router answers as one)"]
    assert router.connections == 1
