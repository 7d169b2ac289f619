"""The scenarios that come with the lab, and where a name or a path leads.

Decides nothing else; the files are in `lab/scenarios/`.
"""

from __future__ import annotations

from pathlib import Path

from billpay.errors import ConfigurationError
from lab.topology import Scenario, load

DIRECTORY = Path(__file__).parent / "scenarios"
FIRST = "figure1"


def list_scenarios() -> list[Scenario]:
    """All of them, the main one first."""
    found = [load(path) for path in sorted(DIRECTORY.glob("*.toml"))]
    return sorted(found, key=lambda scenario: (scenario.name != FIRST, scenario.name))


def find_scenario(name_or_path: str | Path) -> Scenario:
    """By name, or from a TOML file.  Raises ConfigurationError."""
    text = str(name_or_path)
    path = Path(text) if text.endswith(".toml") or "/" in text else DIRECTORY / f"{text}.toml"
    if path.parent == DIRECTORY and not path.exists():
        known = ", ".join(sorted(file.stem for file in DIRECTORY.glob("*.toml")))
        raise ConfigurationError("scenario", text, "there is none of this name", f"one of {known}, or a TOML file")
    return load(path)
