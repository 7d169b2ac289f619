"""Says in one line what an alarm saw, against what is usual: for the question that the person gets."""

from __future__ import annotations

from dataclasses import dataclass

from secretary.guard.values import Detector

PER_DOLLAR = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What is known of the odd stretch. `ratio`: to the usual in a minute (or an hour), 0 if nothing is usual yet."""

    program: str
    destination: str
    detector: Detector
    ratio: float
    is_new: bool  # the destination
    is_rare_hour: bool
    foreground: bool | None
    clock: str  # 03:10
    minutes: int
    paid_nanodollars: int


def tell(sight: Sight) -> str:
    program = sight.program or "an unknown program"
    parts = [f"{program} {_amount(sight)}"]
    if sight.destination:
        parts.append(f"to {sight.destination}{', which it never paid before' if sight.is_new else ''}")
    parts.append(f"at {sight.clock}{', when it seldom pays' if sight.is_rare_hour else ''}")
    if sight.foreground is False:
        parts.append("in the background")
    return ", ".join(parts)


def _amount(sight: Sight) -> str:
    if sight.ratio <= 0:
        cents = sight.paid_nanodollars * 100 / PER_DOLLAR
        return f"paid {cents:.2g} cents within {max(1, sight.minutes)} min, and nothing is usual for it yet"
    times = f"{sight.ratio:.1f} times"
    match sight.detector:
        case Detector.DRIFT | Detector.TOTAL_DRIFT:
            return f"has paid {times} its usual rate for {max(1, sight.minutes)} min"
        case Detector.HOURS | Detector.TOTAL_HOURS:
            return f"has paid {times} as much as in its usual hours"
        case Detector.PATTERN:
            return f"pays in an unusual way ({times} its usual rate)"
        case _:
            return f"paid {times} its usual rate"
