"""Kinds of traffic and programs: what they are worth, what share they get, whether they run, are slowed or wait."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.text import Text

from hostagent import api
from tui.model.columns import Column, Listing, Sorting, matching, number
from tui.model.texts import (
    FAINT,
    NOTHING,
    STRONG,
    bytes_text,
    duration_text,
    line,
    money_text,
    price_text,
    rate_text,
    several,
)

TERMS: Final = {
    api.Term.ONCE: "once",
    api.Term.UNTIL_QUIT: "until it quits",
    api.Term.TEN_MINUTES: "10 minutes",
    api.Term.ONE_HOUR: "1 hour",
    api.Term.TODAY: "today",
    api.Term.ALWAYS: "always",
}
MOST_RULES: Final = 6


def state_text(kind: api.Kind) -> str:
    if kind.state is api.KindState.SLOWED and kind.cap_bit_s is not None:
        return f"slowed to {rate_text(kind.cap_bit_s)}"
    return kind.state.value


KIND_COLUMNS: Final[tuple[Column[api.Kind], ...]] = (
    Column("kind", 9, 0, lambda kind: kind.name, most=16),
    number(
        "worth",
        6,
        0,
        lambda kind: price_text(kind.worth_nanodollars_per_mb),
        lambda kind: kind.worth_nanodollars_per_mb,
    ),
    number("share", 5, 0, lambda kind: f"{kind.weight:,}", lambda kind: kind.weight),
    Column("state", 15, 0, state_text, most=18),
    number("out", 5, 0, lambda kind: rate_text(kind.sent_bit_s), lambda kind: kind.sent_bit_s),
    number("in", 5, 0, lambda kind: rate_text(kind.received_bit_s), lambda kind: kind.received_bit_s),
    number("sent", 7, 1, lambda kind: bytes_text(kind.sent_bytes), lambda kind: kind.sent_bytes),
    number("received", 8, 3, lambda kind: bytes_text(kind.received_bytes), lambda kind: kind.received_bytes),
    number("spent", 6, 2, lambda kind: money_text(kind.spent_nanodollars), lambda kind: kind.spent_nanodollars),
    Column("traffic", 20, 4, lambda kind: kind.title, most=36),
    Column("reason", 20, 5, lambda kind: kind.reason, most=300),
)

PROGRAM_COLUMNS: Final[tuple[Column[api.Program], ...]] = (
    Column("program", 14, 0, lambda program: program.name, most=30),
    Column("task", 10, 5, lambda program: program.task or NOTHING, most=20),
    Column("kind", 12, 1, lambda program: program.traffic_class or NOTHING, most=18),
    number(
        "worth",
        6,
        0,
        lambda program: price_text(program.worth_nanodollars_per_mb),
        lambda program: -1 if program.worth_nanodollars_per_mb is None else program.worth_nanodollars_per_mb,
    ),
    number("out", 5, 0, lambda program: rate_text(program.sent_bit_s), lambda program: program.sent_bit_s),
    number("in", 5, 0, lambda program: rate_text(program.received_bit_s), lambda program: program.received_bit_s),
    number("sent", 7, 0, lambda program: bytes_text(program.sent_bytes), lambda program: program.sent_bytes),
    number(
        "received", 8, 2, lambda program: bytes_text(program.received_bytes), lambda program: program.received_bytes
    ),
    number(
        "marks", 6, 4, lambda program: f"{program.received_ce_packets:,}", lambda program: program.received_ce_packets
    ),
    Column("decision", 20, 3, lambda program: program.decision, most=300),
)


def kind_listing(kinds: Iterable[api.Kind], sorting: Sorting, wanted: str) -> Listing[api.Kind]:
    found = matching(wanted, kinds, lambda kind: (kind.name, kind.title))
    found.sort(key=lambda kind: (-kind.worth_nanodollars_per_mb, kind.name))
    return Listing(
        columns=KIND_COLUMNS,
        things=sorting.sort(KIND_COLUMNS, found),
        key=lambda kind: kind.name,
        faint=lambda kind: not kind.sent_bytes and not kind.received_bytes,
        sorted_by=sorting.by,
        reverse=sorting.reverse,
    )


def program_key(program: api.Program) -> str:
    parts = (program.name, program.kind, program.executable, program.unit, program.container, program.task)
    return "\0".join((*parts, str(program.user_id)))


def _program_texts(program: api.Program) -> Iterable[str]:
    return program.name, program.executable, program.container, program.unit, program.task, program.traffic_class


def program_listing(programs: Iterable[api.Program], sorting: Sorting, wanted: str) -> Listing[api.Program]:
    found = matching(wanted, programs, _program_texts)
    found.sort(
        key=lambda program: (
            -program.sent_bit_s - program.received_bit_s,
            -program.sent_bytes - program.received_bytes,
            program.name,
        )
    )
    return Listing(
        columns=PROGRAM_COLUMNS,
        things=sorting.sort(PROGRAM_COLUMNS, found),
        key=program_key,
        faint=lambda program: not program.sent_bit_s and not program.received_bit_s,
        sorted_by=sorting.by,
        reverse=sorting.reverse,
    )


def kind_detail(kind: api.Kind, rules: Iterable[api.Rule]) -> list[Text]:
    least = f"; at least {rate_text(kind.minimum_bit_s, gap=' ')}bit/s" if kind.minimum_bit_s else ""
    waits = "can wait for a better moment" if kind.can_wait else "is never made to wait"
    lines = [
        line(
            (kind.name, STRONG),
            f"  {kind.title}" if kind.title else "",
            f"  worth {price_text(kind.worth_nanodollars_per_mb)} a GB",
        ),
        line(f"{state_text(kind)}; share {kind.weight:,} of a busy link beside the others{least}; {waits}"),
    ]
    if kind.reason:
        lines.append(line(("reason  ", FAINT), kind.reason))
    chosen = [rule for rule in rules if rule.kind == kind.name]
    lines += [line(("rule  ", FAINT), rule_text(rule)) for rule in chosen[:MOST_RULES]]
    if len(chosen) > MOST_RULES:
        lines.append(line((f"{several(len(chosen) - MOST_RULES, 'more rule')}", FAINT)))
    return lines


def rule_text(rule: api.Rule) -> str:
    return f"{rule.condition} ({rule.source}): {several(rule.flows, 'flow')}"


def program_detail(program: api.Program, worths: Iterable[api.Worth]) -> list[Text]:
    where = [program.executable, program.unit, program.container and f"container {program.container}"]
    where += [program.task and f"task {program.task}"]
    where += [f"user {program.user_id}" if program.user_id is not None else ""]
    sent = f"sent {several(program.sent_packets, 'packet')}, {bytes_text(program.sent_bytes)}"
    received = f"received {several(program.received_packets, 'packet')}, {bytes_text(program.received_bytes)}"
    lines = [
        line((program.name, STRONG), f"  {' · '.join(part for part in where if part)}"),
        line(f"{sent}; {received}, {program.received_ce_packets:,} of them with a congestion mark"),
    ]
    lines += [line(("your word  ", FAINT), word_text(worth)) for worth in worths if _is_about(worth, program)]
    lines.append(line(("decision  ", FAINT), program.decision or "none"))
    return lines


def _is_about(worth: api.Worth, program: api.Program) -> bool:
    return worth.program in (program.name, program.executable)


def word_text(worth: api.Worth) -> str:
    said = [f"as {worth.kind}" if worth.kind is not None else ""]
    said += [f"worth {price_text(worth.nanodollars_per_mb)} a GB" if worth.nanodollars_per_mb is not None else ""]
    left = TERMS[worth.term] if worth.seconds_left is None else f"for {duration_text(worth.seconds_left)} yet"
    return f"{', '.join(part for part in said if part) or 'as the table of kinds says'}, {left}"
