"""Calls to the campus service, and the loop that makes them: the thin driver of `cartographer.campus.reporting`.

Decides nothing but the order of calls: first what this host knows, then what it wants to know. HTTPS with both keys
pinned, as between neighbours; answers are bounded in size and time. The agent works without it: Unreachable is normal.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from billpay.errors import RemoteProtocolError
from billpay.messages import OadDescription
from billpay.signing import verify
from cartographer.campus.messages import (
    Descriptions,
    FoundOut,
    Priors,
    PriorsRequest,
    Receipt,
    Report,
    Vouched,
)
from cartographer.campus.reporting import Reporter
from cartographer.values import WayQuality
from neighbour.control import ControlClient, Unreachable

LOG: Final = logging.getLogger("cartographer.campus")
REPORTS_AT_ONCE: Final = 3
"""A host that was set up anew learns its sequence from the first answer; what one report does not hold comes next."""


class CampusClient(ControlClient):
    """Every method raises Unreachable or RemoteProtocolError."""

    async def __aenter__(self) -> CampusClient:
        return self

    async def report(self, report: Report) -> Receipt:
        return await self._call("POST", "/v1/reports", Receipt, body=report)

    async def priors(self, question: PriorsRequest) -> Priors:
        return await self._call("POST", "/v1/priors", Priors, body=question)

    async def descriptions(self) -> tuple[Vouched, ...]:
        """Verify each with `description_of`."""
        return (await self._call("GET", "/v1/descriptions", Descriptions)).descriptions


def description_of(vouched: Vouched) -> OadDescription:
    """What its key signed. Raises RemoteProtocolError."""
    return verify(vouched.signed, vouched.public_key, OadDescription)


class CampusCourier:
    """Nothing waits for it. Use the client as a context manager around it.

    `quality()` gives the host's own samples (`OwnSamples.quality`), `findings()` and `vouched()` what else there is to
    report; `describe(description)` hears of each description of an ISP that is relayed, `tell` of changes in one line.
    """

    def __init__(
        self,
        client: CampusClient,
        reporter: Reporter,
        *,
        quality: Callable[[], Iterable[WayQuality]],
        findings: Callable[[], Iterable[FoundOut]] = tuple,
        vouched: Callable[[], Iterable[Vouched]] = tuple,
        describe: Callable[[OadDescription], None] = lambda _: None,
        tell: Callable[[str], None] = lambda _: None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._client = client
        self._reporter = reporter
        self._quality = quality
        self._findings = findings
        self._vouched = vouched
        self._describe = describe
        self._tell = tell
        self._now_ns = now_ns
        self.trouble = ""
        """Why it did not come through the last time; "": it did."""

    async def exchange(self) -> bool:
        """Whether all of it came through; if not, it is tried again later. A refused report holds up nothing."""
        troubles = [await self._tried(step) for step in (self._push, self._ask, self._fetch_descriptions)]
        trouble = next((each for each in troubles if each), "")
        if trouble:
            self._reporter.on_failure(self._now_ns())
        else:
            self._reporter.on_success(self._now_ns())
        if trouble and not self.trouble:
            self._tell(f"the campus service: {trouble}")
        elif self.trouble and not trouble:
            self._tell("the campus service answers again")
        self.trouble = trouble
        return not trouble

    async def _tried(self, step: Callable[[], Awaitable[None]]) -> str:
        """What went wrong, "" for nothing."""
        try:
            await step()
        except (Unreachable, RemoteProtocolError) as error:
            LOG.debug("the campus service: %s", error)
            return str(error)
        return ""

    async def _push(self) -> None:
        for _ in range(REPORTS_AT_ONCE):
            report = self._reporter.report(
                self._quality(), findings=self._findings(), descriptions=self._vouched(), now_ns=self._now_ns()
            )
            if report is None:
                return
            self._reporter.on_receipt(report, await self._client.report(report))

    async def _ask(self) -> None:
        question = self._reporter.question(self._now_ns())
        if question is not None:
            self._reporter.learn(question, await self._client.priors(question), self._now_ns())

    async def _fetch_descriptions(self) -> None:
        for vouched in await self._client.descriptions():
            self._describe(description_of(vouched))
