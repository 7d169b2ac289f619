"""What a desktop session says of its person: full screen, presentation, do not disturb, away, the program in front.

Decides: whom to ask, and that what nobody says is unknown (None), with the reason. Refuses to know: what follows
(`secretary.inbox.questions`), and how a bus is spoken to (`read` is an argument). It only reads, and starts no program
of the session.

Full screen and the program in front are known under X11 only, from the window manager's properties. Wayland tells them
to nobody; there a film or a call is still seen, as it keeps the screen on.

Source: EWMH 1.5 (_NET_ACTIVE_WINDOW, _NET_WM_STATE, _NET_WM_PID); KDE's notifications ("Inhibited"), dunst ("paused"),
org.freedesktop.portal.Settings, org.gnome.SessionManager (IsInhibited, 8: idle), org.freedesktop.PowerManagement,
org.freedesktop.ScreenSaver, org.gnome.Mutter.IdleMonitor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from secretary.inbox.questions import Attention

IDLE_MS: Final = 10 * 60 * 1000
"""No key and no mouse for so long: away."""
NAME_MAX: Final = 256
_WAIT_S: Final = 2.0
_KEEPS_SCREEN_ON: Final = 8
_WINDOW: Final = re.compile(r"(?:# |= )(0x[0-9a-f]+|[0-9]+)")

WAYLAND: Final = "full screen and the program in front: not known under Wayland"
NO_X11: Final = "full screen and the program in front: not known, no X11 display"
NO_XPROP: Final = "full screen and the program in front: not known, xprop is not installed"
NO_MANAGER: Final = "full screen and the program in front: not known, the window manager does not say"

Read = Callable[..., Awaitable[object]]
"""`read(destination, path, interface, member, *arguments)`: a property, or a method's answer if it has arguments or is
named with "()"; None where nobody answers."""

_Row = tuple[str, str, str, str, tuple[object, ...]]
_NOTIFICATIONS: Final = ("org.freedesktop.Notifications", "/org/freedesktop/Notifications")
_DO_NOT_DISTURB: Final[tuple[_Row, ...]] = (
    (*_NOTIFICATIONS, "org.freedesktop.Notifications", "Inhibited", ()),
    (*_NOTIFICATIONS, "org.dunstproject.cmd0", "paused", ()),
)
_BANNERS: Final[_Row] = (
    "org.freedesktop.portal.Desktop",
    "/org/freedesktop/portal/desktop",
    "org.freedesktop.portal.Settings",
    "Read()",
    ("org.gnome.desktop.notifications", "show-banners"),
)
_PRESENTING: Final[tuple[_Row, ...]] = (
    ("org.gnome.SessionManager", "/org/gnome/SessionManager", "org.gnome.SessionManager", "IsInhibited()",
     (_KEEPS_SCREEN_ON,)),
    ("org.freedesktop.PowerManagement.Inhibit", "/org/freedesktop/PowerManagement/Inhibit",
     "org.freedesktop.PowerManagement.Inhibit", "HasInhibit()", ()),
)  # fmt: skip
_LOCKED: Final[tuple[_Row, ...]] = (
    ("org.freedesktop.ScreenSaver", "/org/freedesktop/ScreenSaver", "org.freedesktop.ScreenSaver", "GetActive()", ()),
    ("org.gnome.ScreenSaver", "/org/gnome/ScreenSaver", "org.gnome.ScreenSaver", "GetActive()", ()),
)
_IDLE: Final[_Row] = (
    "org.gnome.Mutter.IdleMonitor",
    "/org/gnome/Mutter/IdleMonitor/Core",
    "org.gnome.Mutter.IdleMonitor",
    "GetIdletime()",
    (),
)


class Desktop:
    """`environment`: of the session."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(os.environ if environment is None else environment)

    async def attention(self, read: Read) -> Attention:
        """All of it, now. Takes some milliseconds; a program of the session that hangs costs a few seconds."""
        banners = await _ask(read, _BANNERS)
        idle = await _ask(read, _IDLE)
        locked = await _any(read, _LOCKED)
        if isinstance(idle, int):
            locked = bool(locked) or idle >= IDLE_MS
        disturb = await _any(read, _DO_NOT_DISTURB)
        if isinstance(banners, bool):
            disturb = bool(disturb) or not banners
        full_screen, process_id, unknown = await self._window()
        return Attention(
            full_screen=full_screen,
            presenting=await _any(read, _PRESENTING),
            do_not_disturb=disturb,
            away=locked,
            foreground_process=process_id,
            foreground_program=_executable(process_id),
            unknown=unknown,
        )

    async def _window(self) -> tuple[bool | None, int | None, str]:
        """Of the window in front: whether it fills the screen, its process, and why neither is known."""
        if self._environment.get("XDG_SESSION_TYPE") == "wayland" or self._environment.get("WAYLAND_DISPLAY"):
            return None, None, WAYLAND  # X11's programs have a display there, too, but see each other only
        if not self._environment.get("DISPLAY"):
            return None, None, NO_X11
        try:
            front = await self._xprop("-root", "_NET_ACTIVE_WINDOW")
            window = _WINDOW.search(front)
            if window is None:
                return None, None, NO_MANAGER
            if int(window[1], 0) == 0:
                return False, None, ""
            said = await self._xprop("-id", window[1], "_NET_WM_STATE", "_NET_WM_PID")
        except OSError:
            return None, None, NO_XPROP
        process = re.search(r"_NET_WM_PID\(CARDINAL\) = ([0-9]+)", said)
        process_id = int(process[1]) if process else 0
        return "_NET_WM_STATE_FULLSCREEN" in said, process_id or None, ""

    async def _xprop(self, *arguments: str) -> str:
        """ "" when it says nothing, or takes too long. Raises OSError where there is none."""
        program = await asyncio.create_subprocess_exec(
            "xprop",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=self._environment,
        )
        try:
            async with asyncio.timeout(_WAIT_S):
                output, _ = await program.communicate()
        except TimeoutError:
            return ""
        finally:
            if program.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    program.kill()
                await program.wait()
        return output.decode(errors="replace")


def _executable(process_id: int | None) -> str:
    """Its file name; "" for none, and for one that is not ours to see."""
    try:
        path = os.readlink(f"/proc/{process_id}/exe") if process_id else ""
    except OSError:
        return ""
    name = path.removesuffix(" (deleted)").rpartition("/")[2]
    return name.encode(errors="surrogateescape").decode(errors="replace")[:NAME_MAX]


async def _ask(read: Read, row: _Row) -> object:
    destination, path, interface, member, arguments = row
    return await read(destination, path, interface, member, *arguments)


async def _any(read: Read, rows: tuple[_Row, ...]) -> bool | None:
    """None: none of them says."""
    said = [answer for row in rows if isinstance(answer := await _ask(read, row), bool)]
    return any(said) if said else None
