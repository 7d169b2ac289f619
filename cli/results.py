"""What `--json` prints, verb by verb: the promise to programs that `hostagent schema VERB` spells out.

Decides: the type of each verb's answer. Refuses to know how an answer comes about. The types of the local API are
printed as they are; those that are only the command line's are here.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgspec

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


class ScenarioName(Result, frozen=True, kw_only=True):
    """A scenario of the lab."""

    name: str
    title: str


@cache
def types() -> dict[str, Any]:
    """By verb. `lab run` has its document in docs/lab.md; verbs that print no JSON are not here."""
    from cli.doctor_report import Report
    from gateway.admin import GatewayStatus

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
        "paths": api.Paths,
        "accounts": api.Accounts,
        "history": tuple[api.HistoryRow, ...],
        "statement": api.Statement,
        "replay": tuple[api.ReplayLine, ...],
        "worths": tuple[api.Worth, ...],
        "notices": tuple[api.Notice, ...],
        "preview": Preview,
        "doctor": Report,
        "restore": Restored,
        "bugreport": Written,
        "man": Written,
        **dict.fromkeys(ACTIONS, Done),
        "gateway status": GatewayStatus,
        "lab list": tuple[ScenarioName, ...],
    }


ACTIONS: Final = ("down", "reload", "observe", "act", "confirm", "answer", "worth", "trust", "forget")


CONFIGURATION: Final = "config"


def schema(name: str) -> dict[str, Any] | None:
    """The JSON schema of a verb's answer, or of the configuration file; None: there is no such name."""
    from hostagent.schemas import schema_for, schema_of

    if name == CONFIGURATION:
        return schema_of("configuration")
    known = types()
    return schema_for(known[name], title=f"hostagent {name} --json") if name in known else None
