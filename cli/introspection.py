"""Verbs about the command itself: schemas of what it prints, completion in a shell, man pages.

Decides: names of files. Refuses to know: any verb by name; all comes from click's own information.
"""

from __future__ import annotations

from pathlib import Path

import click

from billpay.errors import EnvironmentFault
from cli.command import json_option, one_line_errors
from cli.results import CONFIGURATION, Written, schema, types
from cli.show.text import write_json

COMPLETE_VARIABLE = "_HOSTAGENT_COMPLETE"


@click.command("schema")
@click.argument("verb", nargs=-1)
@one_line_errors
def schema_verb(verb: tuple[str, ...]) -> None:
    """The JSON schema of what VERB prints with --json, or of the configuration file (config).

    Without VERB: the names that there are.
    """
    if not verb:
        for name in sorted([*types(), CONFIGURATION]):
            click.echo(name)
        return
    name = " ".join(verb)
    found = schema(name)
    if found is None:
        raise click.BadParameter(f"{name!r} has no schema; `hostagent schema` lists those that have", param_hint="VERB")
    write_json(found)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@one_line_errors
def completions(context: click.Context, shell: str) -> None:
    """Prints the script that completes `hostagent …` in SHELL.

    For bash: hostagent completions bash > ~/.local/share/bash-completion/completions/hostagent
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click has all of the choices"
    root = context.find_root()
    # Without click's own look at the version of bash, which needs bash where only its script is wanted.
    made = kind(root.command, {}, "hostagent", COMPLETE_VARIABLE)
    click.echo(made.source_template % made.source_vars())


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@json_option
@click.pass_context
@one_line_errors
def man(context: click.Context, directory: Path, as_json: bool) -> None:
    """Writes a man page for every verb into DIRECTORY, such as /usr/local/share/man/man1."""
    from cli.manual import pages

    files = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in pages(context.find_root().command):
            path = directory / name
            path.write_text(text, encoding="utf-8")
            files.append(str(path))
    except OSError as error:
        raise EnvironmentFault("write", str(directory), error.strerror, "name another folder") from error
    if as_json:
        write_json(Written(files=tuple(files)))
    else:
        click.echo(f"{len(files)} man pages in {directory}: man hostagent")


introspection_verbs: tuple[click.Command, ...] = (schema_verb, completions, man)
