"""Estimate of a variant's training time from a few timed batches."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from gare_cache.data.batches import num_batches
from gare_cache.errors import EnvironmentFailure
from gare_cache.manifest.tables import read_manifest
from gare_cache.project.features import open_features
from gare_cache.project.paths import Workspace
from gare_cache.reproducibility import resolve_device
from gare_cache.studies.runs import RunTask
from gare_cache.studies.workers import KeptSplits
from gare_cache.training.distributed import Processes
from gare_cache.training.loop import Training, TrainingSetup, train_head, validation_scores
from gare_cache.training.setup import set_up_training
from gare_cache.training.together import Together

_BATCHES = 5


class _TrialDone(Exception):
    """Raised once a trial has timed its batches."""


def trial_seconds(tasks: Iterable[RunTask]) -> dict[str, float]:
    """Time a few batches of each run and extrapolate to its whole training.

    seconds = epochs (batches x median time of a batch + one validation). Nothing is written. A run
    that fails in its first batches has no entry; the actual run will fail and record the reason.

    Args:
        tasks: one per variant.

    Returns:
        Seconds by variant, for a single run on this machine.

    Raises:
        EnvironmentFailure, OSError: the machine failed.
    """
    kept = KeptSplits()
    threads = torch.get_num_threads()
    seconds = {}
    for task in tasks:
        if task.finetunes:  # it would decode videos; its first runs tell how long the others take
            continue
        torch.set_num_threads(threads)
        try:
            seconds[task.variant] = _trial(task, kept)
        except (OSError, EnvironmentFailure):
            raise
        except Exception:  # the run itself will fail and record the reason
            continue
    torch.set_num_threads(threads)
    return seconds


def program_seconds(tasks: Sequence[RunTask]) -> tuple[float, float]:
    """Time a few updates of runs, alone and together as one batched program.

    Args:
        tasks: with settings of one ``program_key``, on one device.

    Returns:
        Seconds of one update of all runs: alone, one after the other, and together.

    Raises:
        EnvironmentFailure, OSError: the machine failed.
        Exception: a run fails in its first batches, or they cannot train together.
    """
    kept, threads, order = KeptSplits(), torch.get_num_threads(), torch.get_rng_state()
    with tempfile.TemporaryDirectory(prefix="gare-cache-trial-") as folder:
        runs = []
        for task in tasks:
            stream = torch.Generator()
            setup = _setup(task, Path(folder), kept)
            stream.set_state(torch.get_rng_state())
            file = Path(folder) / "training.pt"
            runs.append(Training(setup, task.params.train, state_file=file, stream=stream))
        first = runs[0]
        losses = first.setup.losses(first.begin_epoch(), first.settings)
        times = [time.perf_counter()]
        for loss in itertools.islice(losses, _BATCHES):
            first.step(loss)
            times.append(time.perf_counter())
        alone = _typical(times) * len(runs)
        first.state.part = None
        times = [time.perf_counter()]
        updates = itertools.islice(Together(runs).steps(), _BATCHES * len(runs))
        for number, _ in enumerate(updates, start=1):
            if number % len(runs) == 0:
                times.append(time.perf_counter())
    torch.set_num_threads(threads)
    torch.set_rng_state(order)
    return alone, _typical(times)


def _typical(times: Sequence[float]) -> float:
    """Return the median between times, without the first step, which warms up."""
    steps = [b - a for a, b in itertools.pairwise(times)]
    return statistics.median(steps[1:] or steps)


def _setup(task: RunTask, folder: Path, kept: KeptSplits) -> TrainingSetup:
    space = Workspace(task.project, task.params, folder, inputs=task.inputs)
    cache, _ = open_features(space)
    return set_up_training(
        task.params.head,
        task.params.train,
        cache,
        read_manifest(space.manifest),
        device=resolve_device(task.device),
        load=kept.of(task.inputs),
    )


def _trial(task: RunTask, kept: KeptSplits) -> float:
    settings = task.params.train
    times: list[float] = []

    def note_time() -> None:
        times.append(time.perf_counter())
        if len(times) > _BATCHES:
            raise _TrialDone

    with tempfile.TemporaryDirectory(prefix="gare-cache-trial-") as folder:
        setup = _setup(task, Path(folder), kept)
        steps = num_batches(len(setup.train_split.text), settings.batch_size)
        epochs = settings.epochs
        times.append(time.perf_counter())
        with suppress(_TrialDone):
            train_head(
                setup,
                settings,
                processes=Processes(),
                state_file=Path(folder) / "training.pt",
                on_batch=note_time,
                on_epoch=lambda state: None,
            )
        started = time.perf_counter()
        validation_scores(setup.head.eval(), setup.val_split.one_caption_per_video())
        validation = time.perf_counter() - started
    batch = statistics.median(b - a for a, b in itertools.pairwise(times))
    return epochs * (steps * batch + validation)
