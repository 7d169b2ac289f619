"""The named populations of synthetic people, each of another make, so that no judge is fitted to one of them.

Decides nothing; `bench.secretary.people` draws from these. Spreads are standard deviations of the natural logarithm.
Of the standard one's surplus the shipped table alone earns about 0.79: so much is left to learning.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


class Pricing(enum.Enum):
    INDEPENDENT = "each transfer's price is drawn by itself"
    TARIFF = "a price for each network, new every week"
    CONGESTION = "dear in the evening, cheap at night"
    PLAIN = "one price for a megabyte, month in, month out"


class Naming(enum.Enum):
    SHIPPED = "programs of the shipped table of kinds"
    STRANGE = "programs that no table knows"
    PLAIN = "a plain word for what the program does"


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """How its people are drawn. `size_exponent`: of the bytes, in worth and price; 0: they do not count."""

    title: str
    naming: Naming = Naming.SHIPPED
    unknown_share: float = 0.1  # of programs with a name that no table knows, where others have one
    programs: tuple[int, int] = (5, 10)
    destinations: tuple[int, int] = (1, 4)  # of each program
    requests_a_day: float = 20.0
    start_s: int = 0
    scale: float = 1.0  # multiplies worths and prices alike
    size_exponent: float = 1.0
    kind_weight: float = 1.0  # how far a program's worth follows the shipped table
    person_spread: float = 0.3
    program_spread: float = 0.6
    destination_spread: float = 0.3
    network_spread: float = 0.2
    hour_spread: float = 0.25
    foreground_effect: float = 0.4  # added for the foreground, taken off for the background
    noise: float = 0.3
    drift_a_month: float = 0.25
    step_share: float = 0.3  # of people: one program's worth changes at once
    step_size: float = 1.2
    erratic_share: float = 0.2  # of people: one program follows no rule
    erratic_noise: float = 1.5
    later_share: float = 0.25  # of programs that appear later
    pricing: Pricing = Pricing.INDEPENDENT
    price_dollars_per_gb: float = 3.0
    price_kind_weight: float = 0.0  # how far prices follow the table: a call buys a better class than an update
    price_size_exponent: float | None = None  # None: as the worth's
    price_spread: float = 0.8


STANDARD: Final = "standard"
POPULATIONS: Final[Mapping[str, Population]] = {
    STANDARD: Population(
        title="lognormal worths, prices of their own; drift, steps, newcomers",
        unknown_share=0.22,
        kind_weight=0.6,
        program_spread=0.7,
        erratic_noise=1.0,
        price_dollars_per_gb=2.0,
        price_spread=1.2,
    ),
    "classes": Population(
        title="what is worth more costs more: a call buys a better class than an update",
        kind_weight=0.8,
        price_kind_weight=0.8,
        program_spread=0.7,
    ),
    "flat": Population(
        title="worth and price do not depend on the bytes", size_exponent=0.0, start_s=1_767_225_600, noise=0.4
    ),
    "strangers": Population(
        title="many programs that no table knows, worth grows as the root of the bytes",
        naming=Naming.STRANGE,
        programs=(12, 25),
        size_exponent=0.5,
        kind_weight=0.5,
        requests_a_day=30.0,
    ),
    "words": Population(
        title="programs named by a plain word, prices by congestion",
        naming=Naming.PLAIN,
        unknown_share=0.0,
        programs=(4, 7),
        pricing=Pricing.CONGESTION,
        price_spread=0.3,
        start_s=1_750_000_000,
    ),
    "tariffs": Population(
        title="few programs, tariffs that change weekly",
        programs=(2, 4),
        destinations=(1, 2),
        pricing=Pricing.TARIFF,
        price_spread=0.7,
        network_spread=0.5,
    ),
    "one-price": Population(
        title="one price for a megabyte all the time, worth does not depend on the bytes",
        size_exponent=0.0,
        price_size_exponent=1.0,
        pricing=Pricing.PLAIN,
        price_spread=0.1,
    ),
    "noisy": Population(
        title="heavy noise, every second person erratic",
        noise=0.9,
        erratic_share=0.5,
        drift_a_month=0.6,
        step_share=0.8,
    ),
    "sparse": Population(title="three requests a day", requests_a_day=3.0, programs=(2, 5), destinations=(1, 2)),
    "pennies": Population(title="transfers worth a millionth of a dollar", scale=1e-4, price_spread=1.2),
    "fortunes": Population(
        title="transfers worth ten dollars and more", scale=400.0, kind_weight=0.0, program_spread=1.2
    ),
}
