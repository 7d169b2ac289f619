"""`hostagent task …`: what a person wants of a flow, written down, before anything is spent by it.

Decides: which of the three forms a file is in, and that all that is wrong with it is said at once, a line each. Refuses
to know: what makes a policy possible (`pricereactor.policy`) and how a form is written (there, and `pricereactor.sdp`).
Forms: TOML with `[[tasks]]`, a session description with `a=x-buy:` lines, or the JSON that `task show --json` prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import msgspec

from billpay.configuration import FILE_BYTES_MAX, decode_toml
from billpay.errors import ConfigurationError
from cli.command import json_option, leave, one_line_errors
from cli.exit_codes import ExitCode
from cli.results import CheckedTasks
from cli.show.text import harmless, write_json
from pricereactor.policy import PolicyFile, TaskPolicy, problems, to_toml
from pricereactor.sdp import PREFIX, read_sdp, with_policy

SAMPLE: Final = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
"""The least description that a policy can stand in (RFC 8866, 5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFile:
    """What a file says, and everything that is wrong with it. `passed_over`: lines that nobody understands."""

    tasks: tuple[TaskPolicy, ...] = ()
    faults: tuple[ConfigurationError, ...] = ()
    passed_over: tuple[str, ...] = ()


@click.group()
def task() -> None:
    """Policies of tasks in files: what a flow may cost, and how fast and steady it should be."""


@task.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@one_line_errors
def check(file: Path, as_json: bool) -> None:
    """Says everything that is wrong with the tasks in FILE, a line each; nothing is sent to the agent.

    FILE is TOML with [[tasks]], a session description with a=x-buy: lines, or JSON as `task show --json` prints it.
    """
    found = read_tasks(file)
    if as_json:
        names = tuple(each.name for each in found.tasks)
        problems_ = tuple(str(fault) for fault in found.faults)
        write_json(CheckedTasks(tasks=names, problems=problems_, passed_over=found.passed_over))
    else:
        for line in (*map(str, found.faults), *found.passed_over):
            click.echo(harmless(line))
        if not found.faults:
            click.echo(harmless("; ".join(f"{each.name}: {each.kind}" for each in found.tasks)) + ": nothing is wrong")
    if found.faults:
        raise click.exceptions.Exit(int(ExitCode.CONFIGURATION))


@task.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--toml", "form", flag_value="toml", default=True, help="As [[tasks]] of the configuration.  [default]")
@click.option("--sdp", "form", flag_value="sdp", help="As a session description; FILE must have one task.")
@json_option
@one_line_errors
def show(file: Path, form: str, as_json: bool) -> None:
    """Prints the tasks in FILE in another form: TOML, a session description, or JSON.

    A description keeps all that it had before. FILE is any of the forms that `task check` reads.
    """
    tasks = good_tasks(file)
    if as_json:
        write_json(PolicyFile(tasks=tasks))
    elif form == "sdp":
        click.echo(_described(file, tasks), nl=False)
    else:
        click.echo(to_toml(tasks), nl=False)


def _described(file: Path, tasks: tuple[TaskPolicy, ...]) -> str:
    """In its own description, if it is one."""
    policy = one_task(file, tasks, "")
    text = _read(file)
    return with_policy(text, policy) if text.startswith("v=0") else with_policy(SAMPLE, policy)


def good_tasks(file: Path) -> tuple[TaskPolicy, ...]:
    """Those of a file with which nothing is wrong. Raises ConfigurationError with the first fault."""
    found = read_tasks(file)
    for fault in found.faults:
        raise fault
    return found.tasks


def one_task(file: Path, tasks: tuple[TaskPolicy, ...], name: str) -> TaskPolicy:
    """The one of that name; "": the only one."""
    fitting = [each for each in tasks if not name or each.name == name]
    if len(fitting) != 1:
        there = ", ".join(each.name for each in tasks)
        found = f"no task {name!r}; there are" if name else f"{len(tasks)} tasks, and one is wanted"
        leave(f"{file} has {found}: {there}", ExitCode.CONFIGURATION)
    return fitting[0]


def read_tasks(file: Path) -> TaskFile:
    """Raises ConfigurationError where the file cannot be read at all."""
    text = _read(file)
    try:
        if _is_description(text):
            return _of_description(text, file)
        tasks = (_of_json(text, file) if text.lstrip()[:1] == "{" else decode_toml(text, PolicyFile, file=file)).tasks
    except ConfigurationError as fault:
        return TaskFile(faults=(fault,))
    if not tasks:
        return TaskFile(faults=(ConfigurationError(file, "tasks", "there are none", "add a table [[tasks]]"),))
    return TaskFile(tasks=tasks, faults=tuple(_faults(tasks, file)))


def _is_description(text: str) -> bool:
    return text.startswith("v=0") or any(line.startswith(PREFIX) for line in text.splitlines())


def _of_description(text: str, file: Path) -> TaskFile:
    reading = read_sdp(text, where=file)
    passed_over = tuple(f"{file}: line {number}: nobody knows this: {line}" for number, line in reading.passed_over)
    if reading.policy is None:
        fault = ConfigurationError(file, "", "has no policy", f"add lines that begin with {PREFIX}")
        return TaskFile(faults=(fault,), passed_over=passed_over)
    return TaskFile(tasks=(reading.policy,), passed_over=passed_over)


def _of_json(text: str, file: Path) -> PolicyFile:
    try:
        return msgspec.json.decode(text.encode(), type=PolicyFile, strict=True)
    except msgspec.DecodeError as error:
        raise ConfigurationError(file, "", str(error), "`hostagent schema task show` has what may be there") from error


def _faults(tasks: tuple[TaskPolicy, ...], file: Path) -> list[ConfigurationError]:
    faults, seen = [], set[str]()
    for number, policy in enumerate(tasks):
        key = f"tasks[{number}]"
        if policy.name in seen:
            name = f"{policy.name!r} is used twice"
            faults.append(ConfigurationError(file, f"{key}.name", name, "name each task once"))
        seen.add(policy.name)
        faults += [
            ConfigurationError(file, f"{key}.{each.field}", each.problem, each.remedy) for each in problems(policy)
        ]
    return faults


def _read(file: Path) -> str:
    """Line ends as they are: those of a description are its own."""
    try:
        with file.open("rb") as opened:
            data = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(file, "", error.strerror or str(error), "name another file") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigurationError(file, "", f"larger than {FILE_BYTES_MAX} bytes", "is this the right file?")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(file, "", f"not UTF-8 at byte {error.start}", "save the file as UTF-8") from error
