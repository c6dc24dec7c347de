"""Settings of the scoring."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    field_validator,
)

from gare_cache.errors import ConfigError
from gare_cache.evaluation.normalisers.registry import read_choice
from gare_cache.settings import Count, Settings


class BankSettings(Settings):
    """Which training items the inductive normalisers know."""

    size: Count | None = None
    seed: Annotated[int, Field(ge=0)] = 0


class EvaluateSettings(Settings):
    """What is scored, and how."""

    split: Literal["train", "val", "test"] = "test"
    captions: Literal["all", "first"] = "all"
    v2t_convention: Literal["best_caption_of_all", "best_caption_group"] = "best_caption_of_all"
    missing: Literal["drop", "count_as_miss"] = "drop"
    resamples: Count = 10_000
    frame_norm: bool = False
    normalisers: list[dict[str, Any]] = Field(default_factory=list)
    bank: BankSettings = BankSettings()

    @field_validator("normalisers")
    @classmethod
    def _known(cls, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for entry in entries:
            try:
                read_choice(entry)
            except ConfigError as err:
                raise ConfigError(f"evaluate.normalisers: {err}") from err
        return entries
