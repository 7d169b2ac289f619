"""What the user sees: the local API's snapshot, put together from the agent's parts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

import msgspec

from billpay.links import DifferenceLine, Direction
from billpay.money import show_nanodollars
from billpay.settlement import Standing
from dataplane.ceilings import Verdict
from dataplane.supervisor import Health
from hostagent import api
from hostagent.configuration import Configuration
from hostagent.desk import Refused
from hostagent.payments.flowbook import FlowBook, flow_text
from hostagent.payments.flows import Flow
from hostagent.payments.granting import Granting
from hostagent.payments.uplinks import Uplink, Uplinks
from hostagent.steering import Steering
from hostagent.traffic import TrafficView

NOT_MEASURED = Verdict()


@dataclass(frozen=True, slots=True, kw_only=True)
class PayingView:
    """What the paying part shows."""

    data_plane: Health
    flows: FlowBook
    uplinks: Uplinks
    counters: Mapping[str, int]
    granting: Granting


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeredView:
    """What the counting part shows beside the traffic itself. `trouble`: of its books."""

    steering: Steering
    networks: tuple[api.Network, ...]
    budgets: tuple[api.Budget, ...]
    trouble: str


def snapshot_of(
    configuration: Configuration,
    *,
    sequence: int,
    started_unix_s: int,
    now_ns: int,
    unix_s: int,
    paying: PayingView | None,
    traffic: TrafficView | None,
    steered: SteeredView | None = None,
    notices: tuple[api.Notice, ...] = (),
    usage: Verdict = NOT_MEASURED,
) -> api.Snapshot:
    flows = _paying_flows(paying, now_ns) if paying is not None else ()
    return api.Snapshot(
        sequence=sequence,
        unix_s=unix_s,
        status=_with_mode(
            _status(configuration, started_unix_s=started_unix_s, unix_s=unix_s, paying=paying, traffic=traffic),
            steered,
            usage,
            now_ns=now_ns,
            unix_s=unix_s,
        ),
        flows=traffic.name_flows(flows) if traffic is not None else flows,
        accounts=_accounts(paying.uplinks, paying.counters) if paying is not None else api.Accounts(links=()),
        paths=api.Paths(alternatives=_alternatives(paying.flows, now_ns) if paying is not None else ()),
        programs=traffic.programs if traffic is not None else (),
        links=traffic.links if traffic is not None else (),
        questions=traffic.questions if traffic is not None else (),
        kinds=steered.steering.view_kinds() if steered is not None else (),
        prices=steered.steering.view_prices() if steered is not None else (),
        networks=steered.networks if steered is not None else (),
        budgets=steered.budgets if steered is not None else (),
        worths=steered.steering.said.view() if steered is not None else (),
        rules=steered.steering.rules.view() if steered is not None else (),
        notices=notices,
    )


def _with_mode(
    status: api.Status, steered: SteeredView | None, usage: Verdict, *, now_ns: int, unix_s: int
) -> api.Status:
    if steered is None:
        return status
    network, mode = steered.steering.situation.primary, steered.steering.said.mode
    told = [("history", steered.trouble)] if steered.trouble else []
    warnings = (
        *status.warnings,
        *(api.Warning(code=code, message=line, since_unix_s=unix_s) for code, line in (*told, *usage.warnings)),
    )
    return msgspec.structs.replace(
        status,
        mode=mode.mode,
        trial_seconds_left=mode.seconds_left(now_ns),
        network=network.title if network is not None else "",
        cpu_ppm=usage.cpu_ppm,
        memory_bytes=usage.memory_bytes,
        warnings=warnings,
        health=api.Health.DEGRADED if warnings and status.health is api.Health.OK else status.health,
    )


def explain(snapshot: api.Snapshot, wanted: str) -> api.Why:
    """What decided about one flow: the one that is called so, or the busiest of those that `wanted` is a part of.

    Raises Refused.
    """
    flow = _find_flow(snapshot.flows, wanted)
    kind = next((each for each in snapshot.kinds if each.name == flow.traffic_class), None)
    network = next((each for each in snapshot.networks if each.title == flow.network), None)
    rules = [rule for rule in snapshot.rules if rule.kind == flow.traffic_class and _names(rule, flow)]
    lines = [("program", f"{flow.program or 'nobody knows whose it is'}{f', task {flow.task}' if flow.task else ''}")]
    if kind is not None:
        because = f"by {rules[0].source}: {rules[0].condition}" if rules else "no rule names it"
        lines.append(("kind", f"{kind.title} ({kind.name}), {because}"))
        lines.append(("worth", f"{show_nanodollars(kind.worth_nanodollars_per_mb * 1000)} a gigabyte"))
        lines.append(("share", f"weight {kind.weight} on a busy link; {kind.reason}"))
    for price in snapshot.prices:
        if network is None or price.interface == network.interface:
            cost = show_nanodollars(price.nanodollars_per_mb * 1000)
            lines.append(("price", f"{price.direction} on {price.interface}: {cost} a gigabyte; {price.reason}"))
    if network is not None:
        lines.append(("network", f"{network.title}; {_metered_text(network)}"))
    lines += [("budget", f"{budget.name}: {budget.reason}") for budget in snapshot.budgets if budget.reason]
    if flow.rule:
        lines.append(("payment", f"{flow.rule}: {show_nanodollars(flow.amount_nanodollars)} a packet; {flow.reason}"))
    else:
        lines.append(("payment", "nobody is paid for it"))
    if flow.path:
        lines.append(("path", flow.path))
    return api.Why(flow=flow.flow, lines=tuple(api.WhyLine(question=what, answer=text) for what, text in lines))


def _find_flow(flows: tuple[api.Flow, ...], wanted: str) -> api.Flow:
    exact = [flow for flow in flows if flow.flow == wanted]
    found = exact or [flow for flow in flows if wanted in flow.flow or wanted == flow.program]
    if not found:
        raise Refused("unknown-flow", f"no flow is called {wanted!r}: `hostagent flows` lists them")
    ends = {flow.flow for flow in found if flow.active} or {flow.flow for flow in found}
    if len(ends) > 1 and not all(flow.program == wanted for flow in found):
        raise Refused("unknown-flow", f"{len(ends)} flows are called {wanted!r}, as {found[0].flow}: say more of it")
    return max(found, key=lambda flow: (flow.active, flow.rate_bit_s + flow.received_bit_s, flow.bytes))


def _names(rule: api.Rule, flow: api.Flow) -> bool:
    """Whether a rule's condition is about the flow's program, or about no program at all."""
    parts = dict(part.split(" ", 1) for part in rule.condition.split(", ") if " " in part)
    program = parts.get("program", "").rpartition("/")[2]
    return program in ("", flow.program) and parts.get("task", flow.task) == flow.task


def _metered_text(network: api.Network) -> str:
    word = {True: "metered", False: "not metered", None: "whether it is metered is not known"}[network.metered]
    return f"{word}: {network.metered_because}" if network.metered_because else word


def _paying_flows(paying: PayingView, now_ns: int) -> tuple[api.Flow, ...]:
    flows = paying.flows.flows.values()
    shown = sorted(flows, key=lambda flow: (not flow.amount_nanodollars, -flow.rate_bit_s(now_ns)))
    return tuple(_flow(flow, paying.flows, now_ns) for flow in shown)


def _status(
    configuration: Configuration,
    *,
    started_unix_s: int,
    unix_s: int,
    paying: PayingView | None,
    traffic: TrafficView | None,
) -> api.Status:
    warnings = [*_paying_warnings(paying, unix_s), *(traffic.warnings(unix_s) if traffic is not None else ())]
    can_pay = (
        paying is not None
        and paying.data_plane is Health.RUNNING
        and any(uplink.agreed for uplink in paying.uplinks.by_name.values())
    )
    health = api.Health.UNPAID if paying is not None and not can_pay else api.Health.OK
    if health is api.Health.OK and warnings:
        health = api.Health.DEGRADED
    budget = paying.granting.budget if paying is not None else None
    return api.Status(
        name=configuration.agent.name,
        version=version("hostagent"),
        health=health,
        engine=traffic.engine if traffic is not None else "nfqueue",
        engine_reason=traffic.because if traffic is not None else "no [[links]] are configured: it only pays",
        limits=traffic.limits if traffic is not None else (),
        started_unix_s=started_unix_s,
        warnings=tuple(warnings),
        secretary=paying.granting.secretary_state if paying is not None else "none: no uplinks are configured",
        spent_today_nanodollars=_spent_today(paying) if paying is not None else 0,
        budget_today_nanodollars=budget.day_nanodollars if budget is not None else 0,
    )


def _spent_today(paying: PayingView) -> int:
    budget = paying.granting.budget
    open_grants = sum(flow.report.spent_nanodollars for flow in paying.flows.flows.values() if flow.grant is not None)
    return (budget.spent_today_nanodollars if budget is not None else 0) + open_grants


def _paying_warnings(paying: PayingView | None, unix_s: int) -> list[api.Warning]:
    if paying is None:
        return []
    warnings = []
    if paying.data_plane is not Health.RUNNING:
        message = f"packets pass unpaid: {paying.data_plane.value}"
        warnings.append(api.Warning(code="data-plane", message=message, since_unix_s=unix_s))
    if paying.granting.secretary_state != "connected":
        warnings.append(api.Warning(code="secretary", message=paying.granting.secretary_state, since_unix_s=unix_s))
    for uplink in paying.uplinks.by_name.values():
        if not uplink.agreed:
            message = f"{uplink.name}: {uplink.state}"
            warnings.append(api.Warning(code="no-agreement", message=message, since_unix_s=unix_s))
    return warnings


def _flow(flow: Flow, book: FlowBook, now_ns: int) -> api.Flow:
    opposite = book.opposite(flow)
    echo = flow.far_end.echo
    return api.Flow(
        flow=flow_text(flow.selector),
        rule=flow.rule,
        strategy=flow.strategy,
        rate_bit_s=flow.rate_bit_s(now_ns),
        packets=flow.report.out_packets,
        bytes=flow.report.out_bytes,
        amount_nanodollars=flow.amount_nanodollars,
        toll_nanodollars=flow.far_end.toll_nanodollars,
        spent_nanodollars=flow.report.spent_nanodollars + flow.report.sent_returned_nanodollars,
        returned_nanodollars=flow.report.refunded_nanodollars,
        goodput_bit_s=flow.far_end.goodput_bit_s(),
        marks=echo.ce_packets if echo is not None else opposite.in_ce_packets if opposite is not None else 0,
        path=flow.path,
        reason=flow.reason,
        active=flow.is_active(now_ns),
    )


def _accounts(uplinks: Uplinks, counters: Mapping[str, int]) -> api.Accounts:
    received = sum(_count(counters, name, "received_nanodollars") for name in uplinks.by_name)
    share, refunded, returned, unreturned = (
        counters.get(f"{name}_nanodollars", 0) for name in ("share", "refunded", "returned", "unreturned")
    )
    return api.Accounts(
        links=tuple(_link(uplink, counters) for uplink in uplinks.by_name.values()),
        losses=tuple(line for uplink in uplinks.by_name.values() for line in _losses(uplink)),
        settlements=tuple(line for uplink in uplinks.by_name.values() for line in _settlements(uplink)),
        share_nanodollars=share,
        refunded_nanodollars=refunded,
        returned_nanodollars=returned,
        kept_nanodollars=unreturned,
        in_hand_nanodollars=received - share - refunded - returned - unreturned,
    )


def _count(counters: Mapping[str, int], uplink: str, name: str) -> int:
    return counters.get(f"link/{uplink}/{name}", 0)


def _link(uplink: Uplink, counters: Mapping[str, int]) -> api.LinkAccount:
    account = uplink.exchange.status() if uplink.exchange is not None else None
    peer = account.peer if account is not None else None
    in_default = account is not None and account.standing is Standing.IN_DEFAULT
    return api.LinkAccount(
        neighbour=uplink.section.gateway_name or uplink.name,
        interface=uplink.section.interface,
        state="in default" if in_default else uplink.state,
        fingerprint=uplink.certificate.fingerprint,
        sent_nanodollars=_count(counters, uplink.name, "sent_nanodollars"),
        received_nanodollars=_count(counters, uplink.name, "received_nanodollars"),
        sent_packets=_count(counters, uplink.name, "sent_packets"),
        received_packets=_count(counters, uplink.name, "received_packets"),
        peer_received_nanodollars=peer.received_nanodollars if peer is not None else None,
        peer_sent_nanodollars=peer.sent_nanodollars if peer is not None else None,
        lost_nanodollars=account.loss_nanodollars if account is not None else 0,
        owed_nanodollars=account.net_owed_nanodollars if account is not None else 0,
        settled_nanodollars=account.settled_by_us if account is not None else 0,
        settlements=len(account.paid) if account is not None else 0,
        last_interval=account.last_interval if account is not None else 0,
        agrees=account.agrees if account is not None else True,
    )


def _losses(uplink: Uplink) -> list[api.LossLine]:
    if uplink.exchange is None:
        return []
    return [_loss(uplink.name, line) for line in uplink.exchange.status().lines]


def _loss(link: str, line: DifferenceLine) -> api.LossLine:
    return api.LossLine(
        link=link,
        direction="out" if line.direction is Direction.FORWARD else "in",
        interval=line.interval,
        nanodollars=line.nanodollars,
        kind=line.kind.value,
    )


def _settlements(uplink: Uplink) -> list[api.SettlementLine]:
    if uplink.exchange is None:
        return []
    us = uplink.exchange.parties.us
    return [
        api.SettlementLine(
            link=uplink.name,
            number=order.number,
            debtor="us" if order.debtor == us else "peer",
            nanodollars=order.amount_nanodollars,
            reason=order.reason,
        )
        for order in uplink.exchange.status().paid
    ]


def _alternatives(flows: FlowBook, now_ns: int) -> tuple[api.PathAlternative, ...]:
    return tuple(
        api.PathAlternative(
            destination=fact.destination,
            as_name=f"AS{fact.as_number}",
            alternative=fact.alternative,
            chosen=fact.chosen,
            toll_nanodollars=fact.toll_nanodollars,
            delay_ns=fact.delay_ns,
            age_s=fact.age_s,
            reason=fact.reason,
        )
        for fact in flows.cartographer.view(now_ns)
    )
