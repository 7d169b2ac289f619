"""A node's key and certificate: made once, kept private, the same bytes for ever."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from billpay.errors import ConfigurationError, EnvironmentFault
from billpay.signing import fingerprint_of
from neighbour.identity import CERTIFICATE_FILE, KEY_FILE, NodeIdentity, PeerCertificate, certificate_pem

NodeOf = Callable[[str], NodeIdentity]


def test_the_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    first = NodeIdentity.load_or_create(tmp_path / "state", name="A")
    again = NodeIdentity.load_or_create(tmp_path / "state", name="A")
    assert again.fingerprint == first.fingerprint == fingerprint_of(first.public_key)
    assert stat.S_IMODE(first.key_path.stat().st_mode) == 0o600
    assert {path.name for path in (tmp_path / "state").iterdir()} == {KEY_FILE, CERTIFICATE_FILE}
    assert NodeIdentity.load_or_create(tmp_path / "other", name="A").fingerprint != first.fingerprint


def test_the_certificate_follows_from_key_and_name_alone(node: NodeOf) -> None:
    a = node("A")
    pem = a.certificate.pem
    a.certificate_path.unlink()
    assert node("A").certificate_path.read_text() == pem == certificate_pem(a.key, "A")
    a.certificate_path.write_text("damaged")
    assert node("A").certificate_path.read_text() == pem
    assert certificate_pem(a.key, "B") != pem
    certificate = x509.load_pem_x509_certificate(pem.encode())
    assert certificate.serial_number > 0
    certificate.verify_directly_issued_by(certificate)


def test_a_peers_certificate_says_who_it_is(node: NodeOf) -> None:
    a = node("A")
    peer = PeerCertificate.read(a.certificate_path)
    assert peer == a.certificate
    assert (peer.name, peer.public_key, peer.fingerprint) == ("A", a.public_key, a.fingerprint)


def test_no_key_shows_in_a_repr(node: NodeOf) -> None:
    a = node("A")
    seed = a.key.private.private_bytes_raw()
    for text in (repr(a), repr(a.key), str(a)):
        assert seed.hex() not in text
        assert repr(seed) not in text


def test_a_key_that_others_may_read_is_refused(node: NodeOf) -> None:
    a = node("A")
    a.key_path.chmod(0o640)
    with pytest.raises(EnvironmentFault, match=r"others may read it \(chmod 600"):
        node("A")


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_damaged_key_is_one_line_and_is_not_replaced(node: NodeOf, content: bytes) -> None:
    a = node("A")
    a.key_path.write_bytes(content)
    with pytest.raises(EnvironmentFault, match=r"not a private key \(restore it from a backup\)$"):
        node("A")
    assert a.key_path.read_bytes() == content


def test_a_key_of_another_kind_is_refused(node: NodeOf) -> None:
    a = node("A")
    other = X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    a.key_path.write_bytes(other)
    with pytest.raises(EnvironmentFault, match="not an Ed25519 key"):
        node("A")


def test_what_is_not_a_neighbours_certificate_is_named_with_its_file(tmp_path: Path, node: NodeOf) -> None:
    path = tmp_path / "peer.pem"
    with pytest.raises(ConfigurationError, match=r"peer\.pem: No such file"):
        PeerCertificate.read(path)
    for content in (b"", b"hello", node("A").key_path.read_bytes(), b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"peer\.pem: not a certificate"):
            PeerCertificate.read(path)


def test_a_state_directory_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentFault, match="check the state directory"):
        NodeIdentity.load_or_create(tmp_path / "file" / "state", name="A")
