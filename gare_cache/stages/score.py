"""Stage score: retrieval metrics of a similarity matrix saved by any program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.errors import ConfigError, counted
from gare_cache.evaluation.metrics import (
    DIRECTIONS,
    QueryRanks,
    Scores,
    both_directions,
    check_finite,
)
from gare_cache.evaluation.normalisers.saved_scores import (
    normalise_saved,
    read_normaliser,
    require_options,
)
from gare_cache.evaluation.results import (
    DirectionResult,
    PairedDifference,
    adjusted_pairs,
    sum_of_recalls,
)
from gare_cache.evaluation.scores import paired_hits, summarise
from gare_cache.evaluation.similarity_file import (
    SimilarityFileError,
    as_scores,
    read_similarity,
    read_video_ids,
    read_video_of_text,
)
from gare_cache.files import write_json
from gare_cache.own import use_project
from gare_cache.reports.content import RECALLS
from gare_cache.reports.normalisers import describe_normalisers
from gare_cache.reports.pages.grids import DIRECTION_TITLES, format_interval, format_number
from gare_cache.reports.pages.plain_table import plain_table

_RESAMPLES = 10_000


def score(
    file: Path,
    *,
    video_of_text: Path | None = None,
    video_ids: Path | None = None,
    transposed: bool = False,
    v2t_convention: str = "best_caption_of_all",
    json_file: Path | None = None,
    normalisers: Sequence[str] = (),
    scale: float | None = None,
    banks: Mapping[str, Path | None] | None = None,
) -> list[str]:
    """Score a saved (T, V) similarity in both directions.

    Args:
        file: npy of floats or integers, texts are rows, higher is better.
        video_of_text: each text's video, as a column index or, with ``video_ids``, an id; None if
            the diagonal is true.
        video_ids: ids of the columns.
        transposed: rows are videos.
        v2t_convention: one of ``V2T_CONVENTIONS``.
        json_file: where to write the figures, unrounded.
        normalisers: as ``NAME[:param=value,...]``; each is a row of the ledger. A custom one is
            imported from the working directory.
        scale: logits = scale x values, of the matrix and the banks; None if they are logits.
        banks: npy files by the names in ``BANKS``.

    Returns:
        The table and notes, as lines.

    Raises:
        SimilarityFileError: a file cannot be read, or does not fit the matrix.
        NonFiniteScores: NaN or infinity.
        ConfigError: a normaliser, a parameter or a combination of options is invalid.
    """
    if normalisers:
        use_project(Path.cwd(), normalisers)
    asked = [read_normaliser(text) for text in normalisers]
    require_options(asked, scale=scale, banks=banks or {})
    saved = read_similarity(file)
    similarity = as_scores(saved)
    check_finite(similarity)
    similarity = similarity.T if transposed else similarity
    truth = _truth(file, similarity, video_of_text, video_ids)
    ranks = both_directions(similarity, truth, convention=v2t_convention)
    with_text = np.unique(truth)
    videos = {"t2v": truth, "v2t": with_text}
    captions_searched = v2t_convention == "best_caption_of_all"
    items = {
        "t2v": similarity.shape[1],
        "v2t": len(truth) if captions_searched else len(with_text),
    }

    def summary(ranks: Mapping[str, QueryRanks]) -> dict[str, DirectionResult]:
        return {
            direction: summarise(
                ranks[direction],
                videos[direction],
                num_items=items[direction],
                resamples=_RESAMPLES,
            )
            for direction in DIRECTIONS
        }

    def difference(
        ranks: Mapping[str, QueryRanks], others: Mapping[str, QueryRanks]
    ) -> dict[str, PairedDifference]:
        return adjusted_pairs(
            {
                direction: paired_hits(
                    ranks[direction].hits(1),
                    others[direction].hits(1),
                    videos[direction],
                    resamples=_RESAMPLES,
                )
                for direction in DIRECTIONS
            }
        )

    scores = summary(ranks)
    ledger = None
    if asked:
        ledger = normalise_saved(
            asked,
            similarity,
            truth,
            convention=v2t_convention,
            scale=scale,
            banks=banks or {},
            score=summary,
            differ=difference,
        )
    notes = _notes(saved.dtype, scores, similarity.shape[1] - len(with_text))
    if json_file is not None:
        content = {
            "file": file.name,
            "num_texts": similarity.shape[0],
            "num_videos": similarity.shape[1],
            "dtype": str(saved.dtype),
            "v2t_convention": v2t_convention,
            "resamples": _RESAMPLES,
            "notes": notes,
            "RSum": sum_of_recalls(scores),
            **{direction: result.to_json() for direction, result in scores.items()},
            **({} if ledger is None else {"normalisers": ledger}),
        }
        write_json(json_file, content)
    corrected = [] if ledger is None else ["", *describe_normalisers(ledger)]
    return [*_table(scores), "", *_captions(scores, v2t_convention), *notes, *corrected]


def _truth(
    file: Path, similarity: Scores, video_of_text: Path | None, video_ids: Path | None
) -> npt.NDArray[np.int64]:
    num_texts, num_videos = similarity.shape
    if video_of_text is not None:
        ids = None if video_ids is None else read_video_ids(video_ids, num_videos)
        return read_video_of_text(video_of_text, ids, num_texts=num_texts, num_videos=num_videos)
    if video_ids is not None:
        raise ConfigError("--video-ids names the columns for --video-of-text, which is not given")
    if num_texts != num_videos:
        raise SimilarityFileError(
            f"{file} has {counted(num_texts, 'text')} and {counted(num_videos, 'video')}, so the "
            "diagonal is not the "
            "truth: give each text's column with --video-of-text, or --transposed if the rows are "
            "the videos"
        )
    return np.arange(num_texts)


def _notes(
    dtype: np.dtype[Any], scores: dict[str, DirectionResult], num_without_text: int
) -> list[str]:
    notes = []
    if dtype == np.float16 or dtype.kind in "iu":
        tied = " and ".join(counted(scores[d].tied, f"{d} query") for d in DIRECTIONS)
        notes.append(
            f"Note: the values are {dtype}, and rounding makes ties: {tied} tied at "
            "their true item. A tie counts as the mean over its orders; float32 has fewer."
        )
    if num_without_text:
        notes.append(
            f"Note: {counted(num_without_text, 'video', 'have')} no text: they are candidates in "
            "text to video "
            "but not queries in video to text."
        )
    return notes


def _table(scores: dict[str, DirectionResult]) -> list[str]:
    header = ("", RECALLS[0], "95 % interval", *RECALLS[1:], "MdR", "MnR", "n", "gallery", "ties")
    rows = [
        (
            DIRECTION_TITLES[direction],
            format_number(result.metrics["R@1"]),
            format_interval(result.low, result.high),
            *(format_number(result.metrics[name]) for name in (*RECALLS[1:], "MdR", "MnR")),
            *(f"{count:,}" for count in (result.queries, result.items, result.tied)),
        )
        for direction, result in scores.items()
    ]
    return plain_table(header, rows)


def _captions(scores: dict[str, DirectionResult], v2t_convention: str) -> list[str]:
    return [
        f"RSum {format_number(sum_of_recalls(scores))} = R@1 + R@5 + R@10 of both directions. "
        f"Video to text: {v2t_convention.replace('_', ' ')}.",
        "R@1's interval: bootstrap over videos with all their texts, "
        f"{counted(_RESAMPLES, 'resample')}. "
        "Ties: queries whose true item ties with a false one; each counts as the mean over its "
        "orders.",
    ]
