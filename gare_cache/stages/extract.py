"""Stage extract: manifest -> feature cache, unit by unit, resumable."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gare_cache.cache.identity import extraction_identity, folder_name
from gare_cache.cache.reader import open_cache
from gare_cache.cache.schema import Layout
from gare_cache.cache.writer import CacheWriter, open_writer
from gare_cache.config import EncoderSettings, ExtractSettings
from gare_cache.demo import demo_encoder_dir
from gare_cache.encoders.encoder import Encoder, load_encoder
from gare_cache.encoders.loading import LOCAL_DIR, ModelSource
from gare_cache.errors import CacheError, DecodeError
from gare_cache.files import write_json
from gare_cache.manifest import Manifest, read_manifest
from gare_cache.reproducibility import resolve_device, set_threads
from gare_cache.stages.encode_units import encode_captions, encode_videos
from gare_cache.stages.progress import progress, say
from gare_cache.stages.workspace import Workspace
from gare_cache.video.decoders import import_decord
from gare_cache.video.decoding import DECODER_RULE

DEMO_MODEL = "demo"
_REASONS_SHOWN = 3


def extract(
    workspace: Workspace, *, device: str = "auto", threads: int = 0, workers: int = 0
) -> dict[str, Any]:
    """Encode what the cache lacks of the manifest, then write ``features.json``.

    Args:
        workspace: the project.
        device: where the encoder runs.
        threads: torch's threads; 0 keeps torch's choice.
        workers: threads that decode; 0 takes one a processor, at most 8.

    Returns:
        The content of ``features.json``.

    Raises:
        DecodeError: more videos failed than ``extract.max_failed_percent`` allows; everything that
            could be encoded is kept.
        CacheError: another process writes the cache.
    """
    set_threads(threads)
    manifest = read_manifest(workspace.manifest)
    params = workspace.params
    encoder = load_encoder(
        _model_source(workspace, params.encoder),
        precision=params.encoder.precision,
        device=resolve_device(device),
        context_length=params.encoder.context_length,
    )
    identity = extraction_identity(
        encoder=encoder.identity,
        sampling={
            "sampler": params.extract.sampler,
            "max_frames": params.extract.max_frames,
            "batch_frames": params.extract.batch_frames,
            "batch_captions": params.extract.batch_captions,
        },
        decoder_rule=f"{DECODER_RULE} with {'decord' if import_decord() else 'PyAV alone'}",
    )
    folder = workspace.cache_root / folder_name(params.dataset.name, identity)
    say(f"cache {folder}")
    with open_writer(
        folder,
        dataset=params.dataset.name,
        identity=identity,
        layout=Layout(max_frames=params.extract.max_frames, dim=encoder.dim),
        head_start=encoder.head_start(),
    ) as writer:
        _encode_all_videos(writer, encoder, manifest, params.extract, workers=workers)
        _encode_all_captions(writer, encoder, manifest, params.extract)
    return _publish(workspace, manifest, encoder, folder.name)


def _model_source(workspace: Workspace, settings: EncoderSettings) -> ModelSource:
    model = settings.model
    if model == DEMO_MODEL:
        model = f"{LOCAL_DIR}{demo_encoder_dir()}"
    elif model.startswith(LOCAL_DIR):
        model = f"{LOCAL_DIR}{workspace.project / model.removeprefix(LOCAL_DIR)}"
    return ModelSource(
        model=model,
        pretrained=settings.pretrained,
        quick_gelu=settings.quick_gelu,
        trust_checkpoint=settings.trust_checkpoint,
    )


def _encode_all_videos(
    writer: CacheWriter,
    encoder: Encoder,
    manifest: Manifest,
    settings: ExtractSettings,
    *,
    workers: int,
) -> None:
    sources = [row for row in manifest.videos.to_pylist() if row["path"] is not None]
    rows = writer.allocate("video", sources)
    source_of = dict(zip(rows, sources, strict=True))
    pending = writer.pending("video", rows)
    left = sum(len(unit.rows) for unit in pending)
    workers = workers or min(os.cpu_count() or 1, 8)
    with (
        ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool,
        progress("encode videos", len(rows), done=len(rows) - left) as advance,
    ):
        try:
            for unit in pending:
                encoded = encode_videos(
                    encoder,
                    unit.rows,
                    [source_of[row] for row in unit.rows],
                    sampler=settings.sampler,
                    layout=writer.layout,
                    batch_frames=settings.batch_frames,
                    pool=pool,
                    ahead=2 * workers,
                    on_video=advance,
                )
                writer.commit(
                    unit,
                    encoded.values,
                    encoded.outcomes,
                    thumbnails=encoded.thumbnails,
                    seconds=encoded.seconds,
                )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _encode_all_captions(
    writer: CacheWriter, encoder: Encoder, manifest: Manifest, settings: ExtractSettings
) -> None:
    sources = manifest.captions.to_pylist()
    rows = writer.allocate("text", sources)
    caption_of = {row: source["caption"] for row, source in zip(rows, sources, strict=True)}
    pending = writer.pending("text", rows)
    left = sum(len(unit.rows) for unit in pending)
    with progress("encode captions", len(rows), done=len(rows) - left) as advance:
        for unit in pending:
            encoded = encode_captions(
                encoder,
                unit.rows,
                [caption_of[row] for row in unit.rows],
                batch_captions=settings.batch_captions,
                on_captions=advance,
            )
            writer.commit(
                unit, encoded.values, encoded.outcomes, thumbnails={}, seconds=encoded.seconds
            )


def _publish(
    workspace: Workspace, manifest: Manifest, encoder: Encoder, folder: str
) -> dict[str, Any]:
    cache = open_cache(workspace.cache_root / folder)
    listed = manifest.videos.select(["video_id", "path"]).to_pylist()
    failures = cache.failures()
    failed = {row["video_id"] for row in listed if row["video_id"] in failures}
    missing = sum(row["path"] is None for row in listed)
    _check_failures(workspace, len(listed), {id_: failures[id_] for id_ in sorted(failed)})
    captions = manifest.captions["caption"].to_pylist()
    num_cut = encoder.count_cut(captions)
    if num_cut:
        say(f"warning: {num_cut:,} captions are cut at {encoder.context_length} tokens")
    features = {
        "dataset": workspace.params.dataset.name,
        "folder": folder,
        "encoder_id": cache.encoder_id,
        "extraction_id": cache.extraction_id,
        "content_digest": cache.content_digest,
        "dim": cache.layout.dim,
        "max_frames": cache.layout.max_frames,
        "videos": {
            "encoded": len(listed) - len(failed) - missing,
            "failed": len(failed),
            "missing": missing,
        },
        "captions": {"encoded": len(captions), "cut": num_cut},
    }
    write_json(workspace.features, features)
    return features


def _check_failures(workspace: Workspace, listed: int, failed: dict[str, str]) -> None:
    if not failed:
        return
    shown = "; ".join(list(failed.values())[:_REASONS_SHOWN])
    summary = f"{len(failed):,} of {listed:,} videos cannot be encoded ({shown})"
    if len(failed) == listed:
        raise CacheError(f"{summary}; nothing is left to train on")
    if 100 * len(failed) > workspace.params.extract.max_failed_percent * listed:
        raise DecodeError(
            f"{summary}; extract.max_failed_percent is "
            f"{workspace.params.extract.max_failed_percent:g}. What could be encoded is kept: mend "
            "the files, or raise the limit, and run again"
        )
    say(f"warning: {summary}; they are masked, and counted in every coverage")
