import json
import multiprocessing
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch
import zarr

from gare_cache.cache import journal, schema
from gare_cache.cache.identity import cache_root, folder_name
from gare_cache.cache.lock import exclusive
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.cache.schema import Layout
from gare_cache.cache.writer import CacheWriter, open_writer
from gare_cache.errors import CacheError, FingerprintMismatch

LAYOUT = Layout(max_frames=3, dim=4)
IDENTITY = {"encoder": {"weights": "abc"}, "sampling": {"max_frames": 3}}


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_MOST_ROWS", {"video": 4, "text": 8})


def writer(folder: Path, identity: dict[str, Any] = IDENTITY) -> Any:
    return open_writer(
        folder,
        dataset="d",
        identity=identity,
        layout=LAYOUT,
        head_start={"logit_scale": torch.tensor(4.6)},
    )


def source(number: int, size: int = 1) -> dict[str, Any]:
    return {
        "video_id": f"v{number}",
        "path": f"/videos/v{number}.mp4",
        "start_seconds": None,
        "end_seconds": None,
        "size_bytes": size,
        "mtime_ns": 5,
    }


def features(rows: Any) -> dict[str, Any]:
    rows = np.asarray(rows)
    frames = np.full((len(rows), 3, 4), np.nan, "<f2")
    frames[:, :2] = rows[:, None, None] + np.array([0.25, 0.5])[:, None]
    times = np.full((len(rows), 3), np.nan, "<f4")
    times[:, :2] = [0, 1]
    return {
        "video/frames": frames,
        "video/times": times,
        "video/num_frames": np.full(len(rows), 2, "<i4"),
    }


def fill(cache: CacheWriter, numbers: Any, *, most_units: int | None = None) -> list[int]:
    rows = cache.allocate("video", [source(number) for number in numbers])
    for unit in cache.pending("video", rows)[:most_units]:
        outcomes = [journal.RowOutcome(row, decoder="pyav") for row in unit.rows]
        thumbnails = dict.fromkeys(unit.rows, b"jpeg")
        cache.commit(unit, features(unit.rows), outcomes, thumbnails=thumbnails, seconds={"a": 1.0})
    return rows


def chunk_files(folder: Path) -> dict[str, bytes]:
    root = folder / schema.FEATURES
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "zarr.json"
    }


def test_what_is_written_is_read_by_id(tmp_path: Path) -> None:
    with writer(tmp_path / "c") as cache:
        fill(cache, range(10))
    found = open_cache(tmp_path / "c")
    videos = found.videos(["v7", "v2"])
    np.testing.assert_array_equal(videos.frames, features([7, 2])["video/frames"])
    np.testing.assert_array_equal(videos.times, features([7, 2])["video/times"])
    assert videos.num_frames.tolist() == [2, 2]
    assert found.counts("video") == {"ok": 10, "failed": 0, "pending": 0}
    assert found.head_start()["logit_scale"] == torch.tensor(4.6)
    assert found.thumbnails(["v3"]) == [b"jpeg"]
    with pytest.raises(CacheError, match=r"1 of 2 video rows are not in .* \(first: 'v99'\)"):
        found.videos(["v1", "v99"])


def test_a_chunk_file_is_the_raw_block_and_its_checksum_stands_in_the_journal(
    tmp_path: Path,
) -> None:
    with writer(tmp_path) as cache:
        fill(cache, range(6))
    raw = (tmp_path / "features.zarr/video/frames/c/1/0/0").read_bytes()
    block = np.frombuffer(raw, "<f2").reshape(4, 3, 4)
    np.testing.assert_array_equal(block[:2], features([4, 5])["video/frames"])
    assert np.isnan(block[2:]).all()
    record = journal.read(tmp_path / "journal")[1]
    assert record.checksums["video/frames"] == f"{google_crc32c.value(raw):08x}"
    array = zarr.open_group(tmp_path / "features.zarr", mode="r")["video/frames"]
    np.testing.assert_array_equal(array[:], features(range(6))["video/frames"])


def test_interruptions_between_units_do_not_change_a_byte(tmp_path: Path) -> None:
    with writer(tmp_path / "whole") as cache:
        fill(cache, range(10))
    for _ in range(3):
        with writer(tmp_path / "parts") as cache:
            fill(cache, range(10), most_units=1)
    assert chunk_files(tmp_path / "parts") == chunk_files(tmp_path / "whole")
    digests = {open_cache(tmp_path / name).content_digest for name in ("whole", "parts")}
    assert len(digests) == 1


def test_a_unit_whose_record_is_missing_is_done_again(tmp_path: Path) -> None:
    with writer(tmp_path) as cache:
        fill(cache, range(10))
    path = tmp_path / "journal" / "units.jsonl"
    whole = path.read_text()
    path.write_text(whole[: len(whole) - 20])  # the last line was being written
    assert open_cache(tmp_path).counts("video") == {"ok": 8, "failed": 0, "pending": 2}
    with writer(tmp_path) as cache:
        rows = cache.allocate("video", [source(number) for number in range(10)])
        assert [unit.rows for unit in cache.pending("video", rows)] == [(8, 9)]
        fill(cache, range(10))
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    assert all(json.loads(line)["kind"] == "video" for line in lines)


def test_new_items_take_the_next_rows_and_leave_the_old_ones_alone(tmp_path: Path) -> None:
    with writer(tmp_path) as cache:
        fill(cache, range(6))
    first = chunk_files(tmp_path)["video/frames/c/0/0/0"]
    with writer(tmp_path) as cache:
        assert fill(cache, [9, 3]) == [6, 3]
        changed = cache.allocate("video", [source(3, size=2)])
        assert changed == [7]
    found = open_cache(tmp_path)
    assert chunk_files(tmp_path)["video/frames/c/0/0/0"] == first
    np.testing.assert_array_equal(found.videos(["v5"]).frames, features([5])["video/frames"])
    assert found.videos(["v9"]).frames[0, 0, 0] == 6.25
    with pytest.raises(CacheError, match=r"'v3'"):  # its file changed: the old row is not served
        found.videos(["v3"])


def test_failures_have_a_reason_and_no_features(tmp_path: Path) -> None:
    with writer(tmp_path) as cache:
        rows = cache.allocate("video", [source(0), source(1)])
        (unit,) = cache.pending("video", rows)
        values = features(rows)
        for spec in LAYOUT.arrays("video"):
            values[spec.name][1] = spec.fill
        outcomes = [journal.RowOutcome(0), journal.RowOutcome(1, reason="truncated")]
        cache.commit(unit, values, outcomes, thumbnails={}, seconds={})
        assert cache.pending("video", rows) == []
    found = open_cache(tmp_path)
    videos = found.videos(["v0", "v1"])
    assert videos.num_frames.tolist() == [2, 0]
    assert np.isnan(videos.frames[1]).all()
    assert found.failures() == {"v1": "truncated"}
    assert found.thumbnails(["v1"]) == [None]


def test_two_writers_are_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    held, done = multiprocessing.Event(), multiprocessing.Event()
    other = multiprocessing.Process(target=_hold, args=(tmp_path / "lock", held, done))
    other.start()
    assert held.wait(20)
    try:
        with pytest.raises(CacheError, match=f"is being written by process {other.pid}"):
            writer(tmp_path).__enter__()
    finally:
        done.set()
        other.join()
    with writer(tmp_path) as cache:
        fill(cache, range(2))


def _hold(path: Path, held: Any, done: Any) -> None:
    with exclusive(path):
        held.set()
        done.wait(20)


def test_other_identities_formats_and_damaged_journals_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"no feature cache at"):
        open_cache(tmp_path / "c")
    with writer(tmp_path / "c") as cache:
        fill(cache, range(2))
    other = {**IDENTITY, "sampling": {"max_frames": 4}}
    assert folder_name("d", IDENTITY) != folder_name("d", other)
    with (
        pytest.raises(FingerprintMismatch, match=r"holds another extraction"),
        writer(tmp_path / "c", other),
    ):
        pass
    group = zarr.open_group(tmp_path / "c" / "features.zarr", mode="a")
    group.update_attributes({"format_version": 99})
    with pytest.raises(CacheError, match=r"has cache format 99; this version reads 1"):
        open_cache(tmp_path / "c")
    group.update_attributes({"format_version": schema.FORMAT_VERSION})
    (tmp_path / "c/journal/units.jsonl").write_text("{}\n")
    with pytest.raises(CacheError, match=r"units.jsonl:1 is no journal record"):
        open_cache(tmp_path / "c")


def test_leftovers_are_swept(tmp_path: Path) -> None:
    with writer(tmp_path) as cache:
        fill(cache, range(2))
    leftover = tmp_path / "features.zarr/video/frames/c/0/0/0.123.partial"
    leftover.write_bytes(b"half")
    with writer(tmp_path):
        assert not leftover.exists()


def test_a_creation_that_was_interrupted_is_begun_again(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "features.zarr", mode="a", zarr_format=3).create_group("video")
    with pytest.raises(CacheError, match=r"is no feature cache"):
        open_cache(tmp_path)
    with writer(tmp_path) as cache:
        fill(cache, range(2))
    assert isinstance(open_cache(tmp_path), FeatureCache)


def test_the_digest_follows_content(tmp_path: Path) -> None:
    for name, numbers in (("a", range(5)), ("b", range(5)), ("c", range(6))):
        with writer(tmp_path / name) as cache:
            fill(cache, numbers)
    a, b, c = (open_cache(tmp_path / name).content_digest for name in "abc")
    assert a == b != c


def test_units_are_sized_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert Layout(max_frames=12, dim=512).unit_rows("video") == 256
    assert Layout(max_frames=64, dim=768).unit_rows("video") == 32
    assert Layout(max_frames=12, dim=512).unit_rows("text") == 4096
    assert Layout(max_frames=4096, dim=1024).unit_rows("video") == 1


def test_the_root_of_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    assert cache_root(tmp_path) == tmp_path / "cache"
    monkeypatch.setenv("GARE_CACHE_ROOT", "/elsewhere")
    assert cache_root(tmp_path) == Path("/elsewhere")
