"""Who may look at the local API and who may change anything: decided alone, and with processes of real users."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import socket as sockets
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from desks import FakeDesk
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import ConfigurationError
from dataplane import peers as reading_peers
from dataplane.peers import OVERFLOW_ID, Peer, Who, peer_of
from hostagent import api
from hostagent.client import LocalClient, NotAllowed
from hostagent.endpoints import ENDPOINTS, Endpoint
from hostagent.listening import PRIVATE_MODE, PUBLIC_MODE
from hostagent.permissions import Permissions, Right, permissions_of
from hostagent.server import STRANGERS_CONNECTIONS, LocalServer

READER, SPENDER, STRANGER, MEMBER = 4001, 4002, 4003, 4004
READERS_GROUP = 5001

# Becomes somebody else, then asks: what the server sees is the process that connects.
ASKING = """
import http.client, json, os, socket, sys
path, user, group, groups, requests = json.loads(sys.argv[1])
os.setgroups(groups); os.setgid(group); os.setuid(user)
for method, target, body in requests:
    connection = http.client.HTTPConnection("agent")
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(path)
    except OSError as error:
        print(json.dumps([error.errno, ""]))
        continue
    connection.request(method, target, body)
    answer = connection.getresponse()
    if target == "/v1/events":
        print(json.dumps([answer.status, ""]))
    else:
        print(json.dumps([answer.status, answer.read().decode()]))
    connection.close()
"""

BODIES = {
    "answers": '{"number": 3, "allow": true}',
    "mode": '{"mode": "observe"}',
    "worths": '{"program": "curl", "nanodollars_per_mb": 1}',
    "forget": '{"everything": true}',
    "end": json.dumps({"session": "0" * 32}),
    "worth": json.dumps({"session": "0" * 32, "worth_ppm": 1_500_000}),
    "sessions": json.dumps(
        {"protocol": "udp", "local": "127.0.0.1", "local_port": 1, "remote": "127.0.0.1", "remote_port": 2}
    ),
    "trust": json.dumps({"fingerprint": "0" * 64}),
    "access": json.dumps({"interface": "wlan0"}),
    "probes": json.dumps({"destination": "127.0.0.1"}),
}
QUERIES = {"probe": "?number=1", "session": "?session=" + "0" * 32, "why": "?flow=rsync", "statement": "?month=2026-11"}


# --- the decision -----------------------------------------------------------------------------------------------------


def peer(user: int, *groups: int, group: int = 100) -> Peer:
    return Peer(user_id=user, group_id=group, groups=frozenset(groups))


MIXED = Permissions(
    readers=Who(users=frozenset({READER}), groups=frozenset({READERS_GROUP}), names=("ann", "@viewers")),
    spenders=Who(users=frozenset({SPENDER}), names=("bob",)),
    own_user_id=998,
)


@pytest.mark.expectation(24)
@pytest.mark.parametrize(
    ("who", "may_read", "may_spend"),
    [
        (peer(0), True, True),
        (peer(998), True, True),
        (peer(SPENDER), True, True),
        (peer(READER), True, False),
        (peer(STRANGER, READERS_GROUP), True, False),
        (peer(STRANGER, group=READERS_GROUP), True, False),
        (peer(STRANGER), False, False),
        (peer(READERS_GROUP, READER), False, False),  # a user's number is no group's
    ],
)
def test_who_may_do_what(who: Peer, *, may_read: bool, may_spend: bool) -> None:
    assert MIXED.allows(who, Right.READ) is may_read
    assert MIXED.allows(who, Right.SPEND) is may_spend


def test_nobody_but_root_and_its_own_user_without_a_word() -> None:
    alone = Permissions(own_user_id=998)
    assert not alone.others_may
    for right in Right:
        assert alone.allows(peer(0), right)
        assert alone.allows(peer(998), right)
        assert not alone.allows(peer(1000, 0, 998, group=0), right)  # the group of root is not root


ids = st.integers(0, 6)
who = st.builds(
    Who,
    users=st.frozensets(ids, max_size=3),
    groups=st.frozensets(ids, max_size=3),
)
peers = st.builds(Peer, user_id=ids, group_id=ids, groups=st.frozensets(ids, max_size=3))


@given(st.builds(Permissions, readers=who, spenders=who, own_user_id=ids), peers)
def test_whoever_may_spend_may_read_and_nobody_may_what_nobody_granted(given_: Permissions, asking: Peer) -> None:
    may = {right: given_.allows(asking, right) for right in Right}
    assert may[Right.READ] or not may[Right.SPEND]
    named = {right: given_.spenders.has(asking) or given_.is_own(asking) for right in Right}
    named[Right.READ] |= given_.readers.has(asking)
    assert may == named
    assert given_.others_may or not (may[Right.READ] and not given_.is_own(asking))  # else the socket were closed to it


def test_a_refusal_says_who_may() -> None:
    line = MIXED.refusal(peer(STRANGER), Right.READ)
    assert line == "user 4003 may not look; these may: root, user 998, bob, ann, @viewers"
    assert MIXED.refusal(peer(READER), Right.SPEND).endswith("may not change anything; these may: root, user 998, bob")


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_and_numbers_of_users_and_groups() -> None:
    read = permissions_of(["daemon", "4001", "@daemon", "@5001"], ["root"])
    assert read.readers.users == {1, 4001}
    assert read.readers.groups == {1, 5001}
    assert read.spenders.users == {0}
    assert read.own_user_id == os.geteuid()
    assert not permissions_of([], ["root"]).others_may


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no-such-user", "there is no user 'no-such-user'"),
        ("@no-such-group", "there is no group '@no-such-group'"),
        ("", "there is no user ''"),
        ("@", "there is no group '@'"),
        ("4294967295", "there is no user"),  # (uid_t) -1
        ("-1", "there is no user"),
        ("nobody", "everybody in a container"),
        (f"@{OVERFLOW_ID}", "everybody in a container"),
    ],
)
def test_a_name_that_cannot_be_meant_is_one_line(name: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        permissions_of(["root", name], file="agent.toml")
    assert "agent.toml: api.readers[1]" in str(caught.value)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_names_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="name a group"):
        permissions_of((), ["root"] * 65)


def test_the_group_hostagent_may_look_unless_readers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_group(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(grp, "getgrnam", no_group)
    assert not permissions_of().others_may
    found = grp.struct_group(("hostagent", "x", 5001, []))
    monkeypatch.setattr(grp, "getgrnam", lambda _name: found)
    assert permissions_of().readers == Who(groups=frozenset({5001}), names=("@hostagent",))
    assert not permissions_of(()).others_may


# --- the kernel's word ------------------------------------------------------------------------------------------------


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    ours, theirs = sockets.socketpair(sockets.AF_UNIX)
    with ours, theirs:
        seen = peer_of(ours)
    assert (seen.user_id, seen.group_id, seen.process_id) == (os.geteuid(), os.getegid(), os.getpid())
    assert seen.groups == set(os.getgroups())


def test_groups_that_cannot_be_read_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_peers, "GROUPS_BYTES", 1)
    monkeypatch.setattr(reading_peers, "SO_PEERGROUPS", 9999)
    ours, theirs = sockets.socketpair(sockets.AF_UNIX)
    with ours, theirs:
        assert peer_of(ours).groups == frozenset()


# --- real users -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that everybody may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="hostagent-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@contextlib.asynccontextmanager
async def serving(socket: Path, permitted: Permissions) -> AsyncIterator[tuple[LocalServer, FakeDesk]]:
    desk = FakeDesk()
    server = LocalServer(socket, desk, permitted)
    await server.start()
    try:
        yield server, desk
    finally:
        await server.stop()


def permitted() -> Permissions:
    return permissions_of([str(READER), f"@{READERS_GROUP}"], [str(SPENDER)])


def request_of(endpoint: Endpoint) -> tuple[str, str, str | None]:
    return endpoint.method, endpoint.path + QUERIES.get(endpoint.name, ""), BODIES.get(endpoint.name)


async def ask_as(
    socket: Path,
    user: int,
    requests: list[tuple[str, str, str | None]],
    *,
    group: int = 100,
    groups: tuple[int, ...] = (),
) -> list[tuple[int, str]]:
    """Status and body of each; the error's number where it could not even connect."""
    asked = json.dumps([str(socket), user, group, groups, requests])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", ASKING, asked, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return [tuple(json.loads(line)) for line in out.decode().splitlines()]


READS = [request_of(endpoint) for endpoint in ENDPOINTS if endpoint.method == "GET"]
SPENDS = [request_of(endpoint) for endpoint in ENDPOINTS if endpoint.method != "GET"]


@pytest.mark.expectation(24)
@pytest.mark.netns
@pytest.mark.parametrize(
    ("user", "groups", "may_read", "may_spend"),
    [
        (SPENDER, (), True, True),
        (READER, (), True, False),
        (MEMBER, (7, READERS_GROUP), True, False),  # by a supplementary group
        (STRANGER, (7,), False, False),
        (OVERFLOW_ID, (), False, False),
    ],
)
async def test_processes_of_real_users_get_what_they_may(
    folder: Path, user: int, groups: tuple[int, ...], *, may_read: bool, may_spend: bool
) -> None:
    async with serving(folder / "agent.sock", permitted()) as (_, desk):
        answers = await ask_as(folder / "agent.sock", user, READS + SPENDS, groups=groups)
        read, spent = answers[: len(READS)], answers[len(READS) :]
        assert {status for status, _ in read} == {200 if may_read else 403}
        assert {status for status, _ in spent} == {200 if may_spend else 403}
        assert len(desk.told) == (len(SPENDS) if may_spend else 0) + (8 if may_read else 0)
        for _, body in [*([] if may_read else read[:1]), *([] if may_spend else spent)]:
            problem = json.loads(body)
            assert problem["code"] == "not-allowed"
            assert f"user {user} may not" in problem["message"]
            assert "these may: root" in problem["message"]


@pytest.mark.expectation(24)
@pytest.mark.netns
async def test_nobody_else_even_connects_where_nobody_else_may(folder: Path) -> None:
    async with serving(folder / "agent.sock", Permissions()):
        assert (folder / "agent.sock").stat().st_mode & 0o777 == PRIVATE_MODE
        assert await ask_as(folder / "agent.sock", STRANGER, READS[:1]) == [(13, "")]  # EACCES
        assert (await ask_as(folder / "agent.sock", 0, READS[:1], group=0))[0][0] == 200


@pytest.mark.netns
async def test_what_may_be_done_changes_while_it_runs(folder: Path) -> None:
    socket = folder / "agent.sock"
    async with serving(socket, Permissions()) as (server, _):
        server.permit(permitted())
        assert socket.stat().st_mode & 0o777 == PUBLIC_MODE
        assert [status for status, _ in await ask_as(socket, READER, READS[:1])] == [200]
        server.permit(Permissions())
        assert socket.stat().st_mode & 0o777 == PRIVATE_MODE


async def test_a_stream_ends_for_whom_it_is_no_longer_permitted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(folder / "agent.sock", permitted()) as (server, _), LocalClient(folder / "agent.sock") as client:
        events = client.events()
        assert (await anext(events)).sequence == 1
        monkeypatch.setattr(Permissions, "allows", lambda *_arguments: False)
        server.changed()
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_the_client_says_it_in_one_line_with_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Permissions, "allows", lambda *_arguments: False)
    async with serving(folder / "agent.sock", permitted()) as (_, desk), LocalClient(folder / "agent.sock") as client:
        for asked in (client.status(), client.set_mode(api.ModeChange(mode=api.Mode.ACT)), anext(client.events())):
            with pytest.raises(NotAllowed) as caught:
                await asked
            assert "\n" not in str(caught.value)
            assert "these may: root" in str(caught.value)
            assert "ask as one of them" in str(caught.value)
        assert desk.told == []


# --- connections that say nothing -------------------------------------------------------------------------------------

HOLDING = """
import os, socket, sys
os.setgroups([]); os.setgid(100); os.setuid(int(sys.argv[2]))
held = []
for _ in range(int(sys.argv[3])):
    one = socket.socket(socket.AF_UNIX)
    one.connect(sys.argv[1])
    held.append(one)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.expectation(24)
@pytest.mark.netns
async def test_strangers_who_only_connect_take_nobodys_place(folder: Path) -> None:
    socket = folder / "agent.sock"
    async with serving(socket, permitted()) as _:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", HOLDING, str(socket), str(STRANGER), "200"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        async with LocalClient(socket) as client:
            await client.status()
            text = await client.metrics()
        assert f"hostagent_api_connections {STRANGERS_CONNECTIONS + 1}.0" in text  # theirs and ours
        assert [status for status, _ in await ask_as(socket, READER, READS[:1])] == [200]
        await process.communicate(b"")
