import math

import pytest
import torch
from torch.nn import functional as F

from gare_cache.errors import ConfigError
from gare_cache.heads.retrieval import build_head
from gare_cache.losses.contrastive import info_nce
from gare_cache.losses.sinkhorn import sinkhorn_biases
from tests.losses.terms import ncl

SIZE = 8


@pytest.fixture
def similarity():
    generator = torch.Generator().manual_seed(0)
    noise = 2 * torch.rand(SIZE, SIZE, generator=generator, dtype=torch.float64) - 1
    return 0.5 * noise + 0.3 * torch.eye(SIZE)


def _lse(values):
    return math.log(sum(math.exp(value) for value in values))


def _loop(similarity, scale, iterations, positives=None):
    """The loss pair by pair; pairs that are no negatives are skipped in every sum."""
    size = range(len(similarity))

    def kept(i, j):
        return i == j or positives is None or not positives[i][j]

    def row(i, bias):
        return [scale * similarity[i][j] + bias[j] for j in size if kept(i, j)]

    def column(j, bias):
        return [scale * similarity[i][j] + bias[i] for i in size if kept(i, j)]

    zero = [0.0 for _ in size]
    a, b = [-_lse(row(i, zero)) for i in size], [-_lse(column(j, zero)) for j in size]
    for _ in range(iterations):
        a = [-_lse(row(i, b)) for i in size]
        b = [-_lse(column(j, a)) for j in size]
    total = 0.0
    for i in size:
        own = scale * similarity[i][i]
        total += own + b[i] - _lse(row(i, b)) + own + a[i] - _lse(column(i, a))
    return -total / (2 * len(similarity))


def _gradient(similarity, scale, **options):
    logits = (scale * similarity).requires_grad_()
    ncl(logits, 1.0, **options).backward()
    return logits.grad


def _positives(*pairs):
    found = torch.eye(SIZE, dtype=torch.bool)
    for i, j in pairs:
        found[i, j] = True
    return found


@pytest.mark.parametrize("iterations", [0, 1, 4])
@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("positives", [None, _positives((0, 3), (3, 0), (5, 2))])
def test_matches_the_loop(similarity, scale, iterations, positives):
    left_out = None if positives is None else positives.tolist()
    expected = _loop(similarity.tolist(), scale, iterations, left_out)
    for detach in (False, True):
        loss = ncl(
            similarity, scale, positives=positives, iterations=iterations, detach_biases=detach
        )
        assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_without_iterations_it_is_the_inverted_softmax(similarity):
    logits = 10 * similarity
    to_videos = (logits - logits.logsumexp(dim=0)).log_softmax(dim=1).diagonal().mean()
    to_texts = (logits - logits.logsumexp(dim=1)[:, None]).log_softmax(dim=0).diagonal().mean()
    torch.testing.assert_close(ncl(similarity, 10.0, iterations=0), -(to_videos + to_texts) / 2)


@pytest.mark.parametrize("detach", [False, True])
def test_at_convergence_loss_and_gradient_are_those_of_the_joint_distribution(similarity, detach):
    a, b = sinkhorn_biases(10 * similarity, iterations=500)
    joint = (10 * similarity + a[:, None] + b).exp()
    loss = ncl(similarity, 10.0, iterations=500, detach_biases=detach)
    torch.testing.assert_close(loss, -joint.diagonal().log().mean())
    expected = (joint - torch.eye(SIZE)) / SIZE
    gradient = _gradient(similarity, 10.0, iterations=500, detach_biases=detach)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_four_iterations_differ_by_the_gradient_of_the_biases(similarity):
    whole = _gradient(similarity, 20.0)
    detached = _gradient(similarity, 20.0, detach_biases=True)
    difference = ((whole - detached).norm() / whole.norm()).item()
    assert 0.001 < difference < 0.3


def test_detached_biases_are_constants(similarity):
    logits = (10 * similarity).requires_grad_()
    a, b = (bias.detach() for bias in sinkhorn_biases(logits))
    target = torch.arange(SIZE)
    loss = F.cross_entropy(logits + b, target) + F.cross_entropy((logits + a[:, None]).T, target)
    (loss / 2).backward()
    torch.testing.assert_close(logits.grad, _gradient(similarity, 10.0, detach_biases=True))


@pytest.mark.parametrize("iterations", [1, 4])
def test_a_hub_changes_neither_the_loss_nor_the_gradient(similarity, iterations):
    hub = similarity.clone()
    hub[:, 2] += 0.7
    options = {"iterations": iterations}
    torch.testing.assert_close(ncl(hub, 20.0, **options), ncl(similarity, 20.0, **options))
    torch.testing.assert_close(
        _gradient(hub, 20.0, **options), _gradient(similarity, 20.0, **options)
    )
    assert info_nce(hub, 20.0) > info_nce(similarity, 20.0) + 0.1


def test_permuting_pairs_changes_nothing(similarity):
    order = torch.tensor([3, 0, 7, 1, 2, 6, 5, 4])
    torch.testing.assert_close(ncl(similarity[order][:, order], 20.0), ncl(similarity, 20.0))


def test_gradcheck(similarity):
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ncl, (similarity.requires_grad_(), scale))


@pytest.mark.parametrize("detach", [False, True])
def test_masked_pairs_have_no_gradient(similarity, detach):
    similarity.requires_grad_()
    positives = _positives((0, 3), (3, 0))
    ncl(similarity, 100.0, positives=positives, detach_biases=detach).backward()
    assert similarity.grad.isfinite().all()
    assert similarity.grad[0, 3] == similarity.grad[3, 0] == 0
    assert similarity.grad[0, 4] != 0


@pytest.mark.parametrize("detach", [False, True])
def test_where_everything_is_masked_there_is_nothing_to_learn(similarity, detach):
    similarity.requires_grad_()
    everything = torch.ones(SIZE, SIZE, dtype=torch.bool)
    loss = ncl(similarity, 100.0, positives=everything, detach_biases=detach)
    loss.backward()
    assert loss.item() == 0.0
    assert (similarity.grad == 0).all()


def test_float32_at_the_largest_scale(similarity):
    wide = similarity / similarity.abs().max()
    found, wanted = ncl(wide.float(), 100.0), ncl(wide, 100.0)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize("gap", [None, {"dropout": 0.0}])
def test_gradients_reach_every_weight_of_a_head(gap):
    torch.manual_seed(0)
    head = build_head(
        dim=16, max_frames=3, projection="linear", aggregator={"name": "lstm"}, gap=gap
    )
    generator = torch.Generator().manual_seed(0)
    text, frames = (torch.randn(*s, 16, generator=generator) for s in ((6,), (6, 3)))
    scores = head(text, frames, torch.ones(6, 3, dtype=torch.bool))
    ncl(scores.similarity, head.scale).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_errors(similarity):
    with pytest.raises(ConfigError, match=r"as many texts as videos.*\(7, 8\)"):
        ncl(similarity[1:], 1.0)


def test_a_score_that_is_no_number_is_in_the_loss(similarity):
    for value in (torch.nan, torch.inf, -torch.inf):
        broken = similarity.clone()
        broken[4] = value
        assert not ncl(broken, 1.0, iterations=4, detach_biases=False).isfinite()
