"""Where the secretary's signing key is kept, how it comes to be, and how another one follows it.

Decides: which store a key lies in, and that an installation which had a key never silently gets another one. Refuses to
know: what is signed (`secretary.issuing`), and what a gateway makes of a succession. Source: ARCHITECTURE ("Safety");
docs/adr/0010; docs/howto/secretary-keys.md.

A small file, `keys.json`, says which key is expected and in which store; it has no secret in it. Seeds lie in the store
under their fingerprints. A key counts from the moment at which it is in that file, and it gets there only after the
store has given it back: whatever a crash interrupts, the key before still works.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Final, Protocol

import msgspec

from billpay.errors import ConfigurationError, EnvironmentFault
from billpay.messages import Count, Fingerprint, KeySuccession, Signed
from billpay.signing import SEED_BYTES, SigningKey
from neighbour.identity import CERTIFICATE_FILE, KEY_FILE, NodeIdentity, PeerCertificate, certificate_pem, load_key
from secretary.keys import keyrings
from secretary.keys.keyrings import KeyringStore, NotOffered
from secretary.keys.sealing import (
    SEALED_BYTES,
    Seals,
    make_directory,
    number_in,
    read_private,
    sync_directory,
    write_private,
)

LOG = logging.getLogger("secretary.keys")
BOOK_FILE: Final = "keys.json"
AUTO: Final = "auto"
SEALED_FILE: Final = "sealed-file"
STORES: Final = (AUTO, *keyrings.NAMES, SEALED_FILE)
"""What the configuration may name."""

_BOOK_BYTES_MAX: Final = 1_000_000
_NONCE_BYTES: Final = 12
_OLD_KEYS_MAX: Final = 64
_BACKUP: Final = "restore it from a backup"


class KeyStore(Protocol):
    """Keeps seeds under their fingerprints. Every method raises EnvironmentFault: what, where, what to do."""

    @property
    def name(self) -> str: ...

    def describe(self) -> str:
        """How safe it is there, in one line."""
        ...

    def read(self, fingerprint: str) -> bytes | None: ...

    def write(self, fingerprint: str, seed: bytes) -> None: ...

    def remove(self, fingerprint: str) -> None:
        """One that is not there is removed already."""
        ...


class KeyBook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is written down about keys: nothing secret."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    store: str
    current: Fingerprint
    old: Annotated[tuple[Fingerprint, ...], msgspec.Meta(max_length=_OLD_KEYS_MAX)] = ()
    serial: Count = 0
    successions: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=_OLD_KEYS_MAX)] = ()


class SealedFiles:
    """A store without a desktop: one encrypted file for each key (`secretary.keys.sealing`)."""

    name: Final = SEALED_FILE

    def __init__(self, directory: Path, seals: Seals, *, draw: Callable[[int], bytes]) -> None:
        self._directory = directory
        self._seals = seals
        self._draw = draw

    def describe(self) -> str:
        return f"in an encrypted file, {self._seals.describe()}"

    def read(self, fingerprint: str) -> bytes | None:
        path = self.path(fingerprint)
        if not path.exists():
            return None
        sealed = read_private(path, most=SEALED_BYTES + 1)
        try:
            seal = self._seals.of(number_in(sealed))
            if seal is None:
                remedy = f"bring back the seal that closed it: {self._seals.where()}"
                raise EnvironmentFault("open sealed key", str(path), "its seal is not here, or is another one", remedy)
            seed = seal.open(sealed, fingerprint)
        except ValueError as error:
            raise EnvironmentFault("open sealed key", str(path), error, _BACKUP) from error
        if self._seals.known()[0].number != seal.number:
            self.write(fingerprint, seed)
            LOG.info("sealed the key anew, with %s instead of %s", self._seals.known()[0].origin, seal.origin)
        return seed

    def write(self, fingerprint: str, seed: bytes) -> None:
        sealed = self._seals.best().close(seed, fingerprint, self._draw(_NONCE_BYTES))
        write_private(self.path(fingerprint), sealed)

    def remove(self, fingerprint: str) -> None:
        _remove(self.path(fingerprint))

    def path(self, fingerprint: str) -> Path:
        return self._directory / f"signing-{fingerprint[:16]}.sealed"


class Keeper:
    """The keys of one secretary. No key shows in a repr, a message or an exception."""

    def __init__(
        self,
        directory: Path,
        *,
        name: str,
        store: str = AUTO,
        seal_directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        draw: Callable[[int], bytes] = secrets.token_bytes,
        opener: Callable[[str], KeyStore] | None = None,
    ) -> None:
        """Finds the key, or makes it at the first start. `opener` gives the store of a name, and is for tests.

        Raises EnvironmentFault, and changes nothing then; ConfigurationError for a store that nobody knows.
        """
        if store not in STORES:
            raise ConfigurationError("secretary", "keys", f"{store!r} is not a store", f"one of {', '.join(STORES)}")
        self._directory = directory
        self._name = name
        self._draw = draw
        self._seal_directory = seal_directory or directory.with_name(f"{directory.name}-seal")
        self._environment = os.environ if environment is None else environment
        self._opener = opener or self._open_named
        self._book_path = directory / BOOK_FILE
        make_directory(directory)
        self._store, self._book = self._find(store)
        self._identity = self._identity_of(self._book.current)
        self._remove_plain()
        self._identity.write_certificate()

    def __repr__(self) -> str:
        return f"Keeper({self._store.name}, {self._book.current[:16]}…)"

    @property
    def identity(self) -> NodeIdentity:
        """Of the current key."""
        return self._identity

    @property
    def old(self) -> tuple[str, ...]:
        """Fingerprints of the keys before it that are still kept, the oldest first."""
        return self._book.old

    @property
    def successions(self) -> tuple[Signed, ...]:
        """How each key followed the one before, the oldest first: a gateway that missed some takes them in turn."""
        return self._book.successions

    def describe(self) -> str:
        """One line for people: where the key is, and against whom that helps."""
        return f"key {self._book.current[:16]}… {self._store.describe()}"

    def old_identity(self, fingerprint: str) -> NodeIdentity:
        """For grants that were signed before. Raises EnvironmentFault."""
        return self._identity_of(fingerprint)

    def rotate(self, unix_s: int) -> Signed:
        """A new key, from now on; what says so, signed by the key before. Raises EnvironmentFault: nothing changed."""
        before = self._identity
        if len(self._book.old) >= _OLD_KEYS_MAX:
            remedy = "retire those that every gateway has replaced"
            raise EnvironmentFault("rotate key in", str(self._book_path), f"{_OLD_KEYS_MAX} old keys are kept", remedy)
        key = self._keep_new(self._store, self._draw(SEED_BYTES))
        succession = KeySuccession(
            old=before.fingerprint,
            new_certificate=certificate_pem(key, self._name),
            serial=self._book.serial + 1,
            signed_unix_s=unix_s,
        )
        signed = before.sign(succession)
        self._write(
            msgspec.structs.replace(
                self._book,
                current=key.fingerprint,
                old=(*self._book.old, before.fingerprint),
                serial=succession.serial,
                successions=(*self._book.successions, signed),
            )
        )
        self._identity = NodeIdentity(name=self._name, key=key, directory=self._directory)
        self._identity.write_certificate()
        LOG.info("the key %s… follows %s…", key.fingerprint[:16], before.fingerprint[:16])
        return signed

    def retire(self, fingerprint: str) -> None:
        """Forgets an old key, and how it was followed, once every gateway knows its successor."""
        if fingerprint not in self._book.old:
            raise EnvironmentFault("retire key", fingerprint[:16], "it is not an old key of ours", "see status")
        self._write(
            msgspec.structs.replace(
                self._book,
                old=tuple(each for each in self._book.old if each != fingerprint),
                successions=tuple(each for each in self._book.successions if each.signer != fingerprint),
            )
        )
        self._store.remove(fingerprint)

    # --- which store, which key -------------------------------------------------------------------------------------

    def _find(self, wanted: str) -> tuple[KeyStore, KeyBook]:
        book = self._read_book()
        if book is None:
            return self._begin(wanted)
        store = self._open_expected(book.store)
        if wanted in (AUTO, book.store):
            return store, book
        return self._move(store, self._open_expected(wanted), book)

    def _begin(self, wanted: str) -> tuple[KeyStore, KeyBook]:
        """No book: the first start, the first with this way of keeping keys, or a book that was lost."""
        store = self._choose(wanted)
        plain, certificate = self._directory / KEY_FILE, self._directory / CERTIFICATE_FILE
        if plain.exists():
            key = self._keep_new(store, _seed_of(_plain_key(plain)))
        elif certificate.exists():
            key = self._key_of(store, _fingerprint_in(certificate))
        else:
            key = self._keep_new(store, self._draw(SEED_BYTES))
        book = KeyBook(store=store.name, current=key.fingerprint)
        self._write(book)
        LOG.info("the signing key %s… is %s", key.fingerprint[:16], store.describe())
        return store, book

    def _choose(self, wanted: str) -> KeyStore:
        if wanted != AUTO:
            return self._open_expected(wanted)
        for name in keyrings.NAMES:
            try:
                return self._opener(name)
            except NotOffered as reason:
                LOG.debug("%s: %s", name, reason)
        return self._opener(SEALED_FILE)

    def _open_expected(self, name: str) -> KeyStore:
        try:
            return self._opener(name)
        except NotOffered as reason:
            remedy = f"start it where that is; without a desktop, name {SEALED_FILE!r} before the first start"
            raise EnvironmentFault("open key store", name, reason, remedy) from reason

    def _open_named(self, name: str) -> KeyStore:
        if name != SEALED_FILE:
            return KeyringStore(name, environment=self._environment)
        seals = Seals(self._seal_directory, environment=self._environment, draw=self._draw)
        return SealedFiles(self._directory, seals, draw=self._draw)

    def _move(self, source: KeyStore, target: KeyStore, book: KeyBook) -> tuple[KeyStore, KeyBook]:
        """Every key is in the new store before the book says so, and leaves the old one after."""
        every = (*book.old, book.current)
        for fingerprint in every:
            self._keep_new(target, _seed_of(self._key_of(source, fingerprint)))
        moved = msgspec.structs.replace(book, store=target.name)
        self._write(moved)
        for fingerprint in every:
            source.remove(fingerprint)
        LOG.info("moved the keys from %s to %s", source.name, target.name)
        return target, moved

    def _keep_new(self, store: KeyStore, seed: bytes) -> SigningKey:
        """In the store, and read back from there."""
        key = SigningKey(seed)
        store.write(key.fingerprint, seed)
        self._key_of(store, key.fingerprint)
        return key

    def _key_of(self, store: KeyStore, fingerprint: str) -> SigningKey:
        seed = store.read(fingerprint)
        if seed is None:
            remedy = f"{_BACKUP}; a new key is a new neighbour, and is made only in an empty {self._directory}"
            raise EnvironmentFault("find key", f"{fingerprint[:16]}…", f"it is not in {store.name}", remedy)
        key = SigningKey(seed) if len(seed) == SEED_BYTES else None
        if key is None or key.fingerprint != fingerprint:
            raise EnvironmentFault("use key", f"{fingerprint[:16]}…", f"{store.name} gave another one", _BACKUP)
        return key

    def _identity_of(self, fingerprint: str) -> NodeIdentity:
        key = self._key_of(self._store, fingerprint)
        return NodeIdentity(name=self._name, key=key, directory=self._directory)

    def _remove_plain(self) -> None:
        """The file of before, once the key is known to be in the store."""
        path = self._directory / KEY_FILE
        if not path.exists():
            return
        found = _plain_key(path).fingerprint
        if found not in (self._book.current, *self._book.old):
            remedy = f"move it away; to use it instead of {self._book.current[:16]}…, move {BOOK_FILE} away as well"
            raise EnvironmentFault("use key", str(path), f"it is another one ({found[:16]}…)", remedy)
        _remove(path)
        LOG.info("removed %s: the key is %s", path, self._store.describe())

    # --- the book ---------------------------------------------------------------------------------------------------

    def _read_book(self) -> KeyBook | None:
        if not self._book_path.exists():
            return None
        text = read_private(self._book_path, most=_BOOK_BYTES_MAX)
        try:
            return msgspec.json.decode(text, type=KeyBook)
        except (msgspec.DecodeError, UnicodeError) as error:
            remedy = f"{_BACKUP}; or move it away: {CERTIFICATE_FILE} beside it names the key, too"
            raise EnvironmentFault("read", str(self._book_path), error, remedy) from error

    def _write(self, book: KeyBook) -> None:
        write_private(self._book_path, msgspec.json.encode(book))
        self._book = book


def _seed_of(key: SigningKey) -> bytes:
    return key.private.private_bytes_raw()


def _plain_key(path: Path) -> SigningKey:
    try:
        return load_key(path)
    except OSError as error:
        raise EnvironmentFault("read key", str(path), error.strerror or error, "give it to the service") from error


def _fingerprint_in(certificate: Path) -> str:
    try:
        return PeerCertificate.read(certificate).fingerprint
    except ConfigurationError as error:
        raise EnvironmentFault("find out whose key is kept", str(certificate), error.problem, _BACKUP) from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise EnvironmentFault("remove", str(path), error.strerror or error, "remove it by hand") from error
