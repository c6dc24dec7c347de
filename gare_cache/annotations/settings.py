"""Settings of the data set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
)

from gare_cache.settings import Fraction, Settings


class DatasetSettings(Settings):
    """Settings of videos and captions; only some readers use ``protocol`` or the fractions."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    reader: str = "generic"
    annotations: str
    video_roots: list[str]
    protocol: str | None = None
    captions: Literal["each", "paragraph"] = "each"
    val_fraction: Fraction | None = None
    test_fraction: Fraction | None = None
