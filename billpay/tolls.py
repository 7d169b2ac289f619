"""Tolls: what a gateway takes from a packet, who is dropped for paying less, and how the congestion part moves.

Decides amounts; refuses to know packets, queues, clocks and who pays.  Money is integer: picodollars while a toll is
reckoned, nanodollars on the wire; what is below a nanodollar stays in a carry for each link direction, so that the
sum taken from packets is exact to the picodollar.

Sources: Bill-Pay 2.1 (fixed, congestion and proportional tolls; drop rule P = (toll − x)/toll, the only constant that
gives 1 at x = 0 and 0 at x = toll); REM on money for the controller (Athuraliya et al. 2001, price law with the toll
in place of the mark price).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from billpay.money import PICODOLLARS_PER_NANODOLLAR

PPM = 1_000_000

CLASS_UNPAID = 0
CLASS_PAID_HIGHEST = 7
CLASS_CONTROL = 8

DRAWS = 1 << 32
"""A draw is one of so many."""

DEFAULT_GAIN_LOAD_PPM = 400_000
"""Share of the toll unit that one period of 100 % overload adds: a unit of 1/8 of the cap reaches the cap in 20
periods at 2x.
"""
DEFAULT_GAIN_BACKLOG_PPM = 100_000
"""Share of the toll unit that a backlog of one whole reference adds in a period."""
DEFAULT_TARGET_UTILISATION_PPM = 950_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TollSchedule:
    """What is published. `cap_nanodollars` bounds the whole toll of one packet (regulation, BP-20); None: no cap."""

    fixed_nanodollars_per_packet: int = 0
    fixed_picodollars_per_byte: int = 0
    proportional_ppm: int = 0
    cap_nanodollars: int | None = None

    def __post_init__(self) -> None:
        assert self.fixed_nanodollars_per_packet >= 0
        assert self.fixed_picodollars_per_byte >= 0
        assert 0 <= self.proportional_ppm <= PPM
        assert self.cap_nanodollars is None or self.cap_nanodollars >= 0


class EgressToll:
    """The toll on one direction of a link, with its carry. `congestion_picodollars` is set by the controller."""

    __slots__ = (
        "_cap",
        "_fixed",
        "_per_byte",
        "_proportional",
        "carry_picodollars",
        "congestion_picodollars",
        "schedule",
    )

    def __init__(self, schedule: TollSchedule, *, carry_picodollars: int = 0) -> None:
        self.schedule = schedule
        self.congestion_picodollars = 0
        self.carry_picodollars = carry_picodollars
        self._fixed = schedule.fixed_nanodollars_per_packet * PICODOLLARS_PER_NANODOLLAR
        self._per_byte = schedule.fixed_picodollars_per_byte
        self._proportional = schedule.proportional_ppm
        cap = schedule.cap_nanodollars
        self._cap = (1 << 62) if cap is None else cap * PICODOLLARS_PER_NANODOLLAR

    def uncapped_picodollars(self, size_bytes: int, amount_nanodollars: int, segments: int = 1) -> int:
        """Fixed + congestion + proportional part; the proportional part rounds down, in the payer's favour.

        `size_bytes`: of all segments together; each of them carries the amount.
        """
        toll = self._fixed + self.congestion_picodollars
        if self._proportional:
            toll += amount_nanodollars * PICODOLLARS_PER_NANODOLLAR * self._proportional // PPM
        return toll * segments + self._per_byte * size_bytes

    def picodollars(self, size_bytes: int, amount_nanodollars: int, segments: int = 1) -> int:
        """The toll of a packet, or of all segments of an offloaded one, capped. `uncapped_picodollars` minus this is
        what the cap cut: count it for the audit.
        """
        toll = self.uncapped_picodollars(size_bytes, amount_nanodollars, segments)
        cap = self._cap * segments
        return cap if toll > cap else toll

    def retain(self, toll_picodollars: int, amount_nanodollars: int, segments: int = 1) -> int:
        """Takes a toll out of an amount: whole nanodollars to keep, at most the amount; the rest goes to the carry.

        A packet that has less than its toll leaves all it has, and nothing of the shortfall is carried on to others.
        The segments of an offloaded packet keep the same of the same amount: what does not divide is carried.
        """
        available = amount_nanodollars * PICODOLLARS_PER_NANODOLLAR * segments
        taken = (toll_picodollars if toll_picodollars < available else available) + self.carry_picodollars
        unit = PICODOLLARS_PER_NANODOLLAR * segments
        kept = taken // unit
        if kept > amount_nanodollars:  # the carry would take more than there is: it waits for the next packet
            kept = amount_nanodollars
        self.carry_picodollars = taken - kept * unit
        return kept


def must_drop(toll_picodollars: int, amount_nanodollars: int, draw: Callable[[], float]) -> bool:
    """The drop rule for a paid packet under a congestion toll: P = (toll − x)/toll where x < toll. Draws only then.

    32 bits of the draw decide, in integers: the kernel's programs decide the same by the same draw.
    """
    shortfall = toll_picodollars - amount_nanodollars * PICODOLLARS_PER_NANODOLLAR
    return shortfall > 0 and int(draw() * DRAWS) * toll_picodollars // DRAWS < shortfall


def class_of(retained_nanodollars: int) -> int:
    """Service class of a paid packet: 1 + floor(log2(1 + retained)), 7 at most; monotone in what was retained
    (BP-02).
    """
    service_class = (1 + retained_nanodollars).bit_length()
    return service_class if service_class < CLASS_PAID_HIGHEST else CLASS_PAID_HIGHEST


@dataclass(frozen=True, slots=True, kw_only=True)
class CongestionSettings:
    """One egress: capacity, the share of it that is aimed at, and how the toll moves each period.

    `unit_picodollars` is the step of the law; an eighth of the cap by default (`for_cap`).
    """

    capacity_bytes_per_s: int
    period_ns: int
    cap_picodollars: int
    unit_picodollars: int
    backlog_reference_bytes: int
    target_utilisation_ppm: int = DEFAULT_TARGET_UTILISATION_PPM
    gain_load_ppm: int = DEFAULT_GAIN_LOAD_PPM
    gain_backlog_ppm: int = DEFAULT_GAIN_BACKLOG_PPM

    @classmethod
    def for_cap(
        cls, *, capacity_bit_s: int, cap_picodollars: int, period_ns: int, target_utilisation_ppm: int
    ) -> CongestionSettings:
        """Defaults: unit an eighth of the cap, reference backlog 20 ms of the link."""
        return cls(
            capacity_bytes_per_s=capacity_bit_s // 8,
            period_ns=period_ns,
            cap_picodollars=cap_picodollars,
            unit_picodollars=max(1, cap_picodollars // 8),
            backlog_reference_bytes=max(3000, capacity_bit_s // 8 // 50),
            target_utilisation_ppm=target_utilisation_ppm,
        )


class CongestionToll:
    """τ ← [τ + a·(λ − γC)/C·unit + b·(q − q_ref)/q_ref·unit]⁺, at most the cap (C.3, BP-12), integer picodollars.

    The backlog term only adds while there is more than the reference; a falling toll follows the load alone, so
    that an idle link is back at exactly 0 after cap/(a·γ·unit) periods.
    """

    __slots__ = ("_settings", "picodollars")

    def __init__(self, settings: CongestionSettings, *, picodollars: int = 0) -> None:
        self._settings = settings
        self.picodollars = picodollars

    def on_period(self, *, arrived_bytes: int, backlog_bytes: int) -> int:
        """Once each period, with what arrived for this egress (dropped or not) and what waits; gives the
        toll from now on.
        """
        s = self._settings
        capacity = s.capacity_bytes_per_s * s.period_ns // 1_000_000_000 or 1
        excess = arrived_bytes * PPM - capacity * s.target_utilisation_ppm  # in millionths of a byte
        step = s.gain_load_ppm * s.unit_picodollars * excess // (capacity * PPM * PPM)
        over = backlog_bytes - s.backlog_reference_bytes
        if over > 0:
            share_ppm = min(over * PPM // s.backlog_reference_bytes, PPM)
            step += s.gain_backlog_ppm * s.unit_picodollars * share_ppm // (PPM * PPM)
        self.picodollars = min(max(self.picodollars + step, 0), s.cap_picodollars)
        return self.picodollars
