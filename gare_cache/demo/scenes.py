"""The grammar of the demo's scenes: things that do one thing, or two after or beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SIZES = ("small", "large")
MOTIONS = (
    "moves left",
    "moves right",
    "moves up",
    "moves down",
    "grows",
    "shrinks",
    "turns",
    "bounces",
    "shakes",
    "blinks",
    "appears",
    "disappears",
)
KINDS = ("single", "sequence", "together")
RESIZING = frozenset({"grows", "shrinks"})
ROUND = frozenset({"circle", "ring"})
OPPOSITE = {
    "moves left": "moves right",
    "moves right": "moves left",
    "moves up": "moves down",
    "moves down": "moves up",
    "grows": "shrinks",
    "shrinks": "grows",
    "appears": "disappears",
    "disappears": "appears",
}

_KIND_WEIGHTS = (0.25, 0.5, 0.25)
_SAME_THING = 0.3  # share of sequences in which one thing does both

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class Thing:
    """A coloured shape; `size` is empty where the size changes, so that no caption states it."""

    colour: str
    shape: str
    size: str


@dataclass(frozen=True, order=True)
class Event:
    """A thing and what it does."""

    thing: Thing
    motion: str


@dataclass(frozen=True)
class Scene:
    """The true description of a video: two equal scenes may carry each other's captions.

    Attributes:
        kind: ``single``, ``sequence`` (the second event follows the first) or ``together``.
        events: one event, or two; sorted for ``together``, where the order means nothing.
    """

    kind: str
    events: tuple[Event, ...]

    @property
    def one_thing(self) -> bool:
        """Whether a single thing does everything."""
        return len({event.thing for event in self.events}) == 1


def make_scene(kind: str, events: Sequence[Event]) -> Scene:
    """Build a scene in its canonical form."""
    return Scene(kind, tuple(sorted(events) if kind == "together" else events))


def is_drawable(scene: Scene) -> bool:
    """Return whether the scene can be recognised from its pictures.

    Nothing round turns; a size is stated exactly where it does not change; two things differ in
    colour or shape; one thing does not do the same twice, vanish first or appear last.
    """
    if not all(_is_visible(event, scene) for event in scene.events):
        return False
    if scene.kind == "single":
        return len(scene.events) == 1
    first, second = scene.events
    if not scene.one_thing:
        looks = {(event.thing.colour, event.thing.shape) for event in scene.events}
        return len(looks) == 2
    return (
        scene.kind == "sequence"
        and first.motion not in (second.motion, "disappears")
        and second.motion != "appears"
    )


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a drawable scene: a quarter single, half sequences, a quarter together."""
    while True:
        kind = KINDS[rng.choice(len(KINDS), p=_KIND_WEIGHTS)]
        motions = [pick(MOTIONS, rng) for _ in range(1 if kind == "single" else 2)]
        if kind == "sequence" and rng.random() < _SAME_THING:
            thing = sample_thing(rng, sized=RESIZING.isdisjoint(motions))
            events = [Event(thing, motion) for motion in motions]
        else:
            events = [
                Event(sample_thing(rng, sized=motion not in RESIZING), motion) for motion in motions
            ]
        scene = make_scene(kind, events)
        if is_drawable(scene):
            return scene


def sample_thing(rng: np.random.Generator, *, sized: bool) -> Thing:
    """Draw a thing, with a size or without."""
    return Thing(pick(COLOURS, rng), pick(SHAPES, rng), pick(SIZES, rng) if sized else "")


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """Draw one of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def _is_visible(event: Event, scene: Scene) -> bool:
    motions = {other.motion for other in scene.events if other.thing == event.thing}
    sized = event.thing.size != ""
    return sized == RESIZING.isdisjoint(motions) and not (
        event.motion == "turns" and event.thing.shape in ROUND
    )
