"""Where the host is, what it remembers of that network, and which gateway was found there.

Decides: when what is known is written down, and what a person is told of a gateway that was met: the first key on a
network is trusted on first use and shown, another one later is not used until a person says so. Refuses to know: what a
network is and how gateways are found (`hostagent.networks`), and what they are used for.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from billpay.errors import EnvironmentFault
from hostagent import api
from hostagent.networks.discovery import Finding
from hostagent.networks.known import KnownFile, KnownGateway, KnownNetwork, Meeting
from hostagent.networks.network_manager import NetworkManagerWatch
from hostagent.networks.search import GatewaySearch
from hostagent.networks.situation import Situation
from hostagent.networks.watch import NetworkWatch
from hostagent.notices import Notices
from hostagent.sharing.links import Rates
from secretary.clock import Clock

LOG = logging.getLogger("hostagent")
SAVE_EVERY_LOOKS: Final = 10
SAID: Final = "the configuration says so"
EMBEDDED: Final = api.Gateway(kind="embedded", name="this host", trust="own", how="no gateway was found on the link")


class Whereabouts:
    """`search`: whether gateways are looked for. Raises EnvironmentFault when nothing can be read at all."""

    def __init__(self, directory: Path, *, search: bool, clock: Clock, notices: Notices) -> None:
        self._clock = clock
        self._notices = notices
        self._file = KnownFile(directory)
        self._known, trouble = self._file.load()
        if trouble:
            notices.say(clock.unix_s(), "networks", trouble)
        self._manager = NetworkManagerWatch()
        self._watch = NetworkWatch(manager=lambda: self._manager.managed, canonical=self._known.canonical)
        self._search = GatewaySearch(self._on_finding, clock=clock.monotonic_ns) if search else None
        self._findings: dict[str, Finding] = {}
        self._met: dict[str, tuple[Meeting, KnownGateway]] = {}
        self._looks = 0
        self._running = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._manager.start()
        self._running = True
        try:
            yield
        finally:
            self._running = False
            await self._manager.close()
            if self._search is not None:
                await self._search.close()
            self._watch.close()
            self._save()

    def look(self) -> Situation:
        """Once a second."""
        situation = self._watch.look()
        now = self._clock.unix_s()
        for network in situation.networks:
            if network.is_settled:
                self._known.saw(
                    network.key,
                    aliases=network.aliases,
                    title=network.title,
                    kind=network.kind.value,
                    now_unix_s=now,
                )
        if self._search is not None and self._running:
            self._search.look(situation, self._clock.monotonic_ns())
        self._looks += 1
        if self._known.is_changed and self._looks % SAVE_EVERY_LOOKS == 0:
            self._save()
        return situation

    def known_networks(self) -> tuple[KnownNetwork, ...]:
        return self._known.networks

    def remembered(self, key: str) -> KnownNetwork | None:
        return self._known.get(key)

    def measured(self, key: str, rates: Rates) -> None:
        """Kept for the next time that the host is there."""
        with contextlib.suppress(KeyError):  # not settled yet: it will be measured again
            self._known.measured(
                key,
                egress_bit_s=rates.egress_bit_s,
                ingress_bit_s=rates.ingress_bit_s,
                now_unix_s=self._clock.unix_s(),
            )

    def trust(self, fingerprint: str) -> bool:
        """A person takes the key for the right one. Whether anybody has shown it."""
        keys = self._known.trust(fingerprint, self._clock.unix_s())
        for key in keys:
            meeting, gateway = self._met.get(key, (None, None))
            if meeting is not None and gateway is not None and (found := self._known.get(key)) is not None:
                self._met[key] = (Meeting.KNOWN, found.gateway(gateway.fingerprint) or gateway)
        self._save()
        return bool(keys)

    def gateway_of(self, key: str) -> api.Gateway:
        """Whose prices hold on that network."""
        met = self._met.get(key)
        if met is None:
            finding = self._findings.get(key)
            return EMBEDDED if finding is None or not finding.because else _embedded_because(finding.because)
        meeting, gateway = met
        is_refused = meeting is Meeting.CHANGED
        state = "another key than the one that was trusted here: not used" if is_refused else "no agreement"
        return api.Gateway(
            kind="found",
            name=gateway.name,
            url=gateway.url,
            fingerprint=gateway.fingerprint,
            trust="changed" if is_refused else gateway.trust.value,
            how=gateway.how,
            since_unix_s=gateway.since_unix_s,
            state=state,
        )

    def view_networks(
        self, situation: Situation, rates: dict[str, Rates], tariffs: dict[str, str], metered: dict[str, bool]
    ) -> tuple[api.Network, ...]:
        """Those that the host is on, the primary one first; then those that are remembered, the latest first.

        `metered`: what the configuration says, which goes before what the network says of itself.
        """
        active = []
        for network in situation.networks:
            found, known = rates.get(network.key, Rates()), self._known.get(network.key)
            active.append(
                api.Network(
                    key=network.key,
                    title=network.title,
                    kind=network.kind.value,
                    interface=network.interface,
                    active=True,
                    router=network.router,
                    metered=metered.get(network.key, network.metered),
                    metered_because=SAID if network.key in metered else network.metered_because,
                    connectivity=network.connectivity.value,
                    egress_bit_s=found.egress_bit_s,
                    ingress_bit_s=found.ingress_bit_s,
                    rate_source=found.source,
                    tariff=tariffs.get(network.key, ""),
                    first_seen_unix_s=known.first_seen_unix_s if known is not None else 0,
                    last_seen_unix_s=known.last_seen_unix_s if known is not None else 0,
                    gateway=self.gateway_of(network.key),
                )
            )
        here = {network.key for network in situation.networks}
        away = sorted(self._known.networks, key=lambda known: -known.last_seen_unix_s)
        return (*active, *(_away(known) for known in away if known.key not in here))

    def _on_finding(self, finding: Finding) -> None:
        self._findings[finding.key] = finding
        found, now = finding.gateway, self._clock.unix_s()
        if found is None:
            return
        certificate = found.certificate
        try:
            meeting, gateway = self._known.met(
                finding.key,
                fingerprint=certificate.fingerprint,
                name=certificate.name,
                url=found.endpoint.url,
                how=found.endpoint.how.value,
                now_unix_s=now,
            )
        except KeyError:  # the network was left, or is not settled: it will be searched again
            return
        self._met[finding.key] = (meeting, gateway)
        self._notices.say(now, f"gateway-{meeting.value}", _told(meeting, gateway))
        self._save()

    def _save(self) -> None:
        if not self._known.is_changed:
            return
        try:
            self._file.save(self._known)
        except EnvironmentFault as fault:
            self._notices.say(self._clock.unix_s(), "networks", f"what is known of networks is not kept: {fault}")


def _embedded_because(because: str) -> api.Gateway:
    return api.Gateway(kind="embedded", name="this host", trust="own", how=because)


def _told(meeting: Meeting, gateway: KnownGateway) -> str:
    who = f"gateway {gateway.name or gateway.url} ({gateway.how}), fingerprint {gateway.fingerprint}"
    match meeting:
        case Meeting.FIRST:
            return f"trusted on first use: {who}"
        case Meeting.KNOWN:
            return f"known: {who}"
        case Meeting.CHANGED:
            return f"NOT the key that was trusted here, and not used: {who}; `hostagent trust` takes it if it is right"


def _away(known: KnownNetwork) -> api.Network:
    return api.Network(
        key=known.key,
        title=known.name or known.title,
        kind=known.kind,
        interface="",
        active=False,
        egress_bit_s=known.egress_bit_s,
        ingress_bit_s=known.ingress_bit_s,
        rate_source="measured" if known.egress_bit_s or known.ingress_bit_s else "unknown",
        first_seen_unix_s=known.first_seen_unix_s,
        last_seen_unix_s=known.last_seen_unix_s,
    )
