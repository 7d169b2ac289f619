"""What is remembered of networks: names, rates, and which gateway was met there first.

Decides: whether a gateway's key is the one that we know there (trust on first use), and what is forgotten when there is
too much. Refuses to know: sockets and the clock; only `KnownFile` touches the disk.
Source: trust on first use as in RFC 4251 section 4.1 (SSH's host keys): the first meeting is believed, and seen by the
user; from then on a change is refused until a person has looked.

A gateway is trusted at the network where it was met. Several can be, where one Wi-Fi name stands for several sites.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from billpay.errors import EnvironmentFault
from hostagent.keeping import write_whole
from hostagent.networks.situation import printable

FILE_NAME: Final = "networks.json"
VERSION: Final = 1
NETWORKS_MAX: Final = 200
GATEWAYS_MAX: Final = 8  # of one network: whoever shows a new key each time fills nothing
ALIASES_MAX: Final = 8
FILE_BYTES_MAX: Final = 8 << 20


class Trust(enum.Enum):
    FIRST_USE = "first use"
    PERSON = "trusted"  # a person looked at the fingerprint
    CHANGED = "changed"  # another key than the known one: not used


class Meeting(enum.Enum):
    """What to think of a gateway that was met."""

    FIRST = "first"  # nobody was known here: used, and shown to the user
    KNOWN = "known"
    CHANGED = "changed"  # not used, until a person trusts it


class KnownGateway(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fingerprint: str
    trust: Trust
    since_unix_s: int
    last_seen_unix_s: int
    name: str = ""
    url: str = ""
    how: str = ""

    @property
    def is_used(self) -> bool:
        return self.trust is not Trust.CHANGED


class KnownNetwork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    key: str
    title: str
    kind: str
    first_seen_unix_s: int
    last_seen_unix_s: int
    aliases: tuple[str, ...] = ()
    name: str = ""  # the user's
    gateways: tuple[KnownGateway, ...] = ()
    egress_bit_s: int | None = None  # measured
    ingress_bit_s: int | None = None
    rates_unix_s: int = 0

    def gateway(self, fingerprint: str) -> KnownGateway | None:
        return next((each for each in self.gateways if each.fingerprint == fingerprint), None)


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    networks: tuple[KnownNetwork, ...]


class KnownNetworks:
    """All of them. Methods that change something say so by `is_changed`, until `KnownFile.save`."""

    def __init__(self, networks: Iterable[KnownNetwork] = ()) -> None:
        self._by_key = {each.key: each for each in networks}
        self._by_alias: dict[str, str] = {}
        self.is_changed = False
        self._bound()

    @property
    def networks(self) -> tuple[KnownNetwork, ...]:
        """The latest seen first."""
        return tuple(sorted(self._by_key.values(), key=lambda each: (-each.last_seen_unix_s, each.key)))

    def get(self, key: str) -> KnownNetwork | None:
        return self._by_key.get(self._by_alias.get(key, key))

    def canonical(self, keys: Sequence[str]) -> str:
        """Of several keys for one network, the one under which it is remembered; else the first."""
        return next((self._by_alias[each] for each in keys if each in self._by_alias), keys[0])

    def saw(self, key: str, *, aliases: Sequence[str], title: str, kind: str, now_unix_s: int) -> KnownNetwork:
        """The host is on it. Its time is kept to the minute: a look each second changes no file."""
        before = self.get(key)
        if before is None:
            now = KnownNetwork(
                key=key, title=title, kind=kind, first_seen_unix_s=now_unix_s, last_seen_unix_s=now_unix_s
            )
        else:
            is_later = now_unix_s - before.last_seen_unix_s >= 60
            now = msgspec.structs.replace(
                before, title=title, kind=kind, last_seen_unix_s=now_unix_s if is_later else before.last_seen_unix_s
            )
        others = dict.fromkeys(each for each in (*now.aliases, *aliases) if each != now.key)
        now = msgspec.structs.replace(now, title=printable(now.title), aliases=tuple(others)[-ALIASES_MAX:])
        self._put(now)
        return now

    def met(
        self, key: str, *, fingerprint: str, name: str, url: str, how: str, now_unix_s: int
    ) -> tuple[Meeting, KnownGateway]:
        """A gateway showed this key on this network, which `saw` has told. Raises KeyError otherwise."""
        network = self._network(key)
        known = network.gateway(fingerprint)
        if known is not None:
            gateway = msgspec.structs.replace(
                known, last_seen_unix_s=now_unix_s, name=printable(name), url=printable(url), how=how
            )
            meeting = Meeting.KNOWN if known.is_used else Meeting.CHANGED
        else:
            meeting = Meeting.CHANGED if any(each.is_used for each in network.gateways) else Meeting.FIRST
            gateway = KnownGateway(
                fingerprint=fingerprint,
                trust=Trust.FIRST_USE if meeting is Meeting.FIRST else Trust.CHANGED,
                since_unix_s=now_unix_s,
                last_seen_unix_s=now_unix_s,
                name=printable(name),
                url=printable(url),
                how=how,
            )
        self._put(msgspec.structs.replace(network, gateways=_bounded_gateways(network.gateways, gateway)))
        return meeting, gateway

    def trust(self, fingerprint: str, now_unix_s: int) -> tuple[str, ...]:
        """A person takes the key for the right one, wherever it was met: those networks' keys, () for nowhere.

        `fingerprint`: whole, or its first eight or more digits when only one gateway has them.
        """
        whole = self._whole(fingerprint)
        keys = []
        for network in self._by_key.copy().values():
            known = network.gateway(whole)
            if known is not None:
                trusted = msgspec.structs.replace(known, trust=Trust.PERSON, since_unix_s=now_unix_s)
                self._put(msgspec.structs.replace(network, gateways=_bounded_gateways(network.gateways, trusted)))
                keys.append(network.key)
        return tuple(keys)

    def distrust(self, fingerprint: str) -> tuple[str, ...]:
        """The key is forgotten everywhere. The next one that is met is a first one again."""
        whole = self._whole(fingerprint)
        keys = []
        for network in self._by_key.copy().values():
            rest = tuple(each for each in network.gateways if each.fingerprint != whole)
            if rest != network.gateways:
                self._put(msgspec.structs.replace(network, gateways=rest))
                keys.append(network.key)
        return tuple(keys)

    def measured(self, key: str, *, egress_bit_s: int | None, ingress_bit_s: int | None, now_unix_s: int) -> None:
        """None: not measured this time, the old value stays. Raises KeyError."""
        network = self._network(key)
        self._put(
            msgspec.structs.replace(
                network,
                egress_bit_s=network.egress_bit_s if egress_bit_s is None else egress_bit_s,
                ingress_bit_s=network.ingress_bit_s if ingress_bit_s is None else ingress_bit_s,
                rates_unix_s=now_unix_s,
            )
        )

    def call(self, key: str, name: str) -> None:
        """The user's own name for it, "" for none. Raises KeyError."""
        self._put(msgspec.structs.replace(self._network(key), name=printable(name)))

    def forget(self, key: str) -> None:
        network = self.get(key)
        if network is not None:
            del self._by_key[network.key]
            self._index()
            self.is_changed = True

    def _network(self, key: str) -> KnownNetwork:
        network = self.get(key)
        if network is None:
            raise KeyError(key)
        return network

    def _whole(self, fingerprint: str) -> str:
        wanted = fingerprint.lower().replace(":", "").replace(" ", "")
        known = {each.fingerprint for network in self._by_key.values() for each in network.gateways}
        fits = [each for each in known if each.startswith(wanted)] if len(wanted) >= 8 else []
        return fits[0] if len(fits) == 1 else wanted

    def _put(self, network: KnownNetwork) -> None:
        if self._by_key.get(network.key) != network:
            self._by_key[network.key] = network
            self.is_changed = True
            self._bound()

    def _bound(self) -> None:
        if len(self._by_key) > NETWORKS_MAX:
            latest = sorted(self._by_key.values(), key=lambda each: -each.last_seen_unix_s)[:NETWORKS_MAX]
            self._by_key = {each.key: each for each in latest}
            self.is_changed = True
        self._index()

    def _index(self) -> None:
        aliases = {alias: each.key for each in self._by_key.values() for alias in each.aliases}
        self._by_alias = aliases | {key: key for key in self._by_key}


def _bounded_gateways(known: Sequence[KnownGateway], now: KnownGateway) -> tuple[KnownGateway, ...]:
    """Refused ones go first, the oldest of them."""
    rest = [each for each in known if each.fingerprint != now.fingerprint]
    rest.sort(key=lambda each: (each.is_used, each.last_seen_unix_s))
    kept = rest[max(0, len(rest) + 1 - GATEWAYS_MAX) :]
    return tuple(sorted((*kept, now), key=lambda each: (each.since_unix_s, each.fingerprint)))


class KnownFile:
    """`networks.json` in a state directory, readable by its owner alone."""

    def __init__(self, directory: Path | str) -> None:
        self.path = Path(directory) / FILE_NAME

    def load(self) -> tuple[KnownNetworks, str]:
        """What is remembered, and one line when the file could not be used: then it is put aside, and all is new.

        Raises EnvironmentFault when it cannot be read at all.
        """
        try:
            with self.path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return KnownNetworks(), ""
        except OSError as error:
            raise EnvironmentFault("read", str(self.path), error.strerror or error) from error
        try:
            if len(data) > FILE_BYTES_MAX:
                raise msgspec.ValidationError(f"more than {FILE_BYTES_MAX} bytes")
            stored = msgspec.json.decode(data, type=_File)
            if stored.version != VERSION:
                raise msgspec.ValidationError(f"version {stored.version}, not {VERSION}")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return KnownNetworks(), self._put_aside(error)
        return KnownNetworks(stored.networks), ""

    def save(self, known: KnownNetworks) -> None:
        """Whole or not at all. Raises EnvironmentFault."""
        data = msgspec.json.format(msgspec.json.encode(_File(version=VERSION, networks=known.networks)), indent=1)
        write_whole(self.path, data)
        known.is_changed = False

    def _put_aside(self, error: Exception) -> str:
        aside = self.path.with_name(f"{self.path.name}.broken")
        try:
            os.replace(self.path, aside)
        except OSError as failure:
            raise EnvironmentFault("put aside", str(self.path), failure.strerror or failure) from failure
        return f"{self.path} could not be used ({error}); it is now {aside.name}, and every network is new"
