"""What the books of a small lab have to say after payments, and how a test waits for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise

from real_gateway import children_of, wait_until
from small_lab import SmallLab

from lab.audit import ask_agent
from lab.books import NodeBooks
from lab.measures import named_losses, unexplained
from lab.report import LinkResult

HOPS = [*pairwise("AXB"), *pairwise("BXA")]


def errors_in(books: Mapping[str, NodeBooks]) -> dict[str, int]:
    """By the books alone: what no named loss explains."""
    counts = {(link.node, link.peer): link for node in books.values() for link in node.links}
    links = [
        LinkResult(
            sender=one,
            receiver=other,
            sent_nanodollars=counts[one, other].sent_nanodollars,
            received_nanodollars=counts[other, one].received_nanodollars,
            counted_by_from=counts[one, other].sent_nanodollars,
            counted_by_to=counts[other, one].received_nanodollars,
            packets=0,
            passed_packets=0,
            queue_drops=0,
        )
        for one, other in HOPS
    ]
    return unexplained(links, named_losses(books), books)


def settled_books(lab: SmallLab) -> Mapping[str, NodeBooks]:
    """When the neighbours' statements agree, and nothing moves any more."""

    def is_quiet() -> bool:
        before, books = lab.daemons.books(), lab.daemons.books()
        return before == books and all(node.statements_agree for node in books.values())

    time.sleep(1)
    wait_until(is_quiet, patience_s=20)
    return lab.daemons.books()


def await_payments(lab: SmallLab, packets: int = 50) -> None:
    """Until so many more have gone all the way, to B and back."""

    def received(node: str) -> int:
        return ask_agent(lab.socket(node)).accounts.links[0].received_packets

    before = {node: received(node) for node in ("A", "B")}
    wait_until(lambda: all(received(node) >= count + packets for node, count in before.items()), patience_s=20)


def reader_of(lab: SmallLab, node: str) -> int:
    """0: there is none just now."""
    name = "gateway.reader" if node == "X" else "hostagent.payments.reader"
    return children_of(lab.daemons.main_pid(node)).get(name, 0)
