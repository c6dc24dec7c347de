import itertools

import numpy as np
import torch
import torch.nn.functional as F

from gare_cache.demo.captions import CAPTION_WORDS, MOTION_WORDS, ORDER_WORDS, video_captions
from gare_cache.demo.scenes import COLOURS, sample_scene
from gare_cache.encoders.open_clip_import import import_open_clip
from tools.demo_clip.stills import frame_caption, sample_pairs, sample_still
from tools.demo_clip.strangers import StrangerReading, stranger_words, with_strangers


def test_no_caption_holds_a_stranger() -> None:
    rng = np.random.default_rng(0)
    captions = [frame_caption(sample_still(rng), rng) for _ in range(2000)]
    for _ in range(500):
        captions += video_captions(sample_scene(rng), rng)
    words = {word.strip(",") for caption in captions for word in caption.split()}
    assert words <= CAPTION_WORDS
    assert not words & set(stranger_words())
    assert not (MOTION_WORDS | ORDER_WORDS) & set(stranger_words())
    assert len(stranger_words()) > 30_000


def test_strangers_stand_between_names_and_never_in_them() -> None:
    strangers = set(stranger_words())
    caption = "a tiny red disc left of a blue box at the top"
    places = set()
    for seed in range(200):
        mixed = with_strangers(caption, np.random.default_rng(seed)).split()
        assert [word for word in mixed if word not in strangers] == caption.split()
        for before, word in zip(["", *mixed], mixed, strict=False):
            if word in strangers and before not in strangers:
                places.add(before)
        for before, after in itertools.pairwise(mixed):
            if before in (*COLOURS, "a", "tiny"):
                assert after not in strangers
    assert {"", "disc", "box", "top", "left"} <= places


def test_frames_do_not_change_with_strangers_in_what_is_said_of_them() -> None:
    _, plain = sample_pairs(64, np.random.default_rng(0))
    _, mixed = sample_pairs(64, np.random.default_rng(0), strangers=True)
    strangers = set(stranger_words())
    assert not any(strangers & set(caption.split()) for caption in plain)
    share = np.mean([bool(strangers & set(caption.split())) for caption in mixed])
    assert 0.3 < share < 0.9


def test_reading_finds_features_that_hold_the_strangers() -> None:
    tokenizer = import_open_clip().SimpleTokenizer(context_length=32)
    reading = StrangerReading(16, seed=0)
    with torch.no_grad():
        reading._read.weight.copy_(torch.eye(16))
        reading._read.bias.zero_()
    one, two = stranger_words()[100], stranger_words()[200]
    captions = [
        f"a red star {one} a blue box {two}",
        f"a red star {two} a blue box {one}",  # the same words at other places
        f"{one} a red star a blue box {two}",
        "a red star above a blue box",  # without a stranger: not asked for
    ]
    tokens = tokenizer(captions)
    place = reading._is_shape[tokens].cumsum(dim=1).clamp(max=2)
    known = F.normalize(reading._vectors[place, tokens].sum(dim=1), dim=-1)
    told = float(reading(known, tokens).detach())
    shuffled = float(reading(known[[1, 2, 0, 3]], tokens).detach())
    assert told < 0.1
    assert shuffled > 3
