"""What the command says of itself: schemas, completion in real shells, man pages, the reference."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import jsonschema
import pytest
from click.testing import CliRunner

from cli.exit_codes import ExitCode
from cli.main import main
from cli.manual import EXIT_TEXTS, pages
from cli.reference import DOCUMENT, document
from cli.results import schema, types

SHELL_S = 60
NO_JSON = {
    *("run", "tui", "schema", "completions", "gateway run", "gateway mark-price", "gateway reload"),
    *("secretary run", "secretary notify"),
}
"""They start something, or what they print is a document already; `lab run` has its own in docs/lab.md."""


def every_verb(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from every_verb(command, (*path, name))


def invoke(*words: str) -> str:
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


# -- schemas ---------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(23)
@pytest.mark.parametrize("name", [*types(), "config"])
def test_a_schema_is_one(name: str) -> None:
    found = json.loads(invoke("schema", *name.split()))
    jsonschema.Draft202012Validator.check_schema(found)
    assert found == json.loads(json.dumps(schema(name)))


def test_every_verb_with_json_has_a_schema_and_every_other_verb_a_reason() -> None:
    has_json = {
        " ".join(path)
        for path, command in every_verb(main)
        if any("--json" in each.opts for each in command.params) and not isinstance(command, click.Group)
    }
    assert has_json - {"lab run"} == set(types())
    others = {" ".join(path) for path, command in every_verb(main) if not isinstance(command, click.Group)} - has_json
    assert others == NO_JSON


def test_without_a_verb_the_names_are_listed() -> None:
    assert set(invoke("schema").split("\n")) == {*types(), "config", ""}


def test_an_unknown_schema_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["schema", "nothing"]).exit_code == ExitCode.USAGE


# -- completion ------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_path(tmp_path: Path) -> dict[str, str]:
    """An environment in which `hostagent` is the one of this checkout."""
    command = tmp_path / "bin" / "hostagent"
    command.parent.mkdir()
    # click tells by the program's name which variable asks for completion
    command.write_text(f"#!{sys.executable} -P\nfrom cli.main import main\nmain(prog_name='hostagent')\n")
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def complete_in_bash(line: str, environment: dict[str, str]) -> set[str]:
    """What a person sees who presses the tabulator at the end of the line."""
    words = line.split(" ")
    script = (
        'source <(hostagent completions bash); COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMP_LINE="$*"; '
        '_hostagent_completion hostagent; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script, "bash", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=SHELL_S,
        check=True,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.expectation(23)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("hostagent st", {"status", "statement"}),
        ("hostagent gateway ", {"run", "status", "mark-price", "reload"}),
        ("hostagent up --o", {"--observe"}),
        ("hostagent up --show ", {"auto", "tui", "plain", "none"}),
        ("hostagent answer 7 ", {"yes", "no"}),
        ("hostagent answer 7 yes --for 1", {"10m", "1h"}),
    ],
)
def test_bash_completes(on_path: dict[str, str], line: str, offered: set[str]) -> None:
    assert complete_in_bash(line, on_path) == offered


@pytest.mark.parametrize(("shell", "word"), [("zsh", "#compdef hostagent"), ("fish", "complete --no-files")])
def test_other_shells_get_a_script_that_they_can_read(shell: str, word: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(invoke("completions", shell), encoding="utf-8")
    assert word in script.read_text(encoding="utf-8")
    assert "_HOSTAGENT_COMPLETE" in script.read_text(encoding="utf-8")
    if (program := shutil.which(shell)) is not None:
        subprocess.run([program, "-n", str(script)], check=True, timeout=SHELL_S)


# -- man pages -------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(23)
def test_every_verb_has_a_man_page_that_groff_takes_without_a_warning(tmp_path: Path) -> None:
    written = json.loads(invoke("man", str(tmp_path), "--json"))["files"]
    names = {Path(file).name for file in written}
    assert names == {f"{'-'.join(('hostagent', *path))}.1" for path, _ in [((), main), *every_verb(main)]}
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed: nobody else knows what a man page may say")
    done = subprocess.run(
        ["groff", "-ww", "-man", "-Tutf8", *written], capture_output=True, text=True, timeout=SHELL_S, check=True
    )
    assert done.stderr == ""
    assert "hostagent confirm" in done.stdout


def test_what_a_verb_says_of_itself_is_no_roff() -> None:
    @click.command(help=".TH is \\fBnot\\fP a request, nor is 'this'.\n\n.so /etc/passwd")
    @click.option("--x-y", help='A "quoted" back\\slash.')
    def verb() -> None: ...

    ((name, text),) = pages(verb)
    assert name == "hostagent.1"
    assert "\\&.TH is \\efBnot\\efP a request" in text
    assert "\n.so" not in text
    assert ".B \\-\\-x\\-y TEXT\nA \\(dqquoted\\(dq back\\eslash." in text


def test_man_pages_have_every_exit_code() -> None:
    assert list(EXIT_TEXTS) == list(ExitCode)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(main, ["man", str(tmp_path / "file" / "man1")])
    assert done.exit_code == ExitCode.ENVIRONMENT
    assert len(done.stderr.splitlines()) == 1


# -- reference -------------------------------------------------------------------------------------------------------


def test_the_reference_is_what_make_docs_writes() -> None:
    """Also when a verb was run by itself before: click remembers its help option then."""
    CliRunner().invoke(main.commands["doctor"], ["--help"])
    assert DOCUMENT.read_text(encoding="utf-8") == document(main), "run `make docs`"


def test_the_help_lists_every_verb_once() -> None:
    shown = invoke("--help").splitlines()
    for name in main.commands:
        assert sum(line.startswith(f"  {name} ") for line in shown) == 1
