"""A report for a bug: complete, also of a dead agent, and with nothing private in it unless it is asked for."""

from __future__ import annotations

import http.server
import json
import platform
import re
import socket
import socketserver
import tarfile
import threading
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from billpay.errors import EnvironmentFault
from hostagent import api, bugreport
from hostagent.bugreport import PARTS, collect
from hostagent.pseudonyms import OUR_WORDS, Pseudonyms

HOST = "anns-laptop"
KEY = b"k" * 32


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        found = {}
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            assert (member.uid, member.uname, member.mode) == (0, "", 0o600)
            found[member.name.partition("/")[2]] = file.read().decode()
        return found


@pytest.fixture(autouse=True)
def _this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read of this machine is not what is tested here, and takes its time."""
    fixed = {"doctor.json": ("what it can do", lambda _: {"features": [{"name": "bpf", "detail": f"of {HOST}"}]})}
    monkeypatch.setattr(bugreport, "PARTS", PARTS | fixed)
    monkeypatch.setattr(platform, "node", lambda: HOST)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Of an agent that was killed."""
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    for name in ("node.key", "book.sqlite", "grants"):
        (directory / name).write_text("SECRET-CONTENT")
    (directory / "kernel-state.json").write_text('{"route": "192.0.2.7", "interface": "wg-acme"}')
    (directory / "log.1").write_text("older line\n")
    (directory / "log").write_text(
        f"2026-11-21 10:00:00 hostagent: neighbour 198.51.100.9 of {HOST} called at 10:00:01\n"
        "2026-11-21 10:00:02 hostagent: error: /home/ann/hideaway/x.toml: backup-of-ann cannot be read\n"
    )
    return directory


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "hostagent.toml"
    path.write_text(
        """
# Ann's comment
[agent]
name = "anns-agent"
state_directory = "/var/lib/hostagent"
engine = "auto"
password = "hunter2"
[[peers]]
name = "peer-of-ann"
addresses = ["203.0.113.5", "2001:db8::5/64"]
[[classes]]
name = "backup-of-ann"
weight = 3
[[rules]]
class = "bulk"
program = "/home/ann/bin/tool"
"""
    )
    return path


@pytest.mark.expectation(23)
def test_a_dead_agents_report_has_every_part(state: Path, configuration: Path, tmp_path: Path) -> None:
    path = collect(state, tmp_path / "none.sock", configuration, output=tmp_path / "report.tar.gz")
    assert path == tmp_path / "report.tar.gz"
    assert path.stat().st_mode & 0o777 == 0o600
    files = contents(path)
    assert set(files) == {"README.txt", *PARTS}
    for name in PARTS:
        assert name in files["README.txt"]  # what is in it is listed
    assert files["snapshot.json"] == "not available: no such file or directory\n"
    assert "kernel Linux" in files["versions.txt"]
    assert "hostagent" in files["versions.txt"]
    assert files["log.txt"].startswith("older line\n2026-11-21 10:00:00 hostagent: neighbour private4-")
    assert "called at 10:00:01" in files["log.txt"]
    assert "kernel-state.json" in files["records.txt"]
    assert "-rw" in files["state.txt"]
    assert "# ip rules" in files["kernel.txt"]
    assert json.loads(files["doctor.json"])["features"][0]["name"] == "bpf"


PRIVATE = (
    *("SECRET-CONTENT", "hunter2", "Ann's", "anns-agent", "anns-laptop", "peer-of-ann", "backup-of-ann", "hideaway"),
    *("203.0.113.5", "198.51.100.9", "192.0.2.7", "2001:db8", "/home/ann"),
)


def test_nothing_private_is_in_it(state: Path, configuration: Path, tmp_path: Path) -> None:
    files = contents(collect(state, tmp_path / "none.sock", configuration, output=tmp_path / "r.tar.gz"))
    for name, text in files.items():
        assert [word for word in PRIVATE if word in text] == [], name
    read = json.loads(files["configuration.json"])
    assert read["agent"]["engine"] == "auto"
    assert read["agent"]["state_directory"] == "/var/lib/hostagent"
    assert read["agent"]["password"] == "(removed)"
    assert read["classes"][0]["weight"] == 3
    assert read["rules"][0]["class"] == "bulk"  # a kind that we ship
    # The same thing has the same name all over the report.
    assert read["classes"][0]["name"] in files["log.txt"]


def test_in_full_it_has_all_but_secrets(state: Path, configuration: Path, tmp_path: Path) -> None:
    files = contents(collect(state, tmp_path / "none.sock", configuration, full=True, output=tmp_path / "r.tar.gz"))
    together = "".join(files.values())
    for word in ("anns-agent", "203.0.113.5", "198.51.100.9", "/home/ann/bin/tool", HOST):
        assert word in together
    for word in ("SECRET-CONTENT", "hunter2", "Ann's comment"):
        assert word not in together
    assert "in full" in files["README.txt"]


def test_two_reports_cannot_be_laid_side_by_side(state: Path, configuration: Path, tmp_path: Path) -> None:
    read = [
        contents(collect(state, tmp_path / "none.sock", configuration, output=tmp_path / f"{number}.tar.gz"))
        for number in range(2)
    ]
    names = [json.loads(files["configuration.json"])["peers"][0]["name"] for files in read]
    assert names[0] != names[1]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text('[agent\nname = "ann"\n')
    files = contents(collect(tmp_path / "none", tmp_path / "none.sock", broken, output=tmp_path / "r.tar.gz"))
    assert files["configuration.json"].startswith("not TOML, 2 lines: ")
    assert "ann" not in files["configuration.json"]
    assert files["state.txt"].startswith("not available: no such file")
    files = contents(collect(tmp_path / "none", tmp_path / "none.sock", None, output=tmp_path / "s.tar.gz"))
    assert files["configuration.json"].startswith("there is none")


def test_no_file_is_overwritten_and_no_link_is_followed(state: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("mine", "link", "no/such/folder"):
        with pytest.raises(EnvironmentFault, match="name another file"):
            collect(state, tmp_path / "none.sock", None, output=tmp_path / name)
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


# -- a living agent --------------------------------------------------------------------------------------------------


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def _serving(path: Path, body: bytes, status: int = 200) -> Iterator[Path]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class's name
            pass

        def address_string(self) -> str:
            return ""

    with _Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield path
        finally:
            server.shutdown()
            thread.join()


def canary(path: str) -> str:
    return f"canary-{path.replace('.', '-').replace('_', '-')}"


def filled(kind: Any, path: str = "") -> Any:
    """A value of that type whose every string is a canary; where our own words stand, they quote one."""
    if isinstance(kind, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if typing.get_origin(kind) is tuple:
        return (filled(typing.get_args(kind)[0], path),)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return kind(**{name: filled(hints[name], f"{path}.{name}".lstrip(".")) for name in kind.__struct_fields__})
    if kind is str:
        name = path.rpartition(".")[2]
        if name in OUR_WORDS:
            return "tcp 192.0.2.1:40000 → [2001:db8::7]:443 by canary-flows-program in /home/ann/x at 00:16:3e:aa:bb:cc"
        return canary(path)
    if kind is int:
        return 1_763_740_000_000_000_000
    if kind is bool:
        return True
    return next(iter(kind))  # an enum


def test_no_string_of_a_living_agent_leaves_as_it_is(state: Path, tmp_path: Path) -> None:
    snapshot = filled(api.Snapshot)
    body = msgspec.json.encode(snapshot)
    assert body.count(b"canary") > 40
    for path in _serving(tmp_path / "agent.sock", body):
        files = contents(collect(state, path, None, output=tmp_path / "r.tar.gz"))
    text = files["snapshot.json"]
    for word in ("canary", "192.0.2.1", "2001:db8", "/home/ann", "00:16:3e"):
        assert word not in text
    read = json.loads(text)
    assert read["unix_s"] == 1_763_740_000_000_000_000  # numbers are as they were
    flow = read["flows"][0]
    assert flow["flow"].startswith("tcp private4-")
    assert ":40000 → [" in flow["flow"]
    assert flow["program"] in flow["reason"]  # the same name for the same program
    assert read["status"]["health"] == "ok"
    assert read["status"]["mode"] == "observe"


@pytest.mark.parametrize(("body", "status", "said"), [(b"<html>", 200, "is no agent"), (b"{}", 403, "403 Forbidden")])
def test_whatever_answers_is_no_reason_to_fail(
    state: Path, tmp_path: Path, body: bytes, status: int, said: str
) -> None:
    for path in _serving(tmp_path / "agent.sock", body, status):
        files = contents(collect(state, path, None, output=tmp_path / "r.tar.gz"))
    assert said in files["snapshot.json"]


def test_an_agent_that_is_stuck_does_not_hold_the_report_up(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bugreport, "TIMEOUT_S", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "agent.sock"))
        silent.listen()
        files = contents(collect(state, tmp_path / "agent.sock", None, output=tmp_path / "r.tar.gz"))
    assert files["snapshot.json"].startswith("not available: timed out")


# -- pseudonyms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("to 8.8.8.8.", r"to public4-\w{6}\."),
        ("10.0.0.0/8 by 169.254.1.1", r"private4-\w{6}/8 by link4-\w{6}"),
        ("[fe80::1%eth0]: 2001:4860::8888, ff02::1", r"\[link6-\w{6}%eth0\]: public6-\w{6}, ff02::1"),
        ("127.0.0.1 ::1 0.0.0.0", r"127\.0\.0\.1 ::1 0\.0\.0\.0"),
        ("at 15:46:34, 1:2, a::b::c", r"at 15:46:34, 1:2, a::b::c"),
        ("kernel 6.18.44, 300.1.1.1", r"kernel 6\.18\.44, 300\.1\.1\.1"),
        ("AA:bb:cc:dd:ee:ff", r"mac-\w{6}"),
        ("key " + "ab" * 32, r"key hex-\w{6}"),
        ("/home/ann/x.toml: no", r"/home/path-\w{6}: no"),
        ("by wg-acme, not wg-acme2", r"by name-\w{6}, not wg-acme2"),
    ],
)
def test_what_a_text_says_of_people(text: str, shown: str) -> None:
    assert re.fullmatch(shown, Pseudonyms(KEY, names=["wg-acme"]).text(text))


def test_one_address_has_one_pseudonym_however_it_is_written() -> None:
    hide = Pseudonyms(KEY)
    assert hide.text("2001:db8:0:0::7") == hide.text("2001:DB8::7")
    assert hide.text("192.0.2.1") != hide.text("192.0.2.2")
    assert hide.text("192.0.2.1") != Pseudonyms(b"other" * 6).text("192.0.2.1")
