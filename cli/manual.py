"""Man pages for the command and every verb, out of click's own information.

Decides: sections and their order, as man-pages(7) has them. Refuses to know any verb. Pure.
A library does this (click-man), but it writes texts into roff as they are (a line that begins with a full stop is lost,
a backslash is an escape), and says nothing of arguments, files and exit codes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib.metadata import version

import click

from cli.agent import CONFIGURATION_PATH, SOCKET_VARIABLE
from cli.command import RUN_DIRECTORY, STATE_DIRECTORY
from cli.exit_codes import ExitCode
from cli.secretary_line import SOCKET_VARIABLE as SECRETARY_VARIABLE
from cli.secretary_line import SYSTEM_CONFIGURATION, SYSTEM_SOCKET
from cli.sections import summary
from hostagent.api import SOCKET_NAME

SECTION = "1"
NAME = "hostagent"
EXIT_TEXTS = {
    ExitCode.OK: "Done.",
    ExitCode.FAILED: "The run ended, and something that it checks does not hold; its report says what.",
    ExitCode.USAGE: "A wrong option or argument.",
    ExitCode.CONFIGURATION: "A configuration file is not there, or says what it must not say.",
    ExitCode.ENVIRONMENT: "The machine refused: a privilege, an interface, a port, a file, a tool.",
    ExitCode.PEER: "A neighbour, daemon or secretary answered what it must not answer.",
    ExitCode.UNREACHABLE: "The agent, gateway or secretary that was asked is not running, or not ours to ask.",
    ExitCode.REFUSED: "The agent or secretary understood, and does not do it.",
    ExitCode.INTERRUPTED: "Ctrl-C; whatever was set up has been taken down.",
}


def pages(command: click.Command) -> Iterator[tuple[str, str]]:
    """Each file's name and text."""
    for context in contexts(command):
        yield f"{context.command_path.replace(' ', '-')}.{SECTION}", page(context)


def contexts(command: click.Command, parent: click.Context | None = None, name: str = NAME) -> Iterator[click.Context]:
    """Of the command and all below it, groups before their members."""
    context = click.Context(command, parent=parent, info_name=name, **command.context_settings)
    yield context
    if isinstance(command, click.Group):
        for child, found in command.commands.items():
            yield from contexts(found, context, child)


def page(context: click.Context) -> str:
    command = context.command
    title = context.command_path.replace(" ", "-")
    lines = [
        f'.TH "{_escaped(title.upper())}" "{SECTION}" "" "{NAME} {_escaped(version(NAME))}" "User Commands"',
        ".SH NAME",
        f"{_escaped(title)} \\- {_escaped(summary(command))}",
        ".SH SYNOPSIS",
        f".B {_escaped(context.command_path)}",
        _escaped(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *_paragraphs(command.help or ""),
    ]
    options = [each.get_help_record(context) for each in command.get_params(context)]
    if any(options):
        lines.append(".SH OPTIONS")
        for record in options:
            if record is not None:
                lines += [".TP", f".B {_escaped(record[0])}", _escaped(record[1])]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for name, child in command.commands.items():
            lines += [".TP", f".BR {_escaped(f'{title}-{name}')} ({SECTION})", _escaped(summary(child))]
    lines += _closing(title)
    return "\n".join(line for line in lines if line) + "\n"


def _closing(title: str) -> list[str]:
    lines = [".SH EXIT STATUS"]
    for code, text in EXIT_TEXTS.items():
        lines += [".TP", f".B {int(code)}", _escaped(text)]
    lines.append(".SH ENVIRONMENT")
    for variable, whose in ((SOCKET_VARIABLE, "agent's local"), (SECRETARY_VARIABLE, "secretary's")):
        lines += [".TP", f".B {variable}", f"The {whose} socket, where no option names one."]
    lines.append(".SH FILES")
    for path, text in (
        (CONFIGURATION_PATH, "The agent's configuration, where no option names another."),
        (RUN_DIRECTORY / SOCKET_NAME, "The local socket of the agent that root runs."),
        (STATE_DIRECTORY, "What that agent keeps: key, history, what it changed in the kernel."),
        (SYSTEM_CONFIGURATION, "The secretary's configuration, as its unit has it."),
        (SYSTEM_SOCKET, "The secretary's socket, likewise."),
    ):
        lines += [".TP", f".I {_escaped(str(path))}", _escaped(text)]
    if title != NAME:
        lines += [".SH SEE ALSO", f".BR {NAME} ({SECTION})"]
    return lines


def _paragraphs(help_text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in inspect.cleandoc(help_text).split("\n\n"):
        lines += [".PP", _escaped(paragraph.replace("\n", " "))]
    return lines


def _escaped(text: str) -> str:
    """Nothing of it is a request or an escape; a minus is one, so that an option can be copied."""
    made = " ".join(text.replace("\f", " ").split()).replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    made = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in made)
    return f"\\&{made}" if made.startswith((".", "'")) else made
