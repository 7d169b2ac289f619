"""Follows the agent's events and shows a snapshot every so often, until told to stop.

Decides: when a screen is due, and that SIGINT, SIGTERM and SIGHUP end a look in good order. Refuses to know: what is
shown (`cli.live`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

from hostagent import api
from hostagent.client import LocalClient, Unreachable

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HOME: Final = "\x1b[H"
CLEAR_LINE: Final = "\x1b[K"
CLEAR_BELOW: Final = "\x1b[J"


async def watch(
    socket: Path, show: Callable[[api.Snapshot], None], *, every_s: float, seconds: float | None = None
) -> tuple[api.Snapshot, api.Snapshot]:
    """The first and the last snapshot. Raises Unreachable when no agent answers, or it ends first."""
    with _told_to_end() as told:
        async with LocalClient(socket) as client:
            first = await client.snapshot()
            latest = _Latest(first)
            show(first)
            listening = asyncio.create_task(_listen(client, latest))
            try:
                ends_s = None if seconds is None else asyncio.get_running_loop().time() + seconds
                while await _pause(told, every_s, ends_s):
                    if listening.done():
                        listening.result()
                        raise Unreachable(socket, "it ended")
                    show(latest.value)
            finally:
                listening.cancel()
                with contextlib.suppress(asyncio.CancelledError, Unreachable):
                    await listening
            return first, latest.value


class _Latest:
    """The snapshot that came last."""

    def __init__(self, value: api.Snapshot) -> None:
        self.value = value


async def _listen(client: LocalClient, latest: _Latest) -> None:
    async with contextlib.aclosing(client.events()) as snapshots:
        async for snapshot in snapshots:
            latest.value = snapshot


async def _pause(told: asyncio.Event, every_s: float, ends_s: float | None) -> bool:
    """False: it is over."""
    left_s = every_s if ends_s is None else min(every_s, ends_s - asyncio.get_running_loop().time())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, left_s)):
            await told.wait()
    return not told.is_set() and (ends_s is None or asyncio.get_running_loop().time() < ends_s)


@contextlib.contextmanager
def _told_to_end() -> Iterator[asyncio.Event]:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        loop.add_signal_handler(number, told.set)
    try:
        yield told
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)  # which sets the default
            signal.signal(number, handler)


class Screen:
    """Lines that take each other's place on a terminal, without a flicker."""

    def __init__(self) -> None:
        self._is_first = True

    def show(self, lines: list[str]) -> None:
        begin = HOME + CLEAR_BELOW if self._is_first else HOME
        self._is_first = False
        # color: who made a Screen knows that it is a terminal
        click.echo(begin + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW, nl=False, color=True)
