"""Splits of scenes: combinations held out from training, and groups of hard negatives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gare_cache.demo.scenes import (
    COLOURS,
    MOTIONS,
    OPPOSITE,
    SHAPES,
    SIZES,
    Event,
    Scene,
    Thing,
    is_drawable,
    make_scene,
    pick,
    sample_scene,
)

SPLITS = ("train", "val", "test")


def held_out(scene: Scene) -> frozenset[str]:
    """Name the splits that own a combination of this scene; training shows scenes of none.

    Two kinds of combination are held out, for val and for test each: one in eight of colour x
    shape x motion, and one in six of the ordered pairs of motions of a sequence. Both rules are
    Latin squares: every word, and every colour x shape, colour x motion and shape x motion,
    remains in training.
    """
    owners = set()
    for event in scene.events:
        residue = (
            COLOURS.index(event.thing.colour)
            + 3 * SHAPES.index(event.thing.shape)
            + 5 * MOTIONS.index(event.motion)
        ) % len(COLOURS)
        owners.add({0: "test", 1: "val"}.get(residue, ""))
    if scene.kind == "sequence":
        first, second = (MOTIONS.index(event.motion) for event in scene.events)
        residue = (first + 7 * second + 3) % len(MOTIONS)
        owners.add({0: "test", 1: "test", 6: "val", 7: "val"}.get(residue, ""))
    return frozenset(owners - {""})


def hard_negatives(scene: Scene, rng: np.random.Generator) -> dict[str, Scene]:
    """Return the variants of a scene that differ in a single property.

    Returns:
        ``direction``: one event runs backwards; ``order``: the events of a sequence change
        places; ``attribute``: one thing has another colour, shape or size. Those that cannot be
        drawn, or mean the same, are left out.
    """
    changed = {"attribute": _change_attribute(scene, rng)}
    reversible = [i for i, event in enumerate(scene.events) if event.motion in OPPOSITE]
    if reversible:
        index = pick(reversible, rng)
        events = list(scene.events)
        events[index] = replace(events[index], motion=OPPOSITE[events[index].motion])
        changed["direction"] = make_scene(scene.kind, events)
    if scene.kind == "sequence":
        changed["order"] = make_scene(scene.kind, scene.events[::-1])
    return {name: other for name, other in changed.items() if other != scene and is_drawable(other)}


def sample_splits(
    *, num_train: int, num_val: int, num_test: int, seed: int
) -> dict[str, list[Scene]]:
    """Draw the scenes of the three splits, no scene twice anywhere.

    Every group of val and test is a scene with a held-out combination of that split, followed by
    its hard negatives; train holds families of the same kind; val shows no combination held out
    for test, train none of either.

    Args:
        num_train: videos of training.
        num_val: videos of validation.
        num_test: videos of test.
        seed: fixes the choice.

    Returns:
        Split name -> scenes, in the order of `SPLITS`.
    """
    rng = np.random.default_rng((seed, 1))
    taken: set[Scene] = set()
    test = _sample_groups("test", num_test, taken, rng)
    val = _sample_groups("val", num_val, taken, rng)
    return {"train": _sample_families(num_train, taken, rng), "val": val, "test": test}


def _sample_groups(
    split: str, count: int, taken: set[Scene], rng: np.random.Generator
) -> list[Scene]:
    scenes: list[Scene] = []
    while len(scenes) < count:
        base = sample_scene(rng)
        group = [base, *hard_negatives(base, rng).values()]
        if split not in held_out(base) or taken.intersection(group):
            continue
        if split == "val" and any("test" in held_out(scene) for scene in group):
            continue
        group = group[: count - len(scenes)]
        taken.update(group)
        scenes += group
    return scenes


def _sample_families(count: int, taken: set[Scene], rng: np.random.Generator) -> list[Scene]:
    """Draw scenes, each followed by those of its hard negatives that training may show.

    Among scenes at random the things alone tell a batch apart; beside its near twins a scene is
    told only by what happens in it.
    """
    scenes: list[Scene] = []
    while len(scenes) < count:
        base = sample_scene(rng)
        family = [base, *hard_negatives(base, rng).values()]
        fresh = [scene for scene in family if not held_out(scene) and scene not in taken]
        if len(fresh) > 1:
            taken.update(fresh)
            scenes += fresh
    return scenes[:count]


def _change_attribute(scene: Scene, rng: np.random.Generator) -> Scene:
    target = pick(scene.events, rng).thing
    attribute = pick(("colour", "shape", "size") if target.size else ("colour", "shape"), rng)
    values = {"colour": COLOURS, "shape": SHAPES, "size": SIZES}[attribute]
    other = pick([value for value in values if value != getattr(target, attribute)], rng)
    changed: Thing = replace(target, **{attribute: other})
    events = [
        Event(changed, event.motion) if event.thing == target else event for event in scene.events
    ]
    return make_scene(scene.kind, events)
