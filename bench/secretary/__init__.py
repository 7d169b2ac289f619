"""How well the secretary learns what a transfer is worth, beside simpler judges, on synthetic people.

Decides nothing. Everything runs on a virtual clock, in processes of its own; nothing of the machine's is touched.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """As `python -m bench.secretary`."""
    from bench.secretary.report import main as report

    return report(arguments)
