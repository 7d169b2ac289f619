"""inet_diag against real sockets, in a namespace of their own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from netns import Namespace

from billpay.errors import EnvironmentFault
from dataplane.attribution.inet_diag import TCP, UDP, InetDiag, Socket, State
from dataplane.attribution.netlink import NETLINK_ROUTE, NETLINK_SOCK_DIAG, NetlinkSocket

pytestmark = pytest.mark.netns
LOCALHOST = socket.inet_aton("127.0.0.1")
LOCALHOST_V6 = socket.inet_pton(socket.AF_INET6, "::1")


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


def inode(each: socket.socket) -> int:
    return os.fstat(each.fileno()).st_ino


def diagnose(namespace: Namespace, exercise: Callable[[InetDiag], None]) -> None:
    def inside() -> None:
        with closing(InetDiag()) as diag:
            exercise(diag)

    namespace.call(inside)


def pair(host: str) -> tuple[socket.socket, socket.socket, socket.socket]:
    """Listener, client, accepted."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    client = socket.create_connection((host, listener.getsockname()[1]))
    return listener, client, listener.accept()[0]


def test_a_connection_is_dumped_with_what_it_did(namespace: Namespace) -> None:
    def exercise(diag: InetDiag) -> None:
        listener, client, accepted = pair("127.0.0.1")
        with listener, client, accepted:
            client.sendall(bytes(50_000))
            left = 50_000
            while left:
                left -= len(accepted.recv(left))
            by_inode = {each.inode: each for each in diag.tcp()}
            sender, receiver = by_inode[inode(client)], by_inode[inode(accepted)]
            assert by_inode[inode(listener)].state == State.LISTEN
            assert (sender.local, sender.remote, sender.state) == (LOCALHOST, LOCALHOST, State.ESTABLISHED)
            assert (sender.local_port, sender.remote_port) == (client.getsockname()[1], listener.getsockname()[1])
            assert (sender.user_id, sender.family) == (os.getuid(), socket.AF_INET)
            assert sender.tcp is not None
            assert receiver.tcp is not None
            assert sender.tcp.bytes_sent >= 50_000
            assert receiver.tcp.bytes_received == 50_000
            assert sender.tcp.segments_out > 0
            assert sender.tcp.segments_in > 0
            assert sender.tcp.rtt_us > 0
            assert sender.tcp.pacing_byte_s > 0
            assert sender.tcp.delivered_packets > 0
            assert sender.congestion_control == client.getsockopt(TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()
            assert sender.cookie == int.from_bytes(client.getsockopt(socket.SOL_SOCKET, 57, 8), "little")
            assert {each.inode for each in diag.tcp(frozenset({State.LISTEN}))} == {inode(listener)}

    diagnose(namespace, exercise)


def test_one_socket_is_found_by_its_four(namespace: Namespace) -> None:
    def exercise(diag: InetDiag) -> None:
        for host, address in (("127.0.0.1", LOCALHOST), ("::1", LOCALHOST_V6)):
            listener, client, accepted = pair(host)
            with listener, client, accepted:
                ports = client.getsockname()[1], listener.getsockname()[1]
                found = _find(diag, TCP, address, ports[0], ports[1])
                assert found is not None
                assert found.inode == inode(client)
                found = _find(diag, TCP, address, ports[1], ports[0])
                assert found is not None
                assert found.inode == inode(accepted)
                found = _find(diag, TCP, address, ports[1], 9)  # no connection: who listens
                assert found is not None
                assert found.inode == inode(listener)
                assert _find(diag, TCP, address, 9, 9) is None

    diagnose(namespace, exercise)


def test_an_ipv4_connection_of_an_ipv6_socket_is_an_ipv4_flow(namespace: Namespace) -> None:
    def exercise(diag: InetDiag) -> None:
        listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        client = socket.create_connection(("127.0.0.1", listener.getsockname()[1]))
        accepted = listener.accept()[0]
        with listener, client, accepted:
            found = _find(diag, TCP, LOCALHOST, listener.getsockname()[1], client.getsockname()[1])
            assert found is not None
            assert (found.inode, found.family, found.local) == (inode(accepted), socket.AF_INET6, LOCALHOST)
            assert found in [each._replace(tcp=found.tcp) for each in diag.tcp()]

    diagnose(namespace, exercise)


def test_udp_connected_bound_and_wildcard(namespace: Namespace) -> None:
    def exercise(diag: InetDiag) -> None:
        wildcard = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with wildcard, connected:
            wildcard.bind(("::", 0))
            connected.bind(("127.0.0.1", 0))
            connected.connect(("127.0.0.1", 9999))
            port, other = wildcard.getsockname()[1], connected.getsockname()[1]
            found = _find(diag, UDP, LOCALHOST, port, 9)
            assert found is not None
            assert (found.inode, found.state, found.is_v6_only) == (inode(wildcard), State.CLOSE, False)
            found = _find(diag, UDP, LOCALHOST, other, 9999)
            assert found is not None
            assert (found.inode, found.remote_port) == (inode(connected), 9999)
            assert _find(diag, UDP, LOCALHOST, other, 9998) is None
            assert [each.inode for each in diag.udp_at(port)] == [inode(wildcard)]
            assert {each.inode for each in diag.udp()} == {inode(wildcard), inode(connected)}

    diagnose(namespace, exercise)


def test_a_thousand_sockets_are_dumped_whole(namespace: Namespace) -> None:
    def exercise(diag: InetDiag) -> None:
        made = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(1000)]
        for each in made:
            each.bind(("127.0.0.1", 0))
            each.listen(1)
        assert {inode(each) for each in made} <= {each.inode for each in diag.tcp()}
        for each in made:
            each.close()
        assert diag.tcp(frozenset({State.LISTEN})) == []

    diagnose(namespace, exercise)


def test_what_the_kernel_does_not_understand_is_a_fault(namespace: Namespace) -> None:
    def exercise() -> None:
        with closing(NetlinkSocket(NETLINK_SOCK_DIAG)) as diag:
            for protocol, message in ((99, "modprobe tcp_diag udp_diag"), (TCP, "message 77")):
                kind = 20 if protocol == 99 else 77  # a protocol that nobody knows, and a question that nobody knows
                with pytest.raises(EnvironmentFault, match=message):
                    list(diag.dump(kind, bytes([socket.AF_INET, protocol, *bytes(54)])))
        with closing(NetlinkSocket(NETLINK_ROUTE)) as route:
            assert route.ask(18, bytes(4) + (99999).to_bytes(4, "little") + bytes(8)) is None  # no such interface

    namespace.call(exercise)


def _find(diag: InetDiag, protocol: int, address: bytes, local_port: int, remote_port: int) -> Socket | None:
    return diag.find(protocol=protocol, local=address, local_port=local_port, remote=address, remote_port=remote_port)
