"""Grants on their way: from the secretary, who decides and signs, to the gateway, who enforces them.

Decides: when a flow is judged, when its grant is extended, moved to another uplink or closed.  Refuses to know: how
much a flow is worth, and packets. Every step is done again until it succeeds; a flow goes unpaid meanwhile.
Source: ARCHITECTURE ("grant"); Bill-Pay 2.4 (the secretary authorises, the edge router verifies).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence

from billpay.errors import RemoteProtocolError
from billpay.messages import ECHO_PORT, FlowSelector, Grant, KeySuccession, Signed
from billpay.signing import fingerprint_of, verify
from hostagent.payments.commands import FlowReport
from hostagent.payments.context import PACKET_BYTES, ContextOf, nothing_known, price_per_mb
from hostagent.payments.flowbook import FlowBook
from hostagent.payments.flows import Flow
from hostagent.payments.uplinks import Uplink, Uplinks
from neighbour.control import Unreachable
from neighbour.identity import PeerCertificate
from pricereactor.reactor import reactor_for
from secretary.client import SecretaryClient, SecretaryUnavailable
from secretary.messages import Budget, Unpaid
from secretary.transfers import Transfer

LOG = logging.getLogger("hostagent")
RETRY_NS = 1_000_000_000
PATIENCE_NS = 10 * RETRY_NS
"""Until a flow is asked for again that gets no more."""
JUDGE_AGAIN_NS = 30_000_000_000
NAMED_WITHIN_NS = 2_500_000_000
"""How long a new flow is not judged because nobody knows its program: what counts traffic is read once a second."""
MAX_AT_ONCE = 16
SCOUTS = 4
"""So many flows without money find out, each second, whether there is some."""
UNKNOWN_GRANT = "unknown-grant"
NO_MORE_NOW = frozenset(("budget", "purse", "limit"))
"""The grant stays, there is no more to it; with any other refusal nothing is to be paid any more."""
OVER_AT_THE_GATEWAY = frozenset((UNKNOWN_GRANT, "grant-closed", "grant-expired"))
WRONG_SIGNER = "wrong-signer"
CONTROL_PORTS = frozenset((7414, 7415))

Work = Coroutine[object, object, None]


class Granting:
    """`budget` and `secretary_state` are what the user sees."""

    def __init__(
        self,
        *,
        secretary: SecretaryClient,
        secretary_key: bytes,
        uplinks: Uplinks,
        context_of: ContextOf = nothing_known,
        running_programs: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self._secretary = secretary
        self._secretary_key = secretary_key
        self._uplinks = uplinks
        self._context_of = context_of
        self._running_programs = running_programs
        self._under_way = 0
        self._has_money = False  # a flow that had none got some
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
            return self._judge(flow, uplink) if self._is_named(flow, now_ns) else None
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

    def _is_named(self, flow: Flow, now_ns: int) -> bool:
        """Or has been waited for long enough: rules, budgets and the guard of a program hold only for what is known to
        be that program's.
        """
        if is_probe(flow.selector) or self._context_of(flow.selector) is not None:
            return True
        flow.first_ns = flow.first_ns or now_ns
        flow.reason = "whose it is is not known yet"
        return now_ns - flow.first_ns >= NAMED_WITHIN_NS

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
        nobodys = Transfer(destination=flow.selector.destination)
        transfer = nobodys if is_probe(flow.selector) else self._context_of(flow.selector) or nobodys
        answer = await self._secretary.ask_grant(
            flow.selector,
            gateway=uplink.certificate.fingerprint,
            transfer=transfer,
            price_nanodollars_per_mb=await self._price(flow, uplink) if transfer.program else 0,
            probes_of=flow.probes_of,
            implied=uplink.section.implied,
        )
        if isinstance(answer, Unpaid):
            flow.judged, flow.strategy = True, "unpaid"
            flow.on_refused(answer.code, answer.message)
            return
        flow.rule, flow.strategy = answer.rule, answer.strategy
        flow.react_by(
            reactor_for(
                answer.strategy,
                amount_nanodollars=answer.amount_nanodollars,
                willingness_nanodollars=answer.willingness_nanodollars,
                target_bit_s=answer.target_bit_s,
                probes_nanodollars=answer.probes_nanodollars,
            )
        )
        await self._open(flow, uplink, answer.signed)
        flow.judged = True

    async def _price(self, flow: Flow, uplink: Uplink) -> int:
        """What the gateway asks for a megabyte there now; 0 where it does not say."""
        try:
            return price_per_mb(await uplink.caller.client.price(flow.selector.destination, PACKET_BYTES))
        except RemoteProtocolError:  # no route, or an older gateway: the secretary reckons without
            return 0

    async def _extend(self, flow: Flow, uplink: Uplink, now_ns: int) -> None:
        assert flow.grant is not None
        cap = flow.grant.cap_nanodollars
        answer = await self._secretary.extend(flow.grant.grant, flow.spent_nanodollars)
        if isinstance(answer, Unpaid):
            await self._denied(flow, answer, now_ns)
            return
        await self._open(flow, uplink, answer.signed)
        if flow.grant.cap_nanodollars == cap:  # a later end only: what is left of the grant is used up
            flow.retry_ns = now_ns + PATIENCE_NS

    async def _move(self, flow: Flow, opposite: FlowReport | None) -> None:
        """The flow leaves by another uplink now: a grant holds at one gateway, so it is judged anew for that one."""
        await self._close(flow, opposite)

    async def _denied(self, flow: Flow, answer: Unpaid, now_ns: int) -> None:
        """No more of the budget; or a grant that the secretary does not stand by: the flow is judged anew."""
        flow.retry_ns = now_ns + PATIENCE_NS
        flow.on_refused(answer.code, answer.message)
        if flow.is_used_up and flow.is_out_of_money:  # closed with its receipt: the secretary learns of all at once
            await self._close(flow)
            flow.judged = True
            flow.on_refused(answer.code, answer.message)
        elif answer.code not in NO_MORE_NOW:
            flow.retry_ns = now_ns + RETRY_NS
            await self._close(flow)
            flow.on_refused(answer.code, answer.message)

    async def _open(self, flow: Flow, uplink: Uplink, signed: Signed) -> None:
        self._has_money = self._has_money or flow.is_out_of_money
        flow.on_grant(await self._opened(flow, uplink, signed), uplink.name)

    async def _opened(self, flow: Flow, uplink: Uplink, signed: Signed) -> Grant:
        """The grant, open at the gateway."""
        grant = await self._verified(signed)
        try:
            flow.packet_ceiling = await self._open_at(uplink, grant, signed)
        except RemoteProtocolError as error:
            if error.code in OVER_AT_THE_GATEWAY:  # begin with another one
                await self._settle(grant, uplink, grant.cap_nanodollars, flow)
                flow.on_closed(None)
            raise
        return grant

    async def _open_at(self, uplink: Uplink, grant: Grant, signed: Signed) -> int:
        """Gives the most that the gateway lets through in one packet, by our organisation's word.

        A gateway that knows an older key of our secretary is told how the new one came to be.
        """
        client = uplink.caller.client
        try:
            return (await client.open_grant(grant.grant, signed)).max_amount
        except RemoteProtocolError as error:
            if error.code != WRONG_SIGNER:
                raise
            known = await client.secretary_key()
            for succession in await self._secretary.successions():
                if succession.signer == known.fingerprint:
                    known = await client.succeed_secretary_key(succession)
            return (await client.open_grant(grant.grant, signed)).max_amount

    async def _verified(self, signed: Signed) -> Grant:
        """By the secretary's key that we were given, or one that follows from it."""
        try:
            return verify(signed, self._secretary_key, Grant)
        except RemoteProtocolError as error:
            if error.code != WRONG_SIGNER:
                raise
        for succession in await self._secretary.successions():
            if succession.signer == fingerprint_of(self._secretary_key):
                new = verify(succession, self._secretary_key, KeySuccession).new_certificate
                self._secretary_key = PeerCertificate.from_pem(new).public_key
        return verify(signed, self._secretary_key, Grant)

    # --- returning --------------------------------------------------------------------------------------------------

    async def _raise_return(self, flow: Flow, uplink: Uplink, received: int, packets: int, now_ns: int) -> None:
        answer = await self._secretary.ask_return(
            flow.selector, received, packets, gateway=uplink.certificate.fingerprint
        )
        if isinstance(answer, Unpaid):
            await self._denied(flow, answer, now_ns)
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
        await self._ask_budget(book)

    async def close_all(self, flows: Iterable[Flow]) -> None:
        """At a stop: what was not spent is free again."""
        for flow in flows:
            await self._close(flow)

    async def _close(self, flow: Flow, opposite: FlowReport | None = None) -> None:
        for grant, uplink_name, spent in (
            (flow.grant, flow.opened_at, flow.spent_nanodollars),
            (flow.return_grant, flow.return_opened_at, flow.returned_nanodollars),
        ):
            uplink = self._uplinks.by_name.get(uplink_name)
            if grant is None or uplink is None:
                continue
            try:
                await self._settle(grant, uplink, spent, flow)
            except (SecretaryUnavailable, Unreachable, RemoteProtocolError) as error:
                LOG.warning("grant %s… not closed, it ends at its expiry: %s", grant.grant[:8], error)
        flow.on_closed(opposite)

    async def _settle(self, grant: Grant, uplink: Uplink, spent_nanodollars: int, flow: Flow) -> None:
        """Closed at the gateway, and by its receipt at the secretary. A gateway that knows nothing of it gives none:
        then all of it counts as spent.
        """
        size_bytes = flow.report.out_bytes + flow.report.in_bytes
        try:
            closed = await uplink.caller.client.close_grant(grant.grant)
        except RemoteProtocolError as error:
            if error.code != UNKNOWN_GRANT:
                raise
            await self._secretary.close_grant(grant.grant, grant.cap_nanodollars, size_bytes=size_bytes)
            return
        await self._secretary.close_grant(
            grant.grant,
            min(spent_nanodollars, grant.cap_nanodollars),
            size_bytes=size_bytes,
            receipt=closed.receipt,
            gateway_key=closed.public_key,
        )

    async def _tell_quit(self, programs: Sequence[str]) -> None:
        """The secretary sees no processes: that a program has quit is ours to say."""
        running = await asyncio.to_thread(self._running_programs)
        names = {path.rpartition("/")[2] for path in running}
        if gone := [program for program in programs if program not in names]:
            await self._secretary.tell_quit(gone)

    async def _ask_budget(self, book: FlowBook) -> None:
        try:
            budget = await self._secretary.budget()
            is_answered = self.budget is not None and budget.answers != self.budget.answers
            has_room = self.budget is not None and _rooms(budget) - _rooms(self.budget) != set()
            self.budget = budget
            self.secretary_state = "connected"
            if budget.until_quit:
                await self._tell_quit(budget.until_quit)
        except (SecretaryUnavailable, RemoteProtocolError) as error:
            self.secretary_state = str(error)
            return
        if is_answered:  # a person said something: what was declined may be welcome now
            for flow in book.flows.values():
                flow.judged = flow.judged and flow.strategy != "unpaid"
        self._look_for_money(book, everybody=has_room or self._has_money)

    def _look_for_money(self, book: FlowBook, *, everybody: bool) -> None:
        """A few flows that were refused for want of money ask again each second, those that waited longest first; all
        of them as soon as one got some, or a budget is raised or begins anew.
        """
        self._has_money = False
        out = [flow for flow in book.flows.values() if flow.is_out_of_money and not flow.busy]
        out.sort(key=lambda flow: flow.retry_ns)
        for flow in out if everybody else out[:SCOUTS]:
            flow.retry_ns = 0
            flow.judged = flow.judged and flow.grant is not None


def _rooms(budget: Budget) -> set[tuple[str, str, int, int]]:
    return {(line.name, line.scope, line.limit_nanodollars, line.resets_unix_s) for line in budget.lines}


def is_own_control(flow: Flow) -> bool:
    """Our own calls to gateways and echoes are never paid for: they are control traffic, served first."""
    selector = flow.selector
    if selector.protocol == 6:
        return bool({selector.source_port, selector.destination_port} & CONTROL_PORTS)
    return selector.source_port == selector.destination_port == ECHO_PORT


def is_probe(selector: FlowSelector) -> bool:
    """Our own question to an echo: of no program that a person knows, so only a rule of the secretary's file pays for
    it, or that of the timely flow whose ways it asks about.
    """
    return selector.protocol == 17 and selector.destination_port == ECHO_PORT
