"""Whose grants a gateway takes: the key that it was configured with, and those that followed it by succession.

Decides: whether a `KeySuccession` holds (signed by the key of now, naming it, with a higher serial), and which key it
leads to; keeps the documents, so that the chain can be walked again from the configured certificate at every start.
Refuses to know: what the keys sign, and how their owner keeps them.
Source: Bill-Pay 2.4; docs/spec/control-api.md ("The secretary's key").

The configuration is the root: a document counts only if the chain from there leads to its old key.  Whoever puts
another certificate there starts a new chain, and one of the chain's own certificates cuts off what came before it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from billpay.errors import ConfigurationError, EnvironmentFault, RemoteProtocolError
from billpay.messages import KeySuccession, SecretaryKey, Signed
from billpay.signing import verify
from neighbour.identity import PeerCertificate

MAX_SUCCESSIONS: Final = 256
"""Of one link; five years of a new key each week."""


@dataclass(slots=True)
class SecretaryChain:
    """The keys of one host's secretary; `current` is the only one that opens grants."""

    root: PeerCertificate
    documents: list[Signed] = field(default_factory=list)
    serial: int = 0
    current: PeerCertificate = field(init=False)
    _known: dict[str, PeerCertificate] = field(init=False)

    def __post_init__(self) -> None:
        self.current = self.root
        self._known = {self.root.fingerprint: self.root}

    def key_of(self, fingerprint: str) -> PeerCertificate | None:
        """For a grant that was opened earlier: a key of the chain, old ones too."""
        return self._known.get(fingerprint)

    def is_last(self, signed: Signed) -> bool:
        return bool(self.documents) and self.documents[-1] == signed

    def judge(self, signed: Signed) -> tuple[KeySuccession, PeerCertificate]:
        """What the document leads to. Raises RemoteProtocolError."""
        succession = verify(signed, self.current.public_key, KeySuccession)
        if succession.old != self.current.fingerprint:
            raise RemoteProtocolError("wrong-signer", "the succession names another old key than its signer")
        if succession.serial <= self.serial:
            raise RemoteProtocolError("old-serial", f"succession {self.serial} was taken before")
        try:
            successor = PeerCertificate.from_pem(succession.new_certificate, source="new_certificate")
        except ConfigurationError as error:
            raise RemoteProtocolError("malformed", str(error)) from error
        if successor.fingerprint in self._known:
            raise RemoteProtocolError("old-key", "the new key is one that was in use before")
        return succession, successor

    def follow(self, signed: Signed, succession: KeySuccession, successor: PeerCertificate) -> None:
        self.documents.append(signed)
        self.serial, self.current = succession.serial, successor
        self._known[successor.fingerprint] = successor


class SecretaryKeys:
    """The chains of all links, on the disk. Raises EnvironmentFault when the file cannot be read: an old key that was
    given up must not be good again because of that.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._chains: dict[str, SecretaryChain] = {}
        try:
            self._stored = msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[Signed, ...]])
        except FileNotFoundError:
            self._stored = {}
        except (OSError, msgspec.DecodeError) as error:
            raise EnvironmentFault(
                "read secretaries' keys",
                str(path),
                error,
                "restore it, or configure the secretaries' certificates of now and remove it",
            ) from error

    def open(self, link: str, root: PeerCertificate) -> SecretaryChain:
        """The chain from the configured certificate, as far as the kept documents lead."""
        chain = self._chains[link] = SecretaryChain(root)
        for signed in self._stored.get(link, ()):
            try:
                chain.follow(signed, *chain.judge(signed))
            except RemoteProtocolError:  # of a chain that the configuration has left
                continue
        return chain

    def succeed(self, link: str, signed: Signed) -> SecretaryKey:
        """The new key is pinned, on the disk too, when this returns. Raises RemoteProtocolError, EnvironmentFault."""
        chain = self._chains[link]
        if not chain.is_last(signed):  # else its answer was lost: nothing changes
            succession, successor = chain.judge(signed)
            if len(chain.documents) >= MAX_SUCCESSIONS:
                raise RemoteProtocolError("too-many-successions", "configure the secretary's certificate of now")
            self._write(link, [*chain.documents, signed])
            chain.follow(signed, succession, successor)
        return self.state(link)

    def state(self, link: str) -> SecretaryKey:
        chain = self._chains[link]
        return SecretaryKey(fingerprint=chain.current.fingerprint, serial=chain.serial)

    def _write(self, link: str, documents: Sequence[Signed]) -> None:
        content = {name: chain.documents for name, chain in self._chains.items()} | {link: list(documents)}
        temporary = self._path.with_suffix(".new")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(content))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise EnvironmentFault(
                "store secretary's key", str(self._path), error.strerror, "free some disk space"
            ) from error
