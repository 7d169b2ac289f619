"""What a thief gets who holds the daemon of a host, or one program on it: each attack scripted, its loss counted.

Decides nothing. The secretary is the real one (process core, journal, key file, TLS door) on a virtual clock; the loss
is what a real gateway's payment core and desk counted, by its receipts and counters. The attacker has the agent's
certificate and all keys of all grants, makes real MACs, and says what it likes.
Source: Bill-Pay 2.4; docs/spec/secretary-protocol.md ("What this bounds, and what not").
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.attacks.home import Home, Outcome
from bench.attacks.scripts import ATTACKS


def run(name: str) -> Outcome:
    """In a directory of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="attack-") as directory:
        return asyncio.run(_run(name, Path(directory)))


async def _run(name: str, directory: Path) -> Outcome:
    async with Home(directory) as home:
        return await ATTACKS[name](home)


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if an attack got more than its cap."""
    parser = argparse.ArgumentParser(description="Attacks on the secretary with the daemon in hand, and their loss.")
    parser.add_argument("--attack", choices=[*ATTACKS], help="only this one")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments if arguments is not None else [])
    if not options.json:
        print(f"{'attack':22}{'cap, n$':>12}{'loss, n$':>12}  {'found after':64}what")
    failed = 0
    for name in [options.attack] if options.attack else ATTACKS:
        outcome = run(name)
        failed += outcome.loss_nanodollars > outcome.cap_nanodollars
        row = {"attack": name, **asdict(outcome)}
        line = (
            f"{name:22}{outcome.cap_nanodollars:12}{outcome.loss_nanodollars:12}  {outcome.found:64}"
            f"{(ATTACKS[name].__doc__ or '').splitlines()[0]}"
        )
        print(json.dumps(row) if options.json else line, flush=True)
    return int(failed > 0)
