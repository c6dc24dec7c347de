"""Plan of a study: the state of its runs and the estimated time of the remaining ones."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["done", "failed", "unfinished", "missing"]


@dataclass(frozen=True)
class PlannedRun:
    """State of one run of a study.

    Attributes:
        variant: name of its variant.
        seed: of its training.
        run_key: identity of its training, which names its folder.
        state: ``done``: trained and scored; ``failed``; ``unfinished``: begun, or not scored yet;
            ``missing``.
        seconds: duration of the training; None if it has not ended, or was interrupted.
    """

    variant: str
    seed: int
    run_key: str
    state: State
    seconds: float | None = None

    @property
    def is_left(self) -> bool:
        """Whether the run still has to be trained or scored."""
        return self.state in ("unfinished", "missing")


def seconds_left(
    runs: Sequence[PlannedRun], *, jobs: int, trials: Mapping[str, float] | None = None
) -> float | None:
    """Estimate the time of the remaining runs from finished runs, or else from trials.

    A run takes the median of its variant's finished runs, else the estimate of its variant's
    trial, else the median of all known times; scoring a trained run is assumed to take no time.

    Args:
        runs: of the study.
        jobs: number of parallel runs.
        trials: estimated seconds of a run by variant, from its first batches.

    Returns:
        Seconds; None if no time is known, 0 if no run is left.
    """
    left = [run for run in runs if run.is_left and run.seconds is None]
    known = [(run.variant, run.seconds) for run in runs if run.seconds is not None]
    if not left:
        return 0.0
    trials = trials or {}
    if not known and not trials:
        return None
    overall = statistics.median([*(seconds for _, seconds in known), *trials.values()])
    total = 0.0
    for run in left:
        of_variant = [seconds for variant, seconds in known if variant == run.variant]
        trial = trials.get(run.variant, overall)
        total += statistics.median(of_variant) if of_variant else trial
    return total / min(jobs, len(left))


def duration_text(seconds: float) -> str:
    """Format a duration: ``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
