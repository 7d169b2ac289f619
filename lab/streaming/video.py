"""A video in several encodings: a ladder of rates, each cut into segments that all begin with a whole picture.

Decides: how a test video is encoded where ffmpeg is present, and what stands for one where it is not: segments of the
same sizes, made of MPEG-TS null packets, which the result calls synthetic. Refuses to know: the network, and who
chooses a level.

Source: M3I scenarios 3.5.1 (each video in multiple encodings); ISO/IEC 13818-1 (transport stream packets of 188
bytes); the ladder 300 to 4300 kbit/s is that of experiment B.2, scaled to the link.

    python -m lab.streaming.video DIRECTORY [SECONDS [SCALE_PPM]]

encodes one and says in a line of JSON what is there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

PPM: Final = 1_000_000
LADDER_BIT_S: Final = (300_000, 750_000, 1_200_000, 1_850_000, 2_850_000, 4_300_000)
"""At the IP layer."""

TS_PACKET_BYTES: Final = 188
_NULL_PACKET: Final = bytes((0x47, 0x1F, 0xFF, 0x10)) + b"\xff" * (TS_PACKET_BYTES - 4)
_VIDEO_PPM: Final = 930_000
_PER_PICTURE_BIT_S: Final = 40_000
_LEAST_VIDEO_BIT_S: Final = 20_000
"""Of a rate, what is left for pictures: headers of RTP, UDP, IP and TS take some percent, and the last TS packet of
each of 25 pictures a second is half empty."""

_WAVE_PPM: Final = (1_000_000, 1_060_000, 950_000, 1_020_000, 970_000)
"""Sizes of synthetic segments in turn: an encoder that keeps to a rate is about so even. Their mean is 1."""

_PICTURES_PER_S: Final = 25
_FEW_TABLES: Final = ("-segment_format_options", "pat_period=2:sdt_period=20")
"""Every segment begins with its tables; ten times a second they would be a tenth of the lowest rate."""

_FFMPEG_MOST_S: Final = 300
_MANIFEST: Final = "video.json"


class EncodingError(RuntimeError):
    """ffmpeg is there but did not do it; the message has its last words."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What makes two videos the same; a cached one that differs in it is made anew."""

    seconds: int = 24
    segment_ms: int = 1_000
    ladder_bit_s: tuple[int, ...] = LADDER_BIT_S
    picture: str = "640x360"

    def __post_init__(self) -> None:
        if self.seconds < 1 or self.segment_ms < 40 or self.seconds * 1_000 % self.segment_ms:
            raise ValueError(f"{self.seconds} s are not whole segments of {self.segment_ms} ms")
        if not self.ladder_bit_s or list(self.ladder_bit_s) != sorted(set(self.ladder_bit_s)):
            raise ValueError("a ladder has one rate at least, and each is higher than the one before")

    @property
    def segments(self) -> int:
        return self.seconds * 1_000 // self.segment_ms


class Video(msgspec.Struct, frozen=True, kw_only=True):
    """`encoder`: "synthetic" where there is nothing to see in it. `segments[level][number]`: bytes of TS packets."""

    shape: Shape
    encoder: str
    segments: tuple[tuple[bytes, ...], ...]

    @property
    def is_real(self) -> bool:
        return self.encoder != SYNTHETIC

    @property
    def duration_ms(self) -> int:
        return self.shape.seconds * 1_000


SYNTHETIC: Final = "synthetic"


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    shape: Shape
    encoder: str


def scaled(ladder_bit_s: Sequence[int], scale_ppm: int) -> tuple[int, ...]:
    """The same ladder for a link of another rate."""
    return tuple(rate * scale_ppm // PPM for rate in ladder_bit_s)


def make_video(directory: Path, shape: Shape) -> Video:
    """Encoded once and kept in `directory` where ffmpeg is found; else the synthetic one, which needs no file."""
    if shutil.which("ffmpeg") is None:
        return synthetic_video(shape)
    kept = _read(directory, shape)
    if kept is not None:
        return kept
    _encode(directory, shape)
    made = _read(directory, shape)
    if made is None:
        raise EncodingError(f"ffmpeg ended well, but not all segments of {shape.seconds} s are in {directory}")
    return made


def synthetic_video(shape: Shape) -> Video:
    return Video(
        shape=shape,
        encoder=SYNTHETIC,
        segments=tuple(
            tuple(_null_segment(rate, shape.segment_ms, number) for number in range(shape.segments))
            for rate in shape.ladder_bit_s
        ),
    )


def _null_segment(rate_bit_s: int, segment_ms: int, number: int) -> bytes:
    mean_bytes = rate_bit_s * segment_ms // 8_000 * 95 // 100  # headers of IP, UDP and RTP come on top
    size = mean_bytes * _WAVE_PPM[number % len(_WAVE_PPM)] // PPM
    return _NULL_PACKET * max(1, size // TS_PACKET_BYTES)


def _read(directory: Path, shape: Shape) -> Video | None:
    try:
        manifest = msgspec.json.decode((directory / _MANIFEST).read_bytes(), type=_Manifest)
        if manifest.shape != shape:
            return None
        segments = tuple(
            tuple((directory / _file_name(level, number)).read_bytes() for number in range(shape.segments))
            for level in range(len(shape.ladder_bit_s))
        )
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return Video(shape=shape, encoder=manifest.encoder, segments=segments)


def _file_name(level: int, number: int) -> str:
    return f"{level}-{number:04d}.ts"


def _encode(directory: Path, shape: Shape) -> None:
    """Into a directory beside it, whose files move over when all are there: a run that was killed leaves no half."""
    encoder = _best_encoder()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _MANIFEST).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as fresh:
        command = _ffmpeg_command(Path(fresh), shape, encoder)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_FFMPEG_MOST_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise EncodingError(f"ffmpeg needed more than {_FFMPEG_MOST_S} s") from error
        if done.returncode != 0:
            raise EncodingError("ffmpeg: " + " ".join(done.stderr.split())[-400:])
        for made in sorted(Path(fresh).iterdir()):
            made.replace(directory / made.name)
    manifest = msgspec.json.encode(_Manifest(shape=shape, encoder=encoder))
    (directory / _MANIFEST).write_bytes(manifest)


def _best_encoder() -> str:
    """mpeg2video is part of every ffmpeg; libx264 is not."""
    listing = subprocess.run(["ffmpeg", "-hide_banner", "-encoders"], capture_output=True, text=True, check=False)
    return "libx264" if "libx264 " in listing.stdout else "mpeg2video"


def _ffmpeg_command(directory: Path, shape: Shape, encoder: str) -> list[str]:
    """One source, read once; an output for each level. All levels have the same picture and time stamps, so that a
    player may join segments of different levels to one stream."""
    source = f"testsrc2=size={shape.picture}:rate={_PICTURES_PER_S}:duration={shape.seconds},noise=alls=8:allf=t"
    command = ["ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", "-y", "-f", "lavfi", "-i", source]
    for level, rate in enumerate(shape.ladder_bit_s):
        command += _output_options(_video_bit_s(rate), shape, encoder)
        command.append(str(directory / f"{level}-%04d.ts"))
    return command


def _video_bit_s(rate_bit_s: int) -> int:
    return max(_LEAST_VIDEO_BIT_S, rate_bit_s * _VIDEO_PPM // PPM - _PER_PICTURE_BIT_S)


def _output_options(video_bit_s: int, shape: Shape, encoder: str) -> list[str]:
    segment_s = f"{shape.segment_ms / 1_000:g}"
    pictures = max(1, _PICTURES_PER_S * shape.segment_ms // 1_000)
    options = ["-c:v", encoder, "-pix_fmt", "yuv420p", "-b:v", str(video_bit_s), "-maxrate", str(video_bit_s)]
    options += ["-bufsize", str(video_bit_s // 4), "-g", str(pictures), "-bf", "0"]
    options += ["-force_key_frames", f"expr:gte(t,n_forced*{segment_s})"]
    if encoder == "libx264":
        options += ["-preset", "veryfast", "-tune", "zerolatency"]
    return [*options, "-f", "segment", "-segment_time", segment_s, "-segment_format", "mpegts", *_FEW_TABLES]


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What `main` says. `mean_bit_s`: of each level, as measured, without headers."""

    encoder: str
    seconds: int
    ladder_bit_s: tuple[int, ...]
    mean_bit_s: tuple[int, ...]
    largest_segment_ppm: tuple[int, ...]  # of the mean


def summary(video: Video) -> Made:
    totals = [sum(len(segment) for segment in level) for level in video.segments]
    return Made(
        encoder=video.encoder,
        seconds=video.shape.seconds,
        ladder_bit_s=video.shape.ladder_bit_s,
        mean_bit_s=tuple(total * 8 // video.shape.seconds for total in totals),
        largest_segment_ppm=tuple(
            max(len(segment) for segment in level) * video.shape.segments * PPM // total
            for level, total in zip(video.segments, totals, strict=True)
        ),
    )


def main(words: Sequence[str]) -> int:
    if not 1 <= len(words) <= 3:
        sys.stderr.write(__doc__)
        return 2
    seconds = int(words[1]) if len(words) > 1 else 24
    scale_ppm = int(words[2]) if len(words) > 2 else PPM
    video = make_video(Path(words[0]), Shape(seconds=seconds, ladder_bit_s=scaled(LADDER_BIT_S, scale_ppm)))
    sys.stdout.write(msgspec.json.encode(summary(video)).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
