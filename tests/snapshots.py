"""Snapshots of the local API as tests need them."""

from __future__ import annotations

from hostagent import api


def flow(name: str, *, rate: int = 0, amount: int = 0, active: bool = True, reason: str = "because") -> api.Flow:
    return api.Flow(
        flow=name,
        rule="rule" if amount else "",
        strategy="fixed" if amount else "unpaid",
        rate_bit_s=rate,
        packets=10,
        bytes=1000,
        amount_nanodollars=amount,
        toll_nanodollars=11 if amount else None,
        spent_nanodollars=amount * 10,
        returned_nanodollars=amount * 3,
        goodput_bit_s=rate if amount else None,
        marks=0,
        path="AS64512:1 AS64513:1" if amount else "",
        reason=reason,
        active=active,
    )


def link(neighbour: str = "X") -> api.LinkAccount:
    return api.LinkAccount(
        neighbour=neighbour,
        interface="to-X",
        state="agreed",
        fingerprint="0" * 64,
        sent_nanodollars=166_300,
        received_nanodollars=59_909,
        peer_received_nanodollars=166_300,
        peer_sent_nanodollars=59_909,
        lost_nanodollars=0,
        owed_nanodollars=6_391,
        settled_nanodollars=100_000,
        settlements=5,
        last_interval=12,
    )


def snapshot(
    *,
    flows: tuple[api.Flow, ...] = (),
    losses: tuple[api.LossLine, ...] = (),
    settlements: tuple[api.SettlementLine, ...] = (),
    warnings: tuple[api.Warning, ...] = (),
    sequence: int = 1,
) -> api.Snapshot:
    return api.Snapshot(
        sequence=sequence,
        unix_s=1_700_000_000,
        status=api.Status(
            name="A",
            version="0",
            health=api.Health.DEGRADED if warnings else api.Health.OK,
            engine="nfqueue",
            started_unix_s=1_700_000_000,
            warnings=warnings,
            secretary="connected",
            spent_today_nanodollars=166_300,
            budget_today_nanodollars=10**9,
        ),
        flows=flows,
        accounts=api.Accounts(links=(link(),), losses=losses, settlements=settlements, share_nanodollars=0),
        paths=api.Paths(),
    )
