"""The result of a study, from which study.json, the table and the pages are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.normalisers.registry import TRANSDUCTIVE
from gare_cache.evaluation.protocol_card import ProtocolCard
from gare_cache.reports.protocol import CONVENTIONS, ProtocolSection, protocol_section
from gare_cache.studies.expansion import Variant, row_normaliser
from gare_cache.studies.results import DONE, RunResult
from gare_cache.studies.study import Study
from gare_cache.studies.table import StudyRow, smallest_visible

HEADLINE = "t2v.R@1"
SHOWN_METRICS = (HEADLINE, "t2v.R@5", "t2v.R@10", "v2t.R@1")
COMPARED_METRICS = tuple(f"{direction}.R@1" for direction in DIRECTIONS)
SPLIT_TITLES = {"val": "validation split", "test": "test split"}


@dataclass(frozen=True, eq=False)
class StudyResult:
    """A study with its measured rows and their provenance.

    Attributes:
        study: content of the study file.
        split: ``val`` or ``test``, the split that is shown; ``test`` is a final table.
        rows: one per variant, in the study's order.
        protocol: settings of the evaluation, and the coverage.
        cards: what was scored: one card, or one for each of several features.
        notes: caveats about these numbers, one sentence each.
        record: provenance: versions, machine, features, settings.
        ledger: how often test was scored; None if the rows do not show test.
    """

    study: Study
    split: str
    rows: Sequence[StudyRow]
    protocol: Mapping[str, Any] = field(default_factory=dict)
    cards: Sequence[ProtocolCard] = ()
    notes: Sequence[str] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    ledger: str | None = None

    @property
    def reference(self) -> str:
        """Name of the reference variant."""
        return self.study.reference

    @property
    def axes(self) -> dict[str, list[str]]:
        """``{axis: values}`` in the study's order."""
        return {axis.name: [value.name for value in axis.values] for axis in self.study.axes}

    @property
    def split_title(self) -> str:
        """The shown split, as text."""
        return SPLIT_TITLES[self.split]

    @property
    def heading(self) -> str:
        """Title with the shown split."""
        return f"{self.study.title or self.study.name}: {self.split_title}"

    @property
    def ranked(self) -> list[StudyRow]:
        """Rows by validation score, those without a finished run last."""
        return sorted(self.rows, key=lambda row: (row.rank is None, row.rank or 0))

    @property
    def reference_row(self) -> StudyRow:
        """The row of the reference variant."""
        return next(row for row in self.rows if row.name == self.reference)

    @property
    def compared(self) -> list[StudyRow]:
        """Rows with a difference from the reference, the best first."""
        return [row for row in self.ranked if HEADLINE in row.differences]

    @property
    def protocol_sections(self) -> list[ProtocolSection]:
        """The cards with the conventions of the evaluation, for a page."""
        conventions = {key: self.protocol[key] for key in CONVENTIONS}
        return [protocol_section(card, **conventions) for card in self.cards]

    def to_json(self) -> dict[str, Any]:
        """Return the content of study.json."""
        study = self.study
        return {
            "name": study.name,
            "title": study.title,
            "question": study.question,
            "axes": [{"name": name, "values": values} for name, values in self.axes.items()],
            "variants": [
                {
                    "name": row.name,
                    "axis_values": dict(row.axis_values),
                    "changes": dict(row.changes),
                }
                for row in self.rows
            ],
            "reference": study.reference,
            "seeds": list(study.seeds),
            "split": self.split,
            "final": self.split == "test",
            "protocol": dict(self.protocol),
            "cards": [card.to_json() for card in self.cards],
            "notes": list(self.notes),
            "table": [row.to_json() for row in self.ranked],
            "smallest_visible": smallest_visible(self.rows),
            "published": study.published
            and {"source": study.published.source, "note": study.published.note},
            "record": dict(self.record),
            "ledger": self.ledger,
        }


def study_notes(
    study: Study, variants: Sequence[Variant], runs: Sequence[RunResult], rows: Sequence[StudyRow]
) -> list[str]:
    """Return caveats about a table that its cells do not show.

    Args:
        study: the study.
        variants: its variants.
        runs: the finished and failed runs.
        rows: of the table.
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
            "one seed per row: intervals are over videos only, and say nothing about another seed"
        )
    transductive = [v.name for v in variants if _is_transductive(v)]
    if transductive:
        notes.append(
            "scored after a transductive normaliser, which sees all queries at once and assumes "
            f"equally many texts per video: {'; '.join(transductive)}; compare these only with "
            "each other"
        )
    queries = {of.queries for row in rows for of in row.differences.values()}
    if len({run.splits["val"].coverage for run in done}) > 1:
        notes.append(
            "rows have features of different queries; differences are over those that both rows "
            f"have, at least {min(queries, default=0):,}"
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
    used: dict[str, set[str]] = {"devices": set(), "processors": set(), "forms of training": set()}
    for run in done:
        used["forms of training"].add(run.trained)
        used["devices"].add(str(run.device))
        used["processors"].add(str(run.provenance.get("processor")))
        for package, version in run.provenance.get("versions", {}).items():
            used.setdefault(f"versions of {package}", set()).add(str(version))
    return [(what, sorted(values)) for what, values in used.items() if len(values) > 1]
