"""Readings of a diagnosis: a sentence for each figure and question, from its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gare_cache.errors import counted
from gare_cache.evaluation.comparison.differences import LEVEL
from gare_cache.reports.pages.grids import DIRECTION_TITLES, format_interval_in_words

Part = Mapping[str, Any]

# Values that differ by less are called equal, so that no sentence describes a rounding.
_EQUAL = 0.005
_FULL = 99.95


def answers(diagnosis: Part) -> list[tuple[str, str]]:
    """Return the four questions about the increment with their answers."""
    return [
        ("How much of the increment depends on the text?", varies(diagnosis)),
        ("Is it only a correction of each video?", replaced(diagnosis, "mean")),
        ("Is it needed at inference?", replaced(diagnosis, "zero")),
        ("Does it point down the loss?", points_down(diagnosis)),
    ]


def varies(diagnosis: Part) -> str:
    """Return the shares of the variance that depend on the text, and on the pair only."""
    shares = diagnosis["variance"]
    if shares["within videos"] is None:
        return "All increments are equal: nothing of them depends on the text or on the video."
    return (
        f"{percent(shares['within videos'])} of the variance of Delta is over the texts at fixed "
        f"video, {percent(shares['between videos'])} is between the means of the videos; "
        f"{percent(shares['between texts'])} is between the means of the texts and "
        f"{percent(shares['interaction'])} belongs to the pair alone."
    )


def replaced(diagnosis: Part, variant: str) -> str:
    """Return what a variant of the increment costs in R@1, by direction."""
    what = {
        "mean": "one Delta a video (its mean over the texts)",
        "zero": "Delta = 0",
    }[variant]
    costs = [_cost(diagnosis, variant, direction) for direction in DIRECTION_TITLES]
    return f"With {what} R@1 is {' and '.join(costs)}."


def points_down(diagnosis: Part) -> str:
    """Return how far the increment follows the negative gradient of its pair."""
    with_delta, start = (diagnosis["descent"][name]["series"] for name in ("with", "without"))
    return (
        f"The mean cosine of Delta and -g is {number(with_delta['matched']['mean'])} for matched "
        f"and {number(with_delta['unmatched']['mean'])} for unmatched pairs "
        f"({number(with_delta['hardest']['mean'])} for the hardest of each); with g taken at Delta "
        f"= 0 it is {number(start['matched']['mean'])} and {number(start['unmatched']['mean'])}."
    )


def gradient(diagnosis: Part) -> str:
    """Return how strongly the gradients of the matched pair and of the others oppose."""
    with_delta, plain = (diagnosis["gradient"][name] for name in ("with", "without"))
    return (
        f"The own pair's gradient and the sum of the others' have a mean cosine of "
        f"{number(with_delta['opposition'])} (-1: opposed) with Delta and "
        f"{number(plain['opposition'])} without; their sum is {number(_left(with_delta))} and "
        f"{number(_left(plain))} times as long as the own pair's."
    )


def tension(diagnosis: Part) -> str:
    """Compare the tension with and without the increment."""
    part = diagnosis["tension"]
    series = part["anchors"]["series"]
    if series["with"]["median"] is None:
        return "No anchor has a gradient, so there is no tension to compare."
    return (
        f"At the median anchor {number(series['with']['median'])} of the pairs' gradients is left "
        f"in their sum with Delta and {number(series['without']['median'])} without; it is more "
        f"with Delta at {percent(part['higher'])} of the anchors (50 %: no effect)."
    )


def cosines(diagnosis: Part) -> str:
    """Compare what the increment adds to matched and to unmatched cosines."""
    means = {
        (kind, name): diagnosis["cosines"][kind]["series"][name]["mean"]
        for kind in _KINDS
        for name in ("with", "without")
    }
    gains = {kind: means[kind, "with"] - means[kind, "without"] for kind in _KINDS}
    margins = {n: means["matched", n] - means["unmatched", n] for n in ("with", "without")}
    verdict = _compared(margins["with"], margins["without"], "wider", "narrower", "the same")
    return (
        f"Delta changes the mean cosine of matched pairs by {gains['matched']:+.2f} and of "
        f"unmatched pairs by {gains['unmatched']:+.2f}; the margin between them is {verdict} "
        f"({number(margins['with'])} with, {number(margins['without'])} without)."
    )


def norms(diagnosis: Part) -> str:
    """Compare the increment's length with the item that it corrects."""
    means = {name: values["mean"] for name, values in diagnosis["norms"]["series"].items()}
    item = "t" if diagnosis["side"] == "text" else "p"
    return (
        f"Delta is {number(means['Delta'] / means[item])} times as long as {item} on average and "
        f"takes {item} from {number(means[item])} to {number(means[f'{item} + Delta'])}."
    )


def distances(diagnosis: Part) -> str:
    """Compare the distances of matched pairs and of the modality means."""
    series = diagnosis["distances"]["series"]
    with_delta, plain = series["with"]["mean"], series["without"]["mean"]
    means = diagnosis["means"]["directions"]
    words = ("apart", "closer together", "nowhere")
    pairs = _compared(with_delta, plain, *words)
    modalities = _compared(means["with"], means["without"], *words)
    return (
        f"Delta moves matched pairs {pairs} (mean distance {number(plain)} to "
        f"{number(with_delta)}) and, by direction, the two modality means {modalities} "
        f"({number(means['without'])} to {number(means['with'])})."
    )


def training(diagnosis: Part) -> str:
    """Return how the direction of the increment changed during training."""
    epochs = diagnosis["epochs"]
    if not epochs:
        return "The training log holds no angles: an older version wrote it; train the run again."
    kept = next((e for e in epochs if e["epoch"] == diagnosis["best_epoch"]), epochs[-1])
    return (
        f"From epoch {epochs[0]['epoch']} to the kept epoch {kept['epoch']} the mean angle of "
        f"Delta to the gap goes from {epochs[0]['angle to gap']:.0f} to "
        f"{kept['angle to gap']:.0f} degrees, to the text from {epochs[0]['angle to text']:.0f} to "
        f"{kept['angle to text']:.0f}; its length goes from {number(epochs[0]['length'])} to "
        f"{number(kept['length'])}."
    )


def step(diagnosis: Part) -> str:
    """Return how much the trained increments change the ideal step."""
    part = diagnosis["step"]
    matched, unmatched = (part["relative"]["series"][kind]["median"] for kind in _KINDS)
    if matched is None or unmatched is None:
        return "No pair has a gradient: every step is undefined."
    return (
        f"From the trained Delta the coupled step differs from eta by a median of "
        f"{percent(matched)} of eta for matched and {percent(unmatched)} for unmatched pairs, in "
        f"a radius of {number(part['radius'])}; {percent(part['scaled back'])} of the increments "
        f"had to be scaled back to it."
    )


def candidates(diagnosis: Part) -> str:
    """Return how long a list of the plain tower must be to contain the head's top ten."""
    sentences = [
        _candidates_of(direction, part) for direction, part in diagnosis["candidates"].items()
    ]
    return "; ".join(sentences) + "."


def percent(share: float) -> str:
    """Format a share in percent, with a decimal near 0 and 100."""
    return f"{100 * share:.{0 if 0.1 <= share <= 0.9 else 1}f} %"


def number(value: float | None) -> str:
    """Format a number with two decimals; a dash for None."""
    return "—" if value is None else f"{value:.2f}"


_KINDS: Sequence[str] = ("matched", "unmatched")


def _cost(diagnosis: Part, variant: str, direction: str) -> str:
    scores = diagnosis["recall"][variant][direction]
    apart = scores["difference"]
    verdict = "" if apart["p Holm"] <= LEVEL else ", not distinguishable"
    return (
        f"{scores['R@1']:.1f} {DIRECTION_TITLES[direction].lower()} ({apart['points']:+.1f} "
        f"points, {format_interval_in_words(apart['low'], apart['high'])}{verdict})"
    )


def _candidates_of(direction: str, part: Part) -> str:
    title = DIRECTION_TITLES[direction]
    if not part["at"]:
        items = counted(part["items"], "item")
        return f"{title}: the gallery has only {items}, so there is nothing to ask"
    whole = next((k for k, at in part["at"].items() if 100 * at["whole"] >= _FULL), None)
    deepest, at = list(part["at"].items())[-1]
    shown = f"the plain tower's first {deepest} hold {100 * at['share']:.1f} % of the head's ten"
    if whole is not None:
        return f"{title}: {shown}, and all ten of every query from K = {whole} on"
    return f"{title}: {shown}, and all ten of {100 * at['whole']:.1f} % of the queries"


def _left(part: Part) -> float | None:
    norms = part["norms"]
    return norms["sum"] / norms["positive"] if norms["positive"] else None


def _compared(value: float, other: float, more: str, less: str, same: str) -> str:
    if abs(value - other) < _EQUAL:
        return same
    return more if value > other else less
