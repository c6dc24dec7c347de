"""Settings of the optimisation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
)

from gare_cache.losses.settings import LossSettings
from gare_cache.settings import Count, Fraction, NonNegative, Positive, Settings


class TrainSettings(Settings):
    """The optimisation, and what follows it."""

    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=0)] = 0
    num_frames: Count = 12
    frame_choice: Literal["even", "jittered"] = "even"
    views: bool = False
    epochs: Count = 5
    batch_size: Annotated[int, Field(ge=2)] = 128
    optimizer: Literal["bert_adam", "adamw"] = "bert_adam"
    learning_rate: Positive = 1e-4
    logit_scale_learning_rate: NonNegative = 1e-7
    weight_decay: NonNegative = 0.2
    weight_decay_on: Literal["weights", "all_but_bias"] = "weights"
    warmup: Fraction = 0.1
    max_grad_norm: Positive = 1.0
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    compile: bool = False
    reference_gather: bool = False
    logger: Literal["tensorboard", "wandb", "trackio", "dvclive"] | None = None
    loss: LossSettings = LossSettings()

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide what comes out: all but the logger."""
        return self.model_dump(exclude={"logger"})
