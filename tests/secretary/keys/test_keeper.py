"""The secretary's key: made once, kept by a named store, moved, followed by another; never lost and never shown."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import secretstorage
from leaks import shows
from real_keyring import RealKeyring, real_keyring

from billpay.errors import BillpayError, ConfigurationError, EnvironmentFault, RemoteProtocolError
from billpay.messages import KeySuccession, Signed
from billpay.signing import verify
from neighbour.identity import CERTIFICATE_FILE, KEY_FILE, NodeIdentity, PeerCertificate
from secretary.keys.keeper import AUTO, BOOK_FILE, SEALED_FILE, STORES, Keeper, KeyStore, SealedFiles
from secretary.keys.keyrings import SERVICE, KeyringStore, NotOffered
from secretary.keys.sealing import SEAL_NAME, Seals

NO_DESKTOP: dict[str, str] = {}
NOW = 1_700_000_000
A, B = "a" * 64, "b" * 64

needs_keyring = pytest.mark.skipif(
    not all(map(shutil.which, ("dbus-run-session", "gnome-keyring-daemon"))),
    reason="no gnome-keyring-daemon or no dbus-run-session: run `scripts/setup --tests`",
)


class InMemory:
    """The simplest store that keeps the contract."""

    name = "secret-service"

    def __init__(self) -> None:
        self.seeds: dict[str, bytes] = {}
        self.locked = False

    def describe(self) -> str:
        return "in memory"

    def read(self, fingerprint: str) -> bytes | None:
        self._look()
        return self.seeds.get(fingerprint)

    def write(self, fingerprint: str, seed: bytes) -> None:
        self._look()
        self.seeds[fingerprint] = seed

    def remove(self, fingerprint: str) -> None:
        self._look()
        self.seeds.pop(fingerprint, None)

    def _look(self) -> None:
        if self.locked:
            raise EnvironmentFault("open", "the keyring", "it is locked", "unlock it")


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealKeyring]:
    with real_keyring(tmp_path_factory.mktemp("ring")) as made:
        yield made


@pytest.fixture
def session(ring: RealKeyring, monkeypatch: pytest.MonkeyPatch) -> RealKeyring:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", ring.address)
    return ring


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "secretary"


@pytest.fixture(params=["in-memory", SEALED_FILE, pytest.param("secret-service", marks=needs_keyring)])
def store(request: pytest.FixtureRequest, state: Path) -> KeyStore:
    if request.param == "in-memory":
        return InMemory()
    if request.param == "secret-service":
        keyring: RealKeyring = request.getfixturevalue("session")
        return KeyringStore("secret-service", environment=keyring.environment)
    state.mkdir(mode=0o700)
    seals = Seals(state.with_name("seal"), environment=NO_DESKTOP, draw=os.urandom)
    return SealedFiles(state, seals, draw=os.urandom)


def sealed(state: Path, **more: object) -> Keeper:
    given: dict[str, object] = {"name": "host-a", "store": SEALED_FILE, "environment": NO_DESKTOP, **more}
    return Keeper(state, **given)  # type: ignore[arg-type]


def offering(**stores: KeyStore) -> Callable[[str], KeyStore]:
    def opener(name: str) -> KeyStore:
        found = stores.get(name.replace("-", "_"))
        if found is None:
            raise NotOffered(f"no {name} here")
        return found

    return opener


def seed_of(keeper: Keeper) -> bytes:
    return keeper.identity.key.private.private_bytes_raw()


# --- what every store keeps ---------------------------------------------------------------------------------------


def test_a_store_gives_back_what_it_was_given_and_nothing_else(store: KeyStore) -> None:
    first, second = os.urandom(32), os.urandom(32)
    assert store.read(A) is None
    store.write(A, first)
    store.write(B, second)
    assert (store.read(A), store.read(B)) == (first, second)
    store.write(A, second)
    assert store.read(A) == second
    store.remove(A)
    store.remove(A)
    assert (store.read(A), store.read(B)) == (None, second)
    store.remove(B)


def test_a_store_says_in_one_line_how_safe_it_is_and_shows_no_key(store: KeyStore) -> None:
    seed = os.urandom(32)
    store.write(A, seed)
    assert store.describe()
    assert "\n" not in store.describe()
    assert not shows(store.describe() + repr(store), seed)
    store.remove(A)


def test_a_keeper_works_the_same_over_every_store(store: KeyStore, state: Path) -> None:
    opener = offering(**{store.name.replace("-", "_"): store})
    first = Keeper(state, name="host-a", store=store.name, opener=opener)
    signed = first.rotate(NOW)
    again = Keeper(state, name="host-a", store=store.name, opener=opener)
    assert again.identity.fingerprint == first.identity.fingerprint
    assert again.old == (signed.signer,)
    assert again.successions == (signed,)
    again.retire(signed.signer)
    assert store.read(signed.signer) is None
    store.remove(again.identity.fingerprint)


# --- the keeper ---------------------------------------------------------------------------------------------------


def test_the_first_start_makes_a_key_and_later_ones_find_it(state: Path) -> None:
    first = sealed(state)
    again = sealed(state)
    assert again.identity.fingerprint == first.identity.fingerprint
    assert PeerCertificate.read(state / CERTIFICATE_FILE).fingerprint == first.identity.fingerprint
    assert not (state / KEY_FILE).exists()
    assert sealed(state.with_name("other")).identity.fingerprint != first.identity.fingerprint
    private = [path for folder in (state, state.with_name("secretary-seal")) for path in folder.iterdir()]
    secret = [path for path in private if path.name != CERTIFICATE_FILE]
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in secret} == {0}
    assert not any(shows(path.read_bytes(), seed_of(first)) for path in private)


def test_a_key_file_of_before_moves_into_the_store_with_the_same_fingerprint(state: Path) -> None:
    before = NodeIdentity.load_or_create(state, name="host-a")
    pem = before.certificate_path.read_bytes()
    after = sealed(state)
    assert after.identity.fingerprint == before.fingerprint
    assert not before.key_path.exists()
    assert before.certificate_path.read_bytes() == pem
    assert sealed(state).identity.fingerprint == before.fingerprint


def test_a_key_file_stays_until_the_store_has_given_the_key_back(state: Path) -> None:
    class Forgetful(InMemory):
        def write(self, fingerprint: str, seed: bytes) -> None:
            """Says nothing, keeps nothing."""

    before = NodeIdentity.load_or_create(state, name="host-a")
    with pytest.raises(EnvironmentFault, match="it is not in secret-service"):
        Keeper(state, name="host-a", store="secret-service", opener=offering(secret_service=Forgetful()))
    assert before.key_path.exists()
    assert sealed(state).identity.fingerprint == before.fingerprint


@pytest.mark.parametrize("writes", range(6))
def test_a_crash_at_any_write_of_a_migration_loses_nothing(
    state: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """The machine dies before its n-th rename or removal; the next start goes on."""
    before = NodeIdentity.load_or_create(state, name="host-a")
    left = [writes]

    def dying(real: Callable[..., None]) -> Callable[..., None]:
        def change(*arguments: object, **more: object) -> None:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            real(*arguments, **more)

        return change

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", dying(os.replace))
        patched.setattr("secretary.keys.keeper._remove", dying(lambda path: path.unlink(missing_ok=True)))
        with contextlib.suppress(KeyboardInterrupt):
            sealed(state)
    assert sealed(state).identity.fingerprint == before.fingerprint
    assert not before.key_path.exists()


def test_another_key_file_beside_the_store_is_not_taken_and_not_removed(state: Path) -> None:
    kept = sealed(state).identity.fingerprint
    other = NodeIdentity.load_or_create(state.with_name("other"), name="host-a")
    shutil.copy(other.key_path, state / KEY_FILE)
    with pytest.raises(EnvironmentFault, match="it is another one") as fault:
        sealed(state)
    assert kept[:16] in str(fault.value)
    assert (state / KEY_FILE).exists()


@pytest.mark.parametrize("lost", ["the sealed file", "the seal", "both"])
def test_a_lost_key_is_never_replaced_silently(state: Path, lost: str) -> None:
    before = sealed(state).identity.fingerprint
    held = state.with_name("held")
    held.mkdir()
    gone = list(state.glob("*.sealed")) if lost != "the seal" else []
    gone += [state.with_name("secretary-seal") / SEAL_NAME] if lost != "the sealed file" else []
    for path in gone:
        path.rename(held / path.name)
    was = {path.name: path.read_bytes() for path in state.iterdir()}
    for _ in range(2):
        with pytest.raises(EnvironmentFault, match="key") as fault:
            sealed(state)
        assert "\n" not in str(fault.value)
    assert {path.name: path.read_bytes() for path in state.iterdir()} == was
    for path in gone:
        (held / path.name).rename(path)
    assert sealed(state).identity.fingerprint == before


def test_a_lost_book_is_made_again_from_the_certificate(state: Path) -> None:
    before = sealed(state).identity.fingerprint
    (state / BOOK_FILE).unlink()
    assert sealed(state).identity.fingerprint == before
    (state / BOOK_FILE).unlink()
    (state / CERTIFICATE_FILE).write_text("damaged")
    with pytest.raises(EnvironmentFault, match="not a certificate"):
        sealed(state)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"\xff", b'{"store": "sealed-file", "current": "x"}', b'{"version": 2}', b"[" * 5000]
)
def test_a_damaged_book_is_named_and_kept(state: Path, text: bytes) -> None:
    sealed(state)
    (state / BOOK_FILE).write_bytes(text)
    with pytest.raises(EnvironmentFault, match=BOOK_FILE):
        sealed(state)
    assert (state / BOOK_FILE).read_bytes() == text


@pytest.mark.parametrize("name", [BOOK_FILE, KEY_FILE])
def test_what_others_may_read_is_refused(state: Path, name: str) -> None:
    if name == KEY_FILE:
        NodeIdentity.load_or_create(state, name="host-a")
    else:
        sealed(state)
    (state / name).chmod(0o640)
    with pytest.raises(EnvironmentFault, match="others may read it"):
        sealed(state)


def test_an_unknown_store_is_a_mistake_in_the_configuration(state: Path) -> None:
    with pytest.raises(ConfigurationError, match="plaintext"):
        Keeper(state, name="host-a", store="plaintext")
    assert not state.exists()


def test_a_keyring_that_is_locked_or_gone_is_a_fault_and_no_reason_for_another_key(state: Path) -> None:
    memory = InMemory()
    opener = offering(secret_service=memory, sealed_file=InMemory())
    before = Keeper(state, name="host-a", opener=opener).identity.fingerprint
    memory.locked = True
    with pytest.raises(EnvironmentFault, match="locked"):
        Keeper(state, name="host-a", opener=opener)
    with pytest.raises(EnvironmentFault, match="no secret-service here"):
        Keeper(state, name="host-a", opener=offering(sealed_file=InMemory()))
    memory.locked = False
    assert Keeper(state, name="host-a", opener=opener).identity.fingerprint == before


def test_a_store_that_gives_another_key_is_not_believed(state: Path) -> None:
    memory = InMemory()
    opener = offering(secret_service=memory)
    Keeper(state, name="host-a", opener=opener)
    (fingerprint,) = memory.seeds
    for wrong in (os.urandom(32), b"short"):
        memory.seeds[fingerprint] = wrong
        with pytest.raises(EnvironmentFault, match="gave another one"):
            Keeper(state, name="host-a", opener=opener)


def test_naming_another_store_moves_every_key(state: Path) -> None:
    memory = InMemory()
    keeper = sealed(state)
    keeper.rotate(NOW)
    files = list(state.glob("*.sealed"))
    assert len(files) == 2
    seals = Seals(state.with_name("secretary-seal"), environment=NO_DESKTOP, draw=os.urandom)
    opener = offering(secret_service=memory, sealed_file=SealedFiles(state, seals, draw=os.urandom))
    moved = Keeper(state, name="host-a", store="secret-service", opener=opener)
    assert moved.identity.fingerprint == keeper.identity.fingerprint
    assert set(memory.seeds) == {moved.identity.fingerprint, *keeper.old}
    assert list(state.glob("*.sealed")) == []
    # "auto" stays where the keys are.
    assert Keeper(state, name="host-a", store=AUTO, opener=opener).describe().endswith("in memory")


# --- succession ---------------------------------------------------------------------------------------------------


def test_a_rotation_is_signed_by_the_old_key_and_names_the_new_one(state: Path) -> None:
    keeper = sealed(state)
    old = keeper.identity
    first = keeper.rotate(NOW)
    second_old = keeper.identity
    second = keeper.rotate(NOW + 1)
    told = verify(first, old.public_key, KeySuccession)
    assert (told.old, told.serial, told.signed_unix_s) == (old.fingerprint, 1, NOW)
    assert PeerCertificate.from_pem(told.new_certificate).fingerprint == second_old.fingerprint
    assert verify(second, second_old.public_key, KeySuccession).serial == 2
    with pytest.raises(RemoteProtocolError, match="wrong-signer"):
        verify(second, old.public_key, KeySuccession)
    again = sealed(state)
    assert again.successions == (first, second)
    assert again.old == (old.fingerprint, second_old.fingerprint)
    assert again.old_identity(old.fingerprint).public_key == old.public_key
    assert PeerCertificate.read(state / CERTIFICATE_FILE).fingerprint == again.identity.fingerprint


def test_a_rotation_that_fails_changes_nothing(state: Path) -> None:
    memory = InMemory()
    opener = offering(secret_service=memory)
    keeper = Keeper(state, name="host-a", opener=opener)
    before = keeper.identity.fingerprint
    memory.locked = True
    with pytest.raises(EnvironmentFault):
        keeper.rotate(NOW)
    assert keeper.identity.fingerprint == before
    memory.locked = False
    assert Keeper(state, name="host-a", opener=opener).identity.fingerprint == before
    assert keeper.successions == ()


def test_a_retired_key_is_gone_and_the_current_one_cannot_be_retired(state: Path) -> None:
    keeper = sealed(state)
    signed = keeper.rotate(NOW)
    keeper.retire(signed.signer)
    assert (keeper.old, keeper.successions) == ((), ())
    assert len(list(state.glob("*.sealed"))) == 1
    with pytest.raises(EnvironmentFault, match="not an old key"):
        keeper.retire(keeper.identity.fingerprint)
    assert keeper.rotate(NOW).kind == "key-succession"
    assert msgspec.json.decode(keeper.successions[0].document)["serial"] == 2


# --- named back ends only -----------------------------------------------------------------------------------------

_PLAINTEXT = """
import pathlib
from keyring.backend import KeyringBackend
class PlaintextKeyring(KeyringBackend):
    priority = 1000
    def get_password(self, service, username):
        return None
    def set_password(self, service, username, password):
        pathlib.Path({path!r}).write_text(password)
"""


def in_fresh_python(code: str, *, path: Path, **environment: str) -> str:
    root = Path(__file__).parent.parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{root}:{path}", "HOME": str(path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("asked", [AUTO, SEALED_FILE])
def test_a_plain_text_back_end_that_is_installed_is_never_chosen(tmp_path: Path, asked: str) -> None:
    """As keyrings.alt is: found by its entry point, with the highest priority, named in keyring's own settings."""
    leak = tmp_path / "leak"
    (tmp_path / "planted.py").write_text(_PLAINTEXT.format(path=str(leak)))
    information = tmp_path / "planted-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[keyring.backends]\nplanted = planted\n")
    planted = {"PYTHON_KEYRING_BACKEND": "planted.PlaintextKeyring", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere"}
    chosen = in_fresh_python("import keyring; print(keyring.get_keyring())", path=tmp_path, **planted)
    assert "PlaintextKeyring" in chosen  # the trap works
    code = (
        "from pathlib import Path; from secretary.keys.keeper import Keeper; "
        f"print(Keeper(Path({str(tmp_path / 'state')!r}), name='a', store={asked!r}).describe())"
    )
    assert "in an encrypted file" in in_fresh_python(code, path=tmp_path, **planted)
    assert not leak.exists()


def test_a_sealed_file_needs_no_keyring_package(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from secretary.keys.keeper import Keeper; "
        f"[Keeper(Path({str(tmp_path / 'state')!r}), name='a', store=name) for name in ('sealed-file', 'auto')]; "
        "print([name for name in ('keyring', 'secretstorage', 'jeepney', 'dbus') if name in sys.modules])"
    )
    assert in_fresh_python(code, path=tmp_path).strip() == "[]"


@pytest.mark.parametrize("name", [name for name in STORES if name not in (AUTO, SEALED_FILE)])
def test_a_named_keyring_without_a_desktop_is_one_clear_line(state: Path, name: str) -> None:
    with pytest.raises(EnvironmentFault, match=f"open key store {name}") as fault:
        Keeper(state, name="host-a", store=name, environment=NO_DESKTOP)
    assert "\n" not in str(fault.value)
    assert list(state.iterdir()) == []


# --- the real Secret Service --------------------------------------------------------------------------------------


@needs_keyring
def test_the_desktops_keyring_keeps_the_key_over_restarts_and_not_in_plain(state: Path, session: RealKeyring) -> None:
    first = Keeper(state, name="host-a", environment=session.environment)
    assert "Secret Service" in first.describe()
    again = Keeper(state, name="host-a", environment=session.environment)
    assert again.identity.fingerprint == first.identity.fingerprint
    files = [*state.iterdir(), *session.files.iterdir()]
    assert not any(shows(path.read_bytes(), seed_of(first)) for path in files)
    assert list(state.glob("*.sealed")) == []


@needs_keyring
def test_a_locked_keyring_is_said_at_once_and_nobody_waits_for_a_prompt(
    state: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with real_keyring(tmp_path_factory.mktemp("locked")) as ring:
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", ring.address)
        Keeper(state, name="host-a", environment=ring.environment)
        ring.lock()
        with pytest.raises(EnvironmentFault, match=r"it is locked .*unlock its keyring"):
            Keeper(state, name="host-a", environment=ring.environment)
    with pytest.raises(EnvironmentFault, match="open key store secret-service"):  # its daemon has gone
        Keeper(state, name="host-a", environment=ring.environment)


@needs_keyring
def test_what_is_no_key_in_the_keyring_is_refused_without_showing_it(state: Path, session: RealKeyring) -> None:
    keeper = Keeper(state, name="host-a", environment=session.environment)
    for text in ("hunter2", "ed25519-seed-1:hunter2!", "ed25519-seed-1:aHVudGVyMg=="):
        with contextlib.closing(secretstorage.dbus_init()) as bus:
            found = secretstorage.Collection(bus).search_items(
                {"service": SERVICE, "username": keeper.identity.fingerprint}
            )
            next(found).set_secret(text.encode())
        with pytest.raises(EnvironmentFault) as fault:
            Keeper(state, name="host-a", environment=session.environment)
        assert "hunter2" not in repr(fault.value) + repr(fault.value.__cause__)


# --- never shown --------------------------------------------------------------------------------------------------


def test_no_log_line_repr_or_exception_shows_a_key(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    NodeIdentity.load_or_create(state, name="host-a")
    keeper = sealed(state)
    seeds = [seed_of(keeper)]
    keeper.rotate(NOW)
    seeds.append(seed_of(keeper))
    said = [repr(keeper), repr(keeper.identity), repr(keeper.identity.key), keeper.describe(), repr(keeper.successions)]
    for path in state.glob("*.sealed"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        try:
            sealed(state)
        except BillpayError as error:
            said += [repr(error), repr(error.__cause__), str(error)]
    said += [record.getMessage() for record in caplog.records]
    assert len(caplog.records) >= 3
    assert not any(shows(text, seed) for text in said for seed in seeds)


def test_a_library_that_wants_a_file_gets_one_that_is_nowhere_on_the_disk(state: Path) -> None:
    identity = sealed(state).identity
    with identity.key_file() as path:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.certificate_path, path)
        assert str(path).startswith("/proc/self/fd/")
    assert not path.exists()
    assert not (state / KEY_FILE).exists()


def test_the_book_has_only_what_everybody_may_know(state: Path) -> None:
    keeper = sealed(state)
    keeper.rotate(NOW)
    book = json.loads((state / BOOK_FILE).read_text())
    assert set(book) == {"version", "store", "current", "old", "serial", "successions"}
    assert book["current"] == hashlib.sha256(keeper.identity.public_key).hexdigest()
    assert msgspec.convert(book["successions"], list[Signed]) == list(keeper.successions)
