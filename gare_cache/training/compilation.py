"""Training with torch.compile: fewer and larger kernels a step, after a first step of a minute."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gare_cache.errors import ConfigError, EnvironmentFailure
from gare_cache.losses.objective import LossTerms

# The loss of a batch's caption rows (B,), frames (B, F, D) and their mask (B, F).
LossOf = Callable[[Tensor, Tensor, Tensor], LossTerms]


def compiled(loss_of: LossOf, *, num_processes: int) -> LossOf:
    """Return the same loss, compiled by ``torch.compile`` at its first call.

    The values are those of the loss itself to rounding, but dropout draws other numbers.

    Raises:
        ConfigError: several processes train together, which has not been tried.
        EnvironmentFailure: at the first call, if it cannot be compiled here.
    """
    if num_processes > 1:
        raise ConfigError(
            "train.compile is true, and several processes train together, which is not supported; "
            "set it to false"
        )
    inner = torch.compile(loss_of)

    def call(batch: Tensor, frames: Tensor, mask: Tensor) -> LossTerms:
        try:
            return inner(batch, frames, mask)
        except torch._dynamo.exc.TorchDynamoException as err:
            first = str(err).strip().splitlines()[0]
            raise EnvironmentFailure(
                f"train.compile is true, but torch.compile fails here ({first}); on the CPU it "
                "needs a C++ compiler (g++ or clang++), on a GPU Triton; install one, or set "
                "train.compile: false"
            ) from err

    return call
