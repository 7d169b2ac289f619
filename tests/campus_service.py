"""A campus service with some hosts for tests: real TLS and a real database, on this machine's loopback."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from cartographer.campus.client import CampusClient
from cartographer.campus.configuration import CampusSection, Configuration, HostsSection, IspSection, PoolingSection
from cartographer.campus.server import CampusServer
from neighbour.identity import NodeIdentity


class Campus:
    """`hosts` are admitted by files in a directory. `unix_s` and `now_ns` are its clocks, which tests move."""

    def __init__(self, directory: Path, hosts: int, **hosts_section: int) -> None:
        self.directory = directory
        self.unix_s = 1_800_000_000.0
        self.now_ns = 10**12
        self.admitted = directory / "hosts.d"
        self.admitted.mkdir()
        self.hosts = [self.identity(f"host-{number}") for number in range(hosts)]
        for host in self.hosts:
            self.admit(host)
        self.hosts_section = HostsSection(directory=str(self.admitted), **hosts_section)
        self.isps: tuple[IspSection, ...] = ()
        self.database = ""

    def identity(self, name: str) -> NodeIdentity:
        return NodeIdentity.load_or_create(self.directory / name, name=name)

    def admit(self, host: NodeIdentity) -> None:
        (self.admitted / f"{host.name}.pem").write_text(host.certificate.pem)

    def put_out(self, host: NodeIdentity) -> None:
        (self.admitted / f"{host.name}.pem").unlink()

    @property
    def configuration(self) -> Configuration:
        return Configuration(
            campus=CampusSection(
                state_directory=str(self.directory / "service"), listen=("127.0.0.1:0",), database=self.database
            ),
            hosts=self.hosts_section,
            pooling=PoolingSection(),
            isps=self.isps,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[CampusServer]:
        server = CampusServer(
            self.configuration,
            self.write_configuration(),
            unix_s=lambda: self.unix_s,
            now_ns=lambda: self.now_ns,
        )
        async with server.running():
            yield server

    def write_configuration(self) -> Path:
        path = self.directory / "cartographer.toml"
        path.write_text(
            f'[campus]\nstate_directory = "{self.directory / "service"}"\nlisten = ["127.0.0.1:0"]\n'
            f'[hosts]\ndirectory = "{self.admitted}"\n'
        )
        return path

    def client(self, server: CampusServer, host: NodeIdentity) -> CampusClient:
        return CampusClient(host, server.certificate, server.urls[0])
