"""Asks a running campus service on this machine what it has."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from billpay.errors import EnvironmentFault
from cartographer.campus.messages import CampusStatus

TIMEOUT_S: Final = 10


async def read_status(socket: Path) -> CampusStatus:
    """Raises EnvironmentFault when nobody answers there."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=timeout) as session,
            session.get("http://cartographer/v1/status") as response,
        ):
            return msgspec.json.decode(await response.read(), type=CampusStatus)
    except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
        cause = getattr(getattr(error, "os_error", None), "strerror", None) or error
        raise EnvironmentFault("ask cartographer at", str(socket), cause, "is it running?") from error
