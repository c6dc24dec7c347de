"""A worker that is handed units of a cache one by one, and commits each itself."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gare_cache.cache.journal import UnitRecord
from gare_cache.cache.lock import DRIVER, is_at_work, worker_shard
from gare_cache.cache.writer import CacheWriter, PendingUnit, open_writer
from gare_cache.cluster.ray_pool import go_to, who
from gare_cache.errors import EnvironmentFailure, FingerprintMismatch, GareCacheError
from gare_cache.extraction.decode import decode_in_workers
from gare_cache.extraction.encode import EncodedUnit, Faint, encode_captions, encode_videos
from gare_cache.extraction.project_encoder import (
    project_encoder,
    project_identity,
    project_layout,
    project_views,
)
from gare_cache.process_memory import keep_freed_memory
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import quiet
from gare_cache.reproducibility import set_threads

if TYPE_CHECKING:
    from gare_cache.encoders.encoder import Encoder


@dataclass(frozen=True)
class UnitJob:
    """A unit to be done.

    Attributes:
        pending: the unit and its rows.
        sources: the video or caption of each row.
        absent: paths that the driver does not find either: their videos fail.
    """

    pending: PendingUnit
    sources: Sequence[dict[str, Any]]
    absent: frozenset[str] = frozenset()


@dataclass(frozen=True)
class UnitDone:
    """What became of a unit.

    Attributes:
        record: what the journal says of it; None if nothing could be recorded.
        faint: features near zero.
        postponed: why videos were not recorded: they lacked memory.
    """

    record: UnitRecord | None
    faint: Faint = field(default_factory=Faint)
    postponed: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkerSettings:
    """What every worker of an extraction is told.

    Attributes:
        start: the driver's current folder, which relative paths start from.
        workspace: the project, in a folder that the worker sees.
        folder: the cache.
        identity: of the extraction; a worker whose own differs is refused.
        device: where the encoder runs.
        threads: torch's threads.
        workers: decoding processes.
    """

    start: Path
    workspace: Workspace
    folder: Path
    identity: dict[str, Any]
    device: str
    threads: int
    workers: int


class UnitWorker:
    """One writer of a cache whose driver hands it units; errors are returned, not raised."""

    def __init__(self, settings: WorkerSettings, number: int) -> None:
        """Take the settings and this worker's number, from 1; ``open`` does the rest."""
        self._settings = settings
        self._number = number
        self._stack = ExitStack()
        self._encoder: Encoder
        self._writer: CacheWriter
        self._committed: list[UnitRecord] = []

    def open(self) -> str | GareCacheError:
        """Load the encoder and open the cache; return who this is, or why it cannot work."""
        try:
            self._open()
        except GareCacheError as err:
            self._stack.close()
            return err
        return who()

    def do(self, job: UnitJob) -> UnitDone | GareCacheError:
        """Do a unit and commit it; return what became of it, or why the extraction must stop."""
        try:
            with quiet():
                encoded = self._encode(job)
                self._committed.clear()
                if encoded.recorded:
                    self._writer.commit(
                        job.pending,
                        encoded.values,
                        encoded.recorded,
                        thumbnails=encoded.thumbnails,
                        seconds=encoded.seconds,
                    )
        except GareCacheError as err:
            return err
        record = self._committed[0] if self._committed else None
        return UnitDone(record, encoded.faint, tuple(encoded.postponed_reasons))

    def _open(self) -> None:
        told = self._settings
        go_to(told.start)
        if not is_at_work(told.folder, DRIVER):
            raise EnvironmentFailure(
                f"{platform.node()} does not see the driver's lock in {told.folder}: the folder "
                "must lie on a file system that all nodes share, with locks that hold across them"
            )
        set_threads(told.threads)
        keep_freed_memory()
        workspace = told.workspace
        with quiet():
            self._encoder = project_encoder(workspace, None, device=told.device)
        identity = project_identity(workspace, self._encoder)
        if identity != told.identity:
            raise FingerprintMismatch(
                f"{platform.node()} would make other features than the driver, from other weights "
                "or versions of packages; install the same on every node"
            )
        self._writer = self._stack.enter_context(
            open_writer(
                told.folder,
                dataset=workspace.params.dataset.name,
                identity=identity,
                layout=project_layout(workspace.params.extract, self._encoder),
                head_start=self._encoder.head_start(),
                owner=workspace.owner,
                shard=worker_shard(self._number),
                on_commit=self._committed.append,
            )
        )

    def _encode(self, job: UnitJob) -> EncodedUnit:
        settings, rows = self._settings.workspace.params.extract, job.pending.rows
        if job.pending.kind == "text":
            return encode_captions(
                self._encoder,
                rows,
                [source["caption"] for source in job.sources],
                batch_captions=settings.batch_captions,
                with_words=settings.word_tokens,
                on_captions=lambda count: None,
            )
        self._require_videos(job)
        with decode_in_workers(
            job.sources,
            sampler=settings.sampler,
            max_frames=settings.max_frames_cached,
            preprocessing=self._encoder.preprocessing,
            workers=self._settings.workers,
            deadline_seconds=settings.deadline_seconds,
            most_pixels=settings.max_frame_pixels,
            memory_bytes=settings.worker_memory_bytes,
            views=project_views(settings),
        ) as decoded:
            return encode_videos(
                self._encoder,
                rows,
                decoded,
                layout=self._writer.layout,
                batch_frames=settings.batch_frames,
                on_video=lambda count: None,
            )

    def _require_videos(self, job: UnitJob) -> None:
        for path in missing_files(job):
            if path not in job.absent:
                raise EnvironmentFailure(
                    f"{platform.node()} has no {path}, which the driver has; mount the videos "
                    "there under the same path, and run again"
                )


def missing_files(job: UnitJob) -> list[str]:
    """Return the videos of a unit that this machine does not have."""
    if job.pending.kind != "video":
        return []
    return [source["path"] for source in job.sources if not os.path.exists(source["path"])]


def as_seen_here(job: UnitJob) -> UnitJob:
    """Return a unit with the videos that this machine does not have named as absent."""
    return replace(job, absent=frozenset(missing_files(job)))
