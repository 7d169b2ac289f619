from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.sessions import Payer
from lab.streaming import rtsp
from lab.streaming.describing import Description, description_text, parse_description
from lab.streaming.reacting import default_policy
from lab.streaming.reception import Counts
from lab.streaming.rtsp import Method, Request
from lab.streaming.serving import (
    PAYER,
    TARGET,
    Pacing,
    Report,
    ServerSession,
    Stage,
    client_port,
    level_for,
    report_values,
    transport_port,
)
from pricereactor import sdp

FILM = Description(ladder_bit_s=(300_000, 750_000, 1_200_000), duration_ms=24_000, segment_ms=1_000)
TRANSPORT = {"transport": "RTP/AVP;unicast;client_port=5004-5005"}
S = 1_000_000_000


def server(payer: Payer = Payer.RECEIVER) -> ServerSession:
    local = sdp.with_policy(description_text(FILM), default_policy(FILM.ladder_bit_s))
    return ServerSession(local, session="abcd", payer=payer, interval_ms=500, server_port=7_000)


def ask(
    session: ServerSession, method: str, headers: dict[str, str] | None = None, values: dict[str, int] | None = None
) -> rtsp.Response:
    body = rtsp.parameters_body(values) if values else b""
    return session.handle(Request(method=method, uri="rtsp://h/v", sequence=3, headers=headers or {}, body=body))


def playing(payer: Payer = Payer.RECEIVER) -> ServerSession:
    session = server(payer)
    assert ask(session, Method.SETUP, TRANSPORT).code == 200
    assert ask(session, Method.PLAY, {"session": "abcd"}).code == 200
    assert session.stage is Stage.PLAYING
    return session


def test_from_options_to_teardown() -> None:
    session = server()
    assert "SET_PARAMETER" in ask(session, Method.OPTIONS).headers["Public"]
    described = ask(session, Method.DESCRIBE)
    assert parse_description(described.body.decode()) == FILM
    ready = ask(session, Method.SETUP, TRANSPORT)
    assert transport_port(ready.headers["Transport"], "server_port") == 7_000
    assert session.client_port == 5_004
    assert ask(session, Method.PLAY, {"session": "abcd"}).code == 200
    assert ask(session, Method.TEARDOWN, {"session": "abcd"}).sequence == 3
    assert session.stage is Stage.ENDED


@pytest.mark.row("DPH-30")
def test_the_payer_at_the_receiver_sets_the_senders_rate_in_the_middle_of_a_session() -> None:
    session = playing()
    for rate in (750_000, 300_000, 0, 1_200_000):
        assert ask(session, Method.SET_PARAMETER, {"session": "abcd"}, {TARGET: rate}).code == 200
        assert session.target_bit_s == rate
    assert session.targets_heard == 4


def test_the_payer_at_the_sender_hears_counts_and_only_those() -> None:
    session = playing(Payer.SENDER)
    report = Report(counts=Counts(packets=100, bytes=135_600, ce=7, ect=93, lost=1), buffer_ms=7_900)
    assert ask(session, Method.SET_PARAMETER, {"session": "abcd"}, report_values(report)).code == 200
    assert session.report == report
    assert ask(session, Method.SET_PARAMETER, {"session": "abcd"}, {TARGET: 1}).code == 451
    assert session.target_bit_s is None, "who does not pay does not decide"


def test_what_a_session_is_worth_is_in_no_answer() -> None:
    session = server(Payer.SENDER)
    for method, headers in ((Method.OPTIONS, {}), (Method.DESCRIBE, {}), (Method.SETUP, TRANSPORT)):
        answer = rtsp.response_bytes(ask(session, method, headers)).lower()
        assert b"x-buy" not in answer
        assert b"value" not in answer


@pytest.mark.parametrize(
    ("method", "headers", "code"),
    [
        ("RECORD", {}, 501),
        (Method.PLAY, {"session": "abcd"}, 455),
        (Method.PLAY, {"session": "other"}, 454),
        (Method.TEARDOWN, {}, 454),
        (Method.SETUP, {}, 461),
        (Method.SETUP, {"transport": "RTP/AVP/TCP;unicast;client_port=5-6"}, 461),
        (Method.SETUP, {"transport": "RTP/AVP;multicast;client_port=5-6"}, 461),
        (Method.SETUP, {**TRANSPORT, PAYER: "sender"}, 400),
    ],
)
def test_what_is_refused(method: str, headers: dict[str, str], code: int) -> None:
    session = server()
    assert ask(session, method, headers).code == code
    assert session.stage is Stage.NEW


@pytest.mark.parametrize("values", [{"volume": 3}, {TARGET: 1, "volume": 3}, {"packets": 3}])
def test_other_parameters_are_not_understood(values: dict[str, int]) -> None:
    session = playing()
    assert ask(session, Method.SET_PARAMETER, {"session": "abcd"}, values).code == 451
    assert session.target_bit_s is None


def test_a_session_is_set_up_once() -> None:
    assert ask(playing(), Method.SETUP, TRANSPORT).code == 455


@given(text=st.text(max_size=40) | st.text(max_size=12).map(lambda text: f"RTP/AVP;unicast;client_port={text}"))
def test_ports(text: str) -> None:
    port = client_port(text)
    assert port is None or 0 < port < 65_536


@pytest.mark.row("DPH-14")
def test_the_senders_encoding_is_the_highest_that_the_target_carries() -> None:
    ladder = FILM.ladder_bit_s
    levels = [level_for(ladder, rate) for rate in (0, 299_999, 300_000, 749_999, 750_000, 1_200_000, 10**9)]
    assert levels == [0, 0, 0, 0, 1, 2, 2]


def test_packets_are_due_at_their_time() -> None:
    pacing = Pacing(5 * S)
    assert pacing.due_ns(5 * S, media_ns=0, wire_bytes=1_250, most_bit_s=None) == 5 * S
    assert pacing.due_ns(5 * S, media_ns=S, wire_bytes=1_250, most_bit_s=None) == 6 * S
    assert pacing.due_ns(7 * S, media_ns=2 * S, wire_bytes=1_250, most_bit_s=None) == 7 * S


def test_a_target_below_the_lowest_encoding_stretches_the_video() -> None:
    """1,250 bytes at 5 kbit/s are 2 s each, and what follows comes later too."""
    pacing = Pacing(0)
    due = [pacing.due_ns(0, media_ns=n * S, wire_bytes=1_250, most_bit_s=5_000) for n in range(3)]
    assert due == [2 * S, 4 * S, 6 * S]
    assert pacing.due_ns(6 * S, media_ns=3 * S, wire_bytes=1_250, most_bit_s=None) == 7 * S


def test_who_was_stopped_for_long_does_not_make_up_for_it_in_a_burst() -> None:
    pacing = Pacing(0)
    assert pacing.due_ns(0, media_ns=0, wire_bytes=1_250, most_bit_s=None) == 0
    assert pacing.due_ns(20 * S, media_ns=S, wire_bytes=1_250, most_bit_s=None) == 20 * S
    assert pacing.due_ns(20 * S, media_ns=2 * S, wire_bytes=1_250, most_bit_s=None) == 21 * S
