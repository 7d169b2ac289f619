"""What people see of payments: flows that pay, accounts with neighbours, alternatives of paths. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from billpay.links import DifferenceLine, Direction
from billpay.money import show_nanodollars
from billpay.settlement import Standing
from dataplane.payment_engines import PaymentChoice
from dataplane.supervisor import Health
from hostagent import api
from hostagent.payments.flowbook import FlowBook, flow_text
from hostagent.payments.flows import Flow
from hostagent.payments.granting import Granting
from hostagent.payments.telling import MONEY_IS_OUT
from hostagent.payments.uplinks import Uplink, Uplinks
from hostagent.views import PaidView
from secretary.messages import BudgetLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Paying:
    """The parts that are looked at."""

    data_plane: Health
    engine: PaymentChoice | None
    flows: FlowBook
    uplinks: Uplinks
    counters: Mapping[str, int]
    granting: Granting
    secretary_socket: str = ""


def view_of(paying: Paying, *, now_ns: int, unix_s: int) -> PaidView:
    budget = paying.granting.budget
    return PaidView(
        flows=_paying_flows(paying, now_ns),
        accounts=_accounts(paying.uplinks, paying.counters),
        warnings=tuple(_warnings(paying, unix_s)),
        can_pay=(
            paying.data_plane is Health.RUNNING and any(uplink.agreed for uplink in paying.uplinks.by_name.values())
        ),
        secretary=paying.granting.secretary_state,
        spent_today_nanodollars=_spent_today(paying),
        budget_today_nanodollars=budget.day_nanodollars if budget is not None else 0,
        budgets=tuple(_budget(line) for line in budget.lines) if budget is not None else (),
        questions=budget.questions if budget is not None else 0,
        secretary_socket=paying.secretary_socket,
        engine=paying.engine.engine.value if paying.engine is not None else "",
        engine_reason=paying.engine.reason if paying.engine is not None else "not started yet",
    )


def _budget(line: BudgetLine) -> api.Budget:
    """Money of grants: what is promised to open ones counts as used, for it may be."""
    return api.Budget(
        name=line.name if line.scope == "all" else f"{line.name} ({line.scope})",
        unit="nanodollars",
        period=line.period,
        limit=line.limit_nanodollars,
        used=line.spent_nanodollars,
        resets_unix_s=line.resets_unix_s,
        hard=line.hard,
        burn_per_day=line.burn_nanodollars_per_day,
        forecast=line.forecast_nanodollars,
        noticed_percent=line.noticed_percent,
        reason=f"{line.reason}; {show_nanodollars(line.reserved_nanodollars)} promised to open grants",
    )


def _paying_flows(paying: Paying, now_ns: int) -> tuple[api.Flow, ...]:
    flows = paying.flows.flows.values()
    shown = sorted(flows, key=lambda flow: (not flow.amount_nanodollars, -flow.rate_bit_s(now_ns)))
    return tuple(_flow(flow, paying.flows, now_ns) for flow in shown)


def _spent_today(paying: Paying) -> int:
    budget = paying.granting.budget
    untold = sum(flow.untold_nanodollars for flow in paying.flows.flows.values())
    return (budget.spent_today_nanodollars if budget is not None else 0) + untold


def out_of_money(book: FlowBook) -> str:
    """What a person has to know when flows go unpaid for want of money; "": there is some."""
    out = [flow for flow in book.flows.values() if flow.is_out_of_money and (flow.grant is None or flow.is_used_up)]
    if not out:
        return ""
    flows = "1 flow goes" if len(out) == 1 else f"{len(out)} flows go"
    return f"{flows} on without payment, slower where the network is full: {out[0].refusal}"


def _warnings(paying: Paying, unix_s: int) -> list[api.Warning]:
    warnings = []
    if paying.data_plane is not Health.RUNNING:
        message = f"packets pass unpaid: {paying.data_plane.value}"
        warnings.append(api.Warning(code="data-plane", message=message, since_unix_s=unix_s))
    if paying.granting.secretary_state != "connected":
        warnings.append(api.Warning(code="secretary", message=paying.granting.secretary_state, since_unix_s=unix_s))
    out = out_of_money(paying.flows)
    if out:
        warnings.append(api.Warning(code=MONEY_IS_OUT, message=out, since_unix_s=unix_s))
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
