"""Which of the cached frames a head sees: spread evenly, or drawn anew for every batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gare_cache.data.split import FeatureSplit


@dataclass(frozen=True)
class FrameChoice:
    """How a training batch's frames are chosen.

    Attributes:
        num_frames: the most frames of a video.
        jittered: one frame at random from each of ``num_frames`` equal parts of a video, instead
            of frames spread evenly.
    """

    num_frames: int
    jittered: bool


def even_positions(num_cached: Tensor, num_frames: int) -> Tensor:
    """Spread frames evenly, first and last included, as the samplers of the literature do.

    With n cached frames and n > F: ``linspace(0, n - 1, F)``, truncated, in the same float64
    arithmetic as the sampler ``fps_then_uniform``; else all n. So a cache of up to 64 frames, one
    a second, gives for F the frames that an extraction of F frames would have taken.

    Args:
        num_cached: (V,) int64, frames of each video.
        num_frames: F, the most to take.

    Returns:
        (V, F) int64; of a video with fewer frames, the places behind them are 0.
    """
    steps = torch.arange(num_frames, device=num_cached.device)
    stride = (num_cached - 1).double() / max(1, num_frames - 1)
    spread = (steps * stride[:, None]).long()
    if num_frames > 1:
        spread[:, -1] = num_cached - 1
    return _all_or(spread, steps, num_cached, num_frames)


def jittered_positions(num_cached: Tensor, num_frames: int, generator: torch.Generator) -> Tensor:
    """Draw one frame from each of F equal parts of a video; all of them where there are no more.

    Args:
        num_cached: (V,) int64, frames of each video.
        num_frames: F, the most to take.
        generator: on the CPU, so that the draws do not depend on the device.

    Returns:
        (V, F) int64, ascending; of a video with fewer frames, the places behind them are 0.
    """
    steps = torch.arange(num_frames, device=num_cached.device)
    first = steps * num_cached[:, None] // num_frames
    size = (steps + 1) * num_cached[:, None] // num_frames - first
    share = torch.rand(len(num_cached), num_frames, generator=generator).to(num_cached.device)
    drawn = first + torch.minimum((share * size).long(), size - 1)
    return _all_or(drawn, steps, num_cached, num_frames)


def take_frames(frames: Tensor, mask: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Take frames by position.

    Args:
        frames: (V, C, D), zero on padding.
        mask: (V, C) True where a frame is real.
        positions: (V, F) as the functions above return them.

    Returns:
        (V, F, D) frames, zero on padding, and their (V, F) mask.
    """
    steps = torch.arange(positions.shape[1], device=positions.device)
    real = steps < mask.sum(dim=1)[:, None]
    taken = frames.gather(1, positions[..., None].expand(-1, -1, frames.shape[2]))
    return taken.masked_fill(~real[..., None], 0.0), real


def training_frames(
    split: FeatureSplit, videos: Tensor, choice: FrameChoice, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose the frames of a batch.

    Where the split holds views, every pair gets one of its video's 1 + R encodings at random, the
    unchanged frames being one of them.

    Args:
        split: the train split, with the frames to choose from.
        videos: (B,) rows of the pairs' videos.
        choice: how.
        generator: on the CPU; nothing is drawn from it where nothing is left to chance.

    Returns:
        (B, F, D) frames and their (B, F) mask.
    """
    frames, mask = split.frames[videos], split.mask[videos]
    if split.views is not None:
        number = torch.randint(1 + split.views.shape[1], (len(videos),), generator=generator)
        number = number.to(videos.device)
        drawn = split.views[videos, (number - 1).clamp(min=0)]
        frames = torch.where((number > 0)[:, None, None], drawn, frames)
    if not choice.jittered:
        return take_frames(frames, mask, even_positions(mask.sum(dim=1), choice.num_frames))
    positions = jittered_positions(mask.sum(dim=1), choice.num_frames, generator)
    return take_frames(frames, mask, positions)


def _all_or(chosen: Tensor, steps: Tensor, num_cached: Tensor, num_frames: int) -> Tensor:
    all_of_them = torch.where(steps < num_cached[:, None], steps, 0)
    return torch.where(num_cached[:, None] > num_frames, chosen, all_of_them)
