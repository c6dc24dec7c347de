"""Sections of the report from analysis.json: hubs, near-duplicates and modality gap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gare_cache.errors import counted, plural
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
    """Return an entry for each direction and method, grouped by direction."""
    entries = []
    for direction in DIRECTIONS:
        for method, name in names.items():
            part = analysis["hubness"][method][direction]
            hubs = [
                Hub(
                    hub["id"],
                    captions[hub["id"]] if direction == "v2t" else "",
                    hub["own"],
                    hub["at 1"],
                    hub["at 10"],
                )
                for hub in part["hubs"]
            ]
            entries.append(
                Hubness(
                    method=name,
                    direction=direction,
                    num_queries=part["queries"],
                    num_items=part["items"],
                    skewness=(part["skewness"]["1"], part["skewness"]["10"]),
                    never=(part["never"]["1"], part["never"]["10"]),
                    counts=np.array(part["counts"]["10"], dtype=np.int64),
                    hubs=hubs,
                )
            )
    return entries


def gaps(analysis: Mapping[str, Any], names: Mapping[str, str]) -> list[ModalityGap]:
    """Return an entry for each method that compares two vectors."""
    entries = []
    for method, name in names.items():
        numbers = dict(analysis["modality_gap"][method])
        if "left_out" in numbers:
            continue
        points = {kind: np.array(values) for kind, values in numbers.pop("points").items()}
        share, pairs, side = (numbers.pop(key) for key in ("second_share", "pairs", "side"))
        entries.append(ModalityGap(name, numbers, points, pairs, share, side))
    return entries


def without_gap(analysis: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Return, for each method without a modality gap, a sentence that says why."""
    return [
        f"{name} is left out: {analysis['modality_gap'][method]['left_out']}."
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


def leaks(analysis: Mapping[str, Any]) -> list[NearDuplicates]:
    """Return, for each other split, the copies, the near-identical videos and equal captions."""
    return [
        kind
        for other, part in analysis["leaks"].items()
        for kind in (
            _copies(part, other),
            _near_in_other_split(part, other),
            _captions_in_other_split(part, other),
        )
    ]


def _copies(part: Mapping[str, Any], other: str) -> NearDuplicates:
    return NearDuplicates(
        title=f"Copies of {other} videos",
        finding=f"{_share_of(part['copies']['videos'], part['videos'], 'video')}.",
        meaning=f"Files with the same bytes, or features equal to the last bit, in {other}.",
        header=(f"Video in {part['split']}", f"Video in {other}"),
        examples=[tuple(map(VideoCell, pair)) for pair in part["copies"]["examples"]],
    )


def _near_in_other_split(part: Mapping[str, Any], other: str) -> NearDuplicates:
    near = part["near"]
    return NearDuplicates(
        title=f"Nearly identical to {other} videos",
        finding=(
            f"{_share_of(near['videos'], part['videos'], 'video')}, in "
            f"{counted(near['pairs'], 'pair')}."
        ),
        meaning=(
            f"Mean cosine of their frozen frame features, frame by frame in order, of at least "
            f"{near['threshold']:.2f}: the same clip in another file, or two clips that this "
            "encoder cannot tell apart."
        ),
        header=(f"Video in {part['split']}", f"Video in {other}", "Cosine"),
        examples=[
            (VideoCell(mine), VideoCell(theirs), f"{cosine:.3f}")
            for mine, theirs, cosine in near["examples"]
        ],
    )


def _captions_in_other_split(part: Mapping[str, Any], other: str) -> NearDuplicates:
    same = part["captions"]
    return NearDuplicates(
        title=f"Captions that also stand in {other}",
        finding=f"{_share_of(same['captions'], same['listed'], 'caption')}.",
        meaning="Equal except for case, spaces and the final full stop.",
        header=("Caption", f"Times in {part['split']}", f"Times in {other}"),
        examples=[
            (sentence, f"{mine:,}", f"{theirs:,}") for sentence, mine, theirs in same["examples"]
        ],
    )


def _same_captions(part: Mapping[str, Any], evaluation: Evaluation) -> NearDuplicates:
    video_of = evaluation.video_of
    examples = []
    for ids in part["examples"]:
        videos = list(dict.fromkeys(video_of[id_] for id_ in ids))
        shown = ", ".join(videos[:_VIDEOS_A_CELL])
        more = len(videos) - _VIDEOS_A_CELL
        videos_cell = f"{shown} and {more} more" if more > 0 else shown
        examples.append((evaluation.captions[ids[0]], str(len(ids)), videos_cell))
    share = _share_of(part["captions"], len(evaluation.caption_ids), "caption")
    return NearDuplicates(
        title="Equal captions of different videos",
        finding=f"{share}, in {counted(part['groups'], 'group')}.",
        meaning=(
            "Equal except for case, spaces and the final full stop. No method can answer a whole "
            "group: the texts are the same, but their videos differ."
        ),
        header=("Caption", "Captions", "Videos"),
        examples=examples,
    )


def _near_videos(part: Mapping[str, Any], evaluation: Evaluation) -> NearDuplicates:
    share = _share_of(part["videos"], len(evaluation.video_ids), "video")
    return NearDuplicates(
        title="Videos with near-identical features",
        finding=f"{share}, in {counted(part['pairs'], 'pair')}.",
        meaning=(
            f"Mean cosine of their frozen frame features, frame by frame in order, of at least "
            f"{part['threshold']:.2f}. The same clip twice, or two clips that this encoder "
            "cannot tell apart."
        ),
        header=("Video", "Video", "Cosine"),
        examples=[
            (VideoCell(first), VideoCell(second), f"{cosine:.3f}")
            for first, second, cosine in part["examples"]
        ],
    )


def _false_negatives(part: Mapping[str, Any], evaluation: Evaluation) -> NearDuplicates:
    num_texts = len(evaluation.caption_ids)
    points = 100 * part["queries"] / num_texts
    rate = part["base_rate"]
    chance = (
        ""
        if rate is None
        else f" Any other video has such a caption in {100 * rate:.1f} % of cases: if that is not "
        "small, the encoder cannot tell the captions apart and the list means little."
    )
    video_of = evaluation.video_of
    return NearDuplicates(
        title="Likely false negatives",
        finding=(
            f"{_share_of(part['queries'], num_texts, 'text')}, out of {part['misses']:,} that "
            "do not rank their own video first."
        ),
        meaning=(
            "The video ranked first is another one, with a caption of nearly the same meaning: "
            f"cosine of the frozen text features of at least {part['threshold']:.2f}. If all of "
            f"them were right, R@1 text to video would be {points:.1f} points higher.{chance} "
            "Read the list first: an encoder that is blind to a word takes opposites, such as left "
            "and right, for the same."
        ),
        header=("Query", "Its video", "Found first", "Nearest caption of that video", "Cosine"),
        examples=[
            (
                evaluation.captions[example["query_id"]],
                VideoCell(video_of[example["query_id"]]),
                VideoCell(example["video_id"]),
                evaluation.captions[example["nearest_caption_id"]],
                f"{example['cosine']:.3f}",
            )
            for example in part["examples"]
        ],
    )


def _share_of(part: int, whole: int, noun: str) -> str:
    return f"{format_share(part, whole)} {plural(whole, noun)}"
