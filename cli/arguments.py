"""Option and argument types of the verbs: what `cli.words` understands, as click parameters.

Decides: how a word that is not understood becomes a usage error. Refuses to know what the values are for.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, TypeVar

import click

from cli import words

T = TypeVar("T")


class Understood(click.ParamType, Generic[T]):  # type: ignore[type-arg]  # older click has no argument there
    """A parameter that one of the parsers understands."""

    def __init__(self, name: str, parse: Callable[[str], T]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]  # click hands on a default that is a value already
        try:
            return self._parse(value)
        except words.NotUnderstood as error:
            self.fail(str(error), param, ctx)


def now() -> datetime:
    """With the local zone."""
    return datetime.now().astimezone()


SPAN = Understood("span", words.parse_span_s)
MOMENT = Understood("moment", lambda text: words.parse_moment(text, now()))
MONTH = Understood("month", lambda text: words.parse_month(text, now()))
