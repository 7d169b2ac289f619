"""What the learner sees of a transfer."""

from __future__ import annotations

import datetime

import pytest

from secretary.kinds import shipped_kinds
from secretary.learning.contexts import PROGRAM, Codebook, Seer, domain_of
from secretary.transfers import Moment, Transfer

NOON = Moment(unix_s=43_200, boot_ns=0, boot="", zone=datetime.UTC)
SEER = Seer(shipped_kinds())


@pytest.mark.parametrize(
    ("transfer", "kind"),
    [
        (Transfer(program="firefox"), "web"),
        (Transfer(program="firefox", kind="call"), "call"),
        (Transfer(program="firefox", kind="no such kind"), "web"),
        (Transfer(program="cloud-backup2"), "sync"),
        (Transfer(program="Video_Call"), "stream"),
        (Transfer(program="app7"), "default"),
        (Transfer(), "default"),
    ],
)
def test_kinds(transfer: Transfer, kind: str) -> None:
    assert SEER.see(transfer, NOON).kind == kind


def test_hours_are_local_and_sizes_in_steps() -> None:
    there = Moment(unix_s=43_200, boot_ns=0, boot="", zone=datetime.timezone(datetime.timedelta(hours=3)))
    assert SEER.see(Transfer(), NOON).hour == 12
    assert SEER.see(Transfer(), there).hour == 15
    assert SEER.see(Transfer(size_bytes=0), NOON).log_bytes is None
    assert SEER.see(Transfer(size_bytes=1000), NOON) == SEER.see(Transfer(size_bytes=1010), NOON)


@pytest.mark.parametrize(
    ("destination", "domain"),
    [
        ("a.b.example.org", "example.org"),
        ("localhost", "localhost"),
        ("192.0.2.7", "192.0"),
        ("2001:db8:1:2::3", "2001:db8:1"),
        ("", ""),
    ],
)
def test_domains(destination: str, domain: str) -> None:
    assert domain_of(destination) == domain


def test_an_unknown_name_is_like_nothing() -> None:
    known, other = SEER.see(Transfer(program="a"), NOON), SEER.see(Transfer(program="b"), NOON)
    book = Codebook([known])
    assert book.codes([known])[0, PROGRAM] == 0
    assert book.codes([other])[0, PROGRAM] == -1
    assert len(book.codes([])) == 0
