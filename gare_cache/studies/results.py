"""Results of a study's runs, and the tables runs, ranks and history made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from gare_cache.evaluation.protocol_card import ProtocolCard
from gare_cache.studies.setting_keys import flat, setting_text
from gare_cache.studies.study import METRIC_KEYS

DONE = "done"
FAILED = "failed"
RANK_COLUMNS = pa.schema(
    [
        ("direction", pa.string()),
        ("query_id", pa.string()),
        ("video_id", pa.string()),
        ("ahead", pa.int64()),
        ("ties", pa.int64()),
        ("rank", pa.float64()),
    ]
)


@dataclass(frozen=True, eq=False)
class SplitResult:
    """A run's scores on one split.

    Attributes:
        metrics: by the names in ``METRIC_KEYS``, such as ``t2v.R@1``.
        ranks: one row per listed query, see ``RANK_COLUMNS``; null if it has no features.
        gallery: by direction, the number of listed items, including those without features.
        coverage: how much of the split has features.
        card: what was scored, and the published test sets beside it.
    """

    metrics: Mapping[str, float]
    ranks: pa.Table
    gallery: Mapping[str, int]
    coverage: str
    card: ProtocolCard


@dataclass(frozen=True, eq=False)
class RunResult:
    """One run of a study, finished or failed.

    Attributes:
        variant: name of its variant.
        seed: of its training.
        run_key: identity of its training, which names its folder.
        settings: of training and evaluation, nested.
        extraction_id: of its features.
        reason: why it failed; None for a finished run.
        best_epoch: epoch selected on validation.
        validation_score: mean R@1 of both directions with one caption per validation video.
        splits: scores by scored split.
        history: one mapping per epoch, from the training log.
        seconds: duration of the training; None if it was interrupted and resumed.
        peak_memory_bytes: of the training; None if the system does not report it.
        parameters: number of trained parameters.
        device: of the training.
        scoring: ``exact`` or ``dense``.
        provenance: versions and machine.
        trained: ``solo``, or ``batched``: with other runs as one program, whose memory
            ``peak_memory_bytes`` is, and whose duration is shared evenly.
    """

    variant: str
    seed: int
    run_key: str
    settings: Mapping[str, Any]
    extraction_id: str
    reason: str | None = None
    best_epoch: int | None = None
    validation_score: float | None = None
    splits: Mapping[str, SplitResult] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    parameters: int | None = None
    device: str | None = None
    scoring: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    trained: str = "solo"

    @property
    def status(self) -> str:
        """``done`` or ``failed``."""
        return DONE if self.reason is None else FAILED

    def curve(self, name: str) -> dict[int, float]:
        """Return a quantity of the training log by epoch, such as ``val.score``."""
        rows = map(_epoch_row, self.history)
        return {row["epoch"]: row[name] for row in rows if row.get(name) is not None}


def runs_table(runs: Sequence[RunResult]) -> pa.Table:
    """Return a table with one row per run: status, settings by dotted key, scores and cost."""
    settings = [flat(run.settings) for run in runs]
    names = _setting_columns(settings)
    splits = list(dict.fromkeys(split for run in runs for split in run.splits))
    columns: dict[str, pa.Array] = {
        "variant": pa.array([run.variant for run in runs], pa.string()),
        "seed": pa.array([run.seed for run in runs], pa.int64()),
        "status": pa.array([run.status for run in runs], pa.string()),
        "reason": pa.array([run.reason for run in runs], pa.string()),
        "run_key": pa.array([run.run_key for run in runs], pa.string()),
        **{name: _column([values.get(name) for values in settings]) for name in names},
        "best_epoch": pa.array([run.best_epoch for run in runs], pa.int64()),
        "val.score": pa.array([run.validation_score for run in runs], pa.float64()),
        **{
            f"{split}.{key}": pa.array([_metric(run, split, key) for run in runs], pa.float64())
            for split in splits
            for key in METRIC_KEYS
        },
        "seconds": pa.array([run.seconds for run in runs], pa.float64()),
        "peak_memory_bytes": pa.array([run.peak_memory_bytes for run in runs], pa.int64()),
        "parameters": pa.array([run.parameters for run in runs], pa.int64()),
        "device": pa.array([run.device for run in runs], pa.string()),
        "scoring": pa.array([run.scoring for run in runs], pa.string()),
        "trained": pa.array([run.trained for run in runs], pa.string()),
        "extraction_id": pa.array([run.extraction_id for run in runs], pa.string()),
    }
    return pa.table(columns)


def ranks_table(runs: Iterable[RunResult]) -> pa.Table:
    """Return a table with one row per run, split, direction and listed query."""
    front = pa.schema([("variant", pa.string()), ("seed", pa.int64()), ("split", pa.string())])
    tables = [pa.schema([*front, *RANK_COLUMNS]).empty_table()]
    for run in runs:
        for split, result in run.splits.items():
            values = (run.variant, run.seed, split)
            repeated = [
                pa.repeat(pa.scalar(value, column.type), len(result.ranks))
                for value, column in zip(values, front, strict=True)
            ]
            arrays = [*repeated, *(result.ranks[name] for name in RANK_COLUMNS.names)]
            tables.append(pa.table(arrays, schema=tables[0].schema))
    return pa.concat_tables(tables)


def history_table(runs: Iterable[RunResult]) -> pa.Table:
    """Return a table with one row per run and epoch; quantities missing in a log are null."""
    rows = [
        {"variant": run.variant, "seed": run.seed, **_epoch_row(epoch)}
        for run in runs
        for epoch in run.history
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _epoch_row(epoch: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the quantities of a training log to ``val.t2v.R@1``, ``loss.ib`` and so on."""
    renamed = {
        **{key: value for key, value in epoch.items() if key not in ("losses", "validation")},
        "loss": epoch["losses"],
        "val": {key.replace(" ", "."): value for key, value in epoch["validation"].items()},
    }
    return flat(renamed)


def _metric(run: RunResult, split: str, key: str) -> float | None:
    return run.splits[split].metrics[key] if split in run.splits else None


def _setting_columns(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of all runs, without keys that are null here and a section elsewhere."""
    names = sorted({name for values in settings for name in values})
    return [name for name in names if not any(n.startswith(f"{name}.") for n in names)]


def _column(values: Sequence[Any]) -> pa.Array:
    """Make a column of one type: booleans, integers, floats, or else strings."""
    kinds = {type(value) for value in values if value is not None}
    for types, column_type in (
        ({bool}, pa.bool_()),
        ({int}, pa.int64()),
        ({int, float}, pa.float64()),
    ):
        if kinds and kinds <= types:
            return pa.array(values, column_type)
    texts = [None if value is None else setting_text(value) for value in values]
    return pa.array(texts, pa.string())
