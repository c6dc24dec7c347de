import numpy as np
import pytest

from gare_cache.evaluation.metrics import video_to_text
from gare_cache.evaluation.retrieved import TopK, occurrences, skewness, top_texts, top_videos


def test_top_videos_are_best_first_with_ties_in_order() -> None:
    similarity = np.array([[0.1, 0.9, 0.5], [0.4, 0.4, 0.4]])
    assert top_videos(similarity, 2).tolist() == [[1, 2], [0, 1]]
    assert top_videos(similarity, 9).shape == (2, 3)


@pytest.mark.parametrize("convention", ["best_caption_of_all", "best_caption_group"])
def test_the_place_of_the_first_own_text_is_the_rank_of_that_convention(convention: str) -> None:
    generator = np.random.default_rng(0)
    truth = generator.permutation(np.repeat([0, 1, 2, 4, 5], [1, 2, 3, 4, 5]))
    similarity = generator.normal(size=(len(truth), 6))
    found = top_texts(similarity, truth, len(truth), convention=convention)
    ranks = video_to_text(similarity, truth, convention=convention).expected
    assert found.shape == (5, 5 if convention == "best_caption_group" else 15)
    for query, video in enumerate(np.unique(truth)):
        places = np.flatnonzero(truth[found[query]] == video)
        assert places[0] + 1 == ranks[query]
        scores = similarity[found[query], video]
        assert (np.diff(scores) <= 0).all()


def test_occurrences_and_their_skewness_by_hand() -> None:
    retrieved = np.array([[0, 1], [0, 2]])
    assert occurrences(retrieved, 4, 1).tolist() == [2, 0, 0, 0]
    assert occurrences(retrieved, 4, 2).tolist() == [2, 1, 1, 0]
    # Counts 0, 0, 0, 4: mean 1, variance 3, third moment (3 * -1 + 27) / 4 = 6.
    assert skewness(np.array([0, 0, 0, 4])) == pytest.approx(6 / 3**1.5)
    assert skewness(np.array([1, 2, 3])) == pytest.approx(0)
    assert skewness(np.array([3, 3, 3])) == 0


@pytest.mark.parametrize("count", [1, 7, 40, 99])
def test_the_best_of_blocks_are_those_of_a_stable_sort(count: int) -> None:
    rng = np.random.default_rng(0)
    # Many equal scores, both zeros, infinities, the smallest and the largest numbers.
    values = np.array([-np.inf, -3e38, -1.5, -1e-45, -0.0, 0.0, 1e-45, 0.5, 3e38, np.inf])
    scores = rng.choice(values, (5, 40)).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    for size in (1, 3, 40):
        blocks = [slice(start, start + size) for start in range(0, 40, size)]
        for blocks_in_order in (blocks, blocks[::-1]):
            top = TopK(count, 5)
            for block in blocks_in_order:
                top.add(scores[:, block], np.arange(40)[block])
            found, items = top.best()
            np.testing.assert_array_equal(items, order)
            np.testing.assert_array_equal(found, np.take_along_axis(scores, order, 1))


def test_the_best_of_nothing_are_none_and_items_may_be_large() -> None:
    top = TopK(3, 2)
    assert [array.shape for array in top.best()] == [(2, 0), (2, 0)]
    items = np.array([2**32 - 1, 0, 2**31])
    top.add(np.zeros((2, 3), np.float32), items)
    np.testing.assert_array_equal(top.best()[1], [[0, 2**31, 2**32 - 1]] * 2)
