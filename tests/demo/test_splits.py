from collections.abc import Iterable

import numpy as np
import pytest

from gare_cache.demo.captions import video_captions
from gare_cache.demo.scenes import (
    COLOURS,
    MOTIONS,
    OPPOSITE,
    ROUND,
    SHAPES,
    Event,
    Scene,
    Thing,
    make_scene,
)
from gare_cache.demo.splits import hard_negatives, held_out, sample_splits

Splits = dict[str, list[Scene]]


@pytest.fixture(scope="module")
def splits() -> Splits:
    return sample_splits(num_train=2400, num_val=300, num_test=400, seed=0)


def _events(scenes: Iterable[Scene]) -> list[Event]:
    return [event for scene in scenes for event in scene.events]


def _triples(scenes: Iterable[Scene]) -> set[tuple[str, str, str]]:
    return {(event.thing.colour, event.thing.shape, event.motion) for event in _events(scenes)}


def _motion_pairs(scenes: Iterable[Scene]) -> set[tuple[str, str]]:
    return {
        (scene.events[0].motion, scene.events[1].motion)
        for scene in scenes
        if scene.kind == "sequence"
    }


def _words(scenes: Iterable[Scene]) -> set[str]:
    rng = np.random.default_rng(0)
    return {
        word.strip(",")
        for scene in scenes
        for caption in video_captions(scene, rng)
        for word in caption.split()
    }


def test_sizes_and_no_scene_twice(splits: Splits) -> None:
    assert {name: len(scenes) for name, scenes in splits.items()} == {
        "train": 2400,
        "val": 300,
        "test": 400,
    }
    every = [scene for scenes in splits.values() for scene in scenes]
    assert len(set(every)) == len(every)


def test_the_seed_fixes_the_scenes(splits: Splits) -> None:
    counts = {"num_train": 20, "num_val": 10, "num_test": 10}
    assert sample_splits(**counts, seed=3) == sample_splits(**counts, seed=3)
    assert sample_splits(**counts, seed=3) != sample_splits(**counts, seed=4)


@pytest.mark.parametrize("split", ["val", "test"])
def test_training_never_shows_held_out_combinations(splits: Splits, split: str) -> None:
    new_triples = _triples(splits[split]) - _triples(splits["train"])
    new_pairs = _motion_pairs(splits[split]) - _motion_pairs(splits["train"])
    assert len(new_triples) > 40
    assert len(new_pairs) >= 10
    assert not any(held_out(scene) for scene in splits["train"])
    share = np.mean([split in held_out(scene) for scene in splits[split]])
    assert share > 0.5


def test_val_shows_nothing_held_out_for_test(splits: Splits) -> None:
    assert not any("test" in held_out(scene) for scene in splits["val"])


def test_training_sees_every_word_and_every_pair_of_words(splits: Splits) -> None:
    assert _words(splits["test"]) <= _words(splits["train"])
    assert _words(splits["val"]) <= _words(splits["train"])
    triples = _triples(splits["train"])
    assert {(c, s) for c, s, _ in triples} == {(c, s) for c in COLOURS for s in SHAPES}
    assert {(c, m) for c, _, m in triples} == {(c, m) for c in COLOURS for m in MOTIONS}
    assert {(s, m) for _, s, m in triples} == {
        (s, m) for s in SHAPES for m in MOTIONS if not (s in ROUND and m == "turns")
    }


def test_test_captions_are_unambiguous(splits: Splits) -> None:
    rng = np.random.default_rng(1)
    owner: dict[str, int] = {}
    for i, scene in enumerate(splits["test"]):
        captions = {caption for _ in range(10) for caption in video_captions(scene, rng)}
        assert all(owner.setdefault(caption, i) == i for caption in captions)


def _reverse_of(scene: Scene) -> set[Scene]:
    found = set()
    for i, event in enumerate(scene.events):
        if event.motion in OPPOSITE:
            events = list(scene.events)
            events[i] = Event(event.thing, OPPOSITE[event.motion])
            found.add(make_scene(scene.kind, events))
    return found


def test_test_is_full_of_hard_negatives(splits: Splits) -> None:
    scenes = set(splits["test"])
    reversed_order = {
        scene
        for scene in scenes
        if scene.kind == "sequence" and make_scene("sequence", scene.events[::-1]) in scenes
    }
    backwards = {scene for scene in scenes if _reverse_of(scene) & scenes}
    assert len(reversed_order) > 80
    assert len(backwards) > 80


def test_hard_negatives_differ_in_one_respect() -> None:
    star, box = Thing("red", "star", "small"), Thing("blue", "square", "")
    scene = make_scene("sequence", [Event(star, "moves left"), Event(box, "grows")])
    rng = np.random.default_rng(0)
    for _ in range(20):
        changed = hard_negatives(scene, rng)
        assert changed["order"].events == scene.events[::-1]
        assert changed["direction"] in _reverse_of(scene)
        before, after = _flat(scene), _flat(changed["attribute"])
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def _flat(scene: Scene) -> list[str]:
    return [
        value
        for event in scene.events
        for value in (event.thing.colour, event.thing.shape, event.thing.size, event.motion)
    ]


def test_training_shows_scenes_beside_their_near_twins(splits: Splits) -> None:
    train = splits["train"]
    shown = set(train)
    rng = np.random.default_rng(0)
    twins = {"direction": 0, "order": 0, "attribute": 0}
    for scene in train:
        for name, other in hard_negatives(scene, rng).items():
            twins[name] += other in shown
    assert twins["direction"] > 0.2 * len(train)
    assert twins["order"] > 0.1 * len(train)
