"""The gateway's TOML file as frozen values, and the plan that its packet core works by.

Every key has a unit, bounds and (but for names and addresses) a default; docs/samples/gateway.toml comments each of
them.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Annotated

import msgspec

from billpay.configuration import load_toml
from billpay.errors import ConfigurationError
from billpay.messages import AsNumber, Name, Text
from billpay.pricesetting import PriceTarget
from billpay.tolls import TollSchedule
from dataplane.links import read_link
from dataplane.payment_engines import WantedPaymentEngine
from gateway.mark_prices import PricingSettings
from gateway.plan import (
    AlternativePlan,
    Ceiling,
    GatewayPlan,
    HostRole,
    LinkPlan,
    MarkingRule,
    Peer,
    Queueing,
    RoutePlan,
)
from gateway.scheduler import QUANTUM_BYTES

Nanodollars = Annotated[int, msgspec.Meta(ge=0, le=10**9)]
MARK_NANODOLLARS_MAX = 10**12
RATE_BIT_S_MIN = 8_000
LIMIT_BYTES_MIN = 2 * QUANTUM_BYTES
Path_ = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's tables."""


class GatewaySection(Section, frozen=True, kw_only=True):
    name: Name
    as_number: AsNumber
    state_directory: Path_
    engine: WantedPaymentEngine = "auto"
    admin_socket: str = ""  # "": admin.sock in the state directory
    preference: Annotated[str, msgspec.Meta(pattern="^(honour|ignore)$")] = "honour"
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")] = "USD"


class ControlSection(Section, frozen=True, kw_only=True):
    listen: Annotated[tuple[str, ...], msgspec.Meta(max_length=16)] = ()  # "address:port"; "[v6]:port"


class SettlementSection(Section, frozen=True, kw_only=True):
    threshold_nanodollars: Annotated[int, msgspec.Meta(ge=1)] = 100 * 10**9
    interval_s: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 10
    grace_intervals: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 6


class TollSection(Section, frozen=True, kw_only=True):
    fixed_nanodollars_per_packet: Nanodollars = 0
    fixed_picodollars_per_byte: Nanodollars = 0
    proportional_ppm: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    cap_nanodollars: Nanodollars | None = None
    congestion: bool = False
    target_utilisation_ppm: Annotated[int, msgspec.Meta(ge=100_000, le=1_000_000)] = 950_000


class MarksSection(Section, frozen=True, kw_only=True):
    """To whom the tariff's price of a mark is pushed. With a target it follows the load of the links that mark."""

    push_to: Annotated[tuple[str, ...], msgspec.Meta(max_length=256)] = ()
    announced_ms: Annotated[int, msgspec.Meta(ge=0, le=3_600_000)] = 4_000
    target_utilisation_ppm: Annotated[int, msgspec.Meta(ge=100_000, le=999_999)] | None = None
    period_ms: Annotated[int, msgspec.Meta(ge=100, le=3_600_000)] = 10_000


class CeilingSection(Section, frozen=True, kw_only=True):
    """None: no ceiling."""

    packet_nanodollars: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFF)] | None = None
    grant_nanodollars: Annotated[int, msgspec.Meta(ge=0, le=2**62)] | None = None
    grant_nanodollars_per_s: Annotated[int, msgspec.Meta(ge=0, le=2**62)] | None = None


class OrganisationSection(Section, frozen=True, kw_only=True):
    name: Name
    ceiling: CeilingSection


class LinkSection(Section, frozen=True, kw_only=True):
    name: Name
    interface: Annotated[str, msgspec.Meta(min_length=1, max_length=15)]
    peer: Annotated[str, msgspec.Meta(pattern="^(host|gateway|legacy)$")]
    peer_name: Annotated[str, msgspec.Meta(max_length=64)] = ""
    peer_as: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    peer_certificate: str = ""  # file with the neighbour's node certificate
    secretary_certificate: str = ""  # whose key signs the host's grants; "": the neighbour's own
    peer_addresses: Annotated[tuple[str, ...], msgspec.Meta(max_length=8)] = ()
    control_url: str = ""  # the neighbour's control API; "" for hosts
    header: bool = True  # whether we take and send headers on this link
    tunnel_local: str = ""  # both set: headers to this neighbour go through the UDP tunnel
    tunnel_remote: str = ""
    tunnel_mtu_bytes: Annotated[int, msgspec.Meta(ge=576, le=65535)] = 1500  # what the network between takes whole
    max_amount_nanodollars: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFF)] = 1_000_000
    rate_bit_s: Annotated[int, msgspec.Meta(ge=0, le=10**12)] = 0
    limit_bytes: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
    overhead_bytes: Annotated[int, msgspec.Meta(ge=0, le=100)] = 14
    marking: MarkingRule = MarkingRule.NONE
    virtual_ppm: Annotated[int, msgspec.Meta(ge=100_000, le=1_000_000)] = 950_000  # of the link: a virtual queue's own
    virtual_limit_bytes: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
    queueing: Queueing = Queueing.FAIR
    role: HostRole = HostRole.PAYER  # of a host
    organisation: str = ""  # of a host; "": none
    ceiling: CeilingSection = CeilingSection()  # of a host; with the organisation's, the lower one holds
    toll: TollSection = TollSection()


class AlternativeSection(Section, frozen=True, kw_only=True):
    number: Annotated[int, msgspec.Meta(ge=1, le=11)]
    link: Name
    via: str = ""  # next hop; "": on link
    title: Text = ""
    delay_ms: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None  # what is promised
    toll_nanodollars: Nanodollars | None = None  # what is promised; None: that of the link
    available: bool = True


class RouteSection(Section, frozen=True, kw_only=True):
    prefix: str
    default: Annotated[int, msgspec.Meta(ge=0, le=11)] = 0  # for whom nothing is asked; 0: the first alternative
    alternatives: Annotated[tuple[AlternativeSection, ...], msgspec.Meta(min_length=1, max_length=11)]


class TariffSection(Section, frozen=True, kw_only=True):
    kind: Annotated[str, msgspec.Meta(pattern=r"^(tolls|flat-fee|percentile-95|per-byte|per-mark)$")] = "tolls"
    monthly_fee_nanodollars: Annotated[int, msgspec.Meta(ge=0)] = 0
    congestion_bytes_per_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    nanodollars_per_mbit_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    picodollars_per_byte: Annotated[int, msgspec.Meta(ge=0)] = 0
    bundle_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    nanodollars_per_mark: Annotated[int, msgspec.Meta(ge=0, le=10**12)] = 0
    reset_day: Annotated[int, msgspec.Meta(ge=1, le=28)] = 1


class Configuration(Section, frozen=True, kw_only=True):
    gateway: GatewaySection
    control: ControlSection = ControlSection()
    settlement: SettlementSection = SettlementSection()
    tariff: TariffSection = TariffSection()
    marks: MarksSection = MarksSection()
    organisations: Annotated[tuple[OrganisationSection, ...], msgspec.Meta(max_length=64)] = ()
    links: Annotated[tuple[LinkSection, ...], msgspec.Meta(min_length=1, max_length=64)]
    routes: Annotated[tuple[RouteSection, ...], msgspec.Meta(max_length=10_000)] = ()

    @property
    def state_directory(self) -> Path:
        return Path(self.gateway.state_directory)

    @property
    def admin_socket(self) -> Path:
        given = self.gateway.admin_socket
        return Path(given) if given else self.state_directory / "admin.sock"


def load(path: Path) -> Configuration:
    """The checked file. Raises ConfigurationError, one line, with the key."""
    configuration = load_toml(path, Configuration)
    _check_organisations(path, configuration)
    _check_links(path, configuration)
    _check_routes(path, configuration)
    _check_listen(path, configuration)
    _check_marks(path, configuration)
    return configuration


def pricing_of(configuration: Configuration) -> PricingSettings:
    """Of marks."""
    marks, price = configuration.marks, configuration.tariff.nanodollars_per_mark
    target = marks.target_utilisation_ppm
    return PricingSettings(
        nanodollars_per_mark=price,
        announced_ms=marks.announced_ms,
        period_ms=marks.period_ms,
        target=PriceTarget(utilisation_ppm=target, most_nanodollars=MARK_NANODOLLARS_MAX) if target else None,
    )


def plan_of(configuration: Configuration) -> GatewayPlan:
    """The packet core's plan; reads the interfaces' indexes. Raises EnvironmentFault for an unknown interface."""
    return GatewayPlan(
        as_number=configuration.gateway.as_number,
        links=tuple(_link_plan(link, ceiling_of(configuration, link)) for link in configuration.links),
        routes=tuple(_route_plan(route) for route in configuration.routes),
        honours_preferences=configuration.gateway.preference == "honour",
    )


def listen_address(text: str) -> tuple[str, int]:
    """Host and port of "10.0.0.1:7414" or "[fd00::1]:7414"; raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError("address and port are written 10.0.0.1:7414 or [fd00::1]:7414")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{port!r} is not a port")
    if (host[:1], host[-1:]) == ("[", "]"):
        return str(IPv6Address(host[1:-1])), int(port)
    return str(IPv4Address(host)), int(port)


def ceiling_of(configuration: Configuration, link: LinkSection) -> Ceiling:
    """The host's own and its organisation's: the lower one holds."""
    sections = [link.ceiling, *(one.ceiling for one in configuration.organisations if one.name == link.organisation)]

    def lowest(*values: int | None) -> int | None:
        return min((value for value in values if value is not None), default=None)

    return Ceiling(
        packet_nanodollars=lowest(*(one.packet_nanodollars for one in sections)),
        grant_nanodollars=lowest(*(one.grant_nanodollars for one in sections)),
        grant_nanodollars_per_s=lowest(*(one.grant_nanodollars_per_s for one in sections)),
    )


def schedule_of(toll: TollSection) -> TollSchedule:
    """What a packet pays while there is no congestion."""
    return TollSchedule(
        fixed_nanodollars_per_packet=toll.fixed_nanodollars_per_packet,
        fixed_picodollars_per_byte=toll.fixed_picodollars_per_byte,
        proportional_ppm=toll.proportional_ppm,
        cap_nanodollars=toll.cap_nanodollars,
    )


def _link_plan(link: LinkSection, ceiling: Ceiling) -> LinkPlan:
    toll = link.toll
    return LinkPlan(
        name=link.name,
        interface_index=read_link(link.interface).index,
        peer=Peer(link.peer),
        peer_as=link.peer_as,
        max_amount_nanodollars=link.max_amount_nanodollars,
        toll=schedule_of(toll),
        congestion=toll.congestion,
        target_utilisation_ppm=toll.target_utilisation_ppm,
        rate_bit_s=link.rate_bit_s,
        limit_bytes=link.limit_bytes,
        overhead_bytes=link.overhead_bytes,
        marking=link.marking,
        virtual_ppm=link.virtual_ppm,
        virtual_limit_bytes=link.virtual_limit_bytes,
        queueing=link.queueing,
        tunnel=_tunnel_of(link),
        tunnel_mtu_bytes=link.tunnel_mtu_bytes,
        role=link.role,
        ceiling=ceiling,
    )


def _tunnel_of(link: LinkSection) -> tuple[bytes, bytes] | None:
    if not link.tunnel_remote:
        return None
    return ip_address(link.tunnel_local).packed, ip_address(link.tunnel_remote).packed


def _route_plan(route: RouteSection) -> RoutePlan:
    return RoutePlan(
        prefix=ip_network(route.prefix),
        alternatives=tuple(
            AlternativePlan(number=item.number, link=item.link, available=item.available) for item in route.alternatives
        ),
        default=route.default,
    )


def _check_organisations(path: Path, configuration: Configuration) -> None:
    names = [one.name for one in configuration.organisations]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(path, "organisations.name", f"{name!r} is used twice", "name each once")
    for number, link in enumerate(configuration.links):
        key = f"links[{number}]"
        if link.organisation and link.organisation not in names:
            known = ", ".join(names) or "none"
            raise ConfigurationError(
                path, f"{key}.organisation", f"no organisation {link.organisation!r}", f"organisations are: {known}"
            )
        if link.peer != "host":
            _check_not_a_host(path, key, link)


def _check_not_a_host(path: Path, key: str, link: LinkSection) -> None:
    """Another gateway's hosts are that gateway's concern."""
    for name, is_set in (
        ("role", link.role is not HostRole.PAYER),
        ("organisation", bool(link.organisation)),
        ("ceiling", link.ceiling != CeilingSection()),
    ):
        if is_set:
            raise ConfigurationError(path, f"{key}.{name}", f"on a {link.peer} link", "hosts only have one")


def _check_links(path: Path, configuration: Configuration) -> None:
    seen: set[str] = set()
    for number, link in enumerate(configuration.links):
        key = f"links[{number}]"
        for value in (link.name, link.interface):
            if value in seen:
                raise ConfigurationError(path, key, f"{value!r} is used twice", "name each link and interface once")
        seen.update({link.name, link.interface})
        _check_neighbour(path, key, link, configuration.gateway.as_number)
        _check_queue(path, key, link)
        _check_tunnel(path, key, link)
        for text in link.peer_addresses:
            _address(path, f"{key}.peer_addresses", text)


def _check_neighbour(path: Path, key: str, link: LinkSection, own_as: int) -> None:
    if link.peer != "legacy" and not link.peer_certificate:
        raise ConfigurationError(
            path, f"{key}.peer_certificate", "missing", "name the file with the neighbour's certificate"
        )
    if link.peer != "gateway":
        return
    if not link.peer_as:
        raise ConfigurationError(path, f"{key}.peer_as", "missing", "give the neighbour's AS number")
    if link.peer_as == own_as:
        raise ConfigurationError(path, f"{key}.peer_as", f"{own_as} is our own", "give the neighbour's AS number")
    if own_as < link.peer_as and not link.control_url:
        raise ConfigurationError(
            path, f"{key}.control_url", "missing", "of two gateways the one with the lower AS number calls: we do"
        )


def _check_queue(path: Path, key: str, link: LinkSection) -> None:
    if link.toll.congestion and not link.rate_bit_s:
        raise ConfigurationError(path, f"{key}.rate_bit_s", "is 0 where toll.congestion is on", "give the rate")
    if link.marking is not MarkingRule.NONE and not link.rate_bit_s:
        raise ConfigurationError(path, f"{key}.rate_bit_s", "is 0 where marking is on", "give the rate")
    if 0 < link.rate_bit_s < RATE_BIT_S_MIN:
        raise ConfigurationError(
            path, f"{key}.rate_bit_s", f"is {link.rate_bit_s}", f"0 for no queue, or at least {RATE_BIT_S_MIN}"
        )
    if 0 < link.limit_bytes < LIMIT_BYTES_MIN:
        raise ConfigurationError(
            path, f"{key}.limit_bytes", f"is {link.limit_bytes}", f"0 for 100 ms, or at least {LIMIT_BYTES_MIN}"
        )


def _check_tunnel(path: Path, key: str, link: LinkSection) -> None:
    if not link.tunnel_local and not link.tunnel_remote:
        return
    if not link.tunnel_remote:
        raise ConfigurationError(path, f"{key}.tunnel_remote", "missing", "give both addresses of the tunnel")
    if not link.tunnel_local:
        raise ConfigurationError(path, f"{key}.tunnel_local", "missing", "give both addresses of the tunnel")
    if link.peer != "gateway":
        raise ConfigurationError(path, f"{key}.tunnel_remote", f"on a {link.peer} link", "tunnels lead to gateways")
    local = _address(path, f"{key}.tunnel_local", link.tunnel_local)
    remote = _address(path, f"{key}.tunnel_remote", link.tunnel_remote)
    if local.version != remote.version:
        raise ConfigurationError(
            path, f"{key}.tunnel_remote", f"is IPv{remote.version}, tunnel_local is not", "give two of one version"
        )


def _check_routes(path: Path, configuration: Configuration) -> None:
    names = {link.name for link in configuration.links}
    seen: set[str] = set()
    for number, route in enumerate(configuration.routes):
        key = f"routes[{number}]"
        try:
            network = ip_network(route.prefix)
        except ValueError as error:
            raise ConfigurationError(path, f"{key}.prefix", str(error), "write it as 10.0.0.0/8") from error
        if str(network) in seen:
            raise ConfigurationError(path, f"{key}.prefix", f"{network} is given twice", "name each prefix once")
        seen.add(str(network))
        _check_alternatives(path, key, route, network.version, names)


def _check_alternatives(path: Path, key: str, route: RouteSection, version: int, names: set[str]) -> None:
    numbers = [item.number for item in route.alternatives]
    if len(set(numbers)) != len(numbers):
        raise ConfigurationError(path, f"{key}.alternatives", "a number is used twice", "number them 1, 2, …")
    if route.default and route.default not in numbers:
        raise ConfigurationError(path, f"{key}.default", f"no alternative {route.default}", f"there are: {numbers}")
    if not any(item.available for item in route.alternatives):
        raise ConfigurationError(path, f"{key}.alternatives", "all are withdrawn", "leave one, or take the route out")
    for item in route.alternatives:
        if item.link not in names:
            known = ", ".join(sorted(names))
            raise ConfigurationError(path, f"{key}.alternatives.link", f"no link {item.link!r}", f"links are: {known}")
        if item.via and _address(path, f"{key}.alternatives.via", item.via).version != version:
            raise ConfigurationError(
                path, f"{key}.alternatives.via", f"{item.via} is not IPv{version}", "use the prefix's IP version"
            )


def _check_listen(path: Path, configuration: Configuration) -> None:
    for text in configuration.control.listen:
        try:
            listen_address(text)
        except ValueError as error:
            raise ConfigurationError(
                path, "control.listen", f"{text!r}: {error}", "for example 10.0.0.1:7414"
            ) from error


def _check_marks(path: Path, configuration: Configuration) -> None:
    marks = configuration.marks
    for text in marks.push_to:
        _address(path, "marks.push_to", text)
    if not marks.push_to and marks.target_utilisation_ppm is None:
        return
    if configuration.tariff.kind != "per-mark" or not configuration.tariff.nanodollars_per_mark:
        remedy = 'write [tariff] kind = "per-mark" and its nanodollars_per_mark'
        raise ConfigurationError(path, "marks", "the tariff has no price of a mark", remedy)
    if marks.target_utilisation_ppm and not any(link.marking is not MarkingRule.NONE for link in configuration.links):
        remedy = "give a link its marking and rate_bit_s"
        raise ConfigurationError(path, "marks.target_utilisation_ppm", "no link marks", remedy)


def _address(path: Path, key: str, text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError as error:
        raise ConfigurationError(path, key, str(error), "write one IPv4 or IPv6 address") from error
