"""The compiled maps have the sizes that Python packs and reads, and rules and rates are written as meant."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.ebpf import layout
from dataplane.ebpf.libbpf import BpfObject
from dataplane.ebpf.sockets import HOST_OBJECT
from dataplane.shaping.plan import NO_SHAPING, Match, Rule, ShapingPlan, TrafficClass

STRUCTS: dict[str, tuple[Struct | None, Struct]] = {
    "numbers": (layout.IDENTITY, layout.NUMBER),
    "free_numbers": (None, layout.NUMBER),
    "programs": (layout.NUMBER, layout.PROGRAM),
    "last_passes": (layout.NUMBER, layout.NUMBER),
    "meters": (layout.NUMBER, layout.METER),
    "flows": (layout.FLOW_KEY, layout.FLOW),
    "links": (layout.NUMBER, layout.LINK),
    "link_shapes": (layout.NUMBER, layout.LINK_SHAPE),
    "rules": (layout.NUMBER, layout.RULE),
    "classes": (layout.NUMBER, layout.TRAFFIC_CLASS),
    "paced_flows": (layout.FLOW_KEY, layout.PACED),
    "plan": (layout.NUMBER, layout.SETTINGS),
}


@pytest.fixture(scope="module")
def loaded() -> Iterator[BpfObject]:
    found = BpfObject(HOST_OBJECT)
    yield found
    found.close()


@pytest.mark.netns
@pytest.mark.parametrize("name", STRUCTS)
def test_sizes_agree(loaded: BpfObject, name: str) -> None:
    key, value = STRUCTS[name]
    found = loaded.map(name)
    assert found.key_size == (key.size if key is not None else 0)
    assert found.value_size == value.size


@given(st.integers(64_000, 30_000_000_000))
def test_a_pacing_rate_carries_the_tag_and_is_hardly_more_than_the_cap(rate_bit_s: int) -> None:
    entry = layout.write_class(2, TrafficClass(name="x", cap_bit_s=rate_bit_s))
    pacing = layout.TRAFFIC_CLASS.unpack(entry)[2]
    assert pacing & 0xFF == layout.PACING_TAG
    assert 0 <= pacing - rate_bit_s // 8 < 512


def test_a_class_without_a_cap_is_not_paced() -> None:
    assert layout.TRAFFIC_CLASS.unpack(layout.write_class(2, TrafficClass(name="x")))[2] == 0


def plan_with(*matches: Match) -> ShapingPlan:
    return ShapingPlan(classes=NO_SHAPING.classes, rules=tuple(Rule(match=match, traffic_class=1) for match in matches))


def test_a_program_that_does_not_exist_has_no_rule_and_the_others_keep_their_order() -> None:
    plan = plan_with(Match(program="/gone"), Match(program="/bin/here"), Match(user_id=7))
    entries = layout.write_rules(plan, inode_of={"/bin/here": 42, "/usr/bin/here": 42}.get)
    assert [layout.RULE.unpack(entry)[0] for entry in entries] == [42, 0]
    assert layout.RULE.unpack(entries[0])[1].rstrip(b"\0") == b"here"


@pytest.mark.parametrize(
    ("unit", "agreeing", "differing"),
    [
        ("backup.service", [b"backup.service"], [b"backup.service2", b"backup", b""]),
        ("docker-*", [b"docker-", b"docker-4f.scope"], [b"docker", b"dockeR-4f.scope"]),
    ],
)
def test_a_groups_name_is_compared_whole_or_by_its_beginning(
    unit: str, agreeing: list[bytes], differing: list[bytes]
) -> None:
    (entry,) = layout.write_rules(plan_with(Match(unit=unit)), inode_of=lambda _: None)
    _, _, name, mask, *_ = layout.RULE.unpack(entry)

    def agrees(group: bytes) -> bool:
        padded = group.ljust(layout.GROUP_NAME_BYTES, b"\0")
        return not any((has ^ wants) & bits for has, wants, bits in zip(padded, name, mask, strict=True))

    assert all(map(agrees, agreeing))
    assert not any(map(agrees, differing))
