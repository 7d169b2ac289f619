"""History's rows as text for other programs: CSV, one JSON document, or one JSON value a line.

Decides the form: CSV has every column of `api.HistoryRow`, in its order, and numbers as they are.  JSON is what the
local API answers.  Nothing is rounded, so what is read back is what was written.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import Final, Literal, TextIO, get_args

import msgspec

from hostagent import api

Format = Literal["csv", "json", "jsonl"]
COLUMNS: Final = api.HistoryRow.__struct_fields__


def write_rows(rows: Iterable[api.HistoryRow], format: Format, file: TextIO) -> None:  # noqa: A002 - the user's word
    """Raises ValueError for another format. A name that a spreadsheet would take for a formula gets an apostrophe."""
    if format not in get_args(Format):
        raise ValueError(f"the format is one of {', '.join(get_args(Format))}")
    if format == "json":
        file.write(msgspec.json.encode(tuple(rows)).decode() + "\n")
    elif format == "jsonl":
        file.writelines(msgspec.json.encode(row).decode() + "\n" for row in rows)
    else:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows([harmless(getattr(row, column)) for column in COLUMNS] for row in rows)


def harmless(value: object) -> object:
    """A program may be called `=cmd`; numbers keep their sign."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
