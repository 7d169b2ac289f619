"""For programs that can adapt themselves: ask the agent for a session of a socket, and hear its target rate (DPH-29).

    from hostagent.session_client import Agent

    with Agent().session(sock, task="film") as session:
        while frames:
            encoder.rate = session.target_bit_s or encoder.rate  # None: as it likes, nobody paces it
            session.wait(1.0)  # until it changes

Decides: which flow a socket is, and where the agent's socket is. Refuses to know: prices, policies, how a rate comes
about. Nothing of this leaves the host: the agent says to the far end what it has to know. Synchronous and small: the
standard library's HTTP over a unix socket, one connection for each question, so it can be used from any thread.

Source: M3I scenarios 3.3.4 (a generic request for quality, dealt with locally); `docs/spec/local-api.md`.
"""

from __future__ import annotations

import http.client
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import msgspec

from billpay.errors import BillpayError, RemoteProtocolError
from hostagent import api
from hostagent.desk import Refused
from hostagent.endpoints import SESSION_WAIT_S_MAX, Problem, SessionEnd
from hostagent.reacting.naming import plain_address
from pricereactor.policy import TaskPolicy

SOCKET_VARIABLE: Final = "HOSTAGENT_SOCKET"
SYSTEM_SOCKET: Final = Path("/run/hostagent") / api.SOCKET_NAME
ANSWER_BYTES_MAX: Final = 4 << 20
ANSWER_S: Final = 5.0

T = TypeVar("T")


class Unreachable(BillpayError):  # noqa: N818 - a state of the agent, not an error of anybody
    """No agent answers: the program goes on as it would without one."""

    def __init__(self, path: Path, cause: object) -> None:
        super().__init__(path, cause)
        self.path = path
        self.cause = cause

    def __str__(self) -> str:
        return f"no agent answers on {self.path}: {self.cause}"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a unix socket; the host's name means nothing."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("hostagent", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(self.timeout)
            sock.connect(str(self._path))
        except OSError:
            sock.close()
            raise
        self.sock = sock


class Agent:
    """The agent of this machine. Everything may raise Unreachable, Refused, RemoteProtocolError."""

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path) if path is not None else default_socket()

    def session(
        self,
        sock: socket.socket,
        *,
        task: str = "",
        policy: TaskPolicy | None = None,
        sends: bool = True,
        pays: bool = True,
        adapts: bool = True,
    ) -> Session:
        """A session of the flow of a connected socket, until it is closed.

        With `pays`, either the name of a task of the configuration or a policy. `adapts` False: the agent paces it.
        """
        flow = flow_of(sock)
        request = msgspec.structs.replace(flow, task=task, policy=policy, sends=sends, pays=pays, adapts=adapts)
        return Session(self, self._ask("POST", "/v1/sessions", api.Session, request))

    def sessions(self) -> tuple[api.Session, ...]:
        """Everybody's."""
        return self._ask("GET", "/v1/sessions", tuple[api.Session, ...])

    def look(self, session: str, *, after: int = 0, wait_s: float = 0.0) -> api.Session:
        """As it is; with `after` its next change, or as it is when `wait_s` are over."""
        whole_s = min(SESSION_WAIT_S_MAX, max(0, -int(-wait_s // 1)))
        question = urlencode({"session": session, "after": after, "wait_s": whole_s})
        return self._ask("GET", f"/v1/session?{question}", api.Session, timeout_s=ANSWER_S + whole_s)

    def end(self, session: str) -> None:
        self._ask("POST", "/v1/sessions/end", dict[str, Any], SessionEnd(session=session))

    def _ask(
        self,
        method: str,
        target: str,
        expected: type[T],
        body: msgspec.Struct | None = None,
        *,
        timeout_s: float = ANSWER_S,
    ) -> T:
        connection = _UnixConnection(self.path, timeout_s)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            connection.request(
                method, target, body=msgspec.json.encode(body) if body is not None else None, headers=headers
            )
            answer = connection.getresponse()
            data = answer.read(ANSWER_BYTES_MAX + 1)
        except (OSError, http.client.HTTPException) as error:
            cause = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise Unreachable(self.path, cause) from error
        finally:
            connection.close()
        if len(data) > ANSWER_BYTES_MAX:
            raise RemoteProtocolError("too-long", f"{method} {target}: the answer does not end")
        if answer.status != http.client.OK:
            problem = _decoded(data, Problem)
            raise Refused(problem.code, problem.message)
        return _decoded(data, expected)


class Session:
    """One session, as last heard. A context manager: it ends with its block."""

    def __init__(self, agent: Agent, view: api.Session) -> None:
        self._agent = agent
        self.view = view

    @property
    def target_bit_s(self) -> int | None:
        """To keep to. None: nobody says a rate, the program goes as it likes. 0: it should stop."""
        return self.view.target_bit_s

    @property
    def verdict(self) -> str:
        return self.view.verdict

    @property
    def level(self) -> int | None:
        """Of the policy's ladder of encodings, from 0."""
        return self.view.level

    def refresh(self) -> api.Session:
        """As it is now."""
        self.view = self._agent.look(self.view.session)
        return self.view

    def wait(self, timeout_s: float = float(SESSION_WAIT_S_MAX)) -> api.Session:
        """At its next change, or after so long (whole seconds, rounded up)."""
        self.view = self._agent.look(self.view.session, after=self.view.number, wait_s=timeout_s)
        return self.view

    def close(self) -> None:
        """Idempotent; an agent that is gone paces nothing any more."""
        try:
            self._agent.end(self.view.session)
        except (Unreachable, Refused):
            return

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def flow_of(sock: socket.socket) -> api.SessionRequest:
    """Its two ends. Raises Refused for a socket that is neither TCP nor UDP, or not connected."""
    kinds = {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}
    protocol = kinds.get(sock.type)
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or protocol is None:
        raise Refused("no-flow", "a session is of a TCP or UDP socket")
    try:
        (local, local_port), (remote, remote_port) = sock.getsockname()[:2], sock.getpeername()[:2]
    except OSError as error:
        raise Refused("no-flow", "the socket is not connected: its flow is not known") from error
    return api.SessionRequest(
        protocol=protocol,
        local=str(plain_address(local)),
        local_port=local_port,
        remote=str(plain_address(remote)),
        remote_port=remote_port,
    )


def default_socket() -> Path:
    """The one that the environment names, else the system's agent's, else this user's own."""
    named = os.environ.get(SOCKET_VARIABLE)
    if named:
        return Path(named)
    if SYSTEM_SOCKET.exists():
        return SYSTEM_SOCKET
    run = os.environ.get("XDG_RUNTIME_DIR", "")
    base = Path(run) if run.startswith("/") else Path.home() / ".local" / "state"
    return base / "hostagent" / api.SOCKET_NAME


def _decoded(data: bytes, expected: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=expected)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise RemoteProtocolError("malformed", f"the agent answers what is no {expected}: {error}") from error
