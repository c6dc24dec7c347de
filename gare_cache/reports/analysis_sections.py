"""analysis.json -> the report's hubs, near duplicates and modality gap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.reports.content import (
    Hub,
    Hubness,
    ModalityGap,
    NearDuplicates,
    VideoCell,
)
from gare_cache.reports.pages.grids import format_share
from gare_cache.reports.queries import Evaluation

_VIDEOS_A_CELL = 3


def hubness(
    analysis: Mapping[str, Any], names: Mapping[str, str], captions: Mapping[str, str]
) -> list[Hubness]:
    """Return one entry a direction and method, the directions apart."""
    found = []
    for direction in DIRECTIONS:
        for method, name in names.items():
            one = analysis["hubness"][method][direction]
            hubs = [
                Hub(
                    hub["id"],
                    captions[hub["id"]] if direction == "v2t" else "",
                    hub["own"],
                    hub["at 1"],
                    hub["at 10"],
                )
                for hub in one["hubs"]
            ]
            found.append(
                Hubness(
                    method=name,
                    direction=direction,
                    num_queries=one["queries"],
                    num_items=one["items"],
                    skewness=(one["skewness"]["1"], one["skewness"]["10"]),
                    never=(one["never"]["1"], one["never"]["10"]),
                    counts=np.array(one["counts"]["10"], dtype=np.int64),
                    hubs=hubs,
                )
            )
    return found


def gaps(analysis: Mapping[str, Any], names: Mapping[str, str]) -> list[ModalityGap]:
    """Return one entry a method that compares two vectors."""
    found = []
    for method, name in names.items():
        one = dict(analysis["modality_gap"][method])
        if "left_out" in one:
            continue
        points = {kind: np.array(values) for kind, values in one.pop("points").items()}
        share, pairs, side = (one.pop(key) for key in ("second_share", "pairs", "side"))
        found.append(ModalityGap(name, one, points, pairs, share, side))
    return found


def without_gap(analysis: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Say of each method without a modality gap why it has none."""
    return [
        f"{name} has no place here: {analysis['modality_gap'][method]['left_out']}."
        for method, name in names.items()
        if "left_out" in analysis["modality_gap"][method]
    ]


def duplicates(analysis: Mapping[str, Any], evaluation: Evaluation) -> list[NearDuplicates]:
    """Return the three kinds: equal captions, near-identical videos, likely false negatives."""
    return [
        _same_captions(analysis["same_captions"], evaluation),
        _near_videos(analysis["near_videos"], evaluation),
        _false_negatives(analysis["false_negatives"], evaluation),
    ]


def _same_captions(found: Mapping[str, Any], evaluation: Evaluation) -> NearDuplicates:
    video_of = evaluation.video_of
    examples = []
    for ids in found["examples"]:
        videos = list(dict.fromkeys(video_of[id_] for id_ in ids))
        shown = ", ".join(videos[:_VIDEOS_A_CELL])
        more = len(videos) - _VIDEOS_A_CELL
        videos_cell = f"{shown} and {more} more" if more > 0 else shown
        examples.append((evaluation.captions[ids[0]], str(len(ids)), videos_cell))
    share = format_share(found["captions"], len(evaluation.caption_ids))
    return NearDuplicates(
        title="Equal captions of different videos",
        finding=f"{share} captions, in {found['groups']:,} groups.",
        meaning=(
            "Equal but for case, spaces and the final stop. No method can answer all of a group: "
            "the text is the same and the right video is not."
        ),
        header=("Caption", "Captions", "Videos"),
        examples=examples,
    )


def _near_videos(found: Mapping[str, Any], evaluation: Evaluation) -> NearDuplicates:
    share = format_share(found["videos"], len(evaluation.video_ids))
    return NearDuplicates(
        title="Videos with near-identical features",
        finding=f"{share} videos, in {found['pairs']:,} pairs.",
        meaning=(
            f"Mean cosine of their frozen frame features, frame by frame in order, of at least "
            f"{found['threshold']:.2f}. The same clip twice, or two clips that this encoder "
            "cannot tell apart."
        ),
        header=("Video", "Video", "Cosine"),
        examples=[
            (VideoCell(first), VideoCell(second), f"{cosine:.3f}")
            for first, second, cosine in found["examples"]
        ],
    )


def _false_negatives(found: Mapping[str, Any], evaluation: Evaluation) -> NearDuplicates:
    num_texts = len(evaluation.caption_ids)
    points = 100 * found["queries"] / num_texts
    rate = found["base_rate"]
    chance = (
        ""
        if rate is None
        else f" Any other video has such a caption in {100 * rate:.1f} % of cases: where that "
        "is not small, the encoder cannot tell the captions apart and the list says little."
    )
    video_of = evaluation.video_of
    return NearDuplicates(
        title="Likely false negatives",
        finding=(
            f"{format_share(found['queries'], num_texts)} texts, out of {found['misses']:,} that "
            "do not find their own video first."
        ),
        meaning=(
            "The video found first is another one, with a caption of nearly the same words: "
            f"cosine of the frozen text features of at least {found['threshold']:.2f}. Were all "
            f"of them right, R@1 text to video would be {points:.1f} points higher.{chance} "
            "Read the list first: an encoder that is blind to a word takes opposites, such as left "
            "and right, for the same."
        ),
        header=("Query", "Its video", "Found first", "Nearest caption of that video", "Cosine"),
        examples=[
            (
                evaluation.captions[one["query_id"]],
                VideoCell(video_of[one["query_id"]]),
                VideoCell(one["video_id"]),
                evaluation.captions[one["nearest_caption_id"]],
                f"{one['cosine']:.3f}",
            )
            for one in found["examples"]
        ],
    )
