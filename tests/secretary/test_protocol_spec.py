"""docs/spec/secretary-protocol.md against the code: every message, every code, every example."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from secretary import messages
from secretary.client import TIMEOUT_S
from secretary.issuing import EXPIRY_GRACE_S
from secretary.messages import LINE_BYTES_MAX, Answer, Question, Reply, Request
from secretary.process import MAX_CLIENTS

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "docs" / "spec" / "secretary-protocol.md").read_text(encoding="utf-8")
CODES = re.compile(r'(?:Denial|Refused|RemoteProtocolError|_refused)\((?:code=|0, |request\.number, )?"([a-z-]+)"')
SHORTENED = {
    '"document": "…"': '"document": ""',
    '"signature": "…"': f'"signature": "{base64.b64encode(bytes(64)).decode()}"',
}


def examples() -> list[str]:
    """Each one a whole JSON document, which may stand on several lines."""
    found = []
    for block in re.findall(r"```json\n(.*?)\n```", SPEC, re.DOTALL):
        rest = block
        for short, whole in SHORTENED.items():
            rest = rest.replace(short, whole)
        while rest.strip():
            _, end = json.JSONDecoder().raw_decode(rest)
            found.append(rest[:end])
            rest = rest[end:].lstrip()
    return found


def names_of(union: object) -> set[str]:
    return {member.__name__ for member in get_args(union)}


@pytest.mark.parametrize("name", sorted(names_of(Question)))
def test_every_question_is_there_with_its_fields(name: str) -> None:
    row = re.search(rf"^\| `{name}` \|([^|]*)\|", SPEC, re.MULTILINE)
    assert row is not None
    fields = msgspec.structs.fields(getattr(messages, name))
    assert re.findall(r"`(\w+)`", row[1]) == [field.name for field in fields]


def test_every_answer_is_there() -> None:
    named = set(re.findall(r"`([A-Z]\w+)`", SPEC))
    assert names_of(Answer) | {"Request", "Reply"} <= named
    assert named <= names_of(Answer) | names_of(Question) | {"Request", "Reply"}


def test_all_fields_of_a_granted_are_explained() -> None:
    fields = {field.name for field in msgspec.structs.fields(messages.Granted)}
    assert fields <= set(re.findall(r"^\| `(\w+)` \|", SPEC, re.MULTILINE))


def test_every_code_is_explained_and_no_other() -> None:
    used: set[str] = set()
    for module in ("issuing", "rules", "process"):
        used |= set(CODES.findall((ROOT / "secretary" / f"{module}.py").read_text(encoding="utf-8")))
    explained = set(re.findall(r"^\| `([a-z-]+)` \| `(?:Unpaid|Refused)` \|", SPEC, re.MULTILINE))
    assert used == explained


@pytest.mark.parametrize("text", examples())
def test_example_is_a_message_with_all_its_fields(text: str) -> None:
    message = msgspec.json.decode(text, type=Request if '"question"' in text else Reply)
    assert json.loads(msgspec.json.encode(message)) == json.loads(text)


def test_every_message_has_an_example() -> None:
    shown = set(re.findall(r'"type": "(\w+)"', SPEC))
    assert shown == names_of(Question) | names_of(Answer)


def test_limits_are_the_codes() -> None:
    text = " ".join(SPEC.split())
    for limit in (
        f"At most {MAX_CLIENTS} connections",
        f"at most {LINE_BYTES_MAX:,} bytes",
        f"no answer after {TIMEOUT_S:.0f} s",
        f"ends {EXPIRY_GRACE_S} s after its expiry",
    ):
        assert limit in text
