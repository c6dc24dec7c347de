import av
import numpy as np
import pytest

from gare_cache.errors import DecodeError
from gare_cache.video.probing import probe
from gare_cache.video.truncation import missing_bytes
from tests.video.clips import copy_from, write_clip

# File, presented frames, whether the rate is constant.
PUBLIC = [
    ("benchmark_clips/msrvtt_video7500.mp4", 50, True),
    ("benchmark_clips/activitynet_v_GGSY1Qvo990.mp4", 355, True),
    ("languagebind/0.mp4", 245, True),
    ("mmaction2/demo.mp4", 280, True),
    ("mmaction2/test.mp4", 300, True),
    ("mmaction2/part_0.mp4", 32, False),
    ("decord/flipping_a_pancake.mkv", 310, True),
    ("ffmpegwasm/Big_Buck_Bunny_180_10s.webm", 300, True),
    ("moviepy/chaplin.mp4", 241, True),
    ("moviepy/example.mp4", 50, True),
    ("clip-video-encode/vid1.mp4", 56, True),
    ("torchcodec/av1_video.mkv", 125, True),
    ("torchcodec/h265_video.mp4", 10, True),
    ("torchcodec/nasa_13013.mp4", 390, True),
    ("mp4parse/hevc_white_frame.mp4", 1, True),
    ("mp4parse/tiny_av1.mp4", 1, True),
    ("ffmpegwasm/video-1s.avi", 35, True),
    ("moviepy/pigs_in_a_polka.gif", 30, True),
    ("moviepy/transparent.webm", 150, True),
    ("moviepy/bitmap.mp4", 5, True),
    ("decord/unordered.mov", 4, True),
]


@pytest.mark.parametrize(("name", "num_frames", "constant_rate"), PUBLIC)
def test_presented_frames_of_public_files(shared_data_dir, name, num_frames, constant_rate):
    path = shared_data_dir / "videos" / name
    found = probe(path)
    assert (len(found.times), found.constant_rate) == (num_frames, constant_rate)
    assert found.times[0] == 0
    assert (np.diff(found.times) > 0).all()
    with av.open(str(path)) as container:
        stream = container.streams[found.stream_index]
        decoded = [float(f.pts * f.time_base) for f in container.decode(stream)]
    np.testing.assert_allclose(found.times, decoded, atol=1e-9)


def test_the_default_of_two_streams(shared_data_dir):
    found = probe(shared_data_dir / "videos/torchcodec/nasa_13013.mp4")
    assert (found.num_video_streams, found.stream_index) == (2, 3)
    assert (found.width, found.height) == (480, 270)
    assert found.fps == pytest.approx(30000 / 1001)


def test_edit_list(shared_data_dir, tmp_path):
    assert probe(shared_data_dir / "videos/clip-video-encode/vid1.mp4").has_edit_list
    whole = write_clip(tmp_path / "whole.mp4", pts=60, options={"g": "24"})
    found = probe(copy_from(whole, tmp_path / "cut.mp4", seconds=0.4))
    assert found.has_edit_list
    assert (len(found.times), found.times[0]) == (50, 0)
    assert not probe(whole).has_edit_list


@pytest.mark.parametrize(
    ("options", "clean"),
    [
        ({"g": "24"}, True),
        ({"x264-params": "open-gop=1:keyint=24:scenecut=0"}, False),
        ({"x264-params": "intra-refresh=1:keyint=24"}, False),
    ],
)
def test_keyframes_at_which_decoding_may_begin(tmp_path, options, clean):
    found = probe(write_clip(tmp_path / "clip.mp4", options=options, b_frames=3))
    assert found.clean_keyframes is clean


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("b.avi", "libx264"),
        ("b.avi", "mpeg4"),
        ("a.ts", "libx264"),
        ("a.flv", "libx264"),
        ("a.h264", "libx264"),
        ("a.mpg", "mpeg2video"),
        ("a.webm", "libvpx"),
    ],
)
def test_containers_without_packet_times_start_at_zero(tmp_path, name, codec):
    found = probe(write_clip(tmp_path / name, codec, pts=40, b_frames=2 if "x" not in codec else 0))
    np.testing.assert_allclose(found.times, np.arange(40) / 25, atol=1e-3)
    assert found.constant_rate
    assert found.fps == 25


def test_fragmented(tmp_path):
    flags = {"movflags": "frag_keyframe+empty_moov"}
    found = probe(write_clip(tmp_path / "clip.mp4", pts=40, container_options=flags))
    assert (len(found.times), found.times[0], found.has_edit_list) == (40, 0, False)


def test_irregular_times_are_kept(tmp_path):
    stamps = [0, 1, 2, 7, 8, 20, 21, 22]
    found = probe(write_clip(tmp_path / "clip.mp4", pts=stamps))
    np.testing.assert_allclose(found.times, np.array(stamps) / 25)
    assert not found.constant_rate


def test_one_frame(tmp_path):
    found = probe(write_clip(tmp_path / "clip.mkv", pts=1))
    assert (found.times.tolist(), found.constant_rate, found.fps) == ([0.0], True, 25)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "fragmented.mp4"])
def test_truncated(tmp_path, name):
    flags = {
        "clip.mp4": {"movflags": "faststart"},
        "fragmented.mp4": {"movflags": "frag_keyframe+empty_moov"},
    }
    path = write_clip(
        tmp_path / name, options={"g": "24"}, container_options=flags.get(name), b_frames=0
    )
    whole = path.read_bytes()
    assert missing_bytes(path, probe(path).container) == 0
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DecodeError, match=r"truncated: its last \d+ bytes are missing"):
        probe(path)


def test_header_without_frames(shared_data_dir):
    with pytest.raises(DecodeError, match="truncated: its header declares 5544 video frames"):
        probe(shared_data_dir / "videos/mp4parse/invalid_userdata.mp4")


def test_what_is_no_video(tmp_path, shared_data_dir):
    with pytest.raises(DecodeError, match="No such file"):
        probe(tmp_path / "absent.mp4")
    with pytest.raises(DecodeError, match="is not a file"):
        probe(tmp_path)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(DecodeError, match="is empty"):
        probe(tmp_path / "empty.mp4")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(DecodeError, match=r"noise\.mp4 is damaged or not a video: Invalid data"):
        probe(tmp_path / "noise.mp4")
    with pytest.raises(DecodeError, match="is damaged or not a video"):
        probe(shared_data_dir / "videos/mp4parse/chunk_out_of_range.mp4")


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(DecodeError, match="no video stream"):
        probe(path)


def test_playlists_are_not_followed(tmp_path):
    path = tmp_path / "list.m3u8"
    path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/clip.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(DecodeError):
        probe(path)
