"""The content of study.json: everything that a report of a study needs beside its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gare_cache.evaluation.normalisers.registry import TRANSDUCTIVE
from gare_cache.studies.expansion import Variant, row_normaliser
from gare_cache.studies.results import DONE, RunResult
from gare_cache.studies.study import Study
from gare_cache.studies.table import RowDifference, TableRow, smallest_visible


def study_document(
    study: Study,
    variants: Sequence[Variant],
    rows: Sequence[TableRow],
    *,
    split: str,
    notes: Sequence[str],
    record: Mapping[str, Any],
    ledger: str | None,
    coverage: str | None,
) -> dict[str, Any]:
    """Return what study.json holds.

    Args:
        study: the study.
        variants: its expansion.
        rows: its table.
        split: that the table shows; ``test`` is a final table.
        notes: what a reader has to know about these numbers.
        record: where they come from.
        ledger: how often test was scored; None where the table shows no test.
        coverage: how much of the split has features; None where no run is done.
    """
    published = study.published
    return {
        "name": study.name,
        "title": study.title,
        "question": study.question,
        "axes": [{"name": a.name, "values": [v.name for v in a.values]} for a in study.axes],
        "variants": [
            {"name": v.name, "axis_values": dict(v.axis_values), "changes": dict(v.changes)}
            for v in variants
        ],
        "reference": study.reference,
        "seeds": list(study.seeds),
        "split": split,
        "final": split == "test",
        "protocol": {
            **variants[0].params.evaluate.model_dump(exclude={"split"}),
            "coverage": coverage,
        },
        "notes": list(notes),
        "table": [
            _row(row, None if published is None else published.rows.get(row.variant))
            for row in rows
        ],
        "smallest_visible": smallest_visible(rows),
        "published": None
        if published is None
        else {"source": published.source, "note": published.note},
        "record": dict(record),
        "ledger": ledger,
    }


def study_notes(
    study: Study, variants: Sequence[Variant], runs: Sequence[RunResult], rows: Sequence[TableRow]
) -> list[str]:
    """Say what the numbers of a table rest on that its cells do not show.

    Args:
        study: the study.
        variants: its expansion.
        runs: finished and failed ones.
        rows: the table.
    """
    planned = len(variants) * len(study.seeds)
    done = [run for run in runs if run.status == DONE]
    failed = len(runs) - len(done)
    notes = []
    if len(runs) < planned:
        notes.append(
            f"{planned - len(runs):,} of {planned:,} runs are not trained yet; run the study again"
        )
    if failed:
        notes.append(f"{failed:,} of {planned:,} runs failed; their rows say why")
    if len(study.seeds) == 1:
        notes.append(
            "one seed a row: intervals are over videos alone, and say nothing about another seed"
        )
    transductive = [v.name for v in variants if _is_transductive(v)]
    if transductive:
        notes.append(
            f"scored after a transductive normaliser, which sees all queries at once and assumes "
            f"equally many texts a video: {'; '.join(transductive)}; compare these among each other"
        )
    queries = {d.queries for row in rows if row.difference for d in row.difference.values()}
    if len({run.splits["val"].coverage for run in done}) > 1:
        notes.append(
            "rows have features of different queries; differences are over those that both rows "
            f"have, {min(queries, default=0):,} and more"
        )
    notes += [
        f"runs were made with different {what}: {', '.join(values)}"
        for what, values in _mixtures(done)
    ]
    return notes


def _is_transductive(variant: Variant) -> bool:
    choice = row_normaliser(variant.params)
    return choice is not None and choice.kind == TRANSDUCTIVE


def _mixtures(done: Sequence[RunResult]) -> list[tuple[str, list[str]]]:
    found: dict[str, set[str]] = {"devices": set(), "processors": set()}
    for run in done:
        found["devices"].add(str(run.device))
        found["processors"].add(str(run.provenance.get("processor")))
        for package, version in run.provenance.get("versions", {}).items():
            found.setdefault(f"versions of {package}", set()).add(str(version))
    return [(what, sorted(values)) for what, values in found.items() if len(values) > 1]


def _row(row: TableRow, published: Mapping[str, float] | None) -> dict[str, Any]:
    return {
        "variant": row.variant,
        "rank": row.rank,
        "n": row.n,
        "failed": list(row.failed),
        "validation_score": row.validation_score,
        "mean": dict(row.mean),
        "std": None if row.std is None else dict(row.std),
        "difference": None
        if row.difference is None
        else {key: _difference(value) for key, value in row.difference.items()},
        "seconds": row.seconds,
        "peak_memory_bytes": row.peak_memory_bytes,
        "parameters": row.parameters,
        "published": None if published is None else dict(published),
    }


def _difference(difference: RowDifference) -> dict[str, Any]:
    found = difference.found
    return {
        "points": found.points,
        "low": found.low,
        "high": found.high,
        "p": found.p_value,
        "p_holm": difference.p_holm,
        "distinguishable": difference.distinguishable,
        "half_width": found.half_width,
        "detectable": found.detectable,
        "queries": difference.queries,
    }
