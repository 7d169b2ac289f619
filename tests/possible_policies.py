"""Policies of every kind that a reactor can keep to, for property tests."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import strategies as st

from pricereactor.policy import TaskKind, TaskPolicy, ValuePoint, problems

MOST_BIT_S = 400_000_000_000
_RATES = st.integers(8_000, 10**9)
_MONEY = st.integers(0, 10**12)
_PPM = st.none() | st.integers(0, 10_000_000)


@st.composite
def curves(draw: st.DrawFn) -> tuple[ValuePoint, ...]:
    """Concave and rising: slopes in falling order."""
    slopes = sorted(draw(st.lists(st.integers(0, 1000), max_size=6)), reverse=True)
    if not slopes:
        return ()
    rates = list(accumulate(draw(st.integers(1, 10**6)) for _ in slopes))
    worth, before, points = draw(st.integers(0, 10**6)), 0, []
    for rate, slope in zip(rates, slopes, strict=True):
        worth, before = worth + slope * (rate - before), rate
        points.append(ValuePoint(rate_bit_s=8_000 + rate, nanodollars_per_s=worth))
    return tuple(points)


@st.composite
def possible_policies(draw: st.DrawFn) -> TaskPolicy:
    kind = draw(st.sampled_from(TaskKind))
    ladder = sorted(draw(st.sets(_RATES, min_size=1, max_size=8))) if kind is TaskKind.STREAMING else []
    least = ladder[0] if ladder else draw(_RATES)
    size, deadline = draw(st.integers(1, 2**40)), draw(st.integers(1, 31 * 86_400))
    is_transfer = kind is TaskKind.TRANSFER
    most = draw(st.none() | st.integers(max(least, -(-size * 8 // deadline) if is_transfer else 0), MOST_BIT_S * 10**6))
    session = draw(st.none() | _MONEY)
    policy = TaskPolicy(
        name=draw(st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True)),
        kind=kind,
        willingness_nanodollars_per_s=draw(st.integers(1, 10**12)),
        value=draw(curves()),
        min_bit_s=least,
        max_bit_s=most if most is not None and most <= MOST_BIT_S else None,
        session_budget_nanodollars=session,
        day_budget_nanodollars=draw(st.none() | _MONEY.map(lambda more: (session or 0) + more)),
        price_ceiling_nanodollars_per_mb=draw(st.none() | _MONEY),
        largest_rate_change_ppm=draw(_PPM),
        largest_price_change_ppm=draw(_PPM),
        ladder_bit_s=tuple(ladder),
        buffer_ms=draw(st.integers(0, 120_000)),
        most_switches_per_minute=draw(st.integers(1, 600)),
        size_bytes=size if is_transfer else None,
        deadline_s=deadline if is_transfer else None,
        attended=draw(st.booleans()),
        notice_s=draw(st.integers(0, 600)),
    )
    assert problems(policy) == ()
    return policy
