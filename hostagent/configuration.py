"""The agent's TOML file as frozen values, and the plan that its packet core works by.

docs/samples/hostagent.toml comments every key.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import msgspec

from billpay.configuration import load_toml
from billpay.errors import ConfigurationError
from billpay.messages import AsNumber, Name
from dataplane.desired import Chain, DesiredState, Family, QueueRule
from dataplane.links import read_link
from hostagent.api import SOCKET_NAME
from hostagent.plan import INPUT_QUEUE, OUTPUT_QUEUE, HostPlan, UplinkPlan

OWNER = "billpay-ho"
FAMILIES: tuple[Family, Family] = (4, 6)
Path_ = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's tables."""


class AgentSection(Section, frozen=True, kw_only=True):
    name: Name
    state_directory: Path_
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


class Configuration(Section, frozen=True, kw_only=True):
    agent: AgentSection
    secretary: SecretarySection
    settlement: SettlementSection = SettlementSection()
    paths: PathsSection = PathsSection()
    uplinks: Annotated[tuple[UplinkSection, ...], msgspec.Meta(min_length=1, max_length=16)]
    peers: Annotated[tuple[PeerSection, ...], msgspec.Meta(max_length=1000)] = ()

    @property
    def state_directory(self) -> Path:
        return Path(self.agent.state_directory)

    @property
    def socket(self) -> Path:
        return Path(self.agent.socket) if self.agent.socket else self.state_directory / SOCKET_NAME


def load(path: Path) -> Configuration:
    """The checked file. Raises ConfigurationError, one line, with the key."""
    configuration = load_toml(path, Configuration)
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
