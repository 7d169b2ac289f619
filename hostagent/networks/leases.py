"""What a network said about itself by DHCP or router advertisements, as the machine's own clients wrote it down.

Decides: which file speaks of which interface, and that a lease counts only while its address is ours: clients keep the
leases of networks that they have left. Refuses to know: what follows for metering and gateways.
Source: RFC 2132 (options), RFC 3942 (options 224 to 254 are a site's own); systemd-networkd's files in
/run/systemd/netif; dhclient.leases(5). NetworkManager tells the same over D-Bus (`hostagent.networks.network_manager`).

A site names its gateway in option 224 with the text "billpay ADDRESS" or "billpay ADDRESS:PORT".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

GATEWAY_OPTION: Final = 224
GATEWAY_PORT: Final = 7414
ANDROID_METERED: Final = b"ANDROID_METERED"
"""What a phone that shares its mobile connection says in option 43."""

_FILE_BYTES_MAX: Final = 256 * 1024
_FILES_MAX: Final = 32
_DHCLIENT_PLACES: Final = ("var/lib/dhcp", "var/lib/dhclient", "var/lib/NetworkManager", "run")
_LEASE: Final = re.compile(r"^lease6? \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_STATEMENT: Final = re.compile(r'^ *(?:option +)?([\w.-]+) +("[^"]*"|[^;"]*);', re.MULTILINE)
_OCTETS: Final = re.compile(r"[0-9a-f]{1,2}(:[0-9a-f]{1,2})+", re.IGNORECASE)
_DOMAIN: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    source: str = ""  # "systemd-networkd", "dhclient", "NetworkManager"
    domains: tuple[str, ...] = ()
    name_servers: tuple[str, ...] = ()
    is_android_metered: bool = False
    gateway: tuple[str, int] | None = None  # address and port, as option 224 has them


NO_LEASE: Final = Lease()


def read_lease(*, interface: str, index: int, addresses: Iterable[str], root: Path = Path("/")) -> Lease:
    """What the files say; NO_LEASE without any."""
    ours = frozenset(addresses)
    networkd = _networkd(root, index, ours)
    return networkd if networkd != NO_LEASE else _dhclient(root, interface, ours)


def read_networkd(lease_text: str, link_text: str, addresses: frozenset[str]) -> Lease:
    """`lease_text`: netif/leases/INDEX. `link_text`: netif/links/INDEX, which has router advertisements' words too."""
    lease, link = _assignments(lease_text), _assignments(link_text)
    if lease.get("ADDRESS") not in addresses:
        lease = {}
    domains = f"{lease.get('DOMAINNAME', '')} {link.get('DOMAINS', '')}"
    servers = f"{lease.get('DNS', '')} {link.get('DNS', '')}"
    found = Lease(
        domains=domains_of(domains.split()),
        name_servers=addresses_of(servers.split()),
        is_android_metered=ANDROID_METERED in _hexadecimal(lease.get("VENDOR_SPECIFIC", "")),
        gateway=gateway_of(_hexadecimal(lease.get(f"OPTION_{GATEWAY_OPTION}", ""))),
    )
    return found if found == NO_LEASE else replace(found, source="systemd-networkd")


def read_dhclient(text: str, interface: str, addresses: frozenset[str]) -> Lease:
    """The last lease of the interface counts: the client appends."""
    for block in reversed(_LEASE.findall(text)):
        options: dict[str, str] = dict(_STATEMENT.findall(block))
        if _plain(options.get("interface", "")) == interface and options.get("fixed-address") in addresses:
            option = options.get(f"unknown-{GATEWAY_OPTION}", options.get(f"option-{GATEWAY_OPTION}", ""))
            return Lease(
                source="dhclient",
                domains=domains_of(_plain(options.get("domain-name", "")).split()),
                name_servers=addresses_of(options.get("domain-name-servers", "").replace(",", " ").split()),
                is_android_metered=ANDROID_METERED in octets_of(options.get("vendor-encapsulated-options", "")),
                gateway=gateway_of(octets_of(option)),
            )
    return NO_LEASE


def gateway_of(data: bytes) -> tuple[str, int] | None:
    """The text of option 224; None for what somebody else uses it for."""
    words = data.decode("ascii", "replace").strip("\0 ").split()
    if len(words) != 2 or words[0] != "billpay":
        return None
    host, port = words[1], str(GATEWAY_PORT)
    if host.startswith("["):
        host, _, rest = host[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    try:
        address, number = ip_address(host), int(port)
    except ValueError:
        return None
    return (str(address), number) if 0 < number < 65_536 else None


def octets_of(text: str) -> bytes:
    """A DHCP client's way of writing an option: text in quotes, or octets with colons."""
    text = text.strip()
    if _OCTETS.fullmatch(text):
        return bytes(int(each, 16) for each in text.split(":"))
    return _plain(text).encode()


def domains_of(words: Iterable[str]) -> tuple[str, ...]:
    """Domain names, without a search list's "~" and without what is none."""
    names = [word.removeprefix("~").rstrip(".").lower() for word in words]
    return tuple(dict.fromkeys(name for name in names if len(name) <= 200 and _DOMAIN.fullmatch(name)))


def addresses_of(words: Iterable[str]) -> tuple[str, ...]:
    """IP addresses, without a name and port that some clients write behind them."""
    found: dict[str, None] = {}
    for word in words:
        try:
            address = ip_address(word.partition("#")[0])
        except ValueError:
            continue
        scope = f"%{address.scope_id}" if isinstance(address, IPv6Address) and address.scope_id else ""
        found[str(address).partition("%")[0] + scope] = None
    return tuple(found)


def _networkd(root: Path, index: int, addresses: frozenset[str]) -> Lease:
    base = root / "run/systemd/netif"
    return read_networkd(_text(base / f"leases/{index}"), _text(base / f"links/{index}"), addresses)


def _dhclient(root: Path, interface: str, addresses: frozenset[str]) -> Lease:
    for place in _DHCLIENT_PLACES:
        try:
            paths = sorted((root / place).glob("dhclient*.lease*"))[:_FILES_MAX]
        except OSError:
            continue
        for path in paths:
            lease = read_dhclient(_text(path), interface, addresses)
            if lease != NO_LEASE:
                return lease
    return NO_LEASE


def _assignments(text: str) -> Mapping[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: value.strip('"') for name, equals, value in pairs if equals}


def _hexadecimal(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _plain(text: str) -> str:
    return text.strip().strip('"')


def _text(path: Path) -> str:
    """Of a file that grows for ever, its end."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _FILE_BYTES_MAX))
            return file.read(_FILE_BYTES_MAX).decode("utf-8", "replace")
    except OSError:
        return ""
