import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gare_cache.errors import ConfigError
from gare_cache.losses.contrastive import build_contrastive, info_nce
from gare_cache.losses.settings import InfoNceSettings, NclSettings
from tests.losses.terms import ncl


def _loop(similarity, scale, positives=None):
    size = len(similarity)
    total = 0.0
    for i in range(size):
        own = math.exp(scale * similarity[i][i])
        kept = [k for k in range(size) if k == i or positives is None or not positives[i][k]]
        row = sum(math.exp(scale * similarity[i][k]) for k in kept)
        kept = [k for k in range(size) if k == i or positives is None or not positives[k][i]]
        column = sum(math.exp(scale * similarity[k][i]) for k in kept)
        total -= math.log(own / row) + math.log(own / column)
    return total / (2 * size)


@pytest.fixture
def similarity():
    return torch.rand(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5


def test_two_pairs_by_hand():
    assert info_nce(torch.eye(2), 1.0).item() == pytest.approx(math.log(1 + math.exp(-1)))


@pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
def test_matches_the_loop(similarity, scale):
    expected = _loop(similarity.tolist(), scale)
    assert info_nce(similarity, scale).item() == pytest.approx(expected, rel=1e-12)


def test_known_false_negatives_are_left_out(similarity):
    positives = torch.eye(5, dtype=torch.bool)
    torch.testing.assert_close(
        info_nce(similarity, 10.0, positives=positives), info_nce(similarity, 10.0)
    )
    positives[0, 3] = positives[3, 0] = positives[1, 2] = True
    masked = info_nce(similarity, 10.0, positives=positives)
    assert masked.item() == pytest.approx(_loop(similarity.tolist(), 10.0, positives.tolist()))
    assert masked < info_nce(similarity, 10.0)


def test_gradient_of_masked_pairs_is_zero_and_finite(similarity):
    similarity.requires_grad_()
    positives = torch.zeros(5, 5, dtype=torch.bool)
    positives[0, 3] = True
    info_nce(similarity, 10.0, positives=positives).backward()
    assert similarity.grad[0, 3] == 0
    assert similarity.grad.isfinite().all()


@pytest.mark.parametrize("case", ["10x10", "9x9_heads4", "4x4"])
def test_reference_value(fixtures_dir: Path, case):
    with np.load(fixtures_dir / "gare" / f"similarity_{case}.npz") as values:
        loss = info_nce(torch.tensor(values["eval.similarity"]), float(values["train.logit_scale"]))
        assert loss.item() == pytest.approx(float(values["train.info_nce"]), rel=1e-5)


def test_directions_are_treated_alike(similarity):
    torch.testing.assert_close(info_nce(similarity.T, 20.0), info_nce(similarity, 20.0))


def test_permuting_pairs_changes_nothing(similarity):
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(
        info_nce(similarity[order][:, order], 20.0), info_nce(similarity, 20.0)
    )


def test_gradcheck(similarity):
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(info_nce, (similarity.requires_grad_(), scale))


def test_scale_changes_the_loss(similarity):
    assert info_nce(similarity, 1.0) != info_nce(similarity, 2.0)


def test_errors(similarity):
    with pytest.raises(ConfigError, match=r"as many texts as videos.*\(4, 5\)"):
        info_nce(similarity[1:], 1.0)
    with pytest.raises(ConfigError, match=r"positives are torch.float32 of shape \(5, 5\)"):
        info_nce(similarity, 1.0, positives=torch.eye(5))


def test_where_everything_is_masked_there_is_nothing_to_learn(similarity):
    similarity.requires_grad_()
    loss = info_nce(similarity, 100.0, positives=torch.ones(5, 5, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert (similarity.grad == 0).all()


def test_losses_by_name(similarity):
    assert torch.equal(
        build_contrastive(InfoNceSettings())(similarity, 9.0), info_nce(similarity, 9.0)
    )
    built = build_contrastive(NclSettings(iterations=1, detach_biases=True))
    wanted = ncl(similarity, 9.0, iterations=1, detach_biases=True)
    assert torch.equal(built(similarity, 9.0), wanted)
    positives = torch.ones(5, 5, dtype=torch.bool)
    assert built(similarity, 9.0, positives=positives).item() == 0.0
