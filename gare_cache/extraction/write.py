"""Write the items of a manifest that a cache lacks, unit by unit."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

from gare_cache.cache.writer import CacheWriter
from gare_cache.encoders.augmentation import Views
from gare_cache.encoders.encoder import Encoder
from gare_cache.encoders.preprocessing import Preprocessing
from gare_cache.encoders.settings import ExtractSettings
from gare_cache.errors import EnvironmentFailure, counted
from gare_cache.extraction.decode import decode_in_workers
from gare_cache.extraction.encode import (
    FAINT_NORM,
    EncodedUnit,
    Faint,
    committing,
    encode_captions,
    encode_videos,
)
from gare_cache.extraction.frame_cache import gather_frames
from gare_cache.extraction.project_encoder import project_views
from gare_cache.manifest.tables import Manifest
from gare_cache.project.progress import progress, say

_MOST_WORKERS = 16
_REASONS_SHOWN = 3


def encode_all_videos(
    writer: CacheWriter,
    encoder: Encoder,
    manifest: Manifest,
    settings: ExtractSettings,
    *,
    workers: int,
) -> None:
    """Decode and encode the videos that the cache lacks.

    Args:
        writer: the open cache.
        encoder: the frozen encoder.
        manifest: lists the videos.
        settings: sampling, batch size and deadline.
        workers: decoding processes; 0 takes one per processor, at most 16.

    Raises:
        EnvironmentFailure: videos need more memory than there is; they stay pending.
    """
    encode = partial(
        encode_videos, encoder, layout=writer.layout, batch_frames=settings.batch_frames
    )
    _write_videos(
        writer,
        encode,
        manifest,
        settings,
        preprocessing=encoder.preprocessing,
        views=project_views(settings),
        workers=workers,
        doing="encode videos",
    )


def write_all_frames(
    writer: CacheWriter,
    preprocessing: Preprocessing,
    manifest: Manifest,
    settings: ExtractSettings,
    *,
    workers: int,
) -> None:
    """Decode the videos whose frames the cache lacks, and keep the frames.

    Args:
        writer: the open cache of frames.
        preprocessing: how frames are shrunk, to one size.
        manifest: lists the videos.
        settings: sampling and deadline.
        workers: as for ``encode_all_videos``.

    Raises:
        EnvironmentFailure: as ``encode_all_videos``.
    """
    _write_videos(
        writer,
        partial(gather_frames, layout=writer.layout),
        manifest,
        settings,
        preprocessing=preprocessing,
        views=None,
        workers=workers,
        doing="decode videos",
    )


def _write_videos(
    writer: CacheWriter,
    finish: Callable[..., EncodedUnit],
    manifest: Manifest,
    settings: ExtractSettings,
    *,
    preprocessing: Preprocessing,
    views: Views | None,
    workers: int,
    doing: str,
) -> None:
    """Decode the videos that the cache lacks and commit what ``finish`` makes of each unit."""
    sources, _ = manifest.encodable()
    rows = writer.allocate("video", sources)
    source_of = dict(zip(rows, sources, strict=True))
    pending = writer.pending("video", rows)
    left = sum(len(unit.rows) for unit in pending)
    faint = Faint()
    postponed: list[str] = []
    with (
        decode_in_workers(
            [source_of[row] for unit in pending for row in unit.rows],
            sampler=settings.sampler,
            max_frames=settings.max_frames_cached,
            preprocessing=preprocessing,
            workers=workers or min(os.cpu_count() or 1, _MOST_WORKERS),
            deadline_seconds=settings.deadline_seconds,
            most_pixels=settings.max_frame_pixels,
            memory_bytes=settings.worker_memory_bytes,
            views=views,
        ) as decoded,
        committing(writer) as commit,
        progress(doing, len(rows), done=len(rows) - left) as advance,
    ):
        for unit in pending:
            encoded = finish(unit.rows, islice(decoded, len(unit.rows)), on_video=advance)
            if encoded.recorded:
                commit(unit, encoded)
            faint += encoded.faint
            postponed += encoded.postponed_reasons
    say_faint(faint, "frames")
    raise_postponed(postponed)


def raise_postponed(postponed: Sequence[str]) -> None:
    """Raise an error if videos were postponed for lack of memory.

    Args:
        postponed: the reasons.

    Raises:
        EnvironmentFailure: there are some.
    """
    if postponed:
        raise EnvironmentFailure(
            f"{counted(len(postponed), 'video')} could not be decoded for lack of memory "
            f"({'; '.join(postponed[:_REASONS_SHOWN])}); everything else is kept. Run again, which "
            "tries these videos once more, with fewer --workers or a larger "
            "extract.worker_memory_gib"
        )


def encode_all_captions(
    writer: CacheWriter, encoder: Encoder, manifest: Manifest, settings: ExtractSettings
) -> None:
    """Encode the captions that the cache lacks; those of videos without a file are left out.

    Arguments as for ``encode_all_videos``.
    """
    _, sources = manifest.encodable()
    rows = writer.allocate("text", sources)
    caption_of = {row: source["caption"] for row, source in zip(rows, sources, strict=True)}
    pending = writer.pending("text", rows)
    left = sum(len(unit.rows) for unit in pending)
    faint = Faint()
    with progress("encode captions", len(rows), done=len(rows) - left) as advance:
        for unit in pending:
            encoded = encode_captions(
                encoder,
                unit.rows,
                [caption_of[row] for row in unit.rows],
                batch_captions=settings.batch_captions,
                with_words=settings.word_tokens,
                on_captions=advance,
            )
            writer.commit(
                unit, encoded.values, encoded.outcomes, thumbnails={}, seconds=encoded.seconds
            )
            faint += encoded.faint
    say_faint(faint, "captions")


def say_faint(faint: Faint, what: str) -> None:
    """Warn of features near zero."""
    if faint.count:
        say(
            f"warning: the features of {faint.count:,} {what} have norms below {FAINT_NORM:g}, "
            f"which float16 rounds by up to {100 * faint.error:.2g} %; check the weights"
        )
