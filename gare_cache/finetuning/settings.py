"""Settings of the end-to-end finetuning."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from gare_cache.settings import Count, Positive, Settings

LoraTarget = Literal["attention_in", "attention_out", "mlp"]


class LoraSettings(Settings):
    """LoRA (arXiv:2106.09685): W + alpha / rank B A, with A and B alone trained."""

    rank: Count = 8
    alpha: Positive = 16.0
    targets: Annotated[list[LoraTarget], Field(min_length=1)] = Field(
        default_factory=lambda: list(get_args(LoraTarget))
    )


class AugmentSettings(Settings):
    """Augmentation of a training video's frames, alike for all of them."""

    smallest_crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    flip: bool = False
    operations: Annotated[int, Field(ge=0)] = 0
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9

    @property
    def is_idle(self) -> bool:
        """Whether frames stay as they are."""
        return self.smallest_crop == 1.0 and not self.flip and self.operations == 0


class FinetuneSettings(Settings):
    """The finetuning; what is not here is that of ``head`` and ``train``."""

    encoder: Literal["full", "last", "lora"] | None = None
    last_blocks: Count | None = None
    lora: LoraSettings | None = None
    from_run: str | None = None
    frames: Literal["decode", "cache"] = "decode"
    epochs: Count | None = None
    batch_size: Annotated[int, Field(ge=2)] | None = None
    learning_rate: Positive | None = None
    encoder_lr_scale: Positive = 1e-3
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    chunk: Count | None = None
    checkpointing: bool = False
    augment: AugmentSettings = AugmentSettings()

    @model_validator(mode="after")
    def _no_idle_setting(self) -> FinetuneSettings:
        if (self.last_blocks is None) == (self.encoder == "last"):
            raise ValueError(
                "finetune.last_blocks is the number of blocks that finetune.encoder: last trains; "
                "give it with that, and null otherwise"
            )
        if self.lora is not None and self.encoder != "lora":
            raise ValueError(
                "finetune.lora has settings, but finetune.encoder is not lora; set one or the other"
            )
        return self
