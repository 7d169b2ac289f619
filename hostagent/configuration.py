"""The agent's TOML file as frozen values, and the plan that its packet core works by.

docs/samples/hostagent.toml comments every key.
"""

from __future__ import annotations

import pwd
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from billpay.configuration import load_toml
from billpay.errors import ConfigurationError
from billpay.messages import AsNumber, Name
from dataplane.desired import Chain, DesiredState, Family, QueueRule
from dataplane.links import read_link
from dataplane.shaping.plan import (
    CLASSES_MAX,
    LINKS_MAX,
    RULES_MAX,
    BitRate,
    Match,
    Protocol,
    Rule,
    ShapedLink,
    ShapingPlan,
    TrafficClass,
    Weight,
)
from hostagent.api import SOCKET_NAME
from hostagent.payments.plan import INPUT_QUEUE, OUTPUT_QUEUE, HostPlan, UplinkPlan

OWNER = "billpay-ho"
FAMILIES: tuple[Family, Family] = (4, 6)
Path_ = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's tables."""


class AgentSection(Section, frozen=True, kw_only=True):
    name: Name
    state_directory: Path_
    engine: Literal["auto", "ebpf", "nfqueue", "sockets"] = "auto"
    socket: str = ""  # "": hostagent.sock in the state directory


class SecretarySection(Section, frozen=True, kw_only=True):
    socket: Path_
    certificate: Path_


class SettlementSection(Section, frozen=True, kw_only=True):
    threshold_nanodollars: Annotated[int, msgspec.Meta(ge=1)] = 100 * 10**9
    grace_intervals: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 6


class PathsSection(Section, frozen=True, kw_only=True):
    delay_value_nanodollars_per_ms: Annotated[int, msgspec.Meta(ge=0, le=10**6)] = 1
    probe: bool = True


class UplinkSection(Section, frozen=True, kw_only=True):
    name: Name
    interface: Annotated[str, msgspec.Meta(min_length=1, max_length=15)]
    gateway_name: Annotated[str, msgspec.Meta(max_length=64)] = ""
    gateway_as: AsNumber
    gateway_certificate: Path_
    control_url: Annotated[str, msgspec.Meta(pattern=r"^https://\S+$")]
    header: bool = True
    slots: Annotated[int, msgspec.Meta(ge=0, le=7)] = 3


class PeerSection(Section, frozen=True, kw_only=True):
    """Another agent: whose echoes about our traffic to these addresses we believe."""

    name: Name
    addresses: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=16)]
    certificate: Path_


class LinkSection(Section, frozen=True, kw_only=True):
    """An interface whose traffic is counted, attributed and shaped. Rates: what the link can carry, at the IP layer."""

    interface: Annotated[str, msgspec.Meta(min_length=1, max_length=15)]
    egress_bit_s: BitRate | None = None
    ingress_bit_s: BitRate | None = None


class ClassSection(Section, frozen=True, kw_only=True):
    """A traffic class; `control` and `default` are always there and may be written to say more of them."""

    name: Name
    cap_bit_s: BitRate | None = None
    flow_cap_bit_s: BitRate | None = None
    minimum_bit_s: Annotated[int, msgspec.Meta(ge=0, le=400_000_000_000)] = 0
    weight: Weight = 1
    congestion_control: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]{0,15}$")] = ""
    ask_first: bool = False


class RuleSection(Section, frozen=True, kw_only=True):
    """Which traffic belongs to a class. All that is given must hold; the first rule that holds decides."""

    traffic_class: Name = msgspec.field(name="class")
    program: Annotated[str, msgspec.Meta(max_length=400)] = ""
    unit: Annotated[str, msgspec.Meta(max_length=94)] = ""
    task: Annotated[str, msgspec.Meta(max_length=32)] = ""
    user: Annotated[str, msgspec.Meta(max_length=64)] = ""
    protocol: Protocol | None = None
    remote: Annotated[str, msgspec.Meta(max_length=50)] = ""
    ports: Annotated[str, msgspec.Meta(pattern=r"^([0-9]{1,5}(-[0-9]{1,5})?)?$")] = ""


class Configuration(Section, frozen=True, kw_only=True):
    agent: AgentSection
    secretary: SecretarySection | None = None
    settlement: SettlementSection = SettlementSection()
    paths: PathsSection = PathsSection()
    uplinks: Annotated[tuple[UplinkSection, ...], msgspec.Meta(max_length=16)] = ()
    peers: Annotated[tuple[PeerSection, ...], msgspec.Meta(max_length=1000)] = ()
    links: Annotated[tuple[LinkSection, ...], msgspec.Meta(max_length=LINKS_MAX)] = ()
    classes: Annotated[tuple[ClassSection, ...], msgspec.Meta(max_length=CLASSES_MAX - 2)] = ()
    rules: Annotated[tuple[RuleSection, ...], msgspec.Meta(max_length=RULES_MAX)] = ()

    @property
    def state_directory(self) -> Path:
        return Path(self.agent.state_directory)

    @property
    def socket(self) -> Path:
        return Path(self.agent.socket) if self.agent.socket else self.state_directory / SOCKET_NAME


def load(path: Path) -> Configuration:
    """The checked file. Raises ConfigurationError, one line, with the key."""
    configuration = load_toml(path, Configuration)
    if not configuration.uplinks and not configuration.links:
        raise ConfigurationError(path, "links", "no interface is named", "add a [[links]] table with `interface`")
    if configuration.uplinks and configuration.secretary is None:
        raise ConfigurationError(path, "secretary", "uplinks need one", "add a [secretary] table")
    shaping_plan(configuration, path)
    seen: set[str] = set()
    for number, uplink in enumerate(configuration.uplinks):
        for value in (uplink.name, uplink.interface):
            if value in seen:
                remedy = "name each uplink and interface once"
                raise ConfigurationError(path, f"uplinks[{number}]", f"{value!r} is used twice", remedy)
        seen.update({uplink.name, uplink.interface})
    for number, peer in enumerate(configuration.peers):
        for text in peer.addresses:
            try:
                ip_address(text)
            except ValueError as error:
                key = f"peers[{number}].addresses"
                raise ConfigurationError(path, key, str(error), "write IPv4 or IPv6 addresses") from error
    return configuration


def shaping_plan(configuration: Configuration, path: Path) -> ShapingPlan:
    """What is counted and how it is shaped. Raises ConfigurationError, one line, with the key."""
    names = [section.name for section in configuration.classes]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ConfigurationError(path, f"classes[{number}].name", f"{name!r} is used twice", "name each class once")
    written = {section.name: _traffic_class(section) for section in configuration.classes}
    first = [written.pop(name, TrafficClass(name=name)) for name in ("control", "default")]
    classes = (*first, *written.values())
    numbers = {each.name: number for number, each in enumerate(classes)}
    interfaces = [section.interface for section in configuration.links]
    for number, interface in enumerate(interfaces):
        if interface in interfaces[:number]:
            key = f"links[{number}].interface"
            raise ConfigurationError(path, key, f"{interface!r} is used twice", "name each interface once")
    return ShapingPlan(
        classes=classes,
        rules=tuple(
            Rule(
                match=_match(section, path, f"rules[{number}]"),
                traffic_class=_class_number(section, numbers, path, number),
            )
            for number, section in enumerate(configuration.rules)
        ),
        links=tuple(
            ShapedLink(
                interface=section.interface, egress_bit_s=section.egress_bit_s, ingress_bit_s=section.ingress_bit_s
            )
            for section in configuration.links
        ),
    )


def _traffic_class(section: ClassSection) -> TrafficClass:
    return TrafficClass(
        name=section.name,
        cap_bit_s=section.cap_bit_s,
        flow_cap_bit_s=section.flow_cap_bit_s,
        minimum_bit_s=section.minimum_bit_s,
        weight=section.weight,
        congestion_control=section.congestion_control or None,
        ask_first=section.ask_first,
    )


def _class_number(section: RuleSection, numbers: dict[str, int], path: Path, number: int) -> int:
    found = numbers.get(section.traffic_class)
    if found is None:
        problem = f"there is no class {section.traffic_class!r}"
        raise ConfigurationError(path, f"rules[{number}].class", problem, f"there are: {', '.join(numbers)}")
    return found


def _match(section: RuleSection, path: Path, key: str) -> Match:
    user_id = None
    if section.user:
        try:
            user_id = int(section.user) if section.user.isdigit() else pwd.getpwnam(section.user).pw_uid
        except KeyError as error:
            problem = f"there is no user {section.user!r}"
            raise ConfigurationError(path, f"{key}.user", problem, "write a user's name or number") from error
    if section.remote:
        try:
            ip_network(section.remote, strict=False)
        except ValueError as error:
            raise ConfigurationError(path, f"{key}.remote", str(error), "write an address or a prefix") from error
    ports = None
    if section.ports:
        first, _, last = section.ports.partition("-")
        ports = (int(first), int(last or first))
        if not ports[0] <= ports[1] <= 65535:
            raise ConfigurationError(path, f"{key}.ports", f"{section.ports!r}", "write a port, or first-last")
    return Match(
        program=section.program or None,
        unit=section.unit or None,
        task=section.task or None,
        user_id=user_id,
        protocol=section.protocol,
        remote=section.remote or None,
        ports=ports,
    )


def plan_of(configuration: Configuration) -> HostPlan:
    """Reads the interfaces. Raises EnvironmentFault for an unknown one."""
    return HostPlan(
        uplinks=tuple(_uplink_plan(uplink) for uplink in configuration.uplinks),
        peers=frozenset(ip_address(text).packed for peer in configuration.peers for text in peer.addresses),
    )


def _uplink_plan(uplink: UplinkSection) -> UplinkPlan:
    link = read_link(uplink.interface)
    return UplinkPlan(
        name=uplink.name,
        interface_index=link.index,
        gateway_as=uplink.gateway_as,
        mtu=link.mtu,
        header=uplink.header,
        slots=uplink.slots,
    )


def desired_state(configuration: Configuration) -> DesiredState:
    """What leaves and what arrives by an uplink, in two queues, so that the core can tell them apart."""
    queues = tuple(
        QueueRule(family=family, chain=chain, interface=uplink.interface, queue=queue)
        for uplink in configuration.uplinks
        for family in FAMILIES
        for chain, queue in ((Chain.OUTPUT, OUTPUT_QUEUE), (Chain.PREROUTING, INPUT_QUEUE))
    )
    return DesiredState(owner=OWNER, queues=queues)
