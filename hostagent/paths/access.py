"""Which of several accesses to the Internet this host's new flows go by, once a second.

Decides: what counts as an access and whether it is usable, what is measured by it and how seldom, and when the kernel
hears of it: only if the agent acts, and the configuration or a person says so. Refuses to know: how costs compare
(`cartographer.access`), and how the kernel is told (`dataplane.access_routes`). Source: BP-19, BP-60.

Round trips to different places say nothing of accesses. So all accesses are asked for the same ones: few destinations
that programs talk to, by small unpaid echoes, only where there are several accesses. What sockets show counts as loss,
and as a sign of life. The embedded gateway's price is not counted: nobody is paid it, and it would follow the traffic.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from billpay.errors import EnvironmentFault
from cartographer.access import (
    AGENT,
    PERSON,
    SYSTEM,
    AccessChooser,
    AccessDecision,
    AccessFacts,
    price_of_packet,
)
from cartographer.statistics import WayStatistics
from cartographer.values import Quantity, Wants
from dataplane.access_routes import AccessApplied, AccessRoutes
from dataplane.record import ACCESS_RECORD
from dataplane.service import report_fault
from hostagent import api
from hostagent.configuration import AccessSection
from hostagent.desk import Refused
from hostagent.networks.situation import ActiveNetwork, Connectivity, Situation
from hostagent.paths.pinging import ping
from hostagent.paths.targets import Targets
from hostagent.sharing.dataplan import Judgement

LOG = logging.getLogger("hostagent")
NS_PER_S: Final = 1_000_000_000
ROUND_NS: Final = 10 * NS_PER_S
METERED_ROUND_NS: Final = 60 * NS_PER_S
SUSPECT_ROUND_NS: Final = 2 * NS_PER_S
"""When the last round brought nothing back."""
ACCESSES_MAX: Final = 8
REMEMBERED_MAX: Final = 32
MUTE_ROUNDS: Final = 3
"""So many rounds without an answer: an access that answered before is dead."""
VERIFY_NS: Final = 30 * NS_PER_S
"""Others may take our rules away (systemd-networkd does when it starts)."""
RETRY_NS: Final = 60 * NS_PER_S
_INTERNAL: Final = "embedded gateway"
_NOT_CONNECTED: Final = {
    Connectivity.NONE: "no connectivity",
    Connectivity.LIMITED: "no way to the Internet",
    Connectivity.PORTAL: "a captive portal: log in there first",
}

Ping = Callable[[str, str], Awaitable[int | None]]


class Saw(Protocol):
    """What sockets between two addresses showed since the last look (`hostagent.paths.sockets.SocketsSaw`)."""

    @property
    def local(self) -> str: ...

    @property
    def remote(self) -> str: ...

    @property
    def delivered_packets(self) -> int: ...

    @property
    def lost_packets(self) -> int: ...


@dataclass(slots=True)
class _Known:
    """Of one network, also while the host is elsewhere."""

    statistics: WayStatistics = field(default_factory=WayStatistics)
    answered: frozenset[str] = frozenset()  # of those that were asked in the last round
    mute_rounds: int = 0
    asked_ns: int | None = None
    alive_ns: int | None = None


class AccessChoice:
    """`say(code, message)`: a notice. `acts`: whether the agent acts at all. `judgement`: of a network's data plan."""

    def __init__(
        self,
        section: AccessSection,
        wants: Wants,
        *,
        state_directory: Path,
        say: Callable[[str, str], object],
        acts: Callable[[], bool],
        prices: Callable[[], Iterable[api.Price]] = tuple,
        judgement: Callable[[str], Judgement | None] = lambda _key: None,
        ask: Ping = ping,
        routes: AccessRoutes | None = None,
    ) -> None:
        self._section = section
        self._chooser = AccessChooser(wants)
        self._routes = routes or AccessRoutes(state_directory / ACCESS_RECORD)
        self._say = say
        self._acts = acts
        self._prices = prices
        self._judgement = judgement
        self._ask = ask
        self._known: dict[str, _Known] = {}
        self._targets = Targets()
        self._situation = Situation()
        self._decision = AccessDecision(interface="")
        self._applied = AccessApplied()
        self._order: object = None  # what the kernel was told last
        self._told_ns = 0
        self._told = ""
        self._work: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        minds = wants.delay_nanodollars_per_ms or wants.jitter_nanodollars_per_ms or wants.loss_nanodollars
        self._measures = section.choose == "act" or (section.choose == "advise" and bool(minds))

    # --- start and stop ---------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """What a killed agent has left is undone first, and at the end everything is."""
        await self._restore()
        try:
            yield
        finally:
            if self._probing is not None:
                self._probing.cancel()
            await asyncio.gather(*(task for task in (self._probing, self._work) if task), return_exceptions=True)
            await self._restore()

    async def _restore(self) -> None:
        try:
            await asyncio.to_thread(self._routes.restore)
        except EnvironmentFault as fault:
            self._say("access", f"rules of the accesses stay in the kernel: {fault}; `hostagent restore` tries again")
        self._applied, self._order = AccessApplied(), None

    # --- once a second ----------------------------------------------------------------------------------------------

    def on_second(self, situation: Situation, now_ns: int, seen: Iterable[Saw] = ()) -> None:
        self._situation = situation
        networks = situation.networks[:ACCESSES_MAX]
        self._learn(networks, now_ns, seen)
        prices = _by_interface(self._prices())
        system = system_choice(networks)
        facts = [self._facts(network, prices, system) for network in networks]
        self._decision = self._chooser.decide(facts, system=system, now_ns=now_ns)
        self._tell_people(networks)
        self._tell_kernel(networks, now_ns)
        if len(networks) > 1 and self._measures and (self._probing is None or self._probing.done()):
            due = [network for network in networks if self._is_due(network, now_ns)]
            if due:
                self._probing = asyncio.get_running_loop().create_task(self._probe(due, networks, now_ns))
                self._probing.add_done_callback(report_fault)

    def change(self, change: api.AccessChange) -> None:
        """A person's word. Raises Refused."""
        there = [network.interface for network in self._situation.networks]
        if change.interface and change.interface not in there:
            names = ", ".join(there) or "none"
            raise Refused("not-there", f"{change.interface} leads nowhere; accesses are: {names}")
        self._chooser.say(change.interface)

    # --- what is known ----------------------------------------------------------------------------------------------

    def _of(self, network: ActiveNetwork) -> _Known:
        known = self._known.get(network.key)
        if known is None:
            known = self._known[network.key] = _Known()
            if len(self._known) > REMEMBERED_MAX:
                here = {each.key for each in self._situation.networks}
                del self._known[next(key for key in self._known if key not in here)]
        return known

    def _learn(self, networks: tuple[ActiveNetwork, ...], now_ns: int, seen: Iterable[Saw]) -> None:
        """What sockets show: by its local address a flow is of an interface."""
        of = {address: network.key for network in networks for address in network.addresses}
        total: dict[str, tuple[int, int]] = {}
        for saw in seen:
            key = of.get(saw.local)
            if key is None:
                continue
            self._targets.use(saw.remote, now_ns)
            delivered, lost = total.get(key, (0, 0))
            total[key] = (delivered + saw.delivered_packets, lost + saw.lost_packets)
        for network in networks:
            delivered, lost = total.get(network.key, (0, 0))
            if delivered:
                known = self._of(network)
                known.alive_ns, known.mute_rounds = now_ns, 0
                known.statistics.on_packets(sent=delivered + lost, lost=lost, marked=0, now_ns=now_ns)

    def _facts(self, network: ActiveNetwork, prices: dict[str, int], system: str) -> AccessFacts:
        known = self._of(network)
        return AccessFacts(
            interface=network.interface,
            statistics=known.statistics,
            price_picodollars=price_of_packet(prices.get(network.interface, 0)),
            unusable=self._why_unusable(network, known),
            last_resort=self._why_last(network, prices) if network.interface != system else "",
        )

    def _why_unusable(self, network: ActiveNetwork, known: _Known) -> str:
        if (words := _NOT_CONNECTED.get(network.connectivity)) is not None:
            return f"{words} ({network.connectivity_because})" if network.connectivity_because else words
        if known.mute_rounds >= MUTE_ROUNDS:
            return "dead: nothing comes back any more"
        judgement = self._judgement(network.key)
        if judgement is None:
            return ""
        budget = judgement.budget
        if budget.hard and budget.used >= budget.limit:
            return f"{budget.name} is used up"
        return ""

    def _why_last(self, network: ActiveNetwork, prices: dict[str, int]) -> str:
        """What may cost money is not taken for a little speed. The system's own choice is not doubted."""
        if not network.metered:
            return ""
        judgement = self._judgement(network.key)
        default = judgement.verdicts.get("default") if judgement is not None else None
        if default is not None and default.state is api.KindState.WAITS:
            return f"metered, and its data plan says wait: {default.reason}"
        return "" if network.interface in prices else "metered, and nobody says what it costs"

    # --- measuring --------------------------------------------------------------------------------------------------

    def _is_due(self, network: ActiveNetwork, now_ns: int) -> bool:
        known = self._of(network)
        if known.asked_ns is None:
            return True
        gap_ns = METERED_ROUND_NS if network.metered else ROUND_NS
        if 0 < known.mute_rounds < MUTE_ROUNDS:
            gap_ns = SUSPECT_ROUND_NS
        return now_ns - known.asked_ns >= gap_ns

    async def _probe(self, due: list[ActiveNetwork], networks: tuple[ActiveNetwork, ...], now_ns: int) -> None:
        """One round. Routers are asked only for a sign of life, where no destination is known."""
        families = {family for family in (4, 6) if all(_has(network, family) for network in networks)}
        targets = self._targets.choose(families, now_ns)
        try:
            await asyncio.gather(*(self._ask_by(network, targets, now_ns) for network in due))
        except EnvironmentFault as fault:
            self._measures = False
            self._say("access", f"accesses without traffic are not measured: {fault}")

    async def _ask_by(self, network: ActiveNetwork, targets: list[str], now_ns: int) -> None:
        known = self._of(network)
        known.asked_ns = now_ns
        asked = targets or [router.address for router in network.routers[:1] if router.address]
        answers = await asyncio.gather(*(self._ask(network.interface, each) for each in asked))
        for target, answer in zip(asked, answers, strict=True):
            if target not in targets:
                continue
            if answer is not None:
                known.statistics.on_sample(Quantity.DELAY_NS, float(answer), now_ns)
            if self._targets.on_answer(target, answer is not None):
                known.statistics.on_packets(sent=1, lost=int(answer is None), marked=0, now_ns=now_ns)
        there = frozenset(each for each, answer in zip(asked, answers, strict=True) if answer is not None)
        spoke_before, known.answered = known.answered & frozenset(asked), there or known.answered & frozenset(asked)
        if there:
            known.mute_rounds, known.alive_ns = 0, now_ns
        elif spoke_before and not (known.alive_ns is not None and now_ns - known.alive_ns < SUSPECT_ROUND_NS):
            known.mute_rounds += 1

    # --- who is told ------------------------------------------------------------------------------------------------

    def _wants_to_act(self) -> bool:
        """A person's word is acted upon whatever the configuration says; an agent that observes does nothing."""
        return self._acts() and (self._section.choose == "act" or self._decision.chosen_by == PERSON)

    def _tell_people(self, networks: Iterable[ActiveNetwork]) -> None:
        decision = self._decision
        titles = {network.interface: network.title for network in networks}
        if self._section.choose == "off" and decision.chosen_by != PERSON:
            return
        if decision.chosen_by == SYSTEM or decision.interface not in titles:
            message = "new flows go as the system says" if self._told else ""
        else:
            verb = "go" if self._wants_to_act() else "would go"
            message = f"new flows {verb} by {titles[decision.interface]}"
        if message and message != self._told:
            self._say("access", f"{message}: {decision.reason}" if decision.reason else message)
            self._told = message if decision.chosen_by != SYSTEM else ""

    def _tell_kernel(self, networks: tuple[ActiveNetwork, ...], now_ns: int) -> None:
        """In a thread, one order at a time. Once told, the kernel hears of each change until the agent stops acting."""
        if self._work is not None and not self._work.done():
            return
        order = self._wanted_order(networks)
        if order is None:
            if self._order is not None:
                self._order = None
                self._start(self._restore())
            return
        if self._order is None and order[0] == system_choice(networks):
            return  # nothing was changed yet, and nothing has to be
        gap_ns = VERIFY_NS if self._applied.families else RETRY_NS
        if order == self._order and now_ns - self._told_ns < gap_ns:
            return
        self._order, self._told_ns = order, now_ns
        self._start(self._apply(order[0], [network.interface for network in networks]))

    def _wanted_order(self, networks: tuple[ActiveNetwork, ...]) -> tuple[str, object] | None:
        decision = self._decision
        if not self._wants_to_act() or not decision.interface or self._vpn():
            return None
        ground = tuple((each.interface, each.routers, each.addresses, each.metrics) for each in networks)
        return decision.interface, ground

    def _vpn(self) -> str:
        names = ", ".join(each.interface for each in self._situation.tunnels)
        return f"VPN {names} carries default traffic: nothing is changed" if names else ""

    def _start(self, work: Awaitable[None]) -> None:
        self._work = asyncio.ensure_future(work)
        self._work.add_done_callback(report_fault)

    async def _apply(self, chosen: str, accesses: list[str]) -> None:
        try:
            applied = await asyncio.to_thread(self._routes.apply, chosen, accesses)
        except EnvironmentFault as fault:
            applied = AccessApplied(obstacles=(str(fault),))
        if applied.obstacles != self._applied.obstacles and not applied.families:
            self._say("access", f"new flows go as the system says: {'; '.join(applied.obstacles)}")
        for obstacle in applied.obstacles:
            LOG.info("access %s: %s", chosen, obstacle)
        self._applied = applied

    # --- what people see --------------------------------------------------------------------------------------------

    @property
    def in_force(self) -> bool:
        """Whether the kernel follows us now."""
        return bool(self._applied.families)

    def view(self) -> tuple[api.Access, ...]:
        """The one that is used first."""
        prices = _by_interface(self._prices())
        return tuple(self._row(network, prices) for network in self._situation.networks[:ACCESSES_MAX])

    def _row(self, network: ActiveNetwork, prices: dict[str, int]) -> api.Access:
        known, decision = self._of(network), self._decision
        verdict = decision.of(network.interface)
        now_ns = known.asked_ns or 0
        delay = known.statistics.estimate(Quantity.DELAY_NS, now_ns)
        loss = known.statistics.estimate(Quantity.LOSS_PPM, now_ns)
        cost = verdict.cost_picodollars if verdict is not None else None
        return api.Access(
            interface=network.interface,
            network=network.title,
            router=network.router,
            used=network.is_primary,
            chosen_by=decision.chosen_by if self.in_force or self._is_so_anyway() else SYSTEM,
            delay_ns=delay.value if delay is not None else None,
            loss_ppm=loss.value if loss is not None else None,
            price_nanodollars_per_mb=prices.get(network.interface),
            cost_nanodollars_per_packet=None if cost is None else round(cost / 1000),
            reason=self._reason(network, verdict.reason if verdict is not None else ""),
        )

    def _is_so_anyway(self) -> bool:
        """What is wanted is what the system does: nothing had to be changed for it."""
        primary = self._situation.primary
        return primary is not None and primary.interface == self._decision.interface

    def _reason(self, network: ActiveNetwork, reason: str) -> str:
        decision = self._decision
        if network.interface != decision.interface or network.is_primary:
            return reason
        if vpn := self._vpn():
            return f"would be taken: {reason}; {vpn}"
        if not self._wants_to_act():
            why = "the agent only observes" if not self._acts() else "the configuration says advise"
            if decision.chosen_by in (AGENT, PERSON):
                return f"would be taken, but {why}: {reason}"
        if self._applied.obstacles and not self._applied.families:
            return f"would be taken: {reason}; {'; '.join(self._applied.obstacles)}"
        return reason


def system_choice(networks: Iterable[ActiveNetwork]) -> str:
    """Where the main table would send packets without us: the lowest metric, IPv4's first."""
    last = 1 << 33
    ordered = sorted(networks, key=lambda each: tuple(last if metric is None else metric for metric in each.metrics))
    return ordered[0].interface if ordered else ""


def _has(network: ActiveNetwork, family: int) -> bool:
    return network.metrics[0 if family == 4 else 1] is not None


def _by_interface(prices: Iterable[api.Price]) -> dict[str, int]:
    """The dearer direction of each; what is paid to somebody."""
    found: dict[str, int] = {}
    for price in prices:
        if price.source != _INTERNAL:
            found[price.interface] = max(found.get(price.interface, 0), price.nanodollars_per_mb)
    return found
