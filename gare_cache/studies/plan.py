"""Which runs a study has, which are done, and how long the others take."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["done", "failed", "unfinished", "missing"]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study, before anything is done.

    Attributes:
        variant: its row.
        seed: of its training.
        run_key: names its folder.
        state: ``done`` and scored; ``failed`` before; ``unfinished``: begun, or not scored yet;
            ``missing``.
        seconds: that training took; None where it has not ended, or was interrupted.
    """

    variant: str
    seed: int
    run_key: str
    state: State
    seconds: float | None = None

    @property
    def is_left(self) -> bool:
        """Whether there is something to do."""
        return self.state in ("unfinished", "missing")


def seconds_left(runs: Sequence[PlannedRun], *, jobs: int) -> float | None:
    """Estimate the time of what is left from the runs that are done.

    A run takes the median of its variant's finished runs, or of the study's where it has none; one
    that is trained and only not scored takes next to nothing.

    Args:
        runs: of the study.
        jobs: runs at a time.

    Returns:
        Seconds; None where no run has told, 0 where nothing is left.
    """
    left = [run for run in runs if run.is_left and run.seconds is None]
    known = [(run.variant, run.seconds) for run in runs if run.seconds is not None]
    if not left:
        return 0.0
    if not known:
        return None
    overall = statistics.median(seconds for _, seconds in known)
    total = 0.0
    for run in left:
        own = [seconds for variant, seconds in known if variant == run.variant]
        total += statistics.median(own) if own else overall
    return total / min(jobs, len(left))


def duration_text(seconds: float) -> str:
    """Write a duration: ``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
