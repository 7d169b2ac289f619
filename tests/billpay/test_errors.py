"""What a user reads of a fault: one line that says what, where and what to do."""

from __future__ import annotations

import pickle

import pytest

from billpay.errors import (
    BillpayError,
    ConfigurationError,
    EnvironmentFault,
    LocalProtocolError,
    RemoteProtocolError,
)

FAULTS = [
    (
        ConfigurationError("gateway.toml", "links.1.rate", "unknown key", "did you mean rate_bit_s?"),
        "gateway.toml: links.1.rate: unknown key (did you mean rate_bit_s?)",
    ),
    (ConfigurationError("gateway.toml", "", "no such file"), "gateway.toml: no such file"),
    (
        EnvironmentFault("bind", "[::]:7414", OSError(98, "Address already in use"), "stop the other gateway"),
        "bind [::]:7414: [Errno 98] Address already in use (stop the other gateway)",
    ),
    (EnvironmentFault("open", "/dev/x", "denied\nby policy"), "open /dev/x: denied by policy"),
    (RemoteProtocolError("bad_signature", "the statement is not X's"), "bad_signature: the statement is not X's"),
    (LocalProtocolError("amount -1"), "amount -1"),
]


@pytest.mark.parametrize(("fault", "line"), FAULTS, ids=[line[:20] for _, line in FAULTS])
def test_a_fault_is_one_line_and_survives_a_process_boundary(fault: BillpayError, line: str) -> None:
    assert str(fault) == line
    assert isinstance(fault, BillpayError)
    copy = pickle.loads(pickle.dumps(fault))
    assert type(copy) is type(fault)
    assert str(copy) == line
