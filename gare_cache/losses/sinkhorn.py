"""Sinkhorn's iteration in log space: biases that give every item its summed probability."""

from __future__ import annotations

from torch import Tensor

from gare_cache.errors import ConfigError, counted

_BALANCE = 1e-4


def sinkhorn_biases(
    logits: Tensor, *, column_targets: Tensor | None = None, iterations: int = 4
) -> tuple[Tensor, Tensor]:
    """Find one bias per row and per column under which e^(S + a + b) has the wanted sums.

    With c_j the column target and 1 the row target,

        b_j = log c_j - LSE_i(S_ij);  a_i = -LSE_j(S_ij)
        n times: a_i = -LSE_j(S_ij + b_j), then b_j = log c_j - LSE_i(S_ij + a_i)

    After every n >= 1 the column sums of e^(S + a + b) are c to rounding; its row sums tend to 1.
    With n = 0 and equal targets, ranking by S + b is the inverted softmax. Source: NCL,
    arXiv:2212.11790. The paper's last line, a -= LSE(a) and b -= LSE(b), is left out: these two
    constants cancel in every softmax and change no rank.

    At [[0, 0], [0, log 3]] and n = 0: b = (-log 2, -log 4), a = (-log 2, -log 4).

    Args:
        logits: S (N, M), rows and columns of any kind, scaled. -inf leaves a pair out.
        column_targets: c (M,), above 0, summing to N; None for N / M each.
        iterations: n, 0 or above.

    Returns:
        a (N,) and b (M,), differentiable in ``logits``.

    Raises:
        ConfigError: ``logits`` is no matrix, holds NaN or +inf, or has a row or column of -inf
            alone; the targets do not fit.
    """
    _check(logits)
    if column_targets is not None:
        _check_targets(column_targets, *logits.shape)
    return unchecked_biases(logits, column_targets, iterations=iterations)


def unchecked_biases(
    logits: Tensor, column_targets: Tensor | None = None, *, iterations: int
) -> tuple[Tensor, Tensor]:
    """Return ``sinkhorn_biases`` of logits (N, M) that are known to fit.

    For the training loop: a check would make a GPU wait for the host in every step.
    """
    num_rows, num_columns = logits.shape
    if column_targets is None:
        column_targets = logits.new_full((num_columns,), num_rows / num_columns)
    log_targets = column_targets.to(logits.dtype).log()
    column_bias = log_targets - logits.logsumexp(dim=0)
    row_bias = -logits.logsumexp(dim=1)
    for _ in range(iterations):
        row_bias = -(logits + column_bias).logsumexp(dim=1)
        column_bias = log_targets - (logits + row_bias[:, None]).logsumexp(dim=0)
    return row_bias, column_bias


def _check(logits: Tensor) -> None:
    if logits.dim() != 2 or 0 in logits.shape:
        raise ConfigError(f"the logits have shape {tuple(logits.shape)}; Sinkhorn needs a matrix")
    wrong = (logits.isnan() | logits.isposinf()).any(dim=1)
    if wrong.any():
        raise ConfigError(
            f"{int(wrong.sum())} of {len(logits):,} rows of the logits hold NaN or "
            "+inf; check the "
            "features, or lower train.learning_rate"
        )
    left_out = logits.isneginf()
    if left_out.all(dim=0).any() or left_out.all(dim=1).any():
        raise ConfigError(
            "a row or column of the logits is -inf alone, so it has no pair to give its "
            "probability to; leave out fewer pairs"
        )


def _check_targets(targets: Tensor, num_rows: int, num_columns: int) -> None:
    total = float(targets.sum())
    fits = targets.shape == (num_columns,) and bool((targets > 0).all())
    if not fits or not abs(total - num_rows) <= _BALANCE * num_rows:
        raise ConfigError(
            f"the column targets have shape {tuple(targets.shape)} and sum {total:g}; they must "
            f"be {counted(num_columns, 'number')} above 0 that sum to {num_rows}, the number of "
            "rows"
        )
