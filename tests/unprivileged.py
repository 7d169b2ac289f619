"""Runs programs as a user to whom nothing is granted, or only what a test names."""

from __future__ import annotations

NOBODY = "65534"


def as_nobody(*arguments: str, capabilities: tuple[str, ...] = ()) -> list[str]:
    """The argument list. Reading is allowed, since the interpreter of the tests may live in root's own directory."""
    kept = ",".join(["-all", *(f"+{name}" for name in ("dac_read_search", *capabilities))])
    return [
        *("setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"),
        *("--inh-caps", kept, "--ambient-caps", kept, "--bounding-set", kept),
        *arguments,
    ]
