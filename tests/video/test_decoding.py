import pickle
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest

from gare_cache.errors import ConfigError, DecodeError
from gare_cache.video import decoding
from gare_cache.video.decoders import import_decord
from gare_cache.video.decoding import decode_clip
from gare_cache.video.sampling import SAMPLERS
from tests.video.clips import read_numbers, write_clip

needs_decord = pytest.mark.skipif(import_decord() is None, reason="decord is not installed")

EXPECTED = {
    "fps_then_uniform": [0, 50, 100, 175],  # seconds 0 2 4 7 of linspace(0, 7, 4)
    "segment_centre": [25, 75, 125, 175],
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("decoder", ["pyav", pytest.param("decord", marks=needs_decord)])
def test_chosen_frames_and_times(tmp_path, sampler, decoder):
    path = write_clip(tmp_path / "clip.mp4", options={"g": "24"}, b_frames=3)
    clip = decode_clip(path, sampler=sampler, max_frames=4, decoder=decoder)
    assert read_numbers(clip.frames) == EXPECTED[sampler]
    assert (clip.frames.dtype, clip.times.dtype) == (np.uint8, np.float32)
    np.testing.assert_allclose(clip.times, np.array(EXPECTED[sampler]) / 25, rtol=1e-6)
    assert (clip.decoder, clip.switch_reason) == (decoder, None)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_part_of_a_video(tmp_path, sampler):
    path = write_clip(tmp_path / "clip.mp4", options={"g": "24"})
    clip = decode_clip(path, sampler=sampler, max_frames=2, start_seconds=3, end_seconds=4.96)
    numbers = {"fps_then_uniform": [75, 100], "segment_centre": [87, 112]}[sampler]
    assert read_numbers(clip.frames) == numbers


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_variable_rate(tmp_path, sampler):
    stamps = [0, 1, 2, 26, 27, 60, 70, 80, 90, 91]
    path = write_clip(tmp_path / "clip.mp4", pts=stamps)
    clip = decode_clip(path, sampler=sampler, max_frames=4)
    # The last frame is on screen until (91 + 91 / 9) / 25 = 4.04 s. Candidates at 0, 1, 2, 3 and
    # 4 s: frames 0 2 4 6 9, of which 0 1 2 4; centres at 0.5, 1.5, 2.5 and 3.5 s.
    numbers = {"fps_then_uniform": [0, 2, 4, 9], "segment_centre": [2, 4, 5, 7]}[sampler]
    assert read_numbers(clip.frames) == numbers
    np.testing.assert_allclose(clip.times, np.array(stamps)[numbers] / 25, rtol=1e-6)


@needs_decord
def test_an_exception_in_decord_is_a_recorded_switch(tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("[12:00:00] /src/reader.cc:1: Check failed\nStack trace")

    path = write_clip(tmp_path / "clip.mp4")
    monkeypatch.setitem(decoding.DECODERS, "decord", fail)
    clip = decode_clip(path, sampler="segment_centre", max_frames=4)
    assert (clip.decoder, clip.switch_reason) == ("pyav", "RuntimeError: Check failed")
    assert read_numbers(clip.frames) == EXPECTED["segment_centre"]
    with pytest.raises(DecodeError, match="decord failed: RuntimeError: Check failed"):
        decode_clip(path, sampler="segment_centre", max_frames=4, decoder="decord")


def test_without_decord_pyav_decodes(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "import_decord", lambda: None)
    path = write_clip(tmp_path / "clip.mp4", pts=5)
    assert decode_clip(path, sampler="segment_centre", max_frames=1).decoder == "pyav"
    with pytest.raises(DecodeError, match="not installed"):
        decode_clip(path, sampler="segment_centre", max_frames=1, decoder="decord")


@needs_decord
def test_decord_by_name_refuses_what_it_gets_wrong(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", pts=[0, 1, 9, 10])
    with pytest.raises(DecodeError, match="its frame rate varies"):
        decode_clip(path, sampler="segment_centre", max_frames=4, decoder="decord")


# File, frames of fps_then_uniform with at most 12, decoder where decord is installed.
PUBLIC = [
    ("benchmark_clips/msrvtt_video7500.mp4", 12, "decord"),
    ("clip-video-encode/vid1.mp4", 3, "pyav"),
    ("torchcodec/nasa_13013.mp4", 12, "pyav"),
    ("torchcodec/av1_video.mkv", 5, "pyav"),
    ("mmaction2/part_0.mp4", 2, "pyav"),
    ("moviepy/transparent.webm", 5, "decord"),
    ("moviepy/pigs_in_a_polka.gif", 3, "pyav"),
    ("ffmpegwasm/video-1s.avi", 1, "pyav"),
    ("decord/unordered.mov", 1, "decord"),
    ("mp4parse/tiny_av1.mp4", 1, "pyav"),
    ("mp4parse/video_rotation_90.mp4", 1, "pyav"),
    ("moviepy/bitmap.mp4", 5, "pyav"),
]


@needs_decord
@pytest.mark.parametrize(("name", "num_frames", "decoder"), PUBLIC)
def test_public_files(shared_data_dir, name, num_frames, decoder):
    path = shared_data_dir / "videos" / name
    clip = decode_clip(path, sampler="fps_then_uniform", max_frames=12)
    assert (len(clip.frames), len(clip.times), clip.decoder) == (num_frames, num_frames, decoder)


@needs_decord
def test_a_one_pixel_video_switches(shared_data_dir):
    path = shared_data_dir / "videos/moviepy/bitmap.mp4"
    clip = decode_clip(path, sampler="fps_then_uniform", max_frames=12)
    assert clip.frames.shape == (5, 1, 1, 3)
    assert clip.switch_reason is not None
    assert "size must exactly match" in clip.switch_reason


def test_a_frame_in_a_damaged_gap_is_refused(shared_data_dir):
    path = shared_data_dir / "videos/decord/corrupted.mp4"
    with pytest.raises(DecodeError, match=r"corrupted\.mp4 is damaged: the frame at 3\.000 s"):
        decode_clip(path, sampler="fps_then_uniform", max_frames=12)
    before = decode_clip(path, sampler="fps_then_uniform", max_frames=12, end_seconds=2.5)
    assert len(before.frames) == 3


def test_a_damaged_first_frame_is_refused(shared_data_dir):
    path = shared_data_dir / "videos/mp4parse/no_timescale.mp4"
    with pytest.raises(DecodeError, match="is damaged"):
        decode_clip(path, sampler="fps_then_uniform", max_frames=12)


def test_a_destroyed_packet_costs_its_group_of_pictures_only(tmp_path):
    path = write_clip(tmp_path / "clip.mkv", options={"g": "20"}, b_frames=0)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    begin = data.find(b"\x65", packets[60][0])  # the IDR slice of frame 60
    data[begin : begin + packets[60][1] // 2] = b"\xff" * (packets[60][1] // 2)
    path.write_bytes(bytes(data))
    with pytest.raises(DecodeError, match="number 75 of 200"):
        decode_clip(
            path, sampler="fps_then_uniform", max_frames=12, start_seconds=3, decoder="pyav"
        )
    clip = decode_clip(
        path, sampler="fps_then_uniform", max_frames=12, start_seconds=4, decoder="pyav"
    )
    assert read_numbers(clip.frames) == [100, 125, 150, 175]


def test_errors_name_the_file(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", pts=25)
    with pytest.raises(DecodeError, match=r"clip\.mp4: the clip from 5 s to 6 s lies outside"):
        decode_clip(path, sampler="segment_centre", max_frames=4, start_seconds=5, end_seconds=6)
    with pytest.raises(ConfigError, match="unknown decoder 'opencv'"):
        decode_clip(path, sampler="segment_centre", max_frames=4, decoder="opencv")
    with pytest.raises(ConfigError, match="unknown sampler"):
        decode_clip(path, sampler="random", max_frames=4)


def test_nothing_is_written_to_the_terminal(shared_data_dir, capfd):
    for name in ("decord/corrupted.mp4", "mp4parse/no_timescale.mp4", "moviepy/result.webm"):
        with pytest.raises(DecodeError):
            decode_clip(shared_data_dir / "videos" / name, sampler="fps_then_uniform", max_frames=9)
    assert capfd.readouterr() == ("", "")


def test_clips_travel_between_processes_and_threads(tmp_path):
    path = write_clip(tmp_path / "clip.mp4")
    assert pickle.loads(pickle.dumps(decode_clip)) is decode_clip
    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(decode_clip, path, sampler="segment_centre", max_frames=4)
            for _ in range(12)
        ]
        for call in calls:
            assert read_numbers(call.result().frames) == EXPECTED["segment_centre"]
    clip = pickle.loads(pickle.dumps(calls[0].result()))
    assert clip.frames.shape == (4, 96, 160, 3)
