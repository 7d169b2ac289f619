"""How long the screens take with many flows that all change: `PYTHONPATH=.:tests python tests/tui/bench_screens.py`.

Prints, in milliseconds of CPU time: reading a snapshot as it comes from the socket, taking it in, drawing it, a key.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import msgspec
from snapshots import NOW_UNIX_S, household, many_flows
from tui_driving import Script, keys, until

from hostagent import api
from tui.app import AgentApp

FLOWS = 2_000
ROUNDS = 40


async def main() -> None:
    turns = [household(flows=many_flows(FLOWS, turn), unix_s=NOW_UNIX_S + 2 * turn) for turn in range(ROUNDS)]
    lines = [msgspec.json.encode(turn) for turn in turns]
    app = AgentApp(Script(turns[0]))
    async with app.run_test(size=(160, 50)) as pilot:
        await until(lambda: len(keys(app)) == FLOWS)

        async def read(turn: int) -> None:
            msgspec.json.decode(lines[turn], type=api.Snapshot)

        async def take(turn: int) -> None:
            app.state.on_snapshot(turns[turn])

        async def draw(turn: int) -> None:
            app.state.on_snapshot(turns[turn])
            app.refresh_all()
            await pilot.pause()

        async def key(_turn: int) -> None:
            await pilot.press("down")

        print(f"{FLOWS:,} flows, {len(lines[0]) / 1e6:.1f} MB a snapshot, 160x50; CPU time in ms")
        for name, work in (("read", read), ("take in", take), ("draw", draw), ("key", key)):
            await _measure(name, work)


async def _measure(name: str, work: Callable[[int], Awaitable[None]]) -> None:
    times = []
    for turn in range(ROUNDS):
        before = time.process_time()
        await work(turn)
        times.append((time.process_time() - before) * 1e3)
    print(f"{name:8}  median {statistics.median(times):6.1f}  most {max(times):6.1f}")


if __name__ == "__main__":
    asyncio.run(main())
