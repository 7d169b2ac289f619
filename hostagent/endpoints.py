"""Every endpoint of the local API: its path, what it is asked with, and what it answers.

The one list that the server, the OpenAPI document, the typed client's tests and docs/spec/local-api.md go by.  Decides
the bounds of everything that a request may say.  Refuses to know how an answer comes about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec

from cartographer.measuring.report import ProbeRequest
from hostagent import api
from hostagent.desk import HistoryQuery, QualityQuery

VERSION: Final = "1"
BODY_BYTES_MAX: Final = 4096
ROWS_MAX: Final = 10_000
NANODOLLARS_PER_MB_MAX: Final = 10**15
TRIAL_S_MAX: Final = 24 * 3600
SESSION_WAIT_S_MAX: Final = 30
SESSION_ID: Final = r"^[0-9a-f]{32}$"
HISTORY_S: Final = 30 * 24 * 3600  # unless a question says since when
JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
METRICS_TEXT: Final = "text/plain"

Time = Annotated[int, msgspec.Meta(ge=0, le=2**40)]  # Unix seconds
Dimension = Literal["program", "destination", "network", "kind"]
ANY_DIMENSION: Final = r"^((program|destination|network|kind)(,(program|destination|network|kind)){0,3})?$(?!\n)"


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what is defined here: what a request may say, in its query or its body."""


class WhyQuestion(Request, frozen=True, kw_only=True):
    flow: Annotated[str, msgspec.Meta(min_length=1, max_length=400)]


class PastQuestion(Request, frozen=True, kw_only=True):
    """Base of what is asked about a stretch of the past."""

    since: Time | None = None
    until: Time | None = None

    def __post_init__(self) -> None:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError(f"the period from {self.since} ends at {self.until}")

    def period(self, now_unix_s: int) -> tuple[int, int]:
        until = max(now_unix_s, (self.since or 0) + 1) if self.until is None else self.until
        since = max(0, until - HISTORY_S) if self.since is None else self.since
        return since, until


class HistoryQuestion(PastQuestion, frozen=True, kw_only=True):
    step: Literal["hour", "day", "month", "all"] = "day"
    by: Annotated[str, msgspec.Meta(pattern=ANY_DIMENSION)] = "program"
    limit: Annotated[int, msgspec.Meta(ge=1, le=ROWS_MAX)] = 1000

    def query(self, now_unix_s: int) -> HistoryQuery:
        since, until = self.period(now_unix_s)
        by = tuple(dict.fromkeys(self.by.split(","))) if self.by else ()
        return HistoryQuery(since_unix_s=since, until_unix_s=until, step=self.step, by=by, limit=self.limit)


class StatementQuestion(Request, frozen=True, kw_only=True):
    month: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$", max_length=7)]


class ReplayQuestion(PastQuestion, frozen=True, kw_only=True):
    """Nothing but the stretch."""


class SessionQuestion(Request, frozen=True, kw_only=True):
    """`after`: the `number` of what is known already; then it is answered at the next change, or after `wait_s`."""

    session: Annotated[str, msgspec.Meta(pattern=SESSION_ID)]
    after: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0
    wait_s: Annotated[int, msgspec.Meta(ge=0, le=SESSION_WAIT_S_MAX)] = 0


class WaysQuestion(Request, frozen=True, kw_only=True):
    destination: Annotated[str, msgspec.Meta(max_length=45)] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=ROWS_MAX)] = 1000


class MapQuestion(Request, frozen=True, kw_only=True):
    """`destination`: only the ways to it; none: everything."""

    destination: Annotated[str, msgspec.Meta(max_length=45)] = ""


class QualityQuestion(PastQuestion, frozen=True, kw_only=True):
    destination: Annotated[str, msgspec.Meta(max_length=45)] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=ROWS_MAX)] = 1000

    def query(self, now_unix_s: int) -> QualityQuery:
        since, until = self.period(now_unix_s)
        return QualityQuery(since_unix_s=since, until_unix_s=until, destination=self.destination, limit=self.limit)


class ProbingQuestion(Request, frozen=True, kw_only=True):
    """`after`: the `sequence` of what is known already; then it is answered at the next one, or after `wait_s`."""

    number: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    after: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0
    wait_s: Annotated[int, msgspec.Meta(ge=0, le=SESSION_WAIT_S_MAX)] = 0


class SessionEnd(Request, frozen=True, kw_only=True):
    """POST /v1/sessions/end: nobody paces its flow any more."""

    session: Annotated[str, msgspec.Meta(pattern=SESSION_ID)]


class Trust(Request, frozen=True, kw_only=True):
    """POST /v1/trust: the gateway's fingerprint that a person compared."""

    fingerprint: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$", max_length=64)]


class Nothing(Request, frozen=True, kw_only=True):
    """`{}`: nothing to say."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is not 200: `code` for programs, one line for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    method: str
    path: str
    summary: str
    answer: Any
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    media_type: str = JSON
    waits: bool = False  # for something to happen: it holds nobody else up

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def _part(name: str, answer: Any, summary: str) -> Endpoint:
    return Endpoint(method="GET", path=f"/v1/{name}", answer=answer, summary=summary)


def _change(method: str, name: str, body: type[msgspec.Struct], summary: str) -> Endpoint:
    return Endpoint(method=method, path=f"/v1/{name}", answer=Nothing, body=body, summary=summary)


PARTS: Final = (
    _part("status", api.Status, "how the agent is"),
    _part("flows", tuple[api.Flow, ...], "paying ones first, then by rate"),
    _part("programs", tuple[api.Program, ...], "by what they sent and received"),
    _part("links", tuple[api.Link, ...], "what we counted beside the interfaces' own counters"),
    _part("kinds", tuple[api.Kind, ...], "the kinds of traffic: what each is worth and gets"),
    _part("prices", tuple[api.Price, ...], "what a megabyte costs now, by link and direction"),
    _part("networks", tuple[api.Network, ...], "where this host is or was, with the gateways"),
    _part("budgets", tuple[api.Budget, ...], "limits, what is used of them, and where that leads"),
    _part("worths", tuple[api.Worth, ...], "people's words about programs"),
    _part("rules", tuple[api.Rule, ...], "what chooses a kind, in the order of trying"),
    _part("notices", tuple[api.Notice, ...], "the latest last"),
    _part("accounts", api.Accounts, "with the neighbours, and of this host"),
    _part("paths", api.Paths, "alternatives towards the destinations that we pay towards"),
    _part("questions", tuple[api.Question, ...], "flows that wait for an answer"),
    _part("sessions", tuple[api.Session, ...], "flows that follow the price of congestion"),
)
"""Each is the field of the same name of a Snapshot."""

WHOLE: Final = _part("snapshot", api.Snapshot, "all of these, of one instant")

QUESTIONS: Final = (
    Endpoint(
        method="GET",
        path="/v1/why",
        query=WhyQuestion,
        answer=api.Why,
        summary="what decided about a flow, named by a part of it or of its program that only one flow has",
    ),
    Endpoint(
        method="GET",
        path="/v1/history",
        query=HistoryQuestion,
        answer=tuple[api.HistoryRow, ...],
        summary="totals of the past, by default of the last 30 days, by day and program",
    ),
    Endpoint(
        method="GET",
        path="/v1/statement",
        query=StatementQuestion,
        answer=api.Statement,
        summary="of a month, as 2026-11",
    ),
    Endpoint(
        method="GET",
        path="/v1/replay",
        query=ReplayQuestion,
        answer=tuple[api.ReplayLine, ...],
        summary="what that history would have cost under each tariff",
    ),
    Endpoint(
        method="GET",
        path="/v1/session",
        query=SessionQuestion,
        answer=api.Session,
        summary="a flow that follows the price of congestion, now or at its next change",
        waits=True,
    ),
    Endpoint(
        method="GET",
        path="/v1/ways",
        query=WaysQuestion,
        answer=tuple[api.Way, ...],
        summary="the ways to a destination, or to all: what is believed of each, and which is taken and why",
    ),
    Endpoint(
        method="GET",
        path="/v1/map",
        answer=api.NetworkMap,
        query=MapQuestion,
        summary="the known network: who is behind whom",
    ),
    Endpoint(
        method="GET",
        path="/v1/quality",
        query=QualityQuestion,
        answer=tuple[api.QualityRow, ...],
        summary="how good each way was, over time",
    ),
    Endpoint(
        method="GET",
        path="/v1/probe",
        query=ProbingQuestion,
        answer=api.Probing,
        summary="what was found so far by a probe that was asked for",
        waits=True,
    ),
)

CHANGES: Final = (
    _change("POST", "answers", api.Answer, "lets a question's flow go on, or stops it"),
    _change("POST", "mode", api.ModeChange, "acts, or only observes"),
    _change("PUT", "worths", api.WorthChange, "what a program's traffic is worth from now on"),
    _change("POST", "trust", Trust, "takes a gateway's key for the right one"),
    _change("POST", "forget", api.Forget, "deletes a name out of history, or all of it"),
    _change("POST", "reload", Nothing, "reads the configuration again; nothing changes when it is wrong"),
    _change("POST", "sessions/end", SessionEnd, "nobody paces its flow any more"),
    _change("POST", "sessions/worth", api.SessionWorth, "what a session is worth from now on; its limits stay"),
    _change("POST", "access", api.AccessChange, "by which interface packets go, or that the agent chooses"),
    _change("POST", "stop", Nothing, "ends the agent in good order"),
)

OPEN_SESSION: Final = Endpoint(
    method="POST",
    path="/v1/sessions",
    body=api.SessionRequest,
    answer=api.Session,
    summary="a flow follows the price of congestion from now on",
)
PROBE: Final = Endpoint(
    method="POST",
    path="/v1/probes",
    body=ProbeRequest,
    answer=api.Probing,
    summary="probes a destination from now on, without any payment",
)
EVENTS: Final = Endpoint(
    method="GET",
    path="/v1/events",
    answer=api.Snapshot,
    media_type=EVENT_STREAM,
    summary="server-sent events: a Snapshot now and one after each change, at most four a second",
)
OPENAPI: Final = Endpoint(method="GET", path="/v1/openapi.json", answer=dict[str, Any], summary="this API, OpenAPI 3.1")
METRICS: Final = Endpoint(
    method="GET", path="/metrics", answer=str, media_type=METRICS_TEXT, summary="for Prometheus: docs/metrics.md"
)

ENDPOINTS: Final = (*PARTS, WHOLE, *QUESTIONS, *CHANGES, OPEN_SESSION, PROBE, EVENTS, OPENAPI, METRICS)


def out_of_bounds(change: object) -> str | None:
    """What a change says that it must not say: one line."""
    match change:
        case api.WorthChange(program=program) if not 0 < len(program) <= 400 or not program.isprintable():
            return "`program` is the name or the path of an executable, of at most 400 characters"
        case api.WorthChange(kind=str() as kind) if not 0 < len(kind) <= 64:
            return "`kind` has at most 64 characters"
        case api.WorthChange(nanodollars_per_mb=int() as worth) if not 0 <= worth <= NANODOLLARS_PER_MB_MAX:
            return f"`nanodollars_per_mb` is 0 to {NANODOLLARS_PER_MB_MAX}"
        case api.ModeChange(mode=api.Mode.TRIAL):
            return "`mode` is `observe` or `act`; a trial is `act` with `trial_s`"
        case api.ModeChange(trial_s=trial_s) if not 0 <= trial_s <= TRIAL_S_MAX:
            return f"`trial_s` is 0 to {TRIAL_S_MAX}"
        case api.Forget(program=program, destination=destination, network=network, everything=everything):
            names = [name for name in (program, destination, network) if name is not None]
            if len(names) + everything != 1:
                return "say one of `program`, `destination`, `network` and `everything`"
            if not all(0 < len(name) <= 400 for name in names):
                return "a name has 1 to 400 characters"
        case api.Answer(number=number) if not 0 <= number < 2**63:
            return "`number` is a question's number"
    return None
