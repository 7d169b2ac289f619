"""Descriptions of ISPs that are not our neighbours, handed on by those who are: what of them may be believed.

Decides: which documents are taken in, kept and handed on. Refuses to know: connections and clocks (times are
arguments), and whether an ISP keeps what it promises (the cartographer's judge finds out). Pure; the same code in
gateways and in hosts. Source: Bill-Pay 2.2, "ISPs may publish the meaning of their OADs".

Each document is signed by its issuer and handed on unchanged with the issuer's public key. A neighbour is known by the
key and the AS number that the configuration gives it, and no other key ever speaks for that AS. Of an AS further away
the first key that was introduced speaks, until its last document expires. So a neighbour can hide an ISP or introduce
it falsely, as long as no neighbour of ours is that ISP; it cannot alter a document, and an issuer can only ever
describe the AS that it was introduced as.

A document is taken in only when its serial is above the one held, so that nothing goes round; it has been handed on
MAX_HOPS times at most, and is never given back to who gave it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from billpay.errors import RemoteProtocolError
from billpay.messages import MAX_HOPS, IntroducedOad, OadDescription
from billpay.signing import verify

MAX_DOCUMENTS = 256
MAX_DOCUMENTS_OF_AN_AS = 32
MAX_DOCUMENT_BYTES = 4096
MAX_TOLD_BYTES = 128 << 10
"""Of signed documents in one message: in base64, with all around them, it stays below a control message's limit."""
MAX_AGE_S = 7200
CLOCKS_APART_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    introduced: IntroducedOad
    description: OadDescription
    teller: int  # AS number of who gave it to us


@dataclass(slots=True, kw_only=True)
class Introductions:
    """`neighbours`: the public keys of those by AS number whom we know by our own configuration. `own_as` 0: a host."""

    own_as: int
    neighbours: Mapping[int, bytes]
    refused: int = 0  # documents that were not what they have to be; an old one is nobody's fault
    _held: dict[tuple[int, str], _Held] = field(default_factory=dict)  # by AS number and prefix

    def hear(self, teller: int, documents: Iterable[IntroducedOad], *, now_unix_s: int) -> tuple[OadDescription, ...]:
        """What a neighbour hands on; gives those descriptions that are new to us and may be used."""
        self._drop_expired(now_unix_s)
        taken = []
        known = {held.introduced.signed for held in self._held.values()}  # need not be verified again
        for introduced in documents:
            if introduced.signed in known:
                continue
            try:
                description = self._judge(teller, introduced, now_unix_s)
            except RemoteProtocolError:
                self.refused += 1
                continue
            if description is not None:
                key = description.as_number, description.prefix
                further = IntroducedOad(
                    signed=introduced.signed, public_key=introduced.public_key, hops=introduced.hops + 1
                )
                self._held[key] = _Held(introduced=further, description=description, teller=teller)
                taken.append(description)
        return tuple(taken)

    def tell(self, listener: int, own: Iterable[IntroducedOad], *, now_unix_s: int) -> tuple[IntroducedOad, ...]:
        """What we hand on to a neighbour (0: a host, who has ours already): `own` first, then the nearest ISPs'."""
        self._drop_expired(now_unix_s)
        others = sorted(self._held.values(), key=lambda held: held.introduced.hops)
        told = [
            held.introduced
            for held in others
            if held.introduced.hops <= MAX_HOPS and listener not in (held.teller, held.description.as_number)
        ]
        return tuple(_bounded([*own, *told]))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _judge(self, teller: int, introduced: IntroducedOad, now_unix_s: int) -> OadDescription | None:
        """None for one that is not newer than what we hold. Raises RemoteProtocolError for one that cannot be."""
        if len(introduced.signed.document) > MAX_DOCUMENT_BYTES:
            raise RemoteProtocolError("too-large", f"{len(introduced.signed.document)} bytes")
        description = verify(introduced.signed, introduced.public_key, OadDescription)
        number = description.as_number
        if description.issuer != introduced.signed.signer or number == self.own_as:
            raise RemoteProtocolError("wrong-signer", f"a description of AS {number} by another")
        if introduced.hops == 0 and number != teller:
            raise RemoteProtocolError("wrong-as", f"AS {teller} speaks for AS {number}")
        if introduced.public_key != self._key_of(number, introduced.public_key):
            raise RemoteProtocolError("wrong-signer", f"AS {number} has another key")
        if not _is_of_now(description, now_unix_s):
            raise RemoteProtocolError("malformed", "expired, too old, or of the future")
        return description if self._is_newer(description) else None

    def _key_of(self, as_number: int, otherwise: bytes) -> bytes:
        if as_number in self.neighbours:
            return self.neighbours[as_number]
        keys = (held.introduced.public_key for (number, _), held in self._held.items() if number == as_number)
        return next(keys, otherwise)

    def _is_newer(self, description: OadDescription) -> bool:
        held = self._held.get((description.as_number, description.prefix))
        if held is not None:
            return description.serial > held.description.serial
        of_this_as = sum(number == description.as_number for number, _ in self._held)
        return len(self._held) < MAX_DOCUMENTS and of_this_as < MAX_DOCUMENTS_OF_AN_AS

    def _drop_expired(self, now_unix_s: int) -> None:
        for key in [key for key, held in self._held.items() if not _is_of_now(held.description, now_unix_s)]:
            del self._held[key]


def _is_of_now(description: OadDescription, now_unix_s: int) -> bool:
    age_s = now_unix_s - description.published_unix_s
    return -CLOCKS_APART_S <= age_s <= MAX_AGE_S and description.expires_unix_s > now_unix_s


def _bounded(documents: list[IntroducedOad]) -> Iterator[IntroducedOad]:
    left = MAX_TOLD_BYTES
    for introduced in documents[:MAX_DOCUMENTS]:
        size = len(introduced.signed.document)
        left -= size
        if left < 0:
            return
        if size <= MAX_DOCUMENT_BYTES:
            yield introduced
