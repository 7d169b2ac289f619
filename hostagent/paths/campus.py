"""The campus service beside this host's cartographer: what it hears from us, and what we believe of its answers.

Decides: when it is called before its time (packets go to a prefix that it was not asked about), and which destinations
its answers are used for: those in use. Refuses to know what is reported and how sure an answer is
(`cartographer.campus.reporting`). Without an answer the host goes on with what it knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final

from billpay.messages import OadDescription
from cartographer.campus.client import CampusClient, CampusCourier
from cartographer.campus.messages import FoundOut
from cartographer.campus.own import OwnSamples, primed
from cartographer.campus.privacy import prefix_of
from cartographer.campus.reporting import Reporter
from cartographer.cartographer import Cartographer
from cartographer.judging import Judge
from hostagent.configuration import CampusSection
from neighbour.identity import NodeIdentity, PeerCertificate
from secretary.clock import Clock

LOOK_S: Final = 10.0
"""A prefix that is new is asked about within this time."""


class Campus:
    """`own` is what the cartographer copies every sample of its own into."""

    def __init__(
        self,
        section: CampusSection,
        *,
        identity: NodeIdentity,
        own: OwnSamples,
        cartographer: Cartographer,
        judge: Judge,
        clock: Clock,
        say: Callable[[str, str], object],
    ) -> None:
        self._url = section.url
        self._say = say
        self._own = own
        self._cartographer = cartographer
        self._judge = judge
        self._clock = clock
        self._reporter = Reporter(random.random, place=section.place)
        self._client = CampusClient(identity=identity, peer=PeerCertificate.read(section.certificate), url=section.url)
        self._courier = CampusCourier(
            self._client,
            self._reporter,
            quality=lambda: own.quality(clock.monotonic_ns()),
            findings=self._findings,
            describe=self._describe,
            tell=self._tell,
            now_ns=clock.monotonic_ns,
        )
        self._asked: set[str] = set()  # prefixes that a call was made about
        self._woken = asyncio.Event()
        self._known = 0
        self._was_called = False

    async def work(self) -> None:
        """Until cancelled."""
        async with self._client:
            while True:
                self._woken.clear()
                wanted = self._wanted()
                await self._courier.exchange()
                self._asked, self._was_called = wanted, True
                self._believe()
                await self._wait()

    async def _wait(self) -> None:
        """Until it is time, or there is something new to ask; a service that is away is not called more often."""
        while (left_ns := self._reporter.wait_ns(self._clock.monotonic_ns())) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK_S, left_ns / 1e9)):
                    await self._woken.wait()
            if self._woken.is_set() or (not self._courier.trouble and self._wanted() - self._asked):
                return

    def on_network(self) -> None:
        """The host is on another network: what was out of reach may be there."""
        self._reporter.on_network()
        self._woken.set()

    def view(self) -> str:
        """One line for people."""
        if self._courier.trouble:
            return f"{self._url}: {self._courier.trouble}"
        if not self._was_called:
            return f"{self._url}: not called yet"
        return f"{self._url}: {self._known} ways known there to where packets go"

    # --- both ways --------------------------------------------------------------------------------------------------

    def _wanted(self) -> set[str]:
        """The prefixes that packets go to; asking for priors is what has the service asked."""
        now_ns = self._clock.monotonic_ns()
        found = set()
        for destination in self._cartographer.active(now_ns):
            self._reporter.priors(destination, now_ns)
            if (prefix := prefix_of(destination)) is not None:
                found.add(prefix)
        return found

    def _believe(self) -> None:
        now_ns, known = self._clock.monotonic_ns(), 0
        for destination in self._cartographer.active(now_ns):
            prefix = prefix_of(destination)
            if prefix is None:
                continue
            for way, estimates in self._reporter.priors(destination, now_ns).items():
                known += 1
                self._cartographer.on_prior(prefix, way, estimates, now_ns)
                statistics = primed(self._reporter, self._own, destination, way, now_ns)
                if statistics is not None:
                    self._cartographer.begin_anew(destination, way, statistics)
        self._known = known

    def _tell(self, line: str) -> None:
        self._say("campus", line)

    def _describe(self, description: OadDescription) -> None:
        now_ns, unix_s = self._clock.monotonic_ns(), self._clock.unix_s()
        self._cartographer.on_description(description, now_unix_s=unix_s, now_ns=now_ns)

    def _findings(self) -> list[FoundOut]:
        return [
            FoundOut(as_number=found.as_number, alternative=found.alternative or 0, kind=found.kind.value)
            for found in self._judge.findings(self._clock.monotonic_ns())
        ]
