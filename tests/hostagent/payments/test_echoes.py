"""Echoes: what the far end says is believed only if it is its own, about our flow, new, and of this time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from gateway_network import B_V4, B_V6
from hypothesis import given
from hypothesis import strategies as st
from one_host import echo_of, report_of

from billpay.messages import Echo, FlowSelector, OadObservation, ProbeReply, Signed
from billpay.signing import SigningKey, canonical_bytes, sign
from hostagent.payments.commands import FlowReport, Oads, Observed
from hostagent.payments.echoes import DATAGRAM_BYTES, MAX_AGE_MS, Disbelief, EchoPeer, EchoReader, EchoWriter
from hostagent.payments.flowbook import FlowBook
from hostagent.payments.flows import Flow

A = "10.0.1.1"
NOW_MS = 1_750_000_000_000
FLOW = FlowSelector(source=A, destination=B_V4, protocol=17, source_port=5004, destination_port=7000)
SESSION = "5e" * 16
KEY_B, KEY_C, STRANGER = (SigningKey(name * 32) for name in (b"b", b"c", b"s"))
OWN = frozenset({A})
LONG = "2001:db8:ffff:ffff:ffff:ffff:ffff:{:04x}"
LONG_FLOW = FlowSelector(
    source=LONG.format(1), destination=LONG.format(2), protocol=17, source_port=65535, destination_port=65535
)


def reader() -> EchoReader:
    """A's: knows the agents of B and C."""
    peers = [
        EchoPeer(name=name, public_key=key.public_key, fingerprint=key.fingerprint, addresses=frozenset(addresses))
        for name, key, addresses in (("B", KEY_B, (B_V4, B_V6)), ("C", KEY_C, ("10.0.3.1",)))
    ]
    return EchoReader(peers)


def echo(*, flow: FlowSelector = FLOW, **changes: Any) -> Echo:
    counts = {"packets": 10, "bytes": 1000, "paid_packets": 10, "ce_packets": 1}
    money = {"received_nanodollars": 90, "returned_nanodollars": 80}
    return echo_of(flow, **{"session": SESSION, "sequence": NOW_MS, **counts, **money, **changes})


def datagram(message: Echo | None = None, *, key: SigningKey = KEY_B) -> bytes:
    return msgspec.json.encode(sign(key, message or echo()))


def report(*, observed: tuple[Observed, ...] = (), flow: FlowSelector = FLOW, count: int = 10) -> FlowReport:
    return report_of(
        flow,
        uplink="",
        in_packets=count,
        in_bytes=100 * count,
        in_paid_packets=count,
        in_ce_packets=1,
        received_nanodollars=9 * count,
        observed=observed,
    )


def seen(oads: Oads, packets: int) -> Observed:
    return Observed(
        oads=oads, packets=packets, received_nanodollars=9 * packets, lowest_amount=0xFF_FFFF, path_length=15
    )


def path(length: int, choice: int = 11) -> Oads:
    return tuple((65535 - hop, 0xFFF, choice) for hop in range(length))


def probe(number: int, length: int) -> ProbeReply:
    return ProbeReply(probe=number, sent_ns=2**62 - number, held_ns=2**62, remaining=0xFF_FFFF, oads=path(length))


class Onlooker:
    """A's agent with one flow that it pays for: what an echo may change is all in its book."""

    def __init__(self) -> None:
        self.reader = reader()
        self.book = FlowBook(delay_value_nanodollars_per_ms=1)
        self.book.flows[FLOW] = Flow(report(), amount_nanodollars=20)

    def read(self, data: bytes, *, unix_ms: int = NOW_MS) -> Echo | Disbelief:
        result = self.reader.read(data, own_addresses=OWN, unix_ms=unix_ms)
        if isinstance(result, Echo):
            self.book.on_echo(result, unix_ms * 1_000_000)
        return result

    @property
    def believed(self) -> Echo | None:
        return self.book.flows[FLOW].far_end.echo


# --- a good one ------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-24")
def test_an_echo_says_what_arrived_and_is_believed() -> None:
    """AS, alternatives and choice of each ISP, packets, marks, and what was left of the payments."""
    observed = (seen(path(2, 1), 3), seen(path(2, 2), 7))  # the latest first
    reply = probe(4, 2)
    data = EchoWriter(KEY_B, SESSION).write(
        report(observed=observed), returned_nanodollars=80, probes=[reply], unix_ms=NOW_MS
    )
    onlooker = Onlooker()
    believed = onlooker.read(data)
    assert believed == echo(
        probes=(reply,),
        observations=tuple(
            OadObservation(
                oads=path(2, choice),
                packets=packets,
                received_nanodollars=9 * packets,
                lowest_amount=0xFF_FFFF,
                path_length=15,
            )
            for choice, packets in ((1, 3), (2, 7))
        ),
    )
    assert onlooker.believed == believed


def test_echoes_of_one_agent_are_numbered_upwards_whatever_the_clock_does() -> None:
    writer, onlooker = EchoWriter(KEY_B, SESSION), Onlooker()
    sequences = []
    for unix_ms in (NOW_MS, NOW_MS, NOW_MS - 5, NOW_MS + 90):
        data = writer.write(report(), returned_nanodollars=0, probes=(), unix_ms=unix_ms)
        believed = onlooker.read(data, unix_ms=unix_ms)
        assert isinstance(believed, Echo)
        sequences.append(believed.sequence)
    assert sequences == [NOW_MS, NOW_MS + 1, NOW_MS + 2, NOW_MS + 90]


def test_agents_are_numbered_each_for_itself() -> None:
    onlooker = Onlooker()
    assert isinstance(onlooker.read(datagram(echo(sequence=NOW_MS + 50))), Echo)
    to_c = FlowSelector(source=A, destination="10.0.3.1", protocol=17, source_port=1, destination_port=2)
    assert isinstance(onlooker.read(datagram(echo(flow=to_c), key=KEY_C)), Echo)


# --- bad ones --------------------------------------------------------------------------------------------------------


def refused(data: bytes, why: Disbelief, *, unix_ms: int = NOW_MS) -> None:
    """It changes nothing, and a good one is believed afterwards."""
    onlooker = Onlooker()
    assert onlooker.read(data, unix_ms=unix_ms) is why
    assert onlooker.believed is None
    assert onlooker.book.flows[FLOW].far_end.received.per_s() is None
    assert isinstance(onlooker.read(datagram()), Echo)


@pytest.mark.row("BP-24", "BP-44")
def test_a_forged_echo_changes_nothing() -> None:
    refused(datagram(key=STRANGER), Disbelief.UNKNOWN_SENDER)
    forged = msgspec.structs.replace(sign(STRANGER, echo()), signer=KEY_B.fingerprint)
    refused(msgspec.json.encode(forged), Disbelief.BAD_SIGNATURE)


@pytest.mark.row("BP-24", "BP-44")
def test_an_altered_echo_changes_nothing() -> None:
    good = sign(KEY_B, echo())
    for altered in (
        msgspec.structs.replace(good, document=canonical_bytes(echo(received_nanodollars=0))),
        msgspec.structs.replace(good, document=good.document + b" "),
        msgspec.structs.replace(good, kind="statement"),
        msgspec.structs.replace(good, signature=bytes(64)),
    ):
        refused(msgspec.json.encode(altered), Disbelief.BAD_SIGNATURE)


@pytest.mark.row("BP-24", "BP-44")
@pytest.mark.parametrize("earlier", [0, 1, 5000])
def test_a_replayed_echo_changes_nothing(earlier: int) -> None:
    onlooker = Onlooker()
    newest = onlooker.read(datagram())
    assert onlooker.read(datagram(echo(sequence=NOW_MS - earlier, packets=99))) is Disbelief.REPLAYED
    assert onlooker.believed == newest


@pytest.mark.row("BP-24", "BP-44")
@pytest.mark.parametrize(
    "changes",
    [{"destination": "10.0.3.1"}, {"source": "10.0.9.9"}, {"source": B_V4, "destination": A}, {"destination": ""}],
)
def test_an_agent_speaks_for_its_own_addresses_about_our_flows_only(changes: dict[str, str]) -> None:
    flow = msgspec.structs.replace(FLOW, **changes)
    refused(datagram(echo(flow=flow)), Disbelief.FOREIGN_FLOW)


@pytest.mark.row("BP-44")
@pytest.mark.parametrize("off_ms", [MAX_AGE_MS + 1, -MAX_AGE_MS - 1, -86_400_000])
def test_an_echo_of_another_time_changes_nothing(off_ms: int) -> None:
    """Such as one from before our restart."""
    refused(datagram(echo(sequence=NOW_MS + off_ms)), Disbelief.WRONG_TIME)


@pytest.mark.parametrize("off_ms", [MAX_AGE_MS, -MAX_AGE_MS])
def test_clocks_may_differ_a_little(off_ms: int) -> None:
    assert isinstance(Onlooker().read(datagram(echo(sequence=NOW_MS + off_ms))), Echo)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"[" * 4000,
        b'{"kind":' + b"[" * 4000,
        b"\xff\xfe",
        b'{"kind":"echo\xff"}',
        b'{"kind":"echo","document":"","signer":"' + b"\xff" * 64 + b'"}',
        datagram()[:-1],
        datagram() + b"x",
    ],
)
def test_what_is_no_echo_changes_nothing(data: bytes) -> None:
    refused(data, Disbelief.MALFORMED)


def test_a_signed_document_that_is_no_echo_changes_nothing() -> None:
    document = b'{"session":"\xff"}'
    private = KEY_B.private.sign(b"echo\0" + document)
    signed = Signed(kind="echo", document=document, signer=KEY_B.fingerprint, signature=private)
    refused(msgspec.json.encode(signed), Disbelief.BAD_SIGNATURE)


@pytest.mark.row("BP-44")
@given(at=st.integers(0, 2000), value=st.integers(0, 255), cut=st.integers(0, 2000))
def test_no_single_byte_can_be_changed(at: int, value: int, cut: int) -> None:
    good = datagram()
    changed = bytearray(good)
    changed[at % len(good)] = value
    onlooker = Onlooker()
    for data in (bytes(changed), good[: cut % len(good)]):
        result = onlooker.read(data)
        assert isinstance(result, Disbelief) or result == echo()
        assert onlooker.believed in (None, echo())


@given(st.binary(max_size=300))
def test_any_bytes_are_read(data: bytes) -> None:
    assert isinstance(Onlooker().read(data), Disbelief)


# --- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-24")
@pytest.mark.parametrize("slots", range(8))
@pytest.mark.parametrize("probes", [0, 1, 4])
def test_an_echo_fits_a_datagram_and_says_the_most_important(slots: int, probes: int) -> None:
    observed = tuple(seen(path(slots, choice), 10**6 + choice) for choice in (1, 7, 3, 8))
    data = EchoWriter(KEY_B, SESSION).write(
        report(observed=observed),
        returned_nanodollars=10**12,
        probes=[probe(number, slots) for number in range(probes)],
        unix_ms=NOW_MS,
    )
    assert len(data) <= DATAGRAM_BYTES <= 1200
    believed = Onlooker().read(data)
    assert isinstance(believed, Echo)
    assert [reply.probe for reply in believed.probes] == list(range(len(believed.probes)))
    assert believed.probes or not probes
    if not probes:
        told = [seen.oads for seen in believed.observations]
        assert told == [path(slots, choice) for choice in (1, 8, 7)][: len(told)]
        assert len(told) >= (3, 2, 2, 2, 2, 1, 1, 1)[slots]


def test_an_echo_with_the_longest_of_everything_fits() -> None:
    greatest = report(observed=(seen(path(7), 2**62 // 9),) * 4, flow=LONG_FLOW, count=2**62 // 100)
    data = EchoWriter(KEY_B, SESSION).write(
        greatest, returned_nanodollars=2**62, probes=[probe(1, 7)] * 9, unix_ms=2**62 - 1
    )
    assert len(data) <= DATAGRAM_BYTES
    signed = msgspec.json.decode(data, type=Signed)
    assert msgspec.json.decode(signed.document, type=Echo).packets == 2**62 // 100
