import json
from pathlib import Path

import numpy as np
import pytest

from gare_cache.errors import ConfigError, DecodeError
from gare_cache.video.sampling import SAMPLERS, select_frames


def select(
    n=100,
    fps=10.0,
    times=None,
    constant_rate=True,
    sampler="fps_then_uniform",
    max_frames=12,
    **clip,
):
    times = np.arange(n) / fps if times is None else np.asarray(times, float)
    return select_frames(
        times, fps=fps, constant_rate=constant_rate, sampler=sampler, max_frames=max_frames, **clip
    ).tolist()


def test_published_frame_positions(fixtures_dir: Path):
    cases = json.loads((fixtures_dir / "gare" / "frame_positions.json").read_text())
    assert len(cases) == 120
    for case in cases:
        arguments = {
            "n": case["num_frames"],
            "fps": case["fps"],
            "max_frames": case["max_frames"],
            "start_seconds": case["start"],
            "end_seconds": case["end"],
        }
        if case["positions"]:
            assert select(**arguments) == case["positions"], case
        else:
            with pytest.raises(DecodeError, match="outside the video"):
                select(**arguments)


@pytest.mark.parametrize(
    ("n", "max_frames", "clip", "expected"),
    [
        (12, 4, {}, [1, 4, 7, 10]),
        (10, 4, {}, [1, 3, 6, 8]),
        (3, 4, {}, [0, 1, 2]),
        (1, 4, {}, [0]),
        (100, 1, {}, [50]),
        (100, 2, {"start_seconds": 2, "end_seconds": 5.9}, [30, 50]),
        (100, 2, {"start_seconds": 5.9, "end_seconds": 2}, [30, 50]),
        (100, 2, {"start_seconds": 9}, [92, 97]),
        (100, 2, {"end_seconds": 0.3}, [1, 3]),
    ],
)
def test_segment_centre_at_a_constant_rate(n, max_frames, clip, expected):
    assert select(n, max_frames=max_frames, sampler="segment_centre", **clip) == expected


@pytest.mark.parametrize("n", [1, 2, 5, 11, 12, 13, 300])
@pytest.mark.parametrize("max_frames", [1, 4, 12])
def test_segment_centre_takes_every_frame_of_a_short_video_once(n, max_frames):
    chosen = select(n, max_frames=max_frames, sampler="segment_centre")
    assert len(chosen) == min(n, max_frames) == len(set(chosen))


# Shown from 0, 0.9, 1.1, 3.5 and 3.6 s; mean period 0.9 s, so the last one until 4.5 s.
IRREGULAR = [0.0, 0.9, 1.1, 3.5, 3.6]


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ({}, [0, 1, 2, 4]),  # targets 0 1 2 3 4: frames 0 1 2 2 4
        ({"start_seconds": 1.1, "end_seconds": 3.4}, [2]),
        ({"start_seconds": 1.0, "end_seconds": 3.0}, [1, 2]),
        ({"start_seconds": 4.2, "end_seconds": 9.0}, [4]),
        ({"start_seconds": 3.4, "end_seconds": 3.4}, [2, 4]),  # one second
    ],
)
def test_variable_rate_takes_the_last_frame_at_or_before_each_second(clip, expected):
    assert select(times=IRREGULAR, fps=1 / 0.9, constant_rate=False, **clip) == expected


def test_variable_rate_thins_to_the_maximum():
    times = np.sort(np.r_[np.arange(0, 30), np.arange(0, 30) + 0.3])
    chosen = select(times=times, fps=2.0, constant_rate=False, max_frames=4)
    assert chosen == [0, 18, 38, 58]  # seconds 0, 9, 19, 29 of linspace(0, 29, 4)


def test_segment_centre_at_a_variable_rate():
    chosen = select(
        times=IRREGULAR, fps=1 / 0.9, constant_rate=False, sampler="segment_centre", max_frames=3
    )
    assert chosen == [0, 2, 4]  # centres 0.75, 2.25, 3.75 of 4.5 s


def test_both_rules_agree_on_even_frames():
    for sampler in SAMPLERS:
        for clip in ({}, {"start_seconds": 2, "end_seconds": 6.9999}):
            even = select(sampler=sampler, **clip)
            assert select(sampler=sampler, constant_rate=False, **clip) == even


def test_a_late_first_frame_shifts_the_clip():
    late = np.arange(100) / 10 + 0.5
    assert select(times=late, start_seconds=2, end_seconds=4) == [15, 25, 35]
    assert select(times=late) == list(range(0, 100, 10))


@pytest.mark.parametrize("constant_rate", [True, False])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("clip", [(10.0, 12.0), (-5.0, -2.0)])
def test_a_clip_outside_the_video_is_an_error_with_numbers(constant_rate, sampler, clip):
    with pytest.raises(DecodeError, match=rf"from {clip[0]:g} s to {clip[1]:g} s .* 100 frames"):
        select(
            sampler=sampler,
            constant_rate=constant_rate,
            start_seconds=clip[0],
            end_seconds=clip[1],
        )


def test_wrong_arguments():
    with pytest.raises(ConfigError, match="unknown sampler 'uniform'"):
        select(sampler="uniform")
    with pytest.raises(ConfigError, match="max_frames is 0"):
        select(max_frames=0)
    with pytest.raises(ConfigError, match="not a time interval"):
        select(start_seconds=float("nan"))
