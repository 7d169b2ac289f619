"""A person's own rules: TOML files of one directory, read again when they change.

Decides: how each mistake in a file is named (file, key, what to do), what holds while a file is wrong, and when a file
has changed. Refuses to know: what follows from a rule (`secretary.ruling.rules`, `secretary.ruling.precedence`).
docs/samples/rules.toml comments every key.

A wrong file changes nothing: its last good rules hold, and its mistakes are said. If it was never good, nobody whom it
is for pays anything by what comes after it, since it might have said "never". Files are read in the order of their
names; their rules are one list.

`changed`, `read_rules` and what they call are pure; `RuleFiles` looks at the directory when it is told to.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import stat
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from billpay.configuration import FILE_BYTES_MAX, load_toml
from billpay.errors import ConfigurationError
from billpay.messages import Amount, Name
from secretary.ruling.rules import DAYS, PROTOCOLS, Hours, Most, Pay, Rule, Source, probes_budget, wrong_probes

DIRECTORY_NAME: Final = "rules.d"
SUFFIX: Final = ".toml"
FILES_MAX: Final = 200
RULES_MAX: Final = 1000
SETTLED_AFTER_NS: Final = 2_000_000_000
"""A file that changed so shortly before it was read may change again within the same tick of its clock."""
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
UNREADABLE: Final = "unreadable"

Money = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
Glob = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Globs = Annotated[tuple[Glob, ...], msgspec.Meta(max_length=64)]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Span = Annotated[str, msgspec.Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)$")]
Day = Annotated[str, msgspec.Meta(pattern="^(mon|tue|wed|thu|fri|sat|sun)$")]


class RuleSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule as it is written: in a person's file, in the secretary's own, and in an organisation's policy."""

    name: Name
    program: Globs = ()
    user: Globs = ()
    task: Globs = ()
    kind: Globs = ()
    destination: Globs = ()
    network: Globs = ()
    hours: Annotated[tuple[Span, ...], msgspec.Meta(max_length=16)] = ()
    days: Annotated[tuple[Day, ...], msgspec.Meta(max_length=7)] = ()
    foreground: bool | None = None
    protocol: Annotated[str, msgspec.Meta(pattern="^(tcp|udp|any)$")] = "any"
    ports: Annotated[tuple[PortNumber, ...], msgspec.Meta(max_length=64)] = ()
    pay: Pay = Pay.UP_TO
    most_per_mb_nanodollars: Money | None = None
    most_per_transfer_nanodollars: Money | None = None
    most_per_packet_nanodollars: Amount | None = None
    strategy: Annotated[str, msgspec.Meta(pattern="^(fixed|bulk|timely)$")] = "fixed"
    amount_nanodollars: Amount = 0
    willingness_nanodollars: Amount = 0
    target_bit_s: Annotated[int, msgspec.Meta(ge=0, le=10**12)] = 0
    probes_nanodollars: Money | None = None
    grant_nanodollars: Money = 100_000_000
    rate_nanodollars_per_s: Money = 100_000_000
    burst_nanodollars: Money = 100_000_000
    lifetime_s: Annotated[int, msgspec.Meta(ge=10, le=86_400)] = 600

    @property
    def most(self) -> Most:
        return Most(
            mb_nanodollars=self.most_per_mb_nanodollars,
            transfer_nanodollars=self.most_per_transfer_nanodollars,
            packet_nanodollars=self.most_per_packet_nanodollars,
        )


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file. `user` "": for everybody on this host."""

    user: Annotated[str, msgspec.Meta(max_length=256)] = ""
    rules: Annotated[tuple[RuleSection, ...], msgspec.Meta(max_length=RULES_MAX)] = ()


def schema() -> dict[str, Any]:
    """JSON schema of a file, for editors."""
    return {"$schema": DIALECT, **msgspec.json.schema(Configuration), "title": "hostagent secretary rules"}


def load(path: Path) -> Configuration:
    """The checked file. Raises ConfigurationError, the first mistake."""
    configuration = load_toml(path, Configuration)
    for mistake in _check_all(configuration, str(path)):
        raise mistake
    return configuration


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFile:
    """What one file says. With mistakes it has no rules."""

    user: str = ""
    rules: tuple[Rule, ...] = ()
    mistakes: tuple[ConfigurationError, ...] = ()


def read_rules(text: str, file: str) -> RuleFile:
    """`file`: what mistakes name, all of them."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        remedy = "strings need quotes, tables are written [name]"
        return RuleFile(mistakes=(ConfigurationError(file, "", f"not TOML: {error}", remedy),))
    except RecursionError:
        mistake = ConfigurationError(file, "", "brackets are nested too deeply", "is this the right file?")
        return RuleFile(mistakes=(mistake,))
    user = table.get("user", "")
    for_whom = user if isinstance(user, str) else ""
    mistakes = _wrong_values(table, Configuration, file, "", skip=("rules",)) + _wrong_rules(table, file)
    if mistakes:
        return RuleFile(user=for_whom, mistakes=tuple(mistakes))
    configuration = msgspec.convert(table, Configuration)
    mistakes = _check_all(configuration, file)
    if mistakes:
        return RuleFile(user=for_whom, mistakes=tuple(mistakes))
    return RuleFile(user=for_whom, rules=rules_of(configuration, file))


def rules_of(configuration: Configuration, file: str) -> tuple[Rule, ...]:
    """In the order of the file. A file of one user says nothing about another."""
    users = (configuration.user,) if configuration.user else ()
    return tuple(rule_of(section, file=file, users=users) for section in configuration.rules)


def rule_of(
    section: RuleSection, *, source: Source = Source.PERSON, file: str = "", users: tuple[str, ...] = ()
) -> Rule:
    """A section that was checked. `users`: whose the file is; the section's own users hold where it is everybody's."""
    most = section.most
    packet = most.of_packet() or 0
    amount = section.amount_nanodollars or (packet if section.strategy == "fixed" else 0)
    networks, names = _split(section.destination)
    return Rule(
        name=section.name,
        source=source,
        file=file,
        protocol=PROTOCOLS[section.protocol],
        destinations=tuple(ip_network(text) for text in networks),
        destination_names=tuple(name.rstrip(".").lower() for name in names),
        ports=frozenset(section.ports),
        programs=section.program,
        users=users or section.user,
        tasks=section.task,
        kinds=section.kind,
        networks=section.network,
        hours=tuple(_hours_of(span) for span in section.hours),
        days=frozenset(DAYS.index(day) for day in section.days),
        foreground=section.foreground,
        pay=section.pay,
        most=most,
        strategy=section.strategy,
        amount_nanodollars=amount,
        willingness_nanodollars=section.willingness_nanodollars or amount or packet,
        target_bit_s=section.target_bit_s,
        probes_nanodollars=probes_budget(section.strategy, section.probes_nanodollars),
        grant_nanodollars=section.grant_nanodollars,
        rate_nanodollars_per_s=section.rate_nanodollars_per_s,
        burst_nanodollars=section.burst_nanodollars,
        lifetime_s=section.lifetime_s,
    )


def _hours_of(span: str) -> Hours:
    since, until = ((int(part[:2]) * 60 + int(part[3:])) for part in span.split("-"))
    return Hours(since, until)


_ADDRESS: Final = re.compile(r"^[0-9.]+(/\S*)?$|^[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(/\S*)?$|/")


def _split(destinations: Sequence[str]) -> tuple[list[str], list[str]]:
    """Addresses and prefixes, and names; what has a slash or looks like an address is meant as one."""
    networks = [text for text in destinations if _ADDRESS.search(text)]
    return networks, [text for text in destinations if not _ADDRESS.search(text)]


# --- mistakes ---------------------------------------------------------------------------------------------------------


def _wrong_rules(table: Mapping[str, Any], file: str) -> list[ConfigurationError]:
    sections = table.get("rules", [])
    if not isinstance(sections, list) or not all(isinstance(section, dict) for section in sections):
        return [ConfigurationError(file, "rules", "not a list of tables", "begin each rule with [[rules]]")]
    if len(sections) > RULES_MAX:
        return [ConfigurationError(file, "rules", f"{len(sections)} rules", f"at most {RULES_MAX} in a file")]
    return [
        mistake
        for number, section in enumerate(sections)
        for mistake in _wrong_values(section, RuleSection, file, f"rules[{number}].")
    ]


def _wrong_values(
    table: Mapping[str, Any], struct: type[msgspec.Struct], file: str, before: str, skip: Sequence[str] = ()
) -> list[ConfigurationError]:
    """Each key by itself, so that one mistake does not hide the next."""
    types = typing.get_type_hints(struct, include_extras=True)
    found = []
    for key, value in table.items():
        if key not in types:
            close = difflib.get_close_matches(key, types, n=1, cutoff=0.5)
            remedy = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(types)}"
            found.append(ConfigurationError(file, before + key, "unknown key", remedy))
        elif key not in skip:
            try:
                msgspec.convert(value, types[key])
            except msgspec.ValidationError as error:
                problem, _, at = str(error).partition(" - at `$")
                where = before + key + at.removesuffix("`")
                found.append(ConfigurationError(file, where, f"{problem[:1].lower()}{problem[1:]}", _remedy(key)))
    required = (field.name for field in msgspec.structs.fields(struct) if field.required)
    found += [ConfigurationError(file, before + key, "missing", "add it") for key in required if key not in table]
    return found


def _remedy(key: str) -> str:
    remedies = {
        "hours": 'write spans of the local day, as ["08:00-18:00"]',
        "days": f"write some of {', '.join(DAYS)}",
        "pay": f"write one of {', '.join(repr(pay.value) for pay in Pay)}",
        "name": "1 to 64 of A-Z a-z 0-9 . _ : / -",
    }
    return remedies.get(key, "correct the value")


def _check_all(configuration: Configuration, file: str) -> list[ConfigurationError]:
    found, names = [], set()
    for number, section in enumerate(configuration.rules):
        key = f"rules[{number}]"
        if section.name in names:
            problem = f"{section.name!r} is used twice"
            found.append(ConfigurationError(file, f"{key}.name", problem, "name each rule of a file once"))
        names.add(section.name)
        if configuration.user and section.user:
            problem = f"the whole file is {configuration.user}'s"
            found.append(ConfigurationError(file, f"{key}.user", problem, "take it out here, or above the rules"))
        found += check_section(section, file, key)
    return found


def check_section(section: RuleSection, file: str, key: str) -> list[ConfigurationError]:
    """What the types cannot say: all that is wrong with one rule."""
    found = [*_wrong_destinations(section, file, key), *_wrong_hours(section, file, key)]
    if section.pay is Pay.UP_TO:
        return found + _wrong_prices(section, file, key)
    priced = [name for name in ("amount_nanodollars", "willingness_nanodollars") if getattr(section, name)]
    if section.pay is Pay.NEVER:
        priced += [name for name in _MOST if getattr(section, name) is not None]
    problem, remedy = f"has no meaning where pay = {section.pay.value!r}", "take it out"
    return found + [ConfigurationError(file, f"{key}.{name}", problem, remedy) for name in priced]


_MOST: Final = ("most_per_mb_nanodollars", "most_per_transfer_nanodollars", "most_per_packet_nanodollars")


def _wrong_destinations(section: RuleSection, file: str, key: str) -> list[ConfigurationError]:
    found = []
    for number, text in enumerate(section.destination):
        if _split([text])[0]:
            try:
                ip_network(text)
            except ValueError as error:
                where, remedy = f"{key}.destination[{number}]", "write addresses or prefixes, as 10.0.0.0/8, or names"
                found.append(ConfigurationError(file, where, str(error), remedy))
    return found


def _wrong_hours(section: RuleSection, file: str, key: str) -> list[ConfigurationError]:
    return [
        ConfigurationError(file, f"{key}.hours[{number}]", "ends where it begins", "00:00-24:00 is the whole day")
        for number, span in enumerate(section.hours)
        if _hours_of(span).since == _hours_of(span).until
    ]


def _wrong_prices(section: RuleSection, file: str, key: str) -> list[ConfigurationError]:
    """As the secretary's own file has it: a rule that pays says how much, and a grant has room for one packet."""

    def wrong(name: str, problem: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(file, f"{key}.{name}", problem, remedy)

    needed = "amount_nanodollars" if section.strategy == "fixed" else "willingness_nanodollars"
    most = getattr(section, needed) or section.most.of_packet() or 0
    if not most:
        remedy = f"strategy {section.strategy!r} needs it, or one of {', '.join(_MOST)}; or pay = 'never'"
        return [wrong(needed, "is 0", remedy)]
    found = []
    if section.strategy == "bulk" and not section.target_bit_s:
        found.append(wrong("target_bit_s", "is 0", "strategy 'bulk' pays to reach a rate"))
    probes = wrong_probes(section.strategy, section.probes_nanodollars, most)
    found += [wrong("probes_nanodollars", problem, remedy) for problem, remedy in probes]
    for bound in ("grant_nanodollars", "burst_nanodollars"):
        if getattr(section, bound) < most:
            problem = f"is {getattr(section, bound)}: less than {needed}, one packet"
            found.append(wrong(bound, problem, f"at least {most}"))
    limit = section.most.of_packet()
    for name in ("amount_nanodollars", "willingness_nanodollars"):
        if limit is not None and getattr(section, name) > limit:
            problem = f"is {getattr(section, name)}: more than the most that the rule pays, {limit} a packet"
            found.append(wrong(name, problem, "lower it, or raise the most"))
    return found


# --- what changed -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """By what a file is known to be another one, without reading it. `settled`: it had rested when it was read."""

    modified_ns: int
    changed_ns: int
    size_bytes: int
    inode: int
    mode: int
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Changes:
    read: tuple[str, ...]  # new, or not what they were
    gone: tuple[str, ...]


def changed(before: Mapping[str, Stamp], now: Mapping[str, Stamp]) -> Changes:
    """By files' names, in their order. A file that had not settled is read once more."""
    read = [name for name, stamp in now.items() if before.get(name) != stamp or not before[name].settled]
    return Changes(tuple(sorted(read)), tuple(sorted(name for name in before if name not in now)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """What a look at the directory found. `notices`: one line each, for the person; the same is said once."""

    rules: tuple[Rule, ...]
    notices: tuple[str, ...]


class RuleFiles:
    """`good`: the last good text of each file, as `good_texts` gave it before a restart."""

    def __init__(self, directory: Path, *, good: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self._stamps: dict[str, Stamp] = {}
        self._texts: dict[str, str] = {}  # last read, good or not
        self._good = dict(good or {})
        self._wrong: dict[str, RuleFile] = {}
        self._fault = ""

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong now, one line for each mistake."""
        lines = [str(mistake) for _, file in sorted(self._wrong.items()) for mistake in file.mistakes]
        return ((self._fault,) if self._fault else ()) + tuple(lines)

    def good_texts(self) -> dict[str, str]:
        """To be kept, so that a file that is wrong at the next start has good rules as well."""
        return dict(self._good)

    def poll(self, unix_ns: int) -> Reload | None:
        """Looks, and reads what changed; None: nothing did. Cheap: one stat for each file."""
        try:
            now = self._look(unix_ns)
        except OSError as error:
            holds = "the rules read before hold" if self._good else "nothing is paid until it can be read"
            fault = f"{self._directory}: {error.strerror}: {holds} (check the directory)"
            if fault == self._fault:
                return None
            self._fault = fault
            return Reload(rules=self._rules(), notices=(fault,))
        was_at_fault, self._fault = bool(self._fault), ""
        changes = changed(self._stamps, now)
        self._stamps = now
        notices = [notice for name in changes.gone for notice in self._forget(name)]
        notices += [notice for name in changes.read for notice in self._read(name)]
        notices += [notice for name in sorted(set(self._good) - set(now)) for notice in self._forget(name)]
        return Reload(rules=self._rules(), notices=tuple(notices)) if notices or was_at_fault else None

    def _look(self, unix_ns: int) -> dict[str, Stamp]:
        if not self._directory.exists():
            return {}
        with os.scandir(self._directory) as found:
            names = sorted(entry.name for entry in found if entry.name.endswith(SUFFIX) and entry.name[0] != ".")
        if len(names) > FILES_MAX:
            raise OSError(errno.E2BIG, f"has {len(names)} files, at most {FILES_MAX} are read")
        stamps = {}
        for name in names:
            try:
                is_ = (self._directory / name).stat()
            except FileNotFoundError:
                continue  # gone since, or a link to nothing
            stamps[name] = Stamp(
                modified_ns=is_.st_mtime_ns,
                changed_ns=is_.st_ctime_ns,
                size_bytes=is_.st_size,
                inode=is_.st_ino,
                mode=is_.st_mode,
                settled=is_.st_ctime_ns <= unix_ns - SETTLED_AFTER_NS,
            )
        return stamps

    def _forget(self, name: str) -> list[str]:
        self._texts.pop(name, None)
        self._wrong.pop(name, None)
        text = self._good.pop(name, None)
        count = len(read_rules(text, name).rules) if text is not None else 0
        return [f"{name}: the file is gone, and its {count} rules with it"]

    def _read(self, name: str) -> list[str]:
        path = self._directory / name
        text, mistake = _text_of(path, self._stamps[name].mode)
        if mistake is None and text == self._texts.get(name):
            return []
        was_wrong = name in self._wrong
        file = read_rules(text, str(path)) if mistake is None else RuleFile(mistakes=(mistake,))
        if mistake is None:
            self._texts[name] = text
        else:
            self._texts.pop(name, None)
        if not file.mistakes:
            self._good[name] = text
            self._wrong.pop(name, None)
            return [f"{name}: {len(file.rules)} rules {'are good again' if was_wrong else 'were read'}"]
        if was_wrong and [*map(str, self._wrong[name].mistakes)] == [*map(str, file.mistakes)]:
            return []
        self._wrong[name] = file
        holds = "its last good rules hold" if name in self._good else "nothing is paid after it until it is right"
        return [*(str(each) for each in file.mistakes), f"{name}: {holds}"]

    def _rules(self) -> tuple[Rule, ...]:
        """Of all files in the order of their names."""
        if self._fault and not (self._good or self._wrong):
            return (Rule(name=UNREADABLE, file=str(self._directory), pay=Pay.NEVER),)
        rules: list[Rule] = []
        for name in sorted({*self._good, *self._wrong}):
            if name in self._good:
                rules += read_rules(self._good[name], name).rules
            else:
                whose = self._wrong[name].user
                users = (whose,) if whose else ()
                rules.append(Rule(name=UNREADABLE, file=name, users=users, pay=Pay.NEVER))
        return tuple(rules)


def _text_of(path: Path, mode: int) -> tuple[str, ConfigurationError | None]:
    """What stands in it, or why it is not read."""
    if not stat.S_ISREG(mode):
        return "", ConfigurationError(path, "", "not a file", f"only files may end in {SUFFIX} here")
    if mode & stat.S_IWOTH:
        return "", ConfigurationError(path, "", "everybody may write it", f"chmod o-w {path}")
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            return "", ConfigurationError(path, "", f"larger than {FILE_BYTES_MAX} bytes", "is this the right file?")
        return data.decode("utf-8"), None
    except UnicodeDecodeError as error:
        return "", ConfigurationError(path, "", f"not UTF-8 at byte {error.start}", "save the file as UTF-8")
    except OSError as error:
        return "", ConfigurationError(path, "", error.strerror or str(error), "check its permissions")
