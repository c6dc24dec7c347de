"""The ledger of normalisers: one row a normaliser, the raw scores first, and what must be said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.normalisation import Normalised
from gare_cache.evaluation.normalisers import INDUCTIVE, RAW, TRANSDUCTIVE, NormaliserSetting
from gare_cache.stages.plain_table import plain_table

ERROR = "normalisation error"
HEADER = ("Direction", "Scores", "Kind", "n", "R@1", "95 % interval", "R@5", "R@10", "E")

_KINDS = {RAW: "", INDUCTIVE: "I", TRANSDUCTIVE: "X"}
_HOW_TO_READ = (
    "Raw scores are the result; the other rows correct them. E is the normalisation error, E_v in "
    "t2v and E_t in v2t: the mean over the gallery of |how often an item is retrieved - how often "
    "it should be|, 0 is even; it compares scores on the scale of the logits (not dsl, qbnorm, "
    "csls, dual_is, dual_dis)."
)
_MEANING = {
    INDUCTIVE: "I, inductive: knows training items and one query at a time.",
    TRANSDUCTIVE: "X, transductive: sees all scored queries at once and assumes one text a video; "
    "a search engine cannot do that, and X rows compare with X rows alone.",
}


def ledger_row(
    setting: NormaliserSetting,
    normalised: Normalised,
    scores: Mapping[str, Mapping[str, Any]],
    *,
    chosen: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a row of the ledger, JSON-able.

    Args:
        setting: of the row.
        normalised: what it gave.
        scores: by direction, with recalls, the interval of R@1 and the number of queries.
        chosen: how the parameters were chosen; None where they were given.
    """
    by_direction = {d: {**scores[d], ERROR: normalised.errors[d]} for d in DIRECTIONS}
    return {
        "name": setting.name,
        "kind": setting.kind,
        "parameters": dict(setting.parameters),
        "title": setting.title,
        "chosen": chosen,
        "cautions": {d: text for d, text in normalised.cautions.items() if text},
        **by_direction,
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
        found: ``rows`` of ``ledger_row``; ``bank``: split and numbers of texts and videos, or
            None where they are not known; ``several texts``: some video has several.
    """
    rows, bank = found["rows"], found["bank"]
    kinds = {row["kind"] for row in rows}
    notes = [_HOW_TO_READ, *(text for kind, text in _MEANING.items() if kind in kinds)]
    if found["several texts"] and TRANSDUCTIVE in kinds:
        notes.append("Here videos have several texts, so the assumption behind X does not hold.")
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


def _choice(title: str, chosen: Mapping[str, Any]) -> str:
    return (
        f"{title}: the best of {len(chosen['candidates'])} candidates on {chosen['split']} "
        f"({chosen['videos']:,} videos, one caption each), mean R@1 {chosen['score']:.1f}; "
        "test had no part in the choice."
        if chosen["split"] != chosen["scored split"]
        else f"{title}: the best of {len(chosen['candidates'])} candidates on the scored split "
        f"itself, mean R@1 {chosen['score']:.1f}: no result, but a choice."
    )
