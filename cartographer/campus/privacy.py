"""What hosts tell each other of paths, and what they never do: all rules in one place.

Decides: how a destination becomes a prefix, which prefixes may be spoken of at all, how coarse times are, and from how
many hosts on something is shown. Refuses to know: who asks and what is measured. Source: BP-32 ("no destinations
beyond prefix"); RFC 6177 (a site has a /48); k-anonymity, Sweeney 2002. docs/explanation/privacy-of-paths.md says it
for people. Pure.

The rules:

1. A destination is only ever spoken of as the prefix that holds it: IPv4 /24, IPv6 /48, or wider. Narrower ones are
   refused by the server, whoever sends them.
2. No program, no user, no port, no single packet: sums over at least five minutes.
3. No time is finer than five minutes; what is older than the service's memory is deleted.
4. Nobody is told of a prefix before enough *other* hosts have reported on it. Findings about ISPs obey the same rule.
5. Who reported is stored under a pseudonym that only this server's key makes.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from billpay.errors import RemoteProtocolError

IPV4_BITS_MAX: Final = 24
IPV6_BITS_MAX: Final = 48
PERIOD_S: Final = 300
HOSTS_MIN: Final = 3
"""Other hosts that must have reported on a prefix before anybody is told of it."""


@lru_cache(maxsize=8192)
def prefix_of(destination: str) -> str | None:
    """The prefix that stands for an address (or a prefix that a pool says); None: it is no place to speak of."""
    try:
        network = ip_network(destination, strict=False)
    except ValueError:
        return None
    if not is_place(network):
        return None
    bits = IPV4_BITS_MAX if network.version == 4 else IPV6_BITS_MAX
    return str(network if network.prefixlen <= bits else network.supernet(new_prefix=bits))


@lru_cache(maxsize=4096)
def checked_prefix(text: str) -> str:
    """The same text. Raises RemoteProtocolError `narrow-prefix` or `bad-prefix`."""
    try:
        network = ip_network(text)
    except ValueError as error:
        raise RemoteProtocolError("bad-prefix", str(error)) from error
    bits = IPV4_BITS_MAX if network.version == 4 else IPV6_BITS_MAX
    if network.prefixlen > bits:
        raise RemoteProtocolError("narrow-prefix", f"a prefix of IPv{network.version} has at most {bits} bits here")
    if str(network) != text or not is_place(network):
        raise RemoteProtocolError("bad-prefix", f"{text} is not a place, or not written as {network}")
    return text


def is_place(network: IPv4Network | IPv6Network) -> bool:
    """Somewhere that a path leads to: no multicast, loopback or link-local addresses, which mean another host each."""
    start = network.network_address
    nothing = start.is_unspecified and network.prefixlen > 0  # 0.0.0.0/0 is everything
    return not (start.is_multicast or start.is_loopback or start.is_link_local or nothing)


def pseudonym_of(fingerprint: str, secret: bytes) -> str:
    """Under which a host is stored. `secret`: 32 to 64 bytes that never leave the server."""
    return hashlib.blake2b(fingerprint.encode(), key=secret, digest_size=16).hexdigest()
