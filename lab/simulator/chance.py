"""Chance for a simulation: one stream for each role and name, from one seed.

Decides: that two treatments with one seed see the same traffic, since no role draws from another's stream.
"""

from __future__ import annotations

import random


def stream(seed: int, role: str, name: object = "") -> random.Random:
    return random.Random(f"{seed}/{role}/{name}")  # noqa: S311 - a simulation has to repeat itself
