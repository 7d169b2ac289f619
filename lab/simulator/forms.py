"""The forms in which people write an experiment, turned into the one that `experiment` checks.

Decides: which other words, units and shapes are understood. TOML and JSON alike; lists of links and flows or tables by
name; rates as numbers with a unit in the key or strings ("10 Mbit/s"); a marking or reactor by its name alone, for all
or for one; `count` alike links or flows; values drawn from [least, most]. Refuses to know: what a simulation does.

Everything that is drawn is drawn here, by the experiment's seed, so that both modes run the same network.
"""

from __future__ import annotations

import difflib
import json
import random
import re
import tomllib
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from billpay.errors import ConfigurationError
from lab.simulator import experiment as model
from lab.simulator.completing import complete
from lab.simulator.experiment import (
    MARKING_DEFAULTS,
    REACTOR_PARAMETERS,
    Experiment,
    MarkingKind,
    Overrides,
    ReactorKind,
)

FILE_BYTES_MAX: Final = 32 << 20
"""Experiments are also written by programs: thousands of flows."""
FLOWS_MAX: Final = 100_000

Table = dict[str, Any]
T = TypeVar("T")

_UNKNOWN: Final = re.compile(r"^Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING: Final = re.compile(r"^Object missing required field `(.*)`$", re.DOTALL)
_QUANTITY: Final = re.compile(r"^\s*([0-9][0-9_.]*(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ/]+)\s*$")

RATE_UNITS: Final = {
    **dict.fromkeys(("bit/s", "bps", "b/s"), 1.0),
    **dict.fromkeys(("kbit/s", "kbps", "kbit", "k"), 1e3),
    **dict.fromkeys(("mbit/s", "mbps", "mbit", "m"), 1e6),
    **dict.fromkeys(("gbit/s", "gbps", "gbit", "g"), 1e9),
}
TIME_UNITS_MS: Final = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "min": 60e3, "h": 3600e3}

MARKING_WORDS: Final = {
    **dict.fromkeys(("vq", "gk", "gibbens_kelly", "virtualqueue"), "virtual_queue"),
    **dict.fromkeys(("dual", "lagrange", "price", "exact"), "clearing"),
    **dict.fromkeys(("poly", "polynomial", "kelly"), "power"),
    **dict.fromkeys(("adaptive_virtual_queue",), "avq"),
    **dict.fromkeys(("drop_tail", "droptail", "fifo", "off"), "none"),
    **dict.fromkeys(("virtual_red",), "red"),
    **dict.fromkeys(("threshold",), "step"),
}
REACTOR_WORDS: Final = {
    **dict.fromkeys(("primal", "kelly", "log", "proportional", "proportionally_fair", "wtp"), "elastic"),
    **dict.fromkeys(("tcp", "newreno"), "reno"),
    **dict.fromkeys(("cbr", "constant", "udp", "fixed", "cross"), "unresponsive"),
    **dict.fromkeys(("alpha", "alphafair"), "alpha_fair"),
    **dict.fromkeys(("stream", "video"), "streaming"),
    **dict.fromkeys(("file", "bulk", "file_transfer"), "transfer"),
    **dict.fromkeys(("gibbens_kelly", "charge_aware_tcp"), "window"),
}
MODE_WORDS: Final = {"packet": "packets", "events": "packets", "ode": "fluid"}

COMMON_WORDS: Final = {
    "seconds": ("duration_s", "seconds_s", "duration", "time_s"),
    "warm_up_s": ("warmup_s", "warm_up", "warmup"),
    "step_ms": ("dt_ms",),
    "price_nanodollars_per_mark": ("price_per_mark_nanodollars", "nanodollars_per_mark", "price_per_mark"),
    "rate_bit_s": ("capacity_bit_s", "bandwidth_bit_s"),
    "delay_ms": ("latency_ms",),
    "willingness_nanodollars_per_s": ("willingness", "wtp_nanodollars_per_s", "willingness_to_pay_nanodollars_per_s"),
    "weight": ("w", "wtp"),
    "path": ("links", "route", "via"),
    "at_s": ("t", "at", "t_s", "time_s"),
    "buffer_packets": ("buffer", "queue_packets"),
    "target_utilisation": ("target_utilization",),
    "exponent": ("B", "b", "beta"),
    "gain_per_s": ("gain", "kappa", "kappa_per_s"),
    "gain_of_bound": ("gain_fraction", "fraction_of_bound", "of_bound"),
    "events": ("event",),
    "links": ("link",),
    "flows": ("flow",),
    "deadline_s": ("deadline",),
    "ladder_bit_s": ("ladder",),
    "threshold_packets": ("threshold",),
}
"""Other words for a key, where they are taken for it."""
PLACES: Final = {
    "links": "",
    "flows": "",
    "events": "",
    "seconds": "",
    "path": "flows",
    "at_s": "events",
    "gain_per_s": "flows",
    "gain_of_bound": "flows",
    "exponent": "links",
    "threshold_packets": "links",
}
"""Where alone: at the top, or in a list."""


def load(path: Path, overrides: Overrides) -> Experiment:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise ConfigurationError(path, "", "no such file", "docs/spec/experiment.md has examples") from error
    except OSError as error:
        problem = error.strerror or str(error)
        raise ConfigurationError(path, "", problem, "check the path and its permissions") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigurationError(path, "", f"larger than {FILE_BYTES_MAX} bytes", "is this the right file?")
    try:
        return decode(data.decode("utf-8"), file=path, overrides=overrides)
    except UnicodeDecodeError as error:
        raise ConfigurationError(path, "", f"not UTF-8 at byte {error.start}", "save the file as UTF-8") from error


def decode(text: str, *, file: Path, overrides: Overrides) -> Experiment:
    table = _parse(text, file)
    written = _Writing(file).experiment(table, overrides, default_name=_name_of(file))
    return complete(_convert(written, file), file)


def _name_of(file: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_.:-]", "-", file.stem).lstrip("_.:-")[:64] or "experiment"


def _parse(text: str, file: Path) -> Table:
    as_json = file.suffix.lower() == ".json" or text.lstrip()[:1] == "{"
    try:
        table = json.loads(text) if as_json else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        what, remedy = (
            ("JSON", "one object: links, flows and the rest")
            if as_json
            else ("TOML", "strings need quotes, tables are written [name], JSON begins with a brace")
        )
        raise ConfigurationError(file, "", f"not {what}: {error}", remedy) from error
    except RecursionError as error:
        raise ConfigurationError(file, "", "brackets are nested too deeply", "is this the right file?") from error
    if not isinstance(table, dict):
        raise ConfigurationError(file, "", "not an object", "links, flows and the rest belong into one object")
    return table


def _convert(written: Table, file: Path) -> Experiment:
    try:
        return msgspec.convert(written, type=Experiment, strict=True)
    except msgspec.ValidationError as error:
        raise _explained(error, written, file) from error


def _explained(error: msgspec.ValidationError, written: Table, file: Path) -> ConfigurationError:
    problem, _, at = str(error).partition(" - at `")
    path = at.removesuffix("`").removeprefix("$").lstrip(".")
    if match := _UNKNOWN.match(problem):
        return ConfigurationError(file, f"{path}.{match[1]}".lstrip("."), "unknown key", _nearest(path, match[1]))
    if match := _MISSING.match(problem):
        return ConfigurationError(file, f"{path}.{match[1]}".lstrip("."), "missing", "add it; it has no default")
    value = _value_at(written, path)
    shown = f"is {_shown(value)}: " if value is not None else ""
    return ConfigurationError(file, path, shown + problem[:1].lower() + problem[1:], "correct the value")


def _nearest(path: str, name: str) -> str:
    place: type[msgspec.Struct] = Experiment
    for step, kind in (
        *(("links", model.Link), ("flows", model.Flow), ("events", model.Event)),
        *((".marking", model.Marking), (".reactor", model.Reactor)),
    ):
        if path.startswith(step) or (step.startswith(".") and path.endswith(step)):
            place = kind
    beside = {model.Flow: model.Reactor, model.Link: model.Marking}.get(place)
    fields = [field for field in place.__struct_fields__ if field != "notes"]
    fields += [field for field in beside.__struct_fields__ if field != "kind"] if beside is not None else []
    close = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known keys: {', '.join(fields)}"


def _value_at(written: Any, path: str) -> Any:
    for step in re.findall(r"[^.\[\]]+", path):
        if isinstance(written, dict):
            written = written.get(step)
        elif isinstance(written, list) and step.isdigit() and int(step) < len(written):
            written = written[int(step)]
        else:
            return None
    return written


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:39]}…"


class _Writing:
    """Puts one file's tables into the form of `experiment`; every complaint names the key."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._draw = random.Random(1)  # noqa: S311 - the seed repeats the experiment

    def experiment(self, table: Table, overrides: Overrides, *, default_name: str) -> Table:
        written = self._words(dict(table), "")
        self._override(written, overrides)
        written.setdefault("name", default_name)
        seed = written.get("seed", 1)
        self._draw = random.Random(seed if isinstance(seed, int) else 1)  # noqa: S311 - as above
        self._times(written, "")
        if isinstance(mode := written.get("mode"), str):
            written["mode"] = MODE_WORDS.get(mode.lower(), mode.lower())
        marking, reactor = written.pop("marking", None), written.pop("reactor", None)
        rtt = {key: written.pop(key) for key in list(written) if key in ("rtt_ms", "rtt_s", "rtt")}
        packet_bytes = written.get("packet_bytes", 1_000)
        links = [
            each
            for key, link in self._listed(written, "links")
            for each in self._counted(self._link(link, key, marking), key, "link")
        ]
        written["links"] = links
        names = [str(link["name"]) for link in links]
        written["flows"] = [
            each
            for key, flow in self._listed(written, "flows")
            for each in self._flows(flow, key, reactor, rtt, names, packet_bytes)
        ]
        written["events"] = [self._event(event, key) for key, event in self._listed(written, "events", named=False)]
        if overrides.seconds is not None:
            written["events"] = [event for event in written["events"] if not _is_after(event, overrides.seconds)]
        return written

    def _override(self, written: Table, overrides: Overrides) -> None:
        for name in ("mode", "seed", "seconds"):
            if (value := getattr(overrides, name)) is not None:
                written[name] = value
        warm_up: Any = written.get("warm_up_s")
        if overrides.seconds is not None and _is_number(warm_up) and warm_up >= overrides.seconds:
            del written["warm_up_s"]

    def _complaint(self, key: str, problem: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(self._file, key, problem, remedy)

    def _words(self, table: Table, key: str) -> Table:
        for canonical, others in COMMON_WORDS.items():
            place = PLACES.get(canonical)
            if place is not None and not (key.startswith(place) if place else not key):
                continue
            for other in others:
                if other not in table:
                    continue
                if canonical in table:
                    raise self._complaint(_below(key, other), f"says {canonical} again", "write only one of them")
                table[canonical] = table.pop(other)
        return table

    def _listed(self, table: Table, name: str, *, named: bool = True) -> list[tuple[str, Table]]:
        """A list of tables, or a table of tables by name, or one table alone."""
        value = table.get(name, [])
        if isinstance(value, dict):
            if all(isinstance(each, dict) for each in value.values()):
                if not named:
                    raise self._complaint(name, "is a table", f"write [[{name}]] for each")
                value = [{"name": key, **each} for key, each in value.items()]
            else:
                value = [value]
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise self._complaint(name, "is no list of tables", f"write [[{name}]] for each")
        if named and not value:
            raise self._complaint(name, "missing", f"write [[{name}]] for each")
        found = []
        for number, each in enumerate(value):
            key = f"{name}[{number}]"
            item = self._words(dict(each), key)
            if named:
                item.setdefault("name", f"{name[:-1]}-{number + 1}")
            found.append((key, item))
        return found

    # -- links -----------------------------------------------------------------------------------------------------

    def _link(self, link: Table, key: str, marking: Any) -> Table:
        self._rate(link, key, ("rate", "capacity", "bandwidth"))
        self._times(link, key)
        own = link.pop("marking", marking)
        parameters = {name for defaults in MARKING_DEFAULTS.values() for name in defaults} | {"exponent"}
        beside = {name: link.pop(name) for name in list(link) if name in parameters}
        link["marking"] = self._marking(own, _below(key, "marking"), beside)
        return link

    def _marking(self, marking: Any, key: str, beside: Table) -> Table:
        given: Table = {"kind": marking} if isinstance(marking, str) else dict(_table(marking))
        if marking is not None and not isinstance(marking, str | dict):
            raise self._complaint(
                key, f"is {_shown(marking)}", 'write marking = "virtual_queue" or a table with a kind'
            )
        given = self._words({**given, **beside}, key)
        kind = self._kind(given.get("kind", MarkingKind.CLEARING), MARKING_WORDS, MarkingKind, _below(key, "kind"))
        defaults = MARKING_DEFAULTS[kind]
        for name in given:
            if name not in defaults and name != "kind":
                has = ", ".join(defaults) or "no parameters"
                raise self._complaint(_below(key, name), f"is no parameter of {kind.value}", f"it has {has}")
        return {**defaults, **given, "kind": kind.value}

    def _kind(self, value: Any, words: dict[str, str], kinds: type[T], key: str) -> T:
        word = str(value).strip().lower().replace("-", "_").replace(" ", "_")
        word = words.get(word, word)
        known = [each.value for each in kinds]  # type: ignore[attr-defined]
        if word not in known:
            close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
            remedy = f"did you mean {close[0]}?" if close else f"one of {', '.join(known)}"
            raise self._complaint(key, f"is {_shown(value)}: there is no such kind", remedy)
        return kinds(word)  # type: ignore[call-arg]

    # -- flows -----------------------------------------------------------------------------------------------------

    def _flows(
        self, flow: Table, key: str, reactor: Any, rtt: Table, links: list[str], packet_bytes: Any
    ) -> list[Table]:
        for name, value in rtt.items():
            if not any(other in flow for other in ("rtt_ms", "rtt_s", "rtt")):
                flow[name] = value
        flow.setdefault("packet_bytes", packet_bytes)
        if isinstance(flow.get("path"), str):
            flow["path"] = (
                [part for part in re.split(r"[\s,>-]+", flow["path"]) if part]
                if (flow["path"] not in links)
                else [flow["path"]]
            )
        own = flow.pop("reactor", flow.pop("kind", flow.pop("utility", reactor)))
        parameters = {name for names in REACTOR_PARAMETERS.values() for name in names}
        self._rate(flow, key, ("rate",))
        self._times(flow, key)
        beside = {name: flow.pop(name) for name in list(flow) if name in parameters}
        flow["reactor"] = self._reactor(own, _below(key, "reactor"), beside)
        if "weight" in flow and "willingness_nanodollars_per_s" in flow:
            raise self._complaint(
                _below(key, "weight"), "willingness_nanodollars_per_s is given too", "write only one of them"
            )
        hops = flow.pop("hops", None)
        if "path" not in flow and hops is None and len(links) == 1:
            flow["path"] = list(links)
        return [self._with_path(each, hops, key, links) for each in self._counted(flow, key, "flow")]

    def _reactor(self, reactor: Any, key: str, beside: Table) -> Table:
        given: Table = {"kind": reactor} if isinstance(reactor, str) else dict(_table(reactor))
        if reactor is not None and not isinstance(reactor, str | dict):
            raise self._complaint(key, f"is {_shown(reactor)}", 'write reactor = "elastic" or a table with a kind')
        given = self._words(given, key)
        self._rate(given, key, ("rate",))
        self._times(given, key)
        given = {**given, **beside}
        kind = self._kind(given.get("kind", ReactorKind.ELASTIC), REACTOR_WORDS, ReactorKind, _below(key, "kind"))
        has = REACTOR_PARAMETERS[kind]
        for name in given:
            if name not in has and name != "kind":
                raise self._complaint(_below(key, name), f"is no parameter of {kind.value}", f"it has {', '.join(has)}")
        if "gain_per_s" in given and "gain_of_bound" in given:
            raise self._complaint(_below(key, "gain_per_s"), "gain_of_bound is given too", "write only one of them")
        if "ladder_bit_s" in given and isinstance(given["ladder_bit_s"], list):
            given["ladder_bit_s"] = [
                self._quantity(each, RATE_UNITS, _below(key, "ladder_bit_s")) for each in given["ladder_bit_s"]
            ]
        return {**given, "kind": kind.value}

    def _with_path(self, flow: Table, hops: Any, key: str, links: list[str]) -> Table:
        if "path" in flow:
            if hops is not None:
                raise self._complaint(_below(key, "hops"), "path is given too", "write only one of them")
            return flow
        if hops is None:
            raise self._complaint(_below(key, "path"), "missing", "name the links that the flow goes over, in order")
        ends = hops if isinstance(hops, list) and len(hops) == 2 else [hops, hops]
        if not all(isinstance(end, int) and 1 <= end <= min(64, len(links)) for end in ends) or ends[0] > ends[1]:
            raise self._complaint(
                _below(key, "hops"),
                f"is {_shown(hops)}",
                "so many different links, or [least, most], not more than there are",
            )
        flow["path"] = self._draw.sample(links, self._draw.randint(*ends))
        return flow

    def _counted(self, item: Table, key: str, what: str) -> list[Table]:
        """`count` of them, each with its own number and draws."""
        count = item.pop("count", 1)
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= FLOWS_MAX:
            raise self._complaint(_below(key, "count"), f"is {_shown(count)}", f"a whole number from 1 to {FLOWS_MAX}")
        name = item.get("name", what)
        return [
            {**self._drawn(item), "name": name if count == 1 else f"{name}-{number}"} for number in range(1, count + 1)
        ]

    def _drawn(self, item: Table) -> Table:
        drawable = ("weight", "willingness_nanodollars_per_s", "rtt_ms", "start_s", "rate_bit_s", "delay_ms")
        return {
            name: self._draw.uniform(*value)
            if name in drawable and isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
            else value
            for name, value in item.items()
        }

    def _event(self, event: Table, key: str) -> Table:
        self._rate(event, key, ("rate", "capacity"))
        self._times(event, key)
        return event

    # -- units -----------------------------------------------------------------------------------------------------

    def _rate(self, table: Table, key: str, words: tuple[str, ...]) -> None:
        """`rate_bit_s`, out of a key with a unit in it, or a number of Mbit/s, or a string with its unit."""
        for word in words:
            for unit, factor in (("", 1e6), ("_mbit_s", 1e6), ("_mbps", 1e6), ("_kbit_s", 1e3), ("_gbit_s", 1e9)):
                if (name := word + unit) not in table:
                    continue
                if "rate_bit_s" in table:
                    raise self._complaint(_below(key, name), "rate_bit_s is given too", "write only one of them")
                value = table.pop(name)
                if isinstance(value, str):
                    table["rate_bit_s"] = self._quantity(value, RATE_UNITS, _below(key, name))
                elif _is_number(value) and not unit and value > 400_000:
                    raise self._complaint(
                        _below(key, name), f"is {value}, in Mbit/s", "write rate_bit_s for a number of bit/s"
                    )
                else:
                    table["rate_bit_s"] = _scaled(value, factor)
        for name in ("rate_bit_s", "min_bit_s", "max_bit_s", "reference_bit_s", "value_rate_bit_s"):
            if isinstance(table.get(name), str):
                table[name] = self._quantity(table[name], RATE_UNITS, _below(key, name))
        for limit in ("min", "max"):
            for unit, factor in (("_mbit_s", 1e6), ("_kbit_s", 1e3)):
                if f"{limit}{unit}" in table:
                    table[f"{limit}_bit_s"] = _scaled(table.pop(f"{limit}{unit}"), factor)

    def _times(self, table: Table, key: str) -> None:
        """Durations with a unit of their own: strings, and `_s` for `_ms` and the other way round."""
        for name in ("rtt", "delay", "interval", "period", "step"):
            if f"{name}_s" in table and f"{name}_ms" not in table:
                table[f"{name}_ms"] = _scaled(table.pop(f"{name}_s"), 1e3)
            if isinstance(table.get(name), str):
                table[f"{name}_ms"] = self._quantity(table.pop(name), TIME_UNITS_MS, _below(key, name))
            if isinstance(table.get(f"{name}_ms"), str):
                table[f"{name}_ms"] = self._quantity(table[f"{name}_ms"], TIME_UNITS_MS, _below(key, name))
        for name in ("start", "stop", "at", "deadline", "warm_up"):
            if name in table and f"{name}_s" not in table:
                table[f"{name}_s"] = table.pop(name)
        for name in ("seconds", "start_s", "stop_s", "at_s", "deadline_s", "warm_up_s", "dwell_s"):
            if isinstance(table.get(name), str):
                table[name] = self._quantity(table[name], TIME_UNITS_MS, _below(key, name)) / 1e3

    def _quantity(self, value: Any, units: dict[str, float], key: str) -> Any:
        if not isinstance(value, str):
            return value
        match = _QUANTITY.match(value)
        factor = units.get(match[2].lower()) if match else None
        if match is None or factor is None:
            raise self._complaint(key, f"is {_shown(value)}", f"a number and one of {', '.join(units)}")
        return float(match[1].replace("_", "")) * factor


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _is_after(event: Table, end_s: float) -> bool:
    at_s: Any = event.get("at_s")
    return _is_number(at_s) and bool(at_s >= end_s)


def _table(value: Any) -> Table:
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value, list):
        return [_scaled(each, factor) for each in value]
    return value * factor if _is_number(value) else value
