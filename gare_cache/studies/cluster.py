"""Execute a study's runs by the actors of a Ray cluster that share the project's folder."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from gare_cache.cluster.dispatch import Lost, dispatch
from gare_cache.cluster.ray_pool import (
    START_SECONDS,
    Cluster,
    RayPool,
    connected,
    device_of,
    go_to,
    plan_actors,
    who,
)
from gare_cache.errors import EnvironmentFailure, GareCacheError
from gare_cache.process_memory import keep_freed_memory
from gare_cache.project.progress import quiet, say
from gare_cache.reproducibility import set_threads
from gare_cache.studies.runs import RunTask, execute, record_death
from gare_cache.studies.workers import KeptSplits


def run_on_cluster(
    tasks: Sequence[RunTask], cluster: Cluster, *, ended: Callable[[RunTask], None]
) -> None:
    """Execute every task; their folders lie on a file system that all nodes share.

    Args:
        tasks: in the order in which to start them.
        cluster: the cluster.
        ended: called with each when it is finished or has failed.

    Raises:
        ConfigError: Ray is not installed, or no node has what an actor needs.
        EnvironmentFailure: the cluster does not answer, no worker starts, or a machine failed.
    """
    threads = max(task.params.train.threads for task in tasks)

    def failed(task: RunTask, reason: str) -> None:
        record_death(task, reason)
        ended(task)

    with connected(cluster.address) as ray:
        actors = plan_actors(ray, cluster, threads=threads, workers=1)
        placed = [replace(task, device=device_of(actors, task.device)) for task in tasks]
        told = _RunSettings(Path.cwd(), tasks[0].inputs, actors.threads)
        with closing(RayPool[RunTask](ray, actors, RunWorker, told)) as pool:
            dispatch(
                placed,
                pool,
                workers=actors.count,
                start_seconds=START_SECONDS,
                finished=lambda task, _: ended(task),
                failed=failed,
                lost=_say_lost,
            )


@dataclass(frozen=True)
class _RunSettings:
    """What every worker is told.

    Attributes:
        start: the driver's current folder, which relative paths start from.
        inputs: a folder of manifest and features, which every node must see.
        threads: torch's threads.
    """

    start: Path
    inputs: Path
    threads: int


class RunWorker:
    """Trains and scores runs one by one; errors of the machine are returned, not raised."""

    def __init__(self, settings: _RunSettings, number: int) -> None:
        """Take the settings; ``open`` does the rest."""
        self._settings = settings
        self._kept = KeptSplits()

    def open(self) -> str | GareCacheError:
        """Check that this node sees the project; return who this is, or what is missing."""
        keep_freed_memory()
        try:
            go_to(self._settings.start, self._settings.inputs)
        except GareCacheError as err:
            return err
        return who()

    def do(self, task: RunTask) -> GareCacheError | None:
        """Train and score a run, whose failure is recorded in its folder; return the machine's."""
        set_threads(self._settings.threads)
        try:
            with quiet():
                execute(task, load=self._kept.of(task.inputs))
        except GareCacheError as err:
            return err
        except (OSError, MemoryError) as err:
            return EnvironmentFailure(f"{platform.node()}: {type(err).__name__}: {err}")
        return None


def _say_lost(event: Lost, task: RunTask | None) -> None:
    say(f"worker {event.worker} is lost ({event.reason})" + (f"; it had {task}" if task else ""))
