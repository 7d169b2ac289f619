"""Every engine decides alike: the same bytes, marks, verdicts, answers, counters and reports for the same events.

The NFQUEUE engine is compared with the packet core without a kernel, the kernel's programs by test runs (docs/adr on
payments in the kernel). CI compares some hundred thousand packets, `--deep` ten million.
"""

from __future__ import annotations

from collections import Counter

import pytest
from differential.gateway_worlds import GATEWAY_WORLDS
from differential.host_worlds import HOST_WORLDS
from differential.runs import SESSION_PACKETS, compare

WORLDS = [("gateway", name) for name in GATEWAY_WORLDS] + [("host", name) for name in HOST_WORLDS]
SESSIONS = 4
DEEP_PACKETS = 10_000_000
DEEP_SESSIONS = DEEP_PACKETS // SESSION_PACKETS // len(WORLDS) + 1

GATEWAY_HAPPENINGS = {
    "packet unchanged": 1000,
    "packet rewritten": 1000,
    "packet stripped": 300,
    "packet dropped": 100,
    "packet offloaded": 500,
    "mark changed": 500,
    "link/…/received_packets": 3000,
    "link/…/sent_packets": 2000,
    "link/…/retained_nanodollars": 1000,
    "link/…/kept_packets": 100,
    "link/…/marked_packets": 300,
    "link/…/cut_packets": 10,
    "link/…/cap_cut_picodollars": 1000,
    "link/…/role_refused_packets": 100,
    "link/…/carry_picodollars": 1000,
    "grant/…/packets": 1000,
    "grant/…/refused_packets": 1000,
    "malformed_amount_over_ceiling": 100,
    "malformed_duplicate": 100,
    "malformed_length": 20,
    "malformed_oad_count": 100,
    "malformed_on_fragment": 50,
    "malformed_overrun": 100,
    "malformed_shared": 100,
    "malformed_truncated": 20,
    "unpaid_bad_mac": 300,
    "unpaid_grant_not_valid": 100,
    "unpaid_in_default": 50,
    "unpaid_never_pays": 100,
    "unpaid_no_grant": 300,
    "unpaid_not_by_neighbour": 300,
    "unpaid_over_cap": 300,
    "unpaid_over_mirror": 100,
    "event over_ceiling": 5,
    "event over_ceiling_grant": 5,
    "event unpaid_bad_mac": 100,
    "answer Done": 100,
    "answer GrantAnswer": 100,
    "answer Report": 10,
    "answer Refused foreign-grant": 1,
    "answer Refused grant-closed": 1,
    "answer Refused never-pays": 5,
    "answer Refused old-serial": 5,
    "answer Refused other-key": 1,
    "answer Refused other-kind": 1,
    "answer Refused other-flow": 1,
    "answer Refused too-many-grants": 1,
    "answer Refused unknown-grant": 5,
}
HOST_HAPPENINGS = {
    "packet unchanged": 3000,
    "packet rewritten": 100,
    "packet with a header put in": 300,
    "packet offloaded": 500,
    "link/…/received_packets": 2000,
    "link/…/sent_packets": 500,
    "share_nanodollars": 1000,
    "refunded_nanodollars": 1000,
    "returned_nanodollars": 1000,
    "unreturned_nanodollars": 1000,
    "grant/…/spent_nanodollars": 1000,
    "malformed_duplicate": 20,
    "malformed_length": 5,
    "malformed_oad_count": 20,
    "malformed_on_fragment": 3,
    "malformed_overrun": 20,
    "malformed_shared": 20,
    "cannot_carry_already_present": 20,
    "cannot_carry_fragment": 5,
    "cannot_carry_hop_by_hop_present": 20,
    "cannot_carry_not_ip": 20,
    "cannot_carry_options_full": 1,
    "cannot_carry_too_big": 5,
    "unpaid_grant_not_valid": 100,
    "unpaid_not_by_gateway": 100,
    "unpaid_over_grant": 50,
    "unpaid_over_rate": 50,
    "event FlowSeen": 50,
    "event ReceiptSeen": 30,
    "event ProbeSeen": 30,
    "answer Done": 100,
    "answer FlowReports": 30,
    "answer Refused malformed": 5,
    "answer Refused old-serial": 5,
    "answer Refused other-flow": 2,
    "answer Refused other-key": 2,
    "answer Refused unknown-uplink": 2,
    "answer Refused wrong-kind": 2,
}
"""What has to happen in the short form, and how often at least: a comparison of nothing would pass."""

happened: dict[str, Counter[str]] = {"gateway": Counter(), "host": Counter()}


@pytest.mark.parametrize(("side", "world"), WORLDS)
def test_the_core_and_its_netlink_engine_decide_alike(side: str, world: str) -> None:
    happened[side] += compare(side, world, range(SESSIONS), kernel=False).happened


@pytest.mark.parametrize(("side", "least"), [("gateway", GATEWAY_HAPPENINGS), ("host", HOST_HAPPENINGS)])
def test_everything_that_can_happen_has_happened(side: str, least: dict[str, int]) -> None:
    seen = happened[side] or sum(
        (compare(each, world, range(SESSIONS), kernel=False).happened for each, world in WORLDS if each == side),
        Counter(),
    )
    assert {name: seen[name] for name, count in least.items() if seen[name] < count} == {}


@pytest.mark.netns
@pytest.mark.parametrize(("side", "world"), WORLDS)
def test_the_kernels_programs_decide_as_the_core(side: str, world: str) -> None:
    compare(side, world, range(SESSIONS), kernel=True)


@pytest.mark.deep
@pytest.mark.parametrize(("side", "world"), WORLDS)
def test_core_and_netlink_engine_decide_alike_ten_million_times(side: str, world: str) -> None:
    compare(side, world, range(1_000, 1_000 + DEEP_SESSIONS), kernel=False)


@pytest.mark.deep
@pytest.mark.netns
@pytest.mark.parametrize(("side", "world"), WORLDS)
def test_the_kernels_programs_decide_as_the_core_ten_million_times(side: str, world: str) -> None:
    compare(side, world, range(1_000, 1_000 + DEEP_SESSIONS), kernel=True)
