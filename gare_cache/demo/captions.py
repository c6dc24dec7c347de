"""Captions of scenes: the things, their motions, and the order of the motions."""

from __future__ import annotations

import numpy as np

from gare_cache.demo.scenes import COLOURS, Event, Scene, Thing, pick

CAPTIONS_PER_VIDEO = 3
VERBS: dict[str, tuple[str, ...]] = {
    "moves left": ("moves left", "moves to the left", "glides left", "slides to the left"),
    "moves right": ("moves right", "moves to the right", "glides right", "slides to the right"),
    "moves up": ("moves up", "rises", "glides up", "slides upwards"),
    "moves down": ("moves down", "sinks", "glides down", "slides downwards"),
    "grows": ("grows", "gets bigger", "expands"),
    "shrinks": ("shrinks", "gets smaller", "contracts"),
    "turns": ("turns", "spins", "rotates"),
    "bounces": ("bounces", "hops", "jumps"),
    "shakes": ("shakes", "wobbles", "trembles"),
    "blinks": ("blinks", "flashes", "flickers"),
    "appears": ("appears", "shows up", "comes into view"),
    "disappears": ("disappears", "vanishes", "goes away"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
SHAPE_WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
}

_PREFIXES = ("", "", "", "", "a video in which ", "a short clip where ", "here ", "we see how ")
_TWO_THINGS = {
    "sequence": (
        "{first}, then {second}",
        "{first} and then {second}",
        "first {first}, then {second}",
        "after {first}, {second}",
        "{first} before {second}",
        "{second} after {first}",
    ),
    "together": (
        "{first} while {second}",
        "{first} and {second} at the same time",
        "as {first}, {second}",
        "{first}, meanwhile {second}",
    ),
}
_ONE_THING = (
    "{thing} {first} and then {second}",
    "{thing} {first}, then it {second}",
    "{thing} first {first}, then {second}",
    "after {thing} {first}, it {second}",
    "{thing} {first} before it {second}",
)
# Words of the captions that a single frame may use too.
_STATIC_WORDS = frozenset({"left", "right", "to", "the", "and"})
MOTION_WORDS = (
    frozenset(" ".join(verb for verbs in VERBS.values() for verb in verbs).split()) - _STATIC_WORDS
)
ORDER_WORDS = frozenset(
    {"first", "then", "after", "before", "while", "same", "time", "as", "meanwhile", "it"}
)
# Every word that a caption of a video or of a frame may hold.
CAPTION_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "to",
        "in",
        "on",
        "at",
        "and",
        "is",
        "see",
        "there",
        "here",
        "picture",
        "image",
        "with",
        "video",
        "which",
        "short",
        "clip",
        "where",
        "we",
        "how",
        "left",
        "right",
        "above",
        "below",
        "top",
        "bottom",
        "middle",
        "centre",
        "empty",
        "background",
    ]
).union(MOTION_WORDS, ORDER_WORDS, COLOURS, *SIZE_WORDS.values(), *SHAPE_WORDS.values())


def video_captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Describe a scene in three different sentences.

    Every caption states the whole scene: kind, colours, shapes, sizes where they stay, motions
    and their order; so different scenes never share a caption.

    Args:
        scene: what the video shows.
        rng: chooses templates and synonyms.
    """
    captions: list[str] = []
    while len(captions) < CAPTIONS_PER_VIDEO:
        caption = pick(_PREFIXES, rng) + _sentence(scene, rng)
        if caption not in captions:
            captions.append(caption)
    return captions


def name_thing(colour: str, shape: str, size: str, rng: np.random.Generator) -> str:
    """Name a thing with its article, for example ``a tiny red disc``; `size` may be empty."""
    words = [pick(SIZE_WORDS[size], rng)] if size else []
    words += [colour, pick(SHAPE_WORDS[shape], rng)]
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def _sentence(scene: Scene, rng: np.random.Generator) -> str:
    if scene.kind == "single":
        return _clause(scene.events[0], rng)
    if scene.one_thing:
        first, second = (pick(VERBS[event.motion], rng) for event in scene.events)
        thing = _name(scene.events[0].thing, rng)
        return pick(_ONE_THING, rng).format(thing=thing, first=first, second=second)
    clauses = [_clause(event, rng) for event in scene.events]
    if scene.kind == "together" and rng.random() < 0.5:
        clauses.reverse()
    return pick(_TWO_THINGS[scene.kind], rng).format(first=clauses[0], second=clauses[1])


def _clause(event: Event, rng: np.random.Generator) -> str:
    return f"{_name(event.thing, rng)} {pick(VERBS[event.motion], rng)}"


def _name(thing: Thing, rng: np.random.Generator) -> str:
    return name_thing(thing.colour, thing.shape, thing.size, rng)
