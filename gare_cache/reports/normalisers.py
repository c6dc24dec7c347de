"""The ledger of normalisers as cells and notes, for terminal and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gare_cache.errors import counted
from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.normalisers.ledger import DIFFERENCE, ERROR
from gare_cache.evaluation.normalisers.registry import (
    INDUCTIVE,
    RAW,
    TRANSDUCTIVE,
)
from gare_cache.reports.pages.grids import format_change, format_interval, format_number
from gare_cache.reports.pages.plain_table import plain_table

HEADER = (
    "Direction",
    "Scores",
    "Kind",
    "n",
    "R@1",
    "95 % interval",
    "R@1 - raw, 95 % interval",
    "R@5",
    "R@10",
    "E",
)
_KINDS = {RAW: "", INDUCTIVE: "I", TRANSDUCTIVE: "X"}
_HOW_TO_READ = (
    "Raw scores are the result; the other rows correct them. Differences from raw are paired over "
    "the same queries, with intervals over videos that are not adjusted for the number of rows.",
    "E is the normalisation error, E_v in t2v and E_t in v2t: the mean over the gallery of |how "
    "often an item is retrieved - how often it should be|, 0 is even; it compares scores on the "
    "scale of the logits (not dsl, qbnorm, csls, dual_is, dual_dis).",
)
_MEANING = {
    INDUCTIVE: "I, inductive: uses training items and one query at a time.",
    TRANSDUCTIVE: "X, transductive: sees all scored queries at once and assumes one text per "
    "video, or equally many; a search engine cannot do that, so compare X rows only with X rows.",
}


def ledger_cells(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the rows as cells, grouped by direction, one string for each of ``HEADER``."""
    return [
        (
            direction,
            row["title"],
            _KINDS[row["kind"]],
            f"{row[direction]['queries']:,}",
            format_number(row[direction]["R@1"]),
            format_interval(row[direction]["R@1 low"], row[direction]["R@1 high"]),
            _difference(row[direction].get(DIFFERENCE)),
            *(format_number(row[direction][name]) for name in ("R@5", "R@10")),
            f"{row[direction][ERROR]:.3f}",
        )
        for direction in DIRECTIONS
        for row in rows
    ]


def describe_normalisers(ledger: Mapping[str, Any]) -> list[str]:
    """Return a ledger as lines for a terminal: its table, then its notes."""
    table = plain_table(HEADER, ledger_cells(ledger["rows"]), num_left=3)
    return [*table, "", *ledger_notes(ledger)]


def ledger_notes(ledger: Mapping[str, Any]) -> list[str]:
    """Return notes on how to read the rows, how parameters were chosen, and cautions.

    Args:
        ledger: ``rows`` of ``ledger_rows``; ``scale``: logits / raw scores; ``bank``: split and
            numbers of texts and videos, or None if unknown; ``texts a video``: smallest and
            largest number of texts of a video, among those with texts.
    """
    rows, bank = ledger["rows"], ledger["bank"]
    kinds = {row["kind"] for row in rows}
    notes = [*_HOW_TO_READ, *(text for kind, text in _MEANING.items() if kind in kinds)]
    fewest, most = ledger["texts a video"]
    if most > 1 and TRANSDUCTIVE in kinds:
        notes.append(
            f"Here every video has {most} texts: X profits from their equal number."
            if fewest == most
            else f"Here videos have {fewest} to {counted(most, 'text')}: the assumption of X "
            "does not hold."
        )
    if ledger["scale"] != 1:
        notes.append(f"Logits are the raw scores times {ledger['scale']:.4g}.")
    if bank is not None:
        notes.append(
            f"Banks: {counted(bank['texts'], 'text')} and {counted(bank['videos'], 'video')} of "
            "the "
            f"{bank['split']} split, encoded with the same head."
        )
    notes += [_choice(row["title"], row["chosen"]) for row in rows if row["chosen"]]
    notes += [
        f"{row['title']}, {direction}: {text}."
        for row in rows
        for direction, text in row["cautions"].items()
    ]
    return notes


def _difference(cell: Mapping[str, float] | None) -> str:
    if cell is None:
        return ""
    interval = format_interval(cell["R@1 low"], cell["R@1 high"], signed=True)
    return f"{format_change(cell['R@1'])} {interval}"


def _choice(title: str, chosen: Mapping[str, Any]) -> str:
    return (
        f"{title}: the best of {counted(len(chosen['candidates']), 'candidate')} on "
        f"{chosen['split']} "
        f"({counted(chosen['videos'], 'video')}, one caption each), mean R@1 "
        f"{chosen['score']:.1f}; "
        "test had no part in the choice."
        if chosen["split"] != chosen["scored split"]
        else f"{title}: the best of {counted(len(chosen['candidates']), 'candidate')} on the "
        "scored split "
        f"itself, mean R@1 {chosen['score']:.1f}: a selection, not a result."
    )
