"""JSON schemas (draft 2020-12) of what the command line prints with --json, and of the configuration file.

Decides which value belongs to which name.  Refuses to know the values.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from hostagent import api
from hostagent.configuration import Configuration
from hostagent.openapi import as_json

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
CONFIGURATION: Final = "configuration"

VALUES: Final[dict[str, Any]] = {
    "status": api.Status,
    "flows": tuple[api.Flow, ...],
    "programs": tuple[api.Program, ...],
    "links": tuple[api.Link, ...],
    "kinds": tuple[api.Kind, ...],
    "prices": tuple[api.Price, ...],
    "networks": tuple[api.Network, ...],
    "budgets": tuple[api.Budget, ...],
    "worths": tuple[api.Worth, ...],
    "rules": tuple[api.Rule, ...],
    "notices": tuple[api.Notice, ...],
    "accounts": api.Accounts,
    "paths": api.Paths,
    "inbox": tuple[api.Question, ...],
    "snapshot": api.Snapshot,
    "why": api.Why,
    "history": tuple[api.HistoryRow, ...],
    "statement": api.Statement,
    "replay": tuple[api.ReplayLine, ...],
    CONFIGURATION: Configuration,
}
"""By the command that prints it."""


def schema_of(name: str) -> dict[str, Any]:
    """Raises KeyError for an unknown name."""
    return schema_for(VALUES[name], title=f"hostagent {name}")


def schema_for(value: Any, *, title: str) -> dict[str, Any]:
    """Of any type that msgspec knows. A structure's own keywords stand at the top, where editors look for them."""
    made = as_json(msgspec.json.schema(value))
    definitions = made.pop("$defs", {})
    top = made.get("$ref", "").rpartition("/")[2]
    if top and not _is_used(top, definitions):
        made = definitions.pop(top)
    whole = {"$schema": DIALECT, **made, "title": title}
    return whole | ({"$defs": definitions} if definitions else {})


def _is_used(name: str, definitions: dict[str, Any]) -> bool:
    return f'"#/$defs/{name}"' in msgspec.json.encode(definitions).decode()
