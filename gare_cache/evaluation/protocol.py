"""Evaluation protocol: which captions are queries, and which of those have no features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.data.split import FeatureSplit
from gare_cache.errors import CacheError, counted
from gare_cache.evaluation.missing import ListedQueries
from gare_cache.evaluation.settings import EvaluateSettings
from gare_cache.manifest.tables import Manifest


@dataclasses.dataclass(frozen=True)
class ProtocolSplit:
    """A split under an evaluation protocol.

    Attributes:
        features: the videos and the protocol's captions that have features.
        listed: by direction, all queries that the manifest lists, with or without features.
    """

    features: FeatureSplit
    listed: Mapping[str, ListedQueries]

    @property
    def video_of_text(self) -> npt.NDArray[np.int64]:
        """(T,) row of each caption's video, as numpy."""
        rows: npt.NDArray[np.int64] = self.features.video_of_text.cpu().numpy()
        return rows


def apply_protocol(
    split: FeatureSplit, manifest: Manifest, settings: EvaluateSettings
) -> ProtocolSplit:
    """Select the captions of a protocol and list its queries.

    Under ``captions: first`` a video's query is the first caption that the manifest lists for it,
    even if that one has no features: no other caption replaces it.

    Args:
        split: the videos and captions that have features.
        manifest: all listed videos and captions.
        settings: the protocol.

    Raises:
        CacheError: none of the protocol's captions has features.
    """
    captions = [row for row in manifest.captions.to_pylist() if row["split"] == split.name]
    if settings.captions == "first":
        first: dict[str, dict[str, Any]] = {}
        for row in captions:
            first.setdefault(row["video_id"], row)
        captions = list(first.values())
    kept = _with_captions(split, {row["caption_id"] for row in captions}, len(captions))
    grouped = settings.v2t_convention == "best_caption_group"
    has_video, has_text = set(kept.video_ids), set(kept.caption_ids)
    has_caption = {kept.video_ids[row] for row in kept.video_of_text.tolist()}
    video_of = {row["caption_id"]: row["video_id"] for row in captions}
    videos = list(dict.fromkeys(video_of.values()))
    listed = {
        "t2v": ListedQueries(
            query_ids=list(video_of),
            video_ids=list(video_of.values()),
            missing=[
                _lacks(video in has_video, text in has_text) for text, video in video_of.items()
            ],
            num_items=len(videos),
        ),
        "v2t": ListedQueries(
            query_ids=videos,
            video_ids=videos,
            missing=[_lacks(video in has_video, video in has_caption) for video in videos],
            num_items=len(videos) if grouped else len(captions),
        ),
    }
    return ProtocolSplit(kept, listed)


def _lacks(has_video: bool, has_text: bool) -> str | None:
    if not has_video:
        return "video"
    return None if has_text else "text"


def _with_captions(split: FeatureSplit, wanted: set[str], num_listed: int) -> FeatureSplit:
    rows = [row for row, id_ in enumerate(split.caption_ids) if id_ in wanted]
    if not rows:
        raise CacheError(
            f"none of the {counted(num_listed, f'{split.name} caption')} that evaluate.captions "
            "selects has "
            "features; set evaluate.captions: all, or import their features"
        )
    return split.with_texts(rows, num_listed=num_listed)
