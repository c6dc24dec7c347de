from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from gare_cache.demo.drawing import PALETTE, Figure, Picture, Pixels, draw
from gare_cache.demo.scenes import COLOURS, SHAPES, Event, Thing, make_scene, sample_scene
from gare_cache.demo.staging import pictures, stage

GREY = (120.0, 120.0, 120.0)
TIMES = (np.arange(16) + 0.5) / 16


def _figure(shape: str = "circle") -> Figure:
    return Figure(shape, "red", PALETTE["red"], 0.5, 0.5, 0.2, 0.0)


def _mask(frame: Pixels) -> NDArray[np.bool_]:
    """Pixels that differ from the background in the corner."""
    return np.abs(frame.astype(int) - frame[0, 0].astype(int)).sum(axis=2) > 60


def _film(motion: str, seed: int = 0, size: str = "small") -> list[Pixels]:
    scene = make_scene("single", [Event(Thing("red", "star", size), motion)])
    take = stage(scene, np.random.default_rng(seed))
    return [draw(picture) for picture in pictures(take, TIMES)]


def _centre(frame: Pixels) -> NDArray[np.float64]:
    return np.argwhere(_mask(frame)).mean(axis=0)


def test_a_circle_has_its_area_and_colour() -> None:
    frame = draw(Picture(GREY, (_figure(),)), size=100)
    assert frame.shape == (100, 100, 3)
    assert frame.dtype == np.uint8
    assert tuple(frame[50, 50]) == tuple(int(value) for value in PALETTE["red"])
    assert tuple(frame[0, 0]) == (120, 120, 120)
    assert _mask(frame).sum() == pytest.approx(np.pi * 20**2, rel=0.05)


def test_edges_are_antialiased() -> None:
    frame = draw(Picture(GREY, (_figure(),)), size=100)
    assert len(np.unique(frame[..., 0])) > 10


def test_every_shape_stays_near_its_radius_and_differs() -> None:
    masks = {shape: _mask(draw(Picture(GREY, (_figure(shape),)))) for shape in SHAPES}
    for mask in masks.values():
        rows, columns = np.nonzero(mask)
        reach = np.hypot(rows - 47.5, columns - 47.5).max() / 96
        assert 0.15 < reach < 0.27
    flat = {mask.tobytes() for mask in masks.values()}
    assert len(flat) == len(SHAPES)


def test_an_angle_turns_the_shape_and_figures_may_leave_the_picture() -> None:
    upright, turned = _figure("triangle"), replace(_figure("triangle"), angle=1.0)
    assert (draw(Picture(GREY, (upright,))) != draw(Picture(GREY, (turned,)))).any()
    outside = replace(_figure(), x=2.0)
    assert not _mask(draw(Picture(GREY, (outside,)))).any()


@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [
        ("moves left", 1, -1),
        ("moves right", 1, 1),
        ("moves up", 0, -1),
        ("moves down", 0, 1),
    ],
)
def test_a_moving_thing_moves_the_named_way(motion: str, axis: int, sign: int) -> None:
    for seed in range(5):
        film = _film(motion, seed)
        travel = _centre(film[-1]) - _centre(film[0])
        assert sign * travel[axis] > 30
        assert abs(travel[1 - axis]) < 3


@pytest.mark.parametrize(("motion", "sign"), [("grows", 1), ("shrinks", -1)])
def test_a_thing_grows_and_shrinks(motion: str, sign: int) -> None:
    film = _film(motion, size="")
    ratio = _mask(film[-1]).sum() / _mask(film[0]).sum()
    assert ratio**sign > 2


def test_a_thing_appears_disappears_and_blinks() -> None:
    seen = {
        motion: "".join("x" if _mask(frame).any() else "-" for frame in _film(motion))
        for motion in ("appears", "disappears", "blinks")
    }
    assert seen["appears"].strip("-") == seen["appears"].lstrip("-") != seen["appears"]
    assert seen["disappears"].strip("-") == seen["disappears"].rstrip("-") != seen["disappears"]
    assert "x-" in seen["blinks"]
    assert "-x" in seen["blinks"]


def test_a_thing_turns_bounces_and_shakes_around_one_place() -> None:
    turning = _film("turns")
    assert np.abs(_centre(turning[-1]) - _centre(turning[0])).max() < 2
    assert (_mask(turning[0]) != _mask(turning[3])).any()
    for motion, axis in (("bounces", 0), ("shakes", 1)):
        path = np.array([_centre(frame) for frame in _film(motion)])
        assert np.ptp(path[:, axis]) > 10
        assert np.ptp(path[:, 1 - axis]) < 2


def test_events_of_a_sequence_follow_each_other() -> None:
    star, ring = Thing("red", "star", "small"), Thing("blue", "ring", "large")
    scene = make_scene("sequence", [Event(star, "moves left"), Event(ring, "moves up")])
    lone = 0
    for seed in range(20):
        take = stage(scene, np.random.default_rng(seed))
        film = pictures(take, TIMES)
        lone += all(len(picture.figures) == 1 for picture in film)
        places = {
            shape: [(f.x, f.y) for p in film for f in p.figures if f.shape == shape]
            for shape in ("star", "ring")
        }
        assert places["star"][0][0] - places["star"][6][0] > 0.2
        assert places["ring"][-7][1] - places["ring"][-1][1] > 0.2
        if len(places["ring"]) == 16:
            assert places["ring"][0] == places["ring"][6]
            assert places["star"][-7] == places["star"][-1]
    assert 3 < lone < 17


def test_things_stay_on_the_picture() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        for picture in pictures(stage(sample_scene(rng), rng), TIMES):
            for figure in picture.figures:
                assert figure.x - figure.radius > 0
                assert figure.x + figure.radius < 1
                assert figure.y - figure.radius > 0
                assert figure.y + figure.radius < 1


def test_takes_of_one_scene_differ() -> None:
    scene = make_scene("single", [Event(Thing("red", "star", "small"), "moves left")])
    one, other = (stage(scene, np.random.default_rng(seed)) for seed in (0, 1))
    assert one.background != other.background
    assert one.actors[0].x != other.actors[0].x


def test_every_colour_stands_out_from_every_background() -> None:
    rng = np.random.default_rng(0)
    for colour in COLOURS:
        for _ in range(30):
            picture = pictures(
                stage(
                    make_scene("single", [Event(Thing(colour, "square", "large"), "shakes")]), rng
                ),
                TIMES,
            )[0]
            contrast = np.abs(np.subtract(picture.figures[0].rgb, picture.background)).sum()
            assert contrast > 60
