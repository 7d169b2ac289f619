"""What happens once a second between a reading and the plan: who gets what of each link, and what it costs.

Decides the order: where are we (`whereabouts`) → what can the links carry (`rates`) → what does a person say → what
does the data plan allow (`books`) → the plan; and from the reading: demands → prices → internal money → books. The
decisions themselves are in `hostagent.sharing`, pure. Refuses to know: engines (it is given `apply`), payments, sockets.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from billpay.errors import EnvironmentFault
from dataplane.metering import FlowMeter, Program, Reading
from dataplane.shaping.matching import Matcher
from dataplane.shaping.plan import ShapingPlan
from hostagent import api, kept
from hostagent.books import Books
from hostagent.clock import Clock
from hostagent.configuration import Configuration, Terms, terms_of
from hostagent.desk import Refused
from hostagent.history.accumulator import NetworkPrice, Surroundings
from hostagent.mode import ModeKeeper
from hostagent.networks.known import KnownNetwork
from hostagent.networks.situation import ActiveNetwork, Situation
from hostagent.notices import Notices
from hostagent.sharing.clearing import Clearing, Demand, InternalAccount, LinkClearing
from hostagent.sharing.contracts import tariff_text
from hostagent.sharing.demand import Demands, Moved, Moves
from hostagent.sharing.links import CountedLink, OnNetwork, Rates, choose_links, said_of
from hostagent.sharing.policy import (
    RUNS,
    Policy,
    Source,
    Verdict,
    changed,
    compose,
    condition_text,
    counting_only,
)
from hostagent.sharing.words import Words
from hostagent.traffic import ClassLabel, Labels, LinkLabel, Second

LOG = logging.getLogger("hostagent")
LOOK_FOR_QUIT_EVERY_S: Final = 5
JUDGE_EVERY_S: Final = 5


class Looking(Protocol):
    """Where the host is; `hostagent.whereabouts.Whereabouts`."""

    def look(self) -> Situation: ...

    def remembered(self, key: str) -> KnownNetwork | None: ...

    def measured(self, key: str, rates: Rates) -> None: ...


class Measuring(Protocol):
    """What lines carry; `hostagent.rates.MeasuredRates`."""

    def arrive(self, network: str, *, egress_bit_s: int | None, ingress_bit_s: int | None) -> None: ...

    def leave_all_but(self, networks: Iterable[str]) -> None: ...

    def look(self, reading: Reading, networks: Sequence[ActiveNetwork]) -> dict[str, Rates]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OnTunnel:
    """A VPN as a network of its own: what goes into it is counted there by program, and below it as the VPN's."""

    key: str
    title: str
    interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceNow:
    """Of one link and direction."""

    interface: str
    direction: str
    clearing: Clearing


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
        running_programs: Callable[[], frozenset[str]],
    ) -> None:
        self._configuration = configuration
        self._terms: Terms = terms_of(configuration, config_path)
        self._clock = clock
        self._looking = looking
        self._notices = notices
        self._apply = apply
        self._running_programs = running_programs
        self._books = books
        self._measuring = measuring
        said, trouble = kept.read(configuration.state_directory)
        if trouble:
            notices.say(clock.unix_s(), "said", trouble)
        self._kept = said
        self._words = Words(said.words)
        self.mode = ModeKeeper(said.mode or api.Mode(configuration.agent.mode))
        self.situation = Situation()
        self.links: tuple[CountedLink, ...] = ()
        self._measured: dict[str, Rates] = {}
        self.verdicts: Mapping[str, Verdict] = {}
        self._policy: Policy | None = None
        self._matcher: Matcher | None = None
        self._applied: ShapingPlan | None = None
        self._demands = Demands()
        self._clearings: dict[tuple[str, str], LinkClearing] = {}
        self.prices: tuple[PriceNow, ...] = ()
        self._internal = InternalAccount()
        self._rule_hits: dict[tuple[Source, str, str], int] = {}
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
        )
        before = self._policy
        shaped = [link.shaped for link in self.links]
        self._policy = compose(self._terms.kinds, self._terms.rules, self._words.all(), shaped, self.verdicts)
        if before is None or before.plan.rules != self._policy.plan.rules:
            self._matcher = Matcher(self._policy.plan)
        self._indexes = _indexes(self.links)
        return self._policy.plan if self.mode.acts else counting_only(self._policy.plan)

    async def replan(self) -> None:
        """The engine hears of it when something changed. Raises EnvironmentFault."""
        plan = self._new_plan()
        if changed(self._applied, plan):
            await self._apply(plan)
            self._applied = plan

    # --- once a second ----------------------------------------------------------------------------------------------

    async def on_second(self, second: Second) -> None:
        """Raises EnvironmentFault when the engine does not take a plan."""
        self._seconds += 1
        now = self._clock.moment()
        self._look()
        for word in self._words.expire(now):
            self._notices.say(now.unix_s, "word", f"what you said of {word.program} is over")
            self._keep()
        if self._words.waits_for_end_of() and self._seconds % LOOK_FOR_QUIT_EVERY_S == 0:
            running = await asyncio.to_thread(self._running_programs)
            for word in self._words.quit(running):
                self._notices.say(now.unix_s, "word", f"{word.program} has quit: what you said of it is over")
                self._keep()
        if self.mode.rolled_back(self._clock.monotonic_ns()):
            self._notices.say(now.unix_s, "mode", "nobody confirmed: it only counts again, and nothing is changed")
            self._keep()
        self._measure(second.reading)
        moves = self._demands.look(second.reading, second.flows)
        self._count_rules(moves.new_flows, second)
        self._price(moves)
        self._books.on_second(second, self._surroundings())
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
        found = self._measuring.look(reading, self.situation.networks)
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
            text = f"{kind.title}: at most {each.cap_bit_s / 1e6:g} Mbit/s, as configured"
        else:
            text = f"{kind.title}: shares by worth, weight {each.weight}"
        return text if self.mode.acts else f"{text} (would: it only counts)"

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
                    spent_nanodollars=self._internal.nanodollars(kind.name),
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
            for each in self.prices
        )

    def line_rates(self) -> dict[str, Rates]:
        """What the lines carry, by network key."""
        return {link.network: link.rates for link in self.links}

    def tariff_texts(self) -> dict[str, str]:
        """What each network costs, by key, in one line."""
        sections = self._configuration.networks
        return {network.key: tariff_text(said_of(sections, network)) for network in self.situation.networks}

    def view_worths(self) -> tuple[api.Worth, ...]:
        now = self._clock.moment()
        return tuple(
            api.Worth(
                program=word.program,
                kind=word.kind,
                nanodollars_per_mb=word.nanodollars_per_mb,
                term=word.term,
                seconds_left=None if (left := word.seconds_left(now)) is None else max(0, left),
            )
            for word in self._words.all()
        )

    def _price(self, moves: Moves) -> None:
        kinds, classes = self.policy.kinds, self.policy.plan.classes
        indexes = {name: index for index, name in self._indexes.items()}
        prices = []
        for link in self.links:
            index = indexes.get(link.interface, -1)
            rates = [self._demands.rate(index, number) for number in range(len(kinds))]
            for direction, at, limit in (
                ("out", 0, link.shaped.egress_bit_s or link.rates.egress_bit_s),
                ("in", 1, link.shaped.ingress_bit_s or link.rates.ingress_bit_s),
            ):
                demands = [
                    Demand(
                        kind=kind.name,
                        bit_s=rate[at],
                        worth_nanodollars_per_mb=kind.worth_nanodollars_per_mb,
                        weight=each.weight,
                        capped=each.cap_bit_s is not None and rate[at] * 10 >= each.cap_bit_s * 8,
                    )
                    for kind, each, rate in zip(kinds, classes, rates, strict=True)
                    if rate[at]
                ]
                clearing = self._clearings.setdefault((link.interface, direction), LinkClearing())
                priced = clearing.clear(limit, demands)
                prices.append(PriceNow(interface=link.interface, direction=direction, clearing=priced))
                owed = {
                    kinds[number].name: moved[at]
                    for (interface, number), moved in moves.kinds.items()
                    if interface == index and number < len(kinds)
                }
                self._internal.charge(owed, priced.nanodollars_per_mb)
        self.prices = tuple(prices)

    def _surroundings(self) -> Surroundings:
        by_link = {(each.interface, each.direction): each.clearing.nanodollars_per_mb for each in self.prices}
        return Surroundings(
            networks={link.interface: link.network for link in self.links},
            interfaces=self._indexes,
            kinds=[kind.name for kind in self.policy.kinds],
            prices={
                link.network: NetworkPrice(
                    by_link.get((link.interface, "out"), 0), by_link.get((link.interface, "in"), 0)
                )
                for link in self.links
            },
        )

    # --- rules and reasons ------------------------------------------------------------------------------------------

    def _count_rules(self, flows: Sequence[FlowMeter], second: Second) -> None:
        programs = {meter.number: meter.program for meter in second.reading.programs}
        for flow in flows:
            number = self.rule_of(flow, programs.get(flow.program_number))
            if number is not None:
                place = self._rule_place(number)
                self._rule_hits[place] = self._rule_hits.get(place, 0) + 1

    def rule_of(self, flow: FlowMeter, program: Program | None) -> int | None:
        """Which rule put the flow into its class, by its place in the plan; None: none did.

        Whether the flow came to us is not in the meter: the port under which a rule agrees with its class decides.
        """
        if self._matcher is None or program is None:
            return None
        for port in (flow.key.remote_port, flow.key.local_port):
            number = self._matcher.rule_of(program, flow.key.protocol, port, flow.key.remote)
            if number is not None and self.policy.plan.rules[number].traffic_class == flow.traffic_class:
                return number
        return None

    def _rule_place(self, number: int) -> tuple[Source, str, str]:
        """What a rule is counted by: its number changes when another one is put before it."""
        rule = self.policy.plan.rules[number]
        kind = self.policy.kinds[rule.traffic_class].name
        return self.policy.sources[number], condition_text(rule.match), kind

    def view_rules(self) -> tuple[api.Rule, ...]:
        places = (self._rule_place(number) for number in range(len(self.policy.plan.rules)))
        return tuple(
            api.Rule(
                number=number,
                source=place[0].value,
                condition=place[1],
                kind=place[2],
                flows=self._rule_hits.get(place, 0),
            )
            for number, place in enumerate(places)
        )

    # --- what a person says -----------------------------------------------------------------------------------------

    async def set_mode(self, change: api.ModeChange) -> None:
        self.mode.change(change, self._clock.monotonic_ns())
        if change.mode is api.Mode.ACT and not change.trial_s:
            self._kept = kept.Kept(mode=self.mode.kept, confirmed=True, words=self._kept.words)
        self._keep()
        await self.replan()

    async def set_worth(self, change: api.WorthChange) -> None:
        if change.kind is not None and all(kind.name != change.kind for kind in self._terms.kinds):
            names = ", ".join(kind.name for kind in self._terms.kinds)
            raise Refused("unknown-kind", f"there is no kind {change.kind!r}: there are {names}")
        self._words.say(
            change.program,
            change.term,
            self._clock.moment(),
            kind=change.kind,
            nanodollars_per_mb=change.nanodollars_per_mb,
        )
        self._keep()
        await self.replan()

    def keep_answer(self, program: str, answer: api.Answer) -> None:
        """The same answer to the program's next questions, for as long as was said."""
        self._words.say(program, answer.term, self._clock.moment(), allow=answer.allow)
        self._keep()

    def standing_answers(self, questions: Sequence[api.Question]) -> list[tuple[int, bool]]:
        """To those of `questions` that were answered before."""
        found = []
        for question in questions:
            word = self._words.of(question.program)
            if word is not None and word.allow is not None:
                found.append((question.number, word.allow))
        return found

    def reload(self, configuration: Configuration, config_path: Path) -> None:
        """Raises ConfigurationError, and nothing is changed then."""
        self._terms = terms_of(configuration, config_path)
        self._configuration = configuration
        self._books.reload(configuration)
        self._judge()

    def _keep(self) -> None:
        """What cannot be written holds all the same, and is said."""
        self._kept = kept.Kept(mode=self.mode.kept, confirmed=self._kept.confirmed, words=self._words.all())
        try:
            kept.write(self._configuration.state_directory, self._kept)
        except EnvironmentFault as fault:
            self._notices.say(self._clock.unix_s(), "said", f"holds until the agent ends only: {fault}")


def _indexes(links: Sequence[CountedLink]) -> dict[int, str]:
    """Names by index, of the interfaces that are there now."""
    found = {}
    for link in links:
        try:
            found[socket.if_nametoindex(link.interface)] = link.interface
        except OSError:  # it has gone since somebody saw it: the next look will not name it
            continue
    return found
