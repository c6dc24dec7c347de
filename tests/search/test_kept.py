"""Arrays of a gallery on disk: nothing is computed twice, and no damage is taken for a value."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gare_cache.errors import CacheError
from gare_cache.search import kept
from gare_cache.search.kept import KeptArray, Spec, keep

SPECS = {
    "vectors": Spec((4,), np.float16, whole=True),
    "frames": Spec((3, 4), np.float32, whole=False),
}


class Computer:
    """Makes of row r what is full of r."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = rows
        self.computed: list[int] = []

    def __call__(self, places: Sequence[int]) -> Mapping[str, Any]:
        rows = [self.rows[place] for place in places]
        self.computed += rows
        return {
            name: np.full((len(rows), *spec.shape), 0, spec.dtype)
            + np.array(rows, spec.dtype).reshape(-1, *[1] * len(spec.shape))
            for name, spec in SPECS.items()
        }


def kept_arrays(folder: Path, rows: list[int]) -> tuple[dict[str, KeptArray], list[int]]:
    compute = Computer(rows)
    arrays = keep(folder, rows, SPECS, compute, label="rows")
    for of in arrays.values():
        assert of.values.reshape(len(rows), -1)[:, 0].tolist() == rows
    return arrays, compute.computed


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_ROWS_AT_A_TIME", 2)


def test_only_new_rows_are_computed_and_others_go(tmp_path: Path) -> None:
    assert kept_arrays(tmp_path, [3, 5, 7, 9, 11])[1] == [3, 5, 7, 9, 11]
    assert kept_arrays(tmp_path, [3, 5, 7, 9, 11])[1] == []
    assert kept_arrays(tmp_path, [11, 4, 3, 8, 9])[1] == [4, 8]
    assert kept_arrays(tmp_path, [9, 5])[1] == [5]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("frames.json", "frames.npy", "vectors.json", "vectors.npy")
    ]


def test_one_array_that_is_gone_leaves_the_other(tmp_path: Path) -> None:
    kept_arrays(tmp_path, [1, 2, 3])
    (tmp_path / "frames.npy").unlink()
    before = (tmp_path / "vectors.npy").stat().st_mtime_ns
    assert kept_arrays(tmp_path, [1, 2, 3])[1] == [1, 2, 3]
    assert (tmp_path / "vectors.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("damage", ["cut", "record", "record gone", "other dtype"])
def test_files_that_are_not_whole_are_computed_again(
    tmp_path: Path, name: str, damage: str
) -> None:
    kept_arrays(tmp_path, [1, 2, 3])
    file, record = tmp_path / f"{name}.npy", tmp_path / f"{name}.json"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-5])
    elif damage == "record":
        record.write_text(record.read_text().replace("2", "4", 1))
    elif damage == "record gone":
        record.unlink()
    else:
        np.save(file, np.load(file).astype(np.float64))
    assert kept_arrays(tmp_path, [1, 2, 3])[1] == [1, 2, 3]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-2] ^= 1  # of the last row
    file.write_bytes(content)


def test_a_flipped_bit_of_what_is_read_as_a_whole_is_computed_again(tmp_path: Path) -> None:
    kept_arrays(tmp_path, [1, 2, 3])
    flip(tmp_path / "vectors.npy")
    assert kept_arrays(tmp_path, [1, 2, 3])[1] == [1, 2, 3]


def test_a_flipped_bit_of_a_row_is_found_when_it_is_read(tmp_path: Path) -> None:
    kept_arrays(tmp_path, [1, 2, 3])
    flip(tmp_path / "frames.npy")
    frames = keep(tmp_path, [1, 2, 3], SPECS, Computer([1, 2, 3]), label="rows")["frames"]
    assert frames.take([1, 0])[:, 0, 0].tolist() == [2, 1]
    for _ in range(2):
        with pytest.raises(CacheError, match=r"frames\.npy is damaged.*delete it"):
            frames.take([0, 2])


def test_damaged_rows_are_not_copied_into_a_new_file(tmp_path: Path) -> None:
    kept_arrays(tmp_path, [1, 2, 3])
    flip(tmp_path / "frames.npy")
    with pytest.raises(CacheError, match="damaged"):
        kept_arrays(tmp_path, [3, 4])
    (tmp_path / "frames.npy").unlink()
    assert kept_arrays(tmp_path, [3, 4])[1] == [3, 4]
