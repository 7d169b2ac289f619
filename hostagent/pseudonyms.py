"""Takes out of a report what it says about people: the same address or name is the same pseudonym all through it.

Decides: what is private in a text and in our own JSON, and what stands for it. Refuses to know: where it comes from.
Pure: the key is drawn by the caller, for one report, and thrown away with it; without it no pseudonym leads back.

A string in JSON is private unless its key is known to hold our own words: what is added to the API later is left out
until somebody looks. Our own words are searched for addresses, homes and the names that were private elsewhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

DIGITS: Final = 6
NAME_CHARACTERS_MIN: Final = 3
"""A shorter name is part of too many words; it is still replaced where it stands alone in a private place."""

OUR_WORDS: Final = frozenset(
    """
    ability answer because cause code condition connectivity consequence currency decision detail direction
    engine engine_reason fingerprint flow health how message metered_because mode month payments_engine
    payments_engine_reason period protocol question rate_source reason rejected remedy secretary socket source state
    state_directory strategy term text together trust version what why
    """.split()  # noqa: SIM905 - one word after the other is easier to keep in order
)
"""Keys whose strings we wrote ourselves."""

SECRET: Final = re.compile(r"secret_|password|passphrase|token|private|(^|_)key$", re.IGNORECASE)
REMOVED: Final = "(removed)"

_MAC: Final = re.compile(r"(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?![0-9A-Fa-f:])")
_IPV4: Final = re.compile(r"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9])")
_IPV6: Final = re.compile(r"(?<![0-9A-Za-z:.])(?=[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:)[0-9A-Fa-f:.]{2,45}(?![0-9A-Za-z])")
_LONG_HEX: Final = re.compile(r"(?<![0-9A-Za-z])[0-9a-fA-F]{16,}(?![0-9A-Za-z])")
_HOME: Final = re.compile(r"(/home/|/root/|/run/user/|/Users/)[^\s:;,'\"()]+")
_ORDINARY_INTERFACE: Final = re.compile(
    r"(lo|eth\d+|eno\d+|ens\d+\w{0,4}|enp\d+\w{1,8}|wlan\d+|wlp\d+\w{1,8}|wwan\d+|tun\d+|wg\d+|docker0|br\d+|ha-ifb\w*)"
)


class Pseudonyms:
    """`names`: private ones that may stand anywhere in a text. `words`: never private (the kinds that we ship)."""

    def __init__(self, key: bytes, *, names: Iterable[str] = (), words: Iterable[str] = ()) -> None:
        self._key = key
        self._words = frozenset(words)
        self._names: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.learn(names)

    def learn(self, names: Iterable[str]) -> None:
        """Names that were found in a private place are looked for in every text from now on."""
        new = {name for name in names if len(name) >= NAME_CHARACTERS_MIN and not self._is_public(name)}
        if new <= self._names:
            return
        self._names |= new
        longest_first = sorted(self._names, key=lambda name: (-len(name), name))
        self._pattern = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in longest_first))

    def name(self, text: str) -> str:
        """Of a whole string that is private. Addresses in it keep their place, so that a flow stays a flow."""
        if not text or self._is_public(text):
            return text
        scrubbed = self._addresses(text)
        return scrubbed if _only_addresses(text) else self._stand_in("name", text)

    def text(self, text: str) -> str:
        """Our own words, without what they quote."""
        text = _HOME.sub(lambda found: f"{found[1]}{self._stand_in('path', found[0])}", text)
        if self._pattern is not None:
            text = self._pattern.sub(lambda found: self._stand_in("name", found[0]), text)
        return _LONG_HEX.sub(lambda found: self._stand_in("hex", found[0].lower()), self._addresses(text))

    def value(self, value: Any, key: str = "text") -> Any:
        """A text of ours, or JSON: the same with all that is private replaced, once `private_in` was learnt."""
        if isinstance(value, Mapping):
            return {name: REMOVED if SECRET.search(name) else self.value(part, name) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(part, key) for part in value]
        if isinstance(value, str):
            return self.text(value) if key in OUR_WORDS else self.name(value)
        return value

    def _addresses(self, text: str) -> str:
        text = _MAC.sub(lambda found: self._stand_in("mac", found[0].lower()), text)
        text = _IPV6.sub(lambda found: self._address(found[0]), text)
        return _IPV4.sub(lambda found: self._address(found[0]), text)

    def _address(self, text: str) -> str:
        stem = text.rstrip(":.")  # the end of a sentence, or the colon before it goes on
        for candidate in (text, stem):
            try:
                found = ip_address(candidate)
            except ValueError:
                continue
            return self._address_stand_in(found) + text[len(candidate) :]
        return text

    def _address_stand_in(self, found: IPv4Address | IPv6Address) -> str:
        if found.is_loopback or found.is_unspecified or found.is_multicast:
            return str(found)
        scope = "link" if found.is_link_local else "private" if found.is_private else "public"
        return self._stand_in(f"{scope}{found.version}", str(found))

    def _stand_in(self, kind: str, text: str) -> str:
        digest = hashlib.blake2b(text.encode(errors="surrogateescape"), key=self._key, digest_size=8).hexdigest()
        return f"{kind}-{digest[:DIGITS]}"

    def _is_public(self, text: str) -> bool:
        return text in self._words or bool(_ORDINARY_INTERFACE.fullmatch(text))


def without_secrets(value: Any) -> Any:
    """All of it but what a key calls secret."""
    if isinstance(value, Mapping):
        return {name: REMOVED if SECRET.search(name) else without_secrets(part) for name, part in value.items()}
    return [without_secrets(part) for part in value] if isinstance(value, list | tuple) else value


def private_in(value: Any, key: str = "text") -> Iterator[str]:
    """Every string of a private place, and the file name of a path."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from private_in(part, name)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from private_in(part, key)
    elif isinstance(value, str) and value and key not in OUR_WORDS and not _only_addresses(value):
        yield value
        if "/" in value:
            yield value.rpartition("/")[2]


def _only_addresses(text: str) -> bool:
    """An address, a prefix, or one with a port, in brackets or not: nothing else is in it."""
    rest = _IPV4.sub("", _IPV6.sub("", _MAC.sub("", text)))
    return rest != text and not re.search(r"[A-Za-z]", rest)
