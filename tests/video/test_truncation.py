"""Files cut short are noticed by what their container announces; whole files never are."""

import itertools
import struct
from pathlib import Path

import pytest

from gare_cache.errors import DecodeError
from gare_cache.video.probing import probe
from gare_cache.video.truncation import missing_bytes
from tests.video import bars

CASES = {
    # name: (codec, pixel format, options of the container)
    "plain.mp4": ("mpeg4", "yuv420p", {}),
    "front.mp4": ("mpeg4", "yuv420p", {"movflags": "faststart"}),
    "fragments.mp4": ("mpeg4", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}),
    "plain.mov": ("mjpeg", "yuvj420p", {}),
    "plain.3gp": ("mpeg4", "yuv420p", {}),
    "plain.mkv": ("mpeg4", "yuv420p", {}),
    "live.mkv": ("mpeg4", "yuv420p", {"live": "1"}),
    "plain.webm": ("libvpx", "yuv420p", {}),
    "live.webm": ("libvpx", "yuv420p", {"live": "1"}),
    "plain.avi": ("mpeg4", "yuv420p", {}),
    "plain.flv": ("flv", "yuv420p", {}),
    "undeclared.flv": ("flv", "yuv420p", {"flvflags": "no_duration_filesize"}),
    "plain.ts": ("mpeg2video", "yuv420p", {}),
    "plain.m2ts": ("mpeg2video", "yuv420p", {"mpegts_m2ts_mode": "1"}),
    "plain.mpg": ("mpeg2video", "yuv420p", {}),
    "plain.vob": ("mpeg2video", "yuv420p", {}),
    "plain.ogv": ("libvpx", "yuv420p", {}),
    "plain.wmv": ("wmv2", "yuv420p", {}),
    "plain.gif": ("gif", "rgb8", {}),
}
UNITS = {".ts": 188, ".m2ts": 192, ".mpg": 2048, ".vob": 2048}
SHARES = (0.3, 0.6, 0.617, 0.9)


def write(folder: Path, name: str) -> Path:
    codec, pix_fmt, options = CASES[name]
    path = bars.write_bars(
        folder / name,
        codec,
        count=40,
        pix_fmt=pix_fmt,
        container_options=options,
        options={"g": "12"} if codec.startswith("mpeg") else {},
    )
    assert len(probe(path).times) == 40
    return path


def cut(path: Path, size: int) -> Path:
    shorter = path.with_stem("cut")
    shorter.write_bytes(path.read_bytes()[:size])
    return shorter


@pytest.mark.parametrize("name", CASES)
def test_a_cut_file_is_refused(tmp_path, name):
    path = write(tmp_path, name)
    for share in SHARES:
        size = int(path.stat().st_size * share)
        # Between two packets of an MPEG stream nothing tells that more belonged to the file.
        size += 10 if size % UNITS.get(path.suffix, size + 4) < 4 else 0
        with pytest.raises(DecodeError, match=r"is truncated: its|damaged or not a video"):
            probe(cut(path, size))


def test_avi_written_to_a_pipe(tmp_path):
    path = write(tmp_path, "plain.avi")
    data = bytearray(path.read_bytes())
    movi = data.index(b"movi") - 8
    data[4:8] = data[movi + 4 : movi + 8] = b"\xff" * 4
    path.write_bytes(data)
    assert missing_bytes(path, "avi") == 0
    assert missing_bytes(cut(path, int(len(data) * 0.6)), "avi") > 0


def test_second_part_of_a_long_avi_is_checked(tmp_path):
    path = tmp_path / "long.avi"
    part = b"RIFF" + struct.pack("<I", 12) + b"AVI LIST\0\0\0\0"
    path.write_bytes(part + part)
    assert missing_bytes(path, "avi") == 0
    assert missing_bytes(cut(path, 2 * len(part) - 5), "avi") == 5


def test_asf_broadcast_ends_with_a_whole_packet(tmp_path):
    path = write(tmp_path, "plain.wmv")
    data = bytearray(path.read_bytes())
    properties = data.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    data[properties + 88] |= 1
    path.write_bytes(data)
    assert missing_bytes(path, "asf") == 0
    start = int.from_bytes(data[16:24], "little") + 50
    packet = int.from_bytes(data[properties + 96 : properties + 100], "little")
    assert missing_bytes(cut(path, start + packet), "asf") == 0
    assert missing_bytes(cut(path, start + 2 * packet - 7), "asf") == 7


def test_fragment_without_its_samples(tmp_path):
    path = write(tmp_path, "fragments.mp4")
    last = path.read_bytes().rindex(b"mdat") - 4
    with pytest.raises(DecodeError, match="is truncated"):
        probe(cut(path, last))


def test_a_cut_between_units_without_end_marks_is_accepted(tmp_path):
    """The frames up to there are whole, and nothing in the file says that there were more."""
    path = write(tmp_path, "plain.ts")
    assert len(probe(cut(path, path.stat().st_size // 2 // 188 * 188)).times) > 10
    path = write(tmp_path, "undeclared.flv")
    data = path.read_bytes()
    starts = itertools.accumulate(range(20), lambda at, _: _after_tag(data, at), initial=13)
    assert len(probe(cut(path, list(starts)[-1])).times) > 10


def test_ogg_and_gif_need_their_end_mark(tmp_path):
    path = write(tmp_path, "plain.ogv")
    last_page = path.read_bytes().rindex(b"OggS")
    with pytest.raises(DecodeError, match="is truncated: its end is missing"):
        probe(cut(path, last_page))
    path = write(tmp_path, "plain.gif")
    with pytest.raises(DecodeError, match="is truncated: its end is missing"):
        probe(cut(path, path.stat().st_size - 1))


@pytest.mark.parametrize("name", ["plain.ts", "plain.mpg", "plain.flv", "plain.ogv", "plain.gif"])
def test_zeros_at_the_end_of_a_whole_file(tmp_path, name):
    path = write(tmp_path, name)
    path.write_bytes(path.read_bytes() + bytes(1000))
    assert missing_bytes(path, probe(path).container) == 0


@pytest.mark.parametrize("name", ["plain.ts", "plain.m2ts"])
def test_transport_stream_joined_after_a_lost_part(tmp_path, name):
    path = write(tmp_path, name)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3 // 192 * 192 + 50] + data)
    assert missing_bytes(path, "mpegts") == 0


def test_whole_files_of_other_programs(shared_data_dir):
    names = [
        "moviepy/pigs_in_a_polka.gif",
        "moviepy/transparent.webm",
        "ffmpegwasm/video-1s.avi",
        "decord/flipping_a_pancake.mkv",
        "benchmark_clips/activitynet_v_GGSY1Qvo990.mp4",
    ]
    for path in (shared_data_dir / "videos" / name for name in names):
        assert missing_bytes(path, probe(path).container) == 0, path


def _after_tag(data: bytes, position: int) -> int:
    return position + 15 + int.from_bytes(data[position + 1 : position + 4], "big")
