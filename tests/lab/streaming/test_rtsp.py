from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.streaming import rtsp
from lab.streaming.rtsp import Method, Reader, Request, Response, RtspError, Status

WORDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)
NAMES = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz-"), min_size=1, max_size=12).filter(
    lambda name: name not in ("cseq", "content-length")
)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30).map(lambda text: text.strip(" "))
REQUESTS = st.builds(
    Request,
    method=WORDS.filter(lambda word: word != rtsp.VERSION),
    uri=WORDS,
    sequence=st.integers(0, 2**31),
    headers=st.dictionaries(NAMES, VALUES, max_size=5),
    body=st.binary(max_size=60),
)


@settings(max_examples=60, deadline=None)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=4), cuts=st.lists(st.integers(1, 50), max_size=20))
def test_requests_come_out_as_they_went_in_however_they_are_cut(requests: list[Request], cuts: list[int]) -> None:
    data = b"".join(rtsp.request_bytes(request) for request in requests)
    reader, read = Reader(), []
    for size in [*cuts, len(data)]:
        reader.feed(data[:size])
        data = data[size:]
        while (message := reader.next()) is not None:
            read.append(message)
    assert read == requests


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300) | st.text(max_size=200).map(lambda text: f"PLAY {text} RTSP/1.0\r\n\r\n".encode()))
def test_whatever_comes_is_a_message_or_an_rtsp_error(data: bytes) -> None:
    reader = Reader()
    reader.feed(data)
    with contextlib.suppress(RtspError):
        while (message := reader.next()) is not None:
            assert len(message.body) <= rtsp.MOST_BODY_BYTES


def test_answers() -> None:
    request = Request(method="PLAY", uri="rtsp://host/video", sequence=7)
    answer = rtsp.answer(request, Status.SESSION_NOT_FOUND, {"X-Why": "gone"})
    data = rtsp.response_bytes(answer)
    assert data == b"RTSP/1.0 454 Session Not Found\r\nCSeq: 7\r\nX-Why: gone\r\n\r\n"
    reader = Reader()
    reader.feed(data)
    headers = {"x-why": "gone"}
    assert reader.next() == Response(code=454, reason="Session Not Found", sequence=7, headers=headers)
    assert reader.next() is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GET / HTTP/1.1\r\nCSeq: 1\r\n\r\n", "not RTSP/1.0"),
        (b"PLAY rtsp://h/v RTSP/1.0\r\n\r\n", "CSeq"),
        (b"PLAY rtsp://h/v RTSP/1.0\r\nCSeq: -1\r\n\r\n", "CSeq"),
        (b"PLAY rtsp://h/v RTSP/1.0\r\nCSeq: 1\r\nCSeq: 2\r\n\r\n", "said twice"),
        (b"PLAY rtsp://h/v RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 99999999\r\n\r\n", "Content-Length"),
        (b"PLAY rtsp://h/v RTSP/1.0\r\nCSeq: 1\r\nno header\r\n\r\n", "not a header"),
        (b"PLAY rtsp://h/v RTSP/1.0\r\nCSeq: 1\r\nA: \xff\r\n\r\n", "ASCII"),
        (b"x" * 9_000, "longer than"),
        (b"PLAY rtsp://h/v RTSP/1.0" + b"\r\nA: b" * 40 + b"\r\n\r\n", "more than 32"),
    ],
)
def test_what_is_not_taken(data: bytes, said: str) -> None:
    reader = Reader()
    reader.feed(data)
    with pytest.raises(RtspError, match=said):
        reader.next()


def test_nothing_is_written_that_a_header_cannot_hold() -> None:
    for headers in ({"A": "b\r\nC: d"}, {"A:": "b"}, {"A B": "c"}, {"A": "ü"}):
        with pytest.raises(RtspError):
            rtsp.request_bytes(Request(method=Method.PLAY, uri="rtsp://h/v", sequence=1, headers=headers))
    with pytest.raises(RtspError):
        rtsp.request_bytes(Request(method=Method.PLAY, uri="rtsp://h/v x", sequence=1))


@given(values=st.dictionaries(NAMES, st.integers(0, 2**62), max_size=8))
def test_parameters(values: dict[str, int]) -> None:
    assert rtsp.parameters(rtsp.parameters_body(values)) == values


@pytest.mark.parametrize("body", [b"target-rate: fast", b"target-rate", b"target-rate: -1", b"a: 1e9", b"\xff: 1"])
def test_parameters_are_numbers(body: bytes) -> None:
    with pytest.raises(RtspError):
        rtsp.parameters(body)
