"""Gateways that hand descriptions on: to whom, about whom, and only under an agreement."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from billpay.errors import RemoteProtocolError
from billpay.messages import IntroducedOads, OadAlternative, OadDescription
from gateway.control import Published
from gateway.neighbours import Neighbour, Neighbours
from gateway.relaying import Relay
from neighbour.identity import NodeIdentity

W, X, Z = 64511, 64512, 64514


class Isp:
    """A gateway's relay; `neighbours` are stand-ins with what the relay looks at."""

    def __init__(self, as_number: int, directory: Path) -> None:
        self.as_number = as_number
        self.identity = NodeIdentity.load_or_create(directory / str(as_number), name=f"AS{as_number}")
        self.published = Published()

    def knows(self, *others: Isp) -> None:
        self.seen = {other.as_number: neighbour("gateway", other) for other in others}
        self.host = neighbour("host", self)
        by_link = {each.name: each for each in (*self.seen.values(), self.host)}
        self.relay = Relay(
            own_as=self.as_number,
            identity=self.identity,
            neighbours=cast("Neighbours", SimpleNamespace(by_link=by_link)),
            published=self.published,
        )

    def publish(self) -> None:
        now = int(time.time())
        description = OadDescription(
            issuer=self.identity.fingerprint,
            as_number=self.as_number,
            serial=1,
            prefix="203.0.113.0/24",
            alternatives=(OadAlternative(number=1, title=""), OadAlternative(number=2, title="")),
            published_unix_s=now,
            expires_unix_s=now + 60,
        )
        self.published.oads = (self.identity.sign(description),)

    def calls(self, other: Isp) -> None:
        """As `keep_introducing` does, without a connection."""
        answer = other.relay.exchange(other.seen[self.as_number], self.relay.told(self.seen[other.as_number]))
        self.relay.hear(self.seen[other.as_number], answer)


def neighbour(peer: str, isp: Isp, **more: Any) -> Neighbour:
    section = SimpleNamespace(
        peer=peer, peer_as=isp.as_number if peer == "gateway" else 0, name=f"{peer}{isp.as_number}"
    )
    made = {"section": section, "certificate": isp.identity.certificate, "takes_headers": True, "name": section.name}
    return cast("Neighbour", SimpleNamespace(**(made | more)))


@pytest.fixture
def isps(tmp_path: Path) -> tuple[Isp, Isp, Isp]:
    """W – X – Z: each knows its neighbours only."""
    w, x, z = (Isp(number, tmp_path) for number in (W, X, Z))
    w.knows(x)
    x.knows(w, z)
    z.knows(x)
    for isp in (w, x, z):
        isp.publish()
    return w, x, z


def issuers(told: IntroducedOads, *isps: Isp) -> list[tuple[int, int]]:
    numbers = {isp.identity.fingerprint: isp.as_number for isp in isps}
    return [(numbers[one.signed.signer], one.hops) for one in told.documents]


@pytest.mark.row("BP-22")
def test_both_sides_of_a_call_learn_what_the_other_one_knows(isps: tuple[Isp, Isp, Isp]) -> None:
    w, x, z = isps
    x.calls(z)
    w.calls(x)
    x.calls(z)
    assert issuers(w.relay.told(w.host), *isps) == [(X, 1), (Z, 2)]
    assert issuers(x.relay.told(x.host), *isps) == [(Z, 1), (W, 1)]
    assert issuers(z.relay.told(z.host), *isps) == [(X, 1), (W, 2)]
    assert issuers(z.relay.told(z.seen[X]), *isps) == [(Z, 0)], "its own, and nothing back to where it is from"


def test_hosts_introduce_nobody_and_gateways_need_an_agreement(isps: tuple[Isp, Isp, Isp]) -> None:
    _, x, z = isps
    with pytest.raises(RemoteProtocolError) as caught:
        x.relay.exchange(x.host, IntroducedOads())
    assert caught.value.code == "wrong-role"
    with pytest.raises(RemoteProtocolError) as caught:
        x.relay.exchange(neighbour("gateway", z, takes_headers=False), IntroducedOads())
    assert caught.value.code == "no-agreement"
