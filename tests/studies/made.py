"""Studies and runs made by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from gare_cache.studies.results import RANK_COLUMNS, RunResult, SplitResult
from gare_cache.studies.study import METRIC_KEYS
from tests.reports.sample import CARD

BASE: dict[str, Any] = {
    "dataset": {"name": "d", "annotations": "a.csv", "video_roots": []},
    "encoder": {"model": "demo"},
}


def content(**changes: Any) -> dict[str, Any]:
    return {
        "base": "params.yaml",
        "axes": {"train.loss.dir.alpha": [1.0, 2.0, 3.0]},
        "seeds": [0, 1],
        "reference": "alpha=2.0",
        **changes,
    }


def split_result(
    ahead: Sequence[int | None], *, r1: float, gallery: int = 10, direction: str | None = None
) -> SplitResult:
    """Queries q00, q01, ... of videos v00, v01, ..., with as many false items ahead."""
    directions = ("t2v", "v2t") if direction is None else (direction,)
    rows = [
        {
            "direction": name,
            "query_id": f"q{number:02}",
            "video_id": f"v{number:02}",
            "ahead": value,
            "ties": None if value is None else 0,
            "rank": None if value is None else value + 1.0,
        }
        for name in directions
        for number, value in enumerate(ahead)
    ]
    return SplitResult(
        metrics=dict.fromkeys(METRIC_KEYS, r1),
        ranks=pa.Table.from_pylist(rows, schema=RANK_COLUMNS),
        gallery={"t2v": gallery, "v2t": gallery},
        coverage=f"{len(ahead)} of {len(ahead)} val videos",
        card=CARD,
    )


def run_result(variant: str, seed: int, **changes: Any) -> RunResult:
    values: dict[str, Any] = {
        "variant": variant,
        "seed": seed,
        "run_key": f"{variant}{seed}",
        "settings": {"train": {"seed": seed}},
        "extraction_id": "e",
        **changes,
    }
    return RunResult(**values)


def scored_run(
    variant: str, seed: int, ahead: Sequence[int | None], *, r1: float, score: float
) -> RunResult:
    splits: Mapping[str, SplitResult] = {"val": split_result(ahead, r1=r1)}
    return run_result(variant, seed, splits=splits, validation_score=score, device="cpu")
