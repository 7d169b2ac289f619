"""As a socket option: a program says what a flow is worth, and reads at which rate to send. A thin layer, for any one.

Decides: nothing. The host's agent holds the session: it counts, pays and reacts; all that is said goes over its local
socket and no signalling of the program's own leaves the host (M3I scenarios 3.3.5.2: the generic QoS interface, whose
protocol handler acts locally). Refuses to know: what the program sends.

    with session(sock, policy, agent=Path("/run/hostagent/hostagent.sock")) as held:
        while sending:
            encoder.set_rate(held.target_bit_s or LEAST)

`sock` is connected, and the program keeps to the target itself (`adapts`). With an event loop: `following`. Who sends
and does not pay gives no policy (`pays=False`): the agent tells what the far end's payer asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from billpay.errors import BillpayError
from hostagent import api
from hostagent.client import LocalClient
from pricereactor.policy import TaskPolicy

_WAIT_S: Final = 10
_STOP_S: Final = 15.0
_PROTOCOLS: Final = {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """A flow as the agent names it, seen from here."""

    protocol: str
    local: str
    local_port: int
    remote: str
    remote_port: int


def ends_of(connected: socket.socket) -> Ends:
    """Raises OSError for a socket that is not connected."""
    here, there = connected.getsockname(), connected.getpeername()
    return Ends(
        protocol=_PROTOCOLS[connected.type],
        local=bare(here[0]),
        local_port=here[1],
        remote=bare(there[0]),
        remote_port=there[1],
    )


def bare(address: str) -> str:
    """Without the zone of a link-local address."""
    return address.partition("%")[0]


class Held:
    """A session as it is now. Once `lost` says something the agent is gone, and there is no target any more."""

    def __init__(self, now: api.Session) -> None:
        self._now = now
        self._changed = asyncio.Event()
        self.lost = ""

    @property
    def now(self) -> api.Session:
        return self._now

    @property
    def target_bit_s(self) -> int | None:
        """None: no price says how fast; the program does as it would without an agent."""
        return None if self.lost else self._now.target_bit_s

    @property
    def stopped(self) -> bool:
        """Its money is used up, or it can no more be worth what it costs."""
        return not self.lost and self._now.verdict == "stop"

    async def changed(self) -> None:
        """Since it was called last, or until there is a change; for `following` only."""
        await self._changed.wait()
        self._changed.clear()

    def _take(self, now: api.Session) -> None:
        if now.number != self._now.number:
            self._now = now
            self._changed.set()

    def _lose(self, why: str) -> None:
        self.lost = why
        self._changed.set()

    async def _follow(self, client: LocalClient) -> None:
        try:
            while True:
                self._take(await client.session(self._now.session, after=self._now.number, wait_s=_WAIT_S))
        except BillpayError as error:
            self._lose(str(error))


@contextlib.asynccontextmanager
async def following(
    flow: socket.socket | Ends,
    policy: TaskPolicy | None = None,
    *,
    agent: Path,
    task: str = "",
    sends: bool = True,
    pays: bool = True,
) -> AsyncIterator[Held]:
    """Raises hostagent.client.Unreachable, NotAllowed or Refused when there is no session to be had."""
    request = request_for(flow if isinstance(flow, Ends) else ends_of(flow), policy, task=task, sends=sends, pays=pays)
    async with LocalClient(agent) as client:
        held = Held(await client.open_session(request))
        task_of_it = asyncio.create_task(held._follow(client))
        try:
            yield held
        finally:
            task_of_it.cancel()
            await asyncio.gather(task_of_it, return_exceptions=True)
            with contextlib.suppress(BillpayError):  # an agent that is gone has ended it
                await client.end_session(held.now.session)


def request_for(ends: Ends, policy: TaskPolicy | None, *, task: str, sends: bool, pays: bool) -> api.SessionRequest:
    return api.SessionRequest(
        protocol=ends.protocol,
        local=ends.local,
        local_port=ends.local_port,
        remote=ends.remote,
        remote_port=ends.remote_port,
        sends=sends,
        pays=pays,
        adapts=True,
        task=task,
        policy=policy,
    )


class _Thread:
    """Runs one `following` until it is told to end."""

    def __init__(self, make: Callable[[], contextlib.AbstractAsyncContextManager[Held]]) -> None:
        self._make = make
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._held: Held | None = None
        self._error: BillpayError | OSError | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="qos", daemon=True)

    def begin(self) -> Held:
        self._thread.start()
        self._ready.wait()
        if self._held is None:
            self._thread.join()
            raise self._error or RuntimeError("the session's thread ended before there was one")
        return self._held

    def end(self) -> None:
        assert self._loop is not None
        assert self._over is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(_STOP_S)

    async def _run(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with self._make() as self._held:
                self._ready.set()
                await self._over.wait()
        except (BillpayError, OSError) as error:
            self._error = error
        finally:
            self._ready.set()


@contextlib.contextmanager
def session(
    connected: socket.socket,
    policy: TaskPolicy | None = None,
    *,
    agent: Path,
    task: str = "",
    sends: bool = True,
    pays: bool = True,
) -> Iterator[Held]:
    """The same for a program without an event loop; a thread keeps it up to date."""
    thread = _Thread(lambda: following(connected, policy, agent=agent, task=task, sends=sends, pays=pays))
    held = thread.begin()
    try:
        yield held
    finally:
        thread.end()
