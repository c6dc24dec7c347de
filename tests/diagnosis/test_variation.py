import math
from typing import Any

import numpy as np
import pytest
import torch

from gare_cache.diagnosis import variation as diagnostics_variation
from gare_cache.diagnosis.variation import (
    IncrementMoments,
    score_with_video_means,
    share_inside,
    stream_pairs,
    variance_shares,
)
from tests.diagnosis.test_gradients import DIM, VideoSide, make_batch, make_head

TEXTS, VIDEOS = 9, 21


def moments_of(delta: torch.Tensor) -> IncrementMoments:
    exact = delta.double()
    return IncrementMoments(
        exact.mean(0),
        exact.mean(1),
        float((exact**2).sum(-1).mean()),
        float(exact.norm(dim=-1).mean()),
    )


@pytest.mark.parametrize("side", ["text", "video"])
@pytest.mark.parametrize("block_bytes", [1, 2**20])
def test_the_stream_equals_the_whole_tensor(
    monkeypatch: pytest.MonkeyPatch, side: str, block_bytes: int
) -> None:
    monkeypatch.setattr(diagnostics_variation, "_BLOCK_BYTES", block_bytes)
    # In float64: one text at a time is projected on its own side, which rounds otherwise.
    head = make_head().double()
    split = make_batch(VIDEOS).with_texts(range(TEXTS), num_listed=TEXTS)
    scored: Any = head if side == "text" else VideoSide(head)
    found = stream_pairs(scored, split)
    with torch.no_grad():
        vectors = head.vectors(split.text, split.frames, split.mask)
    text, video, delta = vectors.text[:, None], vectors.video, vectors.delta
    expected = moments_of(delta)
    for name, value in vars(expected).items():
        torch.testing.assert_close(
            torch.as_tensor(getattr(found.moments, name)), torch.as_tensor(value)
        )

    def cosine(increment: torch.Tensor | float) -> np.ndarray:
        a, v = (text + increment, video) if side == "text" else (text, video + increment)
        return torch.nn.functional.cosine_similarity(a, v, dim=-1).numpy()

    np.testing.assert_allclose(found.corrected, cosine(delta), atol=1e-6)
    np.testing.assert_allclose(found.plain, cosine(0.0), atol=1e-6)
    replaced = score_with_video_means(scored, split, found.moments.video_means)
    np.testing.assert_allclose(replaced, cosine(delta.mean(0, keepdim=True)), atol=1e-6)


def test_variance_shares_by_hand() -> None:
    # Two texts (rows), two videos: Delta = 1, 3 and 5, 7 in one dimension; mean 4, variance 5.
    delta = torch.tensor([[[1.0], [3.0]], [[5.0], [7.0]]])
    assert variance_shares(moments_of(delta)) == pytest.approx(
        {
            "total": 5.0,
            "within videos": 0.8,  # 1, 5 around 3 and 3, 7 around 5: 4 of 5
            "between videos": 0.2,  # 3 and 5 around 4: 1 of 5
            "between texts": 0.8,
            "interaction": 0.0,
        },
        abs=1e-12,
    )


def test_variance_shares_of_pure_kinds() -> None:
    generator = torch.Generator().manual_seed(0)
    of_video = torch.randn(1, 6, DIM, generator=generator).expand(5, 6, DIM)
    of_text = torch.randn(5, 1, DIM, generator=generator).expand(5, 6, DIM)
    of_pair = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])[..., None]
    assert variance_shares(moments_of(of_video))["within videos"] == pytest.approx(0, abs=1e-9)
    assert variance_shares(moments_of(of_text))["within videos"] == pytest.approx(1)
    assert variance_shares(moments_of(of_pair))["interaction"] == pytest.approx(1)
    constant = variance_shares(moments_of(torch.full((3, 4, DIM), 2.5)))
    assert math.isnan(constant["within videos"])


def test_a_constant_added_to_every_increment_changes_no_share() -> None:
    delta = torch.randn(5, 6, DIM, generator=torch.Generator().manual_seed(1))
    moved = variance_shares(moments_of(delta + 3.0))
    assert moved == pytest.approx(variance_shares(moments_of(delta)), rel=1e-5)


def test_share_inside_by_hand() -> None:
    found = np.array([[3, 1], [0, 2]])
    candidates = np.array([[0, 1, 2], [2, 0, 5]])
    assert share_inside(found, candidates).tolist() == [0.5, 1.0]
