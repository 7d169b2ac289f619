"""A secretary's keys: one follows another by the old one's signature; nothing else makes a key good."""

from __future__ import annotations

from pathlib import Path

import pytest

from billpay.errors import EnvironmentFault, RemoteProtocolError
from billpay.messages import KeySuccession, SecretaryKey, Signed
from billpay.signing import SigningKey, sign
from gateway import secretary_keys
from gateway.secretary_keys import SecretaryChain, SecretaryKeys
from neighbour.identity import PeerCertificate, certificate_pem

FIRST, SECOND, THIRD, THIEF = (SigningKey(bytes([number]) * 32) for number in (1, 2, 3, 4))


def certificate(key: SigningKey) -> PeerCertificate:
    return PeerCertificate.from_pem(certificate_pem(key, "a"))


def succession(
    old: SigningKey, new: SigningKey, serial: int, *, signer: SigningKey | None = None, pem: str = ""
) -> Signed:
    pem = pem or certificate_pem(new, "a")
    document = KeySuccession(old=old.fingerprint, new_certificate=pem, serial=serial, signed_unix_s=1)
    return sign(signer or old, document)


class Keys:
    def __init__(self, path: Path, root: SigningKey = FIRST) -> None:
        self.path = path
        self.root = root
        self.restart()

    def restart(self) -> None:
        self.keys = SecretaryKeys(self.path)
        self.chain: SecretaryChain = self.keys.open("a", certificate(self.root))
        self.keys.open("b", certificate(THIEF))

    def refused(self, signed: Signed) -> str:
        before = self.chain.current
        with pytest.raises(RemoteProtocolError) as caught:
            self.keys.succeed("a", signed)
        assert self.chain.current == before
        return caught.value.code


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "secretary-keys.json")


@pytest.mark.row("BP-44")
def test_a_chain_of_keys_is_there_again_after_a_restart(keys: Keys) -> None:
    assert keys.keys.state("a") == SecretaryKey(fingerprint=FIRST.fingerprint, serial=0)
    keys.keys.succeed("a", succession(FIRST, SECOND, 1))
    state = keys.keys.succeed("a", succession(SECOND, THIRD, 7))
    keys.restart()
    assert keys.keys.state("a") == state == SecretaryKey(fingerprint=THIRD.fingerprint, serial=7)
    assert [keys.chain.key_of(key.fingerprint) is None for key in (FIRST, SECOND, THIRD, THIEF)] == [0, 0, 0, 1]
    assert keys.keys.state("b").fingerprint == THIEF.fingerprint
    assert keys.path.stat().st_mode & 0o077 == 0


@pytest.mark.row("BP-44")
def test_only_the_key_of_now_names_the_next_one(keys: Keys) -> None:
    assert keys.refused(succession(FIRST, THIEF, 1, signer=THIEF)) == "wrong-signer"
    assert keys.refused(succession(THIEF, SECOND, 1, signer=FIRST)) == "wrong-signer"
    assert keys.refused(succession(FIRST, FIRST, 1)) == "old-key"
    assert keys.refused(succession(FIRST, SECOND, 1, pem="-----BEGIN CERTIFICATE-----")) == "malformed"
    keys.keys.succeed("a", succession(FIRST, SECOND, 5))
    assert keys.refused(succession(FIRST, THIEF, 6)) == "wrong-signer"
    assert keys.refused(succession(SECOND, THIRD, 5)) == "old-serial"
    assert keys.refused(succession(SECOND, FIRST, 6)) == "old-key"


@pytest.mark.row("BP-44")
def test_a_replay_changes_nothing(keys: Keys) -> None:
    first = succession(FIRST, SECOND, 1)
    state = keys.keys.succeed("a", first)
    assert keys.keys.succeed("a", first) == state  # the answer was lost
    keys.keys.succeed("a", succession(SECOND, THIRD, 2))
    assert keys.refused(first) == "wrong-signer"
    keys.restart()
    assert keys.refused(first) == "wrong-signer"


def test_the_configuration_is_the_root(keys: Keys) -> None:
    keys.keys.succeed("a", succession(FIRST, SECOND, 1))
    keys.keys.succeed("a", succession(SECOND, THIRD, 2))
    assert Keys(keys.path, SECOND).chain.current.fingerprint == THIRD.fingerprint
    assert Keys(keys.path, THIEF).chain.current.fingerprint == THIEF.fingerprint


def test_a_chain_has_an_end(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secretary_keys, "MAX_SUCCESSIONS", 1)
    keys.keys.succeed("a", succession(FIRST, SECOND, 1))
    assert keys.refused(succession(SECOND, THIRD, 2)) == "too-many-successions"


def test_a_file_that_cannot_be_read_brings_no_old_key_back(keys: Keys) -> None:
    keys.path.write_bytes(b"{")
    with pytest.raises(EnvironmentFault, match="secretary-keys"):
        keys.restart()
