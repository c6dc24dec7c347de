import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

from gare_cache.errors import ConfigError
from gare_cache.losses.increment import direction_diversity, information_bottleneck, norm_spread

CASES = ["7x5", "10x10", "9x9_heads4", "4x4"]


@pytest.fixture
def delta():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)


@pytest.fixture
def stored(fixtures_dir: Path):
    def load(case):
        with np.load(fixtures_dir / "gare" / f"similarity_{case}.npz") as values:
            return {key: torch.tensor(values[key]) for key in values if "." in key}

    return load


def _norm(vector):
    return math.sqrt(sum(x * x for x in vector))


def _bottleneck(delta, reduction):
    num_texts, num_videos, dim = len(delta), len(delta[0]), len(delta[0][0])
    total = 0.0
    for j in range(num_videos):
        for d in range(dim):
            values = [delta[i][j][d] for i in range(num_texts)]
            mean, std = statistics.mean(values), statistics.stdev(values) + 1e-6
            total += 0.5 * (std**2 + mean**2 - 1 - 2 * math.log(std))
    return total / num_videos / (dim if reduction == "mean" else 1)


def _spread(delta, bound):
    variances = [statistics.variance([_norm(vector) for vector in row]) for row in delta]
    return max(-statistics.mean(variances), -bound)


def _diversity(delta, alpha):
    logs = []
    for row in delta:
        directions = [[x / _norm(vector) for x in vector] for vector in row]
        terms = [
            math.exp(-alpha * (1 - sum(a * b for a, b in zip(left, right, strict=True))))
            for left in directions
            for right in directions
        ]
        logs.append(math.log(statistics.mean(terms) + 1e-8))
    return statistics.mean(logs)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_information_bottleneck_matches_the_loop(delta, reduction):
    expected = _bottleneck(delta.tolist(), reduction)
    loss = information_bottleneck(delta, reduction=reduction)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bound", [0.01, 0.5, 100.0])
def test_norm_spread_matches_the_loop(delta, bound):
    expected = _spread(delta.tolist(), bound)
    assert norm_spread(delta, bound=bound).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 2.0, 5.0])
def test_direction_diversity_matches_the_loop(delta, alpha):
    expected = _diversity(delta.tolist(), alpha)
    assert direction_diversity(delta, alpha=alpha).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_reference_values(stored, case):
    values = stored(case)
    delta = values["eval.delta"]
    spread = -float(values["train.norm_variance_mean"])
    ib, dir_ = information_bottleneck(delta), direction_diversity(delta)
    assert ib.item() == pytest.approx(float(values["train.kl"]), rel=1e-5)
    assert norm_spread(delta, bound=0.5).item() == pytest.approx(max(spread, -0.5), rel=1e-5)
    assert dir_.item() == pytest.approx(float(values["train.direction_diversity"]), rel=1e-5)


def test_7x5_is_past_the_bound_where_the_reference_returns_zero(stored):
    values = stored("7x5")
    assert values["train.norm_term"] == 0
    assert norm_spread(values["eval.delta"], bound=0.5).item() == -0.5


def test_standard_normal_increments_cost_nothing():
    """Two texts at mean +- sqrt(1/2) have mean 0 and unbiased deviation 1."""
    delta = torch.tensor([[[1.0]], [[-1.0]]], dtype=torch.float64) * math.sqrt(0.5)
    assert information_bottleneck(delta).item() == pytest.approx(0.0, abs=1e-5)


def test_lengths_and_directions_by_hand():
    """One text, two videos: lengths 1 and 3 have variance 2; opposite directions."""
    delta = torch.tensor([[[1.0, 0.0], [-3.0, 0.0]]], dtype=torch.float64)
    assert norm_spread(delta, bound=5.0).item() == pytest.approx(-2.0)
    expected = math.log((2 + 2 * math.exp(-4.0)) / 4)
    assert direction_diversity(delta, alpha=2.0).item() == pytest.approx(expected, abs=1e-7)


def test_past_the_bound_there_is_no_gradient(delta):
    delta.requires_grad_()
    norm_spread(delta, bound=1e-3).backward()
    assert (delta.grad == 0).all()


@pytest.mark.parametrize(
    "term",
    [
        information_bottleneck,
        lambda delta: information_bottleneck(delta, reduction="mean"),
        lambda delta: norm_spread(delta, bound=100.0),
        direction_diversity,
    ],
)
def test_terms(term, delta):
    """Gradcheck, and nothing depends on the order of texts or videos."""
    value = term(delta)
    torch.testing.assert_close(term(delta[[2, 0, 3, 1]]), value)
    torch.testing.assert_close(term(delta[:, [2, 0, 1]]), value)
    assert torch.autograd.gradcheck(term, delta.clone().requires_grad_())


@pytest.mark.parametrize("term", [information_bottleneck, norm_spread, direction_diversity])
def test_zero_and_equal_increments_have_finite_gradients(term):
    for start in (torch.zeros(3, 3, 4), torch.ones(3, 3, 4)):
        delta = start.requires_grad_()
        value = term(delta)
        value.backward()
        assert value.isfinite()
        assert delta.grad.isfinite().all()


def test_errors(delta):
    with pytest.raises(ConfigError, match=r"unknown ib.reduction 'max'; known: mean, sum"):
        information_bottleneck(delta, reduction="max")
    with pytest.raises(ConfigError, match=r"over the texts of a batch and got 1.*ib.weight: 0"):
        information_bottleneck(delta[:1])
    with pytest.raises(ConfigError, match=r"over the videos of a batch and got 1.*eps.weight: 0"):
        norm_spread(delta[:, :1])
