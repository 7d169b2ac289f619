"""A policy in a session description: nothing is lost, nothing is guessed, nothing leaks."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from possible_policies import possible_policies

from billpay.errors import ConfigurationError
from pricereactor.policy import TaskKind, TaskPolicy, ValuePoint
from pricereactor.sdp import from_sdp, read_sdp, to_sdp, with_policy, without_policy

DESCRIPTION = (
    "v=0\r\no=- 3724394400 3724394405 IN IP4 198.51.100.1\r\ns=Film\r\nc=IN IP6 2001:db8::2\r\nt=0 0\r\n"
    "a=recvonly\r\na=x-buyer:not ours\r\nm=video 51372 RTP/AVP 99\r\na=rtpmap:99 h263-1998/90000\r\n"
)
FILM = TaskPolicy(
    name="film",
    kind=TaskKind.STREAMING,
    willingness_nanodollars_per_s=3_000,
    value=(ValuePoint(rate_bit_s=300_000, nanodollars_per_s=1), ValuePoint(rate_bit_s=900_000, nanodollars_per_s=2)),
    ladder_bit_s=(300_000, 750_000),
    attended=True,
    notice_s=30,
)
LINES = (
    "a=x-buy:task film streaming",
    "a=x-buy:willingness 3000",
    "a=x-buy:notice 30",
    "a=x-buy:value 300000/1 900000/2",
    "a=x-buy:ladder 300000 750000",
    "a=x-buy:attended yes",
)


@pytest.mark.row("DPH-28")
def test_policy_is_written_in_attributes_and_read_in_any_order_and_with_either_line_end() -> None:
    assert to_sdp(FILM) == LINES
    for lines in (LINES, LINES[::-1]):
        for end in ("\r\n", "\n"):
            assert from_sdp(end.join(lines)) == FILM
            assert from_sdp(end.join((*lines, ""))) == FILM


@pytest.mark.row("DPH-28")
@given(possible_policies(), st.randoms(use_true_random=False))
def test_every_possible_policy_comes_back_as_it_went(policy: TaskPolicy, order: object) -> None:
    lines = list(to_sdp(policy))
    order.shuffle(lines)  # type: ignore[attr-defined]
    assert from_sdp("\r\n".join(lines)) == policy
    assert from_sdp(with_policy(DESCRIPTION, policy)) == policy
    assert without_policy(with_policy(DESCRIPTION, policy)) == DESCRIPTION


def test_every_field_has_an_attribute() -> None:
    other = {"max_bit_s": 10**7, "session_budget_nanodollars": 4, "day_budget_nanodollars": 5}
    other |= {"price_ceiling_nanodollars_per_mb": 6, "largest_rate_change_ppm": 7, "largest_price_change_ppm": 8}
    full = msgspec.structs.replace(FILM, buffer_ms=9, most_switches_per_minute=10, min_bit_s=11_000, **other)
    transfer = TaskPolicy(name="t", kind=TaskKind.TRANSFER, size_bytes=1, deadline_s=2, session_budget_nanodollars=3)
    defaults = {field.name: field.default for field in msgspec.structs.fields(TaskPolicy)}
    changed = {name for policy in (full, transfer) for name in defaults if getattr(policy, name) != defaults[name]}
    assert changed == set(defaults)
    for policy in (full, transfer):
        assert from_sdp("\n".join(to_sdp(policy))) == policy


@pytest.mark.row("DPH-28")
def test_unknown_attributes_are_passed_over_and_those_of_our_prefix_are_named() -> None:
    assert from_sdp(DESCRIPTION) is None
    reading = read_sdp(with_policy(DESCRIPTION, FILM).replace("s=Film", "s=Film\r\na=x-buy:colour red"))
    assert reading.policy == FILM
    assert reading.passed_over == ((4, "a=x-buy:colour red"),)


@pytest.mark.row("DPH-28")
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a=x-buy:max-rate", "line 3, x-buy:max-rate: has no value (write a=x-buy:max-rate VALUE)"),
        ("a=x-buy:max-rate 1e6", "line 3, x-buy:max-rate: '1e6' is no whole number"),
        ("a=x-buy:max-rate -1", "'-1' is no whole number"),
        ("a=x-buy:max-rate 010000", "'010000' is no whole number"),
        ("a=x-buy:max-rate ٣٠٠٠٠", "is no whole number"),
        ("a=x-buy:max-rate 10000 20000", "'10000 20000' is no whole number"),
        ("a=x-buy:max-rate  10000", "' 10000' is no whole number"),
        ("a=x-buy:max-rate 10000 ", "'10000 ' is no whole number"),
        ("a=x-buy:max-rate 400000000001", "line 3, x-buy:max-rate: Expected `int` <= 400000000000"),
        ("a=x-buy:max-rate 99999999999999999999", "line 3, x-buy:max-rate"),
        ("a=x-buy:max-rate 10000", "line 1, x-buy:min-rate: 64000 is above max_bit_s 10000"),
        ("a=x-buy:attended maybe", "line 3, x-buy:attended: is 'maybe' (say yes or no)"),
        ("a=x-buy:value 9000/1 9000", "line 3, x-buy:value: '9000' is no point"),
        ("a=x-buy:value 9000/1/2", "x-buy:value: '9000/1/2' is no point"),
        ("a=x-buy:value 9000/2 10000/1", "line 3, x-buy:value: 1 falls"),
        ("a=x-buy:value", "line 3, x-buy:value: has no value"),
        ("a=x-buy:ladder", "line 3, x-buy:ladder: has no value"),
        ("a=x-buy:task other bulk", "line 3, x-buy:task: was given in line 1 already (say it once)"),
        ("a=x-buy:willingness 5", "line 3, x-buy:willingness: was given in line 2 already (say it once)"),
        ("a=x-buy", "line 3: 'a=x-buy' is no x-buy attribute"),
        ("a=X-Buy:max-rate 100000", "line 3: 'a=X-Buy:max-rate 100000' is no x-buy attribute"),
        (" a=x-buy:max-rate 100000", "is no x-buy attribute"),
        ("m=audio 1 RTP/AVP 0\na=x-buy:max-rate 100000", "line 4, x-buy:max-rate: is in a media section"),
    ],
)
def test_bad_value_of_a_known_attribute_is_refused_with_its_line(line: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        from_sdp(f"a=x-buy:task film elastic\na=x-buy:willingness 1\n{line}\n")
    assert str(refused.value).startswith("session description: line ")
    assert says in str(refused.value)


def test_attributes_without_a_task_and_tasks_that_cannot_be_are_refused() -> None:
    for text in ("a=x-buy:willingness 1", "a=x-buy:task film", "a=x-buy:task Film bulk", "a=x-buy:task film fast"):
        with pytest.raises(ConfigurationError, match="line 1"):
            from_sdp(text)
    with pytest.raises(ConfigurationError, match="line 1, x-buy:willingness: is 0"):
        from_sdp("a=x-buy:task film bulk")


def test_policy_stands_before_the_media_and_replaces_another() -> None:
    once = with_policy(DESCRIPTION, FILM)
    assert once == DESCRIPTION.replace("m=video", "".join(f"{line}\r\n" for line in LINES) + "m=video")
    other = msgspec.structs.replace(FILM, name="other")
    assert from_sdp(with_policy(once, other)) == other
    bare = "v=0\ns=x"
    assert with_policy(bare, FILM) == "v=0\ns=x\n" + "".join(f"{line}\n" for line in LINES)
    with pytest.raises(ConfigurationError, match="is this a session description"):
        with_policy("hello", FILM)
    with pytest.raises(ConfigurationError, match="would never pay"):
        with_policy(DESCRIPTION, TaskPolicy(name="a"))


@pytest.mark.row("DPH-28")
@given(
    st.lists(
        st.sampled_from(
            ["\r", "\n", "\r\n", "\x85", "a=x-buy:", "A=X-BUY:", " a = x-buy", "a=x-buyer:1", "m=a", "v=0", "task"]
        )
        | st.text(max_size=4),
        max_size=20,
    ).map("".join)
)
def test_nothing_that_anybody_could_read_as_a_policy_leaves(text: str) -> None:
    bare = without_policy(text)
    assert from_sdp(bare) is None
    assert read_sdp(bare).passed_over == ()
    assert without_policy(bare) == bare
    assert not any(line.startswith("a=x-buy:") for line in bare.splitlines())


@given(st.text(alphabet="a=x-buy:tskmnvlue 0123456789/\r\n", max_size=80) | st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    refused = ""
    try:
        from_sdp("a=x-buy:" + text)
    except ConfigurationError as error:
        refused = str(error)
    assert "\n" not in refused
