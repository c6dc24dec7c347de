"""Resize and crop frames to the model's input size with PIL, exactly as open_clip does.

Runs in the decoding workers, so it does not import torch.
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
        mean: mean of each channel, on a scale of 0 to 1.
        std: standard deviation of each channel.
        interpolation: ``bilinear`` or ``bicubic``.
        resize_mode: edge that is made to fit: ``shortest`` (the rest is cropped), ``longest``
            (the rest is filled), or both (``squash``).
        fill: grey level of the area outside the frame.
    """

    kind: str
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str
    fill: int

    def shrink(self, frames: Frames) -> Frames:
        """Do the part of the preprocessing that runs before frames are sent to the model's process.

        Args:
            frames: (F, H, W, 3) RGB.

        Returns:
            For ``exact`` (F, height, width, 3), resized and cropped; for ``device`` the input.
        """
        if self.kind == "device":
            return frames
        height, width = self.resized(*frames.shape[1:3])
        resampling = _RESAMPLING[self.interpolation]
        return np.stack(  # (F, height, width, 3)
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
            return image[rows.kept, columns.kept]  # (height, width, 3)
        padded = np.pad(image, (rows.filled, columns.filled, (0, 0)), constant_values=self.fill)
        return padded[rows.kept, columns.kept]  # (height, width, 3)


@dataclass(frozen=True)
class Margins:
    """Padding and crop that bring a line of pixels to another length about its centre.

    Attributes:
        filled: pixels added before and after the line.
        kept: part of the padded line that is kept.
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
    # For an input that is not square open_clip ignores the configured interpolation.
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
