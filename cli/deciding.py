"""Verbs by which a person decides: answers, worths, trust, and whether the agent acts.

Decides: how a word is checked before the agent gets it. Refuses to know: whether this user may (the agent says so).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from cli.agent import ask, socket_option
from cli.arguments import SPAN
from cli.command import json_option, leave, one_line_errors
from cli.exit_codes import ExitCode
from cli.results import Done
from cli.show.text import per_gb, span, write_json
from cli.words import NotUnderstood, WorthWord, parse_worth
from hostagent import api

TRIAL_S = 60
FINGERPRINT_LEAST = 8
ENDS = {
    api.Term.ONCE: "this once",
    api.Term.UNTIL_QUIT: "until it quits",
    api.Term.TEN_MINUTES: "for 10 minutes",
    api.Term.ONE_HOUR: "for an hour",
    api.Term.TODAY: "until midnight",
    api.Term.ALWAYS: "for good",
}


def term_option(default: api.Term, *, once: bool = True) -> Callable[[click.decorators.FC], click.decorators.FC]:
    return click.option(
        "--for",
        "term",
        default=default.value,
        show_default=True,
        type=click.Choice([each.value for each in api.Term if once or each is not api.Term.ONCE]),
        help="How long it holds; its clock goes on while the machine sleeps.",
    )


@click.command()
@socket_option
@json_option
@one_line_errors
def inbox(socket: Path, as_json: bool) -> None:
    """Flows whose first packet waits for your answer (a class says `ask_first`)."""
    told = ask(socket, lambda client: client.questions())
    if as_json:
        write_json(told)
        return
    from cli.show.state import show_questions

    show_questions(told)


@click.command()
@click.argument("number", type=click.IntRange(0, 2**63 - 1))
@click.argument("word", type=click.Choice(["yes", "no"]))
@term_option(api.Term.ONCE)
@socket_option
@json_option
@one_line_errors
def answer(number: int, word: str, term: str, socket: Path, as_json: bool) -> None:
    """Answers question NUMBER of `hostagent inbox`: lets the flow go on, or stops it."""
    said = api.Answer(number=number, allow=word == "yes", term=api.Term(term))
    ask(socket, lambda client: client.answer(said))
    done("answer", f"question {number}: {word}, {ENDS[said.term]}", str(number), as_json=as_json)


@click.command()
@click.argument("program")
@click.argument("value", nargs=-1, required=True)
@term_option(api.Term.ALWAYS, once=False)
@socket_option
@json_option
@one_line_errors
def worth(program: str, value: tuple[str, ...], term: str, socket: Path, as_json: bool) -> None:
    """Says what PROGRAM's traffic is worth to you from now on.

    VALUE is money for a gigabyte (2 USD/GB, or 0.5), a kind that it shall count as (`hostagent kinds` lists them), or
    reset, after which the table of kinds holds again. PROGRAM is an executable's file name or absolute path.
    """
    try:
        said = parse_worth(" ".join(value))
    except NotUnderstood as error:
        raise click.BadParameter(str(error), param_hint="VALUE") from error
    change = api.WorthChange(
        program=program, kind=said.kind, nanodollars_per_mb=said.nanodollars_per_mb, term=api.Term(term)
    )
    if said.currency:
        _check_currency(said.currency, socket)
    ask(socket, lambda client: client.set_worth(change))
    done("worth", f"{program}: {_what(said)}, {ENDS[change.term]}", program, as_json=as_json)


def _check_currency(currency: str, socket: Path) -> None:
    """All worths are in the one currency that the agent reckons in: we convert nothing."""
    own = {each.currency for each in ask(socket, lambda client: client.budgets())} or {"USD"}
    if currency not in own:
        leave(f"the agent reckons in {', '.join(sorted(own))}, not {currency}: write the worth in that", ExitCode.USAGE)


def _what(said: WorthWord) -> str:
    if said.kind is not None:
        return f"counts as {said.kind}"
    if said.nanodollars_per_mb is None:
        return "what the table of kinds says"
    return f"worth {per_gb(said.nanodollars_per_mb, said.currency or 'USD')}"


@click.command()
@socket_option
@json_option
@one_line_errors
def worths(socket: Path, as_json: bool) -> None:
    """What you said of programs, and how long that still holds."""
    told = ask(socket, lambda client: client.worths())
    if as_json:
        write_json(told)
        return
    from cli.show.state import show_worths

    show_worths(told)


@click.command()
@click.argument("fingerprint")
@socket_option
@json_option
@one_line_errors
def trust(fingerprint: str, socket: Path, as_json: bool) -> None:
    """Takes the gateway with FINGERPRINT for the right one.

    Compare it with what the gateway's owner says first; `hostagent networks` shows it. Its first characters are enough.
    """
    begun = fingerprint.strip().lower().replace(":", "")
    if len(begun) < FINGERPRINT_LEAST or not set(begun) <= set("0123456789abcdef"):
        problem = f"{fingerprint!r} is no fingerprint: at least {FINGERPRINT_LEAST} of its hexadecimal digits"
        raise click.BadParameter(problem, param_hint="FINGERPRINT")
    seen = {each.gateway.fingerprint for each in ask(socket, lambda client: client.networks()) if each.gateway}
    fitting = [each for each in seen if each.startswith(begun)]
    if len(fitting) != 1:
        cause = "more than one gateway has" if fitting else "no gateway that was seen has"
        leave(f"{cause} a fingerprint that begins with {begun} (see `hostagent networks`)", ExitCode.REFUSED)
    ask(socket, lambda client: client.trust(fitting[0]))
    done("trust", f"trusts the gateway {fitting[0]}", fitting[0], as_json=as_json)


# -- whether it acts -------------------------------------------------------------------------------------------------


@click.command()
@socket_option
@json_option
@one_line_errors
def observe(socket: Path, as_json: bool) -> None:
    """From now on only counts, and says what it would do; the kernel is put back."""
    _set_mode(socket, api.ModeChange(mode=api.Mode.OBSERVE))
    done("observe", "observes: nothing is shaped or paid any more", as_json=as_json)


@click.command()
@click.option(
    "--confirm",
    "trial_s",
    type=SPAN,
    default=f"{TRIAL_S}s",
    show_default=True,
    help="Goes back to observing after so long unless `hostagent confirm` comes; 0s: acts at once and for good.",
)
@socket_option
@json_option
@one_line_errors
def act(trial_s: int, socket: Path, as_json: bool) -> None:
    """From now on acts: shapes, and pays where there is a gateway to pay.

    On trial first: whatever it does to your connection, it goes back by itself. `hostagent preview` shows it before.
    """
    _set_mode(socket, api.ModeChange(mode=api.Mode.ACT, trial_s=trial_s))
    message = "acts"
    if trial_s:
        message += f" on trial: observes again in {span(trial_s)} unless you say `hostagent confirm`"
    done("act", message, as_json=as_json)


@click.command()
@socket_option
@json_option
@one_line_errors
def confirm(socket: Path, as_json: bool) -> None:
    """Ends the trial of `hostagent act`: it goes on acting."""
    mode = ask(socket, lambda client: client.status()).mode
    if mode is api.Mode.OBSERVE:
        leave("there is nothing to confirm: the agent observes (`hostagent act` makes it act)", ExitCode.REFUSED)
    if mode is api.Mode.TRIAL:
        _set_mode(socket, api.ModeChange(mode=api.Mode.ACT))
    done("confirm", "acts", as_json=as_json)


def _set_mode(socket: Path, change: api.ModeChange) -> None:
    ask(socket, lambda client: client.set_mode(change))


def done(verb: str, message: str, subject: str = "", *, as_json: bool) -> None:
    """One line, or one document."""
    if as_json:
        write_json(Done(verb=verb, message=message, subject=subject))
    else:
        from cli.show.text import harmless

        click.echo(harmless(message))


deciding_verbs: tuple[click.Command, ...] = (inbox, answer, worth, worths, trust, observe, act, confirm)
