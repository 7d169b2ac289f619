"""What the host's own data plane costs and how exact it is, beside none at all and beside other programs.

Decides nothing. Works in namespaces of its own, with processes of its own; nothing of the machine's is touched.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """As `python -m bench.hostplane`."""
    from bench.hostplane.report import main as report  # its children import this package, and nothing of ours beside it

    return report(arguments)
