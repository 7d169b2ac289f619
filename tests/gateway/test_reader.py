"""What the reader does before its first packet: counters of grants that nobody will open again are given back."""

from __future__ import annotations

from pathlib import Path

from gateway_network import Gateway, grant_for, paying, plain, plan_x

from billpay.messages import Signed
from dataplane.counters import CounterFile
from gateway.grant_store import STORE_NAME, GrantStore, not_closed
from gateway.reader import forget_closed_grants

OPEN, CLOSED = "0" * 31 + "1", "0" * 31 + "2"


def test_counters_of_grants_that_are_not_stored_any_more_are_given_back(tmp_path: Path) -> None:
    gateway = Gateway(plan_x(), counters=CounterFile.open(tmp_path / "counters"))
    gateway.agree()
    for number, grant in enumerate((OPEN, CLOSED)):
        gateway.open("toA", grant_for(plain(sport=number), grant=grant))
        gateway.deliver("toA", paying(plain(sport=number), 20))
    store = GrantStore(tmp_path / STORE_NAME)
    document = Signed(kind="grant", document=b"{}", signer="0" * 64, signature=bytes(64))
    store.put_open(OPEN, "toA", document, expires_unix_s=1)
    store.put_closing(OPEN)
    gateway.counters.close()
    counters = CounterFile.open(tmp_path / "counters")
    forget_closed_grants(counters, not_closed(tmp_path / STORE_NAME))
    left = {name: value for name, value in counters.snapshot().items() if name.startswith("grant/")}
    assert left == {
        f"grant/{OPEN}/spent_nanodollars": 20,
        f"grant/{OPEN}/packets": 1,
        f"grant/{OPEN}/refused_packets": 0,
    }
    assert counters.committed("link/toA/received_nanodollars") == 40
    counters.close()
    store.close()
