"""A PostgreSQL server of the distribution's package for tests: its own directory, its own socket, no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

NOBODY = 65534


def programs() -> Path:
    """Where initdb and postgres are. Fails loudly: nothing is skipped in silence."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if on_path:
        found.append(Path(on_path))
    assert found, "PostgreSQL is missing: run `scripts/setup --tests`"
    return found[-1].parent


class PostgresqlServer:
    """`with PostgresqlServer() as server:`; `server.url` is a database of it. Root may not run it: nobody does."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="campus-pg-", dir="/tmp"))  # a socket's path has 107 bytes
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://hostagent@/postgres?host={self._directory}"

    def __enter__(self) -> PostgresqlServer:
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _prepare(self) -> None:
        if os.geteuid() == 0:
            os.chown(self._directory, NOBODY, NOBODY)
        data = str(self._directory / "data")
        arguments = ["-D", data, "-U", "hostagent", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8"]
        done = subprocess.run(
            [*_as_nobody(), str(programs() / "initdb"), *arguments], capture_output=True, cwd="/", check=False
        )
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        settings = ["-c", "fsync=off", "-c", "listen_addresses=", "-c", f"unix_socket_directories={self._directory}"]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_as_nobody(), str(programs() / "postgres"), "-D", str(self._directory / "data"), *settings],
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd="/",
            )
        self._wait()

    def _wait(self) -> None:
        import psycopg

        assert self._process is not None
        for _ in range(500):
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self._directory / "log").read_text()
                time.sleep(0.02)
            else:
                return
        raise AssertionError((self._directory / "log").read_text())

    def stop(self) -> None:
        """At once, as when the power fails."""
        if self._process is not None:
            self._process.send_signal(3)  # SIGQUIT: immediate shutdown
            self._process.wait(timeout=10)
            self._process = None

    def empty(self) -> None:
        """A fresh database for the next test."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")


def _as_nobody() -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
