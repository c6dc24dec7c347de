"""What is read by id is what the plain way reads row by row, in every order and by every path."""

import os
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
import zarr

from gare_cache.cache import chunks, schema
from gare_cache.cache.journal import RowOutcome
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.cache.schema import KINDS, Layout
from gare_cache.data.split import load_frames, load_split
from gare_cache.errors import CacheError
from gare_cache.manifest.tables import CAPTION_SCHEMA, VIDEO_SCHEMA, Manifest
from tests.cache import made

VIDEOS, CAPTIONS = 37, 150
LAYOUT = Layout(max_frames=5, dim=6, num_views=2, num_patches=2)
FAILED = {3, 20}
SPLITS = ("train", "test")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Units of 4 videos and 8 captions; videos of 1 to 5 frames, of which two failed."""
    monkeypatch.setattr(schema, "_MOST_ROWS", {"video": 4, "text": 8})
    generator = np.random.default_rng(5)
    with made.writer(tmp_path / "c", layout=LAYOUT) as writer:
        items = (manifest().videos.to_pylist(), manifest().captions.to_pylist())
        for kind, of_kind in zip(KINDS, items, strict=True):
            for unit in writer.pending(kind, writer.allocate(kind, of_kind)):
                outcomes = [outcome(kind, row) for row in unit.rows]
                values = drawn(kind, unit.rows, generator)
                writer.commit(unit, values, outcomes, thumbnails={}, seconds={})
    return tmp_path / "c"


def manifest() -> Manifest:
    """Splits whose items alternate, so that none is a run of rows."""
    videos = [
        (f"v{number}", SPLITS[number % 3 == 1], f"{number}.mp4", None, None, "a.csv", 1, 1)
        for number in range(VIDEOS)
    ]
    owners = [number * 7 % VIDEOS for number in range(CAPTIONS)]
    captions = [
        (f"c{number}", f"v{owner}", videos[owner][1], f"sentence {number}")
        for number, owner in enumerate(owners)
    ]
    columns = [
        pa.table(list(map(list, zip(*rows, strict=True))), schema=of)
        for rows, of in ((videos, VIDEO_SCHEMA), (captions, CAPTION_SCHEMA))
    ]
    return Manifest(*columns)


def outcome(kind: str, row: int) -> RowOutcome:
    return RowOutcome(row, "bad" if kind == "video" and row in FAILED else None)


def drawn(kind: Any, rows: Sequence[int], generator: np.random.Generator) -> dict[str, Any]:
    values = {spec.name: spec.empty(len(rows)) for spec in LAYOUT.arrays(kind)}
    if kind == "text":
        values["text/features"][:] = generator.standard_normal((len(rows), LAYOUT.dim))
        return values
    for place, row in enumerate(rows):
        num_frames = 0 if row in FAILED else 1 + row % LAYOUT.max_frames
        for name in ("video/frames", "video/times", "video/patches"):
            value = values[name][place, :num_frames]
            value[:] = generator.standard_normal(value.shape)
        views = values["video/views"][place, :, :num_frames]
        views[:] = generator.standard_normal(views.shape)
        values["video/num_frames"][place] = num_frames
    return values


def plain(folder: Path, name: str, ids: Sequence[str]) -> npt.NDArray[Any]:
    """One row after the other, by zarr. The number of an id is its row."""
    array = zarr.open_array(folder / "features.zarr" / name, mode="r")
    rows = [np.asarray(array[int(id_[1:])]) for id_ in ids]
    return np.stack(rows) if rows else np.empty((0, *array.shape[1:]), array.dtype)


def orders(letter: str, num: int) -> list[list[str]]:
    generator = np.random.default_rng(7)
    numbers = [
        [],
        [num - 1],
        list(range(num)),
        list(range(num))[::-1],
        list(range(3, num - 2)),
        list(range(2, num, 3)),
        [5, 5, 6, 4, 5],
        list(range(6)) + list(range(6)),
        *(generator.integers(num, size=size).tolist() for size in (2, 9, num, 3 * num)),
        generator.permutation(num).tolist(),
    ]
    return [[f"{letter}{number}" for number in of] for of in numbers]


@pytest.mark.parametrize("as_column", [False, True])
@pytest.mark.parametrize("read_bytes", [0, 2**15], ids=["mapped", "read"])
def test_every_order_of_ids_gives_the_rows_of_the_plain_way(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, as_column: bool, read_bytes: int
) -> None:
    monkeypatch.setattr(chunks, "_READ_BYTES", read_bytes)
    kept = open_cache(folder)
    for ids in orders("v", VIDEOS):
        asked: Any = pa.chunked_array([pa.array(ids, pa.string())]) if as_column else ids
        for cache in (kept, open_cache(folder)):
            videos = cache.videos(asked)
            np.testing.assert_array_equal(videos.frames, plain(folder, "video/frames", ids))
            np.testing.assert_array_equal(videos.times, plain(folder, "video/times", ids))
            np.testing.assert_array_equal(videos.num_frames, plain(folder, "video/num_frames", ids))
            np.testing.assert_array_equal(cache.num_frames(asked), videos.num_frames)
        np.testing.assert_array_equal(kept.frames(ids, 2), videos.frames[:, :2])
        np.testing.assert_array_equal(kept.times(ids, 2), videos.times[:, :2])
        for name, listed in (("views", kept.views(ids)), ("patches", kept.patches(ids))):
            for found, row in zip(listed, plain(folder, f"video/{name}", ids), strict=True):
                np.testing.assert_array_equal(found, row)
    for ids in orders("c", CAPTIONS):
        asked = pa.chunked_array([pa.array(ids, pa.string())]) if as_column else ids
        for cache in (kept, open_cache(folder)):
            np.testing.assert_array_equal(
                cache.captions(asked), plain(folder, "text/features", ids)
            )


def test_items_that_are_asked_for_one_by_one(folder: Path) -> None:
    cache = open_cache(folder)
    for _ in range(2):
        for number in range(CAPTIONS):
            found = cache.captions([f"c{number}"])
            np.testing.assert_array_equal(found, plain(folder, "text/features", [f"c{number}"]))
        with pytest.raises(CacheError, match=r"\(first: 'c999'\)"):
            cache.captions(["c0", "c999"])
    for _ in range(40):
        with pytest.raises(CacheError, match=r"\(first: 'v999'\)"):
            cache.num_frames(["v0", "v999"])


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("unknown", ["v99", "", "é", "v\udc80", 7, None, b"v1", ("v1",)])
def test_an_id_that_is_not_in_the_cache_is_named(folder: Path, unknown: Any, *, few: bool) -> None:
    ids: list[Any] = [unknown] if few else [f"v{number}" for number in range(VIDEOS)]
    ids[len(ids) // 2] = unknown
    with pytest.raises(CacheError, match=rf"1 of {len(ids)} video rows are not in") as caught:
        open_cache(folder).videos(ids)
    assert f"(first: {unknown!r})" in str(caught.value)


def test_a_source_that_changed_is_read_from_its_last_row(folder: Path) -> None:
    with made.writer(folder, layout=LAYOUT) as writer:
        rows = writer.allocate("text", [{"caption_id": "c4", "caption": "another sentence"}])
        for unit in writer.pending("text", rows):
            values = {"text/features": np.full((1, LAYOUT.dim), 9)}
            writer.commit(unit, values, [RowOutcome(CAPTIONS)], thumbnails={}, seconds={})
    ids = [f"c{number}" for number in range(CAPTIONS)]
    for asked in (["c4"], ids, ids[::-1]):
        found = open_cache(folder).captions(asked)
        expected = plain(folder, "text/features", asked)
        expected[asked.index("c4")] = 9
        np.testing.assert_array_equal(found, expected)


def test_chunks_that_stay_mapped_are_no_open_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_READ_BYTES", 0)
    cache = open_cache(folder)
    ids = [f"v{number}" for number in range(VIDEOS)]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as file:
        resource.setrlimit(resource.RLIMIT_NOFILE, (file.fileno() + 8, before[1]))
    try:
        videos, *_ = cache.videos(ids), cache.views(ids), cache.patches(ids)  # 50 chunks
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    np.testing.assert_array_equal(videos.frames, plain(folder, "video/frames", ids))


READS: dict[str, Callable[[FeatureCache], object]] = {
    "video/frames": lambda cache: cache.frames(["v9"], 1),
    "video/times": lambda cache: cache.times(["v9"], 1),
    "video/num_frames": lambda cache: cache.num_frames(["v9"]),
    "video/views": lambda cache: cache.views(["v9"]),
    "video/patches": lambda cache: cache.patches(["v9"]),
    "text/features": lambda cache: cache.captions(["c9", "c20"]),
}
WHOLE: dict[str, Callable[[FeatureCache], object]] = {
    "video/frames": lambda cache: load_frames(cache, ["v1", "v9"], None),
    "video/num_frames": lambda cache: load_frames(cache, ["v1", "v9"], None),
    "video/times": lambda cache: cache.videos(["v1", "v9"]),
    "text/features": lambda cache: load_split(
        cache, manifest(), "train", device=torch.device("cpu")
    ),
}


@pytest.mark.parametrize("read_bytes", [0, 2**15], ids=["mapped", "read"])
@pytest.mark.parametrize(
    ("name", "read"), [*READS.items(), *WHOLE.items()], ids=[*READS, *(f"{n} whole" for n in WHOLE)]
)
def test_a_flipped_bit_of_any_row_of_a_chunk_is_found_by_the_first_reading(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    read: Callable[[FeatureCache], object],
    read_bytes: int,
) -> None:
    monkeypatch.setattr(chunks, "_READ_BYTES", read_bytes)
    read(open_cache(folder))
    unit = 1 if name.startswith("text") else 2
    path = chunks.chunk_path(folder, open_cache(folder).spec(name), unit)
    content = path.read_bytes()
    for place in (0, len(content) // 2, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        cache = open_cache(folder)
        for _ in range(2):
            with pytest.raises(CacheError, match="does not have the checksum of the journal"):
                read(cache)
    path.write_bytes(content)
    read(cache)


@pytest.mark.parametrize("num_frames", [None, 3])
@pytest.mark.parametrize("split", SPLITS)
def test_a_split_holds_the_floats_of_the_plain_way(
    folder: Path, split: str, num_frames: int | None
) -> None:
    loaded = load_split(
        open_cache(folder),
        manifest(),
        split,
        device=torch.device("cpu"),
        num_frames=num_frames,
        views=True,
    )
    listed = [row for row in manifest().videos.to_pylist() if row["split"] == split]
    ids = [row["video_id"] for row in listed if int(row["video_id"][1:]) not in FAILED]
    captions = [row for row in manifest().captions.to_pylist() if row["video_id"] in ids]
    assert list(loaded.video_ids) == ids
    assert list(loaded.caption_ids) == [row["caption_id"] for row in captions]
    assert list(loaded.captions) == [row["caption"] for row in captions]
    assert loaded.video_of_text.tolist() == [ids.index(row["video_id"]) for row in captions]
    assert loaded.num_videos_listed == len(listed)
    text = plain(folder, "text/features", [row["caption_id"] for row in captions])
    assert loaded.text.dtype == loaded.frames.dtype == torch.float32
    np.testing.assert_array_equal(loaded.text, text.astype(np.float32))
    views = np.nan_to_num(plain(folder, "video/views", ids).astype(np.float32))
    np.testing.assert_array_equal(loaded.views, views)
    for place, frames in enumerate(plain(folder, "video/frames", ids).astype(np.float32)):
        real = frames[~np.isnan(frames).any(axis=1)]
        if num_frames is not None and len(real) > num_frames:
            real = real[np.linspace(0, len(real) - 1, num_frames).astype(int)]
        kept = loaded.mask[place]
        np.testing.assert_array_equal(loaded.frames[place, : len(real)], real)
        assert kept.tolist() == [number < len(real) for number in range(len(kept))]
        assert not loaded.frames[place][~kept].any()
