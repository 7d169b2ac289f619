"""A sealed file: what was changed in it is found, another seal does not open it, a better seal takes over."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from leaks import shows

from billpay.errors import EnvironmentFault
from secretary.keys.keeper import SealedFiles
from secretary.keys.sealing import SEAL_NAME, SEALED_BYTES, Seal, Seals, number_in, write_private

A, B = "a" * 64, "b" * 64
SEED = bytes(range(100, 132))


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """As systemd gives them: a folder of files, named in the environment."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / SEAL_NAME).write_bytes(os.urandom(32))
    return folder


def files(tmp_path: Path, credentials: Path | None = None) -> SealedFiles:
    (tmp_path / "state").mkdir(mode=0o700, exist_ok=True)
    environment = {} if credentials is None else {"CREDENTIALS_DIRECTORY": str(credentials)}
    seals = Seals(tmp_path / "seal", environment=environment, draw=os.urandom)
    return SealedFiles(tmp_path / "state", seals, draw=os.urandom)


def test_a_seal_opens_what_it_closed_for_the_same_key_only() -> None:
    seal = Seal(b"s" * 32, Path("/x"))
    closed = seal.close(SEED, A, b"n" * 12)
    assert len(closed) == SEALED_BYTES
    assert seal.open(closed, A) == SEED
    assert not shows(closed + repr(seal).encode(), SEED)
    with pytest.raises(ValueError, match="another key's"):
        seal.open(closed, B)
    with pytest.raises(ValueError, match="damaged"):
        Seal(b"t" * 32, Path("/x")).open(closed, A)


def test_every_byte_of_a_sealed_file_is_guarded(tmp_path: Path) -> None:
    store = files(tmp_path)
    store.write(A, SEED)
    path = store.path(A)
    whole = path.read_bytes()
    damaged = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(len(whole))]
    for text in (*damaged, b"", whole[:-1], whole + b"\x00"):
        path.write_bytes(text)
        with pytest.raises(EnvironmentFault, match="open sealed key") as fault:
            store.read(A)
        assert str(path) in str(fault.value)
        assert "\n" not in str(fault.value)
        assert path.read_bytes() == text
    path.write_bytes(whole)
    assert store.read(A) == SEED


def test_a_file_under_another_keys_name_does_not_open(tmp_path: Path) -> None:
    store = files(tmp_path)
    store.write(A, SEED)
    store.path(A).rename(store.path(B))
    with pytest.raises(EnvironmentFault, match="another key's"):
        store.read(B)


def test_the_seals_own_file_lies_elsewhere_and_is_private(tmp_path: Path) -> None:
    store = files(tmp_path)
    store.write(A, SEED)
    seal = tmp_path / "seal" / SEAL_NAME
    assert stat.S_IMODE(seal.stat().st_mode) == 0o400
    assert stat.S_IMODE(seal.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.path(A).stat().st_mode) == 0o600
    assert "whoever copies this whole disk" in store.describe()


def test_the_services_credential_goes_first_and_leaves_no_key_file(tmp_path: Path, credentials: Path) -> None:
    store = files(tmp_path, credentials)
    assert "systemd" in store.describe()
    store.write(A, SEED)
    assert not (tmp_path / "seal").exists()
    assert store.read(A) == SEED
    with pytest.raises(EnvironmentFault, match="bring back the seal"):
        files(tmp_path).read(A)


def test_a_key_of_the_weaker_seal_is_sealed_anew_when_there_is_a_credential(tmp_path: Path, credentials: Path) -> None:
    files(tmp_path).write(A, SEED)
    before = files(tmp_path).path(A).read_bytes()
    store = files(tmp_path, credentials)
    assert store.read(A) == SEED
    after = store.path(A).read_bytes()
    assert number_in(after) != number_in(before)
    (tmp_path / "seal" / SEAL_NAME).unlink()
    assert store.read(A) == SEED


def test_the_same_key_material_may_move_from_the_file_into_a_credential(tmp_path: Path, credentials: Path) -> None:
    files(tmp_path).write(A, SEED)
    seal = tmp_path / "seal" / SEAL_NAME
    (credentials / SEAL_NAME).write_bytes(seal.read_bytes())
    seal.unlink()
    assert files(tmp_path, credentials).read(A) == SEED


def test_a_seal_that_is_too_short_or_not_private_is_refused(tmp_path: Path, credentials: Path) -> None:
    (credentials / SEAL_NAME).write_bytes(b"short")
    with pytest.raises(EnvironmentFault, match="shorter than 32 bytes"):
        files(tmp_path, credentials).write(A, SEED)
    files(tmp_path).write(A, SEED)
    (tmp_path / "seal" / SEAL_NAME).chmod(0o440)
    with pytest.raises(EnvironmentFault, match="others may read it"):
        files(tmp_path).read(A)
    (tmp_path / "seal" / SEAL_NAME).chmod(0o400)
    files(tmp_path).path(A).chmod(0o644)
    with pytest.raises(EnvironmentFault, match="others may read it"):
        files(tmp_path).read(A)


def test_a_folder_that_others_may_write_into_gets_no_seal(tmp_path: Path) -> None:
    (tmp_path / "seal").mkdir()
    (tmp_path / "seal").chmod(0o777)
    with pytest.raises(EnvironmentFault, match="others may write into it"):
        files(tmp_path).write(A, SEED)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_private(path, b"before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EnvironmentFault, match="No space left"):
        write_private(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_folder_of_credentials_is_as_none(tmp_path: Path, credentials: Path) -> None:
    """systemd names the folder also when the credential is missing."""
    (credentials / SEAL_NAME).unlink()
    store = files(tmp_path, credentials)
    store.write(A, SEED)
    assert store.read(A) == SEED
    assert "key file" in store.describe()
