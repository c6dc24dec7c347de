"""Batches of (caption, video) pairs in a seeded order."""

from __future__ import annotations

import torch
from torch import Tensor

from gare_cache.errors import ConfigError, counted


def num_batches(num_pairs: int, batch_size: int) -> int:
    """Return the number of full batches per epoch.

    Raises:
        ConfigError: the split is smaller than a batch.
    """
    if num_pairs < batch_size:
        raise ConfigError(
            f"train.batch_size is {batch_size}, but the train split has "
            f"{counted(num_pairs, 'caption')}; "
            "lower it"
        )
    return num_pairs // batch_size


def epoch_batches(num_pairs: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Draw the caption rows of each full batch of an epoch, every caption at most once.

    A batch may hold several captions of the same video.

    Args:
        num_pairs: number N of captions in the split.
        batch_size: captions per batch, B.
        generator: draws the order; its state after the epoch determines the next epoch's.

    Returns:
        (N // B, B) int64 on the CPU.
    """
    steps = num_batches(num_pairs, batch_size)
    order = torch.randperm(num_pairs, generator=generator)
    return order[: steps * batch_size].view(steps, batch_size)
