"""DNS messages, against scapy as an independent writer and reader."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRR, DNSRRSRV

from hostagent.networks.dns_messages import MalformedMessage, Record, RecordType, pack_query, read_answers

NAME = "r._billpay._tcp.local"


def answer() -> bytes:
    return bytes(
        DNS(
            id=7,
            qr=1,
            qd=[DNSQR(qname="_billpay._tcp.local", qtype="PTR")],
            an=[DNSRR(rrname="_billpay._tcp.local", type="PTR", rdata=NAME, ttl=10)],
            ar=[
                DNSRRSRV(rrname=NAME, port=7414, target="R.local", ttl=10, priority=5, weight=0, rclass=0x8001),
                DNSRR(rrname="R.local", type="A", rdata="192.0.2.1", ttl=10),
                DNSRR(rrname="R.local", type="AAAA", rdata="fe80::1", ttl=10),
                DNSRR(rrname="R.local", type="TXT", rdata=b"x=1", ttl=10),
            ],
        )
    )


def test_a_query_is_read_by_others() -> None:
    sent = pack_query([("_billpay._tcp.local", RecordType.PTR)], identifier=9, recursion=False, unicast=True)
    read = DNS(sent)
    question = read.qd[0]
    assert (read.id, read.rd, question.qname, question.qtype) == (9, 0, b"_billpay._tcp.local.", 12)
    assert question.unicastresponse == 1 if hasattr(question, "unicastresponse") else question.qclass == 0x8001
    recursive = DNS(pack_query([("a.example", RecordType.SRV)], identifier=1, recursion=True))
    assert (recursive.rd, recursive.qd[0].qtype, recursive.qd[0].qclass) == (1, 33, 1)


def test_an_answer_of_others_is_read() -> None:
    answers = read_answers(answer())
    assert answers.identifier == 7
    assert answers.records == (
        Record(name="_billpay._tcp.local", type=RecordType.PTR, text=NAME),
        Record(name=NAME, type=RecordType.SRV, text="r.local", port=7414, priority=5),
        Record(name="r.local", type=RecordType.A, text="192.0.2.1"),
        Record(name="r.local", type=RecordType.AAAA, text="fe80::1"),
    )


def test_compressed_names_lead_backwards_only() -> None:
    head = b"\0\7\x84\0\0\0\0\1\0\0\0\0"
    itself = head + b"\xc0\x0c" + b"\0\x0c\0\1\0\0\0\0\0\2\xc0\x0c"
    with pytest.raises(MalformedMessage):
        read_answers(itself)
    forwards = head + b"\xc0\x40" + b"\0\x0c\0\1\0\0\0\0\0\2\xc0\x0c" + bytes(60)
    with pytest.raises(MalformedMessage):
        read_answers(forwards)


def test_a_question_is_no_answer_and_a_refusal_names_nothing() -> None:
    with pytest.raises(MalformedMessage):
        read_answers(bytes(DNS(qr=0, qd=[DNSQR(qname="a.example")])))
    assert read_answers(bytes(DNS(id=5, qr=1, rcode=3, qd=[DNSQR(qname="a.example")]))).records == ()


def test_no_part_of_an_answer_is_taken_for_the_whole() -> None:
    whole = answer()
    for end in range(len(whole)):
        with pytest.raises(MalformedMessage):
            read_answers(whole[:end])


@given(st.binary(max_size=200))
def test_any_datagram_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        read_answers(b"\0\0\x84\0" + data)


@given(st.binary(max_size=8), st.integers(0, 150))
def test_any_change_of_an_answer_is_read_or_refused(noise: bytes, at: int) -> None:
    whole = answer()
    with contextlib.suppress(MalformedMessage):
        read_answers(whole[:at] + noise + whole[at + len(noise) :])


def test_a_name_that_cannot_be_asked_for() -> None:
    for name in ("a..b", "x" * 64 + ".example", ".".join(["x" * 60] * 5)):
        with pytest.raises(ValueError, match="domain name"):
            pack_query([(name, RecordType.A)], identifier=0, recursion=True)
