"""The campus service's TOML file: where it listens, which hosts it admits, where it keeps what they say.

Decides how a mistake in it is named. docs/samples/cartographer.toml comments every key.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final

import msgspec

from billpay.configuration import load_toml
from billpay.errors import ConfigurationError
from billpay.messages import AsNumber, Name
from cartographer.campus.privacy import HOSTS_MIN
from neighbour.identity import PeerCertificate

DATABASE_NAME: Final = "campus.sqlite"
SOCKET_NAME: Final = "status.sock"
HOSTS_MAX: Final = 10_000

Path_ = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
Listen = Annotated[str, msgspec.Meta(pattern=r"^(\[[0-9a-fA-F:.]+\]|[0-9.]+):[0-9]{1,5}$")]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's tables."""


class CampusSection(Section, frozen=True, kw_only=True):
    name: Name = "cartographer"
    state_directory: Path_
    listen: Annotated[tuple[Listen, ...], msgspec.Meta(min_length=1, max_length=16)]
    status_socket: str = ""  # "": status.sock in the state directory
    database: str = ""  # "": campus.sqlite in the state directory; a path, or postgresql://…


class HostsSection(Section, frozen=True, kw_only=True):
    directory: str = ""  # every *.pem in it; "": none
    certificates: Annotated[tuple[str, ...], msgspec.Meta(max_length=HOSTS_MAX)] = ()
    lines_max: Annotated[int, msgspec.Meta(ge=100, le=100_000)] = 5_000
    reports_per_minute: Annotated[int, msgspec.Meta(ge=1, le=600)] = 6
    questions_per_minute: Annotated[int, msgspec.Meta(ge=1, le=6_000)] = 60


class PoolingSection(Section, frozen=True, kw_only=True):
    hosts_min: Annotated[int, msgspec.Meta(ge=2, le=100)] = HOSTS_MIN
    half_life_s: Annotated[int, msgspec.Meta(ge=300, le=7 * 86_400)] = 3_600
    kept_days: Annotated[int, msgspec.Meta(ge=1, le=30)] = 7


class IspSection(Section, frozen=True, kw_only=True):
    """Whose descriptions are relayed on one host's word."""

    as_number: AsNumber
    certificate: Path_


class Configuration(Section, frozen=True, kw_only=True):
    campus: CampusSection
    hosts: HostsSection = HostsSection()
    pooling: PoolingSection = PoolingSection()
    isps: Annotated[tuple[IspSection, ...], msgspec.Meta(max_length=1000)] = ()

    @property
    def state_directory(self) -> Path:
        return Path(self.campus.state_directory)

    @property
    def status_socket(self) -> Path:
        return Path(self.campus.status_socket) if self.campus.status_socket else self.state_directory / SOCKET_NAME

    @property
    def database(self) -> str:
        return self.campus.database or str(self.state_directory / DATABASE_NAME)


def load(path: Path) -> Configuration:
    """The checked file. Raises ConfigurationError, one line, with the key."""
    configuration = load_toml(path, Configuration)
    for number, text in enumerate(configuration.campus.listen):
        try:
            listen_address(text)
        except ValueError as error:
            remedy = "write 192.0.2.1:7419 or [2001:db8::1]:7419"
            raise ConfigurationError(path, f"campus.listen[{number}]", str(error), remedy) from error
    scheme, colon, _ = configuration.campus.database.partition("://")
    if colon and scheme != "postgresql":
        raise ConfigurationError(
            path, "campus.database", f"{scheme}:// is not known", "give a path, or postgresql://user@host/name"
        )
    if not configuration.hosts.directory and not configuration.hosts.certificates:
        raise ConfigurationError(path, "hosts", "nobody is admitted", "give hosts.directory or hosts.certificates")
    return configuration


def listen_address(text: str) -> tuple[str, int]:
    """Raises ValueError."""
    host, _, port = text.rpartition(":")
    if int(port) > 65535:
        raise ValueError(f"{port} is no port")
    return str(ip_address(host.strip("[]"))), int(port)


def admitted(configuration: Configuration, path: Path) -> tuple[PeerCertificate, ...]:
    """The hosts' certificates as the files are now, each key once. Raises ConfigurationError."""
    files = [Path(name) for name in configuration.hosts.certificates]
    if directory := configuration.hosts.directory:
        try:
            files += sorted(file for file in Path(directory).iterdir() if file.suffix == ".pem")
        except OSError as error:
            raise ConfigurationError(
                path, "hosts.directory", f"{directory}: {error.strerror}", "make it, and put the hosts' node.pem there"
            ) from error
    found = {peer.fingerprint: peer for peer in map(PeerCertificate.read, files)}
    if len(found) > HOSTS_MAX:
        raise ConfigurationError(path, "hosts", f"{len(found)} certificates", f"at most {HOSTS_MAX} hosts")
    return tuple(found.values())


def known_isps(configuration: Configuration) -> dict[int, bytes]:
    """The keys of ISPs by AS number. Raises ConfigurationError."""
    return {isp.as_number: PeerCertificate.read(isp.certificate).public_key for isp in configuration.isps}
