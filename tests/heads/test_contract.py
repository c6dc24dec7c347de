"""What every head promises, whatever it is made of."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from gare_cache.config import EvaluateSettings
from gare_cache.heads.pairs import Words
from gare_cache.heads.retrieval import RetrievalHead, build_head
from gare_cache.stages.canary import check_random_features
from tests.heads.table import HEADS

DIM, MAX_FRAMES, MORE_FRAMES = 16, 6, 8


def build(settings: dict[str, Any], dtype: torch.dtype = torch.float64) -> RetrievalHead:
    """A head in training mode whose every weight is random, so that every part has a say."""
    torch.manual_seed(0)
    head = build_head(dim=DIM, max_frames=MORE_FRAMES, **settings)
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


def both_ways(head: RetrievalHead, *features: Any) -> Tensor:
    """The dense score in evaluation mode, after checking that ``similarity`` is the same."""
    dense = head.eval()(*features).similarity
    torch.testing.assert_close(head.similarity(*features), dense)
    return dense


def test_shapes(settings: dict[str, Any], features: Any) -> None:
    scores = build(settings)(*features)
    assert scores.similarity.shape == (5, 4)
    assert (scores.delta is None) == (settings.get("gap") is None)
    if scores.delta is not None:
        assert scores.delta.shape == (5, 4, DIM)
    assert scores.similarity.abs().max() <= 1 + 1e-9


def test_dense_and_blockwise_agree_whatever_the_mode(
    settings: dict[str, Any], features: Any
) -> None:
    head = build(settings).train()
    whole = head.similarity(*features)
    assert head.training
    assert not whole.requires_grad
    torch.testing.assert_close(head.similarity(*features, block_bytes=20_000), whole)
    torch.testing.assert_close(whole, head.eval()(*features).similarity)


def test_dropout_is_off_in_evaluation(settings: dict[str, Any], features: Any) -> None:
    head = build(settings).eval()
    assert torch.equal(head(*features).similarity, head(*features).similarity)
    head.train()
    assert torch.equal(head.similarity(*features), head.similarity(*features))


def test_padded_frames_and_words_change_nothing(settings: dict[str, Any], features: Any) -> None:
    text, frames, mask, (tokens, real) = features
    head = build(settings)
    more = MORE_FRAMES - MAX_FRAMES
    longer_frames = torch.cat([frames, torch.full_like(frames[:, :more], 3.0)], dim=1)
    longer_tokens = torch.cat([tokens, torch.full_like(tokens[:, :3], 3.0)], dim=1)
    padded = (text, longer_frames, pad(mask, (0, more)), (longer_tokens, pad(real, (0, 3))))
    torch.testing.assert_close(both_ways(head, *padded), both_ways(head, *features))


def test_permuting_texts_and_videos_permutes_the_scores(
    settings: dict[str, Any], features: Any
) -> None:
    text, frames, mask, (tokens, real) = features
    head = build(settings)
    texts, videos = torch.tensor([4, 2, 0, 1, 3]), torch.tensor([3, 1, 0, 2])
    permuted = (text[texts], frames[videos], mask[videos], (tokens[texts], real[texts]))
    expected = both_ways(head, *features)[texts][:, videos]
    torch.testing.assert_close(both_ways(head, *permuted), expected)


def test_scores_do_not_depend_on_the_rest_of_the_batch(
    settings: dict[str, Any], features: Any
) -> None:
    text, frames, mask, (tokens, real) = features
    head = build(settings)
    alone = (text[1:2], frames[2:3], mask[2:3], (tokens[1:2], real[1:2]))
    torch.testing.assert_close(both_ways(head, *alone), both_ways(head, *features)[1:2, 2:3])


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


def test_settings_are_json_and_rebuild_the_head(settings: dict[str, Any], features: Any) -> None:
    head = build(settings)
    rebuilt = build_head(**json.loads(json.dumps(head.settings))).double()
    assert rebuilt.settings == head.settings
    rebuilt.load_state_dict(head.state_dict())
    assert torch.equal(rebuilt.similarity(*features), head.similarity(*features))


def test_random_features_give_chance(settings: dict[str, Any]) -> None:
    head = build(settings, torch.float32).eval()
    rows = check_random_features(head, EvaluateSettings(), galleries=10)
    assert sum(row.queries for row in rows) > 2500
    assert all(row.passed for row in rows), [str(row) for row in rows]
