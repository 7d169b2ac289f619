"""docs/spec/control-api.md against the code: every endpoint, every code with its status, every example."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from billpay import messages
from billpay.grants import ReplacementRefusal
from billpay.introductions import MAX_AGE_S, MAX_DOCUMENT_BYTES, MAX_DOCUMENTS, MAX_DOCUMENTS_OF_AN_AS, MAX_TOLD_BYTES
from billpay.messages import CONTROL_PORT, Message
from billpay.settlement import Acceptance
from gateway.control import BODY_BYTES_MAX, STATUS, STREAMS_MAX, ControlApi
from gateway.grant_store import MAX_REMEMBERED_PER_LINK, REMEMBER_S
from gateway.granting import CLOSE_AFTER_S
from gateway.payments import MAX_GRANTS, MAX_GRANTS_PER_FLOW
from gateway.secretary_keys import MAX_SUCCESSIONS
from neighbour.control import CONNECT_S, TOTAL_S

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "docs" / "spec" / "control-api.md").read_text(encoding="utf-8")
OTHER_STATUS = 400
RAISED = re.compile(r'(?:RemoteProtocolError|Refused)\(\s*(?:code=)?"([a-z-]+)"')
RETURNED = re.compile(r'return "([a-z]+(?:-[a-z]+)+)"')
ANSWERING = (
    "gateway/control.py",
    "gateway/relaying.py",
    "gateway/granting.py",
    "gateway/secretary_keys.py",
    "gateway/neighbours.py",
    "gateway/payments.py",
    "gateway/datapath.py",
    "neighbour/exchange.py",
    "neighbour/control.py",
    "billpay/signing.py",
    "billpay/links.py",
    "billpay/grants.py",
)
SHORTENED = {
    '"document": "…"': '"document": ""',
    '"signature": "…"': f'"signature": "{base64.b64encode(bytes(64)).decode()}"',
}
EXAMPLES = dict(re.findall(r"```json (\w+)\n(.*?)\n```", SPEC, re.DOTALL))


def table_of_codes() -> dict[str, str]:
    """Code → status, as the two tables say."""
    _, _, section = SPEC.partition("## Problem codes")
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \|", section, re.MULTILINE)
    return {code: status for codes, status in rows for code in re.findall(r"`([a-z-]+)`", codes)}


def test_every_endpoint_is_there_and_no_other() -> None:
    nothing: Any = None
    api = ControlApi(
        configuration=nothing,
        identity=nothing,
        neighbours=nothing,
        grants=nothing,
        published=nothing,
        told=nothing,
        introduced=nothing,
        quote=nothing,
        clock=nothing,
    )
    served = {
        (route.method, route.resource.canonical)
        for route in api.application().router.routes()
        if route.resource is not None and route.method != "HEAD"  # comes with each GET
    }
    assert set(re.findall(r"^\| `([A-Z]+) (/\S+)`", SPEC, re.MULTILINE)) == served


def test_statuses_are_the_codes() -> None:
    said = table_of_codes()
    assert {code: int(said[code][:3]) for code in STATUS} == STATUS
    others = {code: int(status[:3]) for code, status in said.items() if code not in STATUS}
    assert set(others.values()) == {OTHER_STATUS}


def test_every_code_that_is_raised_is_named() -> None:
    raised = {code for name in ANSWERING for code in RAISED.findall((ROOT / name).read_text(encoding="utf-8"))}
    raised |= set(RETURNED.findall((ROOT / "gateway" / "payments.py").read_text(encoding="utf-8")))
    raised |= {refusal.value for refusal in ReplacementRefusal}
    raised |= {answer.value for answer in Acceptance if not answer.holds}
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", SPEC))
    assert raised >= {"too-many-grants", "unknown-grant", "wrong-as", "wrong-kind", "wrong-link", "wrong-parties"}
    assert raised - named == set()


def test_limits_are_the_codes() -> None:
    for text in (
        f"port {CONTROL_PORT}",
        f"{BODY_BYTES_MAX:,} bytes",
        f"{STREAMS_MAX} streams",
        f"{CONNECT_S} s for the connection and {TOTAL_S} s for the answer",
        f"At most {MAX_GRANTS_PER_FLOW} open grants for one flow of a link and {MAX_GRANTS} on a gateway",
        f"of a link together at most {MAX_REMEMBERED_PER_LINK}",
        f"by itself {CLOSE_AFTER_S} s after its end",
        f"until {REMEMBER_S} s after it",
        f"A chain has at most {MAX_SUCCESSIONS} documents",
        f"at most {MAX_DOCUMENTS} documents, {MAX_DOCUMENTS_OF_AN_AS} of one AS, of {MAX_DOCUMENT_BYTES:,} bytes each",
        f"{MAX_TOLD_BYTES:,} bytes of them in one message",
        f"longer ago than {MAX_AGE_S:,} s",
    ):
        assert text in " ".join(SPEC.split())


def test_every_answer_has_an_example() -> None:
    assert set(EXAMPLES) >= {
        "Identity",
        "AgreementRequest",
        "Agreement",
        "Grant",
        "GrantTerms",
        "GrantReceipt",
        "SignedUsage",
        "KeySuccession",
        "SecretaryKey",
        "Tariff",
        "PriceQuote",
        "OadDescription",
        "IntroducedOads",
        "Statement",
        "StatementReply",
        "Settlement",
        "SettlementReceipt",
        "Problem",
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_a_message_with_all_its_fields(name: str) -> None:
    text = EXAMPLES[name]
    for short, whole in SHORTENED.items():
        text = text.replace(short, whole)
    message = msgspec.json.decode(text, type=cast("type[Message]", getattr(messages, name)))
    assert json.loads(msgspec.json.encode(message)) == json.loads(text)
