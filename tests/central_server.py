"""Central secretaries for tests: what every one of them offers, and a fake one that keeps all in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
from aiohttp import web

from billpay.errors import RemoteProtocolError
from billpay.messages import Problem, Signed
from neighbour.identity import NodeIdentity, PeerCertificate
from neighbour.tls import PinnedPeers, peer_public_key, server_context
from secretary.central.policy import (
    Policy,
    PolicyReply,
    SpendingReceipt,
    SpendingReport,
    check_report,
    digest_of,
    sign_document,
    verify_document,
)


class CentralServer(Protocol):
    """What the contract's tests need of a central secretary; `identity` is what hosts pin."""

    url: str

    async def start(self, identity: NodeIdentity, hosts: Sequence[PeerCertificate]) -> None: ...

    async def stop(self) -> None: ...

    def publish(self, policy: Policy) -> None:
        """Signed by `identity`; hosts get it when they ask."""
        ...

    def booked(self) -> dict[tuple[str, int], SpendingReport]:
        """By host and serial."""
        ...


class FakeCentral:
    """`seen`: every body that came to /v1/spending, in order."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[bytes] = []
        self._policy: Signed | None = None
        self._serial = 0
        self._booked: dict[tuple[str, int], tuple[Signed, SpendingReport]] = {}

    async def start(self, identity: NodeIdentity, hosts: Sequence[PeerCertificate]) -> None:
        self._identity = identity
        self._peers = PinnedPeers(tuple(hosts))
        application = web.Application()
        application.router.add_get("/v1/policy", self._give_policy)
        application.router.add_post("/v1/spending", self._take_report)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=server_context(identity, self._peers))
        await site.start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    def publish(self, policy: Policy) -> None:
        self._policy = sign_document(self._identity.key, policy)
        self._serial = policy.serial

    def publish_signed(self, signed: Signed, serial: int) -> None:
        """Whatever it is: for what a host has to refuse."""
        self._policy, self._serial = signed, serial

    def booked(self) -> dict[tuple[str, int], SpendingReport]:
        return {key: report for key, (_, report) in self._booked.items()}

    async def _give_policy(self, request: web.Request) -> web.Response:
        newer_than = request.query.get("newer_than", "0")
        if not (newer_than.isascii() and newer_than.isdigit()):
            return problem(400, "malformed", "newer_than is a number")
        newer = self._policy if self._serial > int(newer_than) else None
        return web.json_response(body=msgspec.json.encode(PolicyReply(policy=newer)))

    async def _take_report(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.seen.append(body)
        assert request.transport is not None
        key = peer_public_key(request.transport.get_extra_info("ssl_object"))
        assert key is not None
        peer = self._peers.by_public_key(key)
        assert peer is not None
        try:
            signed = msgspec.json.decode(body, type=Signed)
            report = verify_document(signed, peer.public_key, SpendingReport)
            check_report(report)
        except msgspec.DecodeError as error:
            return problem(400, "malformed", str(error))
        except RemoteProtocolError as error:
            return problem(400, error.code, error.message)
        if report.host != peer.name:
            return problem(403, "not-yours", f"{peer.name} reports for {report.host}")
        before = self._booked.get((report.host, report.serial))
        if before is not None and before[0].document != signed.document:
            return problem(409, "other-report", f"report {report.serial} of {report.host} is booked and differs")
        self._booked[report.host, report.serial] = (signed, report)
        receipt = SpendingReceipt(host=report.host, serial=report.serial, digest=digest_of(signed))
        return web.json_response(body=msgspec.json.encode(receipt))


def problem(status: int, code: str, message: str) -> web.Response:
    return web.json_response(body=msgspec.json.encode(Problem(code=code, message=message)), status=status)


SERVERS: list[type[CentralServer]] = [FakeCentral]
"""All that have to keep the contract of docs/spec/central-protocol.md."""
