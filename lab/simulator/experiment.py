"""An experiment as people write it, read from TOML or JSON into frozen values: links, flows, marking, reactors, events.

Decides: which experiments are possible, and what a number without a unit means. Refuses to know: how one is run
(`fluid`, `packets`). `forms` turns what people write (strings with units, lists by name, other common words) into the
one form that is checked here. docs/spec/experiment.md is the reference.

Weights: a flow's willingness to pay is `weight`, the marked traffic in Mbit/s that it is willing to bear. So on links
in Mbit/s the marked share of a link is Kelly's price: weights 1 and 3 on 10 Mbit/s, price 0.4. In money it is
`willingness_nanodollars_per_s`; then the price per mark turns it into marks.
Sources: Kelly, Maulloo, Tan 1998; Gibbens and Kelly 1999; M3I scenarios 3 (B.2 of the planned experiments).
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

BITS_PER_BYTE = 8
MEGABIT = 1_000_000.0

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")]
Rate = Annotated[float, msgspec.Meta(gt=0, le=1e12)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=600_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e15)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
Packets = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Money = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
PacketBytes = Annotated[int, msgspec.Meta(ge=40, le=65_535)]


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything in an experiment."""


class Mode(StrEnum):
    """How it is run."""

    FLUID = "fluid"
    PACKETS = "packets"


class PathPrice(StrEnum):
    """What a flow pays of several links, in fluid mode. A packet has one mark, so packets are always `marks`."""

    SUM = "sum"  # the sum of the links' prices: Kelly's theory
    MARKS = "marks"  # 1 − Π (1 − m): a packet that two links mark has one mark


class MarkingKind(StrEnum):
    """The rule by which a link marks; `MARKING_DEFAULTS` says which parameters each has."""

    NONE = "none"
    CLEARING = "clearing"  # the marked share rises while the link is over its rate, and falls while it is under it
    POWER = "power"  # (y/C)^B; in fluid mode a price, which may be above 1
    OVERLOAD = "overload"  # (y − θC)⁺/y: the share that a smaller link would lose
    VIRTUAL_QUEUE = "virtual_queue"  # Gibbens–Kelly
    RED = "red"  # linear RED on the virtual queue, ALTQ's defaults
    AVQ = "avq"
    REM = "rem"
    STEP = "step"  # every packet that finds more than so much in the virtual queue


class Marking(Value, frozen=True, kw_only=True):
    """A link's rule. After loading, every parameter that its kind has is filled in; the others are 0."""

    kind: MarkingKind = MarkingKind.CLEARING
    theta: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.0  # virtual capacity and buffer, of the real ones
    exponent: NotNegative = 0.0  # power: B
    gain: NotNegative = 0.0  # clearing: of ln p, per longest RTT of its flows; rem: g per period
    alpha: NotNegative = 0.0  # avq: per second; rem: weight of the queue
    gamma: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.0  # avq: wanted utilisation; clearing: the same
    phi: NotNegative = 0.0  # rem
    reference_packets: Packets = 0.0  # rem: wanted queue
    period_ms: Milliseconds = 0.0  # rem
    min_packets: Packets = 0.0  # red
    max_packets: Packets = 0.0  # red
    max_p: Share = 0.0  # red
    average_weight: Share = 0.0  # red: of a new sample in the average
    threshold_packets: Packets = 0.0  # step


MARKING_DEFAULTS: dict[MarkingKind, dict[str, float]] = {
    MarkingKind.NONE: {},
    MarkingKind.CLEARING: {"gain": 0.1, "gamma": 1.0},
    MarkingKind.POWER: {"exponent": 4.0},
    MarkingKind.OVERLOAD: {"theta": 0.95},
    MarkingKind.VIRTUAL_QUEUE: {"theta": 0.95},
    MarkingKind.RED: {
        "theta": 0.95,
        "min_packets": 5.0,
        "max_packets": 15.0,
        "max_p": 0.1,
        "average_weight": 1 / 512,
    },
    MarkingKind.AVQ: {"gamma": 0.98, "alpha": 0.15},
    MarkingKind.REM: {"gain": 0.001, "alpha": 0.1, "phi": 1.001, "reference_packets": 20.0, "period_ms": 2.0},
    MarkingKind.STEP: {"theta": 0.95, "threshold_packets": 5.0},
}


class Link(Value, frozen=True, kw_only=True):
    """One direction of a link: a plain FIFO that marks. `delay_ms` is one way, without its queue."""

    name: Name
    rate_bit_s: Rate
    delay_ms: Milliseconds = 0.0
    buffer_packets: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 50  # the virtual queue's is theta times that
    marking: Marking = Marking()
    price_nanodollars_per_mark: Money | None = None  # None: the experiment's
    target_utilisation: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None  # its provider's price controller
    price_gain: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.5  # ln π ← ln π + gain (ρ − ρ*), each period
    price_period_s: Positive | None = None  # None: 20 of the longest RTT, and 1 s at least


class ReactorKind(StrEnum):
    """How a flow answers to its price; `REACTOR_PARAMETERS` says which parameters each has."""

    ELASTIC = "elastic"  # dx/dt = κ (w − x q)
    WINDOW = "window"  # the same by acknowledgement: cwnd += κ̄ (w̄/cwnd − f)
    MULTCP = "multcp"  # as `weight` Renos
    RENO = "reno"  # TCP: a mark halves the window
    ALPHA_FAIR = "alpha_fair"  # dx/dt = κ q (x̂ − x), x̂ = x₀ (w/(x₀ q))^(1/α)
    STREAMING = "streaming"  # the step of its ladder that is worth its price
    TRANSFER = "transfer"  # so many bytes by a deadline
    UNRESPONSIVE = "unresponsive"  # sends at its rate, whatever that costs


_GAINS = ("gain_per_s", "gain_of_bound")
REACTOR_PARAMETERS: dict[ReactorKind, tuple[str, ...]] = {
    ReactorKind.ELASTIC: (*_GAINS, "interval_ms", "min_bit_s", "max_bit_s", "exact"),
    ReactorKind.WINDOW: (*_GAINS, "min_bit_s", "max_bit_s"),
    ReactorKind.MULTCP: ("max_bit_s",),
    ReactorKind.RENO: ("max_bit_s",),
    ReactorKind.ALPHA_FAIR: (*_GAINS, "interval_ms", "alpha", "reference_bit_s", "min_bit_s", "max_bit_s"),
    ReactorKind.STREAMING: (
        *("interval_ms", "ladder_bit_s", "value_nanodollars_per_s", "value_rate_bit_s", "hysteresis", "dwell_s"),
        "buffer_ms",
    ),
    ReactorKind.TRANSFER: ("interval_ms", "size_bytes", "deadline_s", "min_bit_s", "max_bit_s"),
    ReactorKind.UNRESPONSIVE: ("rate_bit_s", "pattern", "on_s", "off_s"),
}


class Pattern(StrEnum):
    """When an unresponsive flow sends its packets; in fluid mode only `on_off` differs from `constant`."""

    CONSTANT = "constant"
    POISSON = "poisson"
    ON_OFF = "on_off"  # on_s at its rate, off_s nothing


class Reactor(Value, frozen=True, kw_only=True):
    """How a flow answers. Parameters that its kind does not have are refused.

    gain_of_bound: part of the gain at which theory says that it begins to oscillate; gain_per_s: the gain itself, κ.
    Neither: a quarter of the bound.
    """

    kind: ReactorKind = ReactorKind.ELASTIC
    gain_per_s: Positive | None = None
    gain_of_bound: Annotated[float, msgspec.Meta(gt=0, le=100)] | None = None
    interval_ms: Annotated[float, msgspec.Meta(ge=1, le=60_000)] | None = None  # packets; None: an RTT, 100 ms at least
    exact: bool = False  # elastic, in fluid mode: the product's own reactor instead of the theory's law
    alpha: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0
    reference_bit_s: Rate | None = None  # alpha_fair: x₀, the same for all; None: what equal shares would be
    min_bit_s: NotNegative = 0.0
    max_bit_s: Rate | None = None
    ladder_bit_s: Annotated[tuple[Rate, ...], msgspec.Meta(max_length=32)] = ()
    value_nanodollars_per_s: Money = 0  # streaming: v of its value v ln(1 + r/r₀)
    value_rate_bit_s: Rate | None = None  # streaming: r₀; None: the lowest step
    hysteresis: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.15
    dwell_s: Seconds = 5.0
    buffer_ms: Annotated[int, msgspec.Meta(ge=0, le=120_000)] = 8_000
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=2**50)] | None = None
    deadline_s: Positive | None = None  # transfer: from its start
    rate_bit_s: NotNegative = 0.0  # unresponsive
    pattern: Pattern = Pattern.CONSTANT
    on_s: Positive = 1.0
    off_s: NotNegative = 1.0


class Program(StrEnum):
    """What sends an elastic flow in namespaces: TCP with that congestion control, or UDP. It knows no prices."""

    RENO = "reno"
    CUBIC = "cubic"
    BBR = "bbr"
    UDP = "udp"


class Flow(Value, frozen=True, kw_only=True):
    """One sender and one receiver. After loading there is one for each of `count`, with everything drawn.

    willingness_nanodollars_per_s is filled in from `weight` where the file gives that, and the other way round.
    """

    name: Name
    path: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=64)]
    weight: NotNegative = 1.0
    willingness_nanodollars_per_s: NotNegative = 0.0
    rtt_ms: Milliseconds = (
        0.0  # without queues; where the file gives none: twice its links' delays, 40 if they have none
    )
    reactor: Reactor = Reactor()
    program: Program = Program.CUBIC  # in namespaces; the simulator's flows have none
    packet_bytes: PacketBytes = 1_000
    start_s: Seconds = 0.0
    stop_s: Seconds | None = None

    @property
    def packet_bits(self) -> int:
        return self.packet_bytes * BITS_PER_BYTE


class Event(Value, frozen=True, kw_only=True):
    """Something changes at `at_s`. Without a name it holds for all links, or for all flows."""

    at_s: Seconds
    link: str | None = None
    flow: str | None = None
    price_nanodollars_per_mark: Money | None = None  # of a link
    price_factor: Positive | None = None  # times what it is by then
    rate_bit_s: NotNegative | None = None  # of a link, or of unresponsive flows
    weight: NotNegative | None = None  # of a flow
    willingness_nanodollars_per_s: NotNegative | None = None  # of a flow


class Experiment(Value, frozen=True, kw_only=True):
    """All of it, in one form. `load` fills in what follows from the rest."""

    name: Name = "experiment"
    title: Annotated[str, msgspec.Meta(max_length=200)] = ""
    mode: Mode = Mode.FLUID
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32)] = 1
    seconds: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 60.0
    warm_up_s: Seconds | None = None  # None: half
    step_ms: Annotated[float, msgspec.Meta(gt=0, le=10_000)] | None = None  # fluid; None: chosen
    slotted: bool = False  # fluid: the steps are the theory's slots, not an approximation of continuous time
    path_price: PathPrice = PathPrice.SUM
    weight_mbit_s: Positive | None = None  # marked Mbit/s that a weight of 1 bears; None: 1, or less: see the notes
    price_nanodollars_per_mark: Money = 1_000
    packet_bytes: PacketBytes = 1_000
    links: Annotated[tuple[Link, ...], msgspec.Meta(min_length=1, max_length=10_000)]
    flows: Annotated[tuple[Flow, ...], msgspec.Meta(min_length=1, max_length=100_000)]
    events: Annotated[tuple[Event, ...], msgspec.Meta(max_length=10_000)] = ()
    notes: tuple[str, ...] = ()  # what loading decided for the writer; shown with the results

    @property
    def measured_from_s(self) -> float:
        """Means are taken from here on."""
        return self.seconds / 2 if self.warm_up_s is None else self.warm_up_s

    def price_of(self, link: Link) -> int:
        """At the beginning, in nanodollars per mark."""
        own = link.price_nanodollars_per_mark
        return self.price_nanodollars_per_mark if own is None else own

    def index_of(self) -> dict[str, int]:
        """The number of each link."""
        return {link.name: number for number, link in enumerate(self.links)}


def willingness_of(weight: float, *, price_nanodollars_per_mark: float, packet_bytes: int) -> float:
    """Nanodollars per second that bear `weight` Mbit/s of marked packets."""
    return weight * MEGABIT / (packet_bytes * BITS_PER_BYTE) * price_nanodollars_per_mark


def weight_of(willingness: float, *, price_nanodollars_per_mark: float, packet_bytes: int) -> float:
    """The marked Mbit/s that a willingness buys; the inverse."""
    return willingness / price_nanodollars_per_mark * (packet_bytes * BITS_PER_BYTE) / MEGABIT


class Overrides(Value, frozen=True, kw_only=True):
    """What a run is to do otherwise than its file says; None: as it says. Events after a new end are left out."""

    mode: str | None = None
    seed: int | None = None
    seconds: float | None = None


def load(path: Path | str, overrides: Overrides | None = None) -> Experiment:
    """The experiment in a file. Raises ConfigurationError: one line with the file, the key, the problem, the remedy."""
    from lab.simulator import forms

    return forms.load(Path(path), overrides or Overrides())


def decode(text: str, *, file: Path | str = "experiment.toml", overrides: Overrides | None = None) -> Experiment:
    """As `load`, of a text: JSON if it begins with a brace or the file's name ends with `.json`, else TOML."""
    from lab.simulator import forms

    return forms.decode(text, file=Path(file), overrides=overrides or Overrides())
