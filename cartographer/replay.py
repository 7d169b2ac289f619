"""`hostagent cartographer replay`: the real chooser over a matrix of round trips, on a virtual clock, step by step.

Decides what a row must say, who may see which rows, and what a step costs. The chooser's side gets nothing but rows
that it chose or probed, after it decided; the others stay sealed until the hindsight, which is reckoned at the end.
Refuses to know how the choice is made (`Player`), and where the file lies. Pure: the file is passed in.

Cost of a step in nanodollars: the chosen path's toll + its round trip × a price for each millisecond; a lost packet
counts as 2,000 ms. A probe costs its path's toll + a fixed price, and its time is nobody's.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, BinaryIO, Final, Protocol

import msgspec

from billpay.errors import ConfigurationError, LocalProtocolError
from cartographer.chooser import Chooser, ChooserTerms
from cartographer.costing import belief_of
from cartographer.statistics import WayStatistics
from cartographer.values import Quantity, Wants

LINE_BYTES_MAX: Final = 65_536
NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
PICO_PER_NANO: Final = 1000
PPM: Final = 1_000_000
LOST_MS: Final = 2_000
YEAR_9999_S: Final = 253_370_764_800
PATHS_MAX: Final = 1000

Seconds = Annotated[float, msgspec.Meta(ge=0, lt=YEAR_9999_S)]
WholeSeconds = Annotated[int, msgspec.Meta(ge=0, lt=YEAR_9999_S)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=10**7)]
Nanodollars = Annotated[float, msgspec.Meta(ge=0, le=10**15)]
Text = Annotated[str, msgspec.Meta(max_length=256)]

_REMEDIES: Final = {
    "t": "seconds, 0 or more, that never go backwards",
    "path": "the path's name, a text of at most 256 letters",
    "rtt_ms": "milliseconds, 0 or more, or null for a lost packet",
    "toll_nanodollars": "nanodollars, 0 or more",
}
_ALL: Final = ", ".join(_REMEDIES)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the file. What else it says is passed over: measurements come with more than is needed."""

    t: WholeSeconds | Seconds
    path: Text
    rtt_ms: Milliseconds | None
    toll_nanodollars: Nanodollars


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What is printed for a step."""

    t: int | float
    chosen: str
    probed: tuple[str, ...]
    why: str


class Hindsight(msgspec.Struct, frozen=True, kw_only=True):
    """What nobody could know before the end."""

    best_fixed_path: str
    best_fixed_cost_nanodollars: int
    ratio_to_best_fixed: float
    cheapest_each_step_cost_nanodollars: int


class Summary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last line."""

    choices: int
    paths: int
    total_cost_nanodollars: int
    probes: int
    probes_cost_nanodollars: int
    switches: int
    losses: int
    hindsight: Hindsight | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What a millisecond and a probe cost."""

    nanodollars_per_ms: int = 1000
    probe_nanodollars: int = 5000
    probe_share_ppm: int = 20_000  # probes of all choices, at most

    def of(self, rtt_ms: float | None, toll_nanodollars: float) -> float:
        return toll_nanodollars + (LOST_MS if rtt_ms is None else rtt_ms) * self.nanodollars_per_ms

    def of_probe(self, toll_nanodollars: float) -> float:
        return toll_nanodollars + self.probe_nanodollars


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What a player does in one step."""

    chosen: str
    probed: tuple[str, ...] = ()
    why: str = ""


class Player(Protocol):
    """`see` is called for each row that was chosen or probed, after the move; of no other row it hears."""

    def move(self, now_ns: int) -> Move: ...

    def see(self, path: str, rtt_ms: float | None, toll_nanodollars: float, now_ns: int) -> None: ...


@dataclass(slots=True)
class Matrix:
    """All rows: for each path a column of round trips (NaN: lost) and one of tolls."""

    times: list[int | float] = field(default_factory=list)
    paths: tuple[str, ...] = ()
    rtts_ms: dict[str, array[float]] = field(default_factory=dict)
    tolls_nanodollars: dict[str, array[float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.times)

    def row(self, step: int, path: str) -> tuple[float | None, float]:
        rtt_ms = self.rtts_ms[path][step]
        return (None if math.isnan(rtt_ms) else rtt_ms), self.tolls_nanodollars[path][step]

    def costs(self, path: str, prices: Prices) -> list[float]:
        """Of each step, had this path been chosen."""
        return [prices.of(*self.row(step, path)) for step in range(len(self))]


def parse_row(line: bytes, name: str, number: int) -> Row:
    """Raises ConfigurationError: one line with the file, the line's number, the field and what to do."""
    where = f"{name}:{number}"
    if len(line) > LINE_BYTES_MAX:
        raise ConfigurationError(where, "", f"longer than {LINE_BYTES_MAX} bytes", "write one row a line")
    try:
        return _DECODER.decode(line)
    except msgspec.ValidationError as error:
        key, problem = _explain(str(error))
        raise ConfigurationError(where, key, problem, _REMEDIES.get(key, f"write an object with {_ALL}")) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        remedy = "write one JSON object a line, in UTF-8; JSON knows no NaN"
        raise ConfigurationError(where, "", f"not JSON: {error}", remedy) from error


_DECODER: Final = msgspec.json.Decoder(Row)


def _explain(problem: str) -> tuple[str, str]:
    """msgspec says "... - at `$.t`", or "Object missing required field `t`"."""
    text, _, path = problem.partition(" - at `$.")
    if path:
        return path.rstrip("`"), text
    if "missing required field" in text:
        return text.split("`")[1], "is missing"
    return "", text


def read_matrix(file: BinaryIO, name: str) -> Matrix:
    """Raises ConfigurationError at the first line that does not fit; the whole file is read before the first step."""
    matrix = Matrix()
    found: dict[str, Row] = {}
    number = 0
    for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), start=1):
        if not line.strip():
            continue
        row = parse_row(line, name, number)
        last = next(iter(found.values()), None)
        if last is not None and row.t != last.t:
            if row.t < last.t:
                raise ConfigurationError(f"{name}:{number}", "t", f"{row.t} comes after {last.t}", "sort the rows by t")
            _close(matrix, found, name, number)
            found = {}
        if row.path in found:
            raise ConfigurationError(
                f"{name}:{number}", "path", f"{row.path!r} is there twice at t = {row.t}", "leave one of the rows out"
            )
        if len(found) >= PATHS_MAX:
            raise ConfigurationError(f"{name}:{number}", "path", f"more than {PATHS_MAX} paths", "leave some out")
        found[row.path] = row
    if not found:
        raise ConfigurationError(name, "", "no rows", f"write one JSON object a line with {_ALL}")
    _close(matrix, found, name, number)
    return matrix


def _close(matrix: Matrix, found: dict[str, Row], name: str, number: int) -> None:
    """Rows of one moment are complete; `number` is the line after them, or the last one."""
    if not matrix.paths:
        matrix.paths = tuple(found)
        matrix.rtts_ms = {path: array("d") for path in found}
        matrix.tolls_nanodollars = {path: array("d") for path in found}
    moment = next(iter(found.values())).t
    for path in matrix.paths:
        if path not in found:
            raise ConfigurationError(
                f"{name}:{number}",
                "path",
                f"no row of {path!r} at t = {moment}",
                'give every path a row at every t; "rtt_ms": null is a lost packet',
            )
    if len(found) > len(matrix.paths):
        extra = next(path for path in found if path not in matrix.rtts_ms)
        raise ConfigurationError(
            f"{name}:{number}",
            "path",
            f"{extra!r} is there at t = {moment} and was not before",
            "give every path a row at every t",
        )
    matrix.times.append(moment)
    for path, row in found.items():
        matrix.rtts_ms[path].append(math.nan if row.rtt_ms is None else row.rtt_ms)
        matrix.tolls_nanodollars[path].append(row.toll_nanodollars)


class Traveller:
    """The player that is sold: statistics, beliefs and chooser as in the agent."""

    def __init__(self, paths: Sequence[str], prices: Prices, choices: int, terms: ChooserTerms | None = None) -> None:
        """`choices`: how many there will be; of them the few probes are a share that must never be passed."""
        asked = terms or ChooserTerms()
        at_most = choices * prices.probe_share_ppm // PPM
        self._wants = Wants(
            delay_nanodollars_per_ms=prices.nanodollars_per_ms,
            loss_nanodollars=LOST_MS * prices.nanodollars_per_ms,
        )
        self._probe_picodollars = prices.probe_nanodollars * PICO_PER_NANO
        self._statistics = {path: WayStatistics() for path in paths}
        # Half at most is borrowed, that some are left for changes in the end.
        borrowed = min(asked.probe_borrow, max(at_most // 2, min(len(paths) - 1, at_most)))
        self.chooser = Chooser(
            replace(
                asked,
                probe_borrow=borrowed,
                probe_share_ppm=(at_most - borrowed) * PPM // max(choices, 1),
                probe_earned_besides=True,
            )
        )

    def move(self, now_ns: int) -> Move:
        beliefs = [
            belief
            for path, statistics in self._statistics.items()
            if (
                belief := belief_of(
                    path, statistics, self._wants, now_ns=now_ns, probe_picodollars=self._probe_picodollars
                )
            )
        ]
        deliberation = self.chooser.deliberate(beliefs, now_ns=now_ns)
        return Move(chosen=deliberation.way, probed=deliberation.probes, why=deliberation.reason)

    def see(self, path: str, rtt_ms: float | None, toll_nanodollars: float, now_ns: int) -> None:
        statistics = self._statistics[path]
        lost = rtt_ms is None
        statistics.on_packets(sent=1, lost=int(lost), marked=0, now_ns=now_ns)
        statistics.on_sample(Quantity.FORWARD_TOLL_PICODOLLARS, toll_nanodollars * PICO_PER_NANO, now_ns)
        if rtt_ms is not None:
            statistics.on_sample(Quantity.DELAY_NS, rtt_ms * NS_PER_MS, now_ns)


class Account:
    """What the steps cost so far."""

    def __init__(self) -> None:
        self.choices = 0
        self.total = 0.0
        self.probes = 0
        self.probes_cost = 0.0
        self.switches = 0
        self.losses = 0

    def summary(self, matrix: Matrix, prices: Prices, *, hindsight: bool) -> Summary:
        return Summary(
            choices=self.choices,
            paths=len(matrix.paths),
            total_cost_nanodollars=round(self.total),
            probes=self.probes,
            probes_cost_nanodollars=round(self.probes_cost),
            switches=self.switches,
            losses=self.losses,
            hindsight=hindsight_of(matrix, prices, self.total) if hindsight else None,
        )


def hindsight_of(matrix: Matrix, prices: Prices, total: float) -> Hindsight:
    costs = {path: matrix.costs(path, prices) for path in matrix.paths}
    sums = {path: math.fsum(column) for path, column in costs.items()}
    best = min(sums, key=lambda path: sums[path])
    each = math.fsum(min(step) for step in zip(*costs.values(), strict=True))
    return Hindsight(
        best_fixed_path=best,
        best_fixed_cost_nanodollars=round(sums[best]),
        ratio_to_best_fixed=round(total / sums[best], 6) if sums[best] else 1.0,
        cheapest_each_step_cost_nanodollars=round(each),
    )


def replay(matrix: Matrix, player: Player, prices: Prices, account: Account) -> Iterator[Line]:
    """A line for each moment; the account grows with them. Raises LocalProtocolError if the player breaks the rules."""
    first = matrix.times[0]
    before: str | None = None
    probes_max = len(matrix) * prices.probe_share_ppm // PPM
    for step, moment in enumerate(matrix.times):
        now_ns = round((moment - first) * NS_PER_S)
        move = player.move(now_ns)
        if account.probes + len(move.probed) > probes_max:
            raise LocalProtocolError(f"t = {moment}: more than {probes_max} probes")
        account.choices += 1
        account.switches += before is not None and before != move.chosen
        before = move.chosen
        rtt_ms, toll = matrix.row(step, move.chosen)
        account.total += prices.of(rtt_ms, toll)
        account.losses += rtt_ms is None
        player.see(move.chosen, rtt_ms, toll, now_ns)
        for path in move.probed:
            rtt_ms, toll = matrix.row(step, path)
            account.probes += 1
            account.probes_cost += prices.of_probe(toll)
            account.total += prices.of_probe(toll)
            player.see(path, rtt_ms, toll, now_ns)
        yield Line(t=moment, chosen=move.chosen, probed=move.probed, why=move.why)
