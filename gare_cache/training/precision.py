"""TensorFloat-32 in the products of a training step, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gare_cache.errors import ConfigError
from gare_cache.training.settings import TrainSettings


def require_precision(settings: TrainSettings, device: torch.device) -> None:
    """Refuse a precision that the device does not have.

    Raises:
        ConfigError: ``tf32`` on another device than a GPU.
    """
    if settings.precision == "tf32" and device.type != "cuda":
        raise ConfigError(
            f"train.precision is tf32, which CUDA devices have, and this training is on {device}; "
            "set float32 or bfloat16, or train with --device cuda"
        )


@contextmanager
def step_precision(settings: TrainSettings) -> Iterator[None]:
    """Let the products of float32 within take TensorFloat-32, 10 bits of mantissa, if it is set.

    Validation and scoring stay outside.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = before or settings.precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
