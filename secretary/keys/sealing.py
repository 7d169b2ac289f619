"""A seed on the disk that only its service can open: encrypted, with a key that lies somewhere else.

Decides: the bytes of a sealed file, where the seal's key comes from, and what each kind of damage is called. Refuses to
know: what the seed is for (`secretary.keys.keeper`). Source: RFC 8439 (ChaCha20-Poly1305), RFC 5869 (HKDF);
systemd.exec(5) "Credentials".

The seal is 32 random bytes or more. systemd hands it over as the credential `secretary-seal`, which it keeps encrypted
with the machine's TPM or its own host key; where there is none, we make a file of our own in another directory. That is
weaker: it keeps the key out of a copy of the state directory, not from somebody who reads this disk as root.

Sealed file: magic (16) ‖ seal's number (8) ‖ nonce (12) ‖ ciphertext and tag (48). Authenticated with it: magic,
purpose, fingerprint. So a file that is renamed to another key's name does not open.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from billpay.errors import EnvironmentFault
from billpay.signing import SEED_BYTES

SEAL_NAME: Final = "secretary-seal"
SEAL_BYTES_MIN: Final = 32
_SEAL_BYTES_MAX: Final = 4096
_MAGIC: Final = b"hostagent-seal\x00\x01"
_PURPOSE: Final = b"secretary signing key"
_NUMBER_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
SEALED_BYTES: Final = len(_MAGIC) + _NUMBER_BYTES + _NONCE_BYTES + SEED_BYTES + _TAG_BYTES


class Seal:
    """A sealing key that never shows itself, and where it came from."""

    __slots__ = ("_cipher", "number", "origin")

    def __init__(self, material: bytes, origin: Path) -> None:
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"hostagent secretary seal 1").derive(material)
        self._cipher = ChaCha20Poly1305(key)
        self.number = hashlib.sha256(b"hostagent seal number" + key).digest()[:_NUMBER_BYTES]
        self.origin = origin

    def __repr__(self) -> str:
        return f"Seal({self.origin})"

    def close(self, seed: bytes, fingerprint: str, nonce: bytes) -> bytes:
        """The bytes of the sealed file. `nonce`: 12 bytes, never twice."""
        return _MAGIC + self.number + nonce + self._cipher.encrypt(nonce, seed, _authenticated(fingerprint))

    def open(self, sealed: bytes, fingerprint: str) -> bytes:
        """Raises ValueError if a bit of it is not what `close` made for this fingerprint."""
        nonce, text = _parts(sealed)
        try:
            return self._cipher.decrypt(nonce, text, _authenticated(fingerprint))
        except InvalidTag as error:
            raise ValueError("damaged, or another key's") from error


def number_in(sealed: bytes) -> bytes:
    """Which seal closed it. Raises ValueError: not a sealed file of this version."""
    if len(sealed) != SEALED_BYTES or not sealed.startswith(_MAGIC):
        raise ValueError("not a sealed key of this version")
    return sealed[len(_MAGIC) : len(_MAGIC) + _NUMBER_BYTES]


def _parts(sealed: bytes) -> tuple[bytes, bytes]:
    number_in(sealed)
    begin = len(_MAGIC) + _NUMBER_BYTES
    return sealed[begin : begin + _NONCE_BYTES], sealed[begin + _NONCE_BYTES :]


def _authenticated(fingerprint: str) -> bytes:
    return b"\x00".join((_MAGIC, _PURPOSE, fingerprint.encode()))


class Seals:
    """The seals that this machine gives us: systemd's, and that of our own file. Each is read when it is needed."""

    def __init__(self, directory: Path, *, environment: Mapping[str, str], draw: Callable[[int], bytes]) -> None:
        credentials = environment.get("CREDENTIALS_DIRECTORY")
        self._credential = Path(credentials) / SEAL_NAME if credentials else None
        self._file = directory / SEAL_NAME
        self._draw = draw

    def describe(self) -> str:
        """Where a new key's seal comes from, in one line."""
        if self._credential is not None and _is_handed_over(self._credential):
            return "sealed by systemd's credential for this service"
        return f"sealed by the key file {self._file}: root, and whoever copies this whole disk, can open it"

    def best(self) -> Seal:
        """The credential, else our own file, which is made if it has to be. Raises EnvironmentFault."""
        found = self.known()
        if found:
            return found[0]
        make_directory(self._file.parent)
        write_private(self._file, self._draw(SEAL_BYTES_MIN), mode=0o400)
        return self._own()

    def known(self) -> list[Seal]:
        """The best first. Raises EnvironmentFault."""
        found = []
        if self._credential is not None and _is_handed_over(self._credential):
            # systemd guards the folder; the modes in it differ with its version.
            found.append(_seal(_read(self._credential), self._credential))
        if self._file.exists():
            found.append(self._own())
        return found

    def of(self, number: bytes) -> Seal | None:
        return next((seal for seal in self.known() if seal.number == number), None)

    def where(self) -> str:
        places = [f"{self._file}"] if self._credential is None else [f"{self._credential}", f"{self._file}"]
        return " or ".join(places)

    def _own(self) -> Seal:
        return _seal(read_private(self._file, most=_SEAL_BYTES_MAX), self._file)


def _is_handed_over(credential: Path) -> bool:
    """systemd names the folder even when there is nothing in it; then it is not for us to look into."""
    try:
        credential.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    return True


def _seal(material: bytes, path: Path) -> Seal:
    if len(material) < SEAL_BYTES_MIN:
        raise EnvironmentFault(
            "open seal", str(path), f"shorter than {SEAL_BYTES_MIN} bytes", "restore it from a backup"
        )
    return Seal(material, path)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_SEAL_BYTES_MAX)
    except OSError as error:
        raise EnvironmentFault("open seal", str(path), error.strerror or error, "let the service read it") from error


def read_private(path: Path, *, most: int) -> bytes:
    """A file that is ours alone. Raises EnvironmentFault: unreadable, or others may read it."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid not in (os.geteuid(), 0):
                remedy = f"chmod go= {path}; who could read it may have the key: rotate it"
                raise EnvironmentFault("read", str(path), "others may read it", remedy)
            return file.read(most)
    except OSError as error:
        raise EnvironmentFault("read", str(path), error.strerror or error, "let only the service read it") from error


def make_directory(directory: Path) -> None:
    """0700, if it has to be made; one that others may write into is refused. Raises EnvironmentFault."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = directory.stat().st_mode
    except OSError as error:
        raise EnvironmentFault("use", str(directory), error.strerror or error, "make it, for the service") from error
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise EnvironmentFault(
            "use", str(directory), "it is not ours", f"let user {os.geteuid()} own it, or name another"
        )
    if mode & 0o022:
        raise EnvironmentFault("use", str(directory), "others may write into it", f"chmod go-w {directory}")


def write_private(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Whole or not at all, and on the disk when this returns. Raises EnvironmentFault."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise EnvironmentFault("write", str(path), error.strerror or error, "check disk space and rights") from error


def sync_directory(directory: Path) -> None:
    """What was renamed or removed in it is so after a power cut, too. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
