"""The agent's TOML file as frozen values, and the plan that its packet core works by.

docs/samples/hostagent.toml comments every key.
"""

from __future__ import annotations

import pwd
import re
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from socket import gethostname
from typing import Annotated, Any, Literal

import msgspec

from billpay.configuration import load_toml
from billpay.errors import ConfigurationError
from billpay.messages import AsNumber, Name
from cartographer.policy import shipped_wants
from cartographer.values import Wants
from dataplane.desired import Chain, DesiredState, Family, QueueRule
from dataplane.links import read_link
from dataplane.payment_engines import PaymentEngine, WantedPaymentEngine
from dataplane.shaping.plan import (
    CLASSES_MAX,
    LINKS_MAX,
    RULES_MAX,
    BitRate,
    Match,
    Protocol,
    ShapedLink,
    Weight,
)
from hostagent.api import SOCKET_NAME
from hostagent.payments.plan import INPUT_QUEUE, OUTPUT_QUEUE, HostPlan, UplinkPlan
from hostagent.sharing.policy import KindTerms, NamedRule, Source, rules_of_kinds
from pricereactor.policy import TaskPolicy, check_all
from secretary.kinds import NANODOLLARS_PER_MB_OF_ONE_PER_GB, shipped_kinds

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
    mode: Literal["observe", "act"] = "act"  # what the first start does; later ones do what the last one did
    kinds: Literal["shipped", "none"] = "shipped"
    measure_rates: bool = True  # where no rate is configured
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")] = "USD"


class ApiSection(Section, frozen=True, kw_only=True):
    """Who may look and who may change things, beside root and the agent's own user. "@name" is a group."""

    readers: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] | None = (
        None  # the group "hostagent", if it is there
    )
    spenders: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    metrics_listen: Annotated[str, msgspec.Meta(max_length=64)] = ""  # "127.0.0.1:9414"


class HistorySection(Section, frozen=True, kw_only=True):
    hours_kept_days: Annotated[int, msgspec.Meta(ge=1, le=3660)] = 62
    days_kept_days: Annotated[int, msgspec.Meta(ge=1, le=36600)] = 1830
    destinations_kept_days: Annotated[int, msgspec.Meta(ge=0, le=3660)] = 35


class DiscoverySection(Section, frozen=True, kw_only=True):
    """Whether a gateway is looked for on the link."""

    gateway: bool = True


class TariffSection(Section, frozen=True, kw_only=True):
    """What a network costs, in its currency; a bundle of 0 is none. `hard`: nothing beyond the bundle but control."""

    price_per_gb: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 0.0
    bundle_gb: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 0.0
    monthly_fee: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 0.0
    reset_day: Annotated[int, msgspec.Meta(ge=1, le=28)] = 1
    hard: bool = False
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")] = "USD"


class NetworkSection(Section, frozen=True, kw_only=True):
    """What nobody can measure of a network. `match`: its title, key, or interface; * at the end stands for any rest."""

    match: Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
    egress_bit_s: BitRate | None = None
    ingress_bit_s: BitRate | None = None
    metered: bool | None = None
    tariff: TariffSection | None = None


class SecretarySection(Section, frozen=True, kw_only=True):
    """On this machine by its `socket`; one that lives outside this operating system by its `address`."""

    socket: str = ""
    address: Annotated[str, msgspec.Meta(pattern=r"^((\[[0-9a-fA-F:.]+\]|[0-9.]+):[0-9]{1,5})?$")] = ""
    transport: str = ""  # the certificate with which it listens there
    certificate: Path_  # of the key that signs grants


class SettlementSection(Section, frozen=True, kw_only=True):
    threshold_nanodollars: Annotated[int, msgspec.Meta(ge=1)] = 100 * 10**9
    grace_intervals: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 6


class PaymentsSection(Section, frozen=True, kw_only=True):
    """What treats the packets of the uplinks."""

    engine: WantedPaymentEngine = "auto"


class PathsSection(Section, frozen=True, kw_only=True):
    """`wants`: what classes of flows want of a way; those that are not named are as shipped (`cartographer.policy`)."""

    delay_value_nanodollars_per_ms: Annotated[int, msgspec.Meta(ge=0, le=10**6)] = 1
    probe: bool = True
    probe_nanodollars_per_hour: Annotated[int, msgspec.Meta(ge=0, le=10**12)] = 1_000_000
    check: bool = True  # unpaid probes: whether marks arrive, where a flow depends on it
    remember: bool = True
    learn_from_sockets: bool = True
    wants: Annotated[tuple[Wants, ...], msgspec.Meta(max_length=16)] = ()


class CampusSection(Section, frozen=True, kw_only=True):
    """A service that pools many hosts' measurements; nothing but prefixes leaves this host."""

    url: Annotated[str, msgspec.Meta(pattern=r"^https://\S+$")]
    certificate: Path_
    place: Annotated[str, msgspec.Meta(max_length=64)] = ""


class AccessSection(Section, frozen=True, kw_only=True):
    """Where there are several ways into the Internet: nothing, say which is best, or take it."""

    choose: Literal["off", "advise", "act"] = "advise"
    wants: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")] = "default"


class UplinkSection(Section, frozen=True, kw_only=True):
    name: Name
    interface: Annotated[str, msgspec.Meta(min_length=1, max_length=15)]
    gateway_name: Annotated[str, msgspec.Meta(max_length=64)] = ""
    gateway_as: AsNumber
    gateway_certificate: Path_
    control_url: Annotated[str, msgspec.Meta(pattern=r"^https://\S+$")]
    header: bool = True
    implied: bool = False  # no header survives on the way to the gateway: grants say what a packet pays
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
    """A kind of traffic. One with the name of a shipped kind says more of that; what it leaves out stays as shipped.

    `worth`: currency units for a gigabyte; `weight` is another way to say it, in units of what "default" is worth.
    """

    name: Name
    worth: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    weight: Weight | None = None
    minimum_ppm: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    can_wait: bool | None = None
    plan_share_ppm: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    cap_bit_s: BitRate | None = None
    flow_cap_bit_s: BitRate | None = None
    minimum_bit_s: Annotated[int, msgspec.Meta(ge=0, le=400_000_000_000)] | None = None
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


class SessionSection(Section, frozen=True, kw_only=True):
    """Which flows follow the price of congestion, under the policy of a task. All that is given must hold."""

    task: Annotated[str, msgspec.Meta(max_length=32)] = ""
    program: Annotated[str, msgspec.Meta(max_length=400)] = ""
    unit: Annotated[str, msgspec.Meta(max_length=94)] = ""
    run_task: Annotated[str, msgspec.Meta(max_length=32)] = ""  # the label of `hostagent run`
    protocol: Literal["tcp", "udp"] = "tcp"
    remote: Annotated[str, msgspec.Meta(max_length=50)] = ""
    ports: Annotated[str, msgspec.Meta(pattern=r"^([0-9]{1,5}(-[0-9]{1,5})?)?$")] = ""
    sends: bool = True  # what leaves; else what arrives, which we pay for
    pays: bool = True  # False: of what leaves, its receiver pays and says the rate; then no task is named


class ProviderSection(Section, frozen=True, kw_only=True):
    """Who charges for marks. With a certificate it may push its price, without one it is as said here."""

    name: Name
    certificate: str = ""
    nanodollars_per_mark: Annotated[int, msgspec.Meta(ge=0, le=10**12)] | None = None


class Configuration(Section, frozen=True, kw_only=True):
    agent: AgentSection
    api: ApiSection = ApiSection()
    history: HistorySection = HistorySection()
    discovery: DiscoverySection = DiscoverySection()
    networks: Annotated[tuple[NetworkSection, ...], msgspec.Meta(max_length=200)] = ()
    secretary: SecretarySection | None = None
    settlement: SettlementSection = SettlementSection()
    payments: PaymentsSection = PaymentsSection()
    paths: PathsSection = PathsSection()
    campus: CampusSection | None = None
    access: AccessSection = AccessSection()
    uplinks: Annotated[tuple[UplinkSection, ...], msgspec.Meta(max_length=16)] = ()
    peers: Annotated[tuple[PeerSection, ...], msgspec.Meta(max_length=1000)] = ()
    links: Annotated[tuple[LinkSection, ...], msgspec.Meta(max_length=LINKS_MAX)] = ()
    tasks: Annotated[tuple[TaskPolicy, ...], msgspec.Meta(max_length=64)] = ()
    sessions: Annotated[tuple[SessionSection, ...], msgspec.Meta(max_length=64)] = ()
    providers: Annotated[tuple[ProviderSection, ...], msgspec.Meta(max_length=16)] = ()
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
    if configuration.uplinks and configuration.secretary is None:
        raise ConfigurationError(path, "secretary", "uplinks need one", "add a [secretary] table")
    if (secretary := configuration.secretary) is not None:
        if bool(secretary.socket) == bool(secretary.address):
            raise ConfigurationError(path, "secretary", "is nowhere, or in two places", "name socket or address")
        if secretary.address and not secretary.transport:
            raise ConfigurationError(path, "secretary.transport", "is empty", "name the certificate of its connections")
    terms_of(configuration, path)
    seen: set[str] = set()
    for number, uplink in enumerate(configuration.uplinks):
        for value in (uplink.name, uplink.interface):
            if value in seen:
                remedy = "name each uplink and interface once"
                raise ConfigurationError(path, f"uplinks[{number}]", f"{value!r} is used twice", remedy)
        seen.update({uplink.name, uplink.interface})
        if uplink.implied and uplink.header:
            raise ConfigurationError(path, f"uplinks[{number}].implied", "is true beside headers", "say header = false")
    _check_sessions(path, configuration)
    classes = {*shipped_wants(0), *(each.name for each in configuration.paths.wants)}
    if configuration.access.wants not in classes:
        remedy = f"name one of {', '.join(sorted(classes))}, or add it to [[paths.wants]]"
        raise ConfigurationError(path, "access.wants", f"there is no class {configuration.access.wants!r}", remedy)
    for number, peer in enumerate(configuration.peers):
        for text in peer.addresses:
            try:
                ip_address(text)
            except ValueError as error:
                key = f"peers[{number}].addresses"
                raise ConfigurationError(path, key, str(error), "write IPv4 or IPv6 addresses") from error
    return configuration


def ports_of(text: str) -> tuple[int, int] | None:
    """First and last; of one port, it twice."""
    first, _, last = text.partition("-")
    return (int(first), int(last or first)) if text else None


def _check_sessions(path: Path, configuration: Configuration) -> None:
    check_all(configuration.tasks, where=path)
    names = {task.name for task in configuration.tasks}
    for number, session in enumerate(configuration.sessions):
        if not session.pays and (session.task or not session.sends):
            remedy = "only what leaves can be paid for by its receiver, and the policy is the receiver's then"
            raise ConfigurationError(path, f"sessions[{number}].pays", "is false here", remedy)
        if session.pays and session.task not in names:
            remedy = "name one of the [[tasks]]"
            raise ConfigurationError(path, f"sessions[{number}].task", f"there is no task {session.task!r}", remedy)
        ports = ports_of(session.ports)
        if ports is not None and not ports[0] <= ports[1] <= 65535:
            key = f"sessions[{number}].ports"
            raise ConfigurationError(path, key, f"{session.ports!r}", "write a port, or first-last")
        try:
            if session.remote:
                ip_network(session.remote, strict=False)
        except ValueError as error:
            remedy = "write an address or a prefix"
            raise ConfigurationError(path, f"sessions[{number}].remote", str(error), remedy) from error
    for number, provider in enumerate(configuration.providers):
        if not provider.certificate and provider.nanodollars_per_mark is None:
            remedy = "give its certificate, or nanodollars_per_mark"
            raise ConfigurationError(path, f"providers[{number}]", "its price can never be known", remedy)


def default_configuration(state_directory: Path, socket: Path) -> Configuration:
    """Without a file: everything is found out, nothing is changed until a person says so."""
    return Configuration(
        agent=AgentSection(
            name=re.sub(r"[^A-Za-z0-9_.-]", "-", gethostname())[:32] or "host",
            state_directory=str(state_directory),
            socket=str(socket),
            mode="observe",
        )
    )


def configuration_for(config_path: Path | None, *, socket: Path | None, state_directory: Path | None) -> Configuration:
    """The file's, or the defaults; what is given here goes before what the file says. Raises ConfigurationError."""
    if config_path is None:
        directory = state_directory or Path("/var/lib/hostagent")
        return default_configuration(directory, socket or directory / SOCKET_NAME)
    read = load(config_path)
    agent = msgspec.structs.replace(
        read.agent,
        socket=str(socket or read.agent.socket),
        state_directory=str(state_directory or read.agent.state_directory),
    )
    return msgspec.structs.replace(read, agent=agent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the configuration and the shipped table say, before anybody sends anything."""

    kinds: tuple[KindTerms, ...]
    rules: tuple[NamedRule, ...]
    links: tuple[ShapedLink, ...]


def terms_of(configuration: Configuration, path: Path) -> Terms:
    """Raises ConfigurationError, one line, with the key."""
    shipped = dict(shipped_kinds())
    names = [section.name for section in configuration.classes]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ConfigurationError(path, f"classes[{number}].name", f"{name!r} is used twice", "name each class once")
    with_table = configuration.agent.kinds == "shipped"
    known = {name: KindTerms.of(kind) for name, kind in shipped.items() if with_table or name in ("control", "default")}
    unit = known["default"].worth_nanodollars_per_mb
    for section in configuration.classes:
        known[section.name] = _kind_terms(section, known.get(section.name), unit)
    kinds = (known.pop("control"), known.pop("default"), *known.values())
    if len(kinds) > CLASSES_MAX:
        remedy = f"at most {CLASSES_MAX}, with the shipped ones"
        raise ConfigurationError(path, "classes", f"{len(kinds)} classes", remedy)
    interfaces = [section.interface for section in configuration.links]
    for number, interface in enumerate(interfaces):
        if interface in interfaces[:number]:
            key = f"links[{number}].interface"
            raise ConfigurationError(path, key, f"{interface!r} is used twice", "name each interface once")
    rules = [
        NamedRule(
            match=_match(section, path, f"rules[{number}]"),
            kind=_class_named(section, [kind.name for kind in kinds], path, number),
            source=Source.CONFIGURATION,
        )
        for number, section in enumerate(configuration.rules)
    ]
    if with_table:
        rules += rules_of_kinds(list(shipped.values()))
    return Terms(
        kinds=kinds,
        rules=tuple(rules),
        links=tuple(
            ShapedLink(
                interface=section.interface, egress_bit_s=section.egress_bit_s, ingress_bit_s=section.ingress_bit_s
            )
            for section in configuration.links
        ),
    )


def _kind_terms(section: ClassSection, base: KindTerms | None, unit: int) -> KindTerms:
    """`base`: the shipped kind of that name; `unit`: what a weight of 1 is worth."""
    said: dict[str, Any] = {
        "minimum_ppm": section.minimum_ppm,
        "minimum_bit_s": section.minimum_bit_s,
        "can_wait": section.can_wait,
        "plan_share_ppm": section.plan_share_ppm,
        "cap_bit_s": section.cap_bit_s,
        "flow_cap_bit_s": section.flow_cap_bit_s,
        "congestion_control": section.congestion_control or None,
        "ask_first": section.ask_first,
    }
    if section.worth is not None:
        said["worth_nanodollars_per_mb"] = round(section.worth * NANODOLLARS_PER_MB_OF_ONE_PER_GB)
    elif section.weight is not None:
        said["worth_nanodollars_per_mb"] = section.weight * unit
    given = {name: value for name, value in said.items() if value is not None}
    if base is None:
        base = KindTerms(name=section.name, title=section.name, worth_nanodollars_per_mb=unit)
    return replace(base, **given)


def _class_named(section: RuleSection, names: list[str], path: Path, number: int) -> str:
    if section.traffic_class not in names:
        problem = f"there is no class {section.traffic_class!r}"
        raise ConfigurationError(path, f"rules[{number}].class", problem, f"there are: {', '.join(names)}")
    return section.traffic_class


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
    ports = ports_of(section.ports)
    if ports is not None and not ports[0] <= ports[1] <= 65535:
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
        implied=uplink.implied,
        slots=uplink.slots,
    )


def desired_state(configuration: Configuration, engine: PaymentEngine) -> DesiredState:
    """For a packet reader what leaves and what arrives by an uplink, in two queues, so that its core can tell them
    apart; programs in the kernel need nothing beside.
    """
    if engine is PaymentEngine.EBPF:
        return DesiredState(owner=OWNER)
    queues = tuple(
        QueueRule(family=family, chain=chain, interface=uplink.interface, queue=queue)
        for uplink in configuration.uplinks
        for family in FAMILIES
        for chain, queue in ((Chain.OUTPUT, OUTPUT_QUEUE), (Chain.PREROUTING, INPUT_QUEUE))
    )
    return DesiredState(owner=OWNER, queues=queues)
