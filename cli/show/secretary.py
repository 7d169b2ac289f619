"""What the secretary answers: status, inbox, rules, budgets, what was decided and why, traces.

Decides: the columns, and what a person reads first. Refuses to know: how a table is laid out (`cli.show.text`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from cli.show.text import (
    UNKNOWN,
    WIDE_COLUMNS,
    Grid,
    columns,
    facts,
    harmless,
    moment,
    money,
    size,
    span,
    write,
    write_or,
)
from secretary.messages import BudgetLine, Budgets, Inbox, QuestionView, Rotated, Rules, SecretaryStatus, WhyView
from secretary.money.statement_pages import show_flow, state_of
from secretary.money.statements import Statement, Traced

DAY_S = 86_400
WAITS = "waiting"
DECISIONS = {
    "pay": "would be paid, up to {limit}",
    "decline": "would not be paid",
    "ask": "you would be asked; until you answer: {otherwise}",
}


def show_status(status: SecretaryStatus) -> None:
    write(facts(_status_facts(status)))


def _status_facts(status: SecretaryStatus) -> Iterator[tuple[str, str]]:
    yield "secretary", status.name
    yield "fingerprint", status.fingerprint
    yield "key", status.keys
    if status.balance_nanodollars is not None and status.reserved_nanodollars is not None:
        yield "purse", f"{money(status.balance_nanodollars)}, of it reserved {money(status.reserved_nanodollars)}"
    yield "open grants", str(status.open_grants)
    yield "inbox", f"{status.questions} questions (hostagent secretary inbox)" if status.questions else "no questions"
    yield "learned from", f"{status.answers} answers"
    if status.organisation:
        yield "organisation", status.organisation
    if status.memory_bytes:
        yield "uses", size(status.memory_bytes)
    for line in status.frozen:
        yield "frozen", line
    for line in status.warnings:
        yield "warning", line


# --- inbox ------------------------------------------------------------------------------------------------------------


def show_inbox(inbox: Inbox, now_unix_s: int) -> None:
    """A paragraph for each question: whoever decides needs all of it."""
    for number, question in enumerate(inbox.questions):
        head = f"question {question.number}: {question.title}"
        write(*([""] if number else []), head, facts(_question_facts(question, now_unix_s)))
    if not inbox.questions:
        write("no questions")
    else:
        write("", "answer one with: hostagent secretary answer NUMBER yes|no --for always")
    quiet = f"; nothing would be asked now: {inbox.quiet}" if inbox.quiet else ""
    write(f"asked today: {inbox.asked_today} of at most {inbox.a_day}{quiet}")


def _question_facts(question: QuestionView, now_unix_s: int) -> Iterator[tuple[str, str]]:
    waiting = f", {question.transfers} transfers" if question.transfers > 1 else ""
    yield "", f"{question.price}{waiting}" if question.kind == "worth" else question.kind
    if question.user:
        yield "whose", question.user
    if question.answer:
        yield "answered", f"{question.answer} ({question.state})"
    elif question.state == WAITS:
        yield "holds now", f"{question.otherwise}, since {_at(question.lapses_unix_s, now_unix_s)}"
    else:
        yield "otherwise", f"{question.otherwise}, from {_at(question.lapses_unix_s, now_unix_s)} on"
    yield "asked", _at(question.asked_unix_s, now_unix_s)
    if question.why:
        yield "why", question.why


def _at(unix_s: int, now_unix_s: int) -> str:
    """The hour alone where it is near."""
    text = moment(unix_s)
    return text[11:] if abs(unix_s - now_unix_s) < DAY_S // 2 else text


# --- rules and reasons ------------------------------------------------------------------------------------------------


def show_rules(rules: Rules) -> None:
    """In the order of trying: ceilings bound whatever follows, then answers, people's own, the organisation's."""
    grid = Grid(">no.", "|by", "|name", ">hits", ">ends in", "|outcome", "|when")
    for number, each in enumerate(rules.rules, start=1):
        left = "" if each.seconds_left is None else span(max(0, each.seconds_left))
        hits = "" if each.source in ("answer", "ceiling") else str(each.hits)
        grid.add(str(number), each.source, each.name, hits, left, each.outcome, each.condition or "always")
    write_or(grid, "no rules: what you answered before decides, and the table of kinds")
    if grid:
        write(
            "the first that fits decides; a ceiling only bounds. After them: what was learned, then the table of kinds"
        )
    for fault in rules.faults:
        write(f"fault: {fault}")


def show_why(why: WhyView) -> None:
    limit = money(why.limit_nanodollars)
    otherwise = f"pay up to {limit}" if why.limit_nanodollars else "do not pay"
    write(DECISIONS[why.decision].format(limit=limit, otherwise=otherwise))
    write(*(f"- {line}" for line in why.lines))


def show_rotated(rotated: Rotated) -> None:
    write(
        facts([("new key", rotated.fingerprint)]),
        "Gateways learn of it by a message that the old key signed: the agent hands it on when it next opens a grant.",
        "Where a gateway or an agent has a copy of the certificate in a file, put the new one there "
        "(--certificate FILE writes it), and start it again.",
    )


# --- money ------------------------------------------------------------------------------------------------------------


def show_budgets(budgets: Budgets) -> None:
    is_wide = columns() >= WIDE_COLUMNS
    wide = (">a day", ">at reset", "resets") if is_wide else ()
    grid = Grid("budget", "of", ">spent", ">reserved", ">limit", ">used", *wide)
    for each in budgets.budgets:
        more = (
            money(each.burn_nanodollars_per_day),
            money(each.forecast_nanodollars),
            moment(each.resets_unix_s),
        )
        grid.add(
            each.name,
            each.scope,
            money(each.spent_nanodollars),
            money(each.reserved_nanodollars) if each.reserved_nanodollars else "",
            f"{money(each.limit_nanodollars)}/{each.period}{'' if each.hard else ' soft'}",
            _used(each),
            *(more if is_wide else ()),
        )
    write_or(grid, "no budgets")
    for each in budgets.budgets:
        if each.reason:
            write(f"{each.name} ({each.scope}): {each.reason}")


def _used(line: BudgetLine) -> str:
    held = line.spent_nanodollars + line.reserved_nanodollars
    return f"{held * 100 // line.limit_nanodollars} %" if line.limit_nanodollars else ""


def show_statement(statement: Statement) -> None:
    """opening + topped up - spent - fees = closing, to the nanodollar; then the lines, each with its key."""
    from cli.show.amounts import exact

    title = harmless(f"{statement.first_day} to {statement.last_day} ({statement.zone})")
    grid = Grid(title, f">{harmless(statement.currency)}")
    for what, amount in _sums(statement):
        grid.add(what, exact(amount))
    write(grid)
    if statement.lines:
        _write_lines(statement)


def _write_lines(statement: Statement) -> None:
    """Keys are whole in any terminal, since they are to be copied: in a narrow one they have lines of their own."""
    from cli.show.amounts import exact

    is_wide = columns() >= WIDE_COLUMNS
    currency, more = harmless(statement.currency), [">key"] if is_wide else []
    grid = Grid(">no.", *map(harmless, statement.by), f">{currency}", ">grants", "state", *more)
    for number, line in enumerate(statement.lines, start=1):
        shown = (getattr(line, each) or UNKNOWN for each in statement.by)
        key = [line.key] if is_wide else []
        grid.add(str(number), *shown, exact(line.nanodollars), str(line.grants), state_of(line), *key)
    write("", grid, "what is behind a line: hostagent secretary trace KEY")
    for number, line in enumerate([] if is_wide else statement.lines, start=1):
        click.echo(f"{number:>3}  {harmless(line.key)}")


def _sums(statement: Statement) -> Sequence[tuple[str, int]]:
    parts = (
        ("  in vouchers", statement.vouchers_nanodollars),
        ("  vouchers that expired", -statement.expired_nanodollars),
        ("  refunds", statement.refunds_nanodollars),
    )
    return (
        ("opening", statement.opening_nanodollars),
        ("+ topped up", statement.topped_up_nanodollars),
        *((what.replace("  ", "· "), amount) for what, amount in parts if amount),
        ("- spent", statement.spent_nanodollars),
        *(
            [("· of vouchers", statement.spent_of_vouchers_nanodollars)]
            if statement.spent_of_vouchers_nanodollars
            else []
        ),
        ("- fees", statement.fees_nanodollars),
        *((f"· {fee.what}", fee.nanodollars) for fee in statement.fee_lines),
        ("= closing", statement.closing_nanodollars),
    )


def show_trace(traced: Traced) -> None:
    """The line, then each of its grants with its flow and when it paid what."""
    from cli.show.amounts import exact

    line = traced.line
    named = [text for text in (line.day, line.user, line.program, line.destination, line.gateway, line.network) if text]
    write(f"{', '.join(named) or 'spent'}: {exact(line.nanodollars)}, {state_of(line)}")
    for course, steps in traced.grants:
        disputed = ", disputed" if course.is_disputed else ""
        context = course.context
        write(
            "",
            facts(
                [
                    ("grant", course.grant),
                    ("flow", show_flow(context)),
                    ("gateway", context.isp),
                    ("because", context.why or context.rule),
                    ("rests on", f"{course.word.value}{disputed}"),
                ]
            ),
        )
        grid = Grid("from", "until", ">amount", "|what")
        for step in steps:
            grid.add(moment(step.from_unix_s), moment(step.until_unix_s), exact(step.nanodollars), step.what)
        write(grid)
    if not traced.grants:
        write("no grant is behind it")
