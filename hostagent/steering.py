"""What happens once a second between a reading and the plan: who gets what of each link, and what it costs.

Decides the order: where are we (`whereabouts`) → what can the links carry (`rates`) → what does a person say → what
does the data plan allow (`books`) → the plan; and from the reading: demands → prices → internal money → books. The
decisions themselves are in `hostagent.sharing`, pure. Refuses to know: engines (it is given `apply`) and payments.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from dataplane.metering import Reading
from dataplane.shaping.plan import ShapingPlan
from hostagent import api
from hostagent.books import Books
from hostagent.configuration import Configuration, Terms, terms_of
from hostagent.history.accumulator import NetworkPrice, Surroundings
from hostagent.history.values import Payment
from hostagent.networks.known import KnownNetwork
from hostagent.networks.situation import ActiveNetwork, Situation
from hostagent.notices import Notices
from hostagent.said import Said
from hostagent.sharing.contracts import tariff_text
from hostagent.sharing.demand import Demands, Moved
from hostagent.sharing.links import CountedLink, OnNetwork, Rates, choose_links, said_of
from hostagent.sharing.policy import (
    RUNS,
    Policy,
    Verdict,
    changed,
    compose,
    counting_only,
)
from hostagent.sharing.pricing import Pricing
from hostagent.sharing.rule_hits import RuleHits
from hostagent.traffic import ClassLabel, Labels, LinkLabel, Second
from secretary.clock import Clock

LOG = logging.getLogger("hostagent")
LOOK_FOR_QUIT_EVERY_S: Final = 5
JUDGE_EVERY_S: Final = 5
NOTHING_TO_DO: Final = "all it wants: there is room"


class Looking(Protocol):
    """Where the host is; `hostagent.whereabouts.Whereabouts`."""

    def look(self) -> Situation: ...

    def remembered(self, key: str) -> KnownNetwork | None: ...

    def measured(self, key: str, rates: Rates) -> None: ...


class Measuring(Protocol):
    """What lines carry; `hostagent.rates.MeasuredRates`."""

    def arrive(self, network: str, *, egress_bit_s: int | None, ingress_bit_s: int | None) -> None: ...

    def leave_all_but(self, networks: Iterable[str]) -> None: ...

    def look(
        self, reading: Reading, networks: Sequence[ActiveNetwork], acted_on: Collection[str]
    ) -> dict[str, Rates]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OnTunnel:
    """A VPN as a network of its own: what goes into it is counted there by program, and below it as the VPN's."""

    key: str
    title: str
    interface: str


class Steering:
    """One for an agent's life. `apply` gives the engine another plan, and is called only when it is another one."""

    def __init__(
        self,
        *,
        configuration: Configuration,
        config_path: Path,
        clock: Clock,
        looking: Looking,
        notices: Notices,
        books: Books,
        measuring: Measuring | None,
        apply: Callable[[ShapingPlan], Awaitable[None]],
        said: Said,
        read_limit: Callable[[str], int | None],
    ) -> None:
        self._configuration = configuration
        self._terms: Terms = terms_of(configuration, config_path)
        self._clock = clock
        self._looking = looking
        self._notices = notices
        self._apply = apply
        self._books = books
        self._measuring = measuring
        self.said = said
        self._read_limit = read_limit
        self._limits: dict[str, int | None] = {}
        self.situation = Situation()
        self.links: tuple[CountedLink, ...] = ()
        self._measured: dict[str, Rates] = {}
        self.verdicts: Mapping[str, Verdict] = {}
        self._policy: Policy | None = None
        self._rules: RuleHits | None = None
        self._applied: ShapingPlan | None = None
        self._demands = Demands()
        self.pricing = Pricing()
        self._seconds = 0
        self._indexes: dict[int, str] = {}

    # --- the plan ---------------------------------------------------------------------------------------------------

    def first_plan(self) -> ShapingPlan:
        """Before an engine is there. Raises EnvironmentFault."""
        self._look()
        plan = self._new_plan()
        self._applied = plan
        return plan

    @property
    def policy(self) -> Policy:
        assert self._policy is not None, "the first plan is made first"
        return self._policy

    @property
    def rules(self) -> RuleHits:
        assert self._rules is not None, "the first plan is made first"
        return self._rules

    def _networks(self) -> list[OnNetwork]:
        """Where we are, and the VPNs that go over it."""
        tunnels = [
            OnTunnel(key=f"vpn-{each.interface}", title=f"VPN on {each.interface}", interface=each.interface)
            for each in self.situation.tunnels
        ]
        return [*self.situation.networks, *tunnels]

    def _new_plan(self) -> ShapingPlan:
        """What the engine is to do now."""
        self.links = choose_links(
            self._terms.links,
            self._networks(),
            self._configuration.networks,
            self._measured,
            self._limits_of(
                [link.interface for link in self._terms.links] or [each.interface for each in self._networks()]
            ),
        )
        shaped = [link.shaped for link in self.links]
        self._policy = compose(self._terms.kinds, self._terms.rules, self.said.words.all(), shaped, self.verdicts)
        self._rules = self._rules.after(self._policy) if self._rules is not None else RuleHits(self._policy)
        self._indexes = _indexes(self.links)
        return self._policy.plan if self.said.mode.acts else counting_only(self._policy.plan)

    def _limits_of(self, interfaces: Sequence[str]) -> dict[str, int]:
        """What others limit each interface to, as it was when it came: our own qdisc stands there later."""
        self._limits = {name: limit for name, limit in self._limits.items() if name in interfaces}
        for name in interfaces:
            if name not in self._limits:
                self._limits[name] = self._read_limit(name)
        return {name: limit for name, limit in self._limits.items() if limit is not None}

    async def replan(self) -> None:
        """The engine hears of it when something changed. Raises EnvironmentFault."""
        plan = self._new_plan()
        if changed(self._applied, plan):
            await self._apply(plan)
            self._applied = plan

    # --- once a second ----------------------------------------------------------------------------------------------

    async def on_second(self, second: Second, payments: Sequence[Payment] = ()) -> None:
        """`payments`: all that flows have paid so far. Raises EnvironmentFault when the engine does not take a plan."""
        self._seconds += 1
        await self.said.on_second()
        self._look()
        self._measure(second.reading)
        moves = self._demands.look(second.reading, second.flows)
        self.rules.count(moves.new_flows, second.reading)
        self.pricing.on_moves(moves, self._demands, self.links, self._indexes, self.policy)
        self._books.on_second(second, self._surroundings(), payments)
        if self._seconds % JUDGE_EVERY_S == 0:
            self._judge()
        await self.replan()

    def _look(self) -> None:
        before = {network.key: network.metered for network in self.situation.networks}
        self.situation = self._looking.look()
        if before != {network.key: network.metered for network in self.situation.networks}:
            self._judge()  # before the first byte on a network is booked
        for change in self.situation.changes:
            self._notices.say(self._clock.unix_s(), change.kind.value.replace(" ", "-"), change.message)
        if self._measuring is not None:
            keys = [network.key for network in self.situation.networks]
            self._measuring.leave_all_but(keys)
            for key in keys:
                known = self._looking.remembered(key)
                self._measuring.arrive(
                    key,
                    egress_bit_s=known.egress_bit_s if known is not None else None,
                    ingress_bit_s=known.ingress_bit_s if known is not None else None,
                )

    def _measure(self, reading: Reading) -> None:
        if self._measuring is None:
            return
        acted_on = {link.network for link in self.links if link.rates.source != "configured"}
        found = self._measuring.look(reading, self.situation.networks, acted_on if self.said.mode.acts else ())
        for key, rates in found.items():
            if rates.source == "measured" and rates != self._measured.get(key):
                self._looking.measured(key, rates)
        self._measured = found

    def _judge(self) -> None:
        """What the data plan allows from now on."""
        networks = self.situation.networks
        metered = {network.key: network.metered for network in networks}
        self.verdicts = self._books.judge(networks, metered, self._terms.kinds)

    # --- what people see --------------------------------------------------------------------------------------------

    def labels(self) -> Labels:
        titles = {network.key: network.title for network in self._networks()}
        dearest: dict[str, int] = {}
        for each in self.view_prices():
            dearest[each.interface] = max(dearest.get(each.interface, 0), each.nanodollars_per_mb)
        networks = {link.interface: titles.get(link.network, "") for link in self.links}
        return Labels(
            classes={
                number: ClassLabel(
                    worth_nanodollars_per_mb=kind.worth_nanodollars_per_mb, decision=self.decision(number)
                )
                for number, kind in enumerate(self.policy.kinds)
            },
            links={
                index: LinkLabel(network=networks.get(name, ""), price_nanodollars_per_mb=dearest.get(name))
                for index, name in self._indexes.items()
            },
        )

    def decision(self, number: int) -> str:
        """What a class gets and why, in one line."""
        kind, each = self.policy.kinds[number], self.policy.plan.classes[number]
        verdict = self.verdicts.get(kind.name, RUNS)
        if verdict.state is not api.KindState.RUNS:
            text = verdict.reason
        elif each.cap_bit_s is not None:
            text = f"at most {each.cap_bit_s / 1e6:g} Mbit/s, as configured"
        elif self.pricing.is_any_link_full:
            text = f"the line is full: its part by worth, weight {each.weight}"
        else:
            text = NOTHING_TO_DO
        return text if self.said.mode.acts or text == NOTHING_TO_DO else f"would be: {text}"

    def view_kinds(self) -> tuple[api.Kind, ...]:
        indexes = list(self._indexes)
        found = []
        for number, (kind, each) in enumerate(zip(self.policy.kinds, self.policy.plan.classes, strict=True)):
            verdict = self.verdicts.get(kind.name, RUNS)
            rates = [self._demands.rate(index, number) for index in indexes]
            total = self._demands.kind_totals.get(number, Moved())
            found.append(
                api.Kind(
                    name=kind.name,
                    title=kind.title,
                    worth_nanodollars_per_mb=kind.worth_nanodollars_per_mb,
                    weight=each.weight,
                    minimum_bit_s=each.minimum_bit_s,
                    can_wait=kind.can_wait,
                    sent_bit_s=sum(rate.sent_bit_s for rate in rates),
                    received_bit_s=sum(rate.received_bit_s for rate in rates),
                    sent_bytes=total.sent_bytes,
                    received_bytes=total.received_bytes,
                    cap_bit_s=each.cap_bit_s,
                    state=verdict.state,
                    spent_nanodollars=self.pricing.internal.nanodollars(kind.name),
                    reason=self.decision(number),
                )
            )
        return tuple(found)

    def view_prices(self) -> tuple[api.Price, ...]:
        plans = [
            api.Price(
                interface=link.interface,
                direction=direction,
                nanodollars_per_mb=judged.price_nanodollars_per_mb,
                source="data plan",
                reason=judged.reason,
            )
            for link in self.links
            if (judged := self._books.judgement(link.network)) is not None
            for direction in ("out", "in")
        ]
        return (*plans, *self._view_clearings())

    def _view_clearings(self) -> tuple[api.Price, ...]:
        return tuple(
            api.Price(
                interface=each.interface,
                direction=each.direction,
                nanodollars_per_mb=each.clearing.nanodollars_per_mb,
                source="embedded gateway",
                used_ppm=each.clearing.used_ppm,
                reason=each.clearing.reason,
            )
            for each in self.pricing.prices
        )

    def line_rates(self) -> dict[str, Rates]:
        """What the lines carry, by network key."""
        return {link.network: link.rates for link in self.links}

    def metered_said(self) -> dict[str, bool]:
        """By network key, where the configuration says it."""
        found = {}
        for network in self.situation.networks:
            section = said_of(self._configuration.networks, network)
            if section is not None and section.metered is not None:
                found[network.key] = section.metered
        return found

    def tariff_texts(self) -> dict[str, str]:
        """What each network costs, by key, in one line."""
        sections = self._configuration.networks
        return {network.key: tariff_text(said_of(sections, network)) for network in self.situation.networks}

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            networks={link.interface: link.network for link in self.links},
            interfaces=self._indexes,
            kinds=[kind.name for kind in self.policy.kinds],
            prices={
                link.network: NetworkPrice(
                    self.pricing.of(link.interface, "out"), self.pricing.of(link.interface, "in")
                )
                for link in self.links
            },
        )

    async def set_mode(self, change: api.ModeChange) -> None:
        self.said.set_mode(change)
        await self.replan()

    async def set_worth(self, change: api.WorthChange) -> None:
        """Raises Refused."""
        self.said.set_worth(change, [kind.name for kind in self._terms.kinds])
        await self.replan()

    def reload(self, configuration: Configuration, config_path: Path) -> None:
        """Raises ConfigurationError, and nothing is changed then."""
        self._terms = terms_of(configuration, config_path)
        self._configuration = configuration
        self._books.reload(configuration)
        self._judge()


def _indexes(links: Sequence[CountedLink]) -> dict[int, str]:
    """Names by index, of the interfaces that are there now."""
    found = {}
    for link in links:
        try:
            found[socket.if_nametoindex(link.interface)] = link.interface
        except OSError:  # it has gone since somebody saw it: the next look will not name it
            continue
    return found
