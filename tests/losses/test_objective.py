import json

import pytest
import torch

from gare_cache.errors import ConfigError
from gare_cache.losses import objective as objective_module
from gare_cache.losses.contrastive import info_nce
from gare_cache.losses.objective import REGULARISERS, Objective
from gare_cache.losses.settings import DirectionSettings, LossSettings
from tests.losses.terms import (
    direction_diversity,
    information_bottleneck,
    ncl,
    norm_spread,
    orthogonality,
    trust_region,
)

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
        orthogonality={"weight": 0.4},
        trust_region={"weight": 0.6, "radius": 0.2},
    )(similarity, delta, scale)
    expected = (
        info_nce(similarity, scale)
        + 0.3 * information_bottleneck(delta, reduction="mean")
        + 0.2 * norm_spread(delta, bound=0.05)
        + 0.1 * direction_diversity(delta, alpha=3.0)
        + 0.4 * orthogonality(delta)
        + 0.6 * trust_region(delta, radius=0.2)
    )
    torch.testing.assert_close(loss.total, expected)
    names = ["contrastive", "ib", "eps", "dir", "orthogonality", "trust_region"]
    assert list(loss.terms) == names
    assert not any(term.requires_grad for term in loss.terms.values())


@pytest.mark.parametrize(
    "change",
    [
        {"ib": {"weight": 0.5}},
        {"ib": {"reduction": "mean"}},
        {"ib": {"weight": 0.1, "anchor": "text"}},
        {"ib": {"prior_sigma": 3.0}},
        {"ib": {"normalise": True}},
        {"eps": {"weight": 0.5}},
        {"eps": {"bound": 1e-3}},
        {"dir": {"weight": 0.5}},
        {"dir": {"alpha": 0.5}},
        {"eps": {"form": "smooth"}},
        {"orthogonality": {"weight": 0.5}},
        {"trust_region": {"weight": 0.5, "radius": 0.1}},
        {"contrastive": {"name": "ncl"}},
    ],
)
def test_every_setting_changes_the_loss(batch, change):
    assert not torch.allclose(Objective(**change)(*batch).total, Objective()(*batch).total)


def test_positives_reach_the_contrastive_loss(batch):
    positives = torch.ones(4, 4, dtype=torch.bool)
    loss = Objective(**OFF)(*batch, positives=positives)
    assert loss.total.item() == 0.0


def test_the_regularisers_are_added_to_ncl(batch):
    similarity, _, scale = batch
    difference = Objective(contrastive={"name": "ncl"})(*batch).total - Objective()(*batch).total
    torch.testing.assert_close(difference, ncl(similarity, scale) - info_nce(similarity, scale))


def test_the_corrected_side_decides_over_what_pairs_are_taken(batch):
    similarity, delta, scale = batch
    made = Objective(
        ib={"weight": 0}, orthogonality={"weight": 0.4}, eps={"weight": 0.2}, dir={"weight": 0.3}
    )
    on_video = made(similarity, delta, scale, side="video").terms
    torch.testing.assert_close(on_video["eps"], norm_spread(delta, side="video"))
    torch.testing.assert_close(on_video["dir"], direction_diversity(delta, side="video"))
    torch.testing.assert_close(on_video["orthogonality"], orthogonality(delta, side="video"))
    on_text = made(similarity, delta, scale).terms
    assert all(on_text[name] != on_video[name] for name in ("eps", "dir", "orthogonality"))


def test_a_learned_radius_is_the_only_parameter(batch):
    assert list(Objective().parameters()) == []
    assert Objective().learned_radius is None
    made = Objective(trust_region={"weight": 0.5, "radius": 0.2, "learned": True})
    assert [name for name, _ in made.named_parameters()] == ["log_radius"]
    assert made.learned_radius == pytest.approx(0.2)
    made(*batch).total.backward()
    assert made.log_radius.grad < 0  # a wider region costs less
    fixed = Objective(trust_region={"weight": 0.5, "radius": 0.2})
    torch.testing.assert_close(made(*batch).total.detach(), fixed(*batch).total)


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


def test_settings_are_typed_or_plain_values_and_rebuild_the_objective(batch):
    made = Objective(dir={"alpha": 3.0})
    assert made.settings == LossSettings(dir=DirectionSettings(alpha=3.0))
    plain = json.loads(made.settings.model_dump_json())
    assert list(plain) == ["contrastive", "false_negatives", *REGULARISERS]
    for rebuilt in (Objective(**plain), Objective(made.settings)):
        assert torch.equal(rebuilt(*batch).total, made(*batch).total)
    with pytest.raises(ConfigError, match=r"given settings and 'ib' beside them"):
        Objective(made.settings, ib={})


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
        (
            {"contrastive": {"name": "infonce"}},
            "unknown train.loss.contrastive.name 'infonce'; did you mean 'info_nce'",
        ),
        (
            {"contrastive": {"name": "info_nce", "iterations": 4}},
            "contrastive.iterations is 4, but contrastive 'info_nce' has no such setting; set",
        ),
        ({"contrastive": {"name": "ncl", "iterations": 1.5}}, "iterations is 1.5: input should be"),
        ({"contrastive": {"name": "ncl", "iterations": -1}}, "iterations is -1: input should be"),
        ({"contrastive": {"name": "ncl", "detach_biases": 1}}, "detach_biases is 1: input should"),
        ({"ib": {"beta": 1.0}}, "unknown setting of train.loss.ib 'beta'; known: anchor, normal"),
        ({"eps": {"lambda": 1.0}}, "of train.loss.eps 'lambda'; known: bound, form, weight"),
        ({"ib": {"weight": -1.0}}, "train.loss.ib.weight is -1.0: input should be greater than or"),
        ({"ib": {"weight": "1e-4x"}}, "train.loss.ib.weight is '1e-4x': input should be a valid"),
        ({"dir": {"weight": float("nan")}}, "train.loss.dir.weight is nan: input should be a fin"),
        ({"ib": {"reduction": "max"}}, "ib.reduction is 'max': input should be 'sum' or 'mean'"),
        ({"eps": {"bound": 0.0}}, "train.loss.eps.bound is 0.0: input should be greater than 0"),
        ({"dir": {"alpha": True}}, "train.loss.dir.alpha is True: input should be a valid number"),
        ({"ib": {"anchor": "both"}}, "ib.anchor is 'both': input should be 'text' or 'video'"),
        ({"ib": {"prior_sigma": 0}}, "ib.prior_sigma is 0: input should be greater than 0"),
        ({"ib": {"normalise": 1}}, "train.loss.ib.normalise is 1: input should be a valid boolean"),
        ({"eps": {"form": "hard"}}, "eps.form is 'hard': input should be 'clamp' or 'smooth'"),
        ({"orthogonality": {"weight": -1}}, "train.loss.orthogonality.weight is -1"),
        ({"trust_region": {"radius": 0.0}}, "train.loss.trust_region.radius is 0.0"),
        ({"trust_region": {"learned": True}}, "trust_region.learned is true at weight 0, where"),
        ({"trust_region": {"weight": 1.0, "learned": "yes"}}, "trust_region.learned is 'yes'"),
    ],
)
def test_settings_errors(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Objective(**arguments)
