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
from secretary.inbox.questions import ATTENTION_S
from secretary.issuing import EXPIRY_GRACE_S
from secretary.listening import MAX_CLIENTS, SOCKET_MODE
from secretary.messages import LINE_BYTES_MAX, Answer, Question, Reply, Request
from secretary.process import LOOK_AT_RULES_S
from secretary.ruling.terms import Term

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "docs" / "spec" / "secretary-protocol.md").read_text(encoding="utf-8")
CODE = r'"([a-z]+(?:-[a-z]+)*)"'
CODES = (
    rf"\b(?:Denial|RemoteProtocolError|refused|Unpaid|_declined)\(\s*(?:code=|0, |request\.number, |transfer, )?{CODE}",
    rf'Denial\("[a-z]+" if [A-Za-z. ]+ else {CODE}',
    rf"code = Course\.DECLINE, {CODE}",
    rf"""code = "pay" if [^"]+ else {CODE}""",
)
PARTS = ("issuing", "ruling/rules", "judging", "secretary", "people")
MODULES = tuple(f"secretary/{part}" for part in PARTS)
MORE_MODULES = ("secretary/listening", "secretary/process", "billpay/grants", "billpay/signing")
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


def test_every_term_of_an_answer_is_there() -> None:
    text = " ".join(SPEC.split())
    assert all(f"`{term.value}`" in text for term in Term)


def test_all_fields_of_a_granted_are_explained() -> None:
    fields = {field.name for field in msgspec.structs.fields(messages.Granted)}
    assert fields <= set(re.findall(r"^\| `(\w+)` \|", SPEC, re.MULTILINE))


def test_every_code_is_explained_and_no_other() -> None:
    used: set[str] = set()
    for module in MODULES + MORE_MODULES:
        text = (ROOT / f"{module}.py").read_text(encoding="utf-8")
        used |= {code for pattern in CODES for code in re.findall(pattern, text)}
    rows = re.findall(r"^\| (`[^|]+`) \| `(?:Unpaid|Refused)` \|", SPEC, re.MULTILINE)
    explained = {code for row in rows for code in re.findall(r"`([a-z-]+)`", row)}
    assert used == explained


@pytest.mark.parametrize("text", examples())
def test_example_is_a_message_with_all_its_fields(text: str) -> None:
    message = msgspec.json.decode(text, type=Request if '"question": {"type"' in text else Reply)
    assert json.loads(msgspec.json.encode(message)) == json.loads(text)


def test_every_message_has_an_example() -> None:
    shown = set(re.findall(r'"type": "(\w+)"', SPEC))
    assert names_of(Question) | names_of(Answer) <= shown


def test_limits_are_the_codes() -> None:
    text = " ".join(SPEC.split())
    for limit in (
        f"At most {MAX_CLIENTS} connections",
        f"Its mode is 0{SOCKET_MODE:o}",
        f"it holds for {ATTENTION_S} s",
        f"looked at every {LOOK_AT_RULES_S} s",
        f"at most {LINE_BYTES_MAX:,} bytes",
        f"no answer after {TIMEOUT_S:.0f} s",
        f"ends {EXPIRY_GRACE_S} s after its expiry",
    ):
        assert limit in text
