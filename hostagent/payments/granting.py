"""Grants on their way: from the secretary, who decides and signs, to the gateway, who enforces them.

Decides: when a flow is judged, when its grant is extended, moved to another uplink or closed.  Refuses to know: how
much a flow is worth, and packets. Every step is done again until it succeeds; a flow goes unpaid meanwhile.
Source: ARCHITECTURE ("grant"); Bill-Pay 2.4 (the secretary authorises, the edge router verifies).
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Iterable

from billpay.errors import RemoteProtocolError
from billpay.messages import Grant, Signed
from billpay.signing import verify
from hostagent.payments.commands import FlowReport
from hostagent.payments.flowbook import FlowBook
from hostagent.payments.flows import Flow
from hostagent.payments.uplinks import Uplink, Uplinks
from neighbour.control import Unreachable
from pricereactor.reactor import reactor_for
from secretary.client import SecretaryClient, SecretaryUnavailable
from secretary.messages import Budget, Unpaid

LOG = logging.getLogger("hostagent")
RETRY_NS = 1_000_000_000
PATIENCE_NS = 10 * RETRY_NS
"""Until a flow is asked for again that gets no more."""
JUDGE_AGAIN_NS = 30_000_000_000
MAX_AT_ONCE = 16
UNKNOWN_GRANT = "unknown-grant"
NO_GRANT_ANY_MORE = frozenset((UNKNOWN_GRANT, "no-rule"))
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
        received, received_packets = flow.receipts_of(opposite)
        if not flow.judged:
            return self._judge(flow, uplink)
        if flow.grant is not None:
            if flow.opened_at != uplink.name:
                return self._move(flow, opposite)
            return self._extend(flow, uplink, now_ns) if flow.needs_extension(unix_s) else None
        if flow.return_grant is not None and flow.return_opened_at != uplink.name:
            return self._move(flow, opposite)
        if flow.needs_return(received, unix_s):
            return self._raise_return(flow, uplink, received, received_packets, now_ns)
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
        answer = await self._secretary.ask_grant(flow.selector, gateway=uplink.certificate.fingerprint)
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

    async def _extend(self, flow: Flow, uplink: Uplink, now_ns: int) -> None:
        assert flow.grant is not None
        cap = flow.grant.cap_nanodollars
        answer = await self._secretary.extend(flow.grant.grant, flow.spent_nanodollars)
        if isinstance(answer, Unpaid):
            self._denied(flow, answer, now_ns)
            return
        await self._open(flow, uplink, answer.signed)
        if flow.grant.cap_nanodollars == cap:  # a later end only: what is left of the grant is used up
            flow.retry_ns = now_ns + PATIENCE_NS

    async def _move(self, flow: Flow, opposite: FlowReport | None) -> None:
        """The flow leaves by another uplink now: a grant holds at one gateway, so it is judged anew for that one."""
        await self._close(flow, opposite)

    def _denied(self, flow: Flow, answer: Unpaid, now_ns: int) -> None:
        """No more of the budget; or a grant that the secretary does not stand by: the flow is judged anew."""
        flow.retry_ns = now_ns + PATIENCE_NS
        if answer.code in NO_GRANT_ANY_MORE:
            flow.retry_ns = now_ns + RETRY_NS
            flow.on_closed(None)
        flow.reason = answer.message

    async def _open(self, flow: Flow, uplink: Uplink, signed: Signed) -> None:
        flow.on_grant(await self._opened(flow, uplink, signed), uplink.name)

    async def _opened(self, flow: Flow, uplink: Uplink, signed: Signed) -> Grant:
        """The grant, open at the gateway."""
        grant = verify(signed, self._secretary_key, Grant)
        try:
            await uplink.caller.client.open_grant(grant.grant, signed)
        except RemoteProtocolError as error:
            if error.code == UNKNOWN_GRANT:  # its gateway has forgotten it, and what was spent: begin with another one
                await self._secretary.close_grant(grant.grant, grant.cap_nanodollars)
                flow.on_closed(None)
            raise
        return grant

    # --- returning --------------------------------------------------------------------------------------------------

    async def _raise_return(self, flow: Flow, uplink: Uplink, received: int, packets: int, now_ns: int) -> None:
        answer = await self._secretary.ask_return(
            flow.selector, received, packets, gateway=uplink.certificate.fingerprint
        )
        if isinstance(answer, Unpaid):
            self._denied(flow, answer, now_ns)
            return
        cap = flow.return_grant.cap_nanodollars if flow.return_grant is not None else 0
        flow.rule, flow.strategy = answer.rule, "return"
        flow.return_share, flow.return_ceiling = answer.share_nanodollars, answer.amount_nanodollars
        flow.on_return_grant(await self._opened(flow, uplink, answer.signed), uplink.name)
        flow.reason = f"returns what arrived, less a share of {flow.return_share} n$ a packet"
        if flow.return_grant is not None and flow.return_grant.cap_nanodollars == cap:
            flow.retry_ns = now_ns + PATIENCE_NS

    # --- closing ----------------------------------------------------------------------------------------------------

    async def close_idle(self, book: FlowBook, *, now_ns: int) -> None:
        for flow in list(book.flows.values()):
            if not flow.busy and not flow.is_active(now_ns):
                await self._close(flow, book.opposite(flow))
        book.forget_old(now_ns)
        await self._ask_budget()

    async def close_all(self, flows: Iterable[Flow]) -> None:
        """At a stop: what was not spent is free again."""
        for flow in flows:
            await self._close(flow)

    async def _close(self, flow: Flow, opposite: FlowReport | None = None) -> None:
        for grant, uplink_name, spent in (
            (flow.grant, flow.opened_at, flow.spent_nanodollars),
            (flow.return_grant, flow.return_opened_at, flow.returned_nanodollars),
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
        flow.on_closed(opposite)

    async def _ask_budget(self) -> None:
        try:
            self.budget = await self._secretary.budget()
            self.secretary_state = "connected"
        except (SecretaryUnavailable, RemoteProtocolError) as error:
            self.secretary_state = str(error)


def is_own_control(flow: Flow) -> bool:
    """Our own calls to gateways and echoes are never paid for: they are control traffic, served first."""
    selector = flow.selector
    if selector.protocol == 6:
        return bool({selector.source_port, selector.destination_port} & CONTROL_PORTS)
    return selector.source_port == selector.destination_port == 7416
