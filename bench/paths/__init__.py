"""How much dearer the cartographer's choices are than the best in hindsight, beside well-known bandits.

Decides nothing. Everything runs on a virtual clock, in one process; nothing of the machine's is touched.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """As `python -m bench.paths`."""
    from bench.paths.report import main as report

    return report(arguments)
