"""What ISPs publish about themselves, and which ISP was seen behind which alternative.

Decides which description of an alternative holds: the newest serial of whoever described it first, until it expires or
is withdrawn.  An alternative is withdrawn by `available = false`, a whole description by being left out of what its
issuer publishes later.  Refuses to know who may sign for an AS (the caller has verified that) and what is measured
(map).  All sizes are bounded: an ISP can write any AS number.  Source: Bill-Pay 2.2.  Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import pairwise

from billpay.header import Slot
from billpay.messages import OadAlternative, OadDescription
from cartographer.remembered import RememberedDescription, RememberedLink

HERE = 0  # the AS number of our own host in a link: none has it
DESTINATION = 0  # what is behind the last ISP
_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A verified description as it is held."""

    prefix: IPv4Network | IPv6Network
    message: OadDescription
    learned_ns: int
    expires_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Behind alternative `alternative` of AS `as_number` packets met AS `following`; 0: the destination, or we."""

    as_number: int
    alternative: int
    following: int
    seen_ns: int


class Topology:
    """One for each host: it is about ISPs, whoever is behind them."""

    def __init__(self, *, max_descriptions: int, max_links: int) -> None:
        self._max_descriptions = max_descriptions
        self._max_links = max_links
        self._descriptions: dict[tuple[int, str], Description] = {}
        self._by_as: dict[int, list[Description]] = {}
        self._links: dict[tuple[int, int, int], int] = {}  # the longest unseen first
        self._next_expiry_ns: int | None = None
        self.version = 0  # grows when a description comes, changes or goes

    # --- descriptions ------------------------------------------------------------------------------------------------

    def on_description(self, description: OadDescription, *, now_unix_s: int, now_ns: int) -> bool:
        """Keeps a verified description; False for an old, expired or unreadable one, or another issuer's.

        Whoever described an AS first stays its describer until that expires: a second one is a mistake or an attack.
        """
        self.drop_expired(now_ns)
        try:
            prefix = ip_network(description.prefix)
        except ValueError:
            return False
        left_s = description.expires_unix_s - now_unix_s
        if left_s <= 0:
            return False
        key = (description.as_number, str(prefix))
        held = self._descriptions.get(key)
        if held is not None:
            older = description.serial <= held.message.serial
            if older or description.issuer != held.message.issuer:
                return False
        elif len(self._descriptions) >= self._max_descriptions:
            return False
        self._descriptions[key] = Description(
            prefix=prefix, message=description, learned_ns=now_ns, expires_ns=now_ns + left_s * _S
        )
        self._index()
        return True

    def on_withdrawn(self, issuer: str, as_number: int, prefix: str) -> bool:
        """The issuer takes a description back; False if it is not its own or not held."""
        try:
            key = (as_number, str(ip_network(prefix)))
        except ValueError:
            return False
        held = self._descriptions.get(key)
        if held is None or held.message.issuer != issuer:
            return False
        del self._descriptions[key]
        self._index()
        return True

    def on_published(self, issuer: str, as_number: int, prefixes: Collection[str]) -> int:
        """All that an issuer publishes now: what it does not mention any more is withdrawn. How many those were."""
        kept = {str(ip_network(prefix)) for prefix in prefixes}
        gone = [
            key
            for key, held in self._descriptions.items()
            if key[0] == as_number and held.message.issuer == issuer and key[1] not in kept
        ]
        for key in gone:
            del self._descriptions[key]
        if gone:
            self._index()
        return len(gone)

    def drop_expired(self, now_ns: int) -> None:
        if self._next_expiry_ns is None or now_ns < self._next_expiry_ns:
            return
        self._descriptions = {key: held for key, held in self._descriptions.items() if held.expires_ns > now_ns}
        self._index()

    def promises(self, destination: str, as_number: int, now_ns: int) -> dict[int, OadAlternative]:
        """What the ISP's description with the longest matching prefix says."""
        held = self.description_of(destination, as_number, now_ns)
        return {} if held is None else {item.number: item for item in held.message.alternatives}

    def description_of(self, destination: str, as_number: int, now_ns: int) -> Description | None:
        self.drop_expired(now_ns)
        described = self._by_as.get(as_number)
        address = address_of(destination) if described else None
        if not described or address is None:
            return None
        for held in described:
            if address.version == held.prefix.version and address in held.prefix:
                return held
        return None

    def descriptions(self) -> tuple[Description, ...]:
        """All that hold."""
        return tuple(self._descriptions.values())

    def _index(self) -> None:
        """By AS, the longest prefix first."""
        self.version += 1
        self._by_as = {}
        for held in sorted(self._descriptions.values(), key=lambda held: -held.prefix.prefixlen):
            self._by_as.setdefault(held.message.as_number, []).append(held)
        self._next_expiry_ns = min((held.expires_ns for held in self._descriptions.values()), default=None)

    # --- who is behind whom ------------------------------------------------------------------------------------------

    def on_path(self, slots: Iterable[Slot], now_ns: int) -> None:
        """Packets met these ISPs one after the other."""
        path = list(slots)
        if not path:
            return
        self._see((HERE, 0, path[0].as_number), now_ns)
        for slot, following in pairwise(path):
            self._see((slot.as_number, slot.choice, following.as_number), now_ns)
        self._see((path[-1].as_number, path[-1].choice, DESTINATION), now_ns)

    def _see(self, link: tuple[int, int, int], now_ns: int) -> None:
        self._links.pop(link, None)
        while len(self._links) >= self._max_links:
            del self._links[next(iter(self._links))]
        self._links[link] = now_ns

    def links(self) -> tuple[Link, ...]:
        return tuple(
            Link(as_number=as_number, alternative=alternative, following=following, seen_ns=seen_ns)
            for (as_number, alternative, following), seen_ns in self._links.items()
        )

    # --- over restarts -----------------------------------------------------------------------------------------------

    def remembered(self, now_ns: int) -> tuple[tuple[RememberedDescription, ...], tuple[RememberedLink, ...]]:
        descriptions = tuple(
            RememberedDescription(
                description=held.message,
                age_ns=now_ns - held.learned_ns,
                left_ns=held.expires_ns - now_ns,
            )
            for held in self._descriptions.values()
            if held.expires_ns > now_ns
        )
        links = tuple(
            RememberedLink(as_number=key[0], alternative=key[1], following=key[2], age_ns=max(0, now_ns - seen_ns))
            for key, seen_ns in self._links.items()
        )
        return descriptions, links

    def recall(
        self, descriptions: Iterable[RememberedDescription], links: Iterable[RememberedLink], now_ns: int
    ) -> None:
        """What was known before; whatever is known already is newer and stays."""
        for item in descriptions:
            key = (item.description.as_number, item.description.prefix)
            if item.left_ns <= 0 or key in self._descriptions or len(self._descriptions) >= self._max_descriptions:
                continue
            try:
                prefix = ip_network(item.description.prefix)
            except ValueError:
                continue
            self._descriptions[key] = Description(
                prefix=prefix,
                message=item.description,
                learned_ns=now_ns - item.age_ns,
                expires_ns=now_ns + item.left_ns,
            )
        self._index()
        for link in links:
            key3 = (link.as_number, link.alternative, link.following)
            if key3 not in self._links:
                self._see(key3, now_ns - link.age_ns)


@lru_cache(maxsize=16_384)
def address_of(destination: str) -> IPv4Address | IPv6Address | None:
    """None for a destination that is no address: nothing is published about names."""
    try:
        return ip_address(destination)
    except ValueError:
        return None
