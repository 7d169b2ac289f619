"""Who a node is: an Ed25519 key in a file, and the certificate that follows from it.

Decides: where and how the key is kept (0600, created once, atomically) unless somebody else keeps it (the secretary's
own stores), and the certificate's exact bytes.
Refuses to know: whom a node trusts (`neighbour.tls`) and what it signs (`billpay.signing`).
Source: ARCHITECTURE ("Node identity"); docs/adr/0006.

The certificate has fixed dates, a serial taken from the key, and CN = the node's name; Ed25519 signatures are
deterministic, so the same key and name give the same bytes for ever.  Its PEM text is what neighbours exchange.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from billpay.errors import ConfigurationError, EnvironmentFault
from billpay.messages import Message, Signed
from billpay.signing import SEED_BYTES, SigningKey, fingerprint_of, sign

KEY_FILE: Final = "node.key"
CERTIFICATE_FILE: Final = "node.pem"

_NOT_BEFORE: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)  # RFC 5280: no expiry
_PEM_BYTES_MAX: Final = 16_384
_SERIAL_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCertificate:
    """What we hold of a neighbour. `pem` is its certificate, `public_key` the raw 32 bytes inside it."""

    pem: str
    public_key: bytes
    fingerprint: str
    name: str

    @classmethod
    def from_pem(cls, pem: str | bytes, *, source: object = "certificate") -> PeerCertificate:
        """Raises ConfigurationError, naming `source`, unless it is one Ed25519 certificate."""
        data = pem.encode() if isinstance(pem, str) else pem
        try:
            certificate = x509.load_pem_x509_certificate(data)
        except ValueError as error:
            raise ConfigurationError(
                source, "", "not a certificate", f"use the neighbour's {CERTIFICATE_FILE}"
            ) from error
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        public_key = ed25519_key(certificate)
        if public_key is None or len(names) != 1:
            raise ConfigurationError(source, "", "not a node's certificate", f"use the neighbour's {CERTIFICATE_FILE}")
        return cls(
            pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            public_key=public_key,
            fingerprint=fingerprint_of(public_key),
            name=str(names[0].value),
        )

    @classmethod
    def read(cls, path: Path | str) -> PeerCertificate:
        """From a file that a neighbour gave us. Raises ConfigurationError."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                pem = file.read(_PEM_BYTES_MAX)
        except OSError as error:
            raise ConfigurationError(
                path, "", error.strerror or str(error), "put the neighbour's certificate there"
            ) from error
        return cls.from_pem(pem, source=path)


class NodeIdentity:
    """A node's key with its certificate; the key shows in no repr."""

    __slots__ = ("certificate", "certificate_path", "key", "key_path", "name")

    def __init__(self, *, name: str, key: SigningKey, directory: Path) -> None:
        self.name = name
        self.key = key
        self.key_path = directory / KEY_FILE
        self.certificate_path = directory / CERTIFICATE_FILE
        self.certificate = PeerCertificate.from_pem(certificate_pem(key, name))

    @property
    def fingerprint(self) -> str:
        return self.key.fingerprint

    @property
    def public_key(self) -> bytes:
        return self.key.public_key

    def sign(self, message: Message) -> Signed:
        return sign(self.key, message)

    @contextlib.contextmanager
    def key_file(self) -> Iterator[Path]:
        """Where a library that takes only files (`ssl`) finds the key: its file, or for a moment one in memory."""
        if self.key_path.exists():
            yield self.key_path
            return
        descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, _key_pem(self.key))
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)

    def write_certificate(self) -> None:
        """For a key that is kept elsewhere: the file that neighbours are given. Raises EnvironmentFault."""
        try:
            _refresh_certificate(self)
        except OSError as error:
            raise EnvironmentFault(
                "write certificate", str(self.certificate_path), error.strerror or error, "check the state directory"
            ) from error

    def __repr__(self) -> str:
        return f"NodeIdentity({self.name}, {self.fingerprint[:16]}…)"

    @classmethod
    def load_or_create(
        cls, directory: Path | str, *, name: str, draw: Callable[[int], bytes] = secrets.token_bytes
    ) -> NodeIdentity:
        """The identity in a state directory; made at the first start. `draw(n)` gives n random bytes for a new key.

        Raises EnvironmentFault if the directory cannot be used, or if others may read the key.
        """
        directory = Path(directory)
        key_path = directory / KEY_FILE
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not key_path.exists():
                _create_once(key_path, _key_pem(SigningKey(draw(SEED_BYTES))))
            identity = cls(name=name, key=load_key(key_path), directory=directory)
            _refresh_certificate(identity)
        except OSError as error:
            raise EnvironmentFault(
                "use node key", str(key_path), error.strerror or error, "check the state directory"
            ) from error
        return identity


def ed25519_key(certificate: x509.Certificate) -> bytes | None:
    """The raw public key inside a certificate; None if it is of another kind."""
    try:
        key = certificate.public_key()
    except ValueError:
        return None
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else None


def certificate_pem(key: SigningKey, name: str) -> str:
    """The self-signed certificate of a key; the same arguments give the same bytes."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    serial = int.from_bytes(bytes.fromhex(key.fingerprint)[:_SERIAL_BYTES], "big") >> 1 or 1
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,  # a neighbour's certificate vouches for nobody else
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=subject, serial_number=serial)
        .public_key(key.private.public_key())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(key.private, algorithm=None)
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: SigningKey) -> bytes:
    return key.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _create_once(path: Path, content: bytes) -> None:
    """Writes a private file that appears whole or not at all; the first of two processes wins."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike a rename, never replaces a key that is there
        except FileExistsError:
            return
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_key(path: Path) -> SigningKey:
    """From a file as `load_or_create` makes it. Raises EnvironmentFault; OSError when it cannot be read."""
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_IMODE(mode) & 0o077:
            raise EnvironmentFault(
                "use node key", str(path), "others may read it", f"chmod 600 {path}, or make a new key"
            )
        pem = file.read(_PEM_BYTES_MAX)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise EnvironmentFault("use node key", str(path), "not a private key", "restore it from a backup") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise EnvironmentFault("use node key", str(path), "not an Ed25519 key", "restore it from a backup")
    return SigningKey(key.private_bytes_raw())


def _refresh_certificate(identity: NodeIdentity) -> None:
    """Keeps the file that neighbours are given equal to what the key says."""
    path, pem = identity.certificate_path, identity.certificate.pem.encode()
    if path.exists() and path.read_bytes() == pem:
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.write_bytes(pem)
    os.replace(temporary, path)
