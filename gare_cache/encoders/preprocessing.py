"""Frames of any size -> pixels of the model's size, with PIL, exactly as open_clip does it.

The part that runs in the workers that decode: it imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gare_cache.errors import ConfigError, unknown_name

Frames = npt.NDArray[np.uint8]

KINDS = ("exact", "device")
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """How frames become the model's input.

    Attributes:
        kind: ``exact``: the model's own transform, resizing with PIL; ``device``: resizing with
            torch where the model runs, within 2 grey levels of it.
        size: height and width of the model's input, in pixels.
        mean: what is subtracted from each channel, on a scale of 0 to 1.
        std: what each channel is divided by.
        interpolation: ``bilinear`` or ``bicubic``.
        resize_mode: which edge is made to fit: ``shortest`` (the rest is cut off), ``longest``
            (the rest is filled), or both (``squash``).
        fill: grey level of what lies outside the frame.
    """

    kind: str
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str
    fill: int

    def shrink(self, frames: Frames) -> Frames:
        """Do what is to be done before frames travel to the process of the model.

        Args:
            frames: (F, H, W, 3) RGB.

        Returns:
            For ``exact`` (F, height, width, 3), resized and cropped, for ``device`` the frames.
        """
        if self.kind == "device":
            return frames
        height, width = self.resized(*frames.shape[1:3])
        resampling = _RESAMPLING[self.interpolation]
        return np.stack(
            [
                self.fitted(np.asarray(Image.fromarray(frame).resize((width, height), resampling)))
                for frame in frames
            ]
        )

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width to which a frame is resized before it is cropped."""
        target_height, target_width = self.size
        if self.resize_mode == "squash":
            return self.size
        if self.resize_mode == "shortest" and target_height == target_width:
            if width <= height:
                return int(target_width * height / width), target_width
            return target_height, int(target_height * width / height)
        ratios = (height / target_height, width / target_width)
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def fitted(self, image: Frames) -> Frames:
        """Cut or fill a resized (height, width, 3) frame to ``size`` about its centre."""
        rows, columns = map(centred, image.shape[:2], self.size)
        if rows.filled == columns.filled == (0, 0):
            return image[rows.kept, columns.kept]
        padded = np.pad(image, (rows.filled, columns.filled, (0, 0)), constant_values=self.fill)
        return padded[rows.kept, columns.kept]


@dataclass(frozen=True)
class Margins:
    """How a line of pixels comes to another length about its centre.

    Attributes:
        filled: pixels added before and after it.
        kept: what is kept of the longer line.
    """

    filled: tuple[int, int]
    kept: slice


def centred(length: int, target: int) -> Margins:
    """Return the margins that bring ``length`` pixels to ``target``."""
    missing = max(0, target - length)
    start = round((length + missing - target) / 2)
    return Margins((missing // 2, (missing + 1) // 2), slice(start, start + target))


def preprocessing_of(config: Any, kind: str) -> Preprocessing:
    """Take the constants from an open_clip ``PreprocessCfg``.

    Raises:
        ConfigError: the kind is unknown.
    """
    if kind not in KINDS:
        raise ConfigError(unknown_name("preprocessing", kind, KINDS))
    height, width = (config.size, config.size) if isinstance(config.size, int) else config.size
    # open_clip resizes to an input that is not square with its default alone.
    heeded = config.resize_mode != "shortest" or height == width
    bilinear = config.interpolation == "bilinear" and heeded
    return Preprocessing(
        kind=kind,
        size=(height, width),
        mean=_by_channel(config.mean),
        std=_by_channel(config.std),
        interpolation="bilinear" if bilinear else "bicubic",
        resize_mode=config.resize_mode,
        fill=config.fill_color if config.resize_mode == "longest" else 0,
    )


def _by_channel(value: Any) -> tuple[float, ...]:
    return tuple(np.broadcast_to(value, 3).tolist())
