import numpy as np

from gare_cache.demo.captions import MOTION_WORDS, ORDER_WORDS, VERBS, video_captions
from gare_cache.demo.scenes import Event, Scene, Thing, make_scene, sample_scene

DISC = Event(Thing("orange", "circle", "small"), "moves left")
BOX = Event(Thing("blue", "square", ""), "grows")


def _captions(scene: Scene) -> set[str]:
    rng = np.random.default_rng(0)
    return {caption for _ in range(60) for caption in video_captions(scene, rng)}


def test_a_video_has_three_different_captions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert len(set(video_captions(sample_scene(rng), rng))) == 3


def test_captions_of_a_sequence_tell_the_order() -> None:
    captions = _captions(make_scene("sequence", [DISC, BOX]))
    assert any(caption.startswith("first ") for caption in captions)
    for caption in captions:
        mentioned_first = caption.index("orange") < caption.index("blue")
        told_backwards = " after " in caption and not caption.split(" after ")[0].endswith(
            ("which", "where", "here", "how")
        )
        assert mentioned_first != (told_backwards and "after a" in caption)


def test_opposite_orders_share_no_caption() -> None:
    forth, back = make_scene("sequence", [DISC, BOX]), make_scene("sequence", [BOX, DISC])
    assert not _captions(forth) & _captions(back)


def test_articles_and_synonyms() -> None:
    captions = _captions(make_scene("single", [Event(Thing("orange", "circle", ""), "grows")]))
    assert all("an orange" in caption for caption in captions)
    assert {"disc", "circle"} <= {word for caption in captions for word in caption.split()}
    assert {verb for verb in VERBS["grows"] if any(verb in c for c in captions)} == set(
        VERBS["grows"]
    )


def test_every_caption_states_motion() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        scene = sample_scene(rng)
        for caption in video_captions(scene, rng):
            words = set(caption.replace(",", "").split())
            assert words & MOTION_WORDS
            assert (scene.kind == "single") or words & ORDER_WORDS
