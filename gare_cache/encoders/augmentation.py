"""Augmented views of a video: the same crop, flip and operations for all of its frames.

Runs in the decoding workers; torch and torchvision are imported only when a view is drawn, so that
workers without views start faster.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gare_cache.encoders.preprocessing import Frames


@dataclass(frozen=True)
class Views:
    """How views are drawn: random resized crop, horizontal flip, RandAugment (arXiv:1909.13719).

    Attributes:
        count: views R per video.
        seed: seed of the draws, which depend only on it, the video's id and the view's number.
        smallest_crop: smallest share of the frame's area that a crop keeps, 0 to 1.
        flip: whether half of the views are mirrored; wrong if captions say left or right.
        operations: RandAugment's N, operations per view; 0 for none.
        magnitude: RandAugment's M, their strength, 0 to 30.
    """

    count: int
    seed: int
    smallest_crop: float
    flip: bool
    operations: int
    magnitude: int


def view_identity(views: Views) -> dict[str, Any]:
    """Return everything that the pixels of views depend on, including the torchvision version."""
    return {**asdict(views), "torchvision": importlib.metadata.version("torchvision")}


def draw_views(frames: Frames, views: Views, *, video_id: str, size: tuple[int, int]) -> Frames:
    """Draw the views of a video.

    Args:
        frames: (F, H, W, 3) RGB, whole frames.
        views: how views are drawn.
        video_id: the video's id.
        size: (height, width) of the model's input.

    Returns:
        (R, F, height, width, 3) uint8; all frames of a view are transformed alike.
    """
    crop = _crop(size, views.smallest_crop)
    transforms = [crop, *_transforms(views.flip, views.operations, views.magnitude)]
    draws = (f"{views.seed}/{number}/{video_id}" for number in range(views.count))
    return np.stack(
        [_drawn(frames, transforms, draw) for draw in draws]
    )  # (R, F, height, width, 3)


def augment_frames(
    frames: Frames,
    *,
    smallest_crop: float,
    flip: bool,
    operations: int,
    magnitude: int,
    draw: str,
) -> Frames:
    """Augment the frames of a clip, all of them alike.

    A random resized crop, a horizontal flip with probability 1/2 and RandAugment
    (arXiv:1909.13719), in this order; what is switched off is left out. The global random state is
    neither read nor changed.

    Args:
        frames: (F, H, W, 3) uint8 RGB.
        smallest_crop: smallest share of the frame's area that a crop keeps, above 0 to 1; at 1
            nothing is cropped.
        flip: whether half of the clips are mirrored.
        operations: RandAugment's N, operations per clip; 0 for none.
        magnitude: RandAugment's M, their strength, 0 to 30.
        draw: text that alone decides the draw.

    Returns:
        (F, H, W, 3) uint8.
    """
    height, width = frames.shape[1:3]
    crop = [_crop((height, width), smallest_crop)] if smallest_crop < 1 else []
    return _drawn(frames, [*crop, *_transforms(flip, operations, magnitude)], draw)


def _drawn(frames: Frames, transforms: Sequence[Any], draw: str) -> Frames:
    """Apply transforms, whose random numbers depend on ``draw`` alone, to (F, H, W, 3) frames."""
    import torch

    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)  # (F, 3, H, W)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(draw))
        for transform in transforms:
            clip = transform(clip)
    return np.ascontiguousarray(clip.permute(0, 2, 3, 1).numpy())  # (F, height, width, 3)


def _seed(draw: str) -> int:
    return int.from_bytes(hashlib.sha256(draw.encode()).digest()[:7], "big")


def _crop(size: tuple[int, int], smallest: float) -> Any:
    v2 = _torchvision()
    return v2.RandomResizedCrop(
        size,
        scale=(smallest, 1.0),
        interpolation=v2.InterpolationMode.BICUBIC,
        antialias=True,
    )


def _transforms(flip: bool, operations: int, magnitude: int) -> list[Any]:
    v2 = _torchvision()
    flips = [v2.RandomHorizontalFlip()] if flip else []
    return flips + ([v2.RandAugment(operations, magnitude)] if operations else [])


def _torchvision() -> Any:
    from gare_cache.encoders.open_clip_import import import_torchvision_transforms

    return import_torchvision_transforms()
