"""All parts of the experiment, one after the other.

Decides: their order, and that each is said on the way. Refuses to know: what a part measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from lab.dph.effort import Effort, pooled
from lab.dph.parts import figure31, honesty, limits, marking, payers, prices, realshares, shares, stability, tasks
from lab.dph.report import DphReport
from lab.dph.values import Holds, PartResult

Result = TypeVar("Result", bound=PartResult)

TITLE = "Prices of congestion as explicit marks: sharing, stability, billing, honesty"


def run_dph(effort: Effort) -> DphReport:
    """Raises EnvironmentFault where the real part lacks privilege or a tool: before anything else is run."""
    began = time.monotonic()
    took: dict[str, float] = {}

    def part(name: str, run: Callable[[Effort], Result]) -> Result:
        effort.progress(f"{name} …")
        begins = time.monotonic()
        found = run(effort)
        took[name] = round(time.monotonic() - begins, 1)
        for each in found.expectations:
            mark = {Holds.YES: "holds", Holds.NO: "FAILS", Holds.NOT_JUDGED: "—"}[each.holds]
            effort.progress(f"  {mark}  {each.name}: {each.measured}")
        return found

    if effort.real:
        realshares.require_network()
    with pooled():
        return DphReport(
            experiment="dph",
            title=TITLE,
            effort=effort.name,
            seeds=effort.seeds,
            # Before the processes of the pool begin: the two are not to share the machine.
            real_shares=figure31.beside(
                part("shares on real packets", realshares.run), part("six hosts on real packets", figure31.run)
            )
            if effort.real
            else None,
            shares=part("shares", shares.run),
            stability=part("stability", stability.run),
            marking=part("marking rules", marking.run),
            prices=part("prices", prices.run),
            tasks=part("streams and transfers", tasks.run),
            payers=part("who pays", payers.run),
            honesty=part("honesty", honesty.run),
            limits=part("limits", limits.run),
            took_s=took,
            seconds=round(time.monotonic() - began, 1),
        )
