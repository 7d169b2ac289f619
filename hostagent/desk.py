"""What the local API's server asks of the agent: the one list of what can be asked and told.

Decides nothing. The agent implements it (`hostagent.daemon`), the server calls it (`hostagent.server`).
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from billpay.errors import BillpayError
from cartographer.measuring.report import ProbeRequest
from hostagent import api


class Refused(BillpayError):  # noqa: N818 - the answer, not a fault
    """The agent will not do it: `code` for programs, one line for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`by`: any of "program", "destination", "network", "kind". `step`: "hour", "day", "month" or "all" (one row)."""

    since_unix_s: int
    until_unix_s: int
    step: str = "day"
    by: tuple[str, ...] = ("program",)
    limit: int = 1000


class QualityQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    since_unix_s: int
    until_unix_s: int
    destination: str = ""  # "": all
    limit: int = 1000


class Desk(Protocol):
    """Everything may raise Refused; what needs time is awaited."""

    def snapshot(self) -> api.Snapshot: ...

    def why(self, flow: str) -> api.Why:
        """`flow`: as `api.Flow.flow`, or a part of it or of a program's name that only one flow has."""
        ...

    async def history(self, query: HistoryQuery) -> tuple[api.HistoryRow, ...]: ...

    async def statement(self, month: str) -> api.Statement:
        """`month`: "2026-11"."""
        ...

    async def replay(self, since_unix_s: int, until_unix_s: int) -> tuple[api.ReplayLine, ...]: ...

    async def session(self, session: str, after: int, wait_s: int) -> api.Session:
        """As it is; with `after` its next change, or as it is when `wait_s` are over."""
        ...

    async def open_session(self, request: api.SessionRequest) -> api.Session:
        """A flow follows the price of congestion from now on."""
        ...

    async def end_session(self, session: str) -> None: ...

    async def set_session_worth(self, change: api.SessionWorth) -> None: ...

    async def ways(self, destination: str, limit: int) -> tuple[api.Way, ...]:
        """The ways to a destination, or to all that are known ("")."""
        ...

    async def network_map(self, destination: str) -> api.NetworkMap:
        """`destination` "": everything."""
        ...

    async def quality(self, query: QualityQuery) -> tuple[api.QualityRow, ...]: ...

    async def probing(self, number: int, after: int, wait_s: int) -> api.Probing:
        """As it is; with `after` its next report, or as it is when `wait_s` are over."""
        ...

    async def probe(self, request: ProbeRequest) -> api.Probing:
        """Probes a destination from now on, without any payment."""
        ...

    async def set_access(self, change: api.AccessChange) -> None: ...

    async def answer(self, answer: api.Answer) -> None: ...

    async def set_mode(self, change: api.ModeChange) -> None: ...

    async def set_worth(self, change: api.WorthChange) -> None: ...

    async def trust(self, fingerprint: str) -> None:
        """A person looked at a gateway's fingerprint and takes it for the right one."""
        ...

    async def forget(self, what: api.Forget) -> None:
        """Deletes from history what a person does not want to be kept."""
        ...

    async def reload(self) -> None:
        """Reads the configuration again; nothing changes when it is wrong."""
        ...

    async def stop(self) -> None:
        """The agent ends in good order."""
        ...
