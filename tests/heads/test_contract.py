"""What every head promises, whatever it is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gare_cache.evaluation.canary.checks import check_random_features
from gare_cache.evaluation.contract.checks import check_contract
from gare_cache.evaluation.settings import EvaluateSettings
from gare_cache.heads.pairs import Words
from gare_cache.heads.retrieval import RetrievalHead, build_head
from tests.heads.table import HEADS
from tests.plain_head import plain_head

DIM, MAX_FRAMES, MORE_FRAMES = 16, 6, 8


def build(settings: dict[str, Any], dtype: torch.dtype = torch.float64) -> RetrievalHead:
    """A head in training mode whose every weight is random, so that every part has a say."""
    torch.manual_seed(0)
    head = plain_head(dim=DIM, max_frames=MORE_FRAMES, **settings)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if name != "logit_scale":
                parameter.add_(0.1 * torch.randn_like(parameter))
    return head.to(dtype)


@pytest.fixture(params=HEADS.values(), ids=HEADS.keys())
def settings(request: Any) -> dict[str, Any]:
    return dict(request.param)


@pytest.fixture
def features(inputs: Any, random_words: Any) -> tuple[Tensor, Tensor, Tensor, Words]:
    return (*inputs(dim=DIM, num_frames=MAX_FRAMES), random_words(dim=DIM))


def test_shapes(settings: dict[str, Any], features: Any) -> None:
    scores = build(settings)(*features)
    assert scores.similarity.shape == (5, 4)
    assert (scores.delta is None) == (settings.get("gap") is None)
    if scores.delta is not None:
        assert scores.delta.shape == (5, 4, DIM)
    assert scores.similarity.abs().max() <= 1 + 1e-9


def test_the_contract_of_heads_of_ones_own_to_rounding(settings: dict[str, Any]) -> None:
    """Shapes, padding, order, batch, blocks, evaluation mode, rebuilding, learning."""
    rows = check_contract(build(settings), lambda **found: build_head(**found).double())
    assert len(rows) in (11, 12)
    assert [row for row in rows if not row.passed] == []


def test_blocks_are_scored_as_in_evaluation_whatever_the_mode(
    settings: dict[str, Any], features: Any
) -> None:
    head = build(settings).train()
    found = head.similarity(*features)
    assert head.training
    assert not found.requires_grad
    torch.testing.assert_close(found, head.eval()(*features).similarity)


def test_without_a_real_frame_or_word_scores_and_gradients_are_finite(
    settings: dict[str, Any], features: Any
) -> None:
    text, frames, mask, (tokens, real) = features
    mask[1] = False
    real[3] = False
    head = build(settings)
    inputs = [tensor.requires_grad_() for tensor in (text, frames, tokens)]
    scores = head(text, frames, mask, (tokens, real)).similarity
    (scores.sum() * head.scale).backward()
    assert scores.isfinite().all()
    gradients = [tensor.grad for tensor in (*inputs, *head.parameters())]
    assert all(g.isfinite().all() for g in gradients if g is not None)


def test_gradients_reach_every_parameter(settings: dict[str, Any], features: Any) -> None:
    head = build(settings)
    (head(*features).similarity.square().sum() * head.scale).backward()
    assert not [name for name, p in head.named_parameters() if p.grad is None]


def test_gradcheck(settings: dict[str, Any], inputs: Any, random_words: Any) -> None:
    text, frames, mask = inputs(num_texts=2, num_videos=2, num_frames=2, dim=DIM)
    tokens, real = random_words(num_texts=2, num_words=2, dim=DIM)
    head = build(settings).eval()

    def similarity(text: Tensor, frames: Tensor, tokens: Tensor) -> Tensor:
        scores: Tensor = head(text, frames, mask, (tokens, real)).similarity
        return scores

    arguments = tuple(tensor.requires_grad_() for tensor in (text, frames, tokens))
    assert torch.autograd.gradcheck(similarity, arguments, fast_mode=True)


def test_random_features_give_chance(settings: dict[str, Any]) -> None:
    head = build(settings, torch.float32).eval()
    rows = check_random_features(head, EvaluateSettings(), galleries=10)
    assert sum(row.queries for row in rows) > 2500
    assert all(row.passed for row in rows), [str(row) for row in rows]
