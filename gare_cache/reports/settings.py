"""Settings of the report."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    Field,
)

from gare_cache.settings import Settings


class ReportSettings(Settings):
    """What the report shows."""

    examples: Annotated[int, Field(ge=0, le=50)] = 6
