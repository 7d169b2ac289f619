from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.streaming.describing import Description, DescriptionError, description_text, parse_description, public_text
from lab.streaming.reacting import default_policy
from pricereactor import sdp

LADDERS = st.sets(st.integers(8_000, 10**9), min_size=1, max_size=8).map(lambda rates: tuple(sorted(rates)))
FILM = Description(ladder_bit_s=(300_000, 750_000, 1_200_000), duration_ms=24_000, segment_ms=1_000)


@given(ladder=LADDERS, duration_ms=st.integers(1, 86_000_000), segment_ms=st.integers(1, 60_000))
def test_there_and_back(ladder: tuple[int, ...], duration_ms: int, segment_ms: int) -> None:
    description = Description(ladder_bit_s=ladder, duration_ms=duration_ms, segment_ms=segment_ms)
    assert parse_description(description_text(description)) == description


@settings(max_examples=150)
@given(lines=st.lists(st.sampled_from(description_text(FILM).splitlines()) | st.text(max_size=30), max_size=12))
def test_whatever_comes_is_a_description_or_an_error(lines: list[str]) -> None:
    with contextlib.suppress(DescriptionError):
        found = parse_description("\r\n".join(["v=0", *lines]))
        assert found.ladder_bit_s == tuple(sorted(set(found.ladder_bit_s)))


def test_a_policy_of_the_local_description_is_not_sent() -> None:
    policy = default_policy(FILM.ladder_bit_s)
    local = sdp.with_policy(description_text(FILM), policy)
    assert sdp.from_sdp(local) == policy
    assert public_text(local) == description_text(FILM)
    assert "x-buy" not in public_text(local)
    assert parse_description(local) == FILM, "a reader that knows no such attribute passes over it"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s=no version",
        "v=0\r\na=range:npt=0-3",
        description_text(FILM).replace("rate=750000", "rate=200000"),
        description_text(FILM).replace("a=fmtp:97", "a=fmtp:98"),
        description_text(FILM).replace("a=fmtp:97", "a=fmtp:12"),
        description_text(FILM).replace("a=range", "a=r"),
        "v=0" + "x" * 70_000,
    ],
)
def test_what_cannot_be_played(text: str) -> None:
    with pytest.raises(DescriptionError):
        parse_description(text)
