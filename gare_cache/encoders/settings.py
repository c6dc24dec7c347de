"""Settings of the encoder and of the extraction."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
)

from gare_cache.settings import Count, Positive, Settings


class EncoderSettings(Settings):
    """Settings of the frozen encoder."""

    model: str
    pretrained: str | None = None
    quick_gelu: bool | None = None
    trust_checkpoint: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    context_length: Count | None = None
    preprocess: Literal["exact", "device"] = "exact"


class ViewSettings(Settings):
    """Settings of the augmented views."""

    count: Count
    seed: Annotated[int, Field(ge=0)] = 0
    smallest_crop: Annotated[float, Field(gt=0, le=1)] = 0.5
    flip: bool = True
    operations: Annotated[int, Field(ge=0)] = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9


class ExtractSettings(Settings):
    """Settings of sampling, encoding and stored tokens."""

    sampler: Literal["fps_then_uniform", "segment_centre"] = "fps_then_uniform"
    max_frames_cached: Count = 64
    views: ViewSettings | None = None
    patch_tokens: bool = False
    word_tokens: bool = False
    batch_frames: Count = 128
    batch_captions: Count = 256
    deadline_seconds: Positive = 60.0
    max_frame_pixels: Count = 8192 * 8192
    worker_memory_gib: Positive = 8.0
    max_failed_percent: Annotated[float, Field(ge=0, le=100)] = 5.0

    @property
    def worker_memory_bytes(self) -> int:
        """Limit on the memory of a decode worker in bytes."""
        return int(self.worker_memory_gib * 2**30)
