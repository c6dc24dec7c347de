"""The normalisers' ledger as cells and notes, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.normalisers.ledger import DIFFERENCE, ERROR
from gare_cache.evaluation.normalisers.registry import (
    INDUCTIVE,
    RAW,
    TRANSDUCTIVE,
)
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
    "Raw scores are the result; the other rows correct them. A difference to raw is paired over "
    "the same queries, resamples videos, and is not adjusted for the number of rows.",
    "E is the normalisation error, E_v in t2v and E_t in v2t: the mean over the gallery of |how "
    "often an item is retrieved - how often it should be|, 0 is even; it compares scores on the "
    "scale of the logits (not dsl, qbnorm, csls, dual_is, dual_dis).",
)
_MEANING = {
    INDUCTIVE: "I, inductive: knows training items and one query at a time.",
    TRANSDUCTIVE: "X, transductive: sees all scored queries at once and assumes one text a video, "
    "or equally many; a search engine cannot do that, and X rows compare with X rows alone.",
}


def ledger_cells(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Print the rows, those of a direction together, one string for each of ``HEADER``."""
    return [
        (
            direction,
            row["title"],
            _KINDS[row["kind"]],
            f"{row[direction]['queries']:,}",
            f"{row[direction]['R@1']:.1f}",
            f"{row[direction]['R@1 low']:.1f} to {row[direction]['R@1 high']:.1f}",
            _difference(row[direction].get(DIFFERENCE)),
            *(f"{row[direction][name]:.1f}" for name in ("R@5", "R@10")),
            f"{row[direction][ERROR]:.3f}",
        )
        for direction in DIRECTIONS
        for row in rows
    ]


def describe_normalisers(found: Mapping[str, Any]) -> list[str]:
    """Print a ledger for a terminal: its table, then its notes."""
    table = plain_table(HEADER, ledger_cells(found["rows"]), num_left=3)
    return [*table, "", *ledger_notes(found)]


def ledger_notes(found: Mapping[str, Any]) -> list[str]:
    """Say how to read the rows, how parameters were chosen and what to beware of.

    Args:
        found: ``rows`` of ``ledger_rows``; ``scale``: logits over raw scores; ``bank``: split and
            numbers of texts and videos, or None where they are not known; ``texts a video``: the
            fewest and the most of a video that has one.
    """
    rows, bank = found["rows"], found["bank"]
    kinds = {row["kind"] for row in rows}
    notes = [*_HOW_TO_READ, *(text for kind, text in _MEANING.items() if kind in kinds)]
    fewest, most = found["texts a video"]
    if most > 1 and TRANSDUCTIVE in kinds:
        notes.append(
            f"Here every video has {most} texts: X knows that they are equally many."
            if fewest == most
            else f"Here videos have {fewest} to {most} texts: what X assumes does not hold."
        )
    if found["scale"] != 1:
        notes.append(f"Logits are the raw scores times {found['scale']:.4g}.")
    if bank is not None:
        notes.append(
            f"Banks: {bank['texts']:,} texts and {bank['videos']:,} videos of the "
            f"{bank['split']} split, encoded with the same head."
        )
    notes += [_choice(row["title"], row["chosen"]) for row in rows if row["chosen"]]
    notes += [
        f"{row['title']}, {direction}: {text}."
        for row in rows
        for direction, text in row["cautions"].items()
    ]
    return notes


def _difference(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    return f"{found['R@1']:+.1f} ({found['R@1 low']:+.1f} to {found['R@1 high']:+.1f})"


def _choice(title: str, chosen: Mapping[str, Any]) -> str:
    return (
        f"{title}: the best of {len(chosen['candidates'])} candidates on {chosen['split']} "
        f"({chosen['videos']:,} videos, one caption each), mean R@1 {chosen['score']:.1f}; "
        "test had no part in the choice."
        if chosen["split"] != chosen["scored split"]
        else f"{title}: the best of {len(chosen['candidates'])} candidates on the scored split "
        f"itself, mean R@1 {chosen['score']:.1f}: no result, but a choice."
    )
