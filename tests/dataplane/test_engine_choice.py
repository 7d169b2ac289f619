"""Which engine runs: the best whose needs are met, with one line for each better one."""

from __future__ import annotations

import pytest

from billpay.errors import EnvironmentFault
from dataplane.diagnosis.engine_choice import BEST_FIRST, WANTED_ENGINES, choose
from dataplane.diagnosis.features import Feature, FeatureName, State
from dataplane.host_engine import Ability, EngineName


def machine(*without: FeatureName, refused: tuple[FeatureName, ...] = ()) -> list[Feature]:
    """Everything works except what is named."""

    def state(name: FeatureName) -> State:
        return State.MISSING if name in without else State.REFUSED if name in refused else State.WORKS

    return [
        Feature(name=name, state=state(name), detail=f"about {name}", remedy="" if state(name) is State.WORKS else "do")
        for name in FeatureName
    ]


def abilities(*without: FeatureName) -> dict[Ability, tuple[bool, str]]:
    return {each.ability: (each.works, each.how) for each in choose(machine(*without)).abilities}


def test_a_machine_that_has_everything_runs_the_best() -> None:
    choice = choose(machine())
    assert (choice.engine, choice.rejected) == (EngineName.EBPF, ())
    assert [each.ability for each in choice.abilities] == list(Ability)


@pytest.mark.parametrize(
    "lacking",
    [
        FeatureName.BPF,
        FeatureName.TCX,
        FeatureName.BTF,
        FeatureName.CGROUP_ATTACH,
        FeatureName.PERFMON,
        FeatureName.LIBBPF,
        FeatureName.EBPF_OBJECTS,
    ],
)
def test_without_one_of_its_needs_ebpf_is_rejected_by_name_and_cause(lacking: FeatureName) -> None:
    choice = choose(machine(lacking))
    assert choice.engine is EngineName.NFQUEUE
    assert choice.rejected == ((EngineName.EBPF, f"{lacking}: about {lacking}"),)


def test_without_privileges_only_what_everyone_may_read_is_left() -> None:
    choice = choose(machine(refused=(FeatureName.NET_ADMIN, FeatureName.BPF, FeatureName.NFQUEUE)))
    assert choice.engine is EngineName.SOCKETS
    assert [engine for engine, _ in choice.rejected] == [EngineName.EBPF, EngineName.NFQUEUE]
    assert all(why.startswith("privilege-net-admin: about") for _, why in choice.rejected)
    assert choice.rejected[0][1].endswith("; also bpf")
    assert {each.ability for each in choice.abilities if each.works} == {Ability.COUNT}
    assert {limit.ability for limit in choice.limits} == set(Ability) - {Ability.COUNT}


def test_where_nothing_works_every_engine_says_why() -> None:
    choice = choose(machine(*FeatureName))
    assert choice.engine is None
    assert [engine for engine, _ in choice.rejected] == list(BEST_FIRST)
    assert choice.abilities == ()


def test_what_nobody_looked_at_does_not_work() -> None:
    assert choose([]).engine is None


@pytest.mark.parametrize(
    ("lacking", "lost"),
    [
        (FeatureName.IFB, {Ability.SHAPE_INGRESS}),
        (FeatureName.HTB, {Ability.SHAPE_EGRESS, Ability.SHAPE_INGRESS, Ability.PACE_FLOW}),
        (FeatureName.STRUCT_OPS, {Ability.PRICE_CONGESTION_CONTROL}),
        (FeatureName.FQ, set()),
    ],
)
def test_an_ability_goes_with_what_it_needs_and_the_engine_stays(lacking: FeatureName, lost: set[Ability]) -> None:
    whole, reduced = abilities(), abilities(lacking)
    assert choose(machine(lacking)).engine is EngineName.EBPF
    assert {ability for ability in Ability if whole[ability][0] and not reduced[ability][0]} == lost
    assert all(reduced[ability][1] == f"{lacking}: about {lacking}" for ability in lost)


def test_ipv6_counts_only_where_there_is_any() -> None:
    without_ebpf = (FeatureName.BPF, FeatureName.NFQUEUE_IPV6)
    assert choose(machine(*without_ebpf)).engine is EngineName.SOCKETS
    assert choose(machine(*without_ebpf, FeatureName.IPV6)).engine is EngineName.NFQUEUE


def test_a_named_engine_runs_even_if_a_better_one_would() -> None:
    choice = choose(machine(), "nfqueue")
    assert (choice.engine, choice.because) == (EngineName.NFQUEUE, "the configuration names it")


def test_a_named_engine_that_cannot_run_is_refused_in_one_line() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        choose(machine(FeatureName.TCX), "ebpf")
    assert str(caught.value) == "use engine ebpf: tcx: about tcx (do)"


def test_the_words_of_a_configuration_are_the_engines_and_auto() -> None:
    assert set(WANTED_ENGINES) == {"auto", *EngineName}
