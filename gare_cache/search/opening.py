"""Open a project for searching: its gallery, the videos' vectors, and the calibration."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from gare_cache.cache.loading import captions_with_features, expected_items
from gare_cache.cache.reader import FeatureCache
from gare_cache.encoders.encoder import Encoder
from gare_cache.encoders.sentence_encoder import SentenceEncoder
from gare_cache.errors import FingerprintMismatch
from gare_cache.extraction.project_encoder import model_source, project_encoder
from gare_cache.files import canonical_digest, read_json, write_record
from gare_cache.heads.retrieval import RetrievalHead, build_head
from gare_cache.manifest.tables import Manifest, read_manifest
from gare_cache.project.features import open_features
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import say
from gare_cache.search.calibration import Calibration, calibrate, sample_of
from gare_cache.search.choice import StoreChoice
from gare_cache.search.encoded import EncodedGallery, open_encoded
from gare_cache.search.gallery import open_gallery
from gare_cache.search.kept_text import KeptText, encoder_stamp
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
    root = _root(workspace)
    videos = open_encoded(gallery, head, root, head_id=head_id)
    opened = store.open(videos.vectors, gallery, videos.place, workspace.owner.id)
    whole = functools.cache(encoder or (lambda: _encoder(workspace, manifest, cache, device)))
    return Searcher(
        videos,
        opened,
        whole,
        lambda: _sentence_encoder(_kept_text(workspace, cache, device), whole),
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


def keep_text(workspace: Workspace, searcher: Searcher) -> None:
    """Keep the text tower of the project's encoder for the next search, if it can be kept."""
    device = searcher.head.logit_scale.device
    kept = _kept_text(workspace, searcher.gallery.cache, device)
    if kept is not None and not kept.is_refused:
        searcher.sentence_encoder()


def _kept_text(workspace: Workspace, cache: FeatureCache, device: torch.device) -> KeptText | None:
    settings = workspace.params.encoder
    if settings is None:
        return None
    stamp = encoder_stamp(model_source(workspace, settings), settings, device)
    return KeptText(_root(workspace), stamp, cache.encoder_id, device)


def _sentence_encoder(kept: KeptText | None, whole: Callable[[], Encoder]) -> SentenceEncoder:
    """Return the kept text tower; else the whole encoder, whose tower is then kept."""
    text = None if kept is None else kept.load()
    if text is not None:
        return text
    encoder = whole()
    if kept is not None and not kept.is_refused:
        try:
            kept.keep(encoder)
        except OSError as err:  # disk full, no permission ...
            say(f"note: the encoder's text tower is not kept, which makes starts slow: {err}")
    return encoder


def _root(workspace: Workspace) -> Path:
    """Return the folder of what a project keeps for its searches."""
    return workspace.original / ".gare" / "search"


def _calibration(videos: EncodedGallery, store: VectorStore, manifest: Manifest) -> Calibration:
    """Return the calibration of these videos and captions, measured once."""
    gallery, cache = videos.gallery, videos.gallery.cache
    key = canonical_digest(
        [
            *(cache.content_digest, manifest.digest(), gallery.videos.rows.tolist()),
            *(WHOLE, store.identity),
        ]
    )
    name = store.identity.partition(" ")[0]
    file = videos.place / _CALIBRATION.format(name)
    kept = read_json(file) if file.is_file() else {}
    if kept.get("key") == key:
        return Calibration(**kept["found"], sample=sample_of(videos.vectors))
    rows = captions_with_features(cache, expected_items(cache, manifest, "text")).to_pylist()
    validation = [row for row in rows if row["split"] == "val"]
    found = calibrate(
        videos,
        store,
        {row["caption_id"]: row["video_id"] for row in validation or rows},
        whole=len(gallery.videos) <= WHOLE,
    )
    write_record(file, {"key": key, "found": found.to_json()})
    return found
