"""The largest packet that passes, by those who say so and by search where nobody does."""

from __future__ import annotations

import pytest
from scripted_path import ScriptedPath, path

from cartographer.measuring.mtu import MtuFindings, path_mtu
from cartographer.measuring.packets import Transport
from cartographer.measuring.testimony import Target


async def looked(way: ScriptedPath, *, first: int = 1500, reaches: bool = True) -> MtuFindings:
    count = len(way.routers)
    target = Target(
        destination=way.routers[-1].address,
        transport=Transport.ICMP,
        port=0,
        last_ttl=count if reaches else count - 1,
        reaches=reaches,
    )
    hops = {number: router.address for number, router in enumerate(way.routers, 1) if not router.silent}
    return await path_mtu(way, target, first_bytes=first, wait_ns=10**9, pause=way.second, hops=hops)


async def test_a_path_without_a_limit_costs_one_packet() -> None:
    way = path()
    found = await looked(way)
    assert found == MtuFindings(mtu_bytes=1500, words="1500 bytes, all that our own link takes")
    assert way.sent == 1


async def test_each_smaller_link_says_so_and_the_last_one_is_named() -> None:
    way = path()
    way.routers[1].mtu, way.routers[2].mtu = 1400, 1320
    found = await looked(way)
    assert found.mtu_bytes == 1320
    assert found.said_by == "192.0.2.3"
    assert found.between == (3, 4)
    assert not found.swallowed
    assert way.sent == 3


@pytest.mark.parametrize("mtu", [1499, 1492, 1472, 1401, 1400, 1399, 1333, 1281, 1280, 1279, 601, 576, 300])
async def test_where_it_is_swallowed_it_is_searched_for_to_the_byte(mtu: int) -> None:
    way = path()
    way.routers[2].mtu, way.routers[2].tells_mtu = mtu, False
    found = await looked(way)
    assert found.mtu_bytes == mtu
    assert found.swallowed
    assert found.between == (3, 4)
    assert found.words == f"{mtu} bytes; larger ones are swallowed without a word between hop 3 and hop 4"
    assert way.sent < 160


async def test_a_swallower_behind_one_that_speaks() -> None:
    way = path()
    way.routers[0].mtu = 1450
    way.routers[2].mtu, way.routers[2].tells_mtu = 1300, False
    found = await looked(way)
    assert found.mtu_bytes == 1300
    assert found.swallowed
    assert "192.0.2.1 speaks of another limit" in found.words


async def test_silent_hops_are_not_the_swallower() -> None:
    way = path(5)
    way.routers[1].silent = True
    way.routers[3].mtu, way.routers[3].tells_mtu = 1400, False
    found = await looked(way)
    assert found.between == (4, 5)


@pytest.mark.parametrize("said", [0, 20, 1500, 9000])
async def test_an_absurd_message_is_not_believed(said: int) -> None:
    way = path()

    class Liar(ScriptedPath):
        pass

    liar = Liar(routers=way.routers)
    liar.routers[1].mtu = 1400
    honest = liar._error

    def lies(kind: object, router: object, quoted: object, number: object, mtu: int | None = None) -> object:
        return honest(kind, router, quoted, number, mtu=None if mtu is None else said)  # type: ignore[arg-type]

    liar._error = lies  # type: ignore[method-assign, assignment]
    found = await looked(liar)
    assert found.mtu_bytes == 1400


async def test_loss_does_not_pass_for_a_limit() -> None:
    wrong = 0
    for seed in range(60):
        way = path(seed=seed)
        way.routers[1].loss = 0.1
        way.routers[2].mtu, way.routers[2].tells_mtu = 1400, False
        wrong += (await looked(way)).mtu_bytes != 1400
    assert wrong <= 2


async def test_nothing_is_claimed_where_not_even_small_packets_are_answered() -> None:
    way = path()
    way.routers[4].silent = True
    found = await looked(way)
    assert found.mtu_bytes is None
    assert not found.swallowed


async def test_without_a_destination_it_is_as_far_as_somebody_answers() -> None:
    way = path()
    way.routers[4].silent = True
    way.routers[1].mtu = 1400
    found = await looked(way, reaches=False)
    assert found.mtu_bytes == 1400
    assert "as far as hop 4" in found.words
