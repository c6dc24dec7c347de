"""Draw pictures of coloured shapes: signed distances to antialiased pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Rgb = tuple[float, float, float]

PALETTE: dict[str, Rgb] = {
    "red": (214.0, 40.0, 40.0),
    "orange": (243.0, 140.0, 24.0),
    "yellow": (245.0, 222.0, 50.0),
    "green": (44.0, 160.0, 60.0),
    "blue": (40.0, 84.0, 214.0),
    "purple": (138.0, 52.0, 166.0),
    "white": (242.0, 242.0, 242.0),
    "black": (18.0, 18.0, 18.0),
}
_REACH = 1.3  # no shape reaches farther from its centre, in radii


@dataclass(frozen=True)
class Figure:
    """A shape on a picture; lengths in units of the picture's side, y pointing down."""

    shape: str
    colour: str
    rgb: Rgb
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Picture:
    """What one frame shows: figures on a plain background, the last one on top."""

    background: Rgb
    figures: tuple[Figure, ...]


def sample_background(rng: np.random.Generator) -> Rgb:
    """Draw a plain mid-tone, slightly tinted, that every colour of the palette stands out from."""
    red, green, blue = rng.uniform(75, 180) + rng.uniform(-18, 18, 3)
    return float(red), float(green), float(blue)


def sample_rgb(colour: str, rng: np.random.Generator) -> Rgb:
    """Draw a shade of a named colour."""
    red, green, blue = np.clip(np.array(PALETTE[colour]) + rng.uniform(-14, 14, 3), 0, 255)
    return float(red), float(green), float(blue)


def draw(picture: Picture, *, size: int = 96) -> Pixels:
    """Paint a picture.

    Args:
        picture: what to paint.
        size: side of the square in pixels.

    Returns:
        ``[size, size, 3]`` uint8 RGB.
    """
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = picture.background
    for figure in picture.figures:
        _paint(canvas, figure, size)
    return (canvas + 0.5).astype(np.uint8)


def _paint(canvas: Floats, figure: Figure, size: int) -> None:
    reach = figure.radius * _REACH * size + 1
    left, right = _span(figure.x * size, reach, size)
    top, bottom = _span(figure.y * size, reach, size)
    if left >= right or top >= bottom:
        return
    radius = np.float32(figure.radius * size)
    u = ((np.arange(left, right, dtype=np.float32) + 0.5 - figure.x * size) / radius)[None, :]
    v = ((np.arange(top, bottom, dtype=np.float32) + 0.5 - figure.y * size) / radius)[:, None]
    cos, sin = math.cos(figure.angle), math.sin(figure.angle)
    distance = _DISTANCES[figure.shape](cos * u + sin * v, cos * v - sin * u)
    cover = np.clip(0.5 - distance * radius, 0, 1)[..., None]
    patch = canvas[top:bottom, left:right]
    patch += cover * (np.array(figure.rgb, np.float32) - patch)


def _span(centre: float, reach: float, size: int) -> tuple[int, int]:
    return max(0, math.floor(centre - reach)), min(size, math.ceil(centre + reach))


def _circle(u: Floats, v: Floats) -> Floats:
    return np.hypot(u, v) - np.float32(1)


def _ring(u: Floats, v: Floats) -> Floats:
    from_centre_line: Floats = np.abs(np.hypot(u, v) - np.float32(0.8))
    return from_centre_line - np.float32(0.21)


def _square(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(0.84)


def _triangle(u: Floats, v: Floats) -> Floats:
    slanted = np.float32(math.sqrt(3) / 2) * np.abs(u) - np.float32(0.5) * v
    return np.maximum(slanted, v) - np.float32(0.58)


def _cross(u: Floats, v: Floats) -> Floats:
    across, along = np.abs(u), np.abs(v)
    horizontal = np.maximum(across - np.float32(1), along - np.float32(0.3))
    vertical = np.maximum(across - np.float32(0.3), along - np.float32(1))
    return np.minimum(horizontal, vertical)


def _star(u: Floats, v: Floats) -> Floats:
    step = 2 * math.pi / 5
    turned = np.arctan2(u, -v) + np.float32(step / 2)
    folded = np.abs(np.mod(turned, np.float32(step)) - np.float32(step / 2))
    rho = np.hypot(u, v)
    tip, notch = 1.2, 0.5
    across, along = notch * math.sin(step / 2), notch * math.cos(step / 2) - tip
    edge = math.hypot(across, along)
    gap = (rho * np.cos(folded) - np.float32(tip)) * np.float32(across / edge)
    return (gap - rho * np.sin(folded) * np.float32(along / edge)).astype(np.float32, copy=False)


_DISTANCES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}
