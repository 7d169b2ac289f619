"""The grants of `gateway.payments` where programs in the kernel take the payments: what they decide by is in maps.

Decides: a grant's number in the maps, and in which order they are written. Refuses to know: what may be opened,
replaced and forgotten (`Grants` does), and what a packet is.

A program finds the numbers of a flow's grants under its place. So a grant's terms are written before its place, and a
number serves another grant only when that one is forgotten, long after it was taken from its place. A newer document is
a new version: what came before it still counts up to that moment, at its own rate, when the next packet comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from billpay.grants import MAX_BURST_NANODOLLARS, NS_PER_S
from billpay.messages import Grant
from dataplane.ebpf.gateway_layout import (
    GRANT_TERMS,
    GRANTS_MAX,
    LINK_PLACES,
    NUMBER,
    PLACE,
    PLACE_GRANTS,
    REPLACES_NOTHING,
)
from dataplane.ebpf.libbpf import BpfObject
from dataplane.port import Counters
from gateway.payments import Grants, OpenedGrant, Place
from gateway.plan import Ceiling

SETTLE_HEADER: Final = bytes(14)
SETTLE_PADDING: Final = bytes(28)
_VERSIONS: Final = 1 << 32


@dataclass(slots=True)
class _Written:
    """What the maps say of one grant."""

    number: int
    version: int
    terms: bytearray
    admitted: Grant
    valid: bool


class KernelGrants(Grants):
    """The same grants; every change is in the maps when the call returns. `links`: their numbers, by name."""

    def __init__(
        self, counters: Counters, ceilings: Mapping[str, Ceiling], *, programs: BpfObject, links: Mapping[str, int]
    ) -> None:
        super().__init__(counters, ceilings)
        self._links = links
        self._terms = programs.map("grants")
        self._places = programs.map("places")
        self._link_places = programs.map("link_places")
        self._exact: dict[int, set[bytes]] = {number: set() for number in links.values()}
        self._places_version = 0
        self._settle = programs.program("gateway_settle")
        self._written: dict[str, _Written] = {}
        self._free = deque(range(1, GRANTS_MAX))
        self._versions = [0] * GRANTS_MAX

    @property
    def epoch(self) -> int:
        """Of the MACs that are right now."""
        return self._epoch

    def open(self, grant: Grant, link: str, *, now_ns: int) -> str | None:
        code = super().open(grant, link, now_ns=now_ns)
        if code is None:
            known = self._by_id[grant.grant]
            written = self._written.get(grant.grant)
            if written is None:
                self._write_first(known, now_ns)
                self._write_place(known)
            elif written.admitted != known.gate.grant:
                self._write_next(known, written, now_ns)
            self._write_validity(known)
        return code

    def forget(self, grant: str, link: str) -> None:
        super().forget(grant, link)
        if grant not in self._by_id and (written := self._written.pop(grant, None)) is not None:
            self._free.append(written.number)

    def on_second(self, unix_s: int) -> None:
        super().on_second(unix_s)
        for known in self._by_id.values():
            self._write_validity(known)

    def _unfile(self, known: OpenedGrant) -> None:
        super()._unfile(known)
        self._write_place(known)

    def _write_first(self, known: OpenedGrant, now_ns: int) -> None:
        """Its bucket is full."""
        number = self._free.popleft()
        terms = bytearray(GRANT_TERMS.size)
        GRANT_TERMS.write(
            terms,
            key=known.key,
            old_rate_nanodollars_per_s=REPLACES_NOTHING,
            old_burst=_burst_of(known.gate.grant),
            since_ns=now_ns,
            spent=known.spent,
            packets=known.packets,
            refused=known.refused,
        )
        written = _Written(number, 0, terms, known.gate.grant, known.valid)
        self._written[known.document.grant] = written
        self._write_version(written, known)

    def _write_next(self, known: OpenedGrant, written: _Written, now_ns: int) -> None:
        """What was before counts up to now, at its own rate: first the version before, if no packet has met it yet."""
        self._settle.test_run(SETTLE_HEADER + NUMBER.pack(written.number) + SETTLE_PADDING)
        GRANT_TERMS.write(
            written.terms,
            old_rate_nanodollars_per_s=written.admitted.rate_nanodollars_per_s,
            old_burst=_burst_of(written.admitted),
            since_ns=now_ns,
        )
        self._write_version(written, known)

    def _write_version(self, written: _Written, known: OpenedGrant) -> None:
        """A number never has the same version twice in a row, whosever it was before; 0 is nobody's."""
        admitted = known.gate.grant
        written.version = self._versions[written.number] = self._versions[written.number] % (_VERSIONS - 1) + 1
        written.admitted, written.valid = admitted, known.valid
        GRANT_TERMS.write(
            written.terms,
            cap_nanodollars=admitted.cap_nanodollars,
            rate_nanodollars_per_s=admitted.rate_nanodollars_per_s,
            burst=_burst_of(admitted),
            version=written.version,
            valid=known.valid,
            implied_nanodollars=admitted.implies_nanodollars,
        )
        self._terms.update(NUMBER.pack(written.number), bytes(written.terms))

    def _write_validity(self, known: OpenedGrant) -> None:
        written = self._written.get(known.document.grant)
        if written is not None and written.valid != known.valid:
            written.valid = known.valid
            GRANT_TERMS.write(written.terms, valid=known.valid)
            self._terms.update(NUMBER.pack(written.number), bytes(written.terms))

    def _write_place(self, known: OpenedGrant) -> None:
        filed = self._by_place.get((known.link, known.place), ())
        link = self._links[known.link]
        key = place_key(link, known.place)
        if filed:
            numbers = b"".join(NUMBER.pack(self._written[each.document.grant].number) for each in filed)
            count = NUMBER.pack(len(filed))
            self._places.update(key, (count + numbers).ljust(PLACE_GRANTS.size, b"\0"))
        else:
            self._places.delete(key)
        self._tell_of_places(link, key, is_exact=not isinstance(known.place, bytes) and bool(filed))

    def _tell_of_places(self, link: int, key: bytes, *, is_exact: bool) -> None:
        """The programs look for exact places only on a link that has some, and forget what they found there before."""
        places = self._exact[link]
        if is_exact:
            places.add(key)
        else:
            places.discard(key)
        self._places_version = self._places_version % (_VERSIONS - 1) + 1
        self._link_places.update(NUMBER.pack(link), LINK_PLACES.pack(exact=len(places), version=self._places_version))


def place_key(link: int, place: Place) -> bytes:
    """Where the programs look: under a flow, or under the source of all its flows."""
    if isinstance(place, bytes):
        return PLACE.pack(source=place, family=_family_of(place), link=link)
    return PLACE.pack(
        source=place.source,
        destination=place.destination,
        source_port=place.source_port.to_bytes(2, "big"),
        destination_port=place.destination_port.to_bytes(2, "big"),
        protocol=place.protocol,
        family=_family_of(place.source),
        exact=1,
        link=link,
    )


def _family_of(address: bytes) -> int:
    return 4 if len(address) == 4 else 6


def _burst_of(grant: Grant) -> int:
    """In nanodollar·ns, as `billpay.grants.GrantGate` has it."""
    return min(grant.burst_nanodollars, MAX_BURST_NANODOLLARS) * NS_PER_S
