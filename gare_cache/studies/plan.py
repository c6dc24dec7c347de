"""Which runs a study has, which are done, and how long the others take."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
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


def seconds_left(
    runs: Sequence[PlannedRun], *, jobs: int, trials: Mapping[str, float] | None = None
) -> float | None:
    """Estimate the time of what is left from the runs that are done, or else from trials.

    A run takes the median of its variant's finished runs, or what a trial of its variant says, or
    the median of all that is known; one that is trained and only not scored takes next to nothing.

    Args:
        runs: of the study.
        jobs: runs at a time.
        trials: seconds of a run by variant, where its first batches were timed.

    Returns:
        Seconds; None where nothing has told, 0 where nothing is left.
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
        own = [seconds for variant, seconds in known if variant == run.variant]
        total += statistics.median(own) if own else trials.get(run.variant, overall)
    return total / min(jobs, len(left))


def duration_text(seconds: float) -> str:
    """Write a duration: ``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
