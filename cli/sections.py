"""A group of verbs whose help lists them by subject, each with its whole first sentence.

Decides: the layout of that list. Refuses to know any verb.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import click


class SectionedGroup(click.Group):
    """Filled by `add_section`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections: list[tuple[str, Sequence[click.Command]]] = []

    def add_section(self, title: str, verbs: Sequence[click.Command]) -> None:
        self._sections.append((title, verbs))
        for verb in verbs:
            self.add_command(verb)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        for title, verbs in self._sections:
            with formatter.section(title):
                formatter.write_dl([(verb.name or "", summary(verb)) for verb in verbs])


def summary(command: click.Command) -> str:
    """The first sentence of the help, without its full stop."""
    first = inspect.cleandoc(command.help or "").split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=[a-z0-9`)])\.(?:\s|$)", first)[0].rstrip(".")
