"""Arrays of a gallery on disk: nothing is computed twice, and no damage is taken for a value."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gare_cache.cache.journal import RowOutcome
from gare_cache.cache.reader import open_cache
from gare_cache.errors import CacheError, EnvironmentFailure
from gare_cache.heads.retrieval import build_head
from gare_cache.search import encoded, kept
from gare_cache.search.encoded import open_encoded
from gare_cache.search.gallery import Gallery, GalleryVideo, GalleryVideos
from gare_cache.search.kept import KeptArray, Spec, keep
from tests.cache import made

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
@pytest.mark.parametrize(
    "damage", ["cut", "empty", "header", "record", "record gone", "other dtype"]
)
def test_files_that_are_not_whole_are_computed_again(
    tmp_path: Path, name: str, damage: str
) -> None:
    kept_arrays(tmp_path, [1, 2, 3])
    file, record = tmp_path / f"{name}.npy", tmp_path / f"{name}.json"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-5])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "header":
        content = bytearray(file.read_bytes())
        content[10] ^= 1
        file.write_bytes(content)
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


@pytest.mark.parametrize("digested", [True, False])
def test_a_cache_that_was_made_anew_is_encoded_anew(tmp_path: Path, digested: bool) -> None:
    """Its rows count from 0 again, so that the same rows are other videos."""
    torch.manual_seed(0)
    head = build_head(dim=made.LAYOUT.dim, max_frames=made.LAYOUT.max_frames, projection="linear")
    torch.nn.init.normal_(head.frame_projection.linear.weight)
    for numbers in ([1, 2, 3], [0, 1, 2, 3]):
        cache = tmp_path / made.NAME
        shutil.rmtree(cache, ignore_errors=True)
        with made.writer(cache) as writer:
            rows = writer.allocate("video", [made.source(number) for number in numbers])
            for unit in writer.pending("video", rows):
                of = [numbers[row] for row in unit.rows]
                digests = [f"{number:064x}" if digested else None for number in of]
                outcomes = [
                    RowOutcome(row, digest=digest)
                    for row, digest in zip(unit.rows, digests, strict=True)
                ]
                writer.commit(unit, made.features(of), outcomes, thumbnails={}, seconds={})
        videos = [
            GalleryVideo(f"v{n}", row, "test", None, 0.0, None) for row, n in enumerate(numbers)
        ]
        gallery = Gallery(open_cache(cache), GalleryVideos.of(videos), 0)
        found = open_encoded(gallery, head, tmp_path / "kept", head_id="one")
        assert found.kept_frames is not None
        frames, mask = found.frames(range(len(numbers)))
        expected = head.encode_frames(*gallery.frames(range(len(numbers)), 3))
        assert torch.equal(frames[mask], expected.detach()[mask])


def test_frames_that_do_not_fit_on_the_disk_are_encoded_for_every_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with made.writer(tmp_path / made.NAME) as writer:
        made.fill(writer, [1, 2])
    head = build_head(dim=made.LAYOUT.dim, max_frames=made.LAYOUT.max_frames, projection="linear")
    videos = [GalleryVideo(f"v{row + 1}", row, "test", None, 0.0, None) for row in range(2)]
    gallery = Gallery(open_cache(tmp_path / made.NAME), GalleryVideos.of(videos), 0)
    whole = encoded.keep

    def full(folder: Path, keys: list[int], specs: Any, **options: Any) -> Any:
        if "frames" in specs:
            raise EnvironmentFailure("no space left on the device")
        return whole(folder, keys, specs, **options)

    monkeypatch.setattr(encoded, "keep", full)
    found = open_encoded(gallery, head, tmp_path / "kept", head_id="one")
    assert found.kept_frames is None
    assert found.frames([0, 1])[0].shape == (2, 2, made.LAYOUT.dim)
    assert "cannot be kept" in capsys.readouterr().err
