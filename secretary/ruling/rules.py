"""Which rule a flow or a transfer falls under, what the rule says, and how often each rule did.

Decides: what a rule's conditions mean, what its outcome allows (a maximum price, never, a question, or what the learner
says), and what counts as one flow. Refuses to know: who goes before whom (`secretary.ruling.precedence`), ceilings,
budgets, grants, files and clocks (`Moment` is an argument). Pure.

Precedence, from the strongest; the first that has something to say decides:

1. a person's standing answer to an earlier question (`secretary.ruling.terms`),
2. the person's own rules, in the order of their files, the first that matches,
3. the organisation's rules, the first that matches,
4. what was learned from answers,
5. the shipped table of kinds (`secretary.kinds`).

Over all of them stand the ceilings of the organisation and of the person (`secretary.ruling.ceilings`): the least
holds, and nothing raises it. A rule that leaves a transfer to the learner skips what stands between it and 4.

A condition about what the host does not know of a transfer (an empty name, foreground None) does not match. A price is
compared as an inequality, with the most that may be paid: a cheaper transfer is always as welcome as a dear one.

Source: Bill-Pay 2.4 (rules by application come first; learning comes later); MacKie-Mason and Varian, "Pricing the
Internet" (a default bid for each application, to be overridden; an inequality on the highest price).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Annotated, Final

import msgspec

from billpay.errors import RemoteProtocolError
from billpay.header import MAX_AMOUNT_NANODOLLARS
from billpay.messages import FlowSelector
from secretary.transfers import Moment, Nanodollars, Transfer

PROTOCOLS: Final = {"tcp": 6, "udp": 17, "any": 0}
PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_OF_A_DAY: Final = 24 * 60
BYTES_OF_A_MB: Final = 10**6
PACKET_BYTES: Final = 1500
TIMELY: Final = "timely"
PROBES_NANODOLLARS: Final = 1_000_000
"""For the probes of one flow, where a rule does not say."""
"""Of a full packet: what a transfer is divided by for a bound on each packet, and never more than it has packets."""
HITS_MAX: Final = 20_000


class Pay(enum.Enum):
    """What a rule says of what it matches."""

    UP_TO = "up to"  # its maximum price
    NEVER = "never"
    ASK = "ask"  # the person; its maximum price, if any, holds while the question waits
    LEARN = "learn"  # what was learned; its maximum price, if any, is over that


class Source(enum.Enum):
    """Who decided, from the strongest."""

    ANSWER = "answer"
    PERSON = "person"
    ORGANISATION = "organisation"
    LEARNED = "learned"
    KINDS = "kinds"


class Most(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A maximum price. Of what is given each part has to hold; None is not said."""

    mb_nanodollars: Nanodollars | None = None
    transfer_nanodollars: Nanodollars | None = None
    packet_nanodollars: Annotated[int, msgspec.Meta(ge=0, le=MAX_AMOUNT_NANODOLLARS)] | None = None

    @property
    def is_said(self) -> bool:
        return any(part is not None for part in msgspec.structs.astuple(self))

    def of_transfer(self, size_bytes: int) -> int | None:
        """Of the whole transfer; None: no bound is said. One of unknown size (0) is bounded by its first megabyte."""
        size = size_bytes or BYTES_OF_A_MB
        bounds = []
        if self.mb_nanodollars is not None:
            bounds.append(self.mb_nanodollars * size // BYTES_OF_A_MB)
        if self.transfer_nanodollars is not None:
            bounds.append(self.transfer_nanodollars)
        if self.packet_nanodollars is not None:
            bounds.append(self.packet_nanodollars * -(-size // PACKET_BYTES))
        return min(bounds, default=None)

    def of_packet(self, packet_bytes: int = PACKET_BYTES) -> int | None:
        """Of one packet; None: no bound is said."""
        bounds = [bound for bound in (self.packet_nanodollars, self.transfer_nanodollars) if bound is not None]
        if self.mb_nanodollars is not None:
            bounds.append(self.mb_nanodollars * packet_bytes // BYTES_OF_A_MB)
        return min((*bounds, MAX_AMOUNT_NANODOLLARS)) if bounds else None

    def __str__(self) -> str:
        parts = (
            (self.mb_nanodollars, "a MB"),
            (self.transfer_nanodollars, "a transfer"),
            (self.packet_nanodollars, "a packet"),
        )
        return " and ".join(f"{bound} n$ {what}" for bound, what in parts if bound is not None) or "nothing"


NO_BOUND: Final = Most()


@dataclass(frozen=True, slots=True, order=True)
class Hours:
    """Of the local day, in minutes from midnight; `until` is not in it. From late to early: over midnight."""

    since: int
    until: int

    def holds(self, minute: int) -> bool:
        if self.since < self.until:
            return self.since <= minute < self.until
        return minute >= self.since or minute < self.until

    def began_the_day_before(self, minute: int) -> bool:
        return self.since >= self.until and minute < self.until

    def __str__(self) -> str:
        return f"{self.since // 60:02}:{self.since % 60:02}-{self.until // 60:02}:{self.until % 60:02}"


def probes_budget(strategy: str, said_nanodollars: int | None) -> int:
    """What the probes of one flow may cost."""
    if strategy != TIMELY:
        return 0
    return PROBES_NANODOLLARS if said_nanodollars is None else said_nanodollars


def wrong_probes(strategy: str, said_nanodollars: int | None, most_nanodollars: int) -> Iterator[tuple[str, str]]:
    """Problem and remedy. A probe carries the whole willingness, else it does not show the toll."""
    if said_nanodollars is None:
        return
    if strategy != TIMELY:
        yield f"has no meaning for strategy {strategy!r}", "take it out, or write strategy = 'timely'"
    elif 0 < said_nanodollars < most_nanodollars:
        yield (
            f"is {said_nanodollars}: less than willingness_nanodollars, one probe",
            f"at least {most_nanodollars}, or 0",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is not said (0, empty, None) holds for all. Money in nanodollars, the rate for each second.

    Names may be globs. `programs`: file names, or paths where there is a slash. `amount_nanodollars` and what follows
    it say how a flow's grant is made out.
    """

    name: str
    source: Source = Source.PERSON
    file: str = ""  # where it stands
    protocol: int = 0
    destinations: tuple[IPv4Network | IPv6Network, ...] = ()
    destination_names: tuple[str, ...] = ()
    ports: frozenset[int] = frozenset()
    programs: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    hours: tuple[Hours, ...] = ()
    days: frozenset[int] = frozenset()  # 0: Monday; hours over midnight belong to the day on which they began
    foreground: bool | None = None
    pay: Pay = Pay.UP_TO
    most: Most = NO_BOUND
    strategy: str = "fixed"
    amount_nanodollars: int = 0
    willingness_nanodollars: int = 0
    target_bit_s: int = 0
    probes_nanodollars: int = 0  # timely: for probes of a flow's ways, besides the flow
    grant_nanodollars: int = 0
    rate_nanodollars_per_s: int = 0
    burst_nanodollars: int = 0
    lifetime_s: int = 600

    @property
    def maximum(self) -> Most:
        """What it says of prices; a rule that names a packet's amount only is bounded by that."""
        if self.most.is_said or self.pay is not Pay.UP_TO:
            return self.most
        return Most(packet_nanodollars=max(self.amount_nanodollars, self.willingness_nanodollars))

    def matches(
        self, flow: FlowSelector | None = None, transfer: Transfer | None = None, now: Moment | None = None
    ) -> bool:
        """All that the rule says has to hold of what is known."""
        return (
            self._matches_flow(flow)
            and (transfer is not None or not self._names_a_transfer)
            and self._matches_destination(flow, transfer)
            and (transfer is None or self._matches_transfer(transfer))
            and (not (self.hours or self.days) or (now is not None and self._matches_time(now)))
        )

    @property
    def _names_a_transfer(self) -> bool:
        named = self.programs or self.users or self.tasks or self.kinds or self.networks
        return bool(named) or self.foreground is not None

    def _matches_flow(self, flow: FlowSelector | None) -> bool:
        if flow is None:
            return not (self.protocol or self.ports)
        if self.protocol not in (0, flow.protocol):
            return False
        return not self.ports or flow.destination_port in self.ports

    def _matches_destination(self, flow: FlowSelector | None, transfer: Transfer | None) -> bool:
        if not (self.destinations or self.destination_names):
            return True
        named = transfer.destination if transfer is not None else ""
        if self.destination_names and named and name_matches(self.destination_names, named.rstrip(".").lower()):
            return True
        if not self.destinations:
            return False
        # The flow's address is what packets go to; a transfer's may be a name.
        address = _address_of(flow.destination if flow is not None else named)
        if address is None:
            return False
        return any(address.version == network.version and address in network for network in self.destinations)

    def _matches_transfer(self, transfer: Transfer) -> bool:
        return (
            (not self.programs or program_matches(self.programs, transfer.program))
            and (not self.users or name_matches(self.users, transfer.user))
            and (not self.kinds or name_matches(self.kinds, transfer.kind))
            and (not self.networks or name_matches(self.networks, transfer.network))
            and (not self.tasks or name_matches(self.tasks, transfer.task))
            and (self.foreground is None or self.foreground is transfer.foreground)
        )

    def _matches_time(self, now: Moment) -> bool:
        local = now.local
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if not self.hours:
            return day in self.days
        for hours in self.hours:
            if hours.holds(minute):
                began = (day - 1) % len(DAYS) if hours.began_the_day_before(minute) else day
                if not self.days or began in self.days:
                    return True
        return False


def find_rule(
    rules: Iterable[Rule],
    flow: FlowSelector | None = None,
    transfer: Transfer | None = None,
    now: Moment | None = None,
) -> Rule | None:
    """The first that matches; None: none has anything to say, and a flow is worth nothing to the user."""
    return next((rule for rule in rules if rule.matches(flow, transfer, now)), None)


# --- names ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=10_000)
def _pattern(glob: str) -> re.Pattern[str] | None:
    """None: it is a plain name."""
    return re.compile(translate(glob)) if any(sign in glob for sign in "*?[") else None


def name_matches(globs: Sequence[str], name: str) -> bool:
    """A name that is not known matches nothing, not even `*`."""
    if not name:
        return False
    for glob in globs:
        pattern = _pattern(glob)
        if name == glob if pattern is None else pattern.match(name) is not None:
            return True
    return False


def program_matches(globs: Sequence[str], program: str) -> bool:
    """By the whole path where the glob has a slash, else by the file's name."""
    name = program.rpartition("/")[2]
    return any(name_matches((glob,), program if "/" in glob else name) for glob in globs)


@lru_cache(maxsize=10_000)
def _address_of(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


# --- for a person -----------------------------------------------------------------------------------------------------


def condition_text(rule: Rule) -> str:
    """`program zoom, to 203.0.113.0/24, mon tue, 08:00-18:00`."""
    parts = (
        ("program", rule.programs),
        ("user", rule.users),
        ("task", rule.tasks),
        ("kind", rule.kinds),
        ("protocol", (PROTOCOL_NAMES.get(rule.protocol, str(rule.protocol)),) if rule.protocol else ()),
        ("to", (*map(str, rule.destinations), *rule.destination_names)),
        ("port", tuple(map(str, sorted(rule.ports)))),
        ("on", rule.networks),
        ("on", tuple(DAYS[day] for day in sorted(rule.days))),
        ("at", tuple(map(str, rule.hours))),
    )
    said = [f"{what} {' '.join(values)}" for what, values in parts if values]
    if rule.foreground is not None:
        said.append("in the foreground" if rule.foreground else "in the background")
    return ", ".join(said) or "anything"


def outcome_text(rule: Rule) -> str:
    """`up to 20 n$ a packet`."""
    bound = rule.maximum
    match rule.pay:
        case Pay.UP_TO:
            return f"up to {bound}"
        case Pay.NEVER:
            return "never"
        case Pay.ASK:
            return f"ask, and up to {bound} until it is answered" if bound.is_said else "ask"
        case Pay.LEARN:
            return f"as learned, up to {bound}" if bound.is_said else "as learned"


# --- how often --------------------------------------------------------------------------------------------------------


class RuleCount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a rule decided, since it was first there."""

    source: Source
    file: str
    rule: str
    hits: Annotated[int, msgspec.Meta(ge=0)]
    last_unix_s: Annotated[int, msgspec.Meta(ge=0)]


class HitsSnapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept over a restart."""

    counts: tuple[RuleCount, ...] = ()


_Place = tuple[Source, str, str]


class Hits:
    """Cumulative. A rule is known by who made it, its file and its name, so that it may move within its file."""

    def __init__(self, kept: HitsSnapshot | None = None) -> None:
        self._counts: dict[_Place, tuple[int, int]] = {
            (count.source, count.file, count.rule): (count.hits, count.last_unix_s)
            for count in (kept.counts if kept is not None else ())
        }

    def count(self, rule: Rule, unix_s: int) -> None:
        place = (rule.source, rule.file, rule.name)
        self._counts[place] = (self.of(rule) + 1, unix_s)
        while len(self._counts) > HITS_MAX:
            del self._counts[next(iter(self._counts))]

    def of(self, rule: Rule) -> int:
        return self._counts.get((rule.source, rule.file, rule.name), (0, 0))[0]

    def forget_all_but(self, rules: Iterable[Rule]) -> None:
        """Rules that are gone; call it when the files were read, not while one of them is wrong."""
        there = {(rule.source, rule.file, rule.name) for rule in rules}
        self._counts = {place: count for place, count in self._counts.items() if place in there}

    def snapshot(self) -> HitsSnapshot:
        return HitsSnapshot(
            counts=tuple(
                RuleCount(source=source, file=file, rule=rule, hits=hits, last_unix_s=last)
                for (source, file, rule), (hits, last) in self._counts.items()
            )
        )


# --- one flow ---------------------------------------------------------------------------------------------------------


def check_exact(flow: FlowSelector) -> None:
    """Raises RemoteProtocolError unless it is one flow, and written in the one way in which flows are compared."""
    if not flow.protocol:
        raise RemoteProtocolError("not-one-flow", "name the protocol of the flow")
    try:
        source, destination = ip_address(flow.source), ip_address(flow.destination)
    except ValueError as error:
        raise RemoteProtocolError("bad-address", str(error)) from error
    if (str(source), str(destination)) != (flow.source, flow.destination) or "%" in flow.source + flow.destination:
        raise RemoteProtocolError("bad-address", f"write {source.compressed} and {destination.compressed}, no zone")
    if source.version != destination.version:
        raise RemoteProtocolError("bad-address", f"{source} and {destination} are not of one IP version")
