"""Where a gateway could be on a network, and when it is looked for.

Decides: the steps of a search and their order, which answers count, that only the link and its router are spoken to,
and how often. Refuses to know: sockets, the clock, randomness, and whether a gateway that was found is to be trusted
(`hostagent.networks.known`). Source: RFC 6763 (DNS-SD), RFC 2782 (SRV), RFC 8910 section 4.1 (captive portals: before
a person has signed in, nothing else is to be tried).

The order: what a person configured; what the link announces; what DHCP names; the well-known name in the domain that
DHCP or the router gives; the router itself. On a metered network only the first of them is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from hostagent.networks.dns_messages import Record, RecordType
from hostagent.networks.leases import GATEWAY_PORT
from hostagent.networks.situation import ActiveNetwork, Connectivity, NetworkKind
from neighbour.identity import PeerCertificate

SERVICE: Final = "_billpay._tcp"
LINK_SERVICE: Final = f"{SERVICE}.local"
WELL_KNOWN_NAME: Final = "billpay"

ENDPOINTS_MAX: Final = 4
"""Of one step: whoever answers cannot make us knock at many doors."""
DOMAINS_MAX: Final = 2
SERVERS_MAX: Final = 2

_SECOND: Final = 1_000_000_000
JITTER_NS: Final = (_SECOND // 2, 3 * _SECOND)
"""After an arrival: a room full of laptops that wake up does not ask at once, and addresses are there by then."""
BACK_OFF_NS: Final = (60 * _SECOND, 600 * _SECOND, 3600 * _SECOND, 6 * 3600 * _SECOND)
"""After a search without a gateway; the last one again and again."""
_SPREAD: Final = 0.25  # of a back-off, up and down
_NETWORKS_MAX: Final = 64


class How(Enum):
    """For people: `api.Gateway.how`."""

    CONFIGURED = "configured"
    ANNOUNCED = "announced on the link (DNS-SD)"
    LEASE = "named by DHCP"
    NAME = "named by DNS"
    ROUTER = "the router answers as one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a gateway may listen. An IPv6 link-local address belongs to `interface`."""

    address: str
    port: int = GATEWAY_PORT
    interface: str
    how: How
    name: str = ""  # as it was announced

    @property
    def url(self) -> str:
        address = ip_address(self.address)
        if not isinstance(address, IPv6Address):
            return f"https://{self.address}:{self.port}"
        scope = f"%{self.interface}" if address.is_link_local else ""
        return f"https://[{self.address}{scope}]:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """Connect there, and read the certificate."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class AskLink:
    """One multicast question for each family."""

    families: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskName:
    """Ask a name server on the link for the gateway of a domain."""

    domain: str
    server: str


Step = Try | AskLink | AskName


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`because`: why it has fewer steps than it could have, "" for all of them."""

    steps: tuple[Step, ...] = ()
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    what: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundGateway:
    endpoint: Endpoint
    certificate: PeerCertificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a search came to; `gateway` None: the embedded one is used."""

    key: str
    interface: str
    gateway: FoundGateway | None = None
    tried: tuple[Tried, ...] = ()
    because: str = ""


def plan(network: ActiveNetwork, *, configured: Sequence[tuple[str, int]] = ()) -> Plan:
    """`configured`: addresses and ports that a person gave."""
    if network.connectivity is Connectivity.PORTAL:
        return Plan(because="behind a captive portal: sign in first")
    steps: list[Step] = [
        Try(endpoint=Endpoint(address=address, port=port, interface=network.interface, how=How.CONFIGURED))
        for address, port in configured[:ENDPOINTS_MAX]
    ]
    if network.kind is NetworkKind.VPN:
        return Plan(steps=tuple(steps), because="a VPN alone: there is no link to look at")
    steps += _link_steps(network)
    if network.metered and len(steps) > 1:
        return Plan(steps=(_cheapest(steps),), because=f"metered ({network.metered_because}): one attempt only")
    return Plan(steps=tuple(steps))


def _link_steps(network: ActiveNetwork) -> Iterable[Step]:
    families = tuple(family for family in (4, 6) if any((":" in each) == (family == 6) for each in network.addresses))
    if families:
        yield AskLink(families=families)
    lease = network.lease
    if lease.gateway is not None and is_local(lease.gateway[0], network):
        address, port = lease.gateway
        yield Try(endpoint=Endpoint(address=address, port=port, interface=network.interface, how=How.LEASE))
    servers = [each for each in lease.name_servers if is_local(each, network)][:SERVERS_MAX]
    for domain in [each for each in lease.domains if each != "local"][:DOMAINS_MAX]:
        for server in servers[:1] or ():
            yield AskName(domain=domain, server=server)
    for router in dict.fromkeys(each.address for each in network.routers):
        if is_local(router, network):
            yield Try(endpoint=Endpoint(address=router, interface=network.interface, how=How.ROUTER))


def _cheapest(steps: Sequence[Step]) -> Step:
    """What most surely leads somewhere with one attempt."""
    order = (How.CONFIGURED, How.LEASE, How.ROUTER)
    attempts = [each for each in steps if isinstance(each, Try)]
    return min(attempts, key=lambda each: order.index(each.endpoint.how)) if attempts else steps[0]


def is_local(address: str, network: ActiveNetwork) -> bool:
    """Whether it is on the link: never is anybody behind the router spoken to."""
    plain = ip_address(address.partition("%")[0])
    if plain.is_loopback or plain.is_multicast or plain.is_unspecified:
        return False
    if isinstance(plain, IPv6Address) and plain.is_link_local:
        return True
    if any(str(plain) == each.address for each in network.routers):
        return True
    prefixes = (ip_network(each) for each in network.prefixes)
    return any(plain.version == each.version and plain in each for each in prefixes)


def endpoints_of(records: Iterable[Record], network: ActiveNetwork, *, source: str, how: How) -> tuple[Endpoint, ...]:
    """The gateways that an answer names, the preferred first. Without an address of its own, it is the one who answers.

    Addresses that are not on the link are left out.
    """
    records = tuple(records)
    services = sorted((each for each in records if _is_service(each)), key=lambda each: (each.priority, each.name))
    found: dict[tuple[str, int], Endpoint] = {}
    for service in services:
        addresses = [each.text for each in records if each.name == service.text and _is_address(each)]
        for address in sorted(addresses, key=_preference) or ([source] if source else []):
            if is_local(address, network) and 0 < service.port < 65_536:
                endpoint = Endpoint(
                    address=address.partition("%")[0],
                    port=service.port,
                    interface=network.interface,
                    how=how,
                    name=service.name.partition(f".{SERVICE}")[0],
                )
                found.setdefault((endpoint.address, endpoint.port), endpoint)
    return tuple(found.values())[:ENDPOINTS_MAX]


def well_known_endpoints(records: Iterable[Record], network: ActiveNetwork, *, domain: str) -> tuple[Endpoint, ...]:
    """For a domain without SRV records: the addresses of `billpay.<domain>`."""
    name = f"{WELL_KNOWN_NAME}.{domain}"
    addresses = [each.text for each in records if each.name == name and _is_address(each)]
    return tuple(
        Endpoint(address=each, interface=network.interface, how=How.NAME, name=name)
        for each in sorted(addresses, key=_preference)
        if is_local(each, network)
    )[:ENDPOINTS_MAX]


def _is_service(record: Record) -> bool:
    is_ours = record.name == SERVICE or f"{SERVICE}." in record.name
    return record.type is RecordType.SRV and is_ours and bool(record.text)


def _is_address(record: Record) -> bool:
    return record.type in (RecordType.A, RecordType.AAAA)


def _preference(address: str) -> tuple[bool, str]:
    """Addresses that hold anywhere on the host before those that need an interface."""
    plain = ip_address(address.partition("%")[0])
    return (plain.is_link_local, address)


# -- when ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Round:
    due_ns: int
    failures: int = 0
    is_here: bool = True
    is_waiting: bool = True  # False: it runs, or it has ended for good


@dataclass(slots=True, kw_only=True)
class Rounds:
    """When each network is searched. `draw()` gives a number from 0 to 1."""

    draw: Callable[[], float]
    _rounds: dict[str, _Round] = field(default_factory=dict)

    def see(self, keys: Iterable[str], now_ns: int) -> None:
        """`keys`: of the networks on which a search makes sense now. One that comes back is searched again."""
        present = frozenset(keys)
        low, high = JITTER_NS
        for key in present:
            soon_ns = now_ns + low + int(self.draw() * (high - low))
            known = self._rounds.get(key)
            if known is None:
                self._rounds[key] = _Round(soon_ns)
            elif not known.is_here:
                known.is_here, known.is_waiting, known.due_ns = True, True, max(known.due_ns, soon_ns)
        gone = [key for key in self._rounds if key not in present]
        for key in gone:
            self._rounds[key].is_here = False
        for key in gone[: max(0, len(self._rounds) - _NETWORKS_MAX)]:
            del self._rounds[key]

    def start(self, now_ns: int) -> tuple[str, ...]:
        """The keys whose search begins now."""
        due = [key for key, each in self._rounds.items() if each.is_here and each.is_waiting and each.due_ns <= now_ns]
        for key in due:
            self._rounds[key].is_waiting = False
        return tuple(due)

    def end(self, key: str, *, is_last: bool, now_ns: int) -> None:
        """`is_last`: something was found, or nothing more is to be spent. Then only `again` or a return begins anew."""
        known = self._rounds.get(key)
        if known is None:
            return
        wait_ns = BACK_OFF_NS[min(known.failures, len(BACK_OFF_NS) - 1)]
        known.due_ns = now_ns + int(wait_ns * (1 - _SPREAD + 2 * _SPREAD * self.draw()))
        known.failures = 0 if is_last else known.failures + 1
        known.is_waiting = not is_last

    def again(self, key: str, now_ns: int) -> None:
        """A person asks, or the gateway that was found no longer answers."""
        known = self._rounds.get(key)
        if known is not None:
            known.due_ns, known.failures, known.is_waiting = now_ns, 0, True
