import numpy as np
import pytest

from gare_cache.search import store
from gare_cache.search.store import ExactStore


def unit(shape: tuple[int, int], seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=shape)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("block", [7, 50, 1000])
def test_the_nearest_are_those_of_a_plain_sort(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_BLOCK_ROWS", block)
    vectors, queries = unit((200, 16), 0), unit((3, 16), 1).astype(np.float32)
    found = ExactStore(vectors).nearest(queries, 12)
    expected = queries @ vectors.astype(np.float32).T
    order = np.argsort(-expected, axis=1, kind="stable")[:, :12]
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_allclose(found.scores, np.take_along_axis(expected, order, 1), atol=1e-6)


def test_equal_vectors_come_in_the_order_of_their_rows() -> None:
    vectors = np.repeat(unit((1, 8), 2), 5, axis=0)
    assert ExactStore(vectors).nearest(vectors[:1].astype(np.float32), 3).rows.tolist() == [
        [0, 1, 2]
    ]


def test_rows_that_are_not_allowed_are_not_found() -> None:
    vectors = unit((20, 8), 3)
    allowed = np.zeros(20, bool)
    allowed[[4, 11]] = True
    found = ExactStore(vectors).nearest(vectors[:1].astype(np.float32), 4, allowed)
    assert set(found.rows[0, :2].tolist()) == {4, 11}
    assert found.rows[0, 2:].tolist() == [-1, -1]


def test_a_store_with_fewer_vectors_returns_all() -> None:
    vectors = unit((3, 8), 4)
    assert sorted(ExactStore(vectors).nearest(vectors[:1].astype(np.float32), 9).rows[0]) == [
        0,
        1,
        2,
    ]
