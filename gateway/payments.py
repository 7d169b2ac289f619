"""Whether a packet is paid: the grant and the MAC at the first gateway, the neighbour's name further on.

Decides `paid` or why not; refuses to know tolls and routes. Grants are found by exact 5-tuple, else by source
address; each has its own key.  A MAC that was found right is remembered for the epoch (equal headers are normal
within one), so that the usual packet costs a dictionary look-up.  Source: Bill-Pay 2.4; docs/spec/wire.md, MAC.
Pure.
"""

from __future__ import annotations

import enum
from ipaddress import ip_address

from billpay.grants import GrantGate, Refusal
from billpay.mac import EPOCH_SECONDS, matching_epoch
from billpay.messages import FlowSelector, Grant, GrantState, GrantUsage
from billpay.packet import FlowKey
from dataplane.port import Counters

MAX_GRANTS = 2000
"""For one gateway; each open one takes three counters."""
MAX_REMEMBERED_MACS = 65_536


class Unpaid(enum.Enum):
    """Why a payment is not taken; values are counter names."""

    NO_GRANT = "unpaid_no_grant"
    BAD_MAC = "unpaid_bad_mac"
    NOT_BY_NEIGHBOUR = "unpaid_not_by_neighbour"  # the neighbour let it pass unprocessed: it failed open
    IN_DEFAULT = "unpaid_in_default"
    OVER_CAP = "unpaid_over_cap"
    GRANT_NOT_VALID = "unpaid_grant_not_valid"


class OpenedGrant:
    """One open grant with its counters; the sum survives a crash."""

    __slots__ = ("gate", "key", "link", "packets", "refused", "spent", "valid")

    def __init__(self, grant: Grant, link: str, counters: Counters, *, now_ns: int) -> None:
        self.gate = GrantGate(grant, now_ns=now_ns)
        self.key = bytes.fromhex(grant.key)
        self.link = link
        self.valid = False
        self.spent = counters.index(f"grant/{grant.grant}/spent_nanodollars")
        self.packets = counters.index(f"grant/{grant.grant}/packets")
        self.refused = counters.index(f"grant/{grant.grant}/refused_packets")


class Grants:
    """The open grants of all hosts behind this gateway."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._by_id: dict[str, OpenedGrant] = {}
        self._by_flow: dict[tuple[str, FlowKey], OpenedGrant] = {}
        self._by_source: dict[tuple[str, bytes], OpenedGrant] = {}
        self._right_macs: dict[tuple[bytes, FlowKey, bytes, bytes], None] = {}
        self._epoch = 0
        self._unix_s = 0

    def __len__(self) -> int:
        return len(self._by_id)

    # --- for the control API ----------------------------------------------------------------------------------------

    def open(self, grant: Grant, link: str, *, now_ns: int) -> str | None:
        """Opens or replaces; gives a refusal's code, or None."""
        known = self._by_id.get(grant.grant)
        if known is not None:
            if known.link != link:
                return "foreign-grant"
            refusal = known.gate.replace(grant, now_ns=now_ns)
            if refusal is not None:
                return refusal.value
        elif len(self._by_id) >= MAX_GRANTS:
            return "too-many-grants"
        else:
            known = OpenedGrant(grant, link, self._counters, now_ns=now_ns)
            self._by_id[grant.grant] = known
            self._file(known)
        known.valid = known.gate.validity(self._unix_s) is None
        return None

    def close(self, grant: str, link: str) -> GrantUsage | None:
        known = self._by_id.get(grant)
        usage = self.usage(grant, link, state=GrantState.CLOSED)
        if known is not None and usage is not None:
            self._forget(known)
        return usage

    def usage(self, grant: str, link: str, *, state: GrantState | None = None) -> GrantUsage | None:
        """None: the host behind `link` has no such grant open."""
        known = self._by_id.get(grant)
        if known is None or known.link != link:
            return None
        spent = self._counters.value(known.spent)
        if state is None:
            exhausted = spent >= known.gate.grant.cap_nanodollars
            state = GrantState.EXPIRED if not known.valid else GrantState.EXHAUSTED if exhausted else GrantState.OPEN
        return GrantUsage(
            grant=grant,
            serial=known.gate.grant.serial,
            state=state,
            spent_nanodollars=spent,
            packets=self._counters.value(known.packets),
            refused_packets=self._counters.value(known.refused),
        )

    def on_second(self, unix_s: int) -> None:
        """Validity of every grant, the epoch; a grant that expired two epochs ago is forgotten."""
        self._unix_s = max(unix_s, self._unix_s)
        epoch = self._unix_s // EPOCH_SECONDS
        if epoch != self._epoch:
            self._epoch = epoch
            self._right_macs.clear()
        for known in list(self._by_id.values()):
            known.valid = known.gate.validity(self._unix_s) is None
            if self._unix_s > known.gate.grant.expires_unix_s + 2 * EPOCH_SECONDS:
                self._forget(known)

    def _file(self, known: OpenedGrant) -> None:
        flow = known.gate.grant.flow
        source = ip_address(flow.source).packed
        if flow.destination:
            self._by_flow[known.link, exact_key(flow)] = known
        else:
            self._by_source[known.link, source] = known

    def _forget(self, known: OpenedGrant) -> None:
        grant = known.gate.grant
        del self._by_id[grant.grant]
        source = (known.link, ip_address(grant.flow.source).packed)
        if self._by_source.get(source) is known:
            del self._by_source[source]
        if grant.flow.destination and self._by_flow.get((known.link, exact_key(grant.flow))) is known:
            del self._by_flow[known.link, exact_key(grant.flow)]
        for name in ("spent_nanodollars", "packets", "refused_packets"):
            self._counters.release(f"grant/{grant.grant}/{name}")

    # --- on the packet path -----------------------------------------------------------------------------------------

    def take(
        self, link: str, flow: FlowKey, words: bytes, mac: bytes, amount_nanodollars: int, now_ns: int
    ) -> Unpaid | None:
        """Takes the payment from the flow's grant; None: it is paid."""
        known = self._by_flow.get((link, flow)) or self._by_source.get((link, flow[0]))
        if known is None:
            return Unpaid.NO_GRANT
        reason = self._refusal(known, flow, words, mac, amount_nanodollars, now_ns)
        add = self._counters.add
        if reason is not None:
            add(known.refused, 1)
            return reason
        add(known.spent, amount_nanodollars)
        add(known.packets, 1)
        return None

    def _refusal(
        self, known: OpenedGrant, flow: FlowKey, words: bytes, mac: bytes, amount_nanodollars: int, now_ns: int
    ) -> Unpaid | None:
        if not known.valid:
            return Unpaid.GRANT_NOT_VALID
        remembered = (known.key, flow, words, mac)
        if remembered not in self._right_macs:
            if matching_epoch(known.key, flow, self._epoch, words, mac) is None:
                return Unpaid.BAD_MAC
            if len(self._right_macs) >= MAX_REMEMBERED_MACS:
                self._right_macs.clear()
            self._right_macs[remembered] = None
        spent = self._counters.value(known.spent)
        refusal = known.gate.admit(amount_nanodollars, spent_nanodollars=spent, now_ns=now_ns)
        return Unpaid.OVER_CAP if refusal in (Refusal.OVER_SUM, Refusal.OVER_RATE) else None


def exact_key(flow: FlowSelector) -> FlowKey:
    """The 5-tuple that a selector with a destination names."""
    return FlowKey(
        ip_address(flow.source).packed,
        ip_address(flow.destination).packed,
        flow.protocol,
        flow.source_port,
        flow.destination_port,
    )
