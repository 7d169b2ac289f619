"""Attacks with the daemon in hand: what is lost, as the gateway counted it, is never more than was authorised.

Each script is in `bench.attacks.scripts` and asserts itself why what it tried was refused; how found, it prints there.
That no key is in a core dump, another process's memory or a swap file: tests/dataplane/test_hardening.py and
tests/secretary/test_keys.py.
"""

from __future__ import annotations

import base64
import signal
from pathlib import Path
from typing import Any

import pytest
from clerk import GATEWAY, flow

from bench import attacks
from bench.attacks.home import DAY_BUDGET, PROGRAM_BUDGET
from bench.attacks.scripts import ATTACKS
from billpay.signing import SigningKey, fingerprint_of
from secretary.client import PersonClient, SecretaryClient
from secretary.keys.keeper import SealedFiles
from secretary.keys.sealing import Seals
from secretary.messages import AskInbox, AskStatus, Granted, Inbox, Rotated, RotateKey, SecretaryStatus

CAPS = {"speaks-as-person": 0, "hijacked-program": PROGRAM_BUDGET, "packet-core-wild": 3_000_000}
TAKES_THE_WHOLE_DAY = {"takes-all", "takes-all-longer", "closes-for-nothing", "forges-receipts", "lies-about-context"}


@pytest.mark.row("BP-42", "BP-43", "BP-44", "MV-17")
@pytest.mark.expectation(24, 16)
@pytest.mark.parametrize("name", ATTACKS)
def test_the_loss_is_at_most_what_was_authorised(name: str) -> None:
    outcome = attacks.run(name)
    assert outcome.cap_nanodollars == CAPS.get(name, DAY_BUDGET)
    assert outcome.loss_nanodollars <= outcome.cap_nanodollars
    assert outcome.found
    if name in TAKES_THE_WHOLE_DAY:  # the attack is a real one
        assert outcome.loss_nanodollars > 0.9 * DAY_BUDGET


def test_the_table_is_printed_and_says_how_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    assert attacks.main(["--attack", "speaks-as-person", "--json"]) == 0
    assert '"loss_nanodollars": 0' in capsys.readouterr().out
    assert attacks.main(["--attack", "speaks-as-person"]) == 0
    assert "not-permitted" in capsys.readouterr().out


# --- no signing key is obtainable -------------------------------------------------------------------------------------


def spellings(seed: bytes) -> list[bytes]:
    return [seed, seed.hex().encode(), seed.hex().upper().encode(), base64.b64encode(seed).rstrip(b"=")]


def seed_of(secretary: Any) -> bytes:
    """Of the key that signs now; as only the service itself, and root, can open it."""
    fingerprint = fingerprint_of(secretary.public_key)
    seals = Seals(secretary.directory / "state-seal", environment={}, draw=bytes)
    files = SealedFiles(secretary.state, seals, draw=bytes)
    seed = files.read(fingerprint)
    assert seed is not None
    assert SigningKey(seed).fingerprint == fingerprint
    return seed


@pytest.mark.row("BP-43")
@pytest.mark.expectation(24)
async def test_no_signing_key_is_in_any_answer_log_journal_or_state(secretary: Any) -> None:
    """Of the key of now, and of those before it."""
    said: list[str] = []
    seeds = [seed_of(secretary)]
    agent = SecretaryClient(secretary.socket)
    async with PersonClient(secretary.socket) as person:
        for _ in range(2):
            answer = await agent.ask_grant(flow(), gateway=GATEWAY.fingerprint)
            assert isinstance(answer, Granted)
            said += map(repr, (answer, await agent.budget(), await agent.successions()))
            said += map(repr, (await person.ask(AskStatus(), SecretaryStatus), await person.ask(AskInbox(), Inbox)))
            said.append(repr(await person.ask(RotateKey(), Rotated)))
            seeds.append(seed_of(secretary))
    await agent.close()
    places = {path: path.read_bytes() for path in sorted(secretary.directory.rglob("*")) if path.is_file()}
    code, stderr = secretary.end(signal.SIGTERM)
    assert code == 0
    assert any(path.name.startswith("journal.sqlite") for path in places)
    places |= {path: path.read_bytes() for path in sorted(secretary.directory.rglob("*")) if path.is_file()}
    places |= {Path("stderr"): stderr.encode(), Path("answers"): "\n".join(said).encode()}
    assert len(set(seeds)) == 3
    for seed in seeds:
        for spelling in spellings(seed):
            assert [path.name for path, content in places.items() if spelling in content] == []
