"""Open a project for searching: its gallery, the videos' vectors, and the calibration."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gare_cache.cache.loading import captions_without_features
from gare_cache.cache.reader import FeatureCache
from gare_cache.data.split import expected_items
from gare_cache.encoders.encoder import Encoder
from gare_cache.errors import FingerprintMismatch
from gare_cache.extraction.project_encoder import project_encoder
from gare_cache.files import canonical_digest, read_json, write_record
from gare_cache.heads.retrieval import RetrievalHead, build_head
from gare_cache.manifest.tables import Manifest, read_manifest
from gare_cache.project.features import open_features
from gare_cache.project.paths import Workspace
from gare_cache.search.calibration import Calibration, calibrate, sample_of
from gare_cache.search.choice import StoreChoice
from gare_cache.search.encoded import EncodedGallery, open_encoded
from gare_cache.search.gallery import open_gallery
from gare_cache.search.searcher import WHOLE, Searcher
from gare_cache.search.store import VectorStore

_CALIBRATION = "calibration_{}.json"  # by the name of the store


def open_searcher(
    workspace: Workspace,
    head: RetrievalHead | None = None,
    *,
    head_id: str = "",
    device: torch.device,
    encoder: Callable[[], Encoder] | None = None,
    store: StoreChoice = StoreChoice(),  # noqa: B008
) -> Searcher:
    """Prepare the search of a project's videos; vectors and calibration are kept for the next time.

    Args:
        workspace: the project.
        head: scores the pairs, on the device; None is zero shot: the cosine of the sentence and the
            mean frame.
        head_id: identity of the head's weights.
        device: where queries are encoded and scored.
        encoder: returns the encoder; None loads the project's.
        store: what finds the shortlist.

    Raises:
        ConfigError, EnvironmentFailure: as ``StoreChoice.open``.
        CacheError: nothing was extracted, or no video has features.
        FingerprintMismatch: the features are of another encoder than the project's settings.
    """
    cache, _ = open_features(workspace)
    manifest = read_manifest(workspace.manifest)
    gallery = open_gallery(cache, manifest, workspace.project)
    if head is None:
        frame_norm = workspace.params.evaluate.frame_norm
        head = build_head(
            dim=cache.layout.dim,
            max_frames=cache.layout.max_frames,
            aggregator={"name": "mean"},
            pooling={"name": "mean", "frame_norm": frame_norm},
            gap=None,
        ).to(device)
        head_id = canonical_digest(head.settings)
    root = workspace.original / ".gare" / "search"
    videos = open_encoded(gallery, head, root, head_id=head_id)
    opened = store.open(videos.vectors, gallery, videos.place, workspace.owner.id)
    return Searcher(
        videos,
        opened,
        encoder or (lambda: _encoder(workspace, manifest, cache, device)),
        workspace.params.extract,
        calibration=_calibration(videos, opened, manifest),
    )


def _encoder(
    workspace: Workspace, manifest: Manifest, cache: FeatureCache, device: torch.device
) -> Encoder:
    encoder = project_encoder(workspace, manifest, device=str(device))
    if encoder.encoder_id != cache.encoder_id:
        raise FingerprintMismatch(
            f"{cache.folder} holds features of encoder {cache.encoder_id[:12]}, but the settings "
            f"describe encoder {encoder.encoder_id[:12]}; run `gare-cache extract`, or restore the "
            "settings"
        )
    return encoder


def _calibration(videos: EncodedGallery, store: VectorStore, manifest: Manifest) -> Calibration:
    """Return the calibration of these videos and captions, measured once."""
    gallery, cache = videos.gallery, videos.gallery.cache
    key = canonical_digest(
        [
            *(cache.content_digest, manifest.digest(), [video.row for video in gallery.videos]),
            *(WHOLE, store.identity),
        ]
    )
    name = store.identity.partition(" ")[0]
    file = videos.place / _CALIBRATION.format(name)
    kept = read_json(file) if file.is_file() else {}
    if kept.get("key") == key:
        return Calibration(**kept["found"], sample=sample_of(videos.vectors))
    failed = captions_without_features(cache)
    rows = [
        row for row in expected_items(cache, manifest, "text") if row["caption_id"] not in failed
    ]
    validation = [row for row in rows if row["split"] == "val"]
    found = calibrate(
        videos,
        store,
        {row["caption_id"]: row["video_id"] for row in validation or rows},
        whole=len(gallery.videos) <= WHOLE,
    )
    write_record(file, {"key": key, "found": found.to_json()})
    return found
