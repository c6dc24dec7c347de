"""Stage a scene: draw places and times of its actors, then make pictures over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gare_cache.demo.drawing import Figure, Picture, Rgb, sample_background, sample_rgb
from gare_cache.demo.scenes import Scene, Thing

Series = NDArray[np.float64]

SMALL_RADIUS = (0.085, 0.105)
LARGE_RADIUS = (0.16, 0.185)
_PROBE = np.linspace(0, 1, 17)
_BORDER = 0.02
_ATTEMPTS = 12


@dataclass(frozen=True)
class Act:
    """A motion between two times of the video; `amount` is its distance, angle, ... ."""

    motion: str
    start: float
    end: float
    amount: float


@dataclass(frozen=True)
class Actor:
    """A thing with a place, and what it does; seen only within ``[enters, leaves]``."""

    thing: Thing
    rgb: Rgb
    x: float
    y: float
    radius: float
    angle: float
    acts: tuple[Act, ...]
    enters: float
    leaves: float


@dataclass(frozen=True)
class Track:
    """An actor over time, one entry a time."""

    x: Series
    y: Series
    radius: Series
    angle: Series
    seen: NDArray[np.bool_]


@dataclass(frozen=True)
class Take:
    """A scene made concrete: its captions fit it, but do not determine it."""

    background: Rgb
    actors: tuple[Actor, ...]


def stage(scene: Scene, rng: np.random.Generator) -> Take:
    """Draw a take: background, shades, places, sizes, distances and moments.

    In half of the sequences of two things each is on stage for its own event only, so that a bag
    of their frames says nothing about the order; in the others both stay. Of a few tries the one
    is kept in which the actors keep farthest apart.
    """
    background = sample_background(rng)
    middle = float(rng.uniform(0.47, 0.53)) if scene.kind == "sequence" else 1.0
    alone = len(scene.events) == 2 and scene.kind == "sequence" and bool(rng.random() < 0.5)
    spans = [(0.0, middle), (middle, 1.0)] if scene.kind == "sequence" else [(0.04, 0.96)] * 2
    if scene.one_thing:
        motions = [event.motion for event in scene.events]
        cast = [_cast(scene.events[0].thing, motions, spans, (0.0, 1.0), rng)]
    else:
        cast = [
            _cast(event.thing, [event.motion], [span], span if alone else (0.0, 1.0), rng)
            for event, span in zip(scene.events, spans, strict=True)
        ]
    tries = [tuple(_place(actor, rng) for actor in cast) for _ in range(_ATTEMPTS)]
    return Take(background, max(tries, key=_clearance))


def pictures(take: Take, times: Series) -> list[Picture]:
    """Show a take at the given times in [0, 1]."""
    tracks = [(actor, follow(actor, times)) for actor in take.actors]
    return [
        Picture(
            take.background,
            tuple(_figure(actor, track, i) for actor, track in tracks if track.seen[i]),
        )
        for i in range(len(times))
    ]


def follow(actor: Actor, times: Series) -> Track:
    """Compute where an actor is, how large, how turned and whether seen, at each time."""
    track = Track(
        np.full(len(times), actor.x),
        np.full(len(times), actor.y),
        np.full(len(times), actor.radius),
        np.full(len(times), actor.angle),
        (times >= actor.enters) & (times <= actor.leaves),
    )
    for act in actor.acts:
        progress = np.clip((times - act.start) / (act.end - act.start), 0, 1)
        _MOVES[act.motion](track, progress, act.amount)
    return track


def _cast(
    thing: Thing,
    motions: Sequence[str],
    spans: Sequence[tuple[float, float]],
    on_stage: tuple[float, float],
    rng: np.random.Generator,
) -> Actor:
    acts = tuple(
        Act(motion, *span, float(rng.uniform(*_AMOUNTS[motion])))
        for motion, span in zip(motions, spans, strict=False)
    )
    resizing = [motion for motion in motions if motion in ("grows", "shrinks")]
    begins_large = resizing[0] == "shrinks" if resizing else thing.size == "large"
    radius = float(rng.uniform(*(LARGE_RADIUS if begins_large else SMALL_RADIUS)))
    angle = float(rng.uniform(-0.25, 0.25))
    rgb = sample_rgb(thing.colour, rng)
    return Actor(thing, rgb, 0.0, 0.0, radius, angle, acts, *on_stage)


def _place(actor: Actor, rng: np.random.Generator) -> Actor:
    track = follow(actor, _PROBE)
    x, y = (float(rng.uniform(*_room(offset, track.radius))) for offset in (track.x, track.y))
    return replace(actor, x=x, y=y)


def _room(offset: Series, radius: Series) -> tuple[float, float]:
    """Bounds of a start such that start + offset, radius included, stays on the picture."""
    low = _BORDER - float((offset - radius).min())
    high = 1 - _BORDER - float((offset + radius).max())
    middle = (low + high) / 2
    return min(low, middle), max(high, middle)


def _clearance(actors: tuple[Actor, ...]) -> float:
    if len(actors) == 1:
        return 0.0
    first, second = (follow(actor, _PROBE) for actor in actors)
    gap = np.hypot(first.x - second.x, first.y - second.y) - first.radius - second.radius
    both = first.seen & second.seen
    return min(float(gap[both].min()), 0.08) if both.any() else 0.0


def _figure(actor: Actor, track: Track, i: int) -> Figure:
    return Figure(
        actor.thing.shape,
        actor.thing.colour,
        actor.rgb,
        float(track.x[i]),
        float(track.y[i]),
        float(track.radius[i]),
        float(track.angle[i]),
    )


def _shift_x(track: Track, progress: Series, amount: float) -> None:
    track.x[:] += amount * progress


def _shift_y(track: Track, progress: Series, amount: float) -> None:
    track.y[:] += amount * progress


def _resize(track: Track, progress: Series, amount: float) -> None:
    track.radius[:] += amount * progress


def _turn(track: Track, progress: Series, amount: float) -> None:
    track.angle[:] += amount * progress


def _bounce(track: Track, progress: Series, amount: float) -> None:
    # Three hops: an even number would be sampled at one height by four equidistant frames.
    track.y[:] -= amount * np.abs(np.sin(3 * math.pi * progress))


def _shake(track: Track, progress: Series, amount: float) -> None:
    track.x[:] += amount * np.sin(4 * math.pi * progress)


def _blink(track: Track, progress: Series, amount: float) -> None:
    track.seen[:] &= np.floor(amount * progress).astype(int) % 2 == 0


def _appear(track: Track, progress: Series, amount: float) -> None:
    track.seen[:] &= progress >= amount


def _disappear(track: Track, progress: Series, amount: float) -> None:
    track.seen[:] &= progress < amount


_MOVES: dict[str, Callable[[Track, Series, float], None]] = {
    "moves left": _shift_x,
    "moves right": _shift_x,
    "moves up": _shift_y,
    "moves down": _shift_y,
    "grows": _resize,
    "shrinks": _resize,
    "turns": _turn,
    "bounces": _bounce,
    "shakes": _shake,
    "blinks": _blink,
    "appears": _appear,
    "disappears": _disappear,
}
# Range of `amount`: picture sides, radians, spells of being seen and not, share of the act.
_AMOUNTS = {
    "moves left": (-0.55, -0.38),
    "moves right": (0.38, 0.55),
    "moves up": (-0.55, -0.38),
    "moves down": (0.38, 0.55),
    "grows": (0.07, 0.085),
    "shrinks": (-0.085, -0.07),
    "turns": (2.2, 3.2),
    "bounces": (0.2, 0.32),
    "shakes": (0.1, 0.16),
    "blinks": (4.0, 4.5),
    "appears": (0.35, 0.65),
    "disappears": (0.35, 0.65),
}
