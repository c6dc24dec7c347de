import numpy as np
import pytest

from gare_cache.demo.captions import MOTION_WORDS, ORDER_WORDS
from gare_cache.demo.drawing import Figure, Picture
from tools.demo_clip.stills import (
    frame_caption,
    sample_pairs,
    sample_still,
    swapped_relation,
    twins,
)

GREY = (120.0, 120.0, 120.0)
RED = Figure("star", "red", (214.0, 40.0, 40.0), 0.2, 0.5, 0.17, 0.0)
BLUE = Figure("square", "blue", (40.0, 84.0, 214.0), 0.8, 0.5, 0.09, 0.0)


def _captions(picture: Picture, *, relation: bool = False) -> set[str]:
    return {
        frame_caption(picture, np.random.default_rng(seed), relation=relation)
        for seed in range(1500)
    }


def test_frame_captions_hold_no_word_of_motion_or_order() -> None:
    rng = np.random.default_rng(0)
    captions = [frame_caption(sample_still(rng), rng) for _ in range(3000)]
    words = {word.strip(",") for caption in captions for word in caption.split()}
    assert not words & MOTION_WORDS
    assert not words & ORDER_WORDS
    assert {"red", "huge", "hoop", "left", "below", "corner", "empty"} - words == {"corner"}


def test_captions_say_what_is_there() -> None:
    alone = _captions(Picture(GREY, (RED,)))
    assert "a large red star on the left" in alone
    assert not any("small" in caption or "blue" in caption for caption in alone)
    both = _captions(Picture(GREY, (RED, BLUE)), relation=True)
    assert "a large red star left of a tiny blue box" in both
    assert "a tiny blue box right of a large red star" in both
    assert all(" left of " in caption or " right of " in caption for caption in both)


def test_above_is_up() -> None:
    high = Figure("star", "red", (214.0, 40.0, 40.0), 0.5, 0.2, 0.17, 0.0)
    low = Figure("square", "blue", (40.0, 84.0, 214.0), 0.5, 0.8, 0.09, 0.0)
    for caption in _captions(Picture(GREY, (high, low)), relation=True):
        red_first = caption.index("red") < caption.index("blue")
        assert (" above " in caption) == red_first


def test_twins_differ_only_in_order_or_binding() -> None:
    picture = Picture(GREY, (RED, BLUE))
    others = twins(picture)
    assert set(others) == {"places", "colours"}
    for seed in range(50):
        words = {
            name: sorted(frame_caption(p, np.random.default_rng(seed), relation=True).split())
            for name, p in {"true": picture, **others}.items()
        }
        assert [w for w in words["colours"] if w not in ("a", "an")] == [
            w for w in words["true"] if w not in ("a", "an")
        ]
    assert others["places"].figures[0].x == BLUE.x
    assert others["places"].figures[0].colour == "red"
    assert others["colours"].figures[0].colour == "blue"
    assert others["colours"].figures[0].shape == "star"


def test_pairs_are_seeded_frames_with_captions() -> None:
    frames, captions = sample_pairs(9, np.random.default_rng(0))
    again, same = sample_pairs(9, np.random.default_rng(0))
    assert len(frames) == len(captions) == 9
    assert frames[0].shape == (96, 96, 3)
    assert captions == same
    assert all((a == b).all() for a, b in zip(frames, again, strict=True))


def test_swapped_relation_turns_it_around() -> None:
    assert swapped_relation("a red star left of a blue box") == "a red star right of a blue box"
    with pytest.raises(ValueError, match="no relation in 'a red star'"):
        swapped_relation("a red star")
