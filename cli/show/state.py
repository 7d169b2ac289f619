"""The agent itself, the networks it is on, its rules, paths and questions.

Decides: what a person sees first. Refuses to know: how a table is laid out (`cli.show.text`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cli.show.text import (
    Grid,
    bit_rate,
    facts,
    moment,
    money,
    per_gb,
    size,
    span,
    write,
    write_or,
)
from hostagent import api

MODES = {
    api.Mode.OBSERVE: "observes: counts, and says what it would do",
    api.Mode.TRIAL: "acts on trial",
    api.Mode.ACT: "acts",
}
FINGERPRINT_CHARACTERS = 16


def show_status(status: api.Status, unix_s: int | None = None) -> None:
    write(facts(_status_facts(status, unix_s)))


def _status_facts(status: api.Status, unix_s: int | None) -> Iterator[tuple[str, str]]:
    yield "agent", f"{status.name} {status.version}"
    if unix_s is not None:
        yield "up for", span(max(0, unix_s - status.started_unix_s))
    yield "mode", mode_text(status)
    yield "health", status.health.value
    if status.network:
        yield "network", status.network
    yield "engine", status.engine_reason or status.engine
    if status.payments_engine_reason:
        yield "payments", status.payments_engine_reason
    for limit in status.limits:
        yield "", f"cannot {limit.ability}: {limit.cause}"
    yield "secretary", secretary_text(status)
    spent, budget = status.spent_today_nanodollars, status.budget_today_nanodollars
    yield "spent today", f"{money(spent)} of {money(budget)}" if budget else money(spent)
    if status.memory_bytes:
        yield "uses", f"{status.cpu_ppm / 10_000:.1f} % of a core, {size(status.memory_bytes)}"
    for warning in status.warnings:
        yield warning.code, warning.message


def secretary_text(status: api.Status) -> str:
    """Whether it answers; how many questions wait there, and where a person answers them."""
    count = status.secretary_questions
    if not count:
        return status.secretary
    where = f" --socket {status.secretary_socket}" if status.secretary_socket else ""
    waits = "1 question waits" if count == 1 else f"{count} questions wait"
    return f"{status.secretary}; {waits}: hostagent secretary inbox{where}"


def mode_text(status: api.Status) -> str:
    text = MODES[status.mode]
    if status.mode is api.Mode.TRIAL and status.trial_seconds_left is not None:
        text += f": observes again in {span(status.trial_seconds_left)} unless you say `hostagent confirm`"
    return text


def show_networks(networks: Sequence[api.Network]) -> None:
    """Those that the host is on first, each with what prices it."""
    if not networks:
        write("no networks: this host has no default route, and had none yet")
        return
    for number, each in enumerate(sorted(networks, key=lambda each: (not each.active, -each.last_seen_unix_s))):
        write(*([""] if number else []), facts(_network_facts(each)))


def _network_facts(network: api.Network) -> Iterator[tuple[str, str]]:
    yield ("now on" if network.active else "was on"), network.title
    if not network.active:
        yield "last seen", moment(network.last_seen_unix_s)
    yield "interface", f"{network.interface} ({network.kind}), connectivity {network.connectivity}"
    metered = {None: "", True: "yes", False: "no"}[network.metered]
    yield "metered", ": ".join(part for part in (metered, network.metered_because) if part) or "not known"
    if network.egress_bit_s is None and network.ingress_bit_s is None:
        yield "rate", "not known"
    else:
        yield (
            "rate",
            f"{bit_rate(network.egress_bit_s)} out, {bit_rate(network.ingress_bit_s)} in ({network.rate_source})",
        )
    if network.tariff:
        yield "tariff", network.tariff
    if (gateway := network.gateway) is not None:
        yield "gateway", " ".join(part for part in (gateway.kind, gateway.name, gateway.url) if part)
        if gateway.state:
            yield "", gateway.state
        if gateway.trust not in ("", "own"):
            yield "", f"trust: {gateway.trust}; fingerprint {gateway.fingerprint}"
        if gateway.trust in ("new", "changed"):
            yield "", f"compare the fingerprint, then: hostagent trust {gateway.fingerprint[:FINGERPRINT_CHARACTERS]}"


def show_rules(rules: Sequence[api.Rule]) -> None:
    grid = Grid(">no.", "by", "kind", ">flows", "|when")
    for each in rules:
        grid.add(str(each.number), each.source, each.kind, str(each.flows), each.condition)
    write_or(grid, "no rules: everything is of the kind default")


def show_questions(questions: Sequence[api.Question]) -> None:
    grid = Grid(">no.", "program", "flow", "kind", ">goes on in")
    for each in questions:
        grid.add(str(each.number), each.program, each.flow, each.traffic_class, f"{each.seconds_left} s")
    write_or(grid, "no questions")
    if grid:
        write("answer one with: hostagent answer NUMBER yes|no --for always")


def show_worths(worths: Sequence[api.Worth]) -> None:
    grid = Grid("program", "kind", ">worth", "for", ">ends in")
    for each in worths:
        left = "" if each.seconds_left is None else span(each.seconds_left)
        grid.add(each.program, each.kind or "", per_gb(each.nanodollars_per_mb), each.term.value, left)
    write_or(grid, "nobody said anything of any program; `hostagent kinds` shows what the table of kinds says")


def show_prices(prices: Sequence[api.Price]) -> None:
    grid = Grid("link", "direction", ">a GB costs now", ">used", "by", "|why")
    for each in prices:
        used = "" if each.used_ppm is None else f"{each.used_ppm // 10_000} %"
        cost = per_gb(each.nanodollars_per_mb) if each.nanodollars_per_mb else "0"
        grid.add(each.interface, each.direction, cost, used, each.source, each.reason)
    write_or(grid, "no prices: no link is counted")


def show_notices(notices: Sequence[api.Notice]) -> None:
    grid = Grid("when", "what", "|")
    for each in notices:
        grid.add(moment(each.unix_s), each.code, each.message)
    write_or(grid, "no notices")
