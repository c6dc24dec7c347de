"""Single frames and what they show, for training the demo's CLIP: nothing moves here."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image

from gare_cache.demo.captions import name_thing
from gare_cache.demo.drawing import (
    Figure,
    Picture,
    Pixels,
    draw,
    sample_background,
    sample_rgb,
)
from gare_cache.demo.scenes import COLOURS, SHAPES, pick
from tools.demo_clip.strangers import with_strangers

_NUM_FIGURES = (0.01, 0.39, 0.6)  # shares of stills with none, one and two figures
_BELOW_SMALL, _ABOVE_LARGE = 0.115, 0.15  # radii; between them no size word is used
_INNER = (0.38, 0.62)  # the middle of the picture, along either axis
_PREFIXES = ("", "", "", "a picture of ", "an image with ", "there is ")
_SHARE_OF_GROUPS = (0.4, 0.25)  # of the pictures, without and with strangers
_GROUP_PLACES = 4
_OPPOSITE_SIDE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def sample_still(rng: np.random.Generator, *, num_figures: int | None = None) -> Picture:
    """Draw a picture of figures anywhere, of any size and turn.

    Args:
        rng: source of chance.
        num_figures: 0, 1 or 2; by default 1 %, 39 % and 60 %.
    """
    count = int(rng.choice(3, p=_NUM_FIGURES)) if num_figures is None else num_figures
    background = sample_background(rng)
    while True:
        figures = tuple(_sample_figure(rng) for _ in range(count))
        if count < 2 or _tell_apart(*figures):
            return Picture(background, figures)


def twins(picture: Picture) -> dict[str, Picture]:
    """Make the pictures that only order or binding tells from one of two figures.

    Returns:
        ``places``: the figures change places; ``colours``: they change colours. A change that
        shows the same again is left out.
    """
    first, second = picture.figures
    changed = {
        "places": (replace(first, x=second.x, y=second.y), replace(second, x=first.x, y=first.y))
    }
    if first.colour != second.colour and first.shape != second.shape:
        changed["colours"] = (
            replace(first, colour=second.colour, rgb=second.rgb),
            replace(second, colour=first.colour, rgb=first.rgb),
        )
    return {name: replace(picture, figures=figures) for name, figures in changed.items()}


def frame_caption(picture: Picture, rng: np.random.Generator, *, relation: bool = False) -> str:
    """Describe what a single frame shows, without words of motion or order.

    The draws from `rng` do not depend on colours and places, so that a generator of the same
    seed words a twin in the same way.

    Args:
        picture: what is shown.
        rng: chooses the template, the synonyms and what is left unsaid.
        relation: for two figures, always state how one lies to the other.
    """
    prefix = pick(_PREFIXES, rng)
    if not picture.figures:
        return f"{prefix}an empty background"
    if len(picture.figures) == 1:
        figure = picture.figures[0]
        place = f" {_place(figure, rng)}" if rng.random() < 0.6 else ""
        return f"{prefix}{_name(figure, rng)}{place}"
    one, two = picture.figures if rng.random() < 0.5 else picture.figures[::-1]
    first, second = _name(one, rng), _name(two, rng)
    places = [_place(figure, rng) for figure in (one, two)]
    style = rng.random()
    if style < (0.6 if relation else 0.35):
        return f"{prefix}{first} {_side(one, two)} {second}"
    if relation or style < 0.6:
        return f"{prefix}{first} {places[0]} and {_side(one, two)} {second} {places[1]}"
    if style < 0.9:
        return f"{prefix}{first} {places[0]} and {second} {places[1]}"
    return f"{prefix}{first} and {second}"


def sample_pairs(
    count: int, rng: np.random.Generator, *, strangers: bool = False
) -> tuple[list[Pixels], list[str]]:
    """Draw a batch of compressed frames with their captions.

    A part of the pictures comes four times with the figures at other places, those of two figures
    with their twins: in such a group the things tell nothing, place, order and binding all.

    Args:
        count: frames, and captions.
        rng: source of chance.
        strangers: put words that say nothing about a frame into many captions, most of all into
            those that name the figures alone.

    Returns:
        `count` uint8 frames as they would come out of a video, and `count` captions.
    """
    frames: list[Pixels] = []
    captions: list[str] = []
    while len(frames) < count:
        for picture, caption in _sample_group(rng, strangers=strangers):
            frames.append(compress(draw(picture), rng))
            captions.append(caption)
    return frames[:count], captions[:count]


def _sample_group(rng: np.random.Generator, *, strangers: bool) -> Iterator[tuple[Picture, str]]:
    picture = sample_still(rng)
    if picture.figures and rng.random() < _SHARE_OF_GROUPS[strangers]:
        for _ in range(_GROUP_PLACES):
            moved = _place_anew(picture, rng)
            others = twins(moved).values() if len(moved.figures) == 2 else ()
            for shown in (moved, *others):
                caption = _placed_caption(shown, rng)
                if strangers and rng.random() < 0.4:
                    caption = with_strangers(caption, rng)
                yield shown, caption
    elif strangers and rng.random() < 0.7:
        yield picture, with_strangers(_names_alone(picture, rng), rng)
    else:
        yield picture, frame_caption(picture, rng)


def compress(frame: Pixels, rng: np.random.Generator) -> Pixels:
    """Imitate video compression: JPEG of a random quality, halved colour resolution included."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=int(rng.integers(50, 96)))
    return np.asarray(Image.open(buffer))


def swapped_relation(caption: str) -> str:
    """Turn the relation of a caption around: true words in the wrong order.

    Raises:
        ValueError: the caption states no relation.
    """
    for side, other in _OPPOSITE_SIDE.items():
        if f" {side} " in caption:
            return caption.replace(f" {side} ", f" {other} ")
    raise ValueError(f"no relation in {caption!r}")


def _place_anew(picture: Picture, rng: np.random.Generator) -> Picture:
    while True:
        figures = tuple(
            replace(
                figure,
                x=float(rng.uniform(figure.radius, 1 - figure.radius)),
                y=float(rng.uniform(figure.radius, 1 - figure.radius)),
            )
            for figure in picture.figures
        )
        if len(figures) < 2 or _tell_apart(*figures):
            return replace(picture, figures=figures)


def _placed_caption(picture: Picture, rng: np.random.Generator) -> str:
    if len(picture.figures) == 2:
        return frame_caption(picture, rng, relation=True)
    return f"{_name(picture.figures[0], rng)} {_place(picture.figures[0], rng)}"


def _names_alone(picture: Picture, rng: np.random.Generator) -> str:
    names = [_name(figure, rng) for figure in picture.figures]
    if len(names) == 2 and rng.random() < 0.5:
        names.reverse()
    joined = pick((" and ", " ", " "), rng).join(names) if names else "an empty background"
    return pick(_PREFIXES, rng) + joined


def _sample_figure(rng: np.random.Generator) -> Figure:
    colour, radius = pick(COLOURS, rng), float(rng.uniform(0.075, 0.195))
    x, y = rng.uniform(radius, 1 - radius, 2)
    angle = rng.uniform(-0.3, 0.3) if rng.random() < 0.6 else rng.uniform(-np.pi, np.pi)
    rgb = sample_rgb(colour, rng)
    return Figure(pick(SHAPES, rng), colour, rgb, float(x), float(y), radius, float(angle))


def _tell_apart(first: Figure, second: Figure) -> bool:
    dx, dy = abs(first.x - second.x), abs(first.y - second.y)
    overlap = first.radius + second.radius - np.hypot(dx, dy)
    looks_differ = (first.colour, first.shape) != (second.colour, second.shape)
    return bool(looks_differ and overlap < 0.03 and max(dx, dy) > 1.3 * min(dx, dy))


def _name(figure: Figure, rng: np.random.Generator) -> str:
    size = ""
    if figure.radius < _BELOW_SMALL:
        size = "small"
    elif figure.radius > _ABOVE_LARGE:
        size = "large"
    return name_thing(figure.colour, figure.shape, size if rng.random() < 0.7 else "", rng)


def _place(figure: Figure, rng: np.random.Generator) -> str:
    across = _third(figure.x, "left", "right")
    along = _third(figure.y, "top", "bottom")
    centre = pick(("in the middle", "in the centre"), rng)
    if along:
        return f"at the {along} {across}".rstrip()
    return f"on the {across}" if across else centre


def _third(position: float, low: str, high: str) -> str:
    if position < _INNER[0]:
        return low
    return high if position > _INNER[1] else ""


def _side(first: Figure, second: Figure) -> str:
    if abs(first.x - second.x) > abs(first.y - second.y):
        return "left of" if first.x < second.x else "right of"
    return "above" if first.y < second.y else "below"
