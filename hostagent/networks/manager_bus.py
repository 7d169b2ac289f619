"""One connection to the system bus, for what NetworkManager tells.

Decides: which signals matter, and that after a shower of them everything is read once. Refuses to know: what it means
(`hostagent.networks.network_manager`, which loads this module only where there is a bus).
Source: D-Bus specification (ObjectManager, PropertiesChanged, NameOwnerChanged).

It only reads, and it never starts NetworkManager.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final

from dbus_fast.aio import MessageBus
from dbus_fast.constants import BusType, MessageFlag, MessageType
from dbus_fast.errors import DBusFastError
from dbus_fast.message import Message
from dbus_fast.unpack import unpack_variants

from hostagent.networks.network_manager import SERVICE, TELLING

QUIET_S: Final = 0.3
"""Changes come in showers: everything is read once, when none came for so long."""
_SHOWERS_MAX: Final = 10
_ANSWER_S: Final = 5.0
_BUS: Final = "org.freedesktop.DBus"
_PROPERTIES: Final = f"{_BUS}.Properties"
_OBJECTS: Final = f"{_BUS}.ObjectManager"
_MATCHES: Final = (
    f"type='signal',sender='{SERVICE}',interface='{_PROPERTIES}',member='PropertiesChanged'",
    f"type='signal',sender='{SERVICE}',interface='{_OBJECTS}',path='/org/freedesktop'",
    f"type='signal',sender='{_BUS}',interface='{_BUS}',member='NameOwnerChanged',arg0='{SERVICE}'",
)
_NOBODY: Final = frozenset({f"{_BUS}.Error.NameHasNoOwner", f"{_BUS}.Error.ServiceUnknown"})

Objects = dict[str, dict[str, dict[str, Any]]]


class Unreachable(Exception):  # noqa: N818 - a state of the bus, not our error
    """The bus does not answer, refuses, or ended the connection; one line. `name`: of a D-Bus error."""

    def __init__(self, cause: str, *, name: str = "") -> None:
        super().__init__(cause)
        self.name = name


class BusSession:
    """`async with BusSession(address) as session:`. Raises Unreachable."""

    def __init__(self, address: str) -> None:
        self._bus = MessageBus(bus_address=address, bus_type=BusType.SYSTEM)
        self._bell = asyncio.Event()
        self._ended: asyncio.Task[None] | None = None

    async def __aenter__(self) -> BusSession:
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._bus.connect()
            self._bus.add_message_handler(self._hear)
            for rule in _MATCHES:
                await self._call(_BUS, "/org/freedesktop/DBus", _BUS, "AddMatch", "s", [rule])
        except (OSError, TimeoutError, EOFError, DBusFastError) as error:
            self._bus.disconnect()
            raise Unreachable(f"the system bus: {str(error) or 'no answer'}") from error
        except BaseException:
            self._bus.disconnect()
            raise
        self._ended = asyncio.create_task(self._watch_end(), name="system bus")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bus.remove_message_handler(self._hear)
        self._bus.disconnect()
        if self._ended is not None:
            await asyncio.wait((self._ended,), timeout=_ANSWER_S)
            self._ended.cancel()

    async def objects(self) -> AsyncIterator[Objects]:
        """All objects now, and again after each change; {} while nobody has NetworkManager's name."""
        while True:
            self._bell.clear()
            yield await self._read()
            await self._wait_for_change()
            if self._ended is not None and self._ended.done():
                raise Unreachable("the system bus ended the connection")

    async def _read(self) -> Objects:
        try:
            body = await self._call(SERVICE, "/org/freedesktop", _OBJECTS, "GetManagedObjects")
        except Unreachable as error:
            if error.name in _NOBODY:
                return {}
            raise
        objects: Objects = unpack_variants(body[0])
        return objects

    async def _wait_for_change(self) -> None:
        await self._bell.wait()
        for _ in range(_SHOWERS_MAX):
            self._bell.clear()
            await asyncio.sleep(QUIET_S)
            if not self._bell.is_set():
                return

    async def _watch_end(self) -> None:
        """Rings the bell when the connection ends, however that happens."""
        try:
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        except (OSError, EOFError, DBusFastError):
            pass
        finally:
            self._bell.set()

    def _hear(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.member == "PropertiesChanged":
            if message.body and message.body[0] in TELLING:
                self._bell.set()
        elif message.member in ("InterfacesAdded", "InterfacesRemoved", "NameOwnerChanged"):
            self._bell.set()

    async def _call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
    ) -> list[Any]:
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body or [],
            flags=MessageFlag.NO_AUTOSTART,
        )
        try:
            async with asyncio.timeout(_ANSWER_S):
                reply = await self._bus.call(message)
        except (OSError, EOFError, TimeoutError, DBusFastError) as error:
            raise Unreachable(f"{member}: {str(error) or 'no answer'}") from error
        if reply is None:
            raise Unreachable(f"{member}: no answer")
        if reply.message_type is MessageType.ERROR:
            raise Unreachable(
                f"{member}: {reply.body[0] if reply.body else reply.error_name}", name=reply.error_name or ""
            )
        return list(reply.body)
