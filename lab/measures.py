"""From tallies and books to the numbers of a report: what each link carried, what a packet's money did, what is
unexplained.

Decides: which differences are explained.  Refuses to know: how tallies and books were taken.  Pure.

On one direction of a link money can only become less: counted by the payer ≥ sent ≥ received ≥ counted by the payee.
The first step down needs drops of the sender's queue, the others a lossy wire or a payee that was down; the whole of
it must be what the books name as link loss. Inside a gateway: received = sent + retained + kept. Inside a host:
received = share + returned + refunded + in hand + kept, nothing of it below 0. Everything else is `conservation
error`. Source: Bill-Pay 1.1 (Figure 1), 2.3 (two counters); ARCHITECTURE, "what is counted where"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from lab.books import LossLine, NodeBooks
from lab.plan import Plan, next_hops
from lab.report import BalanceResult, ExchangeResult, FollowedPacket, LinkResult, NodeResult
from lab.taps import EndReport, TapReport
from lab.topology import NodeKind, Scenario
from lab.traffic import Counted

Hop = tuple[str, str]
_GROWING = ("loss", "withdrawn")  # by these kinds of lines sent − received grows; by the others it shrinks


def payment_links(scenario: Scenario) -> list[Hop]:
    """Every direction in which money can flow, the figure's own hops first, then in file order."""
    paying = (NodeKind.HOST, NodeKind.ISP)
    pairs = [link.ends for link in scenario.links if all(scenario.node(name).kind in paying for name in link.ends)]
    pairs += [tunnel.ends for tunnel in scenario.tunnels]
    both = [hop for one, other in pairs for hop in ((one, other), (other, one))]
    path = list(pairwise(scenario.figure))
    first = [hop for hop in path if hop in both]
    return list(dict.fromkeys([*first, *both]))


def cable_label(one: str, other: str, at: str) -> str:
    return f"{one}-{other}@{at}"


class Tallies:
    """The taps' report, by hop. A tunnel is watched where its two gateways' own cables are."""

    def __init__(self, plan: Plan, report: TapReport) -> None:
        self._plan = plan
        self._ends: dict[tuple[str, str], EndReport] = {}
        by_label = {end.label: end for end in report.ends}
        for cable in plan.cables:
            one, other = (end.node for end in cable.ends)
            for at, towards in ((one, other), (other, one)):
                label = cable_label(one, other, at)
                if label in by_label:
                    self._ends[at, towards] = by_label[label]
        self.drops = sum(end.dropped for end in report.ends)

    def ends(self) -> Iterable[tuple[Hop, EndReport]]:
        """All watched ends of cables, as (node, neighbour)."""
        return self._ends.items()

    def at(self, node: str, towards: str) -> EndReport | None:
        """What was seen at `node`'s end of its cable (the first of the way, for a tunnel) towards another node."""
        direct = self._ends.get((node, towards))
        if direct is not None:
            return direct
        via = tunnel_way(self._plan.scenario, node, towards)
        return self._ends.get((node, via)) if via else None


def tunnel_way(scenario: Scenario, node: str, peer: str) -> str | None:
    """The neighbour by which a tunnel between `node` and `peer` leaves `node`."""
    if any({node, peer} == set(tunnel.ends) for tunnel in scenario.tunnels):
        return next_hops(scenario, node).get(peer)
    return None


def link_results(
    scenario: Scenario, tallies: Tallies, books: Mapping[str, NodeBooks], queue_drops: Mapping[Hop, int]
) -> list[LinkResult]:
    results = []
    for sender, receiver in payment_links(scenario):
        out, into = tallies.at(sender, receiver), tallies.at(receiver, sender)
        results.append(
            LinkResult(
                sender=sender,
                receiver=receiver,
                sent_nanodollars=out.sent.nanodollars if out else 0,
                received_nanodollars=into.received.nanodollars if into else 0,
                counted_by_from=_counted(books, sender, receiver, sent=True),
                counted_by_to=_counted(books, receiver, sender, sent=False),
                packets=out.sent.packets if out else 0,
                passed_packets=out.sent.passed_packets if out else 0,
                queue_drops=queue_drops.get((sender, receiver), 0),
            )
        )
    return results


def _counted(books: Mapping[str, NodeBooks], node: str, peer: str, *, sent: bool) -> int | None:
    if node not in books:
        return None
    for link in books[node].links:
        if link.peer == peer:
            return link.sent_nanodollars if sent else link.received_nanodollars
    return None


def named_losses(books: Mapping[str, NodeBooks]) -> list[LossLine]:
    """Every loss once, though both neighbours name it."""
    lines: dict[tuple[str, str, int, str], LossLine] = {}
    for node in books.values():
        for line in node.losses:
            key = (line.sender, line.receiver, line.interval, line.kind)
            if key not in lines or line.nanodollars > lines[key].nanodollars:
                lines[key] = line
    return sorted(lines.values(), key=lambda line: (line.interval, line.sender, line.receiver))


def unexplained(
    links: Iterable[LinkResult], losses: Iterable[LossLine], books: Mapping[str, NodeBooks]
) -> dict[str, int]:
    """Nanodollars that neither the wire nor a named loss explains, by link and by node; empty: none is missing."""
    named: Counter[Hop] = Counter()
    for line in losses:
        grows = line.kind in _GROWING
        named[line.sender, line.receiver] += line.nanodollars if grows else -line.nanodollars
    errors = {
        link_text(link.sender, link.receiver): _link_error(link, named[link.sender, link.receiver]) for link in links
    }
    errors |= {node.node: _node_error(node) for node in books.values()}
    return {where: error for where, error in errors.items() if error}


def _node_error(node: NodeBooks) -> int:
    """What a node's own books do not explain."""
    if node.is_gateway:
        inside = node.received_nanodollars - node.sent_nanodollars
        return abs(inside - node.retained_nanodollars - node.kept_nanodollars)
    used = node.retained_nanodollars + node.returned_nanodollars + node.refunded_nanodollars
    used += node.in_hand_nanodollars + node.kept_nanodollars
    too_little = min(0, node.in_hand_nanodollars) + min(0, node.sent_nanodollars - node.returned_nanodollars)
    return abs(node.received_nanodollars - used) - too_little


def _link_error(link: LinkResult, named_loss: int) -> int:
    """A neighbour without books counts as one that counted nothing."""
    counted_by_from, counted_by_to = link.counted_by_from or 0, link.counted_by_to or 0
    steps = (
        counted_by_from - link.sent_nanodollars,
        link.sent_nanodollars - link.received_nanodollars,
        link.received_nanodollars - counted_by_to,
    )
    error = abs(counted_by_from - counted_by_to - named_loss)
    error += sum(-step for step in steps if step < 0)
    if steps[0] > 0 and not link.queue_drops:
        error += steps[0]
    return error


def node_results(books: Mapping[str, NodeBooks]) -> list[NodeResult]:
    return [
        NodeResult(
            node=node.node,
            received_nanodollars=node.received_nanodollars,
            sent_nanodollars=node.sent_nanodollars,
            retained_nanodollars=node.retained_nanodollars,
            kept_nanodollars=node.kept_nanodollars,
            in_hand_nanodollars=node.in_hand_nanodollars,
            refunded_nanodollars=node.refunded_nanodollars,
            statements_agree=node.statements_agree,
        )
        for node in books.values()
    ]


def balances(links: Sequence[LinkResult]) -> list[BalanceResult]:
    """Net debts of neighbours; of the two counters of a direction the smaller one is owed."""
    owed: Counter[Hop] = Counter()
    for link in links:
        counts = [count for count in (link.counted_by_from, link.counted_by_to) if count is not None]
        if counts:
            owed[link.sender, link.receiver] = min(counts)
    net = []
    for (debtor, creditor), amount in owed.items():
        difference = amount - owed.get((creditor, debtor), 0)
        if difference > 0:
            net.append(BalanceResult(debtor=debtor, creditor=creditor, nanodollars=difference))
    return net


def exchange_result(
    name: str, stream: int, figure: Sequence[str], tallies: Tallies, counted: Counted
) -> ExchangeResult:
    """What the numbered packets of one exchange carried over the figure's links."""
    path = list(pairwise(figure))
    seen: list[dict[int, int]] = []
    for sender, receiver in path:
        end = tallies.at(sender, receiver)
        followed = end.sent.followed if end else ()
        seen.append({sequence: amount for number, sequence, amount in followed if number == stream})
    complete = set(seen[0]).intersection(*seen[1:]) if seen else set()
    amounts = Counter(tuple(link[sequence] for link in seen) for sequence in complete)
    most = amounts.most_common(1)
    return ExchangeResult(
        name=name,
        sent=counted.sent,
        answered=counted.received,
        median_us=counted.median_us,
        crossings=_crossings(stream, tallies),
        seen_on_all_links=len(complete),
        packet=followed_packet(figure, most[0][0]) if most else None,
        like_it=most[0][1] if most else 0,
    )


def _crossings(stream: int, tallies: Tallies) -> dict[str, int]:
    """How many numbered packets of a stream left over each link with a header."""
    counts = {}
    for (sender, receiver), end in tallies.ends():
        count = sum(number == stream for number, _, _ in end.sent.followed)
        if count:
            counts[link_text(sender, receiver)] = count
    return counts


def link_text(sender: str, receiver: str) -> str:
    return f"{sender}→{receiver}"


def followed_packet(figure: Sequence[str], amounts: tuple[int, ...]) -> FollowedPacket:
    """Who kept what of it: the difference between the two links around each node on the way."""
    retained: Counter[str] = Counter()
    for node, before, after in zip(figure[1:-1], amounts, amounts[1:], strict=False):
        retained[node] += before - after
    return FollowedPacket(
        amounts_nanodollars=amounts, retained=dict(retained), owed=amounts[0] - amounts[-1], payer=figure[0]
    )
