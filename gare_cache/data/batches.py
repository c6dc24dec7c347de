"""Batches of (caption, video) pairs in a seeded order."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gare_cache.errors import ConfigError


def num_batches(num_pairs: int, batch_size: int) -> int:
    """Return the whole batches of an epoch.

    Raises:
        ConfigError: there is not one.
    """
    if num_pairs < batch_size:
        raise ConfigError(
            f"train.batch_size is {batch_size}, but the train split has {num_pairs} captions; "
            "lower it"
        )
    return num_pairs // batch_size


def epoch_batches(num_pairs: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the caption rows of each batch, every caption at most once, the last part left out.

    A batch may hold several captions of one video.

    Args:
        num_pairs: captions in the split.
        batch_size: captions a batch.
        generator: source of the order; its state after the epoch decides the next one.
    """
    order = torch.randperm(num_pairs, generator=generator)
    for number in range(num_batches(num_pairs, batch_size)):
        yield order[number * batch_size : (number + 1) * batch_size]
