"""Stage extract: encode the videos and captions of the manifest into a resumable feature cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gare_cache.annotations.record import SPLITS
from gare_cache.cache.copies import copies_across_splits
from gare_cache.cache.coverage import NOUNS, coverage
from gare_cache.cache.disk import environment_errors
from gare_cache.cache.journal import UnitRecord
from gare_cache.cache.lock import DRIVER, Shard
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.cache.schema import KINDS, MANIFEST
from gare_cache.cache.writer import open_writer
from gare_cache.cluster.ray_pool import Cluster
from gare_cache.encoders.encoder import Encoder
from gare_cache.errors import CacheError, ConfigError, DecodeError, counted
from gare_cache.extraction.cluster import encode_on_cluster, wait_for_former_workers
from gare_cache.extraction.pending import require_nothing_pending, units_left
from gare_cache.extraction.project_encoder import (
    project_encoder,
    project_identity,
    project_layout,
)
from gare_cache.extraction.unit_worker import WorkerSettings
from gare_cache.extraction.write import encode_all_captions, encode_all_videos
from gare_cache.manifest.tables import Manifest, read_manifest
from gare_cache.project.features import cache_folder, write_features, write_stopped
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import say
from gare_cache.reproducibility import set_threads

_REASONS_SHOWN = 3
_PURPOSES = {"train": "training", "val": "training, which selects on it,", "test": "scoring it"}


def extract(
    workspace: Workspace,
    *,
    device: str = "auto",
    threads: int = 0,
    workers: int = 0,
    shard: Shard | None = None,
    finalise: bool = False,
    retry_failed: bool = False,
    max_failures: int | None = None,
    cluster: Cluster | None = None,
) -> dict[str, Any] | None:
    """Encode the manifest's items that the cache lacks, then write ``features.json``.

    Args:
        workspace: the project.
        device: where the encoder runs.
        threads: number of torch threads; 0 keeps torch's default.
        workers: number of decoding processes; 0 takes one per processor, at most 16.
        shard: encode only the units of this shard, in parallel with others, and write no
            features.json.
        finalise: encode nothing; raise an error if units are left.
        retry_failed: retry the videos that failed in earlier runs.
        max_failures: stop once more videos than this have failed in this run; None never stops.
        cluster: encode by Ray actors; None encodes in this process.

    Returns:
        The content of ``features.json``; None for a shard.

    Raises:
        ConfigError: no encoder is set, no train video has a file, or ``finalise`` is combined with
            a flag for encoding.
        DecodeError: more videos failed than ``extract.max_failed_percent`` or ``max_failures``
            allows; everything that could be encoded is kept.
        CacheError: another process is writing the cache, it is damaged, or units are left.
        EnvironmentFailure: the disk is full or access is denied; finished units are kept.
    """
    if finalise and (shard or retry_failed):
        raise ConfigError("--finalise encodes nothing; leave out --shard and --retry-failed")
    if cluster and (shard or finalise):
        raise ConfigError("--engine ray hands out all units; leave out --shard and --finalise")
    set_threads(threads)
    manifest = read_manifest(workspace.manifest)
    if workspace.original != workspace.project:
        manifest = manifest.with_files_of(workspace.original)
    _require_train_videos(manifest)
    params = workspace.params
    encoder = project_encoder(workspace, manifest, device="cpu" if cluster else device)
    identity = project_identity(workspace, encoder)
    folder = cache_folder(workspace, identity, dict(zip(KINDS, manifest.encodable(), strict=True)))
    say(f"cache {folder}")
    opened = partial(
        open_writer,
        folder,
        dataset=params.dataset.name,
        identity=identity,
        layout=project_layout(params.extract, encoder),
        head_start=encoder.head_start(),
        owner=workspace.owner,
        retry_failed=retry_failed,
        on_commit=None if max_failures is None else stop_after(max_failures),
    )
    if cluster:
        wait_for_former_workers(folder)
        told = WorkerSettings(Path.cwd(), workspace, folder, identity, device, threads, workers)
        with opened(shard=DRIVER) as writer:
            encode_on_cluster(writer, manifest, cluster, told)
    with opened(shard=shard) as writer:
        if finalise or cluster:
            require_nothing_pending(writer, manifest)
        else:
            encode_all_videos(writer, encoder, manifest, params.extract, workers=workers)
            encode_all_captions(writer, encoder, manifest, params.extract)
        if shard is None and writer.owned:
            with environment_errors(folder):
                manifest.write(folder / MANIFEST)
    cache = open_cache(folder)
    if shard:
        say_what_is_left(cache, manifest, shard, "gare-cache extract")
        return None
    return _publish(workspace, manifest, encoder, cache)


def say_what_is_left(cache: FeatureCache, manifest: Manifest, shard: Shard, command: str) -> None:
    """Say how much of a manifest other shards have left, and which command finalises."""
    left = units_left(cache.tables, manifest)
    if left:
        say(f"{shard} is done; {counted(left, 'unit', 'are')} left to other shards")
    else:
        say(f"{shard} is done, no unit is left; run `{command} --finalise`")


def stop_after(max_failures: int) -> Callable[[UnitRecord], None]:
    """Return a function that takes every committed unit and raises beyond so many failures."""
    reasons: list[str] = []

    def count(record: UnitRecord) -> None:
        reasons.extend(o.reason for o in record.outcomes if o.reason is not None)
        if len(reasons) > max_failures:
            raise DecodeError(
                f"{counted(len(reasons), 'video')} failed in this run and --max-failures is "
                f"{max_failures} "
                f"({'; '.join(reasons[:_REASONS_SHOWN])}). Finished units are kept: repair the "
                "files and run with --retry-failed"
            )

    return count


def _publish(
    workspace: Workspace, manifest: Manifest, encoder: Encoder, cache: FeatureCache
) -> dict[str, Any]:
    failed = failures_of(cache, manifest)
    for line in (
        *_coverage(cache, manifest),
        *copies_across_splits(cache.tables["video"], manifest),
    ):
        say(line)
    _check_failures(workspace, cache, manifest, failed)
    _, captions = manifest.encodable()
    cut = _count_cut(encoder, captions)
    if cut and any(cut.values()):
        by_split = ", ".join(f"{number:,} of {split}" for split, number in cut.items() if number)
        say(
            f"warning: {counted(sum(cut.values()), 'caption')} cut at "
            f"{counted(encoder.context_length, 'token')} ({by_split})"
        )
    with environment_errors(workspace.outputs):
        return write_features(
            workspace,
            cache,
            videos=video_counts(manifest, failed, done="encoded"),
            captions={"encoded": len(captions), "cut": cut},
        )


def failures_of(cache: FeatureCache, manifest: Manifest) -> dict[str, str]:
    """Return the videos of a manifest that failed, each with where it is named and the reason."""
    reasons = cache.failures()
    return {
        row["video_id"]: f"{row['annotated']}: {reasons[row['video_id']]}"
        for row in manifest.videos.select(["video_id", "annotated"]).to_pylist()
        if row["video_id"] in reasons
    }


def video_counts(manifest: Manifest, failed: Mapping[str, str], *, done: str) -> dict[str, int]:
    """Count a manifest's videos by what became of them; ``done`` names the good ones."""
    missing = manifest.videos["path"].null_count
    good = len(manifest.videos) - len(failed) - missing
    return {done: good, "failed": len(failed), "missing": missing}


def _count_cut(encoder: Encoder, captions: Sequence[Mapping[str, Any]]) -> dict[str, int] | None:
    """Count captions longer than the context by split; None if the tokenizer cannot tell."""
    cut: dict[str, int] = {}
    for split in SPLITS:
        number = encoder.count_cut([row["caption"] for row in captions if row["split"] == split])
        if number is None:
            return None
        cut[split] = number
    return cut


def _coverage(cache: FeatureCache, manifest: Manifest) -> Iterator[str]:
    counts: dict[str, list[str]] = defaultdict(list)
    bare: dict[str, None] = {}
    for kind, split, encoded, listed in coverage(cache, manifest):
        counts[split].append(f"{encoded:,} of {counted(listed, NOUNS[kind])}")
        if listed and not encoded:
            bare[split] = None
    for split, parts in counts.items():
        yield f"{split}: {', '.join(parts)} encoded"
    for split in bare:
        yield f"warning: {split} has no features; {_PURPOSES[split]} will be refused"


def _require_train_videos(manifest: Manifest) -> None:
    """Refuse to encode for hours what nothing can be trained on."""
    rows = manifest.videos.to_pylist()
    listed = [row for row in rows if row["split"] == "train"]
    some = any(row["path"] is not None for row in rows)  # else there is nothing to encode at all
    if some and listed and all(row["path"] is None for row in listed):
        raise ConfigError(
            f"none of the {counted(len(listed), 'train video')} has a file (the first: "
            f"{listed[0]['annotated']}); dataset.video_roots must hold the train videos, too"
        )
    if not listed:
        say("warning: no train video is listed; these features can be scored, not trained on")


def _check_failures(
    workspace: Workspace, cache: FeatureCache, manifest: Manifest, failed: Mapping[str, str]
) -> None:
    fate = "they are masked, and counted in every coverage"
    error = stopping_error(workspace, manifest, failed, done="encoded", fate=fate)
    if error is not None:
        message = f"{error}. All of them: {workspace.stopped}"
        write_stopped(workspace, cache.folder, message, failed)
        raise type(error)(message)


def stopping_error(
    workspace: Workspace, manifest: Manifest, failed: Mapping[str, str], *, done: str, fate: str
) -> DecodeError | CacheError | None:
    """Return why so many failures stop an extraction; None, after a warning, if they do not.

    Args:
        workspace: the project.
        manifest: lists the videos.
        failed: id of each failed video -> where it is named, and the reason.
        done: what cannot be done with them, for example ``encoded``.
        fate: what becomes of them if nothing stops, for the warning.
    """
    if not failed:
        return None
    listed = len(manifest.videos)
    shown = "; ".join(list(failed.values())[:_REASONS_SHOWN])
    more = ", ..." if len(failed) > _REASONS_SHOWN else ""
    summary = f"{len(failed):,} of {counted(listed, 'video')} cannot be {done} ({shown}{more})"
    limit = workspace.params.extract.max_failed_percent
    videos, _ = manifest.encodable()
    trained = [row for row in videos if row["split"] == "train"] or videos
    left = {row["video_id"] for row in trained} - failed.keys()
    reached = 100 * len(failed) > limit * listed
    if left and not reached:
        say(f"warning: {summary}; {fate}")
        return None
    consequence = (
        f"extract.max_failed_percent is {limit:g}. What could be {done} is kept: repair the files "
        "and run with --retry-failed, or raise the limit and run again"
        if left
        else "nothing is left to train on"
    )
    return (DecodeError if left else CacheError)(f"{summary}; {consequence}")
