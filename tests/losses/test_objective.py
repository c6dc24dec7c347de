import json

import pytest
import torch

from gare_cache.errors import ConfigError
from gare_cache.losses import objective as objective_module
from gare_cache.losses.contrastive import info_nce
from gare_cache.losses.increment import direction_diversity, information_bottleneck, norm_spread
from gare_cache.losses.objective import Objective

OFF = {"ib": {"weight": 0}, "eps": {"weight": 0}, "dir": {"weight": 0}}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    similarity = torch.rand(4, 4, generator=generator, dtype=torch.float64)
    return similarity, 0.3 * torch.randn(4, 4, 6, generator=generator, dtype=torch.float64), 20.0


def test_total_is_the_weighted_sum(batch):
    similarity, delta, scale = batch
    loss = Objective(
        ib={"weight": 0.3, "reduction": "mean"},
        eps={"weight": 0.2, "bound": 0.05},
        dir={"weight": 0.1, "alpha": 3.0},
    )(similarity, delta, scale)
    expected = (
        info_nce(similarity, scale)
        + 0.3 * information_bottleneck(delta, reduction="mean")
        + 0.2 * norm_spread(delta, bound=0.05)
        + 0.1 * direction_diversity(delta, alpha=3.0)
    )
    torch.testing.assert_close(loss.total, expected)
    assert list(loss.terms) == ["contrastive", "ib", "eps", "dir"]
    assert not any(term.requires_grad for term in loss.terms.values())


@pytest.mark.parametrize(
    "change",
    [
        {"ib": {"weight": 0.5}},
        {"ib": {"reduction": "mean"}},
        {"eps": {"weight": 0.5}},
        {"eps": {"bound": 1e-3}},
        {"dir": {"weight": 0.5}},
        {"dir": {"alpha": 0.5}},
    ],
)
def test_every_setting_changes_the_loss(batch, change):
    assert not torch.allclose(Objective(**change)(*batch).total, Objective()(*batch).total)


def test_positives_reach_the_contrastive_loss(batch):
    positives = torch.ones(4, 4, dtype=torch.bool)
    loss = Objective(**OFF)(*batch, positives=positives)
    assert loss.total.item() == 0.0


@pytest.mark.parametrize("name", ["ib", "eps", "dir"])
def test_weight_zero_is_not_computed(batch, name, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("computed")

    monkeypatch.setitem(objective_module.REGULARISERS, name, fail)
    loss = Objective(**{name: {"weight": 0.0}})(*batch)
    assert name not in loss.terms
    with pytest.raises(AssertionError, match="computed"):
        Objective()(*batch)


def test_without_an_increment_plain_info_nce_works(batch):
    similarity, _, scale = batch
    loss = Objective(**OFF)(similarity, None, scale)
    torch.testing.assert_close(loss.total, info_nce(similarity, scale))
    assert list(loss.terms) == ["contrastive"]


def test_regularisers_need_an_increment(batch):
    similarity, _, scale = batch
    with pytest.raises(ConfigError, match=r"ib, dir act on.*ib.weight: 0 and dir.weight: 0, or"):
        Objective(eps={"weight": 0})(similarity, None, scale)


def test_one_pair_is_too_few(batch):
    similarity, delta, scale = batch
    with pytest.raises(ConfigError, match=r"got 1; use a batch of at least 2 pairs"):
        Objective()(similarity[:1, :1], delta[:1, :1], scale)


def test_settings_are_complete_and_rebuild_the_objective(batch):
    made = Objective(dir={"alpha": 3.0})
    assert made.settings == {
        "contrastive": "info_nce",
        "ib": {"weight": 1e-4, "reduction": "sum"},
        "eps": {"weight": 0.01, "bound": 0.5},
        "dir": {"weight": 0.01, "alpha": 3.0},
    }
    rebuilt = Objective(**json.loads(json.dumps(made.settings)))
    assert torch.equal(rebuilt(*batch).total, made(*batch).total)


def test_gradient_reaches_similarity_delta_and_scale(batch):
    similarity, delta, _ = batch
    scale = torch.tensor(20.0, dtype=torch.float64, requires_grad=True)
    similarity.requires_grad_()
    delta.requires_grad_()
    Objective()(similarity, delta, scale).total.backward()
    assert all(t.grad.abs().sum() > 0 for t in (similarity, delta, scale))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contrastive": "infonce"}, "unknown contrastive loss 'infonce'; did you mean 'info_nce'"),
        ({"ib": {"beta": 1.0}}, "unknown setting 'beta' of ib; known: reduction, weight"),
        ({"eps": {"lambda": 1.0}}, "unknown setting 'lambda' of eps; known: bound, weight"),
        ({"ib": {"weight": -1.0}}, "ib.weight is -1.0; it must be a finite number, 0 or above"),
        ({"ib": {"weight": "1e-4"}}, "ib.weight is '1e-4'"),
        ({"dir": {"weight": float("nan")}}, "dir.weight is nan"),
        ({"ib": {"reduction": "max"}}, "unknown ib.reduction 'max'; known: mean, sum"),
        ({"eps": {"bound": 0.0}}, "eps.bound is 0.0; it must be a finite number above 0"),
        ({"dir": {"alpha": True}}, "dir.alpha is True"),
    ],
)
def test_settings_errors(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Objective(**arguments)
