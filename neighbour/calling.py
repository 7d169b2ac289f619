"""One neighbour that we call: agree, then a statement each interval, for ever.

Decides: when to call again.  Refuses to know: what the terms mean to us (`adopt` says whether they are acceptable) and
what statements say (`neighbour.exchange`).  The same code for a host and its gateway, and between two gateways.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from billpay.errors import EnvironmentFault, RemoteProtocolError
from billpay.messages import Agreement, AgreementRequest
from neighbour.control import ControlClient, Unreachable
from neighbour.exchange import LinkExchange
from neighbour.identity import NodeIdentity, PeerCertificate

LOG = logging.getLogger("neighbour")
FIRST_RETRY_S = 0.25
LAST_RETRY_S = 5.0
SILENT_INTERVALS = 3
SILENT_AT_LEAST_S = 5


def patience_s(interval_s: int) -> int:
    """How long an agreement outlives the last word of a neighbour that makes a statement every `interval_s`."""
    return max(SILENT_AT_LEAST_S, SILENT_INTERVALS * interval_s)


class Caller:
    """`run` never ends by itself. `adopt(agreement)` gives the link's account, or raises RemoteProtocolError.

    `heard()` is called after each answer, `lost(why)` when a call failed. `client` is for other calls to the same node.
    """

    def __init__(
        self,
        *,
        identity: NodeIdentity,
        peer: PeerCertificate,
        url: str,
        request: AgreementRequest,
        adopt: Callable[[Agreement], LinkExchange],
        heard: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self.client = ControlClient(identity, peer, url)
        self._request = request
        self._adopt = adopt
        self._heard = heard
        self._lost = lost
        self._last_trouble = ""

    async def run(self) -> None:
        retry_s = FIRST_RETRY_S
        async with self.client:
            while True:
                try:
                    agreement = await self.client.agree(self._request)
                    exchange = self._adopt(agreement)
                    self._last_trouble = ""
                    retry_s = FIRST_RETRY_S
                    await self._send_statements(exchange, agreement.statement_interval_s)
                except (Unreachable, RemoteProtocolError, EnvironmentFault) as error:  # a full disk passes, too
                    self._report(error)
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, LAST_RETRY_S)

    async def _send_statements(self, exchange: LinkExchange, interval_s: int) -> None:
        while True:
            await exchange.run_interval(self.client, int(time.time()))
            self._heard()
            await asyncio.sleep(interval_s)

    def _report(self, error: Exception) -> None:
        """Once for each new trouble, not for each try."""
        trouble = str(error)
        self._lost(trouble)
        if trouble != self._last_trouble:
            LOG.warning("%s", trouble)
            self._last_trouble = trouble
