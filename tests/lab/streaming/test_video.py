"""Where ffmpeg is present a real video is encoded, and else the same tests have the synthetic one."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lab.streaming import video as videos
from lab.streaming.media import segment_wire_bytes
from lab.streaming.player import Played
from lab.streaming.server import Served
from lab.streaming.video import (
    LADDER_BIT_S,
    SYNTHETIC,
    TS_PACKET_BYTES,
    EncodingError,
    Shape,
    Video,
    make_video,
    scaled,
    synthetic_video,
)

SMALL = Shape(seconds=4, ladder_bit_s=(200_000, 500_000), picture="160x90")


def is_transport_stream(data: bytes) -> bool:
    return len(data) % TS_PACKET_BYTES == 0 and set(data[::TS_PACKET_BYTES]) == {0x47}


def test_the_ladder_of_the_experiments_scaled_to_a_link() -> None:
    assert scaled(LADDER_BIT_S, 100_000) == (30_000, 75_000, 120_000, 185_000, 285_000, 430_000)


@pytest.mark.parametrize(
    "shape",
    [
        {"seconds": 0},
        {"segment_ms": 700},
        {"ladder_bit_s": ()},
        {"ladder_bit_s": (2, 1)},
        {"ladder_bit_s": (1, 1)},
    ],
)
def test_shapes_that_are_none(shape: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"segments|ladder"):
        msgspec.convert(shape, Shape)


def test_without_ffmpeg_it_is_synthetic_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    video = make_video(tmp_path / "video", SMALL)
    assert (video.encoder, video.is_real) == (SYNTHETIC, False)
    assert not (tmp_path / "video").exists()


@pytest.mark.row("DPH-31")
def test_synthetic_segments_have_the_sizes_of_their_rates() -> None:
    """With all headers, within 10 % each, and less than the rate in the mean."""
    shape = Shape(seconds=10)
    video = synthetic_video(shape)
    for rate, level in zip(shape.ladder_bit_s, video.segments, strict=True):
        assert all(is_transport_stream(segment) for segment in level)
        sizes = [segment_wire_bytes(segment, 6) * 8 for segment in level]
        assert all(abs(size - rate) < rate * 0.1 for size in sizes)
        assert sum(sizes) / len(sizes) < rate


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Video]:
    directory = tmp_path_factory.mktemp("video")
    return directory, make_video(directory, SMALL)


@pytest.mark.row("DPH-31")
def test_what_there_is_to_encode_with_is_used(small: tuple[Path, Video]) -> None:
    _directory, video = small
    assert video.is_real is (shutil.which("ffmpeg") is not None)
    assert [len(level) for level in video.segments] == [4, 4]
    assert all(is_transport_stream(segment) for level in video.segments for segment in level)
    low, high = (sum(map(len, level)) * 8 / SMALL.seconds for level in video.segments)
    assert 60_000 < low < 200_000 < high < 500_000


def test_an_encoded_video_is_kept(small: tuple[Path, Video], monkeypatch: pytest.MonkeyPatch) -> None:
    directory, video = small
    monkeypatch.setattr(videos, "_encode", lambda *_: pytest.fail("encoded again"))
    assert make_video(directory, SMALL) == video


def test_half_a_video_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for ffmpeg that leaves one segment out, then one that fails."""
    stand_in = tmp_path / "ffmpeg"
    stand_in.write_text(
        '#!/bin/sh\ncase "$*" in *-encoders*) exit 0;; esac\nfor last; do :; done\n: >"${last%-*}-0000.ts"\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(EncodingError, match="not all segments"):
        make_video(tmp_path / "video", SMALL)
    stand_in.write_text("#!/bin/sh\necho no such filter >&2\nexit 1\n")
    with pytest.raises(EncodingError, match="no such filter"):
        make_video(tmp_path / "video", SMALL)


@contextlib.contextmanager
def started(module: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", f"lab.streaming.{module}", *words, "--fast", "16"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.row("DPH-31", "DPH-32")
def test_the_programs_play_it_from_end_to_end(tmp_path: Path) -> None:
    """A process for each end, over IPv4 and IPv6 at once; what arrives is a whole video."""
    make_video(tmp_path, Shape(seconds=4, ladder_bit_s=scaled(LADDER_BIT_S, 200_000), picture="96x54"))
    video = ("--directory", str(tmp_path), "--seconds", "4", "--scale-ppm", "200000", "--picture", "96x54")
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(started("server", address, "0", *video, "--sessions", "1"))
            for address in ("127.0.0.1", "::1")
        ]
        players = [
            stack.enter_context(started("player", address, port, "--save", str(tmp_path / f"{family}.ts")))
            for address, port, family in zip(("127.0.0.1", "::1"), map(port_of, servers), (4, 6), strict=True)
        ]
        said = [each.communicate(timeout=30) for each in (*players, *servers)]
    for family, player, server in zip((4, 6), said[:2], said[2:], strict=True):
        assert player[1] == ""
        played = msgspec.json.decode(player[0], type=Played)
        served = msgspec.json.decode(server[0], type=Served)
        assert (played.ended, played.lost, played.marks) == ("all shown", 0, 0)
        assert (served.ended, served.packets) == ("torn down", played.packets)
        assert played.unmarked_ect == played.packets
        assert (served.video == SYNTHETIC) is (shutil.which("ffmpeg") is None)
        saved = tmp_path / f"{family}.ts"
        assert is_transport_stream(saved.read_bytes())
        if served.video != SYNTHETIC:
            assert pictures_in(saved) == 4 * 25


def port_of(server: subprocess.Popen[str]) -> str:
    assert server.stderr is not None
    return server.stderr.readline().split()[-1]


def pictures_in(saved: Path) -> int:
    """Decoded without an error."""
    decoding = ["ffmpeg", "-v", "error", "-i", str(saved), "-f", "framecrc", "-"]
    decoded = subprocess.run(decoding, capture_output=True, text=True, check=True)
    assert decoded.stderr == ""
    return sum(not line.startswith("#") for line in decoded.stdout.splitlines())


def test_a_player_without_a_server_says_so() -> None:
    with started("player", "127.0.0.1", "1") as player:
        said, complaint = player.communicate(timeout=30)
    assert (said, player.returncode) == ("", 1)
    assert complaint.count("\n") == 1
