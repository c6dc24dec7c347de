from typing import Any

import numpy as np
import pytest
import torch

from gare_cache.evaluation.duplicates import unit_rows
from gare_cache.evaluation.modality_gap import (
    MatchedPairs,
    gap_numbers,
    gap_plane,
    matched_pairs,
)
from gare_cache.heads.retrieval import build_head


@pytest.mark.parametrize("pooling", ["mean", "text_conditioned"])
@pytest.mark.parametrize(
    "gap", [None, {"heads": 2}, {"side": "video"}, {"side": "video", "context": "words"}], ids=str
)
def test_matched_pairs_are_what_the_head_scores(pooling: str, gap: dict[str, Any] | None) -> None:
    torch.manual_seed(0)
    head = build_head(
        dim=16,
        max_frames=5,
        projection="linear",
        aggregator={"name": "lstm"},
        pooling={"name": pooling},
        gap=gap,
    ).eval()
    for weights in head.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    text, frames = torch.randn(9, 16), torch.randn(6, 5, 16)
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 5, 2, 4])[:, None]
    truth = torch.tensor([3, 0, 0, 5, 1, 3, 4, 0, 5])  # video 2 has no text
    tokens, real = torch.randn(9, 4, 16), torch.arange(4) < torch.randint(1, 5, (9, 1))
    pairs = matched_pairs(
        head, text, frames, mask, truth, words=lambda rows: (tokens[rows], real[rows])
    )
    shifted = {"text": pairs.text, "video": pairs.video}
    if pairs.delta is not None:
        shifted[pairs.side] = shifted[pairs.side] + pairs.delta
    cosines = (unit_rows(shifted["text"]) * unit_rows(shifted["video"])).sum(axis=1)
    expected = head.similarity(text, frames, mask, (tokens, real))[torch.arange(9), truth]
    np.testing.assert_allclose(cosines, expected.numpy(), atol=1e-5)
    assert (pairs.delta is None) == (gap is None)


def test_numbers_of_a_case_by_hand() -> None:
    text = np.array([[2, 0], [1, 0]], np.float32)
    video = np.array([[0, 5], [0, 1]], np.float32)
    pairs = MatchedPairs(text, video, np.array([[-2, 2], [-1, 1]], np.float32))
    assert gap_numbers(pairs) == pytest.approx(
        {
            "gap": np.sqrt(2),
            "cosine": 0,
            "shifted_gap": 0,
            "shifted_cosine": 1,
            "delta_length": np.sqrt(2),
            # Delta (-2, 2) and video - text (-2, 5); Delta (-1, 1) and (-1, 1).
            "delta_cosine": (14 / np.sqrt(8 * 29) + 1) / 2,
        },
        abs=1e-6,
    )


def test_on_the_video_side_the_increment_moves_the_video() -> None:
    text = np.array([[0, 5], [0, 1]], np.float32)
    video = np.array([[2, 0], [1, 0]], np.float32)
    pairs = MatchedPairs(text, video, np.array([[-2, 2], [-1, 1]], np.float32), "video")
    swapped = MatchedPairs(video, text, pairs.delta)
    assert gap_numbers(pairs) == pytest.approx(gap_numbers(swapped))
    shifted = gap_plane(pairs).points["shifted"]
    np.testing.assert_allclose(shifted, gap_plane(pairs).points["text"], atol=1e-5)


def test_the_plane_shows_the_gap_first_and_the_spread_second() -> None:
    generator = np.random.default_rng(0)
    spread = generator.normal(size=(200, 1)) * np.array([[0, 0, 1.0, 0]])
    text = (np.array([[3.0, 0, 0, 0]]) + spread).astype(np.float32)
    video = (np.array([[0, 3.0, 0, 0]]) + spread).astype(np.float32)
    pairs = MatchedPairs(text, video, (video - text).astype(np.float32))
    plane = gap_plane(pairs)
    distance = plane.points["video"].mean(axis=0) - plane.points["text"].mean(axis=0)
    assert distance == pytest.approx([gap_numbers(pairs)["gap"], 0], abs=1e-5)
    assert plane.second_share > 0.9
    np.testing.assert_allclose(plane.points["shifted"], plane.points["video"], atol=1e-5)
    assert np.corrcoef(plane.points["text"][:, 1], spread[:, 2])[0, 1] ** 2 > 0.9
