"""What is remembered of networks, and trust on first use."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import EnvironmentFault
from hostagent.networks.known import (
    GATEWAYS_MAX,
    NETWORKS_MAX,
    KnownFile,
    KnownGateway,
    KnownNetworks,
    Meeting,
    Trust,
)

FIRST, SECOND, THIRD = "a" * 64, "b" * 64, "c" * 64


def known_here(key: str = "k") -> KnownNetworks:
    known = KnownNetworks()
    known.saw(key, aliases=[key], title="Wi-Fi Home", kind="wifi", now_unix_s=1000)
    return known


def meet(known: KnownNetworks, fingerprint: str, *, now_unix_s: int = 2000, key: str = "k") -> Meeting:
    meeting, _ = known.met(
        key, fingerprint=fingerprint, name="R", url="https://192.0.2.1:7414", how="configured", now_unix_s=now_unix_s
    )
    return meeting


def gateway(known: KnownNetworks, fingerprint: str, key: str = "k") -> KnownGateway:
    network = known.get(key)
    assert network is not None
    found = network.gateway(fingerprint)
    assert found is not None
    return found


@pytest.mark.expectation(20)
def test_the_first_key_is_believed_and_another_one_is_not() -> None:
    known = known_here()
    assert meet(known, FIRST, now_unix_s=2000) is Meeting.FIRST
    assert meet(known, FIRST, now_unix_s=3000) is Meeting.KNOWN
    assert (gateway(known, FIRST).since_unix_s, gateway(known, FIRST).last_seen_unix_s) == (2000, 3000)
    assert meet(known, SECOND) is Meeting.CHANGED
    assert meet(known, SECOND) is Meeting.CHANGED  # also the second time
    assert not gateway(known, SECOND).is_used
    assert meet(known, FIRST) is Meeting.KNOWN


def test_a_person_trusts_the_new_key() -> None:
    known = known_here()
    meet(known, FIRST)
    meet(known, SECOND)
    assert known.trust(SECOND, 5000) == ("k",)
    assert meet(known, SECOND) is Meeting.KNOWN
    assert (gateway(known, SECOND).trust, gateway(known, SECOND).since_unix_s) == (Trust.PERSON, 5000)
    assert known.trust(THIRD, 5000) == ()
    assert known.distrust(FIRST) == ("k",)
    assert meet(known, FIRST) is Meeting.CHANGED  # SECOND is the one that is known


def test_a_person_types_the_beginning_of_a_fingerprint() -> None:
    known = known_here()
    similar = "b" * 10 + "0" * 54
    for fingerprint in (FIRST, SECOND, similar):
        meet(known, fingerprint)
    assert known.trust("bbbb bbbb", 1) == ()  # two have it
    assert known.trust("aaaa", 1) == ()  # too short
    assert known.trust("BB:BB:BB:BB:BB:BB", 1) == ("k",)
    assert gateway(known, SECOND).is_used
    assert not gateway(known, similar).is_used


def test_each_network_has_its_own_first_use() -> None:
    known = known_here("k")
    known.saw("other", aliases=[], title="x", kind="cable", now_unix_s=1)
    assert meet(known, FIRST, key="k") is Meeting.FIRST
    assert meet(known, SECOND, key="other") is Meeting.FIRST
    assert meet(known, FIRST, key="other") is Meeting.CHANGED
    with pytest.raises(KeyError):
        meet(known, FIRST, key="nowhere")


def test_a_network_is_found_by_any_of_its_keys() -> None:
    known = KnownNetworks()
    known.saw("four", aliases=["four", "six"], title="x", kind="cable", now_unix_s=1)
    assert known.canonical(["six"]) == "four"
    assert known.canonical(["new", "six"]) == "four"
    assert known.canonical(["new", "newer"]) == "new"
    assert known.get("six") == known.get("four")
    known.forget("six")
    assert known.get("four") is None
    assert known.canonical(["six"]) == "six"


def test_a_look_each_second_changes_no_file() -> None:
    known = known_here()
    known.is_changed = False
    for second in range(1000, 1059):
        known.saw("k", aliases=["k"], title="Wi-Fi Home", kind="wifi", now_unix_s=second)
    assert not known.is_changed
    known.saw("k", aliases=["k"], title="Wi-Fi Home", kind="wifi", now_unix_s=1060)
    assert known.is_changed


def test_rates_and_names_stay() -> None:
    known = known_here()
    known.measured("k", egress_bit_s=20_000_000, ingress_bit_s=None, now_unix_s=7)
    known.measured("k", egress_bit_s=None, ingress_bit_s=100_000_000, now_unix_s=9)
    known.call("k", "the flat")
    network = known.saw("k", aliases=[], title="Wi-Fi Home", kind="wifi", now_unix_s=2000)
    assert (network.egress_bit_s, network.ingress_bit_s, network.rates_unix_s) == (20_000_000, 100_000_000, 9)
    assert network.name == "the flat"


def test_there_is_a_bound_on_everything() -> None:
    known = KnownNetworks()
    for number in range(NETWORKS_MAX + 30):
        known.saw(f"k{number}", aliases=[], title="t" * 1000, kind="wifi", now_unix_s=number)
    assert len(known.networks) == NETWORKS_MAX
    assert known.get("k29") is None
    assert known.get("k30") is not None
    assert len(known.networks[0].title) == 200
    meet(known, FIRST, key="k99")
    for number in range(50):
        meet(known, f"{number:064x}", key="k99", now_unix_s=3000 + number)
    network = known.get("k99")
    assert network is not None
    assert len(network.gateways) == GATEWAYS_MAX
    assert network.gateway(FIRST) is not None  # the known one is never pushed out by others


@given(st.lists(st.sampled_from([FIRST, SECOND, THIRD]), min_size=1, max_size=20))
def test_without_a_person_only_the_first_key_is_ever_used(shown: list[str]) -> None:
    known = known_here()
    for at, fingerprint in enumerate(shown):
        meet(known, fingerprint, now_unix_s=at)
    network = known.get("k")
    assert network is not None
    assert [each.fingerprint for each in network.gateways if each.is_used] == [shown[0]]


# -- the file --------------------------------------------------------------------------------------------------------


def test_what_was_remembered_is_there_after_a_restart(tmp_path: Path) -> None:
    file = KnownFile(tmp_path)
    assert file.load()[1] == ""
    known = known_here()
    meet(known, FIRST)
    meet(known, SECOND)
    file.save(known)
    assert not known.is_changed
    again, message = file.load()
    assert (again.networks, message, again.is_changed) == (known.networks, "", False)
    assert meet(again, SECOND) is Meeting.CHANGED
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["networks.json"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'{"version": 2, "networks": []}', b'{"version": 1, "networks": [{"key": 7}]}']
)
def test_a_broken_file_is_put_aside_with_a_message(tmp_path: Path, content: bytes) -> None:
    file = KnownFile(tmp_path)
    file.path.write_bytes(content)
    known, message = file.load()
    assert known.networks == ()
    assert "could not be used" in message
    assert "networks.json.broken" in message
    assert (tmp_path / "networks.json.broken").read_bytes() == content
    assert not file.path.exists()


def test_a_half_written_file_is_never_the_file(tmp_path: Path) -> None:
    file = KnownFile(tmp_path)
    file.save(known_here())
    (tmp_path / f"networks.json.{os.getpid()}.new").write_bytes(b"left by a crash")
    file.save(known_here("other"))
    assert json.loads(file.path.read_bytes())["networks"][0]["key"] == "other"


def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"write .*networks\.json: No such file"):
        KnownFile(tmp_path / "nowhere").save(known_here())
