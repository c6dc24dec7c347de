from dataclasses import replace

import numpy as np
import pytest

from gare_cache.demo.scenes import (
    COLOURS,
    MOTIONS,
    SHAPES,
    Event,
    Scene,
    Thing,
    is_drawable,
    make_scene,
    sample_scene,
)

SQUARE = Thing("red", "square", "small")
STAR = Thing("blue", "star", "large")


def _sequence(thing: Thing, first: str, second: str) -> Scene:
    return make_scene("sequence", [Event(thing, first), Event(thing, second)])


def test_sampled_scenes_are_drawable_and_use_every_word() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(600)]
    assert all(map(is_drawable, scenes))
    events = [event for scene in scenes for event in scene.events]
    assert {event.motion for event in events} == set(MOTIONS)
    assert {event.thing.colour for event in events} == set(COLOURS)
    assert {event.thing.shape for event in events} == set(SHAPES)
    assert {event.thing.size for event in events} == {"", "small", "large"}
    assert {(scene.kind, scene.one_thing) for scene in scenes} == {
        ("single", True),
        ("sequence", True),
        ("sequence", False),
        ("together", False),
    }


@pytest.mark.parametrize(
    "scene",
    [
        make_scene("single", [Event(replace(SQUARE, shape="circle"), "turns")]),
        make_scene("single", [Event(replace(SQUARE, shape="ring"), "turns")]),
        make_scene("single", [Event(SQUARE, "grows")]),
        make_scene("single", [Event(replace(SQUARE, size=""), "bounces")]),
        _sequence(SQUARE, "bounces", "bounces"),
        _sequence(SQUARE, "disappears", "moves up"),
        _sequence(SQUARE, "moves up", "appears"),
        make_scene("together", [Event(SQUARE, "moves up"), Event(SQUARE, "turns")]),
        make_scene(
            "sequence", [Event(SQUARE, "moves up"), Event(replace(SQUARE, size="large"), "turns")]
        ),
    ],
)
def test_what_cannot_be_seen_is_not_drawable(scene: Scene) -> None:
    assert not is_drawable(scene)


def test_order_is_part_of_a_sequence_and_not_of_together() -> None:
    events = [Event(SQUARE, "moves up"), Event(STAR, "turns")]
    assert make_scene("together", events) == make_scene("together", events[::-1])
    assert make_scene("sequence", events) != make_scene("sequence", events[::-1])
