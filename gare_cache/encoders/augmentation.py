"""Augmented views of a video: the same crop, flip and operations for all of its frames.

Runs in the decoding workers; torch and torchvision are imported only when a view is drawn, so that
workers without views start faster.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
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
    import torch

    transform = _transform(views, size)
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)  # (F, 3, H, W)
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for number in range(views.count):
            torch.manual_seed(_seed(views.seed, video_id, number))
            drawn.append(transform(clip).permute(0, 2, 3, 1).numpy())  # (F, height, width, 3)
    return np.stack(drawn)  # (R, F, height, width, 3)


def _seed(seed: int, video_id: str, number: int) -> int:
    digest = hashlib.sha256(f"{seed}/{number}/{video_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _transform(views: Views, size: tuple[int, int]) -> Any:
    from gare_cache.encoders.open_clip_import import import_torchvision_transforms

    v2 = import_torchvision_transforms()
    steps = [
        v2.RandomResizedCrop(
            size,
            scale=(views.smallest_crop, 1.0),
            interpolation=v2.InterpolationMode.BICUBIC,
            antialias=True,
        )
    ]
    if views.flip:
        steps.append(v2.RandomHorizontalFlip())
    if views.operations:
        steps.append(v2.RandAugment(views.operations, views.magnitude))
    return v2.Compose(steps)
