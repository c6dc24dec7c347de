"""The cache of frames: what encoders with the same input are trained on, decoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gare_cache.cache.identity import extraction_identity
from gare_cache.cache.journal import RowOutcome
from gare_cache.cache.schema import PIXELS, Layout
from gare_cache.encoders.preprocessing import Preprocessing
from gare_cache.encoders.settings import ExtractSettings
from gare_cache.errors import CacheError, ConfigError, counted
from gare_cache.extraction.encode import EncodedUnit, Stopwatch
from gare_cache.extraction.pending import pending_sources
from gare_cache.extraction.project_encoder import decoder_rule, project_encoder
from gare_cache.files import canonical_digest
from gare_cache.manifest.tables import Manifest, read_manifest
from gare_cache.project.features import open_frames
from gare_cache.project.paths import Workspace

if TYPE_CHECKING:
    from gare_cache.cache.reader import FeatureCache
    from gare_cache.extraction.decode import DecodedVideo

_CHANNELS = 3


def frames_manifest(workspace: Workspace) -> Manifest:
    """Return the project's manifest without its captions, of which frames depend on none."""
    manifest = read_manifest(workspace.manifest)
    if workspace.original != workspace.project:
        manifest = manifest.with_files_of(workspace.original)
    return Manifest(manifest.videos, manifest.captions.slice(0, 0))


def project_preprocessing(workspace: Workspace, manifest: Manifest) -> Preprocessing:
    """Return how the encoder that params.yaml names wants its frames; its weights are not needed.

    Raises:
        ConfigError: no encoder is set, there is no video, or frames are resized on the device,
            so that they have many sizes before that.
    """
    settings = workspace.params.encoder
    if settings is not None and settings.preprocess == "device":
        raise ConfigError(
            "encoder.preprocess is device, which resizes frames where the model runs; a cache of "
            "frames holds one size: set encoder.preprocess to exact"
        )
    return project_encoder(workspace, manifest, device="cpu", download=False).preprocessing


def frames_identity(settings: ExtractSettings, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return everything that frames depend on.

    The weights are no part of it, nor are mean and standard deviation, which are applied to what is
    read: one cache of frames serves all encoders with the same input.
    """
    return extraction_identity(
        encoder={
            "input": {
                "size": list(preprocessing.size),
                "kind": preprocessing.kind,
                "interpolation": preprocessing.interpolation,
                "resize_mode": preprocessing.resize_mode,
                "fill": preprocessing.fill,
            }
        },
        sampling={"sampler": settings.sampler, "max_frames": settings.max_frames_cached},
        decoder_rule=decoder_rule(),
    )


def frames_layout(settings: ExtractSettings, preprocessing: Preprocessing) -> Layout:
    """Return the layout of a cache of frames."""
    height, width = preprocessing.size
    return Layout(settings.max_frames_cached, dim=_CHANNELS, height=height, width=width)


def gather_frames(
    rows: Sequence[int],
    decoded: Iterable[DecodedVideo],
    *,
    layout: Layout,
    on_video: Callable[[int], None],
) -> EncodedUnit:
    """Return the frames of a unit's videos as they are decoded.

    Args:
        rows: row of each video, ascending.
        decoded: the videos in that order.
        layout: layout of the cache of frames.
        on_video: called with 1 after every video.

    Returns:
        Values in the order of ``rows``; a video that cannot be decoded has fill values and a reason
        in its outcome.
    """
    values = {spec.name: spec.empty(len(rows)) for spec in layout.arrays("video")}
    outcomes, postponed, seconds = [], set(), 0.0
    waiting = Stopwatch(decoded)
    for i, (row, video) in enumerate(zip(rows, waiting, strict=True)):
        if video.frames is not None:
            length = len(video.frames)
            values[PIXELS][i, :length] = video.frames
            values["video/times"][i, :length] = video.times
            values["video/num_frames"][i] = length
        if video.out_of_memory:
            postponed.add(row)
        outcomes.append(
            RowOutcome(
                row,
                reason=video.reason,
                decoder=video.decoder,
                switch_reason=video.switch_reason,
                digest=video.digest,
            )
        )
        seconds += video.seconds
        on_video(1)
    return EncodedUnit(
        values,
        outcomes,
        seconds={"wait": waiting.seconds, "decode": seconds},
        postponed=frozenset(postponed),
    )


def open_frame_cache(
    workspace: Workspace, preprocessing: Preprocessing | None = None
) -> FeatureCache:
    """Open the cache of frames that belongs to the project's settings.

    Args:
        workspace: the project.
        preprocessing: of the encoder to train; None takes that of the encoder in params.yaml.

    Raises:
        CacheError: it is missing, of other settings, or lacks videos of the manifest.
        FingerprintMismatch: it is not what was extracted.
        ConfigError: as ``project_preprocessing``.
    """
    manifest = frames_manifest(workspace)
    preprocessing = preprocessing or project_preprocessing(workspace, manifest)
    identity = frames_identity(workspace.params.extract, preprocessing)
    cache = open_frames(workspace, canonical_digest(identity))
    pending = len(pending_sources(cache.tables, manifest)["video"])
    if pending:
        raise CacheError(
            f"{cache.folder} lacks {counted(pending, 'video')} of the manifest; run `gare-cache "
            "extract --frames`"
        )
    return cache
