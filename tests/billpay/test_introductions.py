"""Descriptions handed on from ISP to ISP: only what its issuer signed of itself, no loops, and bounds."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from billpay.introductions import (
    CLOCKS_APART_S,
    MAX_AGE_S,
    MAX_DOCUMENTS,
    MAX_DOCUMENTS_OF_AN_AS,
    MAX_TOLD_BYTES,
    Introductions,
)
from billpay.messages import MAX_HOPS, IntroducedOad, IntroducedOads, OadAlternative, OadDescription
from billpay.signing import SigningKey, fingerprint_of, sign

pytestmark = pytest.mark.row("BP-22")
NOW = 1_790_000_000
W, X, Y, Z = 64511, 64512, 64513, 64514
KEYS = {number: SigningKey(number.to_bytes(32, "big")) for number in (W, X, Y, Z, 1)}


def described(
    as_number: int,
    *,
    serial: int = 1,
    prefix: str = "203.0.113.0/24",
    by: int = 0,
    title: str = "",
    age_s: int = 0,
    alternatives: int = 2,
) -> IntroducedOad:
    """As its issuer hands it on; `by`: the AS whose key signs, when it is another one."""
    key = KEYS[by or as_number]
    description = OadDescription(
        issuer=key.fingerprint,
        as_number=as_number,
        serial=serial,
        prefix=prefix,
        alternatives=tuple(OadAlternative(number=1 + k, title=title) for k in range(alternatives)),
        published_unix_s=NOW - age_s,
        expires_unix_s=NOW - age_s + 3600,
    )
    return IntroducedOad(signed=sign(key, description), public_key=key.public_key, hops=0)


def handed_on(document: IntroducedOad, hops: int = 1) -> IntroducedOad:
    return msgspec.structs.replace(document, hops=hops)


def known_by(own_as: int, *neighbours: int) -> Introductions:
    return Introductions(own_as=own_as, neighbours={number: KEYS[number].public_key for number in neighbours})


def heard(book: Introductions, teller: int, *documents: IntroducedOad, now: int = NOW) -> list[tuple[int, int]]:
    return [(one.as_number, one.serial) for one in book.hear(teller, documents, now_unix_s=now)]


def told(book: Introductions, listener: int, now: int = NOW) -> list[tuple[int, int]]:
    """AS number and hops."""
    documents = book.tell(listener, (), now_unix_s=now)
    return [(msgspec.json.decode(one.signed.document, type=OadDescription).as_number, one.hops) for one in documents]


def test_a_description_reaches_hosts_and_gateways_further_on_unchanged() -> None:
    original = described(Z)
    x, w, host = known_by(X, W, Z), known_by(W, X), known_by(0, W)
    assert heard(x, Z, original) == [(Z, 1)]
    assert told(x, Z) == [], "not back"
    assert heard(w, X, *x.tell(W, (), now_unix_s=NOW)) == [(Z, 1)]
    (arrived,) = w.tell(0, (), now_unix_s=NOW)
    assert (arrived.signed, arrived.public_key, arrived.hops) == (original.signed, original.public_key, 2)
    assert heard(host, W, arrived) == [(Z, 1)]
    assert msgspec.json.decode(msgspec.json.encode(IntroducedOads(documents=(arrived,))), type=IntroducedOads)


def test_only_a_newer_document_is_taken_in() -> None:
    x = known_by(X, Z)
    assert heard(x, Z, described(Z, serial=5)) == [(Z, 5)]
    assert heard(x, Z, described(Z, serial=5), described(Z, serial=4), described(Z, serial=5, title="other")) == []
    assert heard(x, Z, described(Z, serial=6)) == [(Z, 6)]
    assert x.refused == 0, "an old one is nobody's fault"


def test_documents_do_not_go_round() -> None:
    books = {X: known_by(X, Y, Z), Y: known_by(Y, X, Z), Z: known_by(Z, X, Y)}
    own = {X: described(X)}
    taken = 0
    for _ in range(20):
        for teller, book in books.items():
            for listener in books.keys() - {teller}:
                documents = book.tell(listener, [own[teller]] if teller in own else [], now_unix_s=NOW)
                taken += len(books[listener].hear(teller, documents, now_unix_s=NOW))
    assert taken == 2, "Y and Z each once, X never its own"
    assert sum(book.refused for book in books.values()) == 0


def forged(change: Callable[[IntroducedOad], IntroducedOad]) -> IntroducedOad:
    return change(handed_on(described(Z)))


def with_document(document: bytes) -> Callable[[IntroducedOad], IntroducedOad]:
    return lambda one: msgspec.structs.replace(one, signed=msgspec.structs.replace(one.signed, document=document))


WRONG = {
    "another key than the one that signed": forged(
        lambda one: msgspec.structs.replace(one, public_key=KEYS[1].public_key)
    ),
    "altered": forged(with_document(described(Z, title="better").signed.document)),
    "by an issuer about another": forged(
        lambda one: IntroducedOad(
            signed=sign(KEYS[1], msgspec.json.decode(one.signed.document, type=OadDescription)),
            public_key=KEYS[1].public_key,
            hops=1,
        )
    ),
    "another's, as if it were the teller's own": described(Z),
    "our own AS": handed_on(described(X, by=1)),
    "a neighbour's AS with another key": handed_on(described(Y, by=1)),
    "expired": handed_on(described(Z, age_s=3600)),
    "of the future": handed_on(described(Z, age_s=-CLOCKS_APART_S - 1)),
    "too large": handed_on(described(Z, alternatives=11, title="x" * 400)),
}


@pytest.mark.parametrize("why", WRONG)
def test_what_is_not_what_it_says_is_left_out_and_the_rest_is_taken(why: str) -> None:
    x = known_by(X, W, Y)
    assert heard(x, W, WRONG[why], described(W)) == [(W, 1)]
    assert x.refused == 1


def test_the_first_key_of_a_stranger_speaks_until_its_documents_expire() -> None:
    x = known_by(X, W, Y)
    assert heard(x, W, handed_on(described(Z))) == [(Z, 1)]
    assert heard(x, Y, handed_on(described(Z, serial=9, by=1))) == []
    later = NOW + MAX_AGE_S
    again = handed_on(described(Z, serial=9, by=1, age_s=-MAX_AGE_S))
    assert heard(x, Y, again, now=later) == [(Z, 9)]


def test_it_ends_after_so_many_hands() -> None:
    x = known_by(X, W, Y)
    heard(x, W, handed_on(described(Z), MAX_HOPS - 1), handed_on(described(1, prefix="::/0"), MAX_HOPS))
    assert told(x, Y) == [(Z, MAX_HOPS)]
    assert told(x, 0) == [(Z, MAX_HOPS)]


def test_nothing_grows_without_bounds() -> None:
    x = known_by(X, W)
    many = [handed_on(described(Z, prefix=f"10.{k}.0.0/16")) for k in range(MAX_DOCUMENTS_OF_AN_AS + 5)]
    assert len(heard(x, W, *many)) == MAX_DOCUMENTS_OF_AN_AS
    for number in range(2, 20):
        KEYS.setdefault(number, SigningKey(number.to_bytes(32, "big")))
        heard(x, W, *(handed_on(described(number, prefix=f"10.{k}.0.0/16", title="t" * 300)) for k in range(32)))
    everything = x.tell(0, (), now_unix_s=NOW)
    assert len(everything) <= MAX_DOCUMENTS
    assert sum(len(one.signed.document) for one in everything) <= MAX_TOLD_BYTES
    assert len(msgspec.json.encode(IntroducedOads(documents=everything))) < 256 * 1024


def test_own_documents_come_first_and_fingerprints_are_of_the_keys() -> None:
    x = known_by(X, W, Z)
    heard(x, Z, described(Z))
    own = described(X)
    first, second = x.tell(W, [own], now_unix_s=NOW)
    assert first == own
    assert second.signed.signer == fingerprint_of(second.public_key)
