"""The faiss store finds what the exact one finds, and is never trusted when it does not fit."""

import sys
from pathlib import Path

import numpy as np
import pytest

from gare_cache.errors import ConfigError
from gare_cache.search.faiss_store import FaissStore, number_of_lists, open_faiss
from gare_cache.search.store import ExactStore, Vectors
from tests.search.test_store import unit

pytest.importorskip("faiss")

EVERY_LIST = 1000


def open_(vectors: Vectors, folder: Path, rows: list[int] | None = None) -> FaissStore:
    rows = list(range(len(vectors))) if rows is None else rows
    return open_faiss(vectors, rows, folder, nprobe=EVERY_LIST)


def same(store: FaissStore, vectors: Vectors, allowed: np.ndarray | None = None) -> None:
    queries = unit((5, vectors.shape[1]), 9).astype(np.float32)
    found = store.nearest(queries, 12, allowed)
    expected = ExactStore(vectors).nearest(queries, 12, allowed)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


@pytest.mark.parametrize("size", [3, 38, 500])
def test_full_probing_finds_the_nearest(tmp_path: Path, size: int) -> None:
    vectors = unit((size, 16), 0)
    same(open_(vectors, tmp_path), vectors)


def test_rows_of_the_cache_need_no_order(tmp_path: Path) -> None:
    vectors = unit((200, 16), 0)
    rows = np.random.default_rng(1).permutation(1000)[:200].tolist()
    same(open_(vectors, tmp_path, rows), vectors)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_only_allowed_rows_are_found(tmp_path: Path, share: float) -> None:
    vectors = unit((400, 16), 0)
    allowed = np.random.default_rng(2).random(400) < share
    same(open_(vectors, tmp_path), vectors, allowed)


def test_lists_are_probed_until_there_are_enough(tmp_path: Path) -> None:
    vectors = unit((2000, 16), 0)
    allowed = np.zeros(2000, bool)
    allowed[::100] = True
    query = unit((1, 16), 9).astype(np.float32)
    found = open_faiss(vectors, range(2000), tmp_path, nprobe=1).nearest(query, 20, allowed)
    assert sorted(found.rows[0].tolist()) == np.flatnonzero(allowed).tolist()


def test_an_index_is_read_again_and_not_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = unit((500, 16), 0)
    open_(vectors, tmp_path)
    assert "vectors of the faiss index: 500 of 500" in capsys.readouterr().err
    same(open_(vectors, tmp_path), vectors)
    assert capsys.readouterr().err == ""


def test_new_rows_are_added_and_removed_ones_forgotten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = unit((500, 16), 0)
    open_(vectors[:400], tmp_path)
    capsys.readouterr()
    kept = [*range(0, 100), *range(150, 500)]
    same(open_(vectors[kept], tmp_path, kept), vectors[kept])
    assert "vectors of the faiss index: 100 of 100" in (said := capsys.readouterr().err)
    assert "lists" not in said
    same(open_(vectors[kept], tmp_path, kept), vectors[kept])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("size", [1100, 200])
def test_centroids_are_found_again_for_a_gallery_of_another_size(
    tmp_path: Path, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = unit((1100, 16), 0)
    open_(vectors[:500], tmp_path)
    same(open_(vectors[:size], tmp_path), vectors[:size])
    assert "outgrew its faiss index, or shrank below half" in capsys.readouterr().err


def test_an_index_of_other_vectors_is_stale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = unit((500, 16), 0)
    open_(vectors, tmp_path)
    changed = vectors.copy()
    changed[77] = unit((1, 16), 5)[0]
    same(open_(changed, tmp_path), changed)
    assert "holds other vectors than the gallery: it is built again" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["faiss.index", "faiss.npy", "faiss.json"])
@pytest.mark.parametrize("damage", ["byte", "cut", "gone"])
def test_a_damaged_index_is_built_again(
    tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = unit((500, 16), 0)
    open_(vectors, tmp_path)
    file = tmp_path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content if damage == "byte" else content[: len(content) // 2])
    capsys.readouterr()
    same(open_(vectors, tmp_path), vectors)
    said = capsys.readouterr().err
    assert "vectors of the faiss index: 500 of 500" in said
    assert ("is damaged" in said) == ((name, damage) != ("faiss.json", "gone"))


def test_lists_grow_with_the_gallery() -> None:
    assert [number_of_lists(size) for size in (1, 100, 10_000, 1_000_000)] == [1, 2, 200, 2000]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'gare-cache\[ann\]'"):
        open_(unit((3, 8), 0), tmp_path)
