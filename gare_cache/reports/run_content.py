"""Text of a run's report: its head, its results and how they were measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gare_cache.errors import counted
from gare_cache.evaluation.metrics import DIRECTIONS
from gare_cache.evaluation.results import CountedResult, PairedDifference, SplitResult
from gare_cache.evaluation.scores import HEAD, ZERO_SHOT
from gare_cache.own import is_own
from gare_cache.reports.content import ResultRow, TableSection
from gare_cache.reports.normalisers import HEADER, ledger_cells, ledger_notes
from gare_cache.reports.pages.grids import (
    DIRECTION_TITLES,
    format_change,
    format_interval_in_words,
    format_number,
)
from gare_cache.reports.protocol import MISSING_RULES

_LOSS_NAMES = {"info_nce": "InfoNCE", "ncl": "NCL"}
_REGULARISER_NAMES = {
    "ib": "L_ib",
    "eps": "L_eps",
    "dir": "L_dir",
    "orthogonality": "L_orth",
    "trust_region": "L_tr",
}
_ZERO_SHOT_METHOD = "zero-shot mean pooling of the features"
# The same behind a method's name, where a table has rows of both rules.
_SHORT_RULES = {"drop": "left out", "count_as_miss": "as misses"}


def describe_head(settings: dict[str, Any]) -> str:
    """Name a head by its parts and losses: ``linear, transformer, gap module: InfoNCE, L_ib``.

    Differences from the published gap module are named: ``gap module (video side, words as
    context)``.
    """
    head, loss = settings["head"], settings["train"]["loss"]
    parts = [head["projection"]] if head["projection"] != "none" else []
    parts.append(head["aggregator"]["name"])
    interaction = head["interaction"]["name"]
    if interaction == "pooled":
        parts.append(f"{head['pooling']['name'].replace('_', '-')} pooling")
    else:
        shown = interaction if is_own(interaction) else interaction.replace("_", "-")
        parts.append(f"{shown} interaction")
    parts += [_describe_gap(head["gap"])] if head["gap"] else []
    contrastive = loss["contrastive"]["name"]
    losses = [_LOSS_NAMES.get(contrastive, contrastive)]
    losses += [term for name, term in _REGULARISER_NAMES.items() if loss[name]["weight"] > 0]
    return f"{', '.join(parts)}: {', '.join(losses)}"


def _describe_gap(gap: dict[str, Any]) -> str:
    changes = [
        phrase
        for phrase, differs in (
            ("video side", gap["side"] == "video"),
            ("words as context", gap["context"] == "words"),
            ("without a gap", gap["query"] == "text"),
            ("negated gap", gap["eta"] == -1),
            (f"{gap['layers']} layers", gap["layers"] > 1),
        )
        if differs
    ]
    return f"gap module ({', '.join(changes)})" if changes else "gap module"


def describe_methods(settings: dict[str, Any], result: SplitResult) -> str:
    """Return what the names of the rows stand for, in one sentence."""
    named = [f"Zero shot: {_ZERO_SHOT_METHOD}", f"head: {describe_head(settings)}"]
    if result.alternative:
        named += [f"{short}: {MISSING_RULES[rule]}" for rule, short in _SHORT_RULES.items()]
    return f"{'; '.join(named)}."


def verdict(result: SplitResult) -> str:
    """Return in one sentence whether the head's R@1 differs from zero shot's in each direction."""
    words = {}
    for direction in DIRECTIONS:
        difference = result.headline.difference[direction]
        if not difference.distinguishable:
            words[direction] = "not distinguishable from"
        else:
            words[direction] = "better than" if difference.points > 0 else "worse than"
    shown = {d: f"in {DIRECTION_TITLES[d].lower()} (R@1 {_against(result, d)})" for d in DIRECTIONS}
    first, second = DIRECTIONS
    if words[first] == words[second]:
        return f"The head is {words[first]} zero shot {shown[first]} and {shown[second]}."
    return (
        f"The head is {words[first]} zero shot {shown[first]} and {words[second]} zero shot "
        f"{shown[second]}."
    )


def _against(result: SplitResult, direction: str) -> str:
    methods = result.headline.methods
    head, zero = (methods[m][direction].metrics["R@1"] for m in (HEAD, ZERO_SHOT))
    return f"{format_number(head)} against {format_number(zero)}"


def result_rows(result: SplitResult, names: Mapping[str, str]) -> list[ResultRow]:
    """Return a row per method, under the protocol's rule for queries without features."""
    mark = f" ({_SHORT_RULES[result.headline.missing]})" if result.alternative else ""
    return _rows(result.headline, names, mark)


def alternative_rows(result: SplitResult, names: Mapping[str, str]) -> list[ResultRow]:
    """Return the rows under the other rule; none if every query has features."""
    other = result.alternative
    return [] if other is None else _rows(other, names, f" ({_SHORT_RULES[other.missing]})")


def normaliser_ledger(result: SplitResult) -> TableSection | None:
    """Return the ledger of normalisers as cells and notes."""
    ledger = result.normalisers
    if ledger is None:
        return None
    return TableSection(HEADER, ledger_cells(ledger["rows"]), ledger_notes(ledger))


def difference_sentences(result: SplitResult) -> list[str]:
    """Return a sentence per direction on the head's R@1 against zero shot."""
    return [_difference(d, result.headline.difference[d]) for d in DIRECTIONS]


def result_notes(result: SplitResult) -> list[str]:
    """Return caveats about the numbers of a run."""
    notes = ["One training run: the interval covers the choice of test videos, not of the seed."]
    if result.alternative:
        notes.append(
            f"Some queries have no features ({result.coverage}); the headline is with "
            f"{MISSING_RULES[result.headline.missing]}. Both rules are printed; compare with other "
            "numbers only under the same rule."
        )
    if result.split == "val":
        notes.append("These are validation scores: the epoch was selected on the same split.")
    if result.split == "train":
        notes.append("These are scores on the training split and say nothing about new videos.")
    return notes


def run_facts(
    result: SplitResult,
    record: Mapping[str, Any],
    *,
    encoder: str,
    frames: str,
    ledger: str | None,
) -> list[tuple[str, str]]:
    """Return features, training, versions and machine as (name, value) pairs.

    Args:
        result: scores of the split.
        record: of the run.
        encoder: description of the encoder.
        frames: description of the frames used.
        ledger: how often test was scored; None on another split.
    """
    versions = record["provenance"]["versions"]
    return [
        ("Coverage", result.coverage),
        *([] if ledger is None else [("Test ledger", ledger)]),
        ("Encoder", encoder),
        ("Encoder id", record["encoder_id"][:12]),
        ("Frames", frames),
        ("Trained on", record["coverage"]["train"]),
        ("Selected on", f"{record['coverage']['val']}; epoch {record['best_epoch']}"),
        ("Seed", str(record["settings"]["train"]["seed"])),
        ("Run", record["run_key"]),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Machine", f"{record['provenance']['processor']}, device {record['device']}"),
    ]


def _rows(counted: CountedResult, names: Mapping[str, str], mark: str) -> list[ResultRow]:
    return [ResultRow(f"{name}{mark}", counted.methods[method]) for method, name in names.items()]


def _difference(direction: str, difference: PairedDifference) -> str:
    verdict = "" if difference.distinguishable else "; not distinguishable on this test set"
    return (
        f"{direction}: the head's R@1 differs from zero shot by "
        f"{format_change(difference.points)} points, "
        f"{format_interval_in_words(difference.low, difference.high)} (paired bootstrap over "
        f"{counted(difference.videos, 'video')}){verdict}."
    )
