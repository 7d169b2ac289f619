"""The sockets that the local API listens on, and who gets in at their doors.

Decides: what becomes of what lies at the socket's path, the mode of the file, and how many connections each kind of
caller may hold, so that nobody can take the agent's file descriptors by connecting and saying nothing.  Refuses to know
what is said on a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket as sockets
from collections.abc import Callable, Hashable
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from billpay.errors import ConfigurationError, EnvironmentFault

LOG = logging.getLogger("hostagent")
PROBE_S = 1.0  # to see whether another agent answers
RETRY_S = 1.0  # after a connection could not be taken: no descriptors are left
BACKLOG = 32
PRIVATE_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o666  # whoever connects is asked who it is
FOLDER_MODE: Final = 0o755

Place = tuple[Hashable, int]
"""Whose connections are counted together, and how many of them there may be."""


class Door:
    """Gives each new connection to `protocol`, or closes it when its kind holds enough already."""

    def __init__(
        self,
        listener: sockets.socket,
        protocol: Callable[[], asyncio.Protocol],
        place: Callable[[sockets.socket], Place],
    ) -> None:
        self._listener = listener
        self._protocol = protocol
        self._place = place
        self._inside: dict[Hashable, list[asyncio.Transport]] = {}
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._listener.listen(BACKLOG)
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Takes no more; what is inside is the server's."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._listener.close()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def connections(self) -> int:
        return sum(not transport.is_closing() for inside in self._inside.values() for transport in inside)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                LOG.warning("local API: no connection can be taken: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            try:
                await self._take(connection)
            except OSError:  # it left at once
                connection.close()

    async def _take(self, connection: sockets.socket) -> None:
        who, places = self._place(connection)
        self._forget_closed()
        inside = self._inside.setdefault(who, [])
        if len(inside) >= places:
            connection.close()
            return
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        inside.append(transport)

    def _forget_closed(self) -> None:
        alive = {who: [each for each in inside if not each.is_closing()] for who, inside in self._inside.items()}
        self._inside = {who: inside for who, inside in alive.items() if inside}


def unix_listener(path: Path, mode: int) -> sockets.socket:
    """A socket of that mode from its first moment on.  Raises EnvironmentFault."""
    listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        _make_folder(path.parent)
        _make_room(path)
        os.fchmod(listener.fileno(), 0o600)  # Linux creates the file with the mode of the unbound socket
        listener.bind(str(path))
        change_mode(path, mode)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        cause = error.strerror or error
        raise EnvironmentFault("listen on", str(path), cause, "name another socket, or check its folder") from error
    except EnvironmentFault:
        listener.close()
        raise
    return listener


def change_mode(path: Path, mode: int) -> None:
    path.chmod(mode)
    if mode == PUBLIC_MODE and path.parent.stat().st_mode & 0o011 != 0o011:
        LOG.warning("local API: others may use %s by the configuration, but not enter its folder", path)


def _make_folder(folder: Path) -> None:
    """One that is there keeps its mode."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(FOLDER_MODE)


def _make_room(path: Path) -> None:
    """Removes what a killed agent left; never the socket of a living one, or somebody's file."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_socket():
        raise EnvironmentFault("listen on", str(path), "it is there and is not a socket", "name another socket")
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):  # stale, or just gone
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError):  # somebody listens who does not get round to it
            pass
    cause = "another agent answers there"
    raise EnvironmentFault("listen on", str(path), cause, "stop the other agent, or name another socket")


def loopback_address(
    text: str, *, file: object = "the configuration", key: str = "api.metrics_listen"
) -> tuple[str, int]:
    """ "127.0.0.1:9414" or "[::1]:9414".  Raises ConfigurationError for anything that others could reach."""
    host, colon, port = text.rpartition(":")
    try:
        address = ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
        number = int(port) if colon and port.isascii() and port.isdigit() else -1
    except ValueError:
        address, number = None, -1
    if address is None or str(address) not in ("127.0.0.1", "::1") or not 0 <= number <= 65535:
        remedy = "write 127.0.0.1:PORT or [::1]:PORT, and put a proxy before it for others"
        raise ConfigurationError(file, key, f"{text!r} is no address of this machine's loopback with a port", remedy)
    return str(address), number


def loopback_listener(host: str, port: int) -> sockets.socket:
    """Raises EnvironmentFault."""
    listener = sockets.socket(sockets.AF_INET6 if ":" in host else sockets.AF_INET, sockets.SOCK_STREAM)
    try:
        listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        cause = error.strerror or error
        raise EnvironmentFault("listen on", f"{host} port {port}", cause, "name another port") from error
    return listener
