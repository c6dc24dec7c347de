"""Stage evaluate: head + cached split -> metrics, ranks and similarity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gare_cache.config import EvaluateSettings
from gare_cache.data.split import FeatureSplit, load_split
from gare_cache.evaluation.metrics import (
    QueryRanks,
    retrieval_metrics,
    text_to_video,
    video_to_text,
)
from gare_cache.evaluation.significance import paired_difference, recall_interval
from gare_cache.files import replacing, write_json, write_parquet
from gare_cache.heads.retrieval import RetrievalHead, build_head
from gare_cache.manifest import read_manifest
from gare_cache.reproducibility import resolve_device
from gare_cache.stages.workspace import Workspace, open_features
from gare_cache.training.checkpoint import load_checkpoint, require_encoder

ZERO_SHOT = "zero_shot"
HEAD = "head"
DIRECTIONS = ("t2v", "v2t")
_BOOTSTRAP_SEED = 0

Similarity = npt.NDArray[np.float32]


def evaluate(workspace: Workspace, *, device: str = "auto") -> dict[str, Any]:
    """Score the trained head, and zero-shot mean pooling beside it.

    Writes ``evaluation/metrics.json``, ``ranks.parquet`` (one row a method, direction and query)
    and ``similarity.npy`` ((T, V) cosines of the head).

    Args:
        workspace: the project.
        device: where to score.

    Returns:
        The content of ``metrics.json``.

    Raises:
        ConfigError: no head was trained, or the split is empty.
        FingerprintMismatch: the head belongs to another encoder.
    """
    settings = workspace.params.evaluate
    target = resolve_device(device)
    checkpoint = load_checkpoint(workspace.run / "head.safetensors")
    cache, _ = open_features(workspace)
    require_encoder(checkpoint, cache.encoder_id, where=cache.folder)
    split = load_split(
        cache,
        read_manifest(workspace.manifest),
        settings.split,
        device=target,
        num_frames=checkpoint.head.settings["max_frames"],
    )
    methods = {ZERO_SHOT: zero_shot_head(split), HEAD: checkpoint.head}
    similarities = {name: _similarity(head, split) for name, head in methods.items()}
    ranks = {name: _ranks(s, split, settings) for name, s in similarities.items()}
    metrics = {
        "split": settings.split,
        "v2t_convention": settings.v2t_convention,
        "coverage": split.coverage,
        "num_texts": len(split.caption_ids),
        "num_videos": len(split.video_ids),
        "methods": {name: _scores(r, split, settings) for name, r in ranks.items()},
        "difference": _differences(ranks, split, settings),
    }
    write_json(workspace.evaluation / "metrics.json", metrics)
    write_parquet(workspace.evaluation / "ranks.parquet", _ranks_table(ranks, split))
    with replacing(workspace.evaluation / "similarity.npy") as partial, partial.open("wb") as file:
        np.save(file, similarities[HEAD])
    return metrics


def zero_shot_head(split: FeatureSplit) -> RetrievalHead:
    """Return the head without parameters: the cosine of the sentence and the mean frame."""
    return build_head(
        dim=split.text.shape[1],
        max_frames=split.frames.shape[1],
        aggregator={"name": "mean"},
        pooling={"name": "mean"},
    )


def query_videos(split: FeatureSplit) -> dict[str, npt.NDArray[np.int64]]:
    """Return the video of every query, by direction; a video with a caption is a v2t query."""
    video_of_text = split.video_of_text.cpu().numpy()
    return {"t2v": video_of_text, "v2t": np.unique(video_of_text)}


def _similarity(head: RetrievalHead, split: FeatureSplit) -> Similarity:
    head = head.to(split.text.device)
    similarity: Similarity = head.similarity(split.text, split.frames, split.mask).cpu().numpy()
    return similarity


def _ranks(
    similarity: Similarity, split: FeatureSplit, settings: EvaluateSettings
) -> dict[str, QueryRanks]:
    video_of_text = split.video_of_text.cpu().numpy()
    return {
        "t2v": text_to_video(similarity, video_of_text),
        "v2t": video_to_text(similarity, video_of_text, convention=settings.v2t_convention),
    }


def _scores(
    ranks: Mapping[str, QueryRanks], split: FeatureSplit, settings: EvaluateSettings
) -> dict[str, Any]:
    videos = query_videos(split)
    scores: dict[str, Any] = {}
    for direction in DIRECTIONS:
        found = ranks[direction]
        low, high = recall_interval(
            found.hits(1), videos[direction], resamples=settings.resamples, seed=_BOOTSTRAP_SEED
        )
        scores[direction] = {
            **retrieval_metrics(found),
            "R@1 low": low,
            "R@1 high": high,
            "queries": len(found.ahead),
            "items": _num_items(direction, split, settings),
            "tied queries": int((found.ties > 0).sum()),
        }
    return scores


def _num_items(direction: str, split: FeatureSplit, settings: EvaluateSettings) -> int:
    if direction == "t2v":
        return len(split.video_ids)
    grouped = settings.v2t_convention == "best_caption_group"
    return len(split.video_ids) if grouped else len(split.caption_ids)


def _differences(
    ranks: Mapping[str, Mapping[str, QueryRanks]], split: FeatureSplit, settings: EvaluateSettings
) -> dict[str, Any]:
    videos = query_videos(split)
    differences = {}
    for direction in DIRECTIONS:
        difference, low, high = paired_difference(
            ranks[HEAD][direction].hits(1),
            ranks[ZERO_SHOT][direction].hits(1),
            videos[direction],
            resamples=settings.resamples,
            seed=_BOOTSTRAP_SEED,
        )
        differences[direction] = {"R@1": difference, "R@1 low": low, "R@1 high": high}
    return differences


def _ranks_table(ranks: Mapping[str, Mapping[str, QueryRanks]], split: FeatureSplit) -> pa.Table:
    videos = query_videos(split)
    tables = []
    for method, by_direction in ranks.items():
        for direction, found in by_direction.items():
            video_ids = [split.video_ids[video] for video in videos[direction]]
            query_ids = split.caption_ids if direction == "t2v" else video_ids
            columns = {
                "method": [method] * len(query_ids),
                "direction": [direction] * len(query_ids),
                "query_id": list(query_ids),
                "video_id": video_ids,
                "ahead": found.ahead,
                "ties": found.ties,
                "rank": found.expected,
            }
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)
