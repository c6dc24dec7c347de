"""Per-query results of an evaluation: examples, rank lists and rows of the query browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.errors import ConfigError
from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.missing import RANKS, RETRIEVED
from gare_cache.evaluation.scores import HEAD, ZERO_SHOT
from gare_cache.files import read_parquet
from gare_cache.limits import read_npy
from gare_cache.reports.content import BrowsedQuery, QueryExample, RetrievedVideo

_TOP = 5


@dataclass(frozen=True)
class Evaluation:
    """Per-query results read from ``evaluation/``.

    Attributes:
        ranks: ``{(method, direction): rows of ranks.parquet}``, queries in the manifest's order.
        retrieved: ``{(method, direction, query id): ids of the top items}``.
        similarity: (T, V) cosines of the head.
        caption_ids: T rows of the similarity.
        video_ids: V columns of the similarity.
        captions: id -> caption, of all splits.
    """

    ranks: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
    retrieved: Mapping[tuple[str, str, str], Sequence[str]]
    similarity: npt.NDArray[np.float32]
    caption_ids: Sequence[str]
    video_ids: Sequence[str]
    captions: Mapping[str, str]

    @classmethod
    def read(
        cls, folder: Path, analysis: Mapping[str, Any], captions: Mapping[str, str]
    ) -> Evaluation:
        """Read the files of an evaluation.

        Args:
            folder: of the evaluation.
            analysis: content of its ``analysis.json``.
            captions: id -> caption.

        Raises:
            ConfigError: a file is missing.
        """
        for name in ("ranks.parquet", "retrieved.parquet", "similarity.npy"):
            if not (folder / name).is_file():
                raise ConfigError(f"{folder / name} does not exist; run `gare-cache evaluate`")
        ranks: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in read_parquet(folder / "ranks.parquet", RANKS).to_pylist():
            ranks.setdefault((row["method"], row["direction"]), []).append(row)
        retrieved = read_parquet(folder / "retrieved.parquet", RETRIEVED).to_pylist()
        return cls(
            ranks,
            {(r["method"], r["direction"], r["query_id"]): r["items"] for r in retrieved},
            read_npy(folder / "similarity.npy"),
            analysis["caption_ids"],
            analysis["video_ids"],
            captions,
        )

    @property
    def video_of(self) -> dict[str, str]:
        """Video id of each listed caption."""
        return {row["query_id"]: row["video_id"] for row in self.ranks[HEAD, "t2v"]}

    @property
    def listed_videos(self) -> list[str]:
        """All videos of the split, including those without features."""
        return [row["video_id"] for row in self.ranks[HEAD, "v2t"]]

    @property
    def true_video(self) -> npt.NDArray[np.int64]:
        """(T,) column of each text's video."""
        column = {id_: place for place, id_ in enumerate(self.video_ids)}
        video_of = self.video_of
        return np.array([column[video_of[id_]] for id_ in self.caption_ids], dtype=np.int64)


def rank_lists(
    evaluation: Evaluation, names: Mapping[str, str]
) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """Return the ranks of the queries with features by direction and method."""
    return {
        direction: {
            name: np.array(
                [
                    row["rank"]
                    for row in evaluation.ranks[method, direction]
                    if row["rank"] is not None
                ]
            )
            for method, name in names.items()
        }
        for direction in DIRECTIONS
    }


def queries(evaluation: Evaluation) -> list[BrowsedQuery]:
    """Return a row for every listed query of both directions."""
    rows = []
    video_of = evaluation.video_of
    for direction in DIRECTIONS:
        pairs = zip(
            evaluation.ranks[HEAD, direction], evaluation.ranks[ZERO_SHOT, direction], strict=True
        )
        for head, zero_shot in pairs:
            query_id, video_id = head["query_id"], head["video_id"]
            top = evaluation.retrieved.get((HEAD, direction, query_id), [])[:_TOP]
            top_videos = top if direction == "t2v" else [video_of[id_] for id_ in top]
            rows.append(
                BrowsedQuery(
                    direction=direction,
                    text=evaluation.captions[query_id] if direction == "t2v" else video_id,
                    video_id=video_id,
                    head_rank=head["rank"],
                    zero_shot_rank=zero_shot["rank"],
                    retrieved=top,
                    is_true=[id_ == video_id for id_ in top_videos],
                )
            )
    return rows


def examples(evaluation: Evaluation, count: int) -> tuple[list[QueryExample], list[QueryExample]]:
    """Return the queries whose video leads by the largest margin, and those ranked worst."""
    similarity, truth = evaluation.similarity, evaluation.true_video
    rows = np.arange(len(truth))
    false = similarity.copy()
    false[rows, truth] = -np.inf
    margin = similarity[rows, truth] - false.max(axis=1)
    ranks = np.array([r["rank"] for r in evaluation.ranks[HEAD, "t2v"] if r["rank"] is not None])
    best = np.lexsort((rows, -margin))[:count]
    worst = np.lexsort((rows, -ranks))[:count]

    def example(row: int) -> QueryExample:
        order = np.argsort(-similarity[row], kind="stable")
        place = {int(video): rank for rank, video in enumerate(order, 1)}
        shown = [int(video) for video in order[:_TOP]]
        true = int(truth[row])
        retrieved = [
            RetrievedVideo(
                video_id=evaluation.video_ids[video],
                rank=place[video],
                score=float(similarity[row, video]),
                is_true=video == true,
            )
            for video in (shown if true in shown else [*shown, true])
        ]
        caption = evaluation.captions[evaluation.caption_ids[row]]
        return QueryExample(caption, float(ranks[row]), retrieved)

    return [example(int(row)) for row in best], [example(int(row)) for row in worst]
