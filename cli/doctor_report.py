"""The report of `hostagent doctor`: as a value, as JSON (docs/spec/doctor.md), and as tables for people.

Decides: what a person sees in which order. Refuses to know: how anything is found out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from dataplane.diagnosis.conflicts import Conflict, Together
from dataplane.diagnosis.engine_choice import EngineChoice, Outlook, payment_faults
from dataplane.diagnosis.features import Feature, State
from dataplane.host_engine import EngineName
from dataplane.payment_engines import choose as choose_payments


class RejectedEngine(msgspec.Struct, frozen=True, kw_only=True):
    engine: EngineName
    why: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`engine` None: the agent cannot work here. `payments`: what will treat packets that pay, and why."""

    engine: EngineName | None
    because: str
    rejected: tuple[RejectedEngine, ...]
    abilities: tuple[Outlook, ...]
    features: tuple[Feature, ...]
    conflicts: tuple[Conflict, ...]
    payments: str = ""


def report_of(choice: EngineChoice, features: tuple[Feature, ...], conflicts: tuple[Conflict, ...]) -> Report:
    return Report(
        engine=choice.engine,
        because=choice.because,
        rejected=tuple(RejectedEngine(engine=engine, why=why) for engine, why in choice.rejected),
        abilities=choice.abilities,
        features=features,
        conflicts=conflicts,
        payments=_payments(choice, payment_faults(features)),
    )


def _payments(choice: EngineChoice, faults: Sequence[str]) -> str:
    """A packet queue is there for payments where it is for the rest."""
    if faults and any(engine is EngineName.NFQUEUE for engine, _ in choice.rejected):
        return f"none; not ebpf: {'; '.join(faults)}"
    return choose_payments("auto", faults).reason


def show(report: Report, console: Console) -> None:
    """Four parts: the engine, what will work, what the machine has, who else is there."""
    console.print(f"engine: {report.engine or 'none'} ({report.because})")
    for rejected in report.rejected:
        console.print(f"not {rejected.engine}: {rejected.why}")
    console.print(f"payments: {report.payments}")
    for part in _parts(report):
        console.print()
        console.print(part)


def _parts(report: Report) -> Iterator[Table | str]:
    if report.abilities:
        yield _table(
            ("what will work", "how, or why not"),
            ((each.ability, "yes" if each.works else "no", each.how, "") for each in report.abilities),
        )
    # What does not work comes last, where a person looks.
    ordered = sorted(report.features, key=lambda each: list(State).index(each.state))
    yield _table(
        ("this machine", "what was found, and what to do"),
        ((each.name, each.state, each.detail, each.remedy) for each in ordered),
    )
    if not report.conflicts:
        yield "nothing else here touches what the agent touches"
        return
    yield _table(
        ("others here", "what it means, and what to do"),
        ((each.what, _TOGETHER[each.together], each.consequence, each.remedy) for each in report.conflicts),
    )


def _table(heads: tuple[str, str], rows: Iterable[tuple[str, str, str, str]]) -> Table:
    """Three columns, so that 80 characters are enough: what to do stands below what was found."""
    table = Table(heads[0], "", heads[1], box=None)
    for what, state, found, remedy in rows:
        table.add_row(what, state, f"{found}\n→ {remedy}" if remedy else found)
    return table


_TOGETHER = {
    Together.YES: "works together",
    Together.PARTLY: "works in part",
    Together.NO: "DOES NOT WORK",
    Together.UNKNOWN: "not known",
}
