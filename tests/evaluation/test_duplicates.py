import numpy as np
import pytest

from gare_cache.evaluation import duplicates
from gare_cache.evaluation.duplicates import (
    frame_sequences,
    likely_false_negatives,
    near_pairs,
    same_captions,
    same_text_share,
    unit_rows,
)


def test_same_captions_are_those_of_different_videos_alone() -> None:
    captions = ["A man  runs.", "a man runs", "a dog", "a dog", "a cat", "A MAN RUNS"]
    truth = np.array([0, 1, 2, 2, 3, 1])
    assert same_captions(captions, truth) == [[0, 1, 5]]


def test_a_sequence_and_its_reverse_are_different_and_length_is_no_matter() -> None:
    x, y = np.eye(2, dtype=np.float32)
    frames = np.zeros((4, 4, 2), np.float32)
    frames[0], frames[1] = [x, x, y, y], [y, y, x, x]
    frames[2, :2] = [3 * x, y]  # two frames that mean the same as video 0's four
    frames[3, :1] = x
    mask = np.arange(4) < np.array([4, 4, 2, 1])[:, None]
    rows = frame_sequences(frames, mask)
    np.testing.assert_allclose((rows**2).sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(rows @ rows[0], [1, 0, 1, 0.5], atol=1e-6)


def test_near_pairs_against_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    rows = unit_rows(np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32))
    expected = [
        (float(rows[i] @ rows[j]), i, j)
        for i in range(30)
        for j in range(i + 1, 30)
        if rows[i] @ rows[j] >= 0.8
    ]
    found = near_pairs(rows, 0.8, 5)
    assert found.count == len(expected) > 5
    assert found.touched.sum() == len({place for _, i, j in expected for place in (i, j)})
    nearest = sorted(expected, reverse=True)[:5]
    assert [pair[:2] for pair in found.nearest] == [(i, j) for _, i, j in nearest]


def test_a_miss_with_the_same_words_is_a_likely_false_negative() -> None:
    text = unit_rows(np.array([[1, 0], [1, 0.1], [0, 1], [0.2, 1]], np.float32))
    truth = np.array([0, 1, 1, 2])
    first = np.array([1, 1, 0, 3])  # text 0 finds video 1, text 2 video 0, text 3 a silent video
    (found,) = likely_false_negatives(first, text, truth, threshold=0.95)
    assert (found.text, found.video, found.nearest_text) == (0, 1, 1)
    assert found.cosine == pytest.approx(1 / np.sqrt(1.01))
    # Of the pairs (caption, other video) 0-1, 1-0, 2-2 and 3-1 are near.
    assert same_text_share(text, truth, 0.95) == pytest.approx(4 / 8)
    assert same_text_share(text[:1], truth[:1]) is None
