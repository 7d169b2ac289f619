"""The gateway as its neighbours and its operator meet it: real process, real TLS, real kernel state."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from gateway_network import paying, plain
from real_gateway import COMMAND, CONFIGURATION, RealGateway, children_of, kernel_state, real_gateway, wait_until

from billpay.errors import EnvironmentFault, RemoteProtocolError
from billpay.grants import verify_receipt
from billpay.messages import (
    AgreementRequest,
    FlowSelector,
    Grant,
    GrantKind,
    GrantState,
    IntroducedOads,
    KeySuccession,
    OadDescription,
    SecretaryKey,
    Signed,
    Statement,
    Tariff,
    Timescale,
)
from billpay.signing import sign, verify
from gateway.admin import LinkStatus, read_status, reload
from lab.traffic import Counted
from neighbour.control import ControlClient, Unreachable
from neighbour.identity import NodeIdentity

pytestmark = pytest.mark.netns
URL = "https://10.9.1.2:7414"


BOTH_ENGINES = pytest.mark.parametrize("gateway", ["nfqueue", "ebpf"], indirect=True)


@pytest.fixture
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealGateway]:
    with real_gateway(tmp_path, engine=getattr(request, "param", "auto")) as running:
        yield running


def in_a(gateway: RealGateway, work: Callable[[ControlClient], object], identity: NodeIdentity | None = None) -> object:
    """Runs a coroutine function with a client inside host a."""

    async def connected() -> object:
        try:
            async with ControlClient(identity or gateway.host, gateway.certificate, URL) as client:
                return await work(client)  # type: ignore[misc]
        finally:
            await asyncio.sleep(0.1)  # TLS says goodbye before this loop is gone

    return gateway.network.a.call(lambda: asyncio.run(connected()))


def request_of(as_number: int = 0) -> AgreementRequest:
    return AgreementRequest(name="a", as_number=as_number, header=True)


def grant_of(
    gateway: RealGateway, serial: int = 1, source: str = "10.9.1.1", cap: int = 1000, key: str = "0" * 32
) -> Grant:
    now = int(time.time())
    return Grant(
        grant="a" * 32,
        serial=serial,
        kind=GrantKind.SPEND,
        flow=FlowSelector(source=source, destination="10.9.2.1", protocol=17, source_port=1, destination_port=2),
        cap_nanodollars=cap,
        rate_nanodollars_per_s=1000,
        burst_nanodollars=1000,
        not_before_unix_s=now - 100,
        expires_unix_s=now + 600,
        key=key,
        gateway=gateway.gateway.fingerprint,
    )


@pytest.mark.row("MV-48", "BP-22")
def test_a_neighbour_agrees_asks_prices_and_gets_signed_documents(gateway: RealGateway) -> None:
    gateway.start()

    async def talk(client: ControlClient) -> None:
        identity = await client.identity()
        assert (identity.name, identity.as_number) == ("R", 64512)
        assert identity.fingerprint == gateway.gateway.fingerprint
        agreement = await client.agree(request_of())
        assert agreement.header
        quote = await client.price("10.9.2.1", 1000)
        assert [(price.alternative, price.toll_picodollars) for price in quote.prices] == [(1, 2000), (2, 1000)]
        tariff = verify(await client.tariff(), gateway.certificate.public_key, Tariff)
        assert tariff.timescale is Timescale.NETWORK
        assert {toll.link: toll.fixed_nanodollars_per_packet for toll in tariff.tolls} == {"a": 1, "b": 2}
        documents = [verify(one, gateway.certificate.public_key, OadDescription) for one in await client.oads()]
        assert [(one.prefix, [a.number for a in one.alternatives]) for one in documents] == [("10.9.2.0/24", [1, 2])]
        stream = client.tariff_stream()
        assert verify(await anext(stream), gateway.certificate.public_key, Tariff).serial == tariff.serial
        await stream.aclose()  # type: ignore[attr-defined]

    in_a(gateway, talk)


@pytest.mark.row("MV-48", "BP-22")
def test_changed_terms_are_taken_in_while_it_runs_and_published_at_once(gateway: RealGateway) -> None:
    gateway.start()

    async def documents(client: ControlClient) -> tuple[Tariff, OadDescription, list[tuple[int, int]]]:
        tariff = verify(await client.tariff(), gateway.certificate.public_key, Tariff)
        (description,) = [verify(one, gateway.certificate.public_key, OadDescription) for one in await client.oads()]
        prices = (await client.price("10.9.2.1", 1000)).prices
        return tariff, description, [(price.alternative, price.toll_picodollars) for price in prices]

    def ask() -> tuple[Tariff, OadDescription, list[tuple[int, int]]]:
        return in_a(gateway, documents)  # type: ignore[return-value]

    before, described, _ = ask()
    dear = CONFIGURATION.replace("fixed_nanodollars_per_packet = 2", "fixed_nanodollars_per_packet = 4")
    lying = dear.replace('title = "straight"', 'title = "straight", toll_nanodollars = 1, delay_ms = 5')
    gateway.write_config(lying.replace('prefix = "10.9.2.0/24"', 'prefix = "10.9.2.0/24"\ndefault = 2'))
    reloaded = asyncio.run(reload(gateway.admin))
    assert reloaded.changed == ("links.b.toll", "routes.10.9.2.0/24")
    tariff, description, prices = ask()
    assert tariff.serial == description.serial == reloaded.serial > max(before.serial, described.serial)
    assert {toll.link: toll.fixed_nanodollars_per_packet for toll in tariff.tolls} == {"a": 1, "b": 4}
    assert [(one.toll_nanodollars, one.delay_ns) for one in description.alternatives] == [(1, 5_000_000), (1, None)]
    assert prices == [(2, 1000), (1, 4000)], "the default first, and what is true"

    gateway.write_config(dear.replace("rate_bit_s = 50_000_000", "rate_bit_s = 60_000_000"))
    with pytest.raises(EnvironmentFault, match="links: only tolls"):
        asyncio.run(reload(gateway.admin))
    gateway.write_config(lying.replace("[gateway]", "[gate]"))
    with pytest.raises(EnvironmentFault, match="gate"):
        asyncio.run(reload(gateway.admin))
    assert ask()[2] == prices, "all is as before"


def test_others_descriptions_are_for_neighbours_and_only_gateways_introduce(gateway: RealGateway) -> None:
    gateway.start()

    async def talk(client: ControlClient) -> None:
        assert await client.introduced_oads() == IntroducedOads()
        with pytest.raises(RemoteProtocolError) as caught:
            await client.introduce_oads(IntroducedOads())
        assert caught.value.code == "wrong-role"

    in_a(gateway, talk)


@pytest.mark.row("BP-44")
def test_grants_open_once_grow_and_close_and_only_the_secretary_signs_them(gateway: RealGateway) -> None:
    gateway.start()

    async def refused(client: ControlClient, grant: Grant, signer: NodeIdentity, name: str = "a" * 32) -> str:
        with pytest.raises(RemoteProtocolError) as caught:
            await client.open_grant(name, sign(signer.key, grant))
        return caught.value.code

    async def talk(client: ControlClient) -> None:
        await client.agree(request_of())
        assert await refused(client, grant_of(gateway), gateway.host) == "wrong-signer"
        assert await refused(client, grant_of(gateway, source="10.9.1.77"), gateway.secretary) == "foreign-source"
        assert await refused(client, grant_of(gateway), gateway.secretary, name="b" * 32) == "other-grant"
        elsewhere = msgspec.structs.replace(grant_of(gateway), gateway=gateway.stranger.fingerprint)
        assert await refused(client, elsewhere, gateway.secretary) == "other-gateway"
        assert await refused(client, grant_of(gateway, serial=2), gateway.secretary) == "unknown-grant"
        terms = await client.open_grant("a" * 32, sign(gateway.secretary.key, grant_of(gateway)))
        assert (terms.usage.state, terms.cap_nanodollars, terms.max_amount) == (GrantState.OPEN, 1000, 1_000_000)
        assert await refused(client, grant_of(gateway, cap=2), gateway.secretary) == "old-serial"
        assert await refused(client, grant_of(gateway, serial=2, key="1" * 32), gateway.secretary) == "other-key"
        await client.open_grant("a" * 32, sign(gateway.secretary.key, grant_of(gateway, serial=2, cap=5000)))
        assert (await client.grant_usage("a" * 32)).usage.serial == 2
        closed = await client.close_grant("a" * 32)
        assert closed.usage.state is GrantState.CLOSED
        receipt = verify_receipt(closed.receipt, closed.public_key, grant_of(gateway).gateway)
        assert (receipt.grant, receipt.serial, receipt.spent_nanodollars) == ("a" * 32, 2, 0)
        assert await client.close_grant("a" * 32) == await client.grant_usage("a" * 32) == closed
        assert await refused(client, grant_of(gateway, serial=3, cap=9000), gateway.secretary) == "grant-closed"

    in_a(gateway, talk)


@BOTH_ENGINES
def test_open_grants_and_agreements_are_there_after_a_kill(gateway: RealGateway) -> None:
    gateway.start()

    async def open_it(client: ControlClient) -> None:
        await client.agree(request_of())
        await client.open_grant("a" * 32, sign(gateway.secretary.key, grant_of(gateway)))

    in_a(gateway, open_it)
    gateway.kill()
    gateway.start()

    async def look(client: ControlClient) -> None:
        assert (await client.grant_usage("a" * 32)).usage.state is GrantState.OPEN

    in_a(gateway, look)
    status = asyncio.run(read_status(gateway.admin))
    assert status.open_grants == 1
    assert [link.state for link in status.links if link.name == "a"] == ["agreed before the restart"]


def succession(
    gateway: RealGateway, old: NodeIdentity, new: NodeIdentity, serial: int, signer: NodeIdentity | None = None
) -> Signed:
    document = KeySuccession(
        old=old.fingerprint, new_certificate=new.certificate.pem, serial=serial, signed_unix_s=int(time.time())
    )
    return sign((signer or old).key, document)


@pytest.mark.row("BP-44")
def test_the_secretarys_new_key_is_taken_from_the_old_one_and_outlives_a_kill(gateway: RealGateway) -> None:
    gateway.start()
    old, new, thief = gateway.secretary, gateway.stranger, gateway.host

    async def succeed(client: ControlClient) -> None:
        assert await client.secretary_key() == SecretaryKey(fingerprint=old.fingerprint, serial=0)
        with pytest.raises(RemoteProtocolError, match="wrong-signer"):
            await client.succeed_secretary_key(succession(gateway, old, thief, 1, signer=thief))
        await client.open_grant("a" * 32, sign(old.key, grant_of(gateway)))
        document = succession(gateway, old, new, 1)
        for _ in range(2):  # its answer may be lost
            state = await client.succeed_secretary_key(document)
            assert state == SecretaryKey(fingerprint=new.fingerprint, serial=1)

    in_a(gateway, succeed)
    gateway.kill()
    gateway.start()

    async def afterwards(client: ControlClient) -> None:
        assert (await client.secretary_key()).fingerprint == new.fingerprint
        assert (await client.grant_usage("a" * 32)).usage.state is GrantState.OPEN  # it was opened by a good key
        with pytest.raises(RemoteProtocolError, match="wrong-signer"):
            await client.open_grant("a" * 32, sign(old.key, grant_of(gateway, serial=2)))
        await client.open_grant("a" * 32, sign(new.key, grant_of(gateway, serial=2)))
        with pytest.raises(RemoteProtocolError, match="wrong-signer"):
            await client.succeed_secretary_key(succession(gateway, old, thief, 2))

    in_a(gateway, afterwards)
    assert gateway.said(" is up")
    assert "grants are signed by" in gateway.log()


UNDER_A_CEILING = CONFIGURATION.replace(
    "[[links]]", '[[organisations]]\nname = "lab"\nceiling = {{ packet_nanodollars = 10 }}\n\n[[links]]', 1
).replace('peer = "host"', 'peer = "host"\norganisation = "lab"\nrole = "payer"')


def send_paying(gateway: RealGateway, amounts: list[int]) -> None:
    """Packets of host a with payments as whoever holds its grant's key makes them."""
    now = int(time.time())
    packet = plain("10.9.1.1", "10.9.2.1", sport=1, dport=2)
    packets = [paying(packet, amount, key=bytes(16), unix_s=now) for amount in amounts]

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for one in packets:
                raw.sendto(one, ("10.9.2.1", 0))

    gateway.network.a.call(send)


def status_of_a(gateway: RealGateway) -> LinkStatus:
    return next(link for link in asyncio.run(read_status(gateway.admin)).links if link.name == "a")


@BOTH_ENGINES
@pytest.mark.row("BP-41", "BP-44", "MV-07")
def test_whoever_holds_the_hosts_keys_gets_what_the_gateway_allows(gateway: RealGateway) -> None:
    """Real packets: above the ceiling, by a grant that was closed, and out of a mirror that took nothing in."""
    gateway.write_config(UNDER_A_CEILING)
    gateway.start()
    document = sign(gateway.secretary.key, grant_of(gateway))

    async def open_it(client: ControlClient) -> None:
        assert (await client.agree(request_of())).max_amount == 10
        assert (await client.open_grant("a" * 32, document)).max_amount == 10

    in_a(gateway, open_it)
    send_paying(gateway, [50, 10, 500])
    wait_until(lambda: status_of_a(gateway).cut_packets == 2)
    status = status_of_a(gateway)
    assert (status.received_nanodollars, status.cut_nanodollars) == (30, 40 + 490)
    wait_until(lambda: "over_ceiling on link a" in gateway.log())

    async def close_and_show_again(client: ControlClient) -> None:
        closed = await client.close_grant("a" * 32)
        receipt = verify_receipt(closed.receipt, closed.public_key, gateway.gateway.fingerprint)
        assert (receipt.spent_nanodollars, receipt.packets) == (30, 3)
        with pytest.raises(RemoteProtocolError, match="grant-closed"):
            await client.open_grant("a" * 32, document)

    in_a(gateway, close_and_show_again)
    send_paying(gateway, [5, 5])
    wait_until(lambda: asyncio.run(read_status(gateway.admin)).counters["unpaid_no_grant"] == 2)
    gateway.stop()
    gateway.write_config(UNDER_A_CEILING.replace('role = "payer"', 'role = "mirror"'))
    gateway.start()

    async def again(client: ControlClient) -> None:
        with pytest.raises(RemoteProtocolError, match="grant-closed"):
            await client.open_grant("a" * 32, document)
        another = msgspec.structs.replace(grant_of(gateway), grant="b" * 32)
        await client.open_grant("b" * 32, sign(gateway.secretary.key, another))

    in_a(gateway, again)
    send_paying(gateway, [5, 7])
    wait_until(lambda: status_of_a(gateway).role_refused_packets == 2)
    status = status_of_a(gateway)
    assert (status.role, status.role_refused_nanodollars, status.received_nanodollars) == ("mirror", 12, 30)


def test_strangers_and_wrong_words_get_a_code_and_change_nothing(gateway: RealGateway) -> None:
    gateway.start()

    async def stranger(client: ControlClient) -> None:
        with pytest.raises(Unreachable):
            await client.identity()

    in_a(gateway, stranger, gateway.stranger)

    async def talk(client: ControlClient) -> None:
        with pytest.raises(RemoteProtocolError, match="wrong-as"):
            await client.agree(request_of(as_number=7))
        statement = Statement(
            link="R/a",
            issuer=gateway.host.fingerprint,
            peer=gateway.gateway.fingerprint,
            interval=1,
            sampled_unix_s=1,
            sent_nanodollars=0,
            received_nanodollars=0,
            sent_packets=0,
            received_packets=0,
        )
        with pytest.raises(RemoteProtocolError, match="no-agreement"):
            await client.post_statement(sign(gateway.host.key, statement))
        with pytest.raises(RemoteProtocolError, match="malformed"):
            await client.price("not-an-address", 100)
        await client.agree(request_of())
        forged = msgspec.structs.replace(sign(gateway.host.key, statement), signature=bytes(64))
        with pytest.raises(RemoteProtocolError, match="bad-signature"):
            await client.post_statement(forged)
        assert (await client.post_statement(sign(gateway.host.key, statement))).statement.signer

    in_a(gateway, talk)


@BOTH_ENGINES
def test_a_stop_leaves_the_kernel_as_it_was(gateway: RealGateway) -> None:
    before = kernel_state(gateway.network.r)
    gateway.start()
    assert kernel_state(gateway.network.r) != before
    assert gateway.stop() == 0
    assert kernel_state(gateway.network.r) == before
    assert not gateway.admin.exists()


@BOTH_ENGINES
def test_after_a_kill_restore_puts_the_kernel_back(gateway: RealGateway) -> None:
    before = kernel_state(gateway.network.r)
    gateway.start()
    gateway.kill()
    assert kernel_state(gateway.network.r) != before
    gateway.network.r.run(*COMMAND, "restore", "--state-directory", str(gateway.state))
    assert kernel_state(gateway.network.r) == before
    again = gateway.network.r.run(*COMMAND, "restore", "--state-directory", str(gateway.state))
    assert "nothing to restore" in again


@BOTH_ENGINES
@pytest.mark.parametrize("victim", ["main", "gateway.reader", "dataplane.watchdog"])
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.expectation(1)
def test_traffic_goes_on_within_a_second_whatever_dies_or_hangs(
    gateway: RealGateway, victim: str, signal_number: signal.Signals
) -> None:
    gateway.start()
    assert gateway.process is not None
    main = gateway.process.pid
    wait_until(lambda: {"gateway.reader", "dataplane.watchdog"} <= children_of(main).keys())
    traffic = [sys.executable, "-m", "lab.traffic"]
    answering = gateway.network.b.popen(*traffic, "answer", "10.9.2.1", "9000", stdout=subprocess.DEVNULL)
    asking = gateway.network.a.popen(*traffic, "ask", "10.9.2.1", "9000", "100", "64", "3", "1", stdout=subprocess.PIPE)
    time.sleep(1.0)  # some answers before
    os.kill(main if victim == "main" else children_of(main)[victim], signal_number)
    output, _ = asking.communicate()
    answering.kill()
    answering.wait()
    counted = msgspec.json.decode(output, type=Counted)
    assert counted.received > 100, output  # it went on …
    assert counted.sent - counted.received < 100, output  # … after less than a second of silence


LISTEN = """
import socket, time
server = socket.create_server(("10.9.1.2", 7414))
print("ready", flush=True)
time.sleep(60)
"""
BAD = {
    "unknown key": ("as_number = 64512", "as_numbr = 64512", 3, "as_numbr"),
    "unknown interface": ('interface = "rb"', 'interface = "eth77"', 4, "eth77"),
    "no certificate": ("{host}", "{host}.missing", 3, "node.pem.missing"),
    "not TOML": ("[gateway]", "[gateway", 3, "not TOML"),
    "unknown link": ('link = "b", title', 'link = "zz", title', 3, "zz"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_configuration_is_one_line_with_a_code_and_leaves_nothing(gateway: RealGateway, case: str) -> None:
    old, new, code, named = BAD[case]
    assert old in CONFIGURATION
    before = kernel_state(gateway.network.r)
    gateway.write_config(CONFIGURATION.replace(old, new))
    done = subprocess.run(gateway.network.r.command(*gateway.command()), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("hostagent: ")]
    assert len(lines) == 1
    assert named in lines[0]
    assert "Traceback" not in done.stderr
    assert kernel_state(gateway.network.r) == before


def test_a_busy_port_a_second_gateway_and_a_missing_privilege_are_one_line_each(gateway: RealGateway) -> None:
    before = kernel_state(gateway.network.r)
    listener = gateway.network.r.popen(sys.executable, "-c", LISTEN, stdout=subprocess.PIPE)
    assert listener.stdout is not None
    listener.stdout.readline()
    try:
        done = subprocess.run(
            gateway.network.r.command(*gateway.command()), capture_output=True, text=True, check=False
        )
    finally:
        listener.kill()
        listener.wait()
        listener.stdout.close()
    assert done.returncode == 4
    assert "10.9.1.2:7414" in done.stderr
    assert kernel_state(gateway.network.r) == before
    gateway.start()
    second = subprocess.run(gateway.network.r.command(*gateway.command()), capture_output=True, text=True, check=False)
    assert second.returncode == 4
    assert "another daemon works there" in second.stderr
    gateway.stop()
    unprivileged = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", *gateway.command()]
    third = subprocess.run(gateway.network.r.command(*unprivileged), capture_output=True, text=True, check=False)
    assert third.returncode == 4, third.stderr
    assert len([line for line in third.stderr.splitlines() if line.startswith("hostagent: ")]) == 1
    assert kernel_state(gateway.network.r) == before
