"""Shows the inbox's questions on the desktop, and tells the secretary what the desktop says of its person.

Decides: which questions are on the screen, what their buttons say and mean, when nothing pops up. Refuses to know: what
anything is worth, who may be asked when, and D-Bus (`secretary.desktop.session_bus`, loaded only here, where it is
used).

It runs as the person, in the person's session, and holds no key: what it can do is what the person can do with the
command. Whatever fails here costs a pop-up and nothing else, since the question waits in the inbox.

Source: Desktop Notifications Specification 1.2 (freedesktop.org).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from functools import partial
from typing import Final, Protocol

from billpay.errors import BillpayError, EnvironmentFault
from billpay.money import show_nanodollars
from secretary.client import PersonClient
from secretary.desktop.attention import Desktop
from secretary.inbox.questions import ATTENTION_S, Attention, State
from secretary.messages import AnswerQuestion, AskInbox, Done, Inbox, QuestionView, TellAttention
from secretary.ruling.terms import Term

LOG = logging.getLogger("secretary")

EVERY_S: Final = 5.0
REPORT_S: Final = ATTENTION_S // 3
POPUPS_MAX: Final = 3
"""On the screen at a time; the others wait for their turn."""
TITLE_MAX: Final = 100
YES, NO, LATER = "yes", "no", "later"
WORTH, ALARM, BUDGET = "worth", "alarm", "budget"
"""Kinds of questions, as the secretary's messages name them."""


class QuestionSource(Protocol):
    """The secretary, as this program sees it. Methods raise BillpayError or OSError while it is away."""

    async def popups(self) -> Sequence[QuestionView]:
        """What may pop up now for this person."""

    async def changed(self, timeout_s: float) -> None:
        """Returns when `popups` may say something else, or after so long."""

    async def answer(self, number: int, *, accept: bool, up_to_nanodollars: int | None, term: Term) -> None: ...

    async def report(self, attention: Attention) -> None: ...


class SecretarySource:
    """Over the secretary's socket. `user`: whose questions; a keeper sees everybody's, and is asked their own."""

    def __init__(self, client: PersonClient, user: str) -> None:
        self._client = client
        self._user = user

    async def popups(self) -> Sequence[QuestionView]:
        inbox = await self._client.ask(AskInbox(), Inbox)
        return [each for each in inbox.questions if each.state == State.OPEN.value and each.user == self._user]

    async def changed(self, timeout_s: float) -> None:
        """Its protocol tells nothing by itself."""
        await asyncio.sleep(timeout_s)

    async def answer(self, number: int, *, accept: bool, up_to_nanodollars: int | None, term: Term) -> None:
        said = AnswerQuestion(number=number, accept=accept, limit_nanodollars=up_to_nanodollars, term=term)
        await self._client.ask(said, Done)

    async def report(self, attention: Attention) -> None:
        await self._client.ask(TellAttention(attention=attention), Done)


@dataclass(frozen=True, slots=True, kw_only=True)
class Popup:
    """`buttons`: what a button sends, and what it says."""

    title: str
    body: str
    buttons: tuple[tuple[str, str], ...]
    is_urgent: bool


def popup_of(question: QuestionView, zone: tzinfo, *, can_press: bool = True) -> Popup:
    """`can_press`: the desktop shows buttons; where it does not, the command is named."""
    at = datetime.fromtimestamp(question.lapses_unix_s, zone)
    lines = [question.price] if question.kind == WORTH else []
    lines.append(f"No answer by {at:%H:%M}: {question.otherwise}.")
    if question.why:
        lines.append(f"Why: {question.why}")
    if not can_press:
        lines.append(f"To answer: hostagent secretary answer {question.number}")
    return Popup(
        title=_plain(question.title)[:TITLE_MAX],
        body="\n".join(_plain(line) for line in lines),
        buttons=_buttons(question) if can_press else (),
        is_urgent=question.kind == ALARM,
    )


def _buttons(question: QuestionView) -> tuple[tuple[str, str], ...]:
    if question.kind == ALARM:
        return (YES, "Yes, it was me"), (NO, "No"), (LATER, "Later")
    if question.price_nanodollars == 0:  # up to what, a button cannot ask
        return (NO, "No"), (LATER, "Later")
    verb = "Allow" if question.kind == BUDGET else "Pay up to"
    return (YES, f"{verb} {show_nanodollars(question.price_nanodollars)}"), (NO, "No"), (LATER, "Later")


def _plain(text: str) -> str:
    """Names come from programs and from the network: nothing in them may start a line, or look like something else."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class Screen(Protocol):
    """A desktop that shows notifications (`secretary.desktop.session_bus`). Methods raise Absent."""

    async def show(self, popup: Popup, *, instead_of: int) -> int:
        """A number of the desktop's; `instead_of`: one that it takes the place of, 0 for none."""

    async def close(self, number: int) -> None: ...

    async def can_press(self) -> bool: ...


class Absent(Exception):  # noqa: N818 - a state of the desktop, not our error
    """Nobody shows notifications now; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressed:
    """A button, or "" when the person or the desktop took the notification away."""

    number: int  # the desktop's
    button: str


@dataclass(slots=True)
class _Shown:
    desktop_number: int
    popup: Popup
    question: QuestionView


class Notifier:
    """What is on the screen. `refresh` shows what `popups` says, `pressed` does what the person wants."""

    def __init__(self, source: QuestionSource, screen: Screen, *, zone: tzinfo, term: Term = Term.ONCE) -> None:
        self._source = source
        self._screen = screen
        self._zone = zone
        self._term = term
        self._shown: dict[int, _Shown] = {}
        self._put_off: set[int] = set()

    async def refresh(self, attention: Attention) -> None:
        """Raises Absent, and what the source raises."""
        wanted = {question.number: question for question in await self._source.popups()}
        self._put_off &= wanted.keys()
        if attention.reason is not None:
            wanted = {}
        for number in self._shown.keys() - wanted.keys():
            await self._screen.close(self._shown.pop(number).desktop_number)
        can_press = await self._screen.can_press() if wanted else True
        for number in sorted(wanted.keys() - self._put_off):
            if number in self._shown or len(self._shown) < POPUPS_MAX:
                await self._show(wanted[number], can_press)

    async def _show(self, question: QuestionView, can_press: bool) -> None:
        popup = popup_of(question, self._zone, can_press=can_press)
        before = self._shown.get(question.number)
        if before is not None and before.popup == popup:
            return
        instead_of = before.desktop_number if before is not None else 0
        number = await self._screen.show(popup, instead_of=instead_of)
        self._shown[question.number] = _Shown(number, popup, question)

    async def pressed(self, event: Pressed) -> None:
        """A button of a notification that is not ours, or not on the screen any more, does nothing."""
        shown = next((each for each in self._shown.values() if each.desktop_number == event.number), None)
        if shown is None:
            return
        question = shown.question
        if event.button in (YES, NO):
            accept = event.button == YES
            offer = question.price_nanodollars  # what the button said, whatever has joined since
            is_priced = accept and question.kind != ALARM
            await self._source.answer(
                question.number, accept=accept, up_to_nanodollars=offer if is_priced else None, term=self._term
            )
        del self._shown[question.number]
        self._put_off.add(question.number)
        if event.button:
            await self._screen.close(event.number)

    async def clear(self) -> None:
        """Nothing of ours stays on the screen. Raises Absent."""
        while self._shown:
            await self._screen.close(self._shown.popitem()[1].desktop_number)

    def forget(self) -> None:
        """The desktop began anew: nothing is on the screen."""
        self._shown.clear()


async def run_notifier(
    source: QuestionSource,
    *,
    zone: tzinfo,
    address: str = "",
    desktop: Desktop | None = None,
    term: Term = Term.ONCE,
    every_s: float = EVERY_S,
) -> None:
    """Until the session ends, or it is cancelled. `address`: of the session's bus, "" for the environment's.

    Raises EnvironmentFault where there is no session.
    """
    try:
        from secretary.desktop.session_bus import SessionBus
    except ImportError as error:
        remedy = "pip install dbus-fast; the inbox is in `hostagent secretary inbox`, too"
        raise EnvironmentFault("show questions on the desktop", "dbus-fast", error, remedy) from error
    async with SessionBus(address) as bus:
        program = _Program(source, Notifier(source, bus, zone=zone, term=term), desktop or Desktop(), bus)
        try:
            await program.run(every_s)
        finally:
            await program.end()


class _Bus(Protocol):
    """What SessionBus has beside a Screen: events, and questions to other programs of the session."""

    async def event(self) -> Pressed | None: ...

    async def read(self, destination: str, path: str, interface: str, member: str, *arguments: object) -> object: ...


class _Program:
    """Three tasks: the questions, the buttons, the desktop's word on its person."""

    def __init__(self, source: QuestionSource, notifier: Notifier, desktop: Desktop, bus: _Bus) -> None:
        self._source = source
        self._notifier = notifier
        self._desktop = desktop
        self._bus = bus
        self._attention = Attention()
        self._lock = asyncio.Lock()
        self._complaint = ""

    async def run(self, every_s: float) -> None:
        asking = asyncio.create_task(self._ask(every_s), name="questions")
        attending = asyncio.create_task(self._attend(every_s), name="attention")
        try:
            while (event := await self._bus.event()) is not None:
                if event.number == 0:
                    self._notifier.forget()
                else:
                    await self._safely(partial(self._notifier.pressed, event))
        finally:
            for task in (asking, attending):
                task.cancel()
            await asyncio.gather(asking, attending, return_exceptions=True)

    async def end(self) -> None:
        await self._safely(self._notifier.clear)

    async def _ask(self, every_s: float) -> None:
        while True:
            if await self._safely(partial(self._notifier.refresh, self._attention)):
                try:
                    await self._source.changed(every_s)
                    continue
                except (BillpayError, OSError) as error:
                    self._complain(error)
            await asyncio.sleep(every_s)

    async def _attend(self, every_s: float) -> None:
        left_s = 0.0
        while True:
            attention = await self._desktop.attention(self._bus.read)
            has_changed = attention != self._attention
            if has_changed:
                self._attention = attention
                await self._safely(partial(self._notifier.refresh, attention))
            if has_changed or left_s <= 0:
                left_s = REPORT_S if await self._safely(partial(self._source.report, attention)) else every_s
            await asyncio.sleep(every_s)
            left_s -= every_s

    async def _safely(self, do: Callable[[], Awaitable[None]]) -> bool:
        """One at a time; what is away now may be there at the next turn."""
        async with self._lock:
            try:
                await do()
            except (BillpayError, OSError, Absent) as error:
                self._complain(error)
                return False
        return True

    def _complain(self, error: Exception) -> None:
        """Once, not at each turn."""
        said = str(error)
        if said != self._complaint:
            self._complaint = said
            LOG.warning("questions on the desktop: %s", said)
