"""Whether a packet is paid: the grant and the MAC at the first gateway, the neighbour's name further on.

Decides `paid` or why not; refuses to know tolls and routes. Grants are found by exact 5-tuple, then by source
address; each has its own key, and several may be open for one flow (what a host pays itself, and what it returns): the
one whose key made the MAC pays.  A MAC that was found right is remembered for the epoch (equal headers are normal
within one), so that the usual packet costs a dictionary look-up.  Source: Bill-Pay 2.4; docs/spec/wire.md, MAC.
Pure.

A closed grant stays closed, and one that has expired pays nothing; both are remembered with what was spent until the
main process, which keeps its receipt, says `forget`. So a cap is spent only once, however often its document is shown.

What a grant's packet may pay is bounded from above (docs/spec/control-api.md, "Ceilings"): by the ceilings of the
host's organisation, then by the caps that the user's secretary signed, then by what its program put in the packet.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from ipaddress import ip_address

from billpay.errors import LocalProtocolError
from billpay.grants import GrantGate, Refusal
from billpay.mac import EPOCH_SECONDS, matching_epoch
from billpay.messages import FlowSelector, Grant, GrantState, GrantUsage
from billpay.packet import FlowKey
from dataplane.port import Counters
from gateway.plan import Ceiling

MAX_GRANTS = 2000
"""For one gateway, closed ones that are not forgotten included; each takes three counters."""
MAX_GRANTS_PER_FLOW = 4
"""Each may cost a forged packet three MACs."""
MAX_REMEMBERED_MACS = 65_536


GRANT_COUNTERS = ("spent_nanodollars", "packets", "refused_packets")

Place = FlowKey | bytes
"""Where a grant is looked for: under a flow, or under the source of all its flows."""


class Unpaid(enum.Enum):
    """Why a payment is not taken; values are counter names."""

    NO_GRANT = "unpaid_no_grant"
    BAD_MAC = "unpaid_bad_mac"
    NOT_BY_NEIGHBOUR = "unpaid_not_by_neighbour"  # the neighbour let it pass unprocessed: it failed open
    IN_DEFAULT = "unpaid_in_default"
    OVER_CAP = "unpaid_over_cap"
    GRANT_NOT_VALID = "unpaid_grant_not_valid"
    NEVER_PAYS = "unpaid_never_pays"  # whatever its secretary signed
    OVER_MIRROR = "unpaid_over_mirror"  # a mirror would emit more than it took in


class OpenedGrant:
    """One grant with its counters; the sum survives a crash."""

    __slots__ = (
        "closed",
        "document",
        "gate",
        "key",
        "last_flow",
        "last_mac",
        "last_words",
        "link",
        "packets",
        "place",
        "refused",
        "spent",
        "valid",
    )

    def __init__(self, grant: Grant, link: str, counters: Counters, ceiling: Ceiling, *, now_ns: int) -> None:
        self.document = grant
        self.gate = GrantGate(ceiling.under(grant), now_ns=now_ns)
        self.key = bytes.fromhex(grant.key)
        self.link = link
        self.place = place_of(grant.flow)
        self.closed = True
        self.valid = False
        self.last_flow: FlowKey | None = None  # of the last MAC that was right in this epoch
        self.last_words = self.last_mac = b""
        self.spent = counters.index(f"grant/{grant.grant}/spent_nanodollars")
        self.packets = counters.index(f"grant/{grant.grant}/packets")
        self.refused = counters.index(f"grant/{grant.grant}/refused_packets")


class Grants:
    """The open grants of all hosts behind this gateway."""

    def __init__(self, counters: Counters, ceilings: Mapping[str, Ceiling]) -> None:
        self._counters = counters
        self._ceilings = ceilings  # by link
        self._by_id: dict[str, OpenedGrant] = {}
        self._by_place: dict[tuple[str, Place], tuple[OpenedGrant, ...]] = {}
        self._right_macs: dict[tuple[bytes, FlowKey, bytes, bytes], None] = {}
        self._implying: set[str] = set()
        self._epoch = 0
        self._unix_s = 0

    def __len__(self) -> int:
        return sum(not known.closed for known in self._by_id.values())

    @property
    def imply(self) -> bool:
        """Whether some packets without a header pay."""
        return bool(self._implying)

    # --- for the control API ----------------------------------------------------------------------------------------

    def open(self, grant: Grant, link: str, *, now_ns: int) -> str | None:
        """Opens, or replaces by a higher serial; gives a refusal's code, or None.

        The same document twice is no fault: the first answer may have been lost.
        """
        ceiling = self._ceilings[link]
        known = self._by_id.get(grant.grant)
        if known is None:
            if not self._has_place(link, place_of(grant.flow)) or len(self._by_id) >= MAX_GRANTS:
                return "too-many-grants"
            try:
                known = self._by_id[grant.grant] = OpenedGrant(grant, link, self._counters, ceiling, now_ns=now_ns)
            except LocalProtocolError:  # no counter is free
                self._release(grant.grant)
                return "too-many-grants"
            self._file(known)
        elif known.link != link:
            return "foreign-grant"
        elif known.closed:
            return "grant-closed"
        elif known.document != grant:
            refusal = known.gate.replace(ceiling.under(grant), now_ns=now_ns)
            if refusal is not None:
                return refusal.value
            known.document = grant
        if known.gate.grant.implies_nanodollars:
            self._implying.add(grant.grant)
        known.valid = known.gate.validity(self._unix_s) is None
        return None

    def remember_closed(self, grant: Grant, link: str, *, now_ns: int) -> None:
        """One that a predecessor was about to close."""
        if grant.grant not in self._by_id:
            ceiling = self._ceilings[link]
            self._by_id[grant.grant] = OpenedGrant(grant, link, self._counters, ceiling, now_ns=now_ns)

    def close(self, grant: str, link: str) -> GrantUsage | None:
        """For ever; again, it says the same again."""
        known = self._by_id.get(grant)
        if known is not None and known.link == link:
            self._unfile(known)
        return self.usage(grant, link)

    def forget(self, grant: str, link: str) -> None:
        """A closed one, or one that is not known. An open one is closed first: nothing is spent after its receipt."""
        known = self._by_id.get(grant)
        if known is not None and (known.link != link or not known.closed):
            return
        self._by_id.pop(grant, None)
        self._release(grant)

    def _release(self, grant: str) -> None:
        for name in GRANT_COUNTERS:
            self._counters.release(f"grant/{grant}/{name}")

    def usage(self, grant: str, link: str) -> GrantUsage | None:
        """None: the host behind `link` has no such grant here."""
        known = self._by_id.get(grant)
        if known is None or known.link != link:
            return None
        spent = self._counters.value(known.spent)
        if known.closed:
            state = GrantState.CLOSED
        elif not known.valid:
            state = GrantState.EXPIRED
        else:
            state = GrantState.EXHAUSTED if spent >= known.gate.grant.cap_nanodollars else GrantState.OPEN
        return GrantUsage(
            grant=grant,
            serial=known.gate.grant.serial,
            state=state,
            spent_nanodollars=spent,
            packets=self._counters.value(known.packets),
            refused_packets=self._counters.value(known.refused),
        )

    def on_second(self, unix_s: int) -> None:
        """Validity of every grant, and the epoch."""
        self._unix_s = max(unix_s, self._unix_s)
        epoch = self._unix_s // EPOCH_SECONDS
        if epoch != self._epoch:
            self._epoch = epoch
            self._right_macs.clear()
            for known in self._by_id.values():
                known.last_mac = b""
        for known in self._by_id.values():
            known.valid = known.gate.validity(self._unix_s) is None

    def _has_place(self, link: str, place: Place) -> bool:
        return len(self._by_place.get((link, place), ())) < MAX_GRANTS_PER_FLOW

    def _file(self, known: OpenedGrant) -> None:
        key = known.link, known.place
        self._by_place[key] = (*self._by_place.get(key, ()), known)
        known.closed = False

    def _unfile(self, known: OpenedGrant) -> None:
        key = known.link, known.place
        left = tuple(other for other in self._by_place.get(key, ()) if other is not known)
        if left:
            self._by_place[key] = left
        else:
            self._by_place.pop(key, None)
        known.closed = True
        self._implying.discard(known.document.grant)

    # --- on the packet path -----------------------------------------------------------------------------------------

    def take(
        self,
        link: str,
        flow: FlowKey,
        words: bytes,
        mac: bytes,
        amount_nanodollars: int,
        now_ns: int,
        *,
        room_nanodollars: int | None = None,
        packets: int = 1,
    ) -> Unpaid | None:
        """Takes the payment of each of the packets from one of the flow's grants; None: they are paid.
        `room_nanodollars`: what a mirror may emit.
        """
        exact, wide = self._by_place.get((link, flow)), self._by_place.get((link, flow[0]))
        candidates = exact + wide if exact and wide else exact or wide or ()
        for known in candidates:
            if self._made_by(known, flow, words, mac):
                return self.take_from(
                    known, amount_nanodollars, now_ns, room_nanodollars=room_nanodollars, packets=packets
                )
        if not candidates:
            return Unpaid.NO_GRANT
        self._counters.add(candidates[0].refused, packets)
        return Unpaid.BAD_MAC

    def implying(self, link: str, flow: FlowKey) -> OpenedGrant | None:
        """The grant that pays for packets of this flow without a header."""
        for place in (flow, flow[0]):
            for known in self._by_place.get((link, place), ()):
                if known.gate.grant.implies_nanodollars:
                    return known
        return None

    def take_from(
        self,
        known: OpenedGrant,
        amount_nanodollars: int,
        now_ns: int,
        *,
        room_nanodollars: int | None,
        packets: int,
    ) -> Unpaid | None:
        """Takes the payment of each of the packets from this grant, whose caps decide."""
        add, total_nanodollars = self._counters.add, amount_nanodollars * packets
        if room_nanodollars is not None and total_nanodollars > room_nanodollars:
            reason: Unpaid | None = Unpaid.OVER_MIRROR
        else:
            reason = self._refusal(known, total_nanodollars, now_ns)
        if reason is not None:
            add(known.refused, packets)
            return reason
        add(known.spent, total_nanodollars)
        add(known.packets, packets)
        return None

    def _made_by(self, known: OpenedGrant, flow: FlowKey, words: bytes, mac: bytes) -> bool:
        if mac == known.last_mac and words == known.last_words and flow == known.last_flow:
            return True  # equal headers one after another are what a flow sends
        remembered = (known.key, flow, words, mac)
        if remembered in self._right_macs:
            known.last_flow, known.last_words, known.last_mac = flow, words, mac
            return True
        if matching_epoch(known.key, flow, self._epoch, words, mac) is None:
            return False
        if len(self._right_macs) >= MAX_REMEMBERED_MACS:
            self._right_macs.clear()
        self._right_macs[remembered] = None
        return True

    def _refusal(self, known: OpenedGrant, amount_nanodollars: int, now_ns: int) -> Unpaid | None:
        if not known.valid:
            return Unpaid.GRANT_NOT_VALID
        spent = self._counters.value(known.spent)
        refusal = known.gate.admit(amount_nanodollars, spent_nanodollars=spent, now_ns=now_ns)
        return Unpaid.OVER_CAP if refusal in (Refusal.OVER_SUM, Refusal.OVER_RATE) else None


def place_of(selector: FlowSelector) -> Place:
    """The 5-tuple that a selector with a destination names; else its source address."""
    source = ip_address(selector.source).packed
    if not selector.destination:
        return source
    return FlowKey(
        source,
        ip_address(selector.destination).packed,
        selector.protocol,
        selector.source_port,
        selector.destination_port,
    )
