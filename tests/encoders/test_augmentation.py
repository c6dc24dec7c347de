"""Augmentation: one draw for all frames, decided by its text alone."""

import numpy as np
import pytest
import torch

from gare_cache.encoders.augmentation import Views, augment_frames, draw_views

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), dtype=np.uint8)
NOTHING = {"smallest_crop": 1.0, "flip": False, "operations": 0, "magnitude": 9}


def augmented(frames=FRAMES, draw="a", **changes):
    return augment_frames(frames, **{**NOTHING, **changes}, draw=draw)


def test_nothing_switched_on_changes_nothing():
    assert np.array_equal(augmented(), FRAMES)


def test_a_flip_mirrors_about_half_of_the_clips():
    draws = [augmented(flip=True, draw=str(number)) for number in range(40)]
    mirrored = [np.array_equal(frames, FRAMES[:, :, ::-1]) for frames in draws]
    kept = [np.array_equal(frames, FRAMES) for frames in draws]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 10 < sum(mirrored) < 30


@pytest.mark.parametrize(
    "change", [{"smallest_crop": 0.3}, {"operations": 2, "magnitude": 20}], ids=["crop", "rand"]
)
def test_a_draw_depends_on_its_text_alone(change):
    torch.manual_seed(5)
    first = augmented(**change)
    state = torch.random.get_rng_state()
    assert np.array_equal(augmented(**change), first)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.shape == FRAMES.shape
    assert first.dtype == np.uint8
    others = [augmented(draw=str(number), **change) for number in range(4)]
    assert any(not np.array_equal(first, other) for other in others)


def test_all_frames_of_a_clip_are_transformed_alike():
    still = np.repeat(FRAMES[:1], 3, axis=0)
    for number in range(5):
        drawn = augmented(still, str(number), smallest_crop=0.3, flip=True, operations=2)
        assert np.array_equal(drawn[0], drawn[1])
        assert np.array_equal(drawn[0], drawn[2])


def test_the_magnitude_matters():
    weak, strong = (augmented(operations=3, magnitude=m, draw="b") for m in (1, 25))
    assert not np.array_equal(weak, strong)


def test_views_are_cropped_whatever_their_smallest_crop_and_drawn_by_their_number():
    views = Views(count=3, seed=1, smallest_crop=1.0, flip=True, operations=1, magnitude=9)
    drawn = draw_views(FRAMES, views, video_id="v", size=(16, 16))
    assert drawn.shape == (3, 3, 16, 16, 3)
    again = draw_views(FRAMES, Views(1, 1, 1.0, True, 1, 9), video_id="v", size=(16, 16))
    assert np.array_equal(drawn[:1], again)
