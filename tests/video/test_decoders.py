import dataclasses

import numpy as np
import pytest

from gare_cache.video.containers import open_video
from gare_cache.video.decoders import (
    DECODERS,
    choose_decoder,
    decode_with_decord,
    decode_with_pyav,
    decord_objection,
    import_decord,
)
from gare_cache.video.probing import probe
from tests.video.clips import (
    HEIGHT,
    copy_from,
    numbered_frame,
    read_numbers,
    write_clip,
    write_pictures,
)

needs_decord = pytest.mark.skipif(import_decord() is None, reason="decord is not installed")

OPEN_GOP_264 = {"x264-params": "open-gop=1:keyint=24:min-keyint=24:scenecut=0"}
OPEN_GOP_265 = {"x265-params": "log-level=none:keyint=24:min-keyint=24:scenecut=0:bframes=4"}
CLOSED_265 = {"x265-params": "log-level=none:keyint=24:open-gop=0:bframes=4"}
VP9 = {"cpu-used": "8", "deadline": "realtime", "g": "24"}
ALT_REF = {"auto-alt-ref": "1", "lag-in-frames": "12", "cpu-used": "8", "g": "24"}
# With reordering this encoder itself blurs some numbers into their neighbours.
AV1 = {"preset": "8", "crf": "5", "svtav1-params": "keyint=24:enable-tf=0:pred-struct=1"}

# Name, encoder, its options, B-frames, the decoder that the rule gives.
CLIPS = [
    ("closed.mp4", "libx264", {"g": "24"}, 3, "decord"),
    ("closed.mkv", "libx264", {"g": "24"}, 3, "decord"),
    ("open.mp4", "libx264", OPEN_GOP_264, 3, "pyav"),
    ("open.mkv", "libx264", OPEN_GOP_264, 3, "pyav"),
    ("refresh.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=24"}, 0, "pyav"),
    ("transport.ts", "libx264", {"g": "24"}, 3, "pyav"),
    ("b.avi", "libx264", {"g": "24"}, 3, "pyav"),
    ("raw.h264", "libx264", {"g": "24"}, 3, "pyav"),
    ("p.mp4", "mpeg4", {"g": "12", "b": "2000000"}, 0, "pyav"),
    ("b.mp4", "mpeg4", {"g": "12", "b": "2000000"}, 2, "pyav"),
    ("hevc.mp4", "libx265", CLOSED_265, None, "decord"),
    ("hevc_open.mkv", "libx265", OPEN_GOP_265, None, "pyav"),
    ("vp9.webm", "libvpx-vp9", VP9, None, "decord"),
    ("alt_ref.mp4", "libvpx-vp9", ALT_REF, None, "decord"),
    ("vp8.webm", "libvpx", ALT_REF, None, "pyav"),
    ("av1.mp4", "libsvtav1", AV1, None, "pyav"),
]
CHOICES = [[0, 60, 120, 199], [23, 24, 25, 47, 48, 49], [100], [198, 199], list(range(5, 200, 17))]


@pytest.mark.parametrize(("name", "codec", "options", "b_frames", "chosen"), CLIPS)
def test_every_decoder_returns_exactly_the_frames_asked(
    tmp_path, name, codec, options, b_frames, chosen
):
    path = write_clip(tmp_path / name, codec, options=options, b_frames=b_frames)
    found = probe(path)
    assert choose_decoder(found, decord_available=True) == chosen
    assert len(found.times) == 200
    for indices in CHOICES:
        frames = decode_with_pyav(path, found, np.array(indices))
        assert read_numbers(frames) == indices
        if chosen == "decord" and import_decord() is not None:
            other = decode_with_decord(path, found, np.array(indices))
            assert read_numbers(other) == indices
            assert np.abs(frames.astype(int) - other).mean() < 1


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9"])
def test_seeking_returns_the_bytes_that_decoding_from_the_start_returns(tmp_path, codec):
    options = {"libx265": CLOSED_265, "libvpx-vp9": VP9}.get(codec, {"g": "24"})
    path = write_clip(tmp_path / "clip.mp4", codec, options=options, b_frames=0)
    found = probe(path)
    assert found.clean_keyframes
    assert len(found.keyframe_pts) > 4
    indices = np.array([30, 31, 100, 150, 199])
    straight = dataclasses.replace(found, clean_keyframes=False)
    np.testing.assert_array_equal(
        decode_with_pyav(path, found, indices), decode_with_pyav(path, straight, indices)
    )


def test_a_seek_to_another_place_falls_back_to_the_start(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", options={"g": "24"})
    found = probe(path)
    wrong = dataclasses.replace(found, keyframe_pts=found.keyframe_pts + 1)
    wrong.keyframe_pts[0] = 0
    indices = np.array([30, 100, 150])
    assert read_numbers(decode_with_pyav(path, wrong, indices)) == indices.tolist()


def test_variable_rate_frames_are_found_by_their_timestamps(tmp_path):
    stamps = np.cumsum(np.random.default_rng(0).integers(1, 9, 100)).tolist()
    path = write_clip(tmp_path / "clip.mp4", pts=stamps, options={"g": "24"}, b_frames=3)
    found = probe(path)
    assert choose_decoder(found, decord_available=True) == "pyav"
    indices = np.arange(3, 100, 9)
    assert read_numbers(decode_with_pyav(path, found, indices)) == indices.tolist()


def test_hidden_frames_of_an_edit_list_are_not_counted(tmp_path):
    whole = write_clip(tmp_path / "whole.mp4", pts=60, options={"g": "24"})
    path = copy_from(whole, tmp_path / "cut.mp4", seconds=0.4)
    found = probe(path)
    assert decord_objection(found) == "it has an edit list"
    frames = decode_with_pyav(path, found, np.array([0, 1, 30, 49]))
    assert read_numbers(frames) == [10, 11, 40, 59]


@pytest.mark.parametrize(
    ("rotation", "mirrored", "expected"),
    [(0, True, [[2, 1], [4, 3]]), (90, False, [[3, 1], [4, 2]]), (90, True, [[4, 2], [3, 1]])],
)
def test_orientation_of_a_two_by_two_frame(tmp_path, rotation, mirrored, expected):
    """[[1, 2], [3, 4]]: mirrored [[2, 1], [4, 3]], turned clockwise [[3, 1], [4, 2]]."""
    path = write_clip(tmp_path / "clip.mp4", pts=2)
    found = probe(path)
    plain = decode_with_pyav(path, found, np.array([1]))[0]
    turned = dataclasses.replace(found, rotation=rotation, mirrored=mirrored)
    frame = decode_with_pyav(path, turned, np.array([1]))[0]
    places = {1: plain[0, 0], 2: plain[0, -1], 3: plain[-1, 0], 4: plain[-1, -1]}
    for row, names in zip((0, -1), expected, strict=True):
        for column, name in zip((0, -1), names, strict=True):
            np.testing.assert_array_equal(frame[row, column], places[name])


def test_the_four_rotations_of_one_clip_are_nearly_equal(tmp_path):
    pictures = [numbered_frame(0b10110) for _ in range(2)]
    for picture in pictures:
        picture[: HEIGHT // 2] //= 2  # tells top from bottom
    upright = []
    for rotation in (0, 90, 180, 270):
        stored = [
            np.ascontiguousarray(np.rot90(picture, k=-rotation // 90)) for picture in pictures
        ]
        path = write_pictures(tmp_path / f"{rotation}.mp4", stored, rotation=rotation)
        found = probe(path)
        assert found.rotation == (360 - rotation) % 360
        upright.append(decode_with_pyav(path, found, np.arange(2)).astype(int))
    for frames in upright:
        assert np.abs(frames - pictures).mean() < 4


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_public_rotations(shared_data_dir, angle):
    path = shared_data_dir / f"videos/decord/video_{angle}.mov"
    found = probe(path)
    assert found.rotation == angle
    shape = (1, 320, 568, 3) if angle % 180 == 0 else (1, 568, 320, 3)
    assert decode_with_pyav(path, found, np.array([2])).shape == shape


@needs_decord
@pytest.mark.parametrize(
    "name",
    [
        "benchmark_clips/msrvtt_video7500.mp4",
        "benchmark_clips/activitynet_v_GGSY1Qvo990.mp4",
        "decord/flipping_a_pancake.mkv",
        "ffmpegwasm/Big_Buck_Bunny_180_10s.webm",
        "languagebind/0.mp4",
        "moviepy/transparent.webm",
        "mp4parse/hevc_white_frame.mp4",
    ],
)
def test_decoders_agree_on_public_files(shared_data_dir, name):
    path = shared_data_dir / "videos" / name
    found = probe(path)
    assert choose_decoder(found, decord_available=True) == "decord"
    indices = np.unique(np.linspace(0, len(found.times) - 1, 6).astype(np.int64))
    one, other = (decoder(path, found, indices).astype(int) for decoder in DECODERS.values())
    assert np.abs(one - other).mean() < 1


def test_deep_colour_goes_to_pyav(tmp_path):
    found = probe(write_clip(tmp_path / "clip.mp4", pts=5, pix_fmt="yuv420p10le"))
    assert decord_objection(found) == "it has 10 bits a sample"


def test_two_video_streams_go_to_pyav(tmp_path):
    found = probe(write_clip(tmp_path / "clip.mp4", pts=5, num_streams=2))
    assert found.num_video_streams == 2
    assert choose_decoder(found, decord_available=True) == "pyav"


@pytest.mark.parametrize(
    ("change", "objection"),
    [
        ({}, None),
        ({"codec": "hevc"}, None),
        ({"codec": "vp9", "container": "matroska,webm"}, None),
        ({"codec": "mpeg4"}, "its codec is mpeg4"),
        ({"codec": "av1"}, "its codec is av1"),
        ({"container": "mpegts"}, "its container is mpegts"),
        ({"bit_depth": 10}, "it has 10 bits a sample"),
        ({"constant_rate": False}, "its frame rate varies"),
        ({"has_edit_list": True}, "it has an edit list"),
        ({"rotation": 90}, "it is rotated or mirrored"),
        ({"mirrored": True}, "it is rotated or mirrored"),
        ({"num_video_streams": 2}, "it has 2 video streams"),
        ({"clean_keyframes": False}, "its keyframes are not independent"),
        ({"damaged_start": True}, "its first frame is damaged"),
    ],
)
def test_decoder_rule(tmp_path, change, objection):
    found = dataclasses.replace(probe(write_clip(tmp_path / "clip.mp4", pts=3)), **change)
    assert decord_objection(found) == objection
    expected = "decord" if objection is None else "pyav"
    assert choose_decoder(found, decord_available=True) == expected
    assert choose_decoder(found, decord_available=False) == "pyav"


def test_frames_of_another_size_are_scaled_to_the_first(tmp_path):
    path = write_clip(tmp_path / "clip.mkv", pts=3)
    found = dataclasses.replace(probe(path), width=80, height=48)
    assert decode_with_pyav(path, found, np.array([1])).shape == (1, 48, 80, 3)


def test_decoding_uses_one_thread(tmp_path):
    with open_video(write_clip(tmp_path / "clip.mp4", pts=3)) as (_, stream):
        assert stream.codec_context.thread_count == 1
