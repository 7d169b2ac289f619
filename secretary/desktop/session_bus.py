"""One connection to the bus of a desktop session: notifications, their buttons, and properties of other programs.

Decides: whose signals are believed (those of the program that has the name of the notifications; anybody on the bus can
send a signal to us). Refuses to know: what is shown and why (`secretary.desktop.notifying`, which loads this module
only where it runs). Source: D-Bus specification; Desktop Notifications Specification 1.2.
"""

from __future__ import annotations

import asyncio
import html
import os
from types import TracebackType
from typing import Any, Final

from dbus_fast.aio import MessageBus
from dbus_fast.constants import BusType, MessageFlag, MessageType
from dbus_fast.errors import DBusFastError
from dbus_fast.message import Message
from dbus_fast.signature import Variant
from dbus_fast.unpack import unpack_variants

from billpay.errors import EnvironmentFault
from secretary.desktop.notifying import Absent, Popup, Pressed

APPLICATION: Final = "hostagent"
_ANSWER_S: Final = 5.0
_BUS, _BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_NAME, _PATH = "org.freedesktop.Notifications", "/org/freedesktop/Notifications"
_PROPERTIES: Final = f"{_BUS}.Properties"
_MATCHES: Final = (
    f"type='signal',sender='{_NAME}',interface='{_NAME}',path='{_PATH}'",
    f"type='signal',sender='{_BUS}',interface='{_BUS}',member='NameOwnerChanged',arg0='{_NAME}'",
)
_NORMAL, _CRITICAL = 1, 2
_NEVER, _AS_USUAL = 0, -1
_FAILURES: Final = (OSError, TimeoutError, EOFError, DBusFastError)
_REMEDY: Final = "start it in your desktop session; `hostagent secretary inbox` shows the questions anywhere"


class SessionBus:
    """`async with SessionBus(address) as bus:`. Raises EnvironmentFault where there is no session."""

    def __init__(self, address: str = "") -> None:
        self._address = address or os.environ.get("DBUS_SESSION_BUS_ADDRESS", "") or _default_address()
        self._events: asyncio.Queue[Pressed | None] = asyncio.Queue()
        self._owner = ""
        self._has_markup = False
        self._can_press: bool | None = None
        self._ended: asyncio.Task[None] | None = None

    async def __aenter__(self) -> SessionBus:
        try:
            self._bus = MessageBus(bus_address=self._address, bus_type=BusType.SESSION)
        except _FAILURES as error:
            raise _no_session(self._address, error) from error
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._bus.connect()
            self._bus.add_message_handler(self._hear)
            for rule in _MATCHES:
                await self._call(_BUS, _BUS_PATH, _BUS, "AddMatch", "s", rule)
            owners = await self._try(_BUS, _BUS_PATH, _BUS, "GetNameOwner", "s", _NAME)
            self._owner = str(owners[0]) if owners else ""
        except (*_FAILURES, Absent) as error:
            self._bus.disconnect()
            raise _no_session(self._address, error) from error
        except BaseException:
            self._bus.disconnect()
            raise
        self._ended = asyncio.create_task(self._watch_end(), name="session bus")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bus.remove_message_handler(self._hear)
        self._bus.disconnect()
        if self._ended is not None:
            await asyncio.wait((self._ended,), timeout=_ANSWER_S)
            self._ended.cancel()

    # --- notifications ----------------------------------------------------------------------------------------------

    async def event(self) -> Pressed | None:
        """None: the session ended. Number 0: another program shows the notifications now."""
        return await self._events.get()

    async def can_press(self) -> bool:
        if self._can_press is None:
            said = await self._call(_NAME, _PATH, _NAME, "GetCapabilities", flags=MessageFlag.NONE)
            abilities = said[0] if said else []
            self._can_press, self._has_markup = "actions" in abilities, "body-markup" in abilities
        return self._can_press

    async def show(self, popup: Popup, *, instead_of: int) -> int:
        await self.can_press()
        hints = {
            "urgency": Variant("y", _CRITICAL if popup.is_urgent else _NORMAL),
            "desktop-entry": Variant("s", APPLICATION),
            "category": Variant("s", "network"),
        }
        said = await self._call(
            _NAME,
            _PATH,
            _NAME,
            "Notify",
            "susssasa{sv}i",
            APPLICATION,
            instead_of,
            "dialog-question",
            popup.title,
            html.escape(popup.body, quote=False) if self._has_markup else popup.body,
            [text for button in popup.buttons for text in button],
            hints,
            _NEVER,  # it goes when the question does
            flags=MessageFlag.NONE,  # many desktops start what shows notifications by its name
        )
        return int(said[0]) if said else 0

    async def close(self, number: int) -> None:
        """Of one that is gone: nothing."""
        await self._try(_NAME, _PATH, _NAME, "CloseNotification", "u", number)

    # --- other programs ---------------------------------------------------------------------------------------------

    async def read(self, destination: str, path: str, interface: str, member: str, *arguments: object) -> object:
        """A property, or the answer of a method ("Read()"); None where nobody answers. Starts nothing."""
        if not member.endswith("()"):
            found = await self._try(destination, path, _PROPERTIES, "Get", "ss", interface, member)
        else:
            signature = "".join("u" if isinstance(each, int) else "s" for each in arguments)
            found = await self._try(destination, path, interface, member[:-2], signature, *arguments)
        return unpack_variants(found[0]) if found else None

    # --- the wire ---------------------------------------------------------------------------------------------------

    def _hear(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.sender == _BUS and message.member == "NameOwnerChanged" and message.body[0] == _NAME:
            before, self._owner = message.body[1], str(message.body[2])
            self._can_press = None
            if before:  # whatever it showed is gone; one that was started for us showed nothing yet
                self._events.put_nowait(Pressed(number=0, button=""))
            return
        if message.interface != _NAME or message.sender != self._owner:
            return
        if message.member == "ActionInvoked" and message.signature == "us":
            self._events.put_nowait(Pressed(number=message.body[0], button=message.body[1]))
        elif message.member == "NotificationClosed" and message.signature == "uu":
            self._events.put_nowait(Pressed(number=message.body[0], button=""))

    async def _watch_end(self) -> None:
        try:
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        except (OSError, EOFError, DBusFastError):
            pass
        finally:
            self._events.put_nowait(None)

    async def _try(
        self, destination: str, path: str, interface: str, member: str, signature: str, *body: Any
    ) -> list[Any]:
        """[] where nobody answers."""
        try:
            return await self._call(destination, path, interface, member, signature, *body)
        except Absent:
            return []

    async def _call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *body: Any,
        flags: MessageFlag = MessageFlag.NO_AUTOSTART,
    ) -> list[Any]:
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            flags=flags,
        )
        try:
            async with asyncio.timeout(_ANSWER_S):
                reply = await self._bus.call(message)
        except _FAILURES as error:
            raise Absent(f"{member}: {str(error) or 'no answer'}") from error
        if reply is None or reply.message_type is MessageType.ERROR:
            cause = reply.body[0] if reply is not None and reply.body else "no answer"
            raise Absent(f"{member}: {cause}")
        return list(reply.body)


def _default_address() -> str:
    directory = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    return f"unix:path={directory}/bus"


def _no_session(address: str, error: Exception) -> EnvironmentFault:
    return EnvironmentFault("show questions on the desktop", address, str(error) or "no answer", _REMEDY)
