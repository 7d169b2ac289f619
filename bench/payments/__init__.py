"""What payments in the kernel cost a host that pays, its first gateway and a transit gateway, beside plain forwarding.

Decides nothing. Works in namespaces of its own, with processes of its own; nothing of the machine's is touched.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """As `python -m bench.payments`."""
    from bench.payments.report import main as report  # its children import this package, and nothing of ours beside it

    return report(arguments)
