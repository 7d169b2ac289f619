"""What decided about one flow, in lines for a person. Pure: out of a snapshot."""

from __future__ import annotations

from billpay.money import show_nanodollars
from hostagent import api
from hostagent.desk import Refused


def explain(snapshot: api.Snapshot, flow: api.Flow, rule: api.Rule | None) -> api.Why:
    """`rule`: that put the flow into its class; None: none did."""
    kind = next((each for each in snapshot.kinds if each.name == flow.traffic_class), None)
    network = next((each for each in snapshot.networks if each.title == flow.network), None)
    lines = [("program", f"{flow.program or 'nobody knows whose it is'}{f', task {flow.task}' if flow.task else ''}")]
    if kind is not None:
        because = f"by {rule.source}: {rule.condition}" if rule is not None else "no rule names it"
        lines.append(("kind", f"{kind.title} ({kind.name}), {because}"))
        lines.append(("worth", f"{show_nanodollars(kind.worth_nanodollars_per_mb * 1000)} a gigabyte"))
        lines.append(("share", f"weight {kind.weight} on a busy link; {kind.reason}"))
    for price in snapshot.prices:
        if network is None or price.interface == network.interface:
            cost = show_nanodollars(price.nanodollars_per_mb * 1000)
            by = f"{price.direction} on {price.interface} by the {price.source}"
            lines.append(("price", f"{by}: {cost} a gigabyte; {price.reason}"))
    if network is not None:
        lines.append(("network", f"{network.title}; {_metered_text(network)}"))
    lines += [("budget", f"{budget.name}: {budget.reason}") for budget in snapshot.budgets if budget.reason]
    lines += [("session", _session_text(session)) for session in snapshot.sessions if session.flow == flow.flow]
    if flow.rule:
        lines.append(("payment", f"{flow.rule}: {show_nanodollars(flow.amount_nanodollars)} a packet; {flow.reason}"))
    else:
        lines.append(("payment", "nobody is paid for it"))
    if flow.path:
        lines.append(("path", flow.path))
    return api.Why(flow=flow.flow, lines=tuple(api.WhyLine(question=what, answer=text) for what, text in lines))


def find_flow(flows: tuple[api.Flow, ...], wanted: str) -> api.Flow:
    """The one that is called so, or the busiest of those that `wanted` is a part of. Raises Refused."""
    exact = [flow for flow in flows if flow.flow == wanted]
    found = exact or [flow for flow in flows if wanted in flow.flow or wanted == flow.program]
    if not found:
        raise Refused("unknown-flow", f"no flow is called {wanted!r}: `hostagent flows` lists them")
    ends = {flow.flow for flow in found if flow.active} or {flow.flow for flow in found}
    if len(ends) > 1 and not all(flow.program == wanted for flow in found):
        raise Refused("unknown-flow", f"{len(ends)} flows are called {wanted!r}, as {found[0].flow}: say more of it")
    return max(found, key=lambda flow: (flow.active, flow.rate_bit_s + flow.received_bit_s, flow.bytes))


def _metered_text(network: api.Network) -> str:
    word = {True: "metered", False: "not metered", None: "whether it is metered is not known"}[network.metered]
    return f"{word}: {network.metered_because}" if network.metered_because else word


def _session_text(session: api.Session) -> str:
    """It paces the flow, whatever its share would be."""
    target = "no target" if session.target_bit_s is None else f"target {session.target_bit_s} bit/s"
    by = f"task {session.task}" if session.pays else "the far end, which pays"
    return f"by {by}: {session.verdict}, {target}; {session.reason}"
