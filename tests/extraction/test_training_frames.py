"""Frames for training: the pixels of the extraction, augmented by a text, in any process."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from gare_cache.encoders.augmentation import augment_frames
from gare_cache.encoders.preprocessing import Preprocessing
from gare_cache.errors import DecodeError, EnvironmentFailure
from gare_cache.extraction import training_frames
from gare_cache.extraction.decode import decode_video
from gare_cache.extraction.training_frames import Augmentation, FrameRequest, decoded_frames
from tests.tiny import video_source, write_video

PREPROCESSING = Preprocessing("exact", (32, 32), (0.5,) * 3, (0.25,) * 3, "bicubic", "shortest", 0)
SAMPLING = {"sampler": "segment_centre", "max_frames": 4, "preprocessing": PREPROCESSING}
AUGMENTATION = Augmentation(smallest_crop=0.5, flip=True, operations=1, magnitude=9)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(3):
        write_video(folder / f"{seed}.mp4", seed=seed, num_frames=3 * seed + 2)
    return [video_source(folder / f"{seed}.mp4") for seed in range(3)]


def frames_of(requests, *, augmentation=AUGMENTATION, workers=1, **options):
    options = {"deadline_seconds": 60.0, "most_pixels": 10**6, "memory_bytes": None, **options}
    with decoded_frames(
        requests, **SAMPLING, augmentation=augmentation, workers=workers, **options
    ) as frames:
        return list(frames)


def test_the_pixels_are_those_of_the_extraction_and_the_draw_augments_them(sources):
    requests = [
        FrameRequest(sources[2], "first"),
        FrameRequest(sources[0], None),
        FrameRequest(sources[2], "second"),
        FrameRequest(sources[1], None),
    ]
    expected = [decode_video(dict(request.source), **SAMPLING).frames for request in requests]
    assert [len(frames) for frames in expected] == [4, 2, 4, 4]
    options = vars(AUGMENTATION)
    for place, draw in ((0, "first"), (2, "second")):
        expected[place] = augment_frames(expected[place], **options, draw=draw)
    one, two = (frames_of(requests, workers=workers) for workers in (1, 2))
    for frames in (one, two):
        assert all(map(np.array_equal, frames, expected))
    assert not np.array_equal(one[0], one[2])


def test_without_an_augmentation_a_draw_changes_nothing(sources):
    frames = frames_of([FrameRequest(sources[1], "first")], augmentation=None)
    assert np.array_equal(frames[0], decode_video(sources[1], **SAMPLING).frames)


def test_a_video_that_fails_ends_the_iteration_with_its_file_and_reason(sources, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    requests = [FrameRequest(sources[0], None), FrameRequest(video_source(broken), None)]
    with pytest.raises(DecodeError, match=r"broken\.mp4"):
        frames_of(requests)
    changed = {**sources[0], "size_bytes": 1}
    with pytest.raises(DecodeError, match=r"0\.mp4 has changed since it was listed"):
        frames_of([FrameRequest(changed, None)])
    assert not [t for t in threading.enumerate() if t.name.startswith("decode-")]


def test_too_little_memory_is_the_machine_s_failure(sources):
    with pytest.raises(EnvironmentFailure, match=r"extract\.worker_memory_gib"):
        frames_of([FrameRequest(sources[0], "first")], memory_bytes=150 * 2**20)


def test_the_workers_import_neither_zarr_nor_open_clip():
    program = (
        f"import sys, {training_frames.__name__}; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'zarr', 'open_clip')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
