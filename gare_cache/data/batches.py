"""Batches of (caption, video) pairs in a seeded order."""

from __future__ import annotations

from collections.abc import Iterator

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


def epoch_batches(num_pairs: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the caption rows of each full batch of an epoch, every caption at most once.

    A batch may hold several captions of the same video.

    Args:
        num_pairs: number of captions in the split.
        batch_size: captions per batch.
        generator: draws the order; its state after the epoch determines the next epoch's.
    """
    order = torch.randperm(num_pairs, generator=generator)
    for number in range(num_batches(num_pairs, batch_size)):
        yield order[number * batch_size : (number + 1) * batch_size]  # (B,)
