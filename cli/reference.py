"""docs/reference/commands.md: every verb, its arguments and options, out of click's own information.

Decides: the layout. Refuses to know any verb. `python -m cli.reference` writes the file; a test compares.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from cli.manual import contexts
from cli.results import types

DOCUMENT = Path(__file__).parent.parent / "docs" / "reference" / "commands.md"

HEAD = """\
# Commands

Written by `make docs` out of the commands' own help; `hostagent VERB --help` says the same, and `hostagent man DIR`
writes man pages. Exit codes: `docs/spec/exit-codes.md`. What `--json` prints is a promise: `hostagent schema VERB`
prints its JSON schema.
"""


def document(command: click.Command) -> str:
    return "\n".join([HEAD, *(line for context in contexts(command) for line in _verb(context))])


def _verb(context: click.Context) -> Iterator[str]:
    command, path = context.command, context.command_path
    yield f"{'#' * (2 if context.parent is None or context.parent.parent is None else 3)} {path}"
    yield ""
    yield "```"
    yield f"{path} {' '.join(command.collect_usage_pieces(context))}".rstrip()
    yield "```"
    yield ""
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield paragraph.replace("\n", " ")
        yield ""
    told = [each for each in command.get_params(context) if "--help" not in each.opts]  # every verb has that one
    records = [record for each in told if (record := each.get_help_record(context)) is not None]
    if records:
        yield "| option | |"
        yield "|---|---|"
        for name, text in records:
            yield f"| `{_cell(name)}` | {_cell(text)} |"
        yield ""
    verb = path.partition(" ")[2]
    if verb in types():
        yield f"`--json`: `hostagent schema {verb}`."
        yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Writes the file anew."""
    from cli.main import main as command

    DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
    DOCUMENT.write_text(document(command), encoding="utf-8")


if __name__ == "__main__":
    main()
