"""The shipped table of what typical users find kinds of traffic worth (`kinds.toml`), as values.

Decides: which kinds there are, and that worth is all that orders them. Refuses to know: who uses what just now, and
what a link can carry. A worth is a willingness to pay; shares follow from it in proportion (Kelly 1997: who offers w
for a link's capacity among others gets w over the sum of all offers).
Units: nanodollars for a megabyte (10^6 bytes); a currency unit for a gigabyte is 10^6 of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Annotated, Final

import msgspec

NANODOLLARS_PER_MB_OF_ONE_PER_GB: Final = 1_000_000
WEIGHT_MAX: Final = 1000
WEIGHT_OF_THE_LEAST: Final = 2
"""So that what is worth less than every kind of the table still has a weight below them all."""

Ppm = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class Kind(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of traffic. `worth`: currency units for a gigabyte."""

    name: str
    title: str
    worth: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]
    minimum_ppm: Ppm = 0
    minimum_bit_s: Annotated[int, msgspec.Meta(ge=0, le=10_000_000_000)] = 0
    can_wait: bool = False
    plan_share_ppm: Ppm = 0
    programs: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    @property
    def worth_nanodollars_per_mb(self) -> int:
        return round(self.worth * NANODOLLARS_PER_MB_OF_ONE_PER_GB)


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kinds: tuple[Kind, ...]


@cache
def shipped_kinds() -> Mapping[str, Kind]:
    """By name, in the table's order; "control" and "default" are among them."""
    text = resources.files("secretary").joinpath("kinds.toml").read_bytes()
    return {kind.name: kind for kind in msgspec.toml.decode(text, type=_Table).kinds}


def weights_of(worths_nanodollars_per_mb: Sequence[int]) -> list[int]:
    """Whole numbers of 1 to WEIGHT_MAX in proportion to the worths, as far as that range goes.

    The least worth above 0 counts WEIGHT_OF_THE_LEAST; what is worth nothing counts 1.
    """
    least = min((worth for worth in worths_nanodollars_per_mb if worth > 0), default=1)
    most = max(worths_nanodollars_per_mb, default=1)
    # Where the range is too wide, the differences among the worthy count more than those among the worthless.
    unit = max(least, most * WEIGHT_OF_THE_LEAST // WEIGHT_MAX)
    return [
        max(1, min(WEIGHT_MAX, (worth * WEIGHT_OF_THE_LEAST + unit // 2) // unit))
        for worth in worths_nanodollars_per_mb
    ]
