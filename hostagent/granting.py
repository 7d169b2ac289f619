"""Grants on their way: from the secretary, who decides and signs, to the gateway, who enforces them.

Decides: when a flow is judged, when its grant is extended, moved to another uplink or closed.  Refuses to know: how
much a flow is worth, and packets. Every step is done again until it succeeds; a flow goes unpaid meanwhile.
Source: ARCHITECTURE ("grant"); Bill-Pay 2.4 (the secretary authorises, the edge router verifies).
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Iterable
from typing import assert_never

from billpay.errors import RemoteProtocolError
from billpay.messages import Grant, Signed
from billpay.signing import verify
from hostagent.flowbook import FlowBook
from hostagent.flows import Flow
from hostagent.uplinks import Uplink, Uplinks
from neighbour.control import Unreachable
from pricereactor.reactor import reactor_for
from secretary.client import SecretaryClient, SecretaryUnavailable
from secretary.messages import Budget, Closed, Granted, Refused, Unpaid

LOG = logging.getLogger("hostagent")
RETRY_NS = 1_000_000_000
JUDGE_AGAIN_NS = 30_000_000_000
MAX_AT_ONCE = 16
CONTROL_PORTS = frozenset((7414, 7415))

Work = Coroutine[object, object, None]


class Granting:
    """`budget` and `secretary_state` are what the user sees."""

    def __init__(self, *, secretary: SecretaryClient, secretary_key: bytes, uplinks: Uplinks) -> None:
        self._secretary = secretary
        self._secretary_key = secretary_key
        self._uplinks = uplinks
        self._under_way = 0
        self.budget: Budget | None = None
        self.secretary_state = "not asked yet"

    # --- what is due ------------------------------------------------------------------------------------------------

    def due(self, book: FlowBook, *, now_ns: int, unix_s: int) -> list[Work]:
        """Calls to be made now, a bounded number at a time."""
        works: list[Work] = []
        for flow in book.flows.values():
            if self._under_way >= MAX_AT_ONCE:
                break
            if flow.busy or now_ns < flow.retry_ns or not flow.is_active(now_ns):
                continue
            work = self._due_for(flow, book, now_ns=now_ns, unix_s=unix_s)
            if work is not None:
                flow.busy = True
                self._under_way += 1
                works.append(self._guarded(flow, work, now_ns))
        return works

    def _due_for(self, flow: Flow, book: FlowBook, *, now_ns: int, unix_s: int) -> Work | None:
        if is_own_control(flow):
            flow.reason = "our own control traffic: served first, never paid for"
            return None
        uplink = self._uplinks.by_name.get(flow.report.uplink)
        if uplink is None or not uplink.agreed:
            flow.reason = "no agreement with a gateway on its way"
            return None
        opposite = book.opposite(flow)
        received = opposite.received_nanodollars if opposite is not None else 0
        if not flow.judged:
            return self._judge(flow, uplink)
        if flow.grant is not None:
            if flow.opened_at != uplink.name:
                return self._move(flow, uplink)
            return self._extend(flow, uplink) if flow.needs_extension(unix_s) else None
        if opposite is not None and flow.needs_return(received, unix_s):
            return self._raise_return(flow, uplink, received, opposite.in_paid_packets)
        if flow.return_grant is not None and flow.return_opened_at != uplink.name:
            return self._open_return(flow, uplink, flow.return_grant, None)
        if flow.strategy == "unpaid" and now_ns - flow.retry_ns > JUDGE_AGAIN_NS:
            return self._judge(flow, uplink)
        return None

    async def _guarded(self, flow: Flow, work: Work, now_ns: int) -> None:
        try:
            await work
            flow.retry_ns = max(flow.retry_ns, now_ns)
            self.secretary_state = "connected"
        except SecretaryUnavailable as error:
            self.secretary_state = str(error)
            self._later(flow, now_ns, str(error))
        except (Unreachable, RemoteProtocolError) as error:
            self._later(flow, now_ns, str(error))
        finally:
            flow.busy = False
            self._under_way -= 1

    def _later(self, flow: Flow, now_ns: int, why: str) -> None:
        flow.retry_ns = now_ns + RETRY_NS
        flow.reason = why

    # --- spending ---------------------------------------------------------------------------------------------------

    async def _judge(self, flow: Flow, uplink: Uplink) -> None:
        answer = await self._secretary.ask_grant(flow.selector)
        if isinstance(answer, Unpaid):
            flow.judged, flow.strategy, flow.reason = True, "unpaid", answer.message
            return
        flow.rule, flow.strategy = answer.rule, answer.strategy
        flow.reactor = reactor_for(
            answer.strategy,
            amount_nanodollars=answer.amount_nanodollars,
            willingness_nanodollars=answer.willingness_nanodollars,
            target_bit_s=answer.target_bit_s,
        )
        await self._open(flow, uplink, answer.signed)
        flow.judged = True

    async def _extend(self, flow: Flow, uplink: Uplink) -> None:
        assert flow.grant is not None
        answer = await self._secretary.extend(flow.grant.grant, flow.report.spent_nanodollars)
        match answer:
            case Granted():
                await self._open(flow, uplink, answer.signed)
            case Unpaid():  # no more of the budget: what is left of the grant is used up
                flow.retry_ns += 10 * RETRY_NS
                flow.reason = answer.message
            case _:
                assert_never(answer)

    async def _move(self, flow: Flow, uplink: Uplink) -> None:
        """The flow leaves by another uplink now, or its grant was never opened: open it there, close it here."""
        assert flow.grant is not None
        old, serial = flow.opened_at, flow.grant
        answer = await self._secretary.extend(serial.grant, flow.report.spent_nanodollars)
        if isinstance(answer, Unpaid):
            flow.reason = answer.message
            flow.retry_ns += 10 * RETRY_NS
            return
        await self._open(flow, uplink, answer.signed)
        if old and old in self._uplinks.by_name:
            await self._uplinks.by_name[old].caller.client.close_grant(serial.grant)

    async def _open(self, flow: Flow, uplink: Uplink, signed: Signed) -> None:
        grant = verify(signed, self._secretary_key, Grant)
        await uplink.caller.client.open_grant(grant.grant, signed)
        flow.grant, flow.opened_at = grant, uplink.name
        flow.told = None

    # --- returning --------------------------------------------------------------------------------------------------

    async def _raise_return(self, flow: Flow, uplink: Uplink, received: int, packets: int) -> None:
        answer = await self._secretary.ask_return(flow.selector, received, packets)
        if isinstance(answer, Unpaid):
            flow.reason = answer.message
            flow.retry_ns += 10 * RETRY_NS
            return
        flow.rule, flow.strategy = answer.rule, "return"
        flow.return_share, flow.return_ceiling = answer.share_nanodollars, answer.amount_nanodollars
        await self._open_return(flow, uplink, verify(answer.signed, self._secretary_key, Grant), answer.signed)

    async def _open_return(self, flow: Flow, uplink: Uplink, grant: Grant, signed: Signed | None) -> None:
        if signed is None:  # moved to another uplink: a new document is needed
            flow.return_grant, flow.return_opened_at = None, ""
            return
        await uplink.caller.client.open_grant(grant.grant, signed)
        flow.return_grant, flow.return_opened_at, flow.return_told = grant, uplink.name, None
        flow.return_headroom = grant.cap_nanodollars - flow.report.sent_returned_nanodollars
        flow.reason = f"returns what arrived, less a share of {flow.return_share} n$ a packet"

    # --- closing ----------------------------------------------------------------------------------------------------

    async def close_idle(self, book: FlowBook, *, now_ns: int) -> None:
        for flow in list(book.flows.values()):
            if not flow.busy and not flow.is_active(now_ns):
                await self._close(flow)
        book.forget_old(now_ns)
        await self._ask_budget()

    async def close_all(self, flows: Iterable[Flow]) -> None:
        """At a stop: what was not spent is free again."""
        for flow in flows:
            await self._close(flow)

    async def _close(self, flow: Flow) -> None:
        for grant, uplink_name, spent in (
            (flow.grant, flow.opened_at, flow.report.spent_nanodollars),
            (flow.return_grant, flow.return_opened_at, flow.report.sent_returned_nanodollars),
        ):
            if grant is None:
                continue
            uplink = self._uplinks.by_name.get(uplink_name)
            try:
                if uplink is not None:
                    usage = await uplink.caller.client.close_grant(grant.grant)
                    spent = max(spent, usage.spent_nanodollars)
                await self._secretary.close_grant(grant.grant, spent)
            except (SecretaryUnavailable, Unreachable, RemoteProtocolError) as error:
                LOG.warning("grant %s… not closed, it ends at its expiry: %s", grant.grant[:8], error)
        flow.grant, flow.opened_at = None, ""
        flow.return_grant, flow.return_opened_at = None, ""
        flow.reactor, flow.amount_nanodollars = None, 0
        flow.judged, flow.strategy, flow.rule = False, "unpaid", ""
        flow.told = flow.return_told = None

    async def _ask_budget(self) -> None:
        try:
            self.budget = await self._secretary.budget()
            self.secretary_state = "connected"
        except SecretaryUnavailable as error:
            self.secretary_state = str(error)


def is_own_control(flow: Flow) -> bool:
    """Our own calls to gateways and echoes are never paid for: they are control traffic, served first."""
    selector = flow.selector
    if selector.protocol == 6:
        return bool({selector.source_port, selector.destination_port} & CONTROL_PORTS)
    return selector.source_port == selector.destination_port == 7416


__all__ = ["Closed", "Granting", "Refused", "is_own_control"]
