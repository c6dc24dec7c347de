"""Write the items of a manifest that a cache lacks, by workers on one or many machines."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gare_cache.cache.journal import RowOutcome, UnitRecord, last_record
from gare_cache.cache.lock import (
    DRIVER,
    is_at_work,
    require_locks,
    shards_at_work,
    worker_shard,
)
from gare_cache.cache.schema import KINDS
from gare_cache.cache.writer import CacheWriter, units_file
from gare_cache.cluster.dispatch import Lost, dispatch
from gare_cache.cluster.ray_pool import (
    START_SECONDS,
    Actors,
    Cluster,
    RayPool,
    connected,
    device_of,
    plan_actors,
)
from gare_cache.errors import EnvironmentFailure, counted
from gare_cache.extraction.encode import Faint
from gare_cache.extraction.unit_worker import (
    UnitDone,
    UnitJob,
    UnitWorker,
    WorkerSettings,
    as_seen_here,
)
from gare_cache.extraction.write import raise_postponed, say_faint
from gare_cache.manifest.tables import Manifest
from gare_cache.project.progress import progress, say

_LEFTOVER_SECONDS = 60.0


def wait_for_former_workers(folder: Path) -> None:
    """Check the folder's locks, and give the workers of a driver that died the time to end."""
    folder.mkdir(parents=True, exist_ok=True)
    require_locks(folder)
    end = time.monotonic() + _LEFTOVER_SECONDS
    while time.monotonic() < end:
        parts = shards_at_work(folder)
        if DRIVER in parts or not any(part.count == DRIVER.count for part in parts):
            return  # nobody, or one whom the writer's lock will name
        time.sleep(0.1)


def encode_on_cluster(
    writer: CacheWriter, manifest: Manifest, cluster: Cluster, settings: WorkerSettings
) -> None:
    """Have all videos and captions that the cache lacks encoded by the actors of a cluster.

    Args:
        writer: the cache, opened by the driver; the actors commit their units themselves.
        manifest: lists the items.
        cluster: the cluster.
        settings: what every actor is told; 0 threads or decoding processes take its share.

    Raises:
        ConfigError: Ray is not installed, no node has what an actor needs, or a GPU is asked for
            and the actors have none.
        EnvironmentFailure: the cluster does not answer, no worker starts, videos need more memory
            than there is, or workers die of captions.
        GareCacheError: what stopped a worker.
    """
    with connected(cluster.address) as ray:
        actors = plan_actors(ray, cluster, threads=settings.threads, workers=settings.workers)
        say(f"{counted(actors.count, 'actor')} of {actors}")
        told = replace(
            settings,
            device=device_of(actors, settings.device),
            threads=actors.threads,
            workers=actors.workers,
        )
        with closing(_UnitPool(ray, actors, told)) as pool:
            _encode(writer, manifest, pool, actors)


class _UnitPool(RayPool[UnitJob]):
    """Actors that write units; the journal tells what one that was lost had finished."""

    def __init__(self, ray: Any, actors: Actors, settings: WorkerSettings) -> None:
        super().__init__(ray, actors, UnitWorker, settings)
        self._folder = settings.folder
        self._before: dict[int, UnitRecord | None] = {}  # a busy worker's last, before its unit

    def is_writing(self, worker: int) -> bool:
        return is_at_work(self._folder, worker_shard(worker))

    def submit(self, worker: int, unit: UnitJob) -> None:
        self._before[worker] = self._last_record(worker)
        super().submit(worker, as_seen_here(unit))

    def result_of(self, worker: int) -> UnitDone | None:
        if worker not in self._before:
            return None
        before, last = self._before.pop(worker), self._last_record(worker)
        same = last is None or (before is not None and last.sequence == before.sequence)
        return None if same else UnitDone(last)

    def _last_record(self, worker: int) -> UnitRecord | None:
        return last_record(units_file(self._folder, worker_shard(worker)))


def _encode(writer: CacheWriter, manifest: Manifest, pool: _UnitPool, actors: Actors) -> None:
    jobs, num_rows = [], 0
    for kind, sources in zip(KINDS, manifest.encodable(), strict=True):
        rows = writer.allocate(kind, sources)
        source_of = dict(zip(rows, sources, strict=True))
        num_rows += len(rows)
        jobs += [
            UnitJob(unit, [source_of[row] for row in unit.rows])
            for unit in writer.pending(kind, rows)
        ]
    left = sum(len(job.sources) for job in jobs)
    with progress("encode videos and captions", num_rows, done=num_rows - left) as advance:
        results = _Results(writer)

        def finished(job: UnitJob, done: UnitDone) -> None:
            results.take(job, done)
            advance(len(job.sources))

        def failed(job: UnitJob, reason: str) -> None:
            results.give_up(job, reason)
            advance(len(job.sources))

        dispatch(
            jobs,
            pool,
            workers=actors.count,
            start_seconds=START_SECONDS,
            finished=finished,
            failed=failed,
            lost=_say_lost,
        )
    say_faint(results.faint["video"], "frames")
    say_faint(results.faint["text"], "captions")
    raise_postponed(results.postponed)


@dataclass
class _Results:
    """What the driver keeps of the units, beside what the workers have committed."""

    writer: CacheWriter
    faint: dict[str, Faint] = field(default_factory=lambda: dict.fromkeys(KINDS, Faint()))
    postponed: list[str] = field(default_factory=list)

    def take(self, job: UnitJob, done: UnitDone) -> None:
        if done.record is not None:
            self.writer.take(done.record)
        self.faint[job.pending.kind] += done.faint
        self.postponed += done.postponed

    def give_up(self, job: UnitJob, reason: str) -> None:
        """Record the videos of a unit as failed; captions cannot fail."""
        unit = job.pending
        if unit.kind == "text":
            raise EnvironmentFailure(f"captions cannot be encoded: {reason}")
        arrays = self.writer.layout.arrays(unit.kind)
        self.writer.commit(
            unit,
            {spec.name: spec.empty(len(unit.rows)) for spec in arrays},
            [
                RowOutcome(row, reason=f"{source['path']}: {reason}")
                for row, source in zip(unit.rows, job.sources, strict=True)
            ],
            thumbnails={},
            seconds={},
        )


def _say_lost(event: Lost, job: UnitJob | None) -> None:
    unit = f"; it had unit {job.pending.unit} of {job.pending.kind}" if job else ""
    say(f"worker {event.worker} is lost ({event.reason}){unit}")
