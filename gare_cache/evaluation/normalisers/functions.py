"""Test-time normalisers as pure functions from one direction's scores to corrected scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gare_cache.errors import ConfigError
from gare_cache.evaluation.metrics import Scores

Values = npt.NDArray[np.float64]

# Entries of a float64 block, 32 MiB.
_BLOCK_ENTRIES = 1 << 22


@dataclass(frozen=True)
class DirectionScores:
    """The input of a normaliser in one direction: queries are rows, the gallery is columns.

    Text to video has captions as rows and videos as columns, video to text the reverse: there every
    caption is a separate item, even if a video has several. The two directions have different
    matrices and banks; neither can be derived from the corrected scores of the other.

    Attributes:
        logits: (Q, G) S = s cos of the scored queries, float32 or float64.
        queries: (M, G) logits R of the query bank against the same gallery: training queries of
            the same kind (inductive), or ``logits`` itself (transductive); None if there is none.
        gallery: (N, G) logits of training items of the gallery's kind against the gallery; None if
            there is none.
        scale: s; None if unknown.
        targets: (G,) how often each item should be retrieved: the sum, over the queries for which
            it is true, of 1 / (true items of the query). It adds up to Q. Text to video: the number
            of captions of the video; video to text: 1 / (captions of its video).
    """

    logits: Scores
    queries: Scores | None = None
    gallery: Scores | None = None
    scale: float | None = None
    targets: Values | None = None


def none(scores: DirectionScores) -> Scores:
    """Return the scores unchanged."""
    return scores.logits


def sinkhorn(scores: DirectionScores, *, iterations: int, targets: str) -> Scores:
    """Add a bias to each item so that the bank retrieves every item as often as its target.

    S_ij + b_j, b of ``sinkhorn_biases`` on the query bank R. Source: NCL, arXiv:2212.11790.

    Args:
        scores: with the query bank.
        iterations: n.
        targets: ``uniform``: rows / columns for every item; ``annotated``: in proportion to
            ``scores.targets``, which depends on how many captions a video has.

    Raises:
        ConfigError: annotated targets, but an item is true for no query.
    """
    bank = _bank(scores.queries)
    column_targets = None
    if targets == "annotated":
        if scores.targets is None or not (scores.targets > 0).all():
            raise ConfigError(
                "sinkhorn with targets: annotated needs a true query for every item of the "
                "gallery, and some have none; set targets: uniform"
            )
        column_targets = scores.targets * (len(bank) / scores.targets.sum())
    _, bias = sinkhorn_biases(bank, iterations=iterations, column_targets=column_targets)
    corrected: Scores = scores.logits + bias
    return corrected


def inverted_softmax(scores: DirectionScores) -> Scores:
    """Return S_ij - LSE_k(R_kj). Source: Smith et al., 2017, arXiv:1702.03859."""
    corrected: Scores = scores.logits - log_sum_exp(_bank(scores.queries), axis=0)
    return corrected


def qbnorm(scores: DirectionScores, *, beta: float, k: int) -> Scores:
    """Apply the inverted softmax only to queries whose top item is a hub of the bank.

    beta cos_ij - LSE_k(beta cos_kj) if query i's uncorrected top item is among the first ``k`` of
    some bank query, else beta cos_ij. Scores of different queries are not comparable. Source:
    QB-Norm with the dynamic inverted softmax, Bogolin et al., CVPR 2022.

    Args:
        scores: with the query bank and the scale.
        beta: inverse temperature, on cosines.
        k: an item among the first k of a bank query is a hub.

    Raises:
        ConfigError: the scale is unknown, so there are no cosines.
    """
    bank = _bank(scores.queries)
    if scores.scale is None:
        raise ConfigError(
            "qbnorm's beta is on cosines, and these scores are logits of an unknown scale; save "
            "the cosines, and give their scale with --scale"
        )
    sharpness = beta / scores.scale
    corrected: Scores = scores.logits * np.float64(sharpness)
    hubs = best_is_hub(scores.logits, hub_items(bank, k))
    corrected[hubs] -= log_sum_exp(bank, axis=0, factor=sharpness)
    return corrected


def dsl(scores: DirectionScores, *, temp: float) -> Scores:
    """Return S * softmax(S / temp) over the query axis, as published.

    A negative S times a small probability exceeds the same S times a large one, so the order of
    negative scores is reversed; see ``negative_scores``. Source: CAMoE, Cheng et al., 2021,
    arXiv:2109.04290.

    Raises:
        ConfigError: a probability underflows float64, which would create ties.
    """
    logits = scores.logits.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # logits / temp may be infinite
        probability = np.exp(logits / temp - log_sum_exp(logits, axis=0, factor=1 / temp))
    lost = int((~(probability > 0)).sum())
    if lost:
        raise ConfigError(
            f"dsl at temp {temp:g} makes {lost:,} of {probability.size:,} probabilities "
            "leave "
            "float64's range, so their scores tie; raise temp"
        )
    corrected: Scores = logits * probability
    return corrected


def negative_scores(scores: DirectionScores) -> int:
    """Count the logits below 0."""
    return int((scores.logits < 0).sum())


def dual_is(scores: DirectionScores, *, b1: float, b2: float) -> Scores:
    """Return (b1 + b2) S_ij - LSE_k(b1 R_kj) - LSE_g(b2 s<x_g, v_j>). Source: DualIS, EMNLP 2023.

    Args:
        scores: with both banks.
        b1: inverse temperature of the query bank R, on logits.
        b2: of the gallery bank x.
    """
    corrected: Scores = (
        scores.logits * np.float64(b1 + b2)
        - log_sum_exp(_bank(scores.queries), axis=0, factor=b1)
        - log_sum_exp(_bank(scores.gallery), axis=0, factor=b2)
    )
    return corrected


def dual_dis(scores: DirectionScores, *, b1: float, b2: float, k: int) -> Scores:
    """Apply each bank's term of ``dual_is`` only to queries whose top item is a hub of it.

    A hub of a bank is among the first ``k`` of some row of it. Source: DualDIS, EMNLP 2023.

    Args:
        scores: with both banks.
        b1: inverse temperature of the query bank, on logits.
        b2: of the gallery bank.
        k: an item among the first k of a row of a bank is a hub.
    """
    corrected: Scores = scores.logits * np.float64(b1 + b2)
    for bank, factor in ((_bank(scores.queries), b1), (_bank(scores.gallery), b2)):
        hubs = best_is_hub(scores.logits, hub_items(bank, k))
        corrected[hubs] -= log_sum_exp(bank, axis=0, factor=factor)
    return corrected


def csls(scores: DirectionScores, *, k: int) -> Scores:
    """Return 2 S_ij - mean of the ``k`` highest R_kj of the column.

    The term of the row changes no order and is left out. Source: CSLS, Conneau et al., 2018,
    arXiv:1710.04087.
    """
    corrected: Scores = scores.logits * np.float64(2) - column_top_mean(_bank(scores.queries), k)
    return corrected


def nnn(scores: DirectionScores, *, alpha: float, k: int) -> Scores:
    """Return S_ij - alpha * mean of the k highest R_kj of the column. Source: NNN, EMNLP 2024."""
    corrected: Scores = scores.logits - alpha * column_top_mean(_bank(scores.queries), k)
    return corrected


def sinkhorn_biases(
    logits: Scores,
    *,
    iterations: int,
    column_targets: Values | None = None,
    centred: bool = True,
) -> tuple[Values, Values]:
    """Return NCL's biases of rows and columns.

        b_j = log c_j - LSE_i(S_ij) ;  a_i = -LSE_j(S_ij)
        n times:  a_i = -LSE_j(S_ij + b_j) ;  b_j = log c_j - LSE_i(S_ij + a_i)
        a -= LSE(a) ;  b -= LSE(b)

    Before the last line, the columns of e^(S + a + b) add up to c_j exactly and, for large n, its
    rows to 1. n = 0 is the inverted softmax. Source: NCL, arXiv:2212.11790.

    Args:
        logits: (Q, G).
        iterations: n, at least 0.
        column_targets: (G,) c, adding up to Q; None for Q / G everywhere.
        centred: apply the last line, which changes no order.

    Returns:
        a (Q,) and b (G,), float64.
    """
    num_rows, num_columns = logits.shape
    wanted = np.full(num_columns, num_rows / num_columns)
    log_targets = np.log(wanted if column_targets is None else column_targets)
    column = log_targets - log_sum_exp(logits, axis=0)  # (G,)
    row = -log_sum_exp(logits, axis=1)  # (Q,)
    for _ in range(iterations):
        row = -log_sum_exp(logits, axis=1, added=column)
        column = log_targets - log_sum_exp(logits, axis=0, added=row)
    if centred:
        row = row - log_sum_exp(row[None], axis=1)
        column = column - log_sum_exp(column[None], axis=1)
    return row, column


def log_sum_exp(
    values: Scores, axis: int, *, added: Values | float = 0.0, factor: float = 1.0
) -> Values:
    """Return log sum exp(factor * values + added) over an axis, in float64 and in blocks.

    Args:
        values: (Q, G).
        axis: 0 sums each column, 1 each row.
        added: a number, or one value per position along that axis.
        factor: multiplies the values.

    Returns:
        (G,) for axis 0, (Q,) for axis 1.
    """
    rows = values.T if axis == 0 else values
    result = np.empty(len(rows))
    for block in _blocks(rows):
        shifted = factor * rows[block].astype(np.float64) + added
        highest = shifted.max(axis=1)  # (block,)
        result[block] = highest + np.log(np.exp(shifted - highest[:, None]).sum(axis=1))
    return result


def hub_items(bank: Scores, k: int) -> npt.NDArray[np.bool_]:
    """Return which columns are among the ``k`` highest of some row; (G,). ``k`` is at most G.

    Columns that tie with the k-th highest count too.
    """
    hubs = np.zeros(bank.shape[1], dtype=bool)
    places = min(k, bank.shape[1])
    for block in _blocks(bank):
        rows = bank[block]
        threshold = np.partition(rows, -places, axis=1)[:, -places]  # (block,)
        hubs |= (rows >= threshold[:, None]).any(axis=0)  # (G,)
    return hubs


def best_is_hub(logits: Scores, hubs: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return for which rows the highest column, or one that ties with it, is a hub; (Q,)."""
    best = logits == logits.max(axis=1, keepdims=True)  # (Q, G)
    is_hub: npt.NDArray[np.bool_] = (best & hubs).any(axis=1)  # (Q,)
    return is_hub


def column_top_mean(bank: Scores, k: int) -> Values:
    """Return the mean of each column's ``k`` highest values; (G,). ``k`` is at most the rows."""
    columns = bank.T
    places = min(k, len(bank))
    means = np.empty(len(columns))
    for block in _blocks(columns):
        highest = np.partition(columns[block], -places, axis=1)[:, -places:]  # (block, k)
        means[block] = highest.mean(axis=1, dtype=np.float64)
    return means


def _bank(bank: Scores | None) -> Scores:
    if bank is None:
        raise ConfigError("this normaliser needs a bank that was not given")
    return bank


def _blocks(rows: Scores) -> list[slice]:
    step = max(1, _BLOCK_ENTRIES // max(1, rows.shape[1]))
    return [slice(start, start + step) for start in range(0, len(rows), step)]
