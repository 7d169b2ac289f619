"""Calls to an organisation's central secretary: the thin driver of `secretary.central.policy`.

Decides nothing but the order of calls: first the policy, then the reports that wait. HTTPS with both keys pinned, as
between neighbours; answers are bounded in size and time. Whoever runs it need not hold a signing key: policies are
signed by the organisation, reports by `sign`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from billpay.errors import RemoteProtocolError
from billpay.messages import Signed
from neighbour.control import ControlClient, Unreachable
from secretary.central.policy import CallTimes, Central, CentralEntry, PolicyReply, SpendingReceipt, SpendingReport

LOG: Final = logging.getLogger("secretary.central")
ASK_AGAIN_S: Final = 300
"""As long as there is no policy that says how often."""


class CentralClient(ControlClient):
    """Every method raises Unreachable or RemoteProtocolError."""

    async def __aenter__(self) -> CentralClient:
        return self

    async def policy(self, newer_than: int) -> Signed | None:
        """None: there is no newer one."""
        reply = await self._call("GET", "/v1/policy", PolicyReply, query={"newer_than": str(newer_than)})
        return reply.policy

    async def report(self, report: Signed) -> SpendingReceipt:
        return await self._call("POST", "/v1/spending", SpendingReceipt, body=report)


class Courier:
    """`keep(entry)` writes an entry down and applies it; `sign` makes a report a document; `tell` hears of changes."""

    def __init__(
        self,
        client: CentralClient,
        central: Central,
        *,
        keep: Callable[[CentralEntry], None],
        sign: Callable[[SpendingReport], Signed],
        unix_s: Callable[[], int],
        tell: Callable[[str], None],
        draw: Callable[[], float],
    ) -> None:
        self._client = client
        self._central = central
        self._keep = keep
        self._sign = sign
        self._unix_s = unix_s
        self._tell = tell
        self.times = CallTimes(draw)
        self._woken = asyncio.Event()
        self._trouble = ""

    def network_changed(self) -> None:
        """Try now: hosts that were away get their policy when they are back."""
        self.times.on_network()
        self._woken.set()

    async def run(self) -> None:
        """Never ends by itself, and nothing waits for it."""
        loop = asyncio.get_running_loop()
        async with self._client:
            while True:
                self._woken.clear()
                if await self.exchange():
                    policy = self._central.in_force(self._unix_s())
                    self.times.on_success(loop.time(), policy.ask_again_s if policy is not None else ASK_AGAIN_S)
                else:
                    self.times.on_failure(loop.time())
                try:
                    async with asyncio.timeout(self.times.wait_s(loop.time())):
                        await self._woken.wait()
                except TimeoutError:
                    pass

    async def exchange(self) -> bool:
        """Whether all of it came through. What fails is tried again; what the policy says is not held up by reports."""
        troubles = [await self._tried(self._fetch), await self._tried(self._push)]
        trouble = next((each for each in troubles if each), "")
        if trouble and trouble != self._trouble:
            self._tell(f"the organisation's secretary: {trouble}")
        elif self._trouble and not trouble:
            self._tell("the organisation's secretary answers again")
        self._trouble = trouble
        return not trouble

    async def _tried(self, step: Callable[[], Awaitable[None]]) -> str:
        """What went wrong, "" for nothing."""
        try:
            await step()
        except (Unreachable, RemoteProtocolError) as error:
            LOG.debug("the organisation's secretary: %s", error)
            return str(error)
        return ""

    async def _fetch(self) -> None:
        signed = await self._client.policy(self._central.known_serial)
        if signed is None:
            return
        entry = self._central.take_policy(signed, self._unix_s())
        if entry is not None:
            self._keep(entry)
            self._tell(self._central.state_text(self._unix_s()))

    async def _push(self) -> None:
        closed = self._central.close_period(self._unix_s())
        if closed is not None:
            self._keep(closed)
        for report in self._central.pending:
            signed = self._sign(report)
            receipt = await self._client.report(signed)
            self._keep(self._central.take_receipt(signed, receipt))
