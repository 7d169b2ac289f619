"""What the user sees: the local API's snapshot, put together from the agent's parts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

import msgspec

from dataplane.ceilings import Verdict
from hostagent import api
from hostagent.configuration import Configuration
from hostagent.steering import Steering
from hostagent.traffic import TrafficView

NOT_MEASURED = Verdict()
NOTHING_KNOWN = api.Paths()


@dataclass(frozen=True, slots=True, kw_only=True)
class PaidView:
    """What the paying part shows."""

    flows: tuple[api.Flow, ...]
    accounts: api.Accounts
    warnings: tuple[api.Warning, ...]
    can_pay: bool
    secretary: str
    spent_today_nanodollars: int
    budget_today_nanodollars: int
    budgets: tuple[api.Budget, ...] = ()
    questions: int = 0
    secretary_socket: str = ""
    engine: str = ""
    engine_reason: str = ""


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
    paid: PaidView | None,
    traffic: TrafficView | None,
    steered: SteeredView | None = None,
    notices: tuple[api.Notice, ...] = (),
    usage: Verdict = NOT_MEASURED,
    sessions: tuple[api.Session, ...] = (),
    paths: api.Paths = NOTHING_KNOWN,
) -> api.Snapshot:
    flows = paid.flows if paid is not None else ()
    return api.Snapshot(
        sequence=sequence,
        unix_s=unix_s,
        status=_with_mode(
            _status(configuration, started_unix_s=started_unix_s, unix_s=unix_s, paid=paid, traffic=traffic),
            steered,
            usage,
            now_ns=now_ns,
            unix_s=unix_s,
        ),
        flows=traffic.name_flows(flows) if traffic is not None else flows,
        accounts=paid.accounts if paid is not None else api.Accounts(links=()),
        paths=paths,
        programs=traffic.programs if traffic is not None else (),
        links=_with_rates(traffic.links, steered) if traffic is not None else (),
        questions=traffic.questions if traffic is not None else (),
        kinds=steered.steering.view_kinds() if steered is not None else (),
        prices=steered.steering.view_prices() if steered is not None else (),
        networks=steered.networks if steered is not None else (),
        budgets=(*(steered.budgets if steered is not None else ()), *(paid.budgets if paid is not None else ())),
        worths=steered.steering.said.view() if steered is not None else (),
        rules=steered.steering.rules.view() if steered is not None else (),
        notices=notices,
        sessions=sessions,
    )


def _with_rates(links: tuple[api.Link, ...], steered: SteeredView | None) -> tuple[api.Link, ...]:
    """What each would be shaped to, or is."""
    shaped = {link.interface: link.shaped for link in steered.steering.links} if steered is not None else {}
    return tuple(
        msgspec.structs.replace(link, egress_bit_s=to.egress_bit_s, ingress_bit_s=to.ingress_bit_s)
        if (to := shaped.get(link.interface)) is not None
        else link
        for link in links
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


def _status(
    configuration: Configuration,
    *,
    started_unix_s: int,
    unix_s: int,
    paid: PaidView | None,
    traffic: TrafficView | None,
) -> api.Status:
    warnings = [
        *(paid.warnings if paid is not None else ()),
        *(traffic.warnings(unix_s) if traffic is not None else ()),
    ]
    health = api.Health.UNPAID if paid is not None and not paid.can_pay else api.Health.OK
    if health is api.Health.OK and warnings:
        health = api.Health.DEGRADED
    return api.Status(
        name=configuration.agent.name,
        version=version("hostagent"),
        health=health,
        engine=traffic.engine if traffic is not None else "nfqueue",
        engine_reason=traffic.because if traffic is not None else "no [[links]] are configured: it only pays",
        limits=traffic.limits if traffic is not None else (),
        started_unix_s=started_unix_s,
        warnings=tuple(warnings),
        secretary=paid.secretary if paid is not None else "none: no uplinks are configured",
        spent_today_nanodollars=paid.spent_today_nanodollars if paid is not None else 0,
        budget_today_nanodollars=paid.budget_today_nanodollars if paid is not None else 0,
        secretary_questions=paid.questions if paid is not None else 0,
        secretary_socket=paid.secretary_socket if paid is not None else "",
        payments_engine=paid.engine if paid is not None else "",
        payments_engine_reason=paid.engine_reason if paid is not None else "",
    )
