"""Choice of cached frames: spread evenly, or drawn at random for every batch."""

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
        num_frames: maximum number of frames per video.
        jittered: draw one frame at random from each of ``num_frames`` equal parts of a video
            instead of spreading the frames evenly.
    """

    num_frames: int
    jittered: bool


def even_positions(num_cached: Tensor, num_frames: int) -> Tensor:
    """Spread frames evenly, first and last included, as the samplers of the literature do.

    With n cached frames and n > F: ``linspace(0, n - 1, F)``, truncated, in the same float64
    arithmetic as the sampler ``fps_then_uniform``; else all n. So a cache of up to 64 frames, one
    per second, gives the same F frames as an extraction of F frames.

    Args:
        num_cached: (V,) int64, frames of each video.
        num_frames: F, the maximum per video.

    Returns:
        (V, F) int64; 0 on padding for videos with fewer frames.
    """
    steps = torch.arange(num_frames, device=num_cached.device)
    stride = (num_cached - 1).double() / max(1, num_frames - 1)
    spread = (steps * stride[:, None]).long()  # (V, F)
    if num_frames > 1:
        spread[:, -1] = num_cached - 1
    return _all_if_few(spread, steps, num_cached, num_frames)


def jittered_positions(num_cached: Tensor, num_frames: int, generator: torch.Generator) -> Tensor:
    """Draw one frame from each of F equal parts of a video; all frames if it has at most F.

    Args:
        num_cached: (V,) int64, frames of each video.
        num_frames: F, the maximum per video.
        generator: CPU generator, so that the draws do not depend on the device.

    Returns:
        (V, F) int64, ascending; 0 on padding for videos with fewer frames.
    """
    steps = torch.arange(num_frames, device=num_cached.device)
    first = steps * num_cached[:, None] // num_frames  # (V, F)
    size = (steps + 1) * num_cached[:, None] // num_frames - first  # (V, F)
    share = torch.rand(len(num_cached), num_frames, generator=generator).to(num_cached.device)
    drawn = first + torch.minimum((share * size).long(), size - 1)
    return _all_if_few(drawn, steps, num_cached, num_frames)


def take_frames(frames: Tensor, mask: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Take frames by position.

    Args:
        frames: (V, C, D) cached frames, zero on padding.
        mask: (V, C), True where a frame is real.
        positions: (V, F) from ``even_positions`` or ``jittered_positions``.

    Returns:
        (V, F, D) frames, zero on padding, and their (V, F) mask.
    """
    steps = torch.arange(positions.shape[1], device=positions.device)
    real = steps < mask.sum(dim=1)[:, None]  # (V, F)
    taken = frames.gather(1, positions[..., None].expand(-1, -1, frames.shape[2]))  # (V, F, D)
    return taken.masked_fill(~real[..., None], 0.0), real


def training_frames(
    split: FeatureSplit, videos: Tensor, choice: FrameChoice, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose the frames of a training batch.

    If the split holds views, every pair gets a random one of its video's 1 + R encodings: the
    original frames or a view.

    Args:
        split: the train split, with the frames to choose from.
        videos: (B,) rows of the pairs' videos.
        choice: number of frames, and whether they are drawn at random.
        generator: CPU generator; unused if nothing is random.

    Returns:
        (B, F, D) frames and their (B, F) mask.
    """
    frames, mask = split.frames[videos], split.mask[videos]  # (B, C, D), (B, C)
    if split.views is not None:
        number = torch.randint(1 + split.views.shape[1], (len(videos),), generator=generator)
        number = number.to(videos.device)
        drawn = split.views[videos, (number - 1).clamp(min=0)]  # (B, C, D)
        frames = torch.where((number > 0)[:, None, None], drawn, frames)
    if not choice.jittered:
        return take_frames(frames, mask, even_positions(mask.sum(dim=1), choice.num_frames))
    positions = jittered_positions(mask.sum(dim=1), choice.num_frames, generator)
    return take_frames(frames, mask, positions)


def _all_if_few(chosen: Tensor, steps: Tensor, num_cached: Tensor, num_frames: int) -> Tensor:
    all_frames = torch.where(steps < num_cached[:, None], steps, 0)  # (V, F)
    return torch.where(num_cached[:, None] > num_frames, chosen, all_frames)
