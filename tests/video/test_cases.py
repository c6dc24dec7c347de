"""Files that other programs and cameras leave, against values of ffmpeg 5.1."""

from pathlib import Path

import numpy as np
import pytest

from gare_cache.errors import DecodeError
from gare_cache.extraction import decode
from gare_cache.video import probing
from gare_cache.video.decoders import import_decord
from gare_cache.video.decoding import decode_clip
from gare_cache.video.probing import probe
from tests.video import bars

CASES = Path(__file__).parents[3] / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the folder of cases is absent")
needs_decord = pytest.mark.skipif(import_decord() is None, reason="decord is not installed")


def read_all(path, decoder="auto"):
    clip = decode_clip(path, sampler="segment_centre", max_frames=1000, decoder=decoder)
    return [bars.read_bars(frame) for frame in clip.frames], clip


@needs_cases
@pytest.mark.parametrize(
    ("name", "count", "last_seconds", "seg4"),
    [
        ("exif.avi", 30, 2.9, [3, 11, 18, 26]),
        ("exif.mov", 30, 2.9, [3, 11, 18, 26]),
        ("wrap.ts", 60, 5.9, [7, 22, 37, 52]),
        ("wrap.vob", 60, 5.9, [7, 22, 37, 52]),
        ("paff_small.mp4", 30, 2.9, [3, 11, 18, 26]),
        ("xvid_re.mp4", 58, 5.9, [5, 20, 35, 50]),
    ],
)
def test_the_frames_that_ffmpeg_shows(name, count, last_seconds, seg4):
    numbers, clip = read_all(CASES / name)
    assert numbers == list(range(count))
    assert clip.times[0] == pytest.approx(0, abs=1e-5)
    assert clip.times[-1] == pytest.approx(last_seconds, abs=1e-5)
    four = decode_clip(CASES / name, sampler="segment_centre", max_frames=4)
    assert [bars.read_bars(frame) for frame in four.frames] == seg4


@needs_cases
def test_a_picture_that_is_not_coded_repeats_the_one_before():
    numbers, _ = read_all(CASES / "nvop.mp4")
    assert len(numbers) == 49
    at = decode_clip(
        CASES / "nvop.mp4",
        sampler="segment_centre",
        max_frames=1,
        start_seconds=0.19,
        end_seconds=0.21,
    )
    assert bars.read_bars(at.frames[0]) == numbers[1] == 1
    assert at.times[0] == pytest.approx(0.1)


@needs_cases
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_a_left_crop_has_one_shape(decoder):
    clip = decode_clip(CASES / "crop.mp4", sampler="segment_centre", max_frames=4, decoder=decoder)
    assert clip.frames.shape == (4, 104, 178, 3)
    reference = decode_clip(
        CASES / "crop.mp4", sampler="segment_centre", max_frames=4, decoder="pyav"
    )
    difference = np.abs(clip.frames.astype(int) - reference.frames)
    assert difference.mean() < 1


@needs_cases
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tr_a.wmv", "is truncated: its last 7938 bytes"),
        ("tr_h264.flv", "is truncated: its last 3957 bytes"),
        ("a.webp", "animated WebP is not supported"),
    ],
)
def test_refused_in_plain_words(name, reason):
    with pytest.raises(DecodeError, match=reason):
        probe(CASES / name)


@pytest.mark.parametrize("suffix", ["avi", "mov", "mkv"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_jpegs_of_a_camera_stand_upright(tmp_path, suffix, orientation):
    path = bars.write_camera_jpegs(tmp_path / f"camera.{suffix}", count=12, orientation=orientation)
    numbers, clip = read_all(path)
    assert numbers == list(range(12))
    assert clip.frames.shape[1:] == (128, 160, 3)


@pytest.mark.parametrize(
    ("suffix", "codec"), [("ts", "libx264"), ("ts", "mpeg2video"), ("vob", "mpeg2video")]
)
@pytest.mark.parametrize("before_wrap", [0.5, 2.0, 9.0, 40.0])
def test_a_wrapped_clock_hides_no_frame(tmp_path, suffix, codec, before_wrap):
    path = bars.write_bars(
        tmp_path / f"wrapped.{suffix}",
        codec,
        count=60,
        shift=2**33 / 90000 - before_wrap,
        container_options={"mpegts_copyts": "1"} if suffix == "ts" else {},
        options={"g": "12"},
        bit_rate=2_000_000,
    )
    numbers, clip = read_all(path)
    assert numbers == list(range(60))
    assert np.allclose(clip.times, np.arange(60) / 10, atol=1e-4)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("wmv", "wmv2"),
        ("flv", "flv"),
        ("avi", "mpeg4"),
        ("mkv", "mpeg4"),
        ("mp4", "mpeg4"),
        ("mov", "mpeg4"),
    ],
)
def test_a_file_cut_short_is_truncated(tmp_path, suffix, codec):
    path = bars.write_bars(tmp_path / f"short.{suffix}", codec, count=40)
    assert len(probe(path).times) == 40
    with pytest.raises(DecodeError, match=r"is truncated|damaged or not a video"):
        probe(bars.truncate(path))


def test_an_asf_broadcast_without_a_size_is_read(tmp_path):
    path = bars.write_bars(tmp_path / "live.wmv", "wmv2", count=20)
    assert len(probe(bars.set_asf_size(path, 0)).times) == 20


def test_animated_webp_is_refused_by_name(tmp_path):
    with pytest.raises(DecodeError, match="animated WebP is not supported"):
        probe(bars.animated_webp(tmp_path / "a.webp"))


def test_the_colour_matrix_ycgco_is_refused_by_name(tmp_path):
    path = bars.write_bars(
        tmp_path / "c.mp4", "libx264", count=5, options={"x264-params": "colormatrix=YCgCo"}
    )
    with pytest.raises(DecodeError, match="the colour matrix YCgCo is not supported"):
        probe(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_interlaced_h264_is_counted_by_decoding(tmp_path, suffix):
    path = bars.write_bars(
        tmp_path / f"i.{suffix}", "libx264", count=20, options={"x264-params": "interlaced=1"}
    )
    assert not probe(path).clean_keyframes
    assert read_all(path)[0] == list(range(20))


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("avi", "mpeg4"),
        ("mp4", "mpeg4"),
        ("mkv", "mpeg4"),
        ("avi", "msmpeg4"),
        ("wmv", "wmv2"),
        ("flv", "flv"),
        ("mkv", "libx264"),
        ("ts", "mpeg2video"),
    ],
)
def test_pictures_before_the_first_key_frame_are_not_shown(tmp_path, suffix, codec):
    whole = bars.write_bars(tmp_path / f"whole.{suffix}", codec, count=40, options={"g": "12"})
    path = bars.drop_packets(whole, tmp_path / f"cut.{suffix}", first=3)
    assert read_all(path)[0] == list(range(12, 40))


@needs_decord
def test_pyav_decides_where_the_pictures_differ_and_the_record_says_so(tmp_path):
    path = bars.write_bars(
        tmp_path / "crop.mp4", "libx264", count=30, options={"x264-params": "crop-rect=6,4,10,8"}
    )
    _, clip = read_all(path)
    _, reference = read_all(path, "pyav")
    assert clip.frames.shape[1:] == (116, 144, 3)
    assert np.array_equal(clip.frames, reference.frames)
    assert (clip.decoder, reference.switch_reason) == ("pyav", None)
    assert "decord and PyAV differ by" in clip.switch_reason
    with pytest.raises(DecodeError, match="decord and PyAV differ by"):
        read_all(path, "decord")


@pytest.mark.parametrize("place", ["_orientation", "_scan_packets"])
def test_any_exception_of_the_prober_is_the_failure_of_that_file(tmp_path, monkeypatch, place):
    def fail(*arguments):
        raise ValueError("31 is not a valid Type")

    path = bars.write_bars(tmp_path / "clip.mp4", "libx264", count=5)
    monkeypatch.setattr(probing, place, fail)
    with pytest.raises(DecodeError, match="cannot be decoded: ValueError: 31 is not"):
        decode_clip(path, sampler="segment_centre", max_frames=2)


def test_any_exception_in_a_worker_is_the_failure_of_that_video(tmp_path, monkeypatch):
    def fail(*arguments, **settings):
        raise IndexError("frame 3")

    path = bars.write_bars(tmp_path / "clip.mp4", "libx264", count=5)
    stat = path.stat()
    source = {
        "path": str(path),
        "size_bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "start_seconds": None,
        "end_seconds": None,
    }
    monkeypatch.setattr(decode, "decode_clip", fail)
    video = decode.decode_video(source, sampler="segment_centre", max_frames=2, preprocessing=None)
    assert video.reason == f"{path} cannot be decoded: IndexError: frame 3"
