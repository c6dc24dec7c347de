"""Estimate work, disk space and time of an extraction from a short trial; writes nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.cache.reader import open_cache
from gare_cache.cache.rows import RowTable, Sources
from gare_cache.cache.schema import FEATURES, KINDS, Kind, Layout
from gare_cache.encoders.encoder import Encoder
from gare_cache.extraction.decode import DecodedVideo, decode_in_workers
from gare_cache.extraction.pending import pending_sources
from gare_cache.extraction.project_encoder import (
    project_encoder,
    project_identity,
    project_layout,
    project_views,
)
from gare_cache.manifest.tables import read_manifest
from gare_cache.project.features import cache_folder
from gare_cache.project.paths import Workspace
from gare_cache.reproducibility import resolve_device, set_threads

_TRIAL_VIDEOS = 8
_TRIAL_CAPTIONS = 1000  # captions whose tokens are counted
_MOST_BATCH = 32  # larger batches take longer to try and are hardly faster
_COMPARED = ("fp32", "bf16")


@dataclass(frozen=True, eq=False)
class _Trial:
    """Result of decoding a few videos.

    Attributes:
        decode_seconds: mean time per video in one process.
        num_frames: mean number of frames per video.
        thumbnail_bytes: mean size per video.
        failures: number of videos that could not be decoded.
        frame: (H, W, 3) uint8, a frame as it reaches the encoder; None if all videos failed.
    """

    decode_seconds: float = 0.0
    num_frames: float = 0.0
    thumbnail_bytes: float = 0.0
    failures: int = 0
    frame: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class _Rates:
    """Frames and captions encoded per second; 0 if there was nothing to try."""

    frames: float
    captions: float


def dry_run(
    workspace: Workspace, *, device: str = "auto", threads: int = 0, workers: int = 0
) -> Iterator[str]:
    """Yield lines that say what ``extract`` with the same arguments would do.

    Weights that are not on this machine are not downloaded: sizes and times are those of the model
    with random weights, and all items count as not encoded yet.

    Args:
        workspace: the project.
        device: where the encoder runs.
        threads: torch threads; 0 keeps torch's default.
        workers: decoding processes; 0 takes one per processor.

    Raises:
        ConfigError, EncoderError, CacheError: as ``extract``.
    """
    set_threads(threads)
    manifest = read_manifest(workspace.manifest)
    encoder = project_encoder(workspace, manifest, device=device, download=False)
    identity = project_identity(workspace, encoder)
    folder = cache_folder(workspace, identity, dict(zip(KINDS, manifest.encodable(), strict=True)))
    layout = project_layout(workspace.params.extract, encoder)
    tables = tables_of(folder, layout)
    pending = pending_sources(tables, manifest)
    if encoder.has_weights:
        yield f"cache            {folder} ({'exists' if tables['video'].sources else 'new'})"
    else:
        yield (
            f"cache            new in {workspace.cache_root}; `extract` downloads the weights of "
            f"{encoder.name}, until then its name is unknown"
        )
    yield f"videos           {_amount(len(pending['video']), len(manifest.videos))}"
    yield f"captions         {_amount(len(pending['text']), len(manifest.captions))}"
    cores = os.cpu_count() or 1
    trial = _try_decoding(workspace, encoder, list(pending["video"].values()), cores)
    needed = bytes_to_write(layout, tables, pending)
    needed += int(trial.thumbnail_bytes * len(pending["video"]))
    needed += _bytes_of_words(encoder, layout, pending["text"])
    yield from disk_lines(folder, needed)
    if not pending["video"] and not pending["text"]:
        yield "time             nothing is left to encode"
        return
    processes = min(workers or cores, cores)
    if pending["video"]:
        failed = f", {trial.failures} of the tried videos failed" if trial.failures else ""
        yield (
            f"decode           {trial.decode_seconds * 1000:,.0f} ms a video in each of "
            f"{processes} processes, {trial.num_frames:.1f} frames a video{failed}"
        )
    configured = encoder.identity["precision"]
    for precision in dict.fromkeys((configured, *_COMPARED)):
        if precision != configured:
            encoder = project_encoder(
                workspace, manifest, device=device, precision=precision, download=False
            )
        rates = _Rates(
            frames=_frames_a_second(encoder, trial, workspace.params.extract.batch_frames, layout),
            captions=_captions_a_second(encoder, pending["text"].values(), layout),
        )
        seconds = _seconds(
            rates,
            trial,
            frames=trial.num_frames * len(pending["video"]) * (1 + layout.num_views),
            videos=len(pending["video"]),
            captions=len(pending["text"]),
            processes=processes,
            shared=resolve_device(device).type == "cpu",
        )
        note = " (params.yaml)" if precision == configured else ""
        yield (
            f"{precision:<17}{rates.frames:,.0f} frames/s, {rates.captions:,.0f} captions/s: about "
            f"{_duration(seconds)}{note}"
        )


def _amount(pending: int, listed: int) -> str:
    return f"{pending:,} of {listed:,} to encode"


def tables_of(folder: Path, layout: Layout) -> Mapping[Kind, RowTable]:
    """Return the tables of a cache; those of a cache that does not exist yet are empty."""
    if (folder / FEATURES).is_dir():
        return open_cache(folder).tables
    return {kind: RowTable(kind, layout.unit_rows(kind), Sources(kind)) for kind in KINDS}


def bytes_to_write(
    layout: Layout, tables: Mapping[Kind, RowTable], pending: Mapping[Kind, dict[int, Any]]
) -> int:
    """Sum the sizes of the chunks of new units; chunks of existing units are replaced."""
    total = 0
    for kind in KINDS:
        table = tables[kind]
        units = {row // table.unit_rows for row in pending[kind]} - set(table.checksums)
        row_bytes = sum(spec.row_bytes for spec in layout.arrays(kind))
        total += len(units) * table.unit_rows * row_bytes
    return total


def disk_lines(folder: Path, needed: int) -> Iterator[str]:
    """Yield how many bytes will be written and how many are free where a cache lies."""
    place = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    yield f"to be written    {needed / 2**20:,.1f} MB"
    warning = "; TOO LITTLE" if needed > free else ""
    yield f"free on the disk {free / 2**20:,.1f} MB{warning}"


def _try_decoding(
    workspace: Workspace, encoder: Encoder, sources: Sequence[dict[str, Any]], cores: int
) -> _Trial:
    settings = workspace.params.extract
    count = min(_TRIAL_VIDEOS, len(sources))
    if not count:
        return _Trial()
    chosen = [sources[i] for i in np.linspace(0, len(sources) - 1, count).astype(int)]
    with decode_in_workers(
        chosen,
        sampler=settings.sampler,
        max_frames=settings.max_frames_cached,
        preprocessing=encoder.preprocessing,
        workers=min(cores, count),
        deadline_seconds=settings.deadline_seconds,
        most_pixels=settings.max_frame_pixels,
        memory_bytes=settings.worker_memory_bytes,
        views=project_views(settings),
    ) as decoded:
        videos: list[DecodedVideo] = list(decoded)
    return _Trial(
        decode_seconds=sum(video.seconds for video in videos) / count,
        num_frames=sum(len(video.times) for video in videos) / count,
        thumbnail_bytes=sum(len(video.thumbnail or b"") for video in videos) / count,
        failures=sum(video.reason is not None for video in videos),
        frame=next((video.frames[0] for video in videos if video.frames is not None), None),
    )


def _seconds(
    rates: _Rates,
    trial: _Trial,
    *,
    frames: float,
    videos: int,
    captions: int,
    processes: int,
    shared: bool,
) -> float:
    decode = trial.decode_seconds * videos / processes
    encode = frames / rates.frames if rates.frames else 0.0
    # On a CPU both share the processors; beside a GPU the slower side decides.
    both = decode + encode if shared else max(decode, encode)
    return both + (captions / rates.captions if rates.captions else 0.0)


def _bytes_of_words(encoder: Encoder, layout: Layout, pending: Mapping[int, dict[str, Any]]) -> int:
    if not layout.words or not pending:
        return 0
    every = max(1, len(pending) // _TRIAL_CAPTIONS)
    tried = [source["caption"] for source in islice(pending.values(), 0, None, every)]
    lengths = encoder.tokenize(tried).argmax(dim=1) + 1
    return int(lengths.float().mean() * len(pending)) * layout.dim * 2


def _frames_a_second(encoder: Encoder, trial: _Trial, batch: int, layout: Layout) -> float:
    if trial.frame is None:
        return 0.0
    frames = np.repeat(trial.frame[None], min(batch, _MOST_BATCH), axis=0)
    encode = encoder.encode_frame_tokens if layout.num_patches else encoder.encode_frames
    encode(encoder.to_images(frames)).cpu()  # warm-up: the first call allocates memory
    started = time.perf_counter()
    encode(encoder.to_images(frames)).cpu()
    return len(frames) / (time.perf_counter() - started)


def _captions_a_second(
    encoder: Encoder, sources: Iterable[dict[str, Any]], layout: Layout
) -> float:
    captions = [source["caption"] for source in islice(sources, _MOST_BATCH)]
    if not captions:
        return 0.0
    encode = encoder.encode_words if layout.words else encoder.encode_tokens
    encode(encoder.tokenize(captions))
    started = time.perf_counter()
    encode(encoder.tokenize(captions))
    return len(captions) / (time.perf_counter() - started)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
