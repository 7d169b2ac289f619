"""Which engine of the host's data plane runs here, why none of the better ones does, and what will work with it.

Decides: what each engine and each ability needs. Refuses to know: how a feature was found out. Pure.
Source: `dataplane.host_engine` for engines and abilities; the programs in dataplane/ebpf for what they need.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple, get_args

import msgspec

from billpay.errors import EnvironmentFault
from dataplane.diagnosis.features import Feature, FeatureName, by_name
from dataplane.host_engine import Ability, EngineName, Limit

WantedEngine = Literal["auto", "ebpf", "nfqueue", "sockets"]
"""What a configuration may say: the best one that works, or this one and no other."""

WANTED_ENGINES: Final[tuple[str, ...]] = get_args(WantedEngine)

BEST_FIRST: Final = (EngineName.EBPF, EngineName.NFQUEUE, EngineName.SOCKETS)

_F = FeatureName
_NEEDS: Final[Mapping[EngineName, tuple[FeatureName, ...]]] = {
    # PERFMON and BTF: its programs read the kernel's own structures (whose socket is it), relocated to this kernel.
    EngineName.EBPF: (
        *(_F.NET_ADMIN, _F.BPF_PRIVILEGE, _F.PERFMON, _F.BPF, _F.BTF, _F.TCX, _F.CGROUP_V2, _F.CGROUP_ATTACH),
        *(_F.LIBBPF, _F.EBPF_OBJECTS, _F.IP),
    ),
    EngineName.NFQUEUE: (_F.NET_ADMIN, _F.IPTABLES, _F.IP6TABLES, _F.IP, _F.NFQUEUE, _F.MARK, _F.ADDRTYPE),
    EngineName.SOCKETS: (_F.SOCKET_DIAGNOSIS,),
}
_ONLY_WITH_IPV6: Final[Mapping[EngineName, tuple[FeatureName, ...]]] = {
    EngineName.EBPF: (),
    EngineName.NFQUEUE: (_F.NFQUEUE_IPV6,),
    EngineName.SOCKETS: (),
}


_PAYMENTS_NEED: Final = (*(_F.NET_ADMIN, _F.BPF_PRIVILEGE, _F.PERFMON, _F.BPF, _F.TCX, _F.LIBBPF, _F.EBPF_OBJECTS),)
"""Of the machine, before packets that pay are treated by programs in the kernel (`dataplane.payment_engines`)."""


class Means(NamedTuple):
    """How an engine does something, and what it needs for that beside what the engine itself needs."""

    how: str
    needs: tuple[FeatureName, ...] = ()


_NEVER_PACES: Final = "the pace and congestion control of other programs' sockets are set by the eBPF engine only"
_SHAPES_NOTHING: Final = "this engine reads what the kernel tells everyone, and touches no packet"

_ABILITIES: Final[Mapping[EngineName, Mapping[Ability, Means | str]]] = {
    EngineName.EBPF: {
        Ability.COUNT: Means("in the kernel, every packet"),
        Ability.COUNT_UDP: Means("in the kernel, every packet"),
        Ability.ATTRIBUTE_FIRST_PACKET: Means("each socket is known from its making"),
        Ability.SHAPE_EGRESS: Means("HTB classes", (_F.HTB, _F.TC)),
        Ability.SHAPE_INGRESS: Means("arrivals go through an IFB with HTB classes", (_F.HTB, _F.IFB, _F.TC)),
        Ability.PACE: Means("the kernel paces each socket"),
        Ability.CONGESTION_CONTROL: Means("set before the connection opens", (_F.CONGESTION_CONTROLS,)),
        Ability.PRICE_CONGESTION_CONTROL: Means("a program of ours is the congestion control", (_F.STRUCT_OPS,)),
        Ability.ASK_FIRST: "packets do not leave the kernel; use the nfqueue engine",
        Ability.PACE_FLOW: Means("an HTB class of its own; marks in the kernel", (_F.HTB, _F.TC)),
    },
    EngineName.NFQUEUE: {
        Ability.COUNT: Means("packet by packet in the reader process"),
        Ability.COUNT_UDP: Means("packet by packet in the reader process"),
        Ability.ATTRIBUTE_FIRST_PACKET: Means("the first packet waits until its socket is looked up"),
        Ability.SHAPE_EGRESS: Means("the reader process holds packets back"),
        Ability.SHAPE_INGRESS: Means("the reader process holds packets back"),
        Ability.PACE: _NEVER_PACES,
        Ability.CONGESTION_CONTROL: _NEVER_PACES,
        Ability.PRICE_CONGESTION_CONTROL: _NEVER_PACES,
        Ability.ASK_FIRST: Means("the reader process holds the first packet"),
        Ability.PACE_FLOW: Means("the reader process holds packets back and changes their marks"),
    },
    EngineName.SOCKETS: {
        Ability.COUNT: Means("TCP only, from what the kernel tells of each socket"),
        Ability.COUNT_UDP: "the kernel keeps no counters of UDP sockets: they count as unattributed",
        Ability.ATTRIBUTE_FIRST_PACKET: "sockets are looked at once a second: what shorter ones sent is unattributed",
        Ability.SHAPE_EGRESS: _SHAPES_NOTHING,
        Ability.SHAPE_INGRESS: _SHAPES_NOTHING,
        Ability.PACE: _SHAPES_NOTHING,
        Ability.CONGESTION_CONTROL: _SHAPES_NOTHING,
        Ability.PRICE_CONGESTION_CONTROL: _SHAPES_NOTHING,
        Ability.ASK_FIRST: _SHAPES_NOTHING,
        Ability.PACE_FLOW: _SHAPES_NOTHING,
    },
}


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one ability here: how it is done, or why it is not."""

    ability: Ability
    works: bool
    how: str


class EngineChoice(msgspec.Struct, frozen=True, kw_only=True):
    """`engine` None: nothing works here. `rejected` are the better ones, best first; `abilities` in Ability's order."""

    engine: EngineName | None
    because: str
    rejected: tuple[tuple[EngineName, str], ...] = ()
    abilities: tuple[Outlook, ...] = ()

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The same for `HostEngine.limits`."""
        return tuple(Limit(ability=each.ability, cause=each.how) for each in self.abilities if not each.works)


def choose(features: Iterable[Feature], wanted: WantedEngine = "auto") -> EngineChoice:
    """The engine to run. Raises EnvironmentFault, one line, when a wanted one cannot run here."""
    found = by_name(features)
    if wanted != "auto":
        engine = EngineName(wanted)
        if lacking := _lacking(found, engine):
            raise EnvironmentFault("use engine", wanted, _why(found, lacking), _remedy(found, lacking))
        return EngineChoice(engine=engine, because="the configuration names it", abilities=outlook(found, engine))
    rejected: list[tuple[EngineName, str]] = []
    for engine in BEST_FIRST:
        lacking = _lacking(found, engine)
        if not lacking:
            because = "the best there is" if not rejected else "the best that works here"
            return EngineChoice(
                engine=engine, because=because, rejected=tuple(rejected), abilities=outlook(found, engine)
            )
        rejected.append((engine, _why(found, lacking)))
    return EngineChoice(engine=None, because="no engine works here", rejected=tuple(rejected))


def payment_faults(features: Iterable[Feature]) -> tuple[str, ...]:
    """What of the machine keeps payments out of the kernel, each in a line; a plan may have reasons of its own."""
    found = by_name(features)
    lacking = [name for name in _PAYMENTS_NEED if not _works(found, name)]
    return (_why(found, lacking),) if lacking else ()


def outlook(found: Mapping[FeatureName, Feature], engine: EngineName) -> tuple[Outlook, ...]:
    """Every ability with this engine on this machine."""
    return tuple(_judge(found, ability, _ABILITIES[engine][ability]) for ability in Ability)


def _judge(found: Mapping[FeatureName, Feature], ability: Ability, means: Means | str) -> Outlook:
    if isinstance(means, str):
        return Outlook(ability=ability, works=False, how=means)
    lacking = [name for name in means.needs if not _works(found, name)]
    if lacking:
        return Outlook(ability=ability, works=False, how=_why(found, lacking))
    return Outlook(ability=ability, works=True, how=means.how)


def _lacking(found: Mapping[FeatureName, Feature], engine: EngineName) -> list[FeatureName]:
    more = _ONLY_WITH_IPV6[engine] if _works(found, _F.IPV6) else ()
    return [name for name in (*_NEEDS[engine], *more) if not _works(found, name)]


def _works(found: Mapping[FeatureName, Feature], name: FeatureName) -> bool:
    """What nobody looked at does not work: better to run less than to fail at the start."""
    return name in found and found[name].works


def _why(found: Mapping[FeatureName, Feature], lacking: list[FeatureName]) -> str:
    """The first cause in full; the names of further ones, which often follow from it."""
    first, *more = lacking
    detail = found[first].detail if first in found else "not looked at"
    rest = f"; also {', '.join(more)}" if more else ""
    return f"{first}: {detail}{rest}"


def _remedy(found: Mapping[FeatureName, Feature], lacking: list[FeatureName]) -> str:
    return next((found[name].remedy for name in lacking if name in found and found[name].remedy), "")
