"""Runs an experiment in the mode that it asks for.

Decides: which mode's code runs, and that theory stands beside either's results. Refuses to know: how they work.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from lab.simulator.experiment import Experiment, Mode, Overrides, PathPrice, load
from lab.simulator.results import Results


def run_file(
    path: Path | str,
    *,
    overrides: Overrides | None = None,
    series: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Results:
    """Raises ConfigurationError with one line for a file that cannot be run."""
    return run_experiment(load(path, overrides), series=series, progress=progress)


def run_experiment(
    experiment: Experiment, *, series: bool = False, progress: Callable[[str], None] | None = None
) -> Results:
    """Without `series` only the numbers."""
    if experiment.mode is Mode.FLUID:
        from lab.simulator.fluid import run_fluid

        return run_fluid(experiment, series=series, progress=progress)
    from lab.simulator.packets import run_packets

    found = with_theory(experiment, run_packets(experiment))
    return found if series else msgspec.structs.replace(found, series=None)


def with_theory(experiment: Experiment, results: Results) -> Results:
    """A packet has one mark, whatever the file says of path prices."""
    from lab.simulator.equilibrium import equilibrium
    from lab.simulator.state import after_events

    of_packets = msgspec.structs.replace(experiment, path_price=PathPrice.MARKS)
    expected = equilibrium(of_packets, state := after_events(experiment))
    if expected is None:
        return results
    unit = experiment.weight_mbit_s or 1.0
    flows = tuple(
        msgspec.structs.replace(
            flow,
            expected_bit_s=float(rate),
            amplitude_of_expected=flow.amplitude * flow.rate_bit_s / float(rate)
            if flow.amplitude is not None and rate > 0
            else None,
        )
        for flow, rate in zip(results.flows, expected.rates_bit_s, strict=True)
    )
    links = tuple(
        msgspec.structs.replace(link, expected_utilisation=float(load / capacity), expected_price=float(price) / unit)
        for link, load, capacity, price in zip(
            results.links, expected.loads, state.capacity, expected.prices, strict=True
        )
    )
    return msgspec.structs.replace(results, flows=flows, links=links)
