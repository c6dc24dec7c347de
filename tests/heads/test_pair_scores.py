"""Scores and gradients of training, without the pair tensor, against the dense ones."""

import functools
from itertools import product

import pytest
import torch
from torch import nn

from gare_cache.heads import exact, increment_basis
from gare_cache.heads.dropout import PairDropout
from gare_cache.heads.pairs import PairMixture
from gare_cache.heads.settings import CONTEXTS, SIDES
from gare_cache.losses import increments
from gare_cache.losses.increments import as_increments, cosines, gram, potentials
from gare_cache.losses.objective import Objective
from tests.plain_head import plain_head

POOLINGS = {
    "mean": {"name": "mean"},
    "text": {"temperature": 0.7},
    "learned": {"name": "cross_attention", "heads": 2, "dropout": 0.0},
}
QUERIES = {"gap": {}, "negated": {"eta": -1}, "text": {"query": "text"}}
# The spread stays below its bound, so that every term has a gradient.
TERMS = {
    "ib": {"weight": 0.01},
    "eps": {"weight": 0.3, "bound": 1e3},
    "dir": {"weight": 0.3},
    "orthogonality": {"weight": 0.3},
    "trust_region": {"weight": 0.01, "radius": 0.1},
}
OTHER_TERMS = {**TERMS, "ib": {"weight": 0.01, "anchor": "text", "normalise": True}}


class FixedDropout(nn.Dropout):
    """One mask for all pairs (T, V, D), whichever way and in whichever blocks they come."""

    def __init__(self, mask, transposed):
        super().__init__(0.3)
        self.mask = mask.transpose(0, 1) if transposed else mask
        self.seen = 0

    def forward(self, inputs):
        part = self.mask[self.seen : self.seen + len(inputs)]
        self.seen = (self.seen + len(inputs)) % len(self.mask)
        return inputs * part[:, : inputs.shape[1]]


def _head(dtype=torch.float64, dim=16, gap=None, **settings):
    torch.manual_seed(0)
    head = plain_head(
        dim=dim,
        max_frames=12,
        aggregator={"name": "mean"},
        projection="linear",
        gap=gap,
        **settings,
    )
    for parameter in head.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return head.to(dtype)


def _loss(scores, head, terms):
    if len(set(scores.similarity.shape)) > 1:  # no batch of pairs
        return scores.similarity.sin().sum(), {}
    off = {name: {"weight": 0.0} for name in TERMS}
    objective = Objective(**(off if scores.delta is None else terms))
    loss = objective(scores.similarity, scores.delta, head.scale, side=head.side)
    return loss.total, loss.terms


def _compare(head, inputs, words=None, terms=TERMS, *, dropped=None, tolerance=1e-7):
    """Assert that both forms have the same scores, increments, terms and gradients."""
    found = []
    for form in (head.forward, head.pair_scores):
        if dropped is not None:
            gap = head.interaction.gap
            layer = head.interaction.pooling.layer if gap is None else gap.layers[0]
            of_video = gap is None or gap.context_side == "video"
            layer.dropout = FixedDropout(dropped, of_video and form == head.pair_scores)
        head.zero_grad()
        scores = form(*inputs, words if head.needs_words else None)
        loss, values = _loss(scores, head, terms)
        loss.backward()
        grads = {n: p.grad for n, p in head.named_parameters() if p.grad is not None}
        increments = None if scores.delta is None else as_increments(scores.delta).dense
        found.append((scores.similarity, increments, loss, values, grads))
    (scores, delta, loss, values, grads), (fast, fast_delta, fast_loss, fast_values, others) = found
    assert (scores - fast).abs().max() < max(
        tolerance, 1e-6 if scores.dtype == torch.float32 else 0
    )
    assert (delta is None) == (fast_delta is None)
    if delta is not None:
        assert torch.allclose(delta, fast_delta, rtol=tolerance, atol=10 * tolerance)
    assert torch.allclose(loss, fast_loss, rtol=tolerance)
    assert values.keys() == fast_values.keys()
    assert all(torch.allclose(values[n], fast_values[n], rtol=tolerance) for n in values)
    assert grads.keys() == others.keys()
    whole = torch.cat([grad.flatten() for grad in grads.values()]).norm()
    for name, grad in grads.items():
        assert (grad - others[name]).norm() <= tolerance * (grad.norm() + 1e-3 * whole), name


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize(("side", "context"), list(product(SIDES, CONTEXTS)))
def test_scores_and_gradients_equal_the_dense_ones(
    inputs, random_words, monkeypatch, side, context, query, dropout
):
    for module in (increment_basis, exact):  # several blocks
        monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 2 * 6 * 16)
    for seed, (pooling, heads, terms) in enumerate(product(POOLINGS, (1, 2), (TERMS, OTHER_TERMS))):
        gap = {"side": side, "context": context, **QUERIES[query], "heads": heads}
        head = _head(gap={**gap, "dropout": dropout}, pooling=POOLINGS[pooling])
        num_frames = (4, 1)[seed % 2]
        text, frames, mask = inputs(6, 6, num_frames, seed=seed)
        tokens, _ = random_words(6, 4, seed=seed)
        words = (tokens, torch.arange(4) < torch.arange(6)[:, None] % 3 + 2)  # two at least
        dropped = (torch.rand(6, 6, 16) > 0.3).double() / 0.7 if dropout else None
        if context == "words" and query == "text" and dropped is not None:
            dropped = dropped[:, :1]  # the increment does not depend on the video
        _compare(head, (text, frames, mask), words, terms, dropped=dropped)


@pytest.mark.parametrize("reference_padding", [False, True])
@pytest.mark.parametrize(
    ("num_texts", "num_videos", "num_frames"), [(1, 5, 3), (5, 1, 1), (2, 2, 2)]
)
@pytest.mark.parametrize("gap", [None, {"dropout": 0.0}, {"dropout": 0.0, "side": "video"}])
def test_any_shape(inputs, gap, num_texts, num_videos, num_frames, reference_padding):
    idle = gap is None or gap == {"dropout": 0.0}
    head = _head(gap=gap, reference_padding=reference_padding and not (idle and gap is None))
    _compare(head, inputs(num_texts, num_videos, num_frames))


@pytest.mark.parametrize("length", [1e-2, 0.4, 1e3])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_small_and_large_features_in_float32(inputs, length, dropout):
    head = _head(torch.float32, 64, gap={"dropout": dropout})
    text, frames, mask = inputs(8, 8, 5, 64, torch.float32)
    dropped = (torch.rand(8, 8, 64) > 0.3) / 0.7 if dropout else None
    given = (length * text, length * frames, mask)
    # The increments of small features differ by less than float32 tells, and L_ib takes logarithms
    # of their deviations.
    terms = TERMS if length > 0.1 else {**TERMS, "ib": {"weight": 0.0}}
    _compare(head, given, terms=terms, dropped=dropped, tolerance=1e-4)


def test_a_text_that_its_increment_cancels_has_the_dense_gradient(inputs):
    head = _head(gap={"dropout": 0.0})
    gap = head.interaction.gap
    text, frames, mask = inputs(3, 3, 4)
    with torch.no_grad():
        for parameter in head.text_projection.parameters():
            parameter.zero_()
        gap.mean_proj.weight.mul_(1e-6)
        gap.mean_proj.bias.copy_(-text[1] + 1e-3)
    _compare(head, (text, frames, mask), terms={name: {"weight": 0.0} for name in TERMS})


def test_gradients_by_differences(inputs):
    for dropout, side in product((0.0, 0.3), SIDES):
        head = _head(dim=4, gap={"dropout": dropout, "side": side})
        (layer,) = head.interaction.gap.layers
        layer.dropout = FixedDropout((torch.rand(2, 2, 4) > 0.3).double(), True)
        text, frames, mask = inputs(2, 2, 3, 4)
        if dropout == 0.0:
            layer.dropout = nn.Dropout(0.0)

        def total(text, frames, head=head, mask=mask):
            return _loss(head.pair_scores(text, frames, mask), head, TERMS)[0]

        arguments = (text.requires_grad_(), frames.requires_grad_())
        assert torch.autograd.gradcheck(total, arguments)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("heads", [1, 4])
def test_a_learned_pooling_equals_the_dense_one(inputs, monkeypatch, heads, dropout):
    monkeypatch.setattr(increment_basis, "_BLOCK_ELEMENTS", 2 * 6 * 16)
    pooling = {"name": "cross_attention", "heads": heads, "dropout": dropout}
    dropped = (torch.rand(6, 6, 16) > 0.3).double() / 0.7 if dropout else None
    _compare(_head(pooling=pooling), inputs(6, 6, 4), dropped=dropped)


def test_heads_without_another_form_are_scored_densely(inputs):
    head = _head(gap={"layers": 2, "dropout": 0.0})
    given = inputs(3, 3, 2)
    assert torch.equal(head.pair_scores(*given).similarity, head(*given).similarity)


def test_no_pair_tensor_without_dropout_and_direction_terms(inputs):
    """The largest tensor of a step follows T V K, not T V D."""
    head = _head(dim=256, gap={"dropout": 0.0}, dtype=torch.float32)
    text, frames, mask = inputs(24, 24, 2, 256, torch.float32)
    sizes = []
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
    )
    terms = {"ib": {"weight": 0.1}, "eps": {"weight": 0.1}, "dir": {"weight": 0.0}}
    with hooks:
        scores = head.pair_scores(text, frames, mask)
        Objective(**terms)(scores.similarity, scores.delta, head.scale).total.backward()
    assert max(sizes) < 24 * 24 * 256


def test_a_video_without_frames_has_a_finite_gradient(inputs):
    head = _head(gap={"dropout": 0.0})
    text, frames, mask = inputs(3, 3, 4)
    mask[1] = False
    loss, _ = _loss(head.pair_scores(text, frames, mask), head, TERMS)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize("p", [0.1, 0.3, 0.999999])
def test_dropout_drops_its_share_and_keeps_the_mean(p):
    torch.manual_seed(0)
    dropout = PairDropout(p)
    ones = torch.ones(300, 401, requires_grad=True)
    out = dropout(ones)
    share = (out == 0).double().mean().item()
    assert share == pytest.approx(p, abs=0.005)
    kept = out[out > 0]
    assert torch.allclose(kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-4) or p > 0.9
    out.sum().backward()
    assert torch.equal(ones.grad, out.detach())
    again = dropout(ones)
    assert not torch.equal(out, again)
    torch.manual_seed(0)
    assert torch.equal(dropout(ones), out)


def test_dropout_is_idle_at_evaluation_and_at_zero():
    values = torch.randn(5, 3)
    assert PairDropout(0.3).eval()(values) is values
    assert torch.equal(PairDropout(0.0)(values), values)


@functools.cache
def _delta():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 5, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("over", ["text", "video"])
def test_moments_are_mean_and_unbiased_variance(over):
    delta, dim = _delta(), 0 if over == "text" else 1
    mean, variance = as_increments(delta).moments(over)
    assert torch.allclose(mean, delta.mean(dim=dim))
    assert torch.allclose(variance, delta.var(dim=dim))
    assert torch.autograd.gradcheck(lambda given: as_increments(given).moments(over), delta)


def test_moments_of_equal_increments_are_exactly_zero():
    same = torch.randn(1, 3, 5).expand(7, 3, 5).clone().requires_grad_()
    _, variance = as_increments(same).moments("text")
    assert variance.max() == 0
    variance.sum().backward()
    assert same.grad.abs().max() == 0


def _mixture(context_side):
    """Mixtures of 3 vectors of 5 numbers for 4 texts and 4 videos, and the same as a tensor."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(4, 4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    vectors = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64).requires_grad_()

    def mixed(weights, vectors):
        letter = "i" if context_side == "text" else "j"
        delta = torch.einsum(f"ijk,{letter}kd->ijd", weights, vectors)
        squares = delta.square().sum(dim=-1)
        return PairMixture(weights, vectors, gram(vectors), squares, context_side), delta

    return (weights, vectors), mixed


def _plain_potentials(delta, anchor, alpha):
    vectors = delta if anchor == "text" else delta.transpose(0, 1)
    directions = vectors / torch.linalg.vector_norm(vectors, dim=-1).clamp_min(1e-8)[..., None]
    between = torch.einsum("njd,nkd->njk", directions, directions)
    return torch.exp(-alpha * (1.0 - between)).mean(dim=(1, 2))


# Numbers of a block: each anchor in one of its own, and all in one.
_BLOCKS = (1, 2**20)


@pytest.mark.parametrize("block", _BLOCKS)
@pytest.mark.parametrize("anchor", SIDES)
@pytest.mark.parametrize("alpha", [0.5, 2.0, 5.0])
def test_potentials_and_their_gradient(anchor, alpha, block, monkeypatch):
    monkeypatch.setattr(increments, "_BLOCK_ELEMENTS", block)

    def fused(delta):
        return potentials(as_increments(delta), anchor, alpha)

    with_a_zero = _delta().detach().clone()
    with_a_zero[1, 2] = 0.0
    for delta in (_delta(), with_a_zero.requires_grad_()):
        plain = _plain_potentials(delta, anchor, alpha)
        assert torch.allclose(fused(delta), plain)
        weights = torch.arange(1.0, 1.0 + len(plain), dtype=torch.float64)
        (expected,) = torch.autograd.grad((weights * plain).sum(), delta)
        (found,) = torch.autograd.grad((weights * fused(delta)).sum(), delta)
        assert torch.allclose(found, expected)
    assert torch.autograd.gradcheck(fused, _delta())


@pytest.mark.parametrize("block", _BLOCKS)
@pytest.mark.parametrize("context_side", SIDES)
@pytest.mark.parametrize("anchor", SIDES)
def test_potentials_and_cosines_of_mixtures(anchor, context_side, block, monkeypatch):
    monkeypatch.setattr(increments, "_BLOCK_ELEMENTS", block)
    given, mixed = _mixture(context_side)

    def fused(*given):
        return potentials(as_increments(mixed(*given)[0]), anchor, 2.0)

    mixture, delta = mixed(*given)
    plain = _plain_potentials(delta, anchor, 2.0)
    assert torch.allclose(fused(*given), plain)
    between = cosines(as_increments(mixture), anchor)
    assert torch.allclose(between, cosines(as_increments(delta), anchor))
    weights = torch.arange(1.0, 5.0, dtype=torch.float64)
    expected = torch.autograd.grad((weights * plain).sum(), given)
    found = torch.autograd.grad((weights * fused(*given)).sum(), given)
    assert all(torch.allclose(*pair) for pair in zip(found, expected, strict=True))
    assert torch.autograd.gradcheck(fused, given)
