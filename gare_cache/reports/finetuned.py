"""Frozen and finetuned side by side, in the report of a finetuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.results import SplitResult
from gare_cache.evaluation.scores import HEAD, ZERO_SHOT
from gare_cache.reports.content import TableSection
from gare_cache.reports.pages.grids import format_interval, format_number

_RECALLS = ("R@1", "R@5", "R@10")
_TITLES = {ZERO_SHOT: "zero shot", HEAD: "head"}


def finetuned_section(
    tuned: SplitResult,
    frozen: SplitResult | None,
    cost: Mapping[str, Any],
    frozen_cost: Mapping[str, Any],
) -> TableSection:
    """Return zero shot and head of the encoder before and after its finetuning.

    Args:
        tuned: the scores of the finetuning.
        frozen: those of the project's own outputs; None where there are none.
        cost: content of the finetuning's ``cost.json``.
        frozen_cost: of the training of the project's own outputs; empty if it is not known.
    """
    header = [
        *("Encoder", "Method"),
        *(f"{direction} {name}" for direction in DIRECTIONS for name in _RECALLS),
        *("Trained", "Time", "Memory"),
    ]
    notes: list[str] = []
    rows: list[list[str]] = []
    if frozen is None:
        notes.append(
            "The project's own outputs have no evaluation to stand beside; run `gare-cache "
            "evaluate` there, and this report again."
        )
    elif differing := list(_differing(tuned, frozen)):
        notes.append(
            f"The project's own outputs were scored with another {' and another '.join(differing)} "
            "and are left out; score both in the same way."
        )
    else:
        rows += _rows("frozen", frozen, frozen_cost)
        if not frozen_cost:
            notes.append(
                "Nothing is known of what the head on the frozen encoder cost: another version "
                "trained it, or a study with other runs as one program."
            )
    notes.append(
        "Trained: number of weights; time and peak memory are those of the training, without the "
        "extraction; no time for one that was stopped and resumed."
    )
    rows += _rows("finetuned", tuned, cost)
    return TableSection(header, rows, notes)


def _differing(tuned: SplitResult, frozen: SplitResult) -> Iterator[str]:
    for name, title in {
        "split": "split",
        "manifest": "manifest",
        "captions": "choice of captions",
        "v2t_convention": "convention for video to text",
    }.items():
        if getattr(tuned, name) != getattr(frozen, name):
            yield title


def _rows(encoder: str, result: SplitResult, cost: Mapping[str, Any]) -> Iterator[list[str]]:
    for method, title in _TITLES.items():
        scores = result.headline.methods[method]
        cells = []
        for direction in DIRECTIONS:
            of = scores[direction]
            first, *others = (format_number(of.metrics[name]) for name in _RECALLS)
            cells += [f"{first} {format_interval(of.low, of.high)}", *others]
        shown = _cost_cells(cost if method == HEAD else {})
        yield [encoder, title, *cells, *shown]


def _cost_cells(cost: Mapping[str, Any]) -> list[str]:
    if not cost:
        return ["—"] * 3
    seconds, memory = cost["seconds"], cost["peak_memory_bytes"]
    return [
        f"{cost['parameters_trained']:,}",
        "—" if seconds is None else f"{seconds / 60:,.1f} min",
        "—" if memory is None else f"{memory / 1e9:.1f} GB",
    ]
