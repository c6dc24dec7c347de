import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

from gare_cache.errors import ConfigError
from tests.losses.terms import (
    direction_diversity,
    information_bottleneck,
    norm_spread,
    orthogonality,
    trust_region,
)

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


def _flipped(delta):
    """Texts and videos change places: the loops below are written for one of the two."""
    return [list(column) for column in zip(*delta, strict=True)]


def _unit(vector):
    return [x / _norm(vector) for x in vector]


def _cosine(left, right):
    return sum(a * b for a, b in zip(_unit(left), _unit(right), strict=True))


def _bottleneck(delta, reduction="sum", prior=1.0):
    num_texts, num_videos, dim = len(delta), len(delta[0]), len(delta[0][0])
    total = 0.0
    for j in range(num_videos):
        for d in range(dim):
            values = [delta[i][j][d] for i in range(num_texts)]
            mean, std = statistics.mean(values), statistics.stdev(values) + 1e-6
            total += math.log(prior / std) + (std**2 + mean**2) / (2 * prior**2) - 0.5
    return total / num_videos / (dim if reduction == "mean" else 1)


def _variance(delta):
    return statistics.mean(statistics.variance([_norm(vector) for vector in row]) for row in delta)


def _diversity(delta, alpha):
    logs = []
    for row in delta:
        terms = [math.exp(-alpha * (1 - _cosine(left, right))) for left in row for right in row]
        logs.append(math.log(statistics.mean(terms) + 1e-8))
    return statistics.mean(logs)


def _orthogonality(delta):
    squares = [
        _cosine(left, right) ** 2
        for row in delta
        for j, left in enumerate(row)
        for k, right in enumerate(row)
        if j != k
    ]
    return statistics.mean(squares)


def _trust_region(delta, radius):
    return statistics.mean(max(_norm(v) - radius, 0) ** 2 for row in delta for v in row)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("prior", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("anchor", ["video", "text"])
@pytest.mark.parametrize("normalise", [False, True])
def test_information_bottleneck_matches_the_loop(delta, reduction, prior, anchor, normalise):
    values = delta.tolist() if anchor == "video" else _flipped(delta.tolist())
    if normalise:
        values = [[_unit(vector) for vector in row] for row in values]
    loss = information_bottleneck(
        delta, reduction=reduction, prior_sigma=prior, anchor=anchor, normalise=normalise
    )
    assert loss.item() == pytest.approx(_bottleneck(values, reduction, prior), rel=1e-12)


@pytest.mark.parametrize("side", ["text", "video"])
@pytest.mark.parametrize("bound", [0.01, 0.5, 100.0])
def test_norm_spread_matches_the_loop(delta, bound, side):
    values = delta.tolist() if side == "text" else _flipped(delta.tolist())
    variance = _variance(values)
    clamped = norm_spread(delta, bound=bound, side=side)
    smooth = norm_spread(delta, bound=bound, form="smooth", side=side)
    assert clamped.item() == pytest.approx(max(-variance, -bound), rel=1e-12)
    expected = math.log(math.exp(-variance) + math.exp(-bound))
    assert smooth.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("side", ["text", "video"])
@pytest.mark.parametrize("alpha", [0.5, 2.0, 5.0])
def test_direction_diversity_matches_the_loop(delta, alpha, side):
    values = delta.tolist() if side == "text" else _flipped(delta.tolist())
    loss = direction_diversity(delta, alpha=alpha, side=side)
    assert loss.item() == pytest.approx(_diversity(values, alpha), rel=1e-12)


@pytest.mark.parametrize("side", ["text", "video"])
def test_orthogonality_matches_the_loop(delta, side):
    values = delta.tolist() if side == "text" else _flipped(delta.tolist())
    loss = orthogonality(delta, side=side)
    assert loss.item() == pytest.approx(_orthogonality(values), rel=1e-12)


@pytest.mark.parametrize("radius", [0.5, 2.0])
def test_trust_region_matches_the_loop(delta, radius):
    expected = _trust_region(delta.tolist(), radius)
    assert trust_region(delta, radius=radius).item() == pytest.approx(expected, rel=1e-12)
    inside = trust_region(delta, radius=100.0)
    assert inside.item() == 0.0


def test_the_radius_has_a_gradient(delta):
    radius = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda delta, radius: trust_region(delta, radius=radius),
        (delta.requires_grad_(), radius),
    )
    trust_region(delta, radius=radius).backward()
    assert radius.grad < 0


def test_the_smooth_bound_lies_above_the_clamp_and_keeps_its_gradient(delta):
    delta.requires_grad_()
    variance = -norm_spread(delta, bound=100.0).item()
    smooth = norm_spread(delta, bound=variance, form="smooth")
    assert smooth.item() == pytest.approx(-variance + math.log(2))
    norm_spread(delta, bound=variance / 2, form="smooth").backward()
    assert delta.grad.abs().sum() > 0


def test_orthogonal_and_equal_directions():
    basis = torch.eye(3)[None] * torch.tensor([1.0, 2.0, 3.0])[:, None]
    assert orthogonality(basis).item() == 0.0
    assert orthogonality(torch.ones(2, 3, 4)).item() == pytest.approx(1.0)


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


TERMS = {
    "ib": information_bottleneck,
    "ib mean": lambda delta: information_bottleneck(delta, reduction="mean"),
    "ib text": lambda delta: information_bottleneck(delta, anchor="text"),
    "ib prior": lambda delta: information_bottleneck(delta, prior_sigma=0.3),
    "ib normalised": lambda delta: information_bottleneck(delta, normalise=True),
    "eps": lambda delta: norm_spread(delta, bound=100.0),
    "eps smooth": lambda delta: norm_spread(delta, form="smooth"),
    "eps video": lambda delta: norm_spread(delta, bound=100.0, side="video"),
    "dir": direction_diversity,
    "dir video": lambda delta: direction_diversity(delta, side="video"),
    "orthogonality": orthogonality,
    "orthogonality video": lambda delta: orthogonality(delta, side="video"),
    "trust region": lambda delta: trust_region(delta, radius=1.5),
}


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_terms(term, delta):
    """Gradcheck, and nothing depends on the order of texts or videos."""
    value = term(delta)
    torch.testing.assert_close(term(delta[[2, 0, 3, 1]]), value)
    torch.testing.assert_close(term(delta[:, [2, 0, 1]]), value)
    assert torch.autograd.gradcheck(term, delta.clone().requires_grad_())


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_zero_and_equal_increments_have_finite_gradients(term):
    for start in (torch.zeros(3, 3, 4), torch.ones(3, 3, 4)):
        delta = start.requires_grad_()
        value = term(delta)
        value.backward()
        assert value.isfinite()
        assert delta.grad.isfinite().all()


@pytest.mark.parametrize("term", [norm_spread, direction_diversity, orthogonality])
def test_the_video_side_is_the_text_side_of_the_transposed_pairs(term, delta):
    flipped = delta.transpose(0, 1)
    torch.testing.assert_close(term(delta, side="video"), term(flipped, side="text"))


def test_errors(delta):
    with pytest.raises(ConfigError, match=r"ib compares at least 2 texts .* got 1.*ib.weight: 0"):
        information_bottleneck(delta[:1])
    with pytest.raises(ConfigError, match=r"ib compares at least 2 videos of a batch and got 1"):
        information_bottleneck(delta[:, :1], anchor="text")
    with pytest.raises(ConfigError, match=r"eps compares at least 2 videos .*eps.weight: 0"):
        norm_spread(delta[:, :1])
    with pytest.raises(ConfigError, match=r"eps compares at least 2 texts of a batch and got 1"):
        norm_spread(delta[:1], side="video")
    with pytest.raises(ConfigError, match=r"orthogonality compares at least 2 videos"):
        orthogonality(delta[:, :1])
