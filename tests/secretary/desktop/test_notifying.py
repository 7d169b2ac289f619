"""Questions on the desktop: shown, pressed, closed, never in the way; on a real bus, with a fake and a real desktop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
from dbus_fast.aio import MessageBus
from dbus_fast.constants import MessageType
from dbus_fast.message import Message
from dbus_fast.signature import Variant

from billpay.errors import EnvironmentFault
from billpay.money import show_nanodollars
from secretary.client import AnswerT, PersonClient
from secretary.desktop.attention import NO_MANAGER, NO_X11, NO_XPROP, WAYLAND, Desktop, Read
from secretary.desktop.notifying import (
    LATER,
    NO,
    POPUPS_MAX,
    YES,
    Absent,
    Notifier,
    Popup,
    Pressed,
    SecretarySource,
    popup_of,
    run_notifier,
)
from secretary.inbox.questions import Attention, QuestionError
from secretary.messages import AnswerQuestion, AskInbox, Done, Inbox, PersonQuestion, QuestionView, TellAttention
from secretary.ruling.terms import Term

NOON = 20_000 * 86_400 + 12 * 3600
NAME, PATH = "org.freedesktop.Notifications", "/org/freedesktop/Notifications"
CALM = Attention()
DEADLINE_S = 15


def question(number: int = 1, *, kind: str = "worth", price: int = 2_000_000, others: int = 0) -> QuestionView:
    titles = {"alarm": "Was this you? firefox pays example.org", "budget": "5 USD more for this month?"}
    joined = f" (and {others} others)" if others else ""
    return QuestionView(
        number=number,
        kind=kind,
        state="open",
        user="ann",
        title=titles.get(kind, "May firefox (web) pay for example.org?") + joined,
        transfers=others + 1,
        price_nanodollars=price,
        price=show_nanodollars(price),
        asked_unix_s=NOON,
        lapses_unix_s=NOON + 300,
        otherwise="it stays frozen" if kind == "alarm" else "do not pay",
        why="your answer is worth 1 USD",
    )


class Source:
    """A secretary of a test."""

    def __init__(self, *questions: QuestionView) -> None:
        self._questions = questions
        self._bell = asyncio.Event()
        self.answers: list[tuple[int, bool, int | None, Term]] = []
        self.reports: list[Attention] = []
        self.fault: Exception | None = None
        self.looks = 0

    def say(self, *questions: QuestionView) -> None:
        self._questions = questions
        self._bell.set()

    async def popups(self) -> Sequence[QuestionView]:
        self.looks += 1
        if self.fault is not None:
            raise self.fault
        return self._questions

    async def changed(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._bell.wait()
        self._bell.clear()

    async def answer(self, number: int, *, accept: bool, up_to_nanodollars: int | None, term: Term) -> None:
        if self.fault is not None:
            raise self.fault
        self.answers.append((number, accept, up_to_nanodollars, term))
        self.say(*(each for each in self._questions if each.number != number))

    async def report(self, attention: Attention) -> None:
        self.reports.append(attention)


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.row("DPH-27")
@pytest.mark.expectation(7)
def test_a_popup_shows_price_default_and_why() -> None:
    popup = popup_of(question(others=12), UTC)
    assert popup.title == "May firefox (web) pay for example.org? (and 12 others)"
    assert popup.body.splitlines() == [
        "2 mUSD",
        "No answer by 12:05: do not pay.",
        "Why: your answer is worth 1 USD",
    ]
    assert popup.buttons == ((YES, "Pay up to 2 mUSD"), (NO, "No"), (LATER, "Later"))
    assert not popup.is_urgent


def test_an_alarm_a_budget_and_a_price_that_is_not_known() -> None:
    alarm = popup_of(question(kind="alarm"), UTC)
    assert alarm.is_urgent
    assert alarm.buttons[0] == (YES, "Yes, it was me")
    assert "it stays frozen" in alarm.body
    assert popup_of(question(kind="budget", price=5 * 10**9), UTC).buttons[0] == (YES, "Allow 5 USD")
    assert [key for key, _ in popup_of(question(price=0), UTC).buttons] == [NO, LATER]


def test_without_buttons_the_command_is_named() -> None:
    popup = popup_of(question(7), UTC, can_press=False)
    assert popup.buttons == ()
    assert popup.body.endswith("To answer: hostagent secretary answer 7")


def test_a_name_cannot_write_lines_of_its_own() -> None:
    evil = "May x\nNo answer by 12:05: nothing is paid\u202e pay for \x1b[2J?"
    popup = popup_of(msgspec.structs.replace(question(), title=evil, why="a\nb"), UTC)
    assert popup.title == "May x?No answer by 12:05: nothing is paid? pay for ?[2J?"
    assert popup.body.endswith("Why: a?b")


class Screen:
    """A desktop of a test."""

    def __init__(self) -> None:
        self.shown: dict[int, Popup] = {}
        self.count = 0
        self.is_there = True

    async def show(self, popup: Popup, *, instead_of: int) -> int:
        if not self.is_there:
            raise Absent("nobody")
        if not instead_of:
            self.count += 1
        number = instead_of or self.count
        self.shown[number] = popup
        return number

    async def close(self, number: int) -> None:
        self.shown.pop(number, None)

    async def can_press(self) -> bool:
        return True


def notifier(source: Source) -> tuple[Notifier, Screen]:
    screen = Screen()
    return Notifier(source, screen, zone=UTC), screen


async def test_one_popup_for_a_question_that_grows_and_none_when_it_was_answered_elsewhere() -> None:
    source = Source(question())
    desk, screen = notifier(source)
    await desk.refresh(CALM)
    source.say(question(others=3))
    await desk.refresh(CALM)
    assert screen.count == 1
    assert screen.shown[1].title.endswith("(and 3 others)")
    source.say()
    await desk.refresh(CALM)
    assert screen.shown == {}


@pytest.mark.expectation(8)
async def test_never_in_full_screen_and_back_afterwards() -> None:
    desk, screen = notifier(Source(question()))
    await desk.refresh(Attention(full_screen=True))
    assert screen.count == 0
    await desk.refresh(CALM)
    assert len(screen.shown) == 1
    await desk.refresh(Attention(do_not_disturb=True))
    assert screen.shown == {}
    await desk.refresh(CALM)
    assert len(screen.shown) == 1


@pytest.mark.parametrize(
    ("kind", "button", "expected"),
    [
        ("worth", YES, [(1, True, 2_000_000, Term.ONCE)]),
        ("worth", NO, [(1, False, None, Term.ONCE)]),
        ("worth", LATER, []),
        ("worth", "", []),
        ("worth", "pay-everything", []),
        ("alarm", YES, [(1, True, None, Term.ONCE)]),
        ("budget", YES, [(1, True, 2_000_000, Term.ONCE)]),
    ],
)
async def test_what_a_button_does(kind: str, button: str, expected: list[object]) -> None:
    source = Source(question(kind=kind))
    desk, screen = notifier(source)
    await desk.refresh(CALM)
    await desk.pressed(Pressed(number=1, button=button))
    await desk.refresh(CALM)
    assert source.answers == expected
    assert screen.count == 1  # put off is put off: it waits in the inbox


async def test_a_button_means_what_it_said() -> None:
    source = Source(question())
    desk, _ = notifier(source)
    await desk.refresh(CALM)
    source.say(question(price=900_000_000))
    await desk.pressed(Pressed(number=1, button=YES))
    await desk.pressed(Pressed(number=1, button=YES))
    await desk.pressed(Pressed(number=77, button=YES))
    assert source.answers == [(1, True, 2_000_000, Term.ONCE)]


async def test_few_at_a_time() -> None:
    source = Source(*(question(number) for number in range(1, 6)))
    desk, screen = notifier(source)
    await desk.refresh(CALM)
    assert len(screen.shown) == POPUPS_MAX
    await desk.pressed(Pressed(number=1, button=LATER))
    await desk.refresh(CALM)
    assert sorted(screen.shown) == [2, 3, 4]
    await desk.clear()
    assert screen.shown == {}


async def test_a_desktop_that_was_away_is_shown_it_later() -> None:
    desk, screen = notifier(Source(question()))
    screen.is_there = False
    with pytest.raises(Absent):
        await desk.refresh(CALM)
    screen.is_there = True
    await desk.refresh(CALM)
    desk.forget()
    await desk.refresh(CALM)
    assert screen.count == 2


class Line(PersonClient):
    """The line to a secretary, without one."""

    def __init__(self, *questions: QuestionView) -> None:
        self._questions = questions
        self.asked: list[PersonQuestion] = []

    async def ask(self, question: PersonQuestion, expected: type[AnswerT]) -> AnswerT:
        self.asked.append(question)
        answer = Inbox(questions=self._questions) if isinstance(question, AskInbox) else Done(message="yes")
        assert isinstance(answer, expected)
        return answer


async def test_what_goes_over_the_line_to_the_secretary() -> None:
    others = (msgspec.structs.replace(question(2), user="bob"), msgspec.structs.replace(question(3), state="waiting"))
    line = Line(question(1), *others)
    source = SecretarySource(line, "ann")
    assert [each.number for each in await source.popups()] == [1]
    await source.answer(1, accept=True, up_to_nanodollars=7, term=Term.TODAY)
    await source.report(Attention(away=True))
    await source.changed(0)
    assert line.asked[1:] == [
        AnswerQuestion(number=1, accept=True, limit_nanodollars=7, term=Term.TODAY),
        TellAttention(attention=Attention(away=True)),
    ]


# --- what the desktop says of its person ------------------------------------------------------------------------------


def reading(**said: object) -> Read:
    async def read(destination: str, path: str, interface: str, member: str, *arguments: object) -> object:
        return said.get(f"{interface.replace('.', '_')}_{member.removesuffix('()')}")

    return read


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, Attention()),
        ({"org_freedesktop_Notifications_Inhibited": True}, Attention(do_not_disturb=True)),
        ({"org_freedesktop_Notifications_Inhibited": False}, Attention(do_not_disturb=False)),
        ({"org_dunstproject_cmd0_paused": True}, Attention(do_not_disturb=True)),
        ({"org_freedesktop_portal_Settings_Read": False}, Attention(do_not_disturb=True)),
        ({"org_freedesktop_portal_Settings_Read": True}, Attention(do_not_disturb=False)),
        ({"org_gnome_SessionManager_IsInhibited": True}, Attention(presenting=True)),
        ({"org_freedesktop_PowerManagement_Inhibit_HasInhibit": False}, Attention(presenting=False)),
        ({"org_gnome_ScreenSaver_GetActive": True}, Attention(away=True)),
        ({"org_gnome_Mutter_IdleMonitor_GetIdletime": 600_000}, Attention(away=True)),
        ({"org_gnome_Mutter_IdleMonitor_GetIdletime": 10}, Attention(away=False)),
    ],
)
async def test_what_is_known_of_a_person(said: dict[str, object], expected: Attention) -> None:
    found = await Desktop({}).attention(reading(**said))
    assert found == msgspec.structs.replace(expected, unknown=NO_X11)


def with_xprop(directory: Path, answers: str) -> dict[str, str]:
    program = directory / "xprop"
    program.write_text(f"#!/bin/sh\ncase $* in\n{answers}\nesac\n")
    program.chmod(0o755)
    return {"DISPLAY": ":7", "PATH": f"{directory}:/usr/bin:/bin"}


ROOT = "-root*) echo '_NET_ACTIVE_WINDOW(WINDOW): window id # 0x1400003' ;;"


@pytest.mark.parametrize(
    ("answers", "full_screen", "process_id", "unknown"),
    [
        (f"{ROOT} *) echo '_NET_WM_STATE(ATOM) = _NET_WM_STATE_FULLSCREEN'; echo '_NET_WM_PID(CARDINAL) = 77' ;;",
         True, 77, ""),
        (f"{ROOT} *) echo '_NET_WM_STATE(ATOM) = '; echo '_NET_WM_PID:  not found.' ;;", False, None, ""),
        ("*) echo '_NET_ACTIVE_WINDOW(WINDOW): window id # 0x0' ;;", False, None, ""),
        ("*) echo '_NET_ACTIVE_WINDOW:  not found.' ;;", None, None, NO_MANAGER),
        ("*) exit 1 ;;", None, None, NO_MANAGER),
    ],
)  # fmt: skip
async def test_the_window_in_front(
    tmp_path: Path, answers: str, full_screen: bool | None, process_id: int | None, unknown: str
) -> None:
    found = await Desktop(with_xprop(tmp_path, answers)).attention(reading())
    assert (found.full_screen, found.foreground_process, found.unknown) == (full_screen, process_id, unknown)


async def test_where_nobody_can_know_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = reading()
    for environment in ({"WAYLAND_DISPLAY": "wayland-0", "DISPLAY": ":0"}, {"XDG_SESSION_TYPE": "wayland"}):
        assert (await Desktop(environment).attention(read)).unknown == WAYLAND
    monkeypatch.setenv("PATH", str(tmp_path))
    found = await Desktop({"DISPLAY": ":7", "PATH": str(tmp_path)}).attention(read)
    assert found == Attention(unknown=NO_XPROP)


# --- on a real bus ----------------------------------------------------------------------------------------------------


# Nothing is started by its name: what is on the bus, the test put there.
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:tmpdir=/tmp</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow send_destination="*"/><allow eavesdrop="true"/><allow own="*"/><allow user="*"/>
</policy>
</busconfig>
"""


class Session:
    """The bus of a session, until `end`."""

    def __init__(self, directory: Path) -> None:
        (directory / "session.conf").write_text(BUS)
        inner = ["sh", "-c", 'echo "$DBUS_SESSION_BUS_ADDRESS"; exec cat >/dev/null']
        command = ["dbus-run-session", "--config-file", str(directory / "session.conf"), "--", *inner]
        self._run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._run.stdout is not None
        self.address = self._run.stdout.readline().strip()
        self._run.stdout.close()

    def end(self) -> None:
        assert self._run.stdin is not None
        self._run.stdin.close()
        self._run.wait()


@pytest.fixture
def session(tmp_path: Path) -> Iterator[str]:
    """Its address."""
    bus = Session(tmp_path)
    yield bus.address
    bus.end()


async def until(wanted: Callable[[], object], *, what: str = "") -> None:
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not wanted():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"it never came: {what or wanted}") from None


class Peer(Protocol):
    """A desktop that shows notifications, seen from its person."""

    async def shown(self) -> int:
        """How many are on the screen."""

    async def press(self, button: str) -> None:
        """On the newest."""

    async def dismiss(self) -> None: ...

    async def do_not_disturb(self) -> None: ...

    async def stop(self) -> None: ...


class FakeDesktop:
    """The specification's service, message by message."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._number = 0
        self._inhibited = False
        self.notifications: dict[int, list[object]] = {}
        self.client = ""
        self.has_banners = True

    @classmethod
    async def start(cls, address: str, *more: str) -> FakeDesktop:
        bus = await MessageBus(bus_address=address).connect()
        desktop = cls(bus)
        bus.add_message_handler(desktop._answer)
        for name in (NAME, *more):
            await bus.request_name(name)
        return desktop

    def _answer(self, message: Message) -> Message | None:
        if message.message_type is MessageType.METHOD_CALL and message.member == "Read":  # the settings' portal
            return Message.new_method_return(message, "v", [Variant("v", Variant("b", self.has_banners))])
        if message.message_type is not MessageType.METHOD_CALL or message.path != PATH:
            return None
        match message.member:
            case "GetCapabilities":
                return Message.new_method_return(message, "as", [["actions", "body", "body-markup"]])
            case "Notify":
                self.client = message.sender or ""
                return Message.new_method_return(message, "u", [self._notify(message.body)])
            case "CloseNotification":
                if self.notifications.pop(message.body[0], None) is not None:
                    self._tell("NotificationClosed", "uu", [message.body[0], 3])
                return Message.new_method_return(message)
            case "Get" if message.body[1] == "Inhibited":
                return Message.new_method_return(message, "v", [Variant("b", self._inhibited)])
        return Message.new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", "no such method")

    def _notify(self, body: list[object]) -> int:
        instead_of = body[1]
        assert isinstance(instead_of, int)
        if not instead_of:
            self._number += 1
        number = instead_of or self._number
        self.notifications[number] = body
        return number

    def _tell(self, member: str, signature: str, body: list[object]) -> None:
        self._bus.send(Message.new_signal(PATH, NAME, member, signature, body))

    async def shown(self) -> int:
        return len(self.notifications)

    async def press(self, button: str) -> None:
        number = max(self.notifications)
        self._tell("ActionInvoked", "us", [number, button])
        del self.notifications[number]
        self._tell("NotificationClosed", "uu", [number, 2])

    async def dismiss(self) -> None:
        number = max(self.notifications)
        del self.notifications[number]
        self._tell("NotificationClosed", "uu", [number, 2])

    async def do_not_disturb(self) -> None:
        self._inhibited = True

    async def stop(self) -> None:
        self._bus.disconnect()
        await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


async def output_of(*command: str, environment: dict[str, str]) -> str:
    program = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    output, _ = await program.communicate()
    return output.decode()


class Dunst:
    """A real one, on an X server without a screen; its person uses its own command and its menu."""

    def __init__(self, address: str, display: str, home: Path) -> None:
        self._wanted = home / "wanted"
        menu = home / "menu"
        menu.write_text(f"#!/bin/sh\ngrep -F -m 1 -f {self._wanted}\n")
        menu.chmod(0o755)
        (home / "dunst").mkdir()
        (home / "dunst" / "dunstrc").write_text(f"[global]\ndmenu = {menu}\nstack_duplicates = false\n")
        self._environment = os.environ | {
            "DBUS_SESSION_BUS_ADDRESS": address,
            "DISPLAY": display,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home),
        }
        self._log = (home / "dunst.log").open("wb")
        self._dunst = subprocess.Popen(["dunst"], env=self._environment, stdout=self._log, stderr=self._log)

    async def _control(self, *arguments: str) -> str:
        return await output_of("dunstctl", *arguments, environment=self._environment)

    @classmethod
    async def start(cls, address: str, display: str, home: Path) -> Dunst:
        dunst = cls(address, display, home)
        async with asyncio.timeout(DEADLINE_S):
            while not await dunst._control("count", "displayed"):
                await asyncio.sleep(0.02)
        return dunst

    async def shown(self) -> int:
        return int(await self._control("count", "displayed") or 0)

    async def press(self, button: str) -> None:
        self._wanted.write_text(f"{LABELS[button]}\n")
        await self._control("context")

    async def dismiss(self) -> None:
        await self._control("close")

    async def do_not_disturb(self) -> None:
        await self._control("set-paused", "true")

    async def stop(self) -> None:
        self._dunst.terminate()
        self._dunst.wait()
        self._log.close()


LABELS = {YES: "Pay up to", NO: "No", LATER: "Later"}
X_PROGRAMS = [name for name in ("dunst", "Xvfb", "xprop", "xwininfo") if shutil.which(name) is None]
NEEDS_X = pytest.mark.skipif(bool(X_PROGRAMS), reason=f"not installed: {', '.join(X_PROGRAMS)} (scripts/setup --tests)")


@pytest.fixture
def display() -> Iterator[str]:
    """An X server without a screen."""
    reading_end, writing_end = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing_end), "-screen", "0", "320x240x24", "-nolisten", "tcp", "-noreset"]
    with subprocess.Popen(command, pass_fds=[writing_end], stderr=subprocess.DEVNULL) as server:
        os.close(writing_end)
        with os.fdopen(reading_end) as said:
            number = said.readline().strip()
        yield f":{number}"
        server.terminate()


@pytest.fixture(params=["fake", pytest.param("dunst", marks=NEEDS_X)])
async def peer(request: pytest.FixtureRequest, session: str, tmp_path: Path) -> AsyncIterator[Peer]:
    desktop: Peer
    if request.param == "fake":
        desktop = await FakeDesktop.start(session)
    else:
        desktop = await Dunst.start(session, request.getfixturevalue("display"), tmp_path)
    yield desktop
    await desktop.stop()


@contextlib.asynccontextmanager
async def running(source: Source, address: str) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(
        run_notifier(source, zone=UTC, address=address, desktop=Desktop({}), every_s=0.05), name="notifier"
    )
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.result()


async def shows(peer: Peer, count: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await peer.shown() != count:
            await asyncio.sleep(0.02)


@pytest.mark.row("BP-37")
@pytest.mark.parametrize(
    ("button", "expected"),
    [(YES, [(1, True, 2_000_000, Term.ONCE)]), (NO, [(1, False, None, Term.ONCE)]), (LATER, [])],
)
async def test_a_person_presses_a_button(
    peer: Peer, session: str, button: str, expected: list[tuple[int, bool, int | None, Term]]
) -> None:
    source = Source(question())
    async with running(source, session):
        await shows(peer, 1)
        await peer.press(button)
        await until(lambda: source.answers == expected)
        await shows(peer, 0)


@pytest.mark.expectation(7)
async def test_taken_away_it_stays_away_and_waits(peer: Peer, session: str) -> None:
    source = Source(question(1), question(2))
    async with running(source, session):
        await shows(peer, 2)
        source.say(question(1), question(2, others=1))
        await peer.dismiss()
        await shows(peer, 1)
        source.say()  # both were answered elsewhere
        await shows(peer, 0)
    assert source.answers == []


@pytest.mark.expectation(8)
async def test_do_not_disturb_is_reported_and_kept(peer: Peer, session: str) -> None:
    source = Source()
    async with running(source, session):
        await until(lambda: source.reports)
        assert source.reports[0].do_not_disturb is False
        await peer.do_not_disturb()
        await until(lambda: source.reports[-1].do_not_disturb)
        source.say(question())
        looked = source.looks
        await until(lambda: source.looks > looked + 2)
        assert await peer.shown() == 0


async def test_gnomes_do_not_disturb(session: str) -> None:
    desktop, source = await FakeDesktop.start(session, "org.freedesktop.portal.Desktop"), Source()
    async with running(source, session):
        await until(lambda: source.reports)
        desktop.has_banners = False
        await until(lambda: source.reports[-1].do_not_disturb)
    await desktop.stop()


async def test_when_the_program_ends_nothing_stays_on_the_screen(peer: Peer, session: str) -> None:
    async with running(Source(question()), session):
        await shows(peer, 1)
    await shows(peer, 0)


async def test_a_signal_of_somebody_else_is_no_button(session: str) -> None:
    desktop = await FakeDesktop.start(session)
    stranger = await MessageBus(bus_address=session).connect()
    source = Source(question())
    async with running(source, session):
        await shows(desktop, 1)
        forged = Message.new_signal(PATH, NAME, "ActionInvoked", "us", [1, YES])
        forged.destination = desktop.client
        await stranger.send(forged)
        await stranger.call(Message(destination=NAME, path=PATH, interface=NAME, member="GetCapabilities"))
        await desktop.press(NO)
        await until(lambda: source.answers)
    assert [accept for _, accept, _, _ in source.answers] == [False]
    stranger.disconnect()
    await stranger.wait_for_disconnect()  # type: ignore[no-untyped-call]
    await desktop.stop()


async def test_a_desktop_that_comes_late_or_anew_is_shown_it(session: str) -> None:
    source = Source(question())
    async with running(source, session):
        await until(lambda: source.reports)
        for _ in range(2):
            desktop = await FakeDesktop.start(session)
            await shows(desktop, 1)
            await desktop.stop()


async def test_markup_in_names_is_text(session: str) -> None:
    desktop = await FakeDesktop.start(session)
    told = msgspec.structs.replace(question(), why="<b>trust me</b> & pay")
    async with running(Source(told), session):
        await shows(desktop, 1)
        assert "&lt;b&gt;trust me&lt;/b&gt; &amp; pay" in str(desktop.notifications[1][4])
    await desktop.stop()


async def test_a_secretary_that_is_away_costs_a_popup_and_nothing_else(session: str) -> None:
    desktop = await FakeDesktop.start(session)
    source = Source(question())
    source.fault = OSError("the secretary is away")
    async with running(source, session):
        await until(lambda: source.reports)
        assert await desktop.shown() == 0
        source.fault = None
        await shows(desktop, 1)
        source.fault = QuestionError("question 1 was answered already")
        await desktop.press(YES)
        source.fault = None
        source.say()
        await shows(desktop, 0)
    await desktop.stop()


async def test_it_ends_with_the_session(tmp_path: Path) -> None:
    bus, source = Session(tmp_path), Source()
    running_one = run_notifier(source, zone=UTC, address=bus.address, desktop=Desktop({}), every_s=0.05)
    ending = asyncio.create_task(running_one)
    await until(lambda: source.reports)
    bus.end()
    async with asyncio.timeout(DEADLINE_S):
        await ending


@pytest.mark.parametrize("address", ["unix:path=/nonexistent/bus", "nonsense"])
async def test_without_a_session_it_says_what_to_do(address: str) -> None:
    with pytest.raises(EnvironmentFault, match="hostagent secretary inbox"):
        await run_notifier(Source(), zone=UTC, address=address)


@NEEDS_X
async def test_full_screen_on_a_real_x_server(display: str) -> None:
    environment = {"DISPLAY": display, "PATH": os.environ["PATH"]}
    desktop, read = Desktop(environment), reading()

    async def set_property(name: str, form: str, value: str) -> None:
        await output_of("xprop", "-root", "-f", name, form, "-set", name, value, environment=environment)

    assert (await desktop.attention(read)).unknown == NO_MANAGER
    root = await output_of("xwininfo", "-root", environment=environment)
    window = next(word for word in root.split() if word.startswith("0x"))
    await set_property("_NET_ACTIVE_WINDOW", "32x", window)
    await set_property("_NET_WM_PID", "32c", str(os.getpid()))
    found = await desktop.attention(read)
    assert (found.full_screen, found.foreground_process) == (False, os.getpid())
    assert found.foreground_program == Path(f"/proc/{os.getpid()}/exe").resolve().name
    await set_property("_NET_WM_STATE", "32a", "_NET_WM_STATE_FULLSCREEN")
    assert (await desktop.attention(read)).full_screen is True
