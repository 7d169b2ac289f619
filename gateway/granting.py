"""Grants between their hosts and the packet core: opened, asked about, and closed for ever with a signed receipt.

Decides: whether a document may be opened here, in which order the disk and the packet core learn of it, and what a
receipt says.  Refuses to know: packets (the core counts them), and who is at the other end (`gateway.control`).
Source: Bill-Pay 2.4 (the secretary authorises, the edge router verifies); docs/spec/control-api.md ("Grants").

A receipt lets the secretary spend the rest anew, so nothing may be spent after it.  Hence the order of closing: the
disk learns that the grant is closing (no packet core will open it again), the core closes it and says what was spent,
the disk gets the receipt, the host gets it, and the core forgets.  A crash between any two leaves a grant that pays
nothing more than its receipt will say. A grant that has expired is closed by us.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from ipaddress import ip_address

import msgspec

from billpay.errors import RemoteProtocolError
from billpay.messages import (
    FlowSelector,
    Grant,
    GrantReceipt,
    GrantState,
    GrantTerms,
    GrantUsage,
    Signed,
    SignedUsage,
)
from billpay.signing import verify
from dataplane.supervisor import ReaderUnavailable
from gateway import grant_store
from gateway.commands import (
    Answer,
    AskGrant,
    CloseGrant,
    Command,
    ForgetGrant,
    GrantAnswer,
    OpenGrant,
    Refused,
)
from gateway.configuration import ceiling_of
from gateway.grant_store import REMEMBER_S, GrantStore, StoredGrant
from gateway.neighbours import Neighbour, Neighbours
from gateway.payments import GRANT_COUNTERS
from gateway.plan import HostRole
from neighbour.identity import NodeIdentity

LOG = logging.getLogger("gateway")
CLOSE_AFTER_S = 120
"""After its expiry: clocks differ, and a host closes its grants itself."""


class GrantDesk:
    """One thing at a time for each link: what the store says holds until the core has answered."""

    def __init__(
        self,
        *,
        identity: NodeIdentity,
        neighbours: Neighbours,
        store: GrantStore,
        ask: Callable[[Command], Awaitable[Answer]],
        read: Callable[[], Mapping[str, int]],
        clock: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self._identity = identity
        self._neighbours = neighbours
        self._store = store
        self._ask = ask
        self._read = read
        self._unix_s = clock
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    # --- calls of a host. Each raises RemoteProtocolError, EnvironmentFault and ReaderUnavailable --------------------

    async def open(self, caller: Neighbour, name: str, signed: Signed) -> GrantTerms:
        """Opens a grant of the caller's secretary, or replaces it by a newer document."""
        if caller.section.peer != "host":
            raise RemoteProtocolError("foreign-grant", "grants are opened by the host that spends, at its own gateway")
        if caller.section.role is HostRole.NEVER:
            raise RemoteProtocolError("never-pays", f"the host on link {caller.name} is set to never pay")
        grant = verify(signed, caller.grant_signer.public_key, Grant)
        if grant.grant != name:
            raise RemoteProtocolError("other-grant", "the path names another grant than the document")
        if grant.gateway != self._identity.fingerprint:
            raise RemoteProtocolError("other-gateway", "the grant is for another gateway")
        _check_flow(grant.flow, caller)
        async with self._locks[caller.name]:
            is_new = self._check_history(grant, caller)
            if is_new:  # first on the disk: what it spends is never forgotten, whoever dies meanwhile
                self._store.put_open(name, caller.name, signed, expires_unix_s=grant.expires_unix_s)
            try:
                usage = await self._usage(OpenGrant(link=caller.name, grant=grant))
            except RemoteProtocolError:
                if is_new:
                    self._store.drop(name)
                raise
            if not is_new:
                self._store.put_open(name, caller.name, signed, expires_unix_s=grant.expires_unix_s)
        return self._terms(caller, grant, usage)

    async def usage(self, caller: Neighbour, name: str) -> SignedUsage:
        """What was spent until now; of a closed grant its receipt."""
        async with self._locks[caller.name]:
            known = self._known(caller, name)
            return known.receipt or self._signed(await self._usage(AskGrant(grant=name, link=caller.name)))

    async def close(self, caller: Neighbour, name: str) -> SignedUsage:
        """For ever. Again, it gives the same receipt again."""
        async with self._locks[caller.name]:
            known = self._known(caller, name)
            return known.receipt or await self._close(known)

    # --- time -------------------------------------------------------------------------------------------------------

    async def close_expired(self) -> None:
        """Writes the receipts of grants that nobody closed, and forgets those that are an hour old."""
        now_unix_s = self._unix_s()
        for known in self._store.expired_before(now_unix_s - CLOSE_AFTER_S):
            async with self._locks[known.link]:
                again = self._store.find(known.grant)
                if again is not None and again.state != "closed":
                    await self._close(again)
        self._store.forget_closed(now_unix_s)

    # --- a fresh packet core ----------------------------------------------------------------------------------------

    def snapshot(self) -> Iterator[Command]:
        """The grants that it has to know."""
        for known in self._store.not_closed():
            neighbour = self._neighbours.by_link.get(known.link)
            if neighbour is None:
                continue
            if known.signed is None:
                LOG.warning("grant %s… cannot be read any more: its payments do not count", known.grant[:8])
                continue
            signer = neighbour.signers.key_of(known.signed.signer)
            if signer is None and known.state == "open":  # the host has another secretary by now
                self._store.put_closing(known.grant)
            document = msgspec.json.decode(known.signed.document, type=Grant)  # verified before it was stored
            yield OpenGrant(link=known.link, grant=document, closed=signer is None or known.state != "open")

    # --- inside -----------------------------------------------------------------------------------------------------

    def _known(self, caller: Neighbour, name: str) -> StoredGrant:
        known = self._store.find(name)
        if known is None or known.link != caller.name:
            raise RemoteProtocolError("unknown-grant", f"no grant {name[:8]}… of yours is known here")
        return known

    def _check_history(self, grant: Grant, caller: Neighbour) -> bool:
        """Whether it is new here. What was spent of a grant is never forgotten while a document of it can be shown."""
        known = self._store.find(grant.grant)
        if known is not None:
            if known.link != caller.name:
                raise RemoteProtocolError("foreign-grant", "another link has this grant")
            if known.state != "open":
                raise RemoteProtocolError("grant-closed", "it was closed here, and a closed grant stays closed")
            return False
        if grant.serial > 1:
            raise RemoteProtocolError("unknown-grant", "it is not on the books, so it cannot grow: ask for a new one")
        if grant.expires_unix_s <= max(self._store.horizon_unix_s(), self._unix_s() - REMEMBER_S):
            raise RemoteProtocolError("grant-expired", "it expired so long ago that it may have been here before")
        if self._store.count(caller.name) >= grant_store.MAX_REMEMBERED_PER_LINK:
            raise RemoteProtocolError("too-many-grants", "so many have not expired yet: ask again later")
        return True

    async def _close(self, known: StoredGrant) -> SignedUsage:
        self._store.put_closing(known.grant)
        answer = await self._ask(CloseGrant(grant=known.grant, link=known.link))
        usage = answer.usage if isinstance(answer, GrantAnswer) else self._counted(known)
        receipt = self._signed(usage)
        self._store.put_closed(known.grant, receipt)
        with contextlib.suppress(ReaderUnavailable):  # a fresh one does not know it
            await self._ask(ForgetGrant(grant=known.grant, link=known.link))
        return receipt

    def _counted(self, known: StoredGrant) -> GrantUsage:
        """Of a grant that the core does not have, so that nothing is added to its counters any more."""
        counters, serial = self._read(), 0
        if known.signed is not None:
            serial = msgspec.json.decode(known.signed.document, type=Grant).serial
        spent, packets, refused = (counters.get(f"grant/{known.grant}/{name}", 0) for name in GRANT_COUNTERS)
        return GrantUsage(
            grant=known.grant,
            serial=serial,
            state=GrantState.CLOSED,
            spent_nanodollars=spent,
            packets=packets,
            refused_packets=refused,
        )

    def _signed(self, usage: GrantUsage) -> SignedUsage:
        receipt = GrantReceipt(
            grant=usage.grant,
            serial=usage.serial,
            final=usage.state is GrantState.CLOSED,
            spent_nanodollars=usage.spent_nanodollars,
            packets=usage.packets,
            refused_packets=usage.refused_packets,
            unix_s=self._unix_s(),
        )
        return SignedUsage(usage=usage, receipt=self._identity.sign(receipt), public_key=self._identity.public_key)

    def _terms(self, caller: Neighbour, grant: Grant, usage: GrantUsage) -> GrantTerms:
        section = caller.section
        admitted = ceiling_of(self._neighbours.configuration, section).under(grant)
        return GrantTerms(
            usage=usage,
            max_amount=self._neighbours.max_amount(section),
            cap_nanodollars=admitted.cap_nanodollars,
            rate_nanodollars_per_s=admitted.rate_nanodollars_per_s,
            burst_nanodollars=admitted.burst_nanodollars,
        )

    async def _usage(self, command: Command) -> GrantUsage:
        answer = await self._ask(command)
        if isinstance(answer, Refused):
            raise RemoteProtocolError(answer.code, answer.message)
        assert isinstance(answer, GrantAnswer)
        return answer.usage


def _check_flow(flow: FlowSelector, caller: Neighbour) -> None:
    """A host spends for its own packets only."""
    try:
        source = str(ip_address(flow.source))
        _ = flow.destination and ip_address(flow.destination)
    except ValueError as error:
        raise RemoteProtocolError("malformed", f"flow: {error}") from error
    allowed = caller.section.peer_addresses
    if allowed and source not in {str(ip_address(address)) for address in allowed}:
        raise RemoteProtocolError("foreign-source", f"{source} is not an address of the host on link {caller.name}")
