"""Grants at the gateway's desk: what is closed stays closed, and its receipt is true, whoever crashes meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from gateway_network import A_V4, UNIX_S, Gateway, grant_for, paying, plain, plan_x

from billpay.errors import EnvironmentFault, RemoteProtocolError
from billpay.grants import verify_receipt
from billpay.messages import Grant, GrantReceipt, GrantState, SignedUsage
from billpay.signing import SigningKey, sign
from dataplane.supervisor import ReaderUnavailable
from gateway import grant_store
from gateway.commands import Answer, CloseGrant, Command, ForgetGrant, OpenGrant, Tick
from gateway.configuration import Configuration, GatewaySection, LinkSection
from gateway.grant_store import REMEMBER_S, GrantStore
from gateway.granting import CLOSE_AFTER_S, GrantDesk
from gateway.neighbours import Neighbour, Neighbours
from gateway.plan import HostRole
from gateway.secretary_keys import SecretaryChain
from neighbour.identity import NodeIdentity, PeerCertificate, certificate_pem

NODE, SECRETARY, OTHER_SECRETARY = (SigningKey(bytes([number]) * 32) for number in (1, 2, 3))
GRANT = "00" * 15 + "01"


class Desk:
    """A desk before a packet core on a virtual clock. `lose`: the type of the next command that meets a dead reader."""

    def __init__(self, directory: Path, **section: Any) -> None:
        self.directory = directory
        self.now_s = UNIX_S
        self.identity = NodeIdentity(name="X", key=NODE, directory=directory)
        link = LinkSection(name="toA", interface="a0", peer="host", **section)
        configuration = Configuration(
            gateway=GatewaySection(name="X", as_number=1, state_directory=str(directory)), links=(link,)
        )
        root = PeerCertificate.from_pem(certificate_pem(SECRETARY, "a"))
        self.host = cast(
            "Neighbour",
            SimpleNamespace(name="toA", section=link, signers=SecretaryChain(root), grant_signer=root),
        )
        neighbours = Neighbours(
            configuration=configuration,
            identity=self.identity,
            book=cast("Any", None),
            read=cast("Any", None),
            on_change=lambda _: None,
        )
        neighbours.by_link["toA"] = self.host
        self.neighbours = neighbours
        self.lose: type[Command] | None = None
        self.store = GrantStore(directory / "grants.sqlite")
        self.core = Gateway(plan_x())
        self.desk = self._desk()
        self.core.agree()

    def _desk(self) -> GrantDesk:
        return GrantDesk(
            identity=self.identity,
            neighbours=self.neighbours,
            store=self.store,
            ask=self._ask,
            read=self.core.counters.snapshot,
            clock=lambda: self.now_s,
        )

    async def _ask(self, command: Command) -> Answer:
        if self.lose is not None and isinstance(command, self.lose):
            self.lose = None
            raise ReaderUnavailable("the packet reader died before it answered")
        return self.core.ask(command)

    def restart(self) -> None:
        """Main process and reader begin anew, with what is on the disk."""
        self.store.close()
        self.store = GrantStore(self.directory / "grants.sqlite")
        needed = grant_store.not_closed(self.directory / "grants.sqlite")
        counters = self.core.counters
        for name in counters.snapshot():
            if name.startswith("grant/") and name.split("/")[1] not in needed:
                counters.release(name)
        self.core = Gateway(plan_x(), counters=counters)
        self.core.plane.unix_s = self.now_s
        self.core.ask(Tick())
        self.core.agree()
        self.desk = self._desk()
        for command in self.desk.snapshot():
            self.core.ask(command)

    def wait(self, seconds: int) -> None:
        self.now_s += seconds
        self.core.plane.unix_s = self.now_s
        self.core.ask(Tick())

    def document(self, key: SigningKey = SECRETARY, **changes: Any) -> Any:
        return sign(key, grant_for(A_V4, **{"cap": 100, "gateway": self.identity.fingerprint} | changes))

    async def open(self, name: str = GRANT, **changes: Any) -> Any:
        return await self.desk.open(self.host, name, self.document(grant=name, **changes))

    async def refused(self, name: str = GRANT, **changes: Any) -> str:
        with pytest.raises(RemoteProtocolError) as caught:
            await self.open(name, **changes)
        return caught.value.code

    async def close(self, name: str = GRANT) -> GrantReceipt:
        return self.final(await self.desk.close(self.host, name))

    def final(self, answer: SignedUsage) -> GrantReceipt:
        receipt = verify_receipt(answer.receipt, answer.public_key, self.identity.fingerprint)
        assert receipt.spent_nanodollars == answer.usage.spent_nanodollars
        assert answer.usage.state is GrantState.CLOSED
        return receipt

    def pay(self, amount: int, *, sport: int = 5004) -> None:
        self.core.deliver("toA", paying(plain(sport=sport), amount, unix_s=self.now_s))

    @property
    def taken(self) -> int:
        return self.core.link_count("toA", "received_nanodollars")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.store.close()


@pytest.mark.row("BP-44")
async def test_a_receipt_is_final_signed_and_the_same_again(desk: Desk) -> None:
    terms = await desk.open()
    assert (terms.cap_nanodollars, terms.max_amount, terms.usage.state) == (100, 1_000_000, GrantState.OPEN)
    desk.pay(30)
    until_now = await desk.desk.usage(desk.host, GRANT)
    with pytest.raises(RemoteProtocolError, match="not-final"):
        desk.final(until_now)
    open_yet = verify_receipt(until_now.receipt, until_now.public_key, desk.identity.fingerprint, final=False)
    assert (open_yet.spent_nanodollars, open_yet.final) == (30, False)
    desk.pay(20)
    first = await desk.desk.close(desk.host, GRANT)
    receipt = desk.final(first)
    assert receipt == GrantReceipt(
        grant=GRANT, serial=1, final=True, spent_nanodollars=50, packets=2, refused_packets=0, unix_s=UNIX_S
    )
    desk.wait(50)
    desk.pay(20)
    assert await desk.desk.close(desk.host, GRANT) == await desk.desk.usage(desk.host, GRANT) == first
    desk.restart()
    assert await desk.desk.close(desk.host, GRANT) == first
    assert desk.taken == 50


@pytest.mark.row("BP-44")
async def test_a_stolen_daemon_does_not_spend_a_closed_grant_again(desk: Desk) -> None:
    """It has the secretary's document and the key, closes the grant to get the budget back, and shows it once more."""
    await desk.open()
    desk.pay(40)
    assert (await desk.close()).spent_nanodollars == 40
    for restarts in (False, True):
        if restarts:
            desk.restart()
        assert await desk.refused() == "grant-closed"
        assert await desk.refused(serial=2, cap=1000) == "grant-closed"
        desk.pay(40)
    desk.wait(600 + REMEMBER_S + 1)
    await desk.desk.close_expired()
    assert desk.store.find(GRANT) is None
    assert await desk.refused() == "grant-expired"
    assert await desk.refused(serial=2, expires_unix_s=desk.now_s + 600) == "unknown-grant"
    desk.now_s = UNIX_S  # its clock is set back: what was forgotten stays refused
    assert await desk.refused() == "grant-expired"
    desk.restart()
    assert await desk.refused() == "grant-expired"
    assert desk.taken == 40


@pytest.mark.row("BP-44")
@pytest.mark.parametrize("lost", [OpenGrant, CloseGrant, ForgetGrant])
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_crash_at_any_step_costs_nothing(desk: Desk, lost: type[Command], restarts: bool) -> None:
    desk.lose = lost
    if lost is OpenGrant:
        with pytest.raises(ReaderUnavailable):
            await desk.open()
        if restarts:
            desk.restart()
    await desk.open()
    desk.pay(40)
    if lost is CloseGrant:
        with pytest.raises(ReaderUnavailable):
            await desk.close()
        if restarts:
            desk.restart()
            desk.pay(40)  # the disk knew that it was closing: nothing more is taken
        assert await desk.refused() == "grant-closed"
    receipt = await desk.close()
    if restarts:
        desk.restart()
    desk.pay(40)
    assert receipt.spent_nanodollars == desk.taken == 40
    assert await desk.close() == receipt


async def test_a_grant_that_nobody_closed_has_its_receipt_for_an_hour(desk: Desk) -> None:
    await desk.open()
    desk.pay(40)
    desk.wait(600 + CLOSE_AFTER_S)
    await desk.desk.close_expired()
    assert desk.core.counters.snapshot()[f"grant/{GRANT}/spent_nanodollars"] == 40
    desk.wait(1)
    await desk.desk.close_expired()
    assert f"grant/{GRANT}/spent_nanodollars" not in desk.core.counters.snapshot()
    desk.restart()
    desk.wait(REMEMBER_S - CLOSE_AFTER_S - 1)
    await desk.desk.close_expired()
    assert (await desk.close()).spent_nanodollars == 40
    desk.wait(1)
    await desk.desk.close_expired()
    with pytest.raises(RemoteProtocolError, match="unknown-grant"):
        await desk.close()


async def test_one_that_was_never_opened_is_voided_by_opening_and_closing_it(desk: Desk) -> None:
    desk.wait(700)
    assert (await desk.open()).usage.state is GrantState.EXPIRED
    assert (await desk.close()).spent_nanodollars == 0
    assert await desk.refused() == "grant-closed"


async def test_the_memory_is_bounded_and_nothing_is_forgotten_early(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grant_store, "MAX_REMEMBERED_PER_LINK", 3)
    names = [f"{number:032x}" for number in range(1, 5)]
    for name in names[:3]:
        await desk.open(name)
        await desk.close(name)
    assert await desk.refused(names[3]) == "too-many-grants"
    for name in names[:3]:
        assert await desk.refused(name) == "grant-closed"
    desk.wait(600 + REMEMBER_S + 1)
    await desk.desk.close_expired()
    await desk.open(names[3], expires_unix_s=desk.now_s + 600)


async def test_what_the_core_refuses_is_not_kept(desk: Desk) -> None:
    for number in range(4):
        await desk.open(f"{number:032x}")
    assert await desk.refused("f" * 32) == "too-many-grants"
    assert desk.store.find("f" * 32) is None


async def test_a_damaged_document_pays_nothing_and_has_its_receipt(desk: Desk) -> None:
    await desk.open()
    desk.pay(40)
    desk.store._connection.execute("UPDATE remembered SET document = x'00'")
    desk.restart()
    desk.pay(40)
    assert (await desk.close()).spent_nanodollars == desk.taken == 40


async def test_a_file_that_is_no_store_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "grants.sqlite").write_bytes(b"not a database, and long enough to be looked at" * 100)
    with pytest.raises(EnvironmentFault, match=r"grants\.sqlite"):
        GrantStore(tmp_path / "grants.sqlite")
    with pytest.raises(EnvironmentFault, match=r"grants\.sqlite"):
        grant_store.not_closed(tmp_path / "grants.sqlite")


async def test_after_another_secretary_was_configured_old_grants_are_closed(desk: Desk) -> None:
    await desk.open()
    desk.pay(40)
    other = PeerCertificate.from_pem(certificate_pem(OTHER_SECRETARY, "a"))
    cast("Any", desk.host).signers = SecretaryChain(other)
    desk.restart()
    desk.pay(40)
    assert (await desk.close()).spent_nanodollars == desk.taken == 40


@pytest.mark.row("BP-41")
async def test_a_host_that_never_pays_opens_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path, role=HostRole.NEVER)
    assert await desk.refused() == "never-pays"
    desk.store.close()


# --- forged receipts --------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-44")
async def test_no_forged_receipt_frees_a_budget(desk: Desk) -> None:
    """A stolen daemon says that nothing was spent: by its own key, by an altered or a borrowed document."""
    await desk.open()
    desk.pay(40)
    answer = await desk.desk.close(desk.host, GRANT)
    gateway = desk.identity.fingerprint
    lie = msgspec.structs.replace(verify_receipt(answer.receipt, answer.public_key, gateway), spent_nanodollars=0)
    by_thief = sign(OTHER_SECRETARY, lie)
    forgeries = [
        (by_thief, OTHER_SECRETARY.public_key, "other-gateway"),
        (by_thief, answer.public_key, "wrong-signer"),
        (msgspec.structs.replace(by_thief, signer=gateway), answer.public_key, "bad-signature"),
        (msgspec.structs.replace(answer.receipt, document=by_thief.document), answer.public_key, "bad-signature"),
        (sign(NODE, cast("Grant", grant_for(A_V4))), answer.public_key, "wrong-kind"),
    ]
    for forged, key, code in forgeries:
        with pytest.raises(RemoteProtocolError) as caught:
            verify_receipt(forged, key, gateway)
        assert caught.value.code == code
    with pytest.raises(RemoteProtocolError, match="other-gateway"):
        verify_receipt(answer.receipt, answer.public_key, "")
