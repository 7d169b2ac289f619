"""Verbs for the secretary's questions: what waits, answers, taking one back, and questions on the desktop.

Decides: how a word is checked before the secretary gets it. Refuses to know: whose question it is, and what follows.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click

from cli.command import json_option, leave, one_line_errors
from cli.deciding import done
from cli.exit_codes import ExitCode
from cli.prices import AMOUNT
from cli.secretary_line import answers_expected, ask, own_name, socket_option
from cli.show.text import write_json
from secretary.ruling.terms import Term


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also questions that were answered.")
@socket_option
@json_option
@one_line_errors
def inbox(everything: bool, socket: Path, as_json: bool) -> None:
    """Questions that wait for you: what each is about, what holds if you say nothing, and why it is asked."""
    from secretary.messages import AskInbox, Inbox

    told = ask(socket, AskInbox(answered=everything), Inbox)
    if as_json:
        write_json(told)
        return
    from cli.show.secretary import show_inbox

    show_inbox(told, int(time.time()))


@click.command()
@click.argument("number", metavar="ID", type=click.IntRange(1, 2**53 - 1))
@click.argument("word", type=click.Choice(["yes", "no"]))
@click.option(
    "--up-to", "limit", type=AMOUNT, metavar="PRICE", help="With yes: up to which price.  [default: as asked]"
)
@click.option(
    "--for",
    "term",
    default=Term.ONCE.value,
    show_default=True,
    type=click.Choice([each.value for each in Term]),
    help="How long it holds as a rule of its own; its clock goes on while the machine sleeps.",
)
@socket_option
@json_option
@one_line_errors
def answer(number: int, word: str, limit: int | None, term: str, socket: Path, as_json: bool) -> None:
    """Answers question ID of `hostagent secretary inbox`. What you say teaches the secretary; `undo` takes it back.

    PRICE is money for such a transfer: 0.03, 0.03 USD, 30 mUSD.
    """
    from secretary.messages import AnswerQuestion, Done

    if limit is not None and word == "no":
        raise click.UsageError("a price goes with a yes: a no holds from the price on that was asked")
    said = AnswerQuestion(number=number, accept=word == "yes", limit_nanodollars=limit, term=Term(term))
    done("secretary answer", ask(socket, said, Done).message, str(number), as_json=as_json)


@click.command()
@click.argument("number", metavar="[ID]", type=click.IntRange(1, 2**53 - 1), required=False)
@socket_option
@json_option
@one_line_errors
def undo(number: int | None, socket: Path, as_json: bool) -> None:
    """Takes an answer back, and whatever was learned from it; without ID the latest one."""
    from secretary.messages import Done, UndoAnswer

    subject = "" if number is None else str(number)
    done("secretary undo", ask(socket, UndoAnswer(number=number), Done).message, subject, as_json=as_json)


@click.command()
@click.option(
    "--for",
    "term",
    default=Term.ONCE.value,
    show_default=True,
    type=click.Choice([each.value for each in Term]),
    help="How long an answer by a button holds.",
)
@socket_option
@one_line_errors
def notify(term: str, socket: Path) -> None:
    """Shows the questions on your desktop, with buttons, until your session ends or Ctrl-C comes.

    Tells the secretary when a question would be in the way (a program fills the screen, do not disturb).
    """
    from cli.arguments import now
    from secretary.client import PersonClient
    from secretary.desktop.notifying import SecretarySource, run_notifier

    zone = now().tzinfo
    assert zone is not None

    async def whole() -> None:
        async with PersonClient(socket) as client:
            source = SecretarySource(client, own_name())
            await source.popups()  # a secretary that is not there, or does not know us, is said at once
            await run_notifier(source, zone=zone, term=Term(term))

    with answers_expected(socket):
        asyncio.run(whole())
    leave("the desktop session has ended", ExitCode.ENVIRONMENT)


inbox_verbs: tuple[click.Command, ...] = (inbox, answer, undo, notify)
