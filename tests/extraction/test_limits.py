"""Limits on what a video may cost, and whose failure it is where one is reached."""

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from gare_cache.cache.reader import open_cache
from gare_cache.encoders.preprocessing import Preprocessing
from gare_cache.errors import DecodeError, EnvironmentFailure
from gare_cache.extraction.decode import DecodedVideo, decode_in_workers
from gare_cache.processes.workers import in_workers
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.video.decoding import decode_clip
from tests.processes import jobs
from tests.tiny import change_params, video_source, workspace, write_video

linux = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is heeded by Linux alone")
SMALL = Preprocessing("exact", (32, 32), (0.5,) * 3, (0.25,) * 3, "bicubic", "shortest", 0)


def test_frames_of_too_many_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.mp4"
    write_video(path, seed=0)
    options: dict[str, Any] = {"sampler": "segment_centre", "max_frames": 2}
    assert decode_clip(path, **options, most_pixels=48 * 32).frames.shape == (2, 32, 48, 3)
    message = r"one.mp4 has frames of 48 x 32 pixels; extract.max_frame_pixels allows 1,535$"
    with pytest.raises(DecodeError, match=message):
        decode_clip(path, **options, most_pixels=48 * 32 - 1)


def test_the_limit_on_pixels_is_that_of_the_settings(project: Path) -> None:
    change_params(project, extract__max_frame_pixels=1000)
    place = workspace(project)
    prepare(place)
    with pytest.raises(DecodeError, match=r"48 x 32 pixels; extract.max_frame_pixels allows 1,000"):
        extract(place, workers=1, max_failures=0)


@linux
def test_a_worker_has_its_limit_on_memory() -> None:
    def run(num_bytes: int) -> list[Any]:
        with in_workers(
            jobs.allocate,
            [num_bytes],
            workers=1,
            deadline_seconds=60,
            ahead_bytes=2**20,
            memory_bytes=2**29,
        ) as results:
            return list(results)

    assert run(2**27) == [2**27]
    with pytest.raises(MemoryError):
        run(2**30)


@linux
def test_whole_frames_are_held_one_at_a_time(tmp_path: Path) -> None:
    """Forty frames of 12 MB each in a worker of 256 MB."""
    path = tmp_path / "large.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(10))
        stream.width = stream.height = 2000
        stream.pix_fmt = "yuv420p"
        for level in range(40):
            picture = np.full((2000, 2000, 3), 6 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    (video,) = decode(path, memory_bytes=2**28)
    assert video.reason is None
    assert video.frames is not None
    levels = video.frames[:, 16, 16, 0].astype(int)
    np.testing.assert_allclose(levels, 6 * np.arange(40), atol=8)


@linux
def test_too_little_memory_is_not_the_videos_failure(tmp_path: Path) -> None:
    path = tmp_path / "one.mp4"
    write_video(path, seed=0)
    (video,) = decode(path, memory_bytes=2**20)
    assert video.frames is None
    assert video.out_of_memory


@pytest.mark.slow
@linux
def test_no_limit_decides_over_decoder_or_failure(tmp_path: Path) -> None:
    """What libraries make of a failed allocation: damage, another decoder, or an abort."""
    path = tmp_path / "large.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 3840, 2160, "yuv420p"
        for level in range(12):
            picture = np.full((2160, 3840, 3), 20 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    (whole,) = decode(path)
    assert whole.reason is None
    outcomes = []
    for mebibytes in (100, 150, 200, 300, 400, 600):
        (video,) = decode(path, memory_bytes=mebibytes * 2**20)
        outcomes.append(video.out_of_memory)
        if not video.out_of_memory:
            assert (video.reason, video.decoder) == (None, whole.decoder), mebibytes
    assert outcomes[0]


def decode(path: Path, **limits: Any) -> list[DecodedVideo]:
    with decode_in_workers(
        [video_source(path)],
        sampler="segment_centre",
        max_frames=40,
        preprocessing=SMALL,
        workers=1,
        deadline_seconds=60,
        **limits,
    ) as videos:
        return list(videos)


_FAILING = """
import av
import os
import signal
from pathlib import Path

real = av.open


def odd(file, *args, **kwargs):
    name = Path(file.name).stem
    if name == "train0":
        raise MemoryError
    if name == "val1":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(file, *args, **kwargs)


av.open = odd
"""


def test_out_of_memory_is_tried_again_by_the_next_extraction(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    (start / "sitecustomize.py").write_text(_FAILING)
    place = workspace(project)
    prepare(place)
    with monkeypatch.context() as patched:
        patched.syspath_prepend(str(start))
        message = r"2 videos could not be decoded for lack of memory \(.*train0.*val1.*SIGKILL"
        with pytest.raises(EnvironmentFailure, match=message):
            extract(place, workers=2)
    (folder,) = (project / "cache").iterdir()
    videos = open_cache(folder).tables["video"]
    pending = {
        s["video_id"] for row, s in enumerate(videos.sources) if not videos.outcomes.get(row)
    }
    assert pending == {"train0", "val1"}
    features = extract(place, workers=1)
    assert features is not None
    assert features["videos"] == {"encoded": 14, "failed": 0, "missing": 0}
