import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gare_cache.data.split import FeatureSplit
from gare_cache.diagnosis.gradients import (
    batch_gradients,
    cosine_gradient,
    coupled_steps,
    pair_gradients,
    uncoupled_steps,
)
from gare_cache.heads.pairs import PairVectors
from gare_cache.heads.retrieval import RetrievalHead, build_head

DIM, PAIRS, SCALE = 8, 21, 7.0


def make_batch(pairs: int = PAIRS) -> FeatureSplit:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(pairs, 3, DIM, generator=generator)
    mask = torch.arange(3) < torch.randint(1, 4, (pairs, 1), generator=generator)
    text = torch.randn(pairs, DIM, generator=generator)
    ids = [str(i) for i in range(pairs)]
    return FeatureSplit("val", ids, ids, ids, frames, mask, text, torch.arange(pairs), pairs, pairs)


def make_head() -> RetrievalHead:
    torch.manual_seed(1)
    head = build_head(dim=DIM, max_frames=3, aggregator={"name": "mean"}, gap={}).eval()
    for weights in head.interaction.parameters():
        torch.nn.init.normal_(weights, std=0.4)
    return head


class VideoSide:
    """A head that corrects the video: the vectors of another head, the other way round."""

    side = "video"
    needs_words = False

    def __init__(self, head: RetrievalHead) -> None:
        self.head = head
        self.vectors: Callable[..., PairVectors] = head.vectors


def loss_of_anchor(anchors: Tensor, partners: Tensor, true: int, scale: float = SCALE) -> Tensor:
    """-log softmax of the anchor's own pair, as written in the paper."""
    logits = [
        scale * (a @ v) / (a.norm() * v.norm()) for a, v in zip(anchors, partners, strict=True)
    ]
    return -(logits[true] - torch.stack(logits).exp().sum().log())


def test_the_cosines_gradient_by_hand_and_by_autograd() -> None:
    # a = (2, 0), v = (0, 3): cos = 0, so the gradient is v/|v| over |a|.
    found = cosine_gradient(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0]))
    assert found.tolist() == [0.0, 0.5]
    anchors = torch.randn(5, DIM, dtype=torch.float64, requires_grad=True)
    partners = torch.randn(5, DIM, dtype=torch.float64)
    torch.nn.functional.cosine_similarity(anchors, partners).sum().backward()
    torch.testing.assert_close(cosine_gradient(anchors.detach(), partners), anchors.grad)


def test_pair_gradients_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    anchors = torch.randn(4, 6, DIM, dtype=torch.float64)
    partners = torch.randn(4, 6, DIM, dtype=torch.float64)
    true = torch.tensor([2, 0, 5, 5])
    found = pair_gradients(anchors, partners, true, SCALE)
    for row in range(4):
        one = anchors[row].clone().requires_grad_()
        loss_of_anchor(one, partners[row], int(true[row])).backward()
        torch.testing.assert_close(found[row], one.grad)


def test_a_pair_that_is_almost_certain_keeps_its_direction() -> None:
    anchors = torch.tensor([[[1.0, 0.1], [1.0, 0.1]]], dtype=torch.float64)
    partners = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]], dtype=torch.float64)
    found = pair_gradients(anchors, partners, torch.tensor([0]), 100.0)
    norms = found.norm(dim=-1)
    assert 0 < norms[0, 0] < 1e-80  # 1 - P would be 0 in float64
    torch.testing.assert_close(norms[0, 0], norms[0, 1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("side", ["text", "video"])
def test_a_batch_equals_slow_loops(side: str) -> None:
    batch, head = make_batch(), make_head()
    scored: Any = head if side == "text" else VideoSide(head)
    found = batch_gradients(scored, batch, SCALE)
    with torch.no_grad():
        vectors = head.vectors(batch.text, batch.frames, batch.mask)
    text, video = vectors.text.double(), vectors.video.double()
    delta = vectors.delta.double()
    for anchor in (0, 15, 16, PAIRS - 1):  # on both sides of the block's border
        for name, one in (("corrected", found.corrected), ("plain", found.plain)):
            if side == "text":
                items, partners, own = text[anchor].expand(PAIRS, -1), video[anchor], delta[anchor]
            else:
                items, partners, own = video[:, anchor], text, delta[:, anchor]
            a = (items + own if name == "corrected" else items).clone().requires_grad_()
            loss_of_anchor(a, partners, anchor).backward()
            others = [a.grad[j] for j in range(PAIRS) if j != anchor]
            torch.testing.assert_close(one.positive[anchor], a.grad[anchor])
            torch.testing.assert_close(one.negative[anchor], torch.stack(others).sum(0))
            norms = sum(g.norm() for g in a.grad)
            torch.testing.assert_close(one.tension[anchor], a.grad.sum(0).norm() / norms)
            for j in (anchor, (anchor + 3) % PAIRS):
                g = a.grad[j]
                torch.testing.assert_close(one.lengths[anchor, j], g.norm())
                torch.testing.assert_close(one.along[anchor, j], own[j] @ g / g.norm())
                torch.testing.assert_close(found.increments[anchor, j], own[j].norm())


def test_tension_is_1_where_all_pull_one_way_and_0_where_two_cancel() -> None:
    # Anchor (1, 0): its own video lies up; the other pushes it up from below, or down from above.
    up, down = [0.0, 1.0], [0.0, -1.0]
    anchors = torch.tensor([[[1.0, 0.0]] * 2], dtype=torch.float64)
    own = torch.tensor([0])
    together = torch.tensor([[up, down]], dtype=torch.float64)
    cancelling = torch.tensor([[up, up]], dtype=torch.float64)
    assert tension(pair_gradients(anchors, together, own, SCALE)) == pytest.approx(1)
    assert tension(pair_gradients(anchors, cancelling, own, SCALE)) == pytest.approx(0)


def tension(gradients: Tensor) -> float:
    return float(gradients[0].sum(dim=0).norm() / gradients[0].norm(dim=-1).sum())


def test_permuting_the_batch_permutes_its_gradients() -> None:
    batch, head = make_batch(), make_head()
    order = torch.randperm(PAIRS, generator=torch.Generator().manual_seed(3))
    turned = dataclasses.replace(
        batch, text=batch.text[order], frames=batch.frames[order], mask=batch.mask[order]
    )
    first, second = (batch_gradients(head, one, SCALE) for one in (batch, turned))
    torch.testing.assert_close(second.corrected.positive, first.corrected.positive[order])
    torch.testing.assert_close(
        second.corrected.along, first.corrected.along[order][:, order], rtol=1e-4, atol=1e-6
    )
    sums = first.probability.sum(dim=1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def slow_step(delta: Tensor, gradient: Tensor, radius: float) -> tuple[float, bool]:
    """The formula as it stands, on vectors."""
    inner, square = float(delta @ gradient), float(gradient @ gradient)
    root = inner**2 + square * (radius**2 - float(delta @ delta))
    scaled = root < 0
    if scaled:
        delta = delta * radius / delta.norm()
        inner = float(delta @ gradient)
        root = max(0.0, inner**2 + square * (radius**2 - float(delta @ delta)))
    return (inner + math.sqrt(root)) / square, scaled


@pytest.mark.parametrize("radius", [0.5, 2.5, 20.0])
def test_coupled_steps_are_the_largest_inside_the_radius(radius: float) -> None:
    torch.manual_seed(2)
    deltas, gradients = torch.randn(2, 60, 4, dtype=torch.float64)
    lengths, norms = gradients.norm(dim=1), deltas.norm(dim=1)
    along = (deltas * gradients).sum(dim=1) / lengths
    step, scaled_back = coupled_steps(along, norms, lengths, radius)
    assert scaled_back.any() == (radius < 5)
    for i, (delta, gradient) in enumerate(zip(deltas, gradients, strict=True)):
        expected, scaled = slow_step(delta, gradient, radius)
        assert bool(scaled_back[i]) == scaled
        assert float(step[i]) == pytest.approx(expected, abs=1e-7)
        start = delta * radius / delta.norm() if scaled else delta
        assert float((start - step[i] * gradient).norm()) == pytest.approx(radius)
        beyond = float((start - (step[i] + 1e-3) * gradient).norm())
        assert beyond > radius


def test_without_an_increment_the_coupled_step_is_the_uncoupled_one() -> None:
    lengths = torch.tensor([0.5, 2.0], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    step, scaled_back = coupled_steps(zero, zero, lengths, 3.0)
    assert step.tolist() == uncoupled_steps(lengths, 3.0).tolist() == [6.0, 1.5]
    assert not scaled_back.any()
