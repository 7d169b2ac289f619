"""What a person gets from the agent on a narrow uplink with a modem that queues too much.

Decides nothing. Works in namespaces of its own, with processes of its own; nothing of the machine's is touched.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """As `python -m bench.uplink`."""
    from bench.uplink.report import main as report  # its programs are files of this package, and import nothing of ours

    return report(arguments)
