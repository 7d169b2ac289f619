"""Flows to processes, with real sockets and real programs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from netns import Namespace

from dataplane.attribution.inet_diag import TCP, UDP
from dataplane.attribution.processes import Processes
from dataplane.attribution.socket_owners import SocketOwners
from dataplane.metering import FlowKey, Kind, Program

pytestmark = pytest.mark.netns
LOCALHOST = socket.inet_aton("127.0.0.1")
PYTHON = os.readlink("/proc/self/exe")


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


def resolve(namespace: Namespace, exercise: Callable[[SocketOwners], None], proc: Path = Path("/proc")) -> None:
    def inside() -> None:
        with closing(SocketOwners(Processes(proc=proc))) as owners:
            exercise(owners)

    namespace.call(inside)


@contextmanager
def sleeper(*inherited: socket.socket) -> Iterator[int]:
    """A program that has these sockets too and started after us."""
    command = [sys.executable, "-c", "print(flush=True); input()"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[each.fileno() for each in inherited]
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        yield process.pid
        process.stdin.close()


def flow(protocol: int, local_port: int, remote_port: int, address: bytes = LOCALHOST) -> FlowKey:
    return FlowKey(1, protocol, address, local_port, address, remote_port)


def test_both_ends_of_a_connection(namespace: Namespace) -> None:
    def exercise(owners: SocketOwners) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)) as client:
                there = client.getsockname()[1]
                for key in (flow(TCP, there, port), flow(TCP, port, there)):  # the second: not yet accepted
                    found = owners.find(key)
                    assert found is not None
                    assert found.process_id == os.getpid()
                    assert found.program.executable == PYTHON
                assert owners.owner_of(flow(TCP, there, 9)) is None

    resolve(namespace, exercise)


def test_unconnected_udp_is_found_by_its_port(namespace: Namespace) -> None:
    def exercise(owners: SocketOwners) -> None:
        for host, family, only_v6, expected in (
            ("0.0.0.0", socket.AF_INET, False, True),
            ("127.0.0.1", socket.AF_INET, False, True),
            ("127.0.0.2", socket.AF_INET, False, False),
            ("::", socket.AF_INET6, False, True),
            ("::", socket.AF_INET6, True, False),
        ):
            with socket.socket(family, socket.SOCK_DGRAM) as udp:
                if family == socket.AF_INET6:
                    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
                udp.bind((host, 0))
                found = owners.owner_of(flow(UDP, udp.getsockname()[1], 53))
                assert (found is not None) is expected, host

    resolve(namespace, exercise)


def test_a_connected_socket_goes_before_a_wildcard_of_its_port(namespace: Namespace) -> None:
    def exercise(owners: SocketOwners) -> None:
        wildcard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with wildcard, connected:
            for each in (connected, wildcard):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            wildcard.bind(("0.0.0.0", 0))
            port = wildcard.getsockname()[1]
            connected.bind(("127.0.0.1", port))
            connected.connect(("127.0.0.1", 9999))
            with sleeper(wildcard) as other:
                found = owners.find(flow(UDP, port, 9999))
                assert found is not None
                assert found.process_id == os.getpid()
                connected.close()
                found = owners.find(flow(UDP, port, 9999))
                assert found is not None
                assert found.process_id == other

    resolve(namespace, exercise)


def test_of_those_who_share_a_port_the_last_started(namespace: Namespace) -> None:
    def exercise(owners: SocketOwners) -> None:
        ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        theirs = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with ours, theirs:
            for each in (ours, theirs):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            ours.bind(("0.0.0.0", 0))
            port = ours.getsockname()[1]
            theirs.bind(("0.0.0.0", port))
            with sleeper(theirs) as other:
                found = owners.find(flow(UDP, port, 53))
                assert found is not None
                assert found.process_id == other

    resolve(namespace, exercise)


def test_of_those_who_have_one_socket_the_last_started_and_when_it_ended_the_other(namespace: Namespace) -> None:
    def exercise(owners: SocketOwners) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", 0))
            key = flow(UDP, udp.getsockname()[1], 53)
            with sleeper(udp) as other:
                found = owners.find(key)
                assert found is not None
                assert found.process_id == other
            found = owners.find(key)
            assert found is not None
            assert found.process_id == os.getpid()

    resolve(namespace, exercise)


def test_without_a_process_the_socket_names_its_user(namespace: Namespace, tmp_path: Path) -> None:
    """As for whoever is not root and asks about another user's socket."""

    def exercise(owners: SocketOwners) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", 0))
            found = owners.find(flow(UDP, udp.getsockname()[1], 53))
            assert found is not None
            assert found.process_id == 0
            assert found.program == Program(kind=Kind.PROGRAM, user_id=os.getuid())

    resolve(namespace, exercise, proc=tmp_path)


def test_many_are_learnt_in_one_walk(namespace: Namespace) -> None:
    def exercise(owners: SocketOwners) -> None:
        made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]
        for each in made:
            each.bind(("127.0.0.1", 0))
        sockets = owners._diag.udp()
        assert len(sockets) == 20
        assert owners.owner_of_socket(sockets[0], is_learnt=True) == owners.owner_of_socket(
            sockets[0]._replace(inode=1), is_learnt=True
        )  # not learnt yet: known by its user alone, as one that nobody has
        owners.learn(sockets)
        assert {owners.process_of(each, is_learnt=True) for each in sockets} == {os.getpid()}
        for each in made:
            each.close()
        owners.learn(sockets)
        assert {owners.process_of(each, is_learnt=True) for each in sockets} == {0}

    resolve(namespace, exercise)


def test_other_protocols_have_no_owner(namespace: Namespace) -> None:
    def exercise(owners: SocketOwners) -> None:
        assert owners.owner_of(flow(1, 0, 0)) is None
        assert owners.owner_of(flow(UDP, 0, 0)) is None

    resolve(namespace, exercise)
