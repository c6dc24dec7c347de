import math

import pytest
import torch

from gare_cache.errors import ConfigError
from gare_cache.losses.sinkhorn import sinkhorn_biases


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return 10 * (2 * torch.rand(6, 4, generator=generator, dtype=torch.float64) - 1)


def _lse(values):
    return math.log(sum(math.exp(value) for value in values))


def _loop(logits, targets, iterations):
    rows, columns = range(len(logits)), range(len(logits[0]))
    b = [math.log(targets[j]) - _lse([logits[i][j] for i in rows]) for j in columns]
    a = [-_lse(logits[i]) for i in rows]
    for _ in range(iterations):
        a = [-_lse([logits[i][j] + b[j] for j in columns]) for i in rows]
        b = [math.log(targets[j]) - _lse([logits[i][j] + a[i] for i in rows]) for j in columns]
    return a, b


def _sums(logits, a, b):
    joint = (logits + a[:, None] + b).exp()
    return joint.sum(dim=1), joint.sum(dim=0)


@pytest.mark.parametrize("iterations", [0, 1, 4])
@pytest.mark.parametrize("targets", [None, [0.5, 1.0, 1.5, 3.0]])
def test_matches_the_loop(logits, targets, iterations):
    given = None if targets is None else torch.tensor(targets)
    found = sinkhorn_biases(logits, column_targets=given, iterations=iterations)
    expected = _loop(logits.tolist(), targets or [1.5] * 4, iterations)
    for values, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(values, torch.tensor(wanted, dtype=torch.float64))


def test_by_hand():
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)]])
    a, b = sinkhorn_biases(logits, iterations=0)
    wanted = -torch.tensor([math.log(2.0), math.log(4.0)])
    torch.testing.assert_close(b, wanted)
    torch.testing.assert_close(a, wanted)


@pytest.mark.parametrize("targets", [None, torch.tensor([0.5, 1.0, 1.5, 3.0])])
def test_row_sums_converge_and_column_sums_are_exact(logits, targets):
    wanted = torch.full((4,), 1.5) if targets is None else targets
    for iterations in (1, 4, 100):
        a, b = sinkhorn_biases(logits, column_targets=targets, iterations=iterations)
        rows, columns = _sums(logits, a, b)
        torch.testing.assert_close(columns, wanted.double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(rows, torch.ones(6, dtype=torch.float64), rtol=1e-6, atol=0)


def test_without_iterations_it_is_the_inverted_softmax(logits):
    _, b = sinkhorn_biases(logits, iterations=0)
    inverted = logits - logits.logsumexp(dim=0)
    shift = logits + b - inverted
    torch.testing.assert_close(shift, torch.full_like(shift, math.log(1.5)))


def test_a_constant_on_a_column_goes_into_its_bias(logits):
    shifted = logits + torch.tensor([0.0, 7.0, 0.0, -3.0])
    a, b = sinkhorn_biases(logits)
    shifted_a, shifted_b = sinkhorn_biases(shifted)
    torch.testing.assert_close(shifted_a, a)
    torch.testing.assert_close(shifted + shifted_b, logits + b)


def test_permuting_rows_and_columns_permutes_the_biases(logits):
    rows, columns = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([2, 0, 3, 1])
    a, b = sinkhorn_biases(logits)
    permuted_a, permuted_b = sinkhorn_biases(logits[rows][:, columns])
    torch.testing.assert_close(permuted_a, a[rows])
    torch.testing.assert_close(permuted_b, b[columns])


def test_float32_logits_of_a_scale_of_100_stay_accurate():
    generator = torch.Generator().manual_seed(1)
    logits = 100 * (2 * torch.rand(50, 50, generator=generator) - 1)
    for found, wanted in zip(
        sinkhorn_biases(logits), sinkhorn_biases(logits.double()), strict=True
    ):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-4)


def test_pairs_left_out_have_no_probability(logits):
    logits[0, 1] = logits[3, 2] = -torch.inf
    logits.requires_grad_()
    a, b = sinkhorn_biases(logits, iterations=50)
    _, columns = _sums(logits, a, b)
    torch.testing.assert_close(columns, torch.full_like(columns, 1.5))
    (a.sum() + b.square().sum()).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 1] == logits.grad[3, 2] == 0


def test_gradcheck(logits):
    logits = (logits / 5).requires_grad_()
    assert torch.autograd.gradcheck(sinkhorn_biases, (logits,))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_no_logits(logits, value):
    logits[2, 1] = logits[2, 3] = value
    with pytest.raises(ConfigError, match=r"1 of 6 rows of the logits hold NaN or \+inf"):
        sinkhorn_biases(logits)


def test_errors(logits):
    with pytest.raises(ConfigError, match=r"shape \(6,\); Sinkhorn needs a matrix"):
        sinkhorn_biases(logits[:, 0])
    for targets in (torch.ones(3), torch.ones(4), torch.tensor([0.0, 2.0, 2.0, 2.0])):
        with pytest.raises(ConfigError, match=r"must be 4 numbers above 0 that sum to 6"):
            sinkhorn_biases(logits, column_targets=targets)
    logits[:, 1] = -torch.inf
    with pytest.raises(ConfigError, match=r"a row or column of the logits is -inf alone"):
        sinkhorn_biases(logits)
