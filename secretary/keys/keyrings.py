"""The desktop's keyring as a place for seeds: only back ends that this module names, each by its class.

Decides: which class a name means, and what each failure is called. Refuses to know: what the seeds are for. Source: the
Secret Service API of freedesktop.org; keyring(3) of Python.

`keyring.get_keyring()` is never asked: it takes the installed class with the highest priority, and a package such as
keyrings.alt would silently make that a plain text file. A locked keyring is a fault at once: a service must not wait
for somebody who types a password. `keyring` is imported when a back end is opened, and not before.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from billpay.errors import EnvironmentFault

SERVICE: Final = "hostagent-secretary"
_PREFIX: Final = "ed25519-seed-1:"
_LOGIN: Final = "log in to the desktop, or unlock its keyring; then start again"


class NotOffered(Exception):  # noqa: N818 (an answer for "auto", not a fault)
    """This machine, or this session, has no such keyring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _BackEnd:
    module: str
    type_name: str
    platform: str
    needs: str  # of the environment; "" for nothing
    about: str


_BACK_ENDS: Final[Mapping[str, _BackEnd]] = {
    "secret-service": _BackEnd(
        module="keyring.backends.SecretService",
        type_name="Keyring",
        platform="linux",
        needs="DBUS_SESSION_BUS_ADDRESS",
        about="the Secret Service of the desktop",
    ),
    "kwallet": _BackEnd(
        module="keyring.backends.kwallet",
        type_name="DBusKeyring",
        platform="linux",
        needs="DBUS_SESSION_BUS_ADDRESS",
        about="KWallet",
    ),
    "macos": _BackEnd(
        module="keyring.backends.macOS",
        type_name="Keyring",
        platform="darwin",
        needs="",
        about="the macOS keychain",
    ),
    "windows": _BackEnd(
        module="keyring.backends.Windows",
        type_name="WinVaultKeyring",
        platform="win32",
        needs="",
        about="the Windows credential vault",
    ),
}
NAMES: Final = tuple(_BACK_ENDS)

_ERRORS: Final = (
    ("keyring.errors", "KeyringError"),
    ("secretstorage.exceptions", "SecretStorageException"),
    ("jeepney.wrappers", "DBusErrorResponse"),
    ("dbus", "DBusException"),
)
"""What back ends raise, by module: only those that are loaded can have been raised."""


class KeyringStore:
    """Seeds under their fingerprints, in one named keyring."""

    def __init__(self, name: str, *, environment: Mapping[str, str]) -> None:
        """Raises NotOffered."""
        self.name = name
        self._about = _BACK_ENDS[name]
        if sys.platform != self._about.platform:
            raise NotOffered(f"{self._about.about} is not on this system")
        if self._about.needs and not environment.get(self._about.needs):
            raise NotOffered(f"{self._about.needs} is not set: no desktop session")
        self._ring = self._open()

    def describe(self) -> str:
        return f"in {self._about.about}: as safe as the user's login password"

    def read(self, fingerprint: str) -> bytes | None:
        with self._faults("read key from"):
            self._refuse_locked()
            text = self._ring.get_password(SERVICE, fingerprint)
        return None if text is None else self._seed(text)

    def write(self, fingerprint: str, seed: bytes) -> None:
        with self._faults("write key to"):
            self._refuse_locked()
            self._ring.set_password(SERVICE, fingerprint, _PREFIX + base64.b64encode(seed).decode())

    def remove(self, fingerprint: str) -> None:
        """One that is not there is removed already."""
        with self._faults("remove key from"):
            self._refuse_locked()
            if self._ring.get_password(SERVICE, fingerprint) is not None:
                self._ring.delete_password(SERVICE, fingerprint)

    def _open(self) -> Any:
        try:
            module = importlib.import_module(self._about.module)
        except ImportError as error:
            raise NotOffered(f"{self._about.about}: the Python package keyring is not installed") from error
        back_end = getattr(module, self._about.type_name)
        try:
            back_end.priority  # noqa: B018 (it says by an exception why it cannot work here)
        except (RuntimeError, OSError) as error:  # OSError: a bus that is gone
            raise NotOffered(f"{self._about.about}: {error}") from error
        with self._faults("open"):
            return back_end()

    def _refuse_locked(self) -> None:
        """Asked to, `keyring` would open a prompt and wait for it."""
        if self.name != "secret-service":
            return
        import secretstorage

        with contextlib.closing(secretstorage.dbus_init()) as bus:
            try:
                locked = secretstorage.Collection(bus).is_locked()
            except secretstorage.exceptions.ItemNotFoundException as error:
                raise self._fault("open", "it has no default keyring", "make one, with a password") from error
        if locked:
            raise self._fault("open", "it is locked", _LOGIN)

    def _seed(self, text: str) -> bytes:
        try:
            if not text.startswith(_PREFIX):
                raise ValueError("unknown form")
            return base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except (ValueError, binascii.Error):
            # Not chained: the text in it may be a part of the key.
            raise self._fault("read key from", "what is stored there is not a key", "restore it") from None

    @contextlib.contextmanager
    def _faults(self, operation: str) -> Iterator[None]:
        try:
            yield
        except _known_errors() as error:
            raise self._fault(operation, str(error) or type(error).__name__, _LOGIN) from error
        except OSError as error:
            raise self._fault(operation, error.strerror or str(error), _LOGIN) from error

    def _fault(self, operation: str, cause: str, remedy: str) -> EnvironmentFault:
        return EnvironmentFault(operation, self._about.about, cause, remedy)


def _known_errors() -> tuple[type[BaseException], ...]:
    return tuple(getattr(sys.modules[module], name) for module, name in _ERRORS if module in sys.modules)
