"""Reader of the outputs of evaluated runs, and checks that runs are comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from gare_cache.errors import ConfigError, GareCacheError, counted, unknown_name
from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.missing import RANKS, DirectionRanks, counted_ranks
from gare_cache.files import read_json, read_parquet

_PROTOCOL = ("split", "captions", "missing", "v2t_convention")

# Entries of a run's record, beside its settings, that seeds of one method share; device and
# version may differ. The extraction of a finetuning is that of the encoder it starts from.
_SAME_FOR_SEEDS = ("extraction_id", "data", "source", "own", "started_from")

# What the seed decides: itself, and which run, of the same method, a finetuning starts from.
_OF_THE_SEED = {
    "train.seed",
    "finetune.from_run",
    "started_from.run_key",
    "started_from.run.settings.train.seed",
}

_OTHER_CODE = (
    " (the digest of the code that trained: another version of gare-cache); train all seeds with "
    "one version"
)


class NotComparable(GareCacheError, ValueError):
    """Runs were scored on different queries, or seeds of a method differ in more than the seed."""


@dataclass(frozen=True)
class FinishedRun:
    """One method's results as ``evaluate`` wrote them to an outputs folder.

    Attributes:
        folder: the outputs folder.
        method: name of the method in ranks.parquet.
        metrics: content of metrics.json.
        directions: ranks by direction.
        record: content of run/record.json; empty if the folder has none.
        features: content of features.json; empty if the folder has none.
    """

    folder: Path
    method: str
    metrics: dict[str, Any]
    directions: dict[str, DirectionRanks]
    record: dict[str, Any]
    features: dict[str, Any]

    @property
    def name(self) -> str:
        """Folder and method, as printed."""
        return f"{self.folder} ({self.method})"


def read_finished_run(folder: Path, method: str) -> FinishedRun:
    """Read the metrics and ranks of one method.

    Args:
        folder: an outputs folder, with ``evaluation/`` in it.
        method: ``head``, ``zero_shot`` or another that ``ranks.parquet`` holds.

    Raises:
        ConfigError: nothing was evaluated there, or there is no such method.
        NotComparable: a query is listed twice.
    """
    metrics = _read_json(folder / "evaluation" / "metrics.json")
    ranks_file = folder / "evaluation" / "ranks.parquet"
    if not metrics or not ranks_file.is_file():
        raise ConfigError(
            f"{folder} holds no evaluation/metrics.json and ranks.parquet; give the outputs folder "
            "of a run that `gare-cache evaluate` has scored"
        )
    absent = [key for key in (*_PROTOCOL, "run_key") if key not in metrics]
    if absent:
        raise ConfigError(
            f"{folder}/evaluation/metrics.json does not say its {absent[0]}: another version of "
            "gare-cache wrote it; run `gare-cache evaluate` again"
        )
    record = _read_json(folder / "run" / "record.json")
    if record and record["run_key"] != metrics["run_key"]:
        raise NotComparable(
            f"{folder} was scored for run {metrics['run_key']}, but holds the head of run "
            f"{record['run_key']}; run `gare-cache evaluate` again"
        )
    table = read_parquet(ranks_file, RANKS)
    methods = pc.unique(table["method"]).to_pylist()
    if method not in methods:
        raise ConfigError(f"{ranks_file}: {unknown_name('method', method, methods)}")
    table = table.filter(pc.equal(table["method"], method)).sort_by("query_id")
    directions = {}
    for direction in DIRECTIONS:
        scores = next(iter(metrics["methods"].values()))[direction]
        ranked = counted_ranks(
            table, direction, num_items=scores["items listed"], rule=metrics["missing"]
        )
        repeated = int((ranked.query_ids[1:] == ranked.query_ids[:-1]).sum())
        if repeated:
            raise NotComparable(
                f"{ranks_file} holds {counted(repeated, f'{direction} query')} twice"
            )
        directions[direction] = ranked
    return FinishedRun(
        folder, method, metrics, directions, record, _read_json(folder / "features.json")
    )


def require_same_test(run: FinishedRun, other: FinishedRun) -> None:
    """Raise an error if two runs were not scored on the same queries in the same way.

    Raises:
        NotComparable: with what differs, how often, and the first case.
    """
    pairs = [
        ("data set", run.features.get("dataset"), other.features.get("dataset")),
        *((key, run.metrics[key], other.metrics[key]) for key in _PROTOCOL),
    ]
    for what, value, other_value in pairs:
        if value != other_value and value is not None and other_value is not None:
            raise NotComparable(
                f"{run.folder} has the {what.replace('_', ' ')} {value!r}, {other.folder} has "
                f"{other_value!r}; score both in the same way"
            )
    for direction in DIRECTIONS:
        _require_same_queries(run, other, direction)
    for what in ("num_videos", "num_texts"):
        if run.metrics[what] != other.metrics[what]:
            raise NotComparable(
                f"{run.folder} was scored with {what} = {run.metrics[what]:,}, {other.folder} with "
                f"{other.metrics[what]:,}: their galleries differ"
            )


def require_seeds_of_one_method(runs: Sequence[FinishedRun]) -> None:
    """Raise an error if the records show that runs are not different seeds of one method.

    A finetuning is told by its settings and by what it starts from, not by the encoder that it
    made, whose weights are an effect of the seed. So is the run that it starts from: its path, its
    key and its seed may differ, but not whether there is one, nor how and on what it was trained.

    Raises:
        NotComparable: a folder or a seed is given twice, or a setting other than the seed differs.
    """
    seen: dict[Any, FinishedRun] = {}
    for run in runs:
        for key in (run.folder.resolve(), _seed(run)):
            if key is not None and key in seen:
                same = "seed" if isinstance(key, int) else "folder"
                raise NotComparable(
                    f"{seen[key].folder} and {run.folder} are given as two seeds of one method, "
                    f"but have the same {same}, {key}"
                )
            seen[key] = run
        for name, value, expected in _changed_settings(run, runs[0]):
            advice = _OTHER_CODE if name.endswith("source") else ""
            raise NotComparable(
                f"{run.folder} is not another seed of {runs[0].folder}: {name} is {value!r}, there "
                f"it is {expected!r}{advice}"
            )


def _require_same_queries(run: FinishedRun, other: FinishedRun, direction: str) -> None:
    ours, theirs = run.directions[direction], other.directions[direction]
    for side, only in (
        (run, np.setdiff1d(ours.query_ids, theirs.query_ids)),
        (other, np.setdiff1d(theirs.query_ids, ours.query_ids)),
    ):
        if only.size:
            queries = len(side.directions[direction].query_ids)
            raise NotComparable(
                f"different test sets: {only.size:,} of {queries:,} {direction} queries "
                "of "
                f"{side.folder} are not in the other run, the first is {str(only[0])!r}"
            )
    moved = np.flatnonzero(ours.video_ids != theirs.video_ids)
    if moved.size:
        first = moved[0]
        raise NotComparable(
            f"{counted(moved.size, f'{direction} query', 'belong')} to other videos in "
            f"{other.folder}, the "
            f"first is {str(ours.query_ids[first])!r}: {str(ours.video_ids[first])!r} and "
            f"{str(theirs.video_ids[first])!r}"
        )


def _seed(run: FinishedRun) -> int | None:
    seed: int | None = run.record.get("settings", {}).get("train", {}).get("seed")
    return seed


def _changed_settings(run: FinishedRun, other: FinishedRun) -> list[tuple[str, Any, Any]]:
    if not run.record or not other.record:
        return []
    flat, expected = (
        _flat({**r.record["settings"], **{name: r.record.get(name) for name in _SAME_FOR_SEEDS}})
        for r in (run, other)
    )
    starts, start_there = (s.get("started_from.run_key") is not None for s in (flat, expected))
    if starts != start_there:
        return [("whether it starts from a run (finetune.from_run)", starts, start_there)]
    return [
        (name, flat.get(name), expected.get(name))
        for name in sorted({*flat, *expected} - _OF_THE_SEED)
        if flat.get(name) != expected.get(name)
    ]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        flat |= _flat(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return flat


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = read_json(path)
    return content
