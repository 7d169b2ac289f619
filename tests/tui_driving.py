"""The terminal UI in tests: a source that a test holds in its hands, and what stands on the screen."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from rich.console import Console
from snapshots import HOUSEHOLD_MAP, HOUSEHOLD_WAYS, NOVEMBER, WAYS, household

from billpay.errors import BillpayError
from hostagent import api
from tui.app import AgentApp
from tui.source import PersonalSource
from tui.widgets.grid import Grid


class Script:
    """Gives its snapshots, then those that are `push`ed; an exception among them is raised, `None` ends the stream.
    Remembers what it was asked and told.
    """

    def __init__(self, *steps: api.Snapshot | Exception | None) -> None:
        self.queue: asyncio.Queue[api.Snapshot | Exception | None] = asyncio.Queue()
        for step in steps:
            self.queue.put_nowait(step)
        self.asked = 0
        self.calls: list[Any] = []
        self.refuses: BillpayError | None = None
        self.personal: PersonalSource | None = None

    def secretary(self, socket: str) -> PersonalSource | None:
        assert socket
        return self.personal

    def push(self, step: api.Snapshot | Exception | None) -> None:
        self.queue.put_nowait(step)

    async def events(self) -> AsyncIterator[api.Snapshot]:
        self.asked += 1
        while True:
            step = await self.queue.get()
            if step is None:
                return
            if isinstance(step, Exception):
                raise step
            yield step

    def _told(self, call: Any) -> None:
        self.calls.append(call)
        if self.refuses is not None:
            raise self.refuses

    async def why(self, flow: str) -> api.Why:
        self._told(("why", flow))
        return api.Why(
            flow=flow,
            lines=(
                api.WhyLine(question="program", answer="zoom, /usr/bin/zoom, pid 4711"),
                api.WhyLine(question="kind", answer="call, by the table of kinds"),
                api.WhyLine(question="worth", answer="20 mUSD a MB: the price is 1.2 mUSD"),
                api.WhyLine(question="payment", answer="none: nobody on the way asks for one"),
            ),
        )

    async def statement(self, month: str) -> api.Statement:
        self._told(("statement", month))
        return msgspec.structs.replace(NOVEMBER, month=month)

    async def answer(self, answer: api.Answer) -> None:
        self._told(answer)

    async def set_mode(self, change: api.ModeChange) -> None:
        self._told(change)

    async def set_worth(self, change: api.WorthChange) -> None:
        self._told(change)

    async def trust(self, fingerprint: str) -> None:
        self._told(("trust", fingerprint))

    async def end_session(self, session: str) -> None:
        self._told(("end", session))

    async def set_session_worth(self, change: api.SessionWorth) -> None:
        self._told(change)

    async def set_access(self, change: api.AccessChange) -> None:
        self._told(change)

    async def ways(self, destination: str) -> tuple[api.Way, ...]:
        return tuple(each for each in (*WAYS, *HOUSEHOLD_WAYS) if destination in ("", each.destination))

    async def network_map(self, destination: str) -> api.NetworkMap:
        return HOUSEHOLD_MAP


def home(**changes: Any) -> tuple[AgentApp, Script]:
    script = Script(household(**changes))
    return AgentApp(script, title="laptop"), script


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def seen(app: AgentApp, text: str) -> None:
    """Waits until it stands on the screen."""
    try:
        await until(lambda: text in picture(app))
    except TimeoutError:
        raise AssertionError(f"{text!r} is not on the screen:\n{picture(app)}") from None


def picture(app: AgentApp) -> str:
    """The whole screen as text, without the blanks at the ends of lines."""
    width, height = app.size
    console = Console(
        width=width, height=height, file=io.StringIO(), force_terminal=True, color_system="truecolor", record=True
    )
    console.print(app.screen._compositor.render_update(full=True))
    lines = [line.rstrip() for line in console.export_text(styles=False).splitlines()]
    return "\n".join(lines[:height]).rstrip() + "\n"


def grid(app: AgentApp, selector: str = "#flow-table") -> Grid[Any]:
    return app.query_one(selector, Grid)


def keys(app: AgentApp, selector: str = "#flow-table") -> list[str]:
    table = grid(app, selector)
    return [table._listing.key(thing) for thing in table.things] if table._listing is not None else []
