"""What `--json` prints, verb by verb: the promise to programs that `hostagent schema VERB` spells out.

Decides: the type of each verb's answer. Refuses to know how an answer comes about. The types of the local API are
printed as they are; those that are only the command line's are here.
"""

from __future__ import annotations

from functools import cache
from types import UnionType
from typing import Any, Final, get_args

import msgspec

from cartographer.replay import Summary as PathSummary
from hostagent import api


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of answers that no daemon gives."""


class Done(Result, frozen=True, kw_only=True):
    """Something was done: one line for people, and what it was done to."""

    verb: str
    message: str
    subject: str = ""


class Restored(Result, frozen=True, kw_only=True):
    """What was put back, a line each."""

    state_directory: str
    restored: tuple[str, ...]


class Written(Result, frozen=True, kw_only=True):
    """Files that were written."""

    files: tuple[str, ...]


class LinkPreview(Result, frozen=True, kw_only=True):
    """What acting would change on one interface and direction."""

    interface: str
    direction: str  # "out" or "in"
    rate_bit_s: int | None
    changes: bool
    why: str
    commands: tuple[str, ...]


class ClassPreview(Result, frozen=True, kw_only=True):
    """What a kind of traffic would get."""

    name: str
    worth_nanodollars_per_mb: int
    weight: int
    minimum_bit_s: int
    cap_bit_s: int | None
    state: str


class Preview(Result, frozen=True, kw_only=True):
    """`engine` carries it out; the commands are what it does, in tc's words."""

    engine: str
    mode: str
    kinds: tuple[ClassPreview, ...]
    links: tuple[LinkPreview, ...]


class Deciles(msgspec.Struct, frozen=True, kw_only=True):
    """How probable a yes was said to be, against how many would have said it; in millionths."""

    from_ppm: int
    to_ppm: int
    requests: int
    predicted_ppm: int
    accepted_ppm: int


class Calibrated(msgspec.Struct, frozen=True, kw_only=True):
    """By tenths of the range, and by tenths of the requests. The worst gap: of tenths with 100 requests and more."""

    worst_gap_ppm: int | None
    deciles: tuple[Deciles, ...]
    deciles_of_requests: tuple[Deciles, ...]


class Hindsight(msgspec.Struct, frozen=True, kw_only=True):
    """Surplus: worth less price, of what was paid; the best: paid exactly where worth is at least the price."""

    requests: int
    paid: int
    questions: int
    surplus_nanodollars: int
    best_nanodollars: int
    surplus_ratio: float | None
    surplus_ratio_less_questions: float | None
    regret_nanodollars: int
    missed: int
    missed_nanodollars: int
    unjustified: int
    unjustified_price_nanodollars: int
    unjustified_loss_nanodollars: int


class HindsightWeek(Hindsight, frozen=True, kw_only=True):
    """Weeks of each person's own, from 1."""

    week: int
    person_days: int
    questions_per_day: float | None
    questions_per_day_most_asked: float | None
    questions_per_day_all_people: float | None


class HindsightSettled(Hindsight, frozen=True, kw_only=True):
    surplus_ratio_mean_over_programs: float | None
    surplus_ratio_mean_over_people: float | None
    surplus_ratio_mean_over_people_and_programs: float | None
    calibration: Calibrated


class HindsightSummary(Hindsight, frozen=True, kw_only=True):
    people: int
    questions_per_day: float | None
    weeks: tuple[HindsightWeek, ...]
    from_third_week: HindsightSettled
    calibration: Calibrated


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of a replay."""

    summary: HindsightSummary


class CheckedTasks(Result, frozen=True, kw_only=True):
    """What is wrong with the tasks of a file; `passed_over`: lines of a description that nobody knows."""

    tasks: tuple[str, ...]
    problems: tuple[str, ...]
    passed_over: tuple[str, ...]


SCENARIO: Final = "scenario"
STUDY: Final = "study"


class ScenarioName(Result, frozen=True, kw_only=True):
    """A scenario of the lab, or a study."""

    name: str
    title: str
    kind: str = SCENARIO


class Listening(Result, frozen=True, kw_only=True):
    """A service that is ready."""

    event: str
    listen: tuple[str, ...]
    hosts: int


class ReplayedPaths(Result, frozen=True, kw_only=True):
    """The last line of `cartographer replay`."""

    summary: PathSummary


@cache
def types() -> dict[str, Any]:
    """By verb. `lab run` has its document in docs/lab.md; verbs that print no JSON are not here."""
    from cartographer.campus.messages import CampusStatus
    from cartographer.measuring.report import ProbeReport
    from cartographer.replay import Line as PathLine
    from cli.doctor_report import Report
    from cli.paths import PathsDocument
    from gateway.admin import GatewayStatus
    from lab.simulator.results import Results
    from pricereactor.policy import PolicyFile
    from secretary import messages
    from secretary.money.statements import Statement, Traced
    from secretary.replay import Line

    return {
        "up": api.Snapshot,
        "top": api.Snapshot,
        "status": api.Status,
        "flows": tuple[api.Flow, ...],
        "programs": tuple[api.Program, ...],
        "kinds": tuple[api.Kind, ...],
        "why": api.Why,
        "inbox": tuple[api.Question, ...],
        "rules": tuple[api.Rule, ...],
        "networks": tuple[api.Network, ...],
        "prices": tuple[api.Price, ...],
        "budget": tuple[api.Budget, ...],
        "paths": PathsDocument,
        "access": tuple[api.Access, ...],
        "probe": ProbeReport,
        "accounts": api.Accounts,
        "history": tuple[api.HistoryRow, ...],
        "statement": api.Statement,
        "replay": tuple[api.ReplayLine, ...],
        "worths": tuple[api.Worth, ...],
        "notices": tuple[api.Notice, ...],
        "preview": Preview,
        "sessions": tuple[api.Session, ...],
        "session open": api.Session,
        "task check": CheckedTasks,
        "task show": PolicyFile,
        "doctor": Report,
        "restore": Restored,
        "bugreport": Written,
        "man": Written,
        **dict.fromkeys(ACTIONS, Done),
        "gateway status": GatewayStatus,
        "secretary status": messages.SecretaryStatus,
        "secretary rotate-key": messages.Rotated,
        "secretary rules": messages.Rules,
        "secretary why": messages.WhyView,
        "secretary inbox": messages.Inbox,
        "secretary budget list": messages.Budgets,
        "secretary statement": Statement,
        "secretary trace": Traced,
        "secretary replay": Line | Rehearsed,
        "cartographer replay": PathLine | ReplayedPaths,
        "cartographer serve": Listening,
        "cartographer status": CampusStatus,
        "lab list": tuple[ScenarioName, ...],
        "lab simulate": Results,
        "lab study": _study(),
    }


def _study() -> Any:
    """One of them."""
    from lab.studies.bursts import BurstStudy
    from lab.studies.competition import CompetitionStudy
    from lab.studies.cutoff import CutoffStudy
    from lab.studies.metro import MetroStudy
    from lab.studies.oscillation import OscillationStudy
    from lab.studies.pooling import PoolingStudy
    from lab.studies.signals import SignalStudy
    from lab.studies.timely import TimelyStudy

    return (
        BurstStudy
        | CompetitionStudy
        | CutoffStudy
        | MetroStudy
        | OscillationStudy
        | PoolingStudy
        | SignalStudy
        | TimelyStudy
    )


ACTIONS: Final = (
    *("down", "reload", "observe", "act", "confirm", "answer", "worth", "trust", "forget"),
    *("session end", "session worth"),
    *("secretary answer", "secretary undo", "secretary budget raise", "secretary top-up", "secretary dispute"),
)


CONFIGURATION: Final = "config"


def schema(name: str) -> dict[str, Any] | None:
    """The JSON schema of a verb's answer, or of the configuration file; None: there is no such name."""
    from hostagent.schemas import schema_for, schema_of

    if name == CONFIGURATION:
        return schema_of("configuration")
    known, title = types(), f"hostagent {name} --json"
    if name not in known:
        return None
    if isinstance(known[name], UnionType):
        return _schema_of_lines(get_args(known[name]), title)
    return schema_for(known[name], title=title)


def _schema_of_lines(kinds: tuple[Any, ...], title: str) -> dict[str, Any]:
    """Of a verb that prints one document a line, each of one of these kinds."""
    from hostagent.openapi import as_json
    from hostagent.schemas import DIALECT

    found, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    said = "One document a line, each of one of these kinds."
    made = {"$schema": DIALECT, "title": title, "description": said, "oneOf": found, "$defs": components}
    return as_json(made)
