"""One file for whoever is to find out what is wrong: what this machine can do, what the agent does, what it said.

Decides: what is in it, and that nothing private is unless it is asked for. Refuses to know: what is private
(`hostagent.pseudonyms`). Source: docs/operating.md, "A report for a bug".

It works when the agent is dead, and without privileges: each part is there, or a line that says why not. Never in it:
keys, books, grants, the history, the traffic's content (nobody has that).
"""

from __future__ import annotations

import enum
import http.client
import io
import os
import platform
import pwd
import re
import socket as sockets
import stat
import tarfile
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import msgspec

from billpay.errors import BillpayError, EnvironmentFault
from dataplane import kernel_tools
from dataplane.engines import ECN_RECORD, SHAPING_RECORD, TRAFFIC_CONTROL_RECORD
from dataplane.host_engine import EngineName
from dataplane.journal import LOG_FILE
from dataplane.record import ACCESS_RECORD, RECORD_NAME
from hostagent import api
from hostagent.pseudonyms import Pseudonyms, private_in, without_secrets
from secretary.kinds import shipped_kinds

LOG_LINES: Final = 400
ANSWER_BYTES_MAX: Final = 16 << 20
TIMEOUT_S: Final = 5
KEY_BYTES: Final = 32
FIRST_PERSON: Final = 1000  # users below are the system's
UNITS: Final = ("hostagent", "hostagent-secretary", "hostagent-gateway")
RECORDS: Final = (RECORD_NAME, TRAFFIC_CONTROL_RECORD, SHAPING_RECORD, ECN_RECORD, ACCESS_RECORD)
LIBRARIES: Final = ("aiohttp", "click", "cryptography", "msgspec", "rich", "siphash24", "textual")
TOOLS: Final = (("ip", "-V"), ("tc", "-V"), ("iptables", "--version"), ("nft", "--version"), ("systemctl", "--version"))

PUBLIC_WORDS: Final = frozenset(
    {
        *("program", "forwarded", "unattributed", "(unattributed)", "(ended)", "(forwarded)"),
        *("bulk", "fixed", "return", "unpaid", "out", "in", "day", "week", "bytes", "nanodollars"),
        *("wifi", "cable", "mobile", "hotspot", "container", "vpn", "unknown", "embedded", "configured", "found"),
        *("own", "first use", "changed", "new", "embedded gateway", "tariff", "data plan", "tolls", "auto", "shipped"),
        *("kinds", "configuration", "word", "agreed", "no agreement", "unreachable", "in default", "measured"),
        *(
            "dedicated",
            "none",
            "root",
            "hostagent",
            "hostagent.service",
            "@hostagent",
            "price",
            "loss",
            "excess",
            "withdrawn",
        ),
    }
)
"""What the agent itself writes where names may stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    state_directory: Path
    socket: Path
    config_path: Path | None


Part = Callable[[Sources], Any]
"""A text, or what becomes JSON. Raises OSError or a BillpayError when it cannot be had."""


def collect(
    state_directory: Path,
    socket: Path,
    config_path: Path | None,
    *,
    full: bool = False,
    output: Path | None = None,
) -> Path:
    """Writes the report, readable for this user alone. `full`: with addresses and names, and still without secrets.

    Raises EnvironmentFault when the file cannot be written, or is there already.
    """
    now_s = int(time.time())
    path = output or Path(time.strftime("hostagent-report-%Y%m%d-%H%M%S.tar.gz", time.localtime(now_s)))
    sources = Sources(state_directory=state_directory, socket=socket, config_path=config_path)
    found = {name: _had(part, sources) for name, (_, part) in PARTS.items()}
    if full:
        shown = {name: without_secrets(value) for name, value in found.items()}
    else:
        hide = Pseudonyms(os.urandom(KEY_BYTES), names=_names_here(), words=_public_words())
        for value in found.values():  # what is private anywhere is looked for everywhere
            hide.learn(private_in(value))
        shown = {name: hide.value(value) for name, value in found.items()}
    files = {name: value if isinstance(value, str) else _json(value) for name, value in shown.items()}
    _write(path, {"README.txt": _read_me(files, full=full, now_s=now_s)} | files, now_s)
    return path


def _had(part: Part, sources: Sources) -> Any:
    try:
        return part(sources)
    except BillpayError as error:
        return f"not available: {error}\n"
    except OSError as error:
        return f"not available: {(error.strerror or str(error)).lower()}\n"


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def _public_words() -> frozenset[str]:
    from dataplane.diagnosis.conflicts import ConflictKind, Together
    from dataplane.diagnosis.features import FeatureName, State

    enums: list[type[enum.Enum]] = [EngineName, ConflictKind, Together, FeatureName, State]
    enums += [found for found in vars(api).values() if isinstance(found, type) and issubclass(found, enum.Enum)]
    members = frozenset(str(member.value) for found in enums for member in found)
    return PUBLIC_WORDS | members | frozenset(shipped_kinds())


# -- the parts, in the order of the list ------------------------------------------------------------------------------


def _versions(_: Sources) -> str:
    lines = [f"hostagent {_version('hostagent')}", f"python {platform.python_version()}"]
    system = platform.uname()
    lines += [f"kernel {system.system} {system.release} {system.version} {system.machine}"]
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    lines += [f"system {release.get('PRETTY_NAME', 'unknown')}"]
    lines += [f"{name} {_version(name)}" for name in LIBRARIES]
    for tool in TOOLS:
        try:
            lines.append(_run(*tool).splitlines()[0])
        except (EnvironmentFault, IndexError):
            lines.append(f"{tool[0]}: not there")
    return "\n".join(lines) + "\n"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed as a package"


def _doctor(sources: Sources) -> Any:
    """Nearly as `hostagent doctor --json`."""
    from dataplane.diagnosis.conflicts import find_conflicts
    from dataplane.diagnosis.engine_choice import choose
    from dataplane.diagnosis.features import probe

    features = probe()
    found = {
        "choice": choose(features),
        "features": features,
        "conflicts": find_conflicts([sources.state_directory, Path("/var/lib/hostagent-gateway")]),
    }
    return msgspec.to_builtins(found)


def _snapshot(sources: Sources) -> Any:
    """As it is, whatever version answers."""
    connection = _UnixConnection(sources.socket)
    try:
        connection.request("GET", "/v1/snapshot")
        response = connection.getresponse()
        body = response.read(ANSWER_BYTES_MAX)
        if response.status != 200:
            return f"not available: {response.status} {response.reason}\n"
        return msgspec.json.decode(body)
    except (http.client.HTTPException, msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"not available: what answers on the socket is no agent: {type(error).__name__}\n"
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("hostagent", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


def _configuration(sources: Sources) -> Any:
    """As JSON: comments are nobody's business."""
    if sources.config_path is None:
        return "there is none: everything is as shipped\n"
    text = sources.config_path.read_text(encoding="utf-8", errors="replace")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return f"not TOML, {len(text.splitlines())} lines: {error}\n"


def _log(sources: Sources) -> str:
    lines: deque[str] = deque(maxlen=LOG_LINES)
    for name in (f"{LOG_FILE}.1", LOG_FILE):
        path = sources.state_directory / name
        if path.exists():
            lines.extend(path.read_text(encoding="utf-8", errors="replace").splitlines())
    if Path("/run/systemd/system").is_dir():
        units = [word for unit in UNITS for word in ("-u", unit)]
        lines.extend(
            _run(
                "journalctl", "--no-pager", "--no-hostname", "-q", "-o", "short-iso", "-n", str(LOG_LINES), *units
            ).splitlines()
        )
    return "\n".join(lines) + "\n" if lines else "nothing was logged that is still there\n"


def _records(sources: Sources) -> str:
    found = []
    for name in RECORDS:
        path = sources.state_directory / name
        if path.exists():
            found.append(f"{name}:\n{path.read_text(encoding='utf-8', errors='replace')}\n")
    return "\n".join(found) or "no record: nothing is changed in the kernel, or it was put back\n"


def _state(sources: Sources) -> str:
    """Names, sizes and modes; nothing of what is in them but the records and the log."""
    lines = []
    for path in sorted(sources.state_directory.iterdir()):
        found = path.lstat()
        changed = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.st_mtime))
        lines.append(f"{stat.filemode(found.st_mode)} {found.st_uid:>6} {found.st_size:>12} {changed} {path.name}")
    return "\n".join(lines) + "\n"


def _kernel(_: Sources) -> str:
    """What is ours of it, and nobody else's."""
    parts = []
    for title, lines in (
        ("qdiscs and classes", _our_shaping),
        ("interfaces", lambda: _lines_with(r"\bha-ifb", "ip", "-o", "link", "show")),
        ("ip rules", lambda: _lines_with(r"^741[5-9]:|lookup 7414\d", "ip", "rule", "show")),
        ("ip rules (IPv6)", lambda: _lines_with(r"^741[5-9]:|lookup 7414\d", "ip", "-6", "rule", "show")),
        ("iptables", lambda: _lines_with(r"\bbillpay-", "iptables-save", "-c")),
        ("ip6tables", lambda: _lines_with(r"\bbillpay-", "ip6tables-save", "-c")),
    ):
        try:
            found = list(lines())
        except EnvironmentFault as fault:
            found = [f"not available: {fault}"]
        parts.append("\n".join([f"# {title}", *(found or ["nothing of ours"])]))
    return "\n\n".join(parts) + "\n"


def _our_shaping() -> Iterator[str]:
    shown = _run("tc", "qdisc", "show").splitlines()
    devices = {found[1] for line in shown if (found := re.search(r"\bdev (\S+)", line)) and _is_ours(line, found[1])}
    for device in sorted(devices):
        for what in ("qdisc", "class", "filter"):
            yield from _run("tc", "-s", what, "show", "dev", device).splitlines()


def _is_ours(line: str, device: str) -> bool:
    return " 7414:" in line or device.startswith("ha-ifb")


def _lines_with(pattern: str, *command: str) -> Iterator[str]:
    return (line for line in _run(*command).splitlines() if re.search(pattern, line))


PARTS: Final[dict[str, tuple[str, Part]]] = {
    "versions.txt": ("the agent, the kernel, libraries and tools", _versions),
    "doctor.json": ("what this machine can do, and who else is at work on it", _doctor),
    "snapshot.json": ("what the agent shows: status, flows, programs, links, networks, budgets", _snapshot),
    "configuration.json": ("the configuration file's values", _configuration),
    "log.txt": (f"the last {LOG_LINES} lines that the daemons logged", _log),
    "records.txt": ("what was changed in the kernel, and how it is undone", _records),
    "state.txt": ("the state directory's files: names, sizes, modes", _state),
    "kernel.txt": ("our own qdiscs, rules and interfaces in the kernel", _kernel),
}


# -- the file ---------------------------------------------------------------------------------------------------------


_IN_FULL: Final = """\
It was asked for in full: addresses, and names of programs, networks, machines and people are in it. Think before you
give it away."""
_HIDDEN: Final = """\
Addresses, and names of programs, networks, machines and people, are replaced by pseudonyms. The same one stands for the
same thing all through this report, and for nothing outside of it."""


def _read_me(files: dict[str, str], *, full: bool, now_s: int) -> str:
    hidden = _IN_FULL if full else _HIDDEN
    lines = [f"{name:<20} {len(text):>9} characters: {PARTS[name][0]}" for name, text in files.items()]
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    return (
        f"A report of hostagent, made {made}. It was sent nowhere.\n\n{hidden}\n\n"
        "Never in it: keys and secrets, books, grants, the history, any packet's content.\n\n" + "\n".join(lines) + "\n"
    )


def _write(path: Path, files: dict[str, str], now_s: int) -> None:
    packed = io.BytesIO()
    folder = path.name.removesuffix(".tar.gz")
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            data = text.encode("utf-8", errors="replace")
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mtime, member.mode = len(data), now_s, 0o600
            archive.addfile(member, io.BytesIO(data))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            file.write(packed.getvalue())
    except OSError as error:
        raise EnvironmentFault("write", str(path), error.strerror, "name another file") from error


def _run(*command: str) -> str:
    """Raises EnvironmentFault."""
    return kernel_tools.run(command, operation="run", target=command[0])


def _names_here() -> set[str]:
    """Of people, of this machine, and of its interfaces."""
    people = {entry.pw_name for entry in pwd.getpwall() if entry.pw_uid >= FIRST_PERSON and entry.pw_name != "nobody"}
    host = platform.node()
    return people | {host, host.partition(".")[0]} | {name for _, name in sockets.if_nameindex()}
