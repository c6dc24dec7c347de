import errno
import json
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr

from gare_cache.cache import journal, schema
from gare_cache.cache.disk import environment_errors
from gare_cache.cache.identity import cache_root, folder_name
from gare_cache.cache.lock import Shard
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.cache.schema import Layout
from gare_cache.errors import CacheError, EnvironmentFailure, FingerprintMismatch
from tests.cache.made import (
    IDENTITY,
    LAYOUT,
    caption,
    fail,
    features,
    fill,
    fill_captions,
    source,
    writer,
)

pytestmark = pytest.mark.usefixtures("small_units")


def chunk_bytes(folder: Path) -> dict[str, bytes]:
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
    record = journal.read(tmp_path)[1]
    assert record.checksums["video/frames"] == f"{google_crc32c.value(raw):08x}"
    array = zarr.open_group(tmp_path / "features.zarr", mode="r")["video/frames"]
    np.testing.assert_array_equal(array[:], features(range(6))["video/frames"])


def test_interruptions_between_units_do_not_change_a_byte(tmp_path: Path) -> None:
    with writer(tmp_path / "whole") as cache:
        fill(cache, range(10))
    for _ in range(3):
        with writer(tmp_path / "parts") as cache:
            fill(cache, range(10), most_units=1)
    assert chunk_bytes(tmp_path / "parts") == chunk_bytes(tmp_path / "whole")
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
    first = chunk_bytes(tmp_path)["video/frames/c/0/0/0"]
    with writer(tmp_path) as cache:
        assert fill(cache, [9, 3]) == [6, 3]
        changed = cache.allocate("video", [source(3, size=2)])
        assert changed == [7]
    found = open_cache(tmp_path)
    assert chunk_bytes(tmp_path)["video/frames/c/0/0/0"] == first
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
    with pytest.raises(CacheError, match=r"units.jsonl:1: the line is not a journal record"):
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
    with pytest.raises(CacheError, match=r"is not a feature cache"):
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


def test_a_sentence_that_is_changed_back_takes_a_new_row(tmp_path: Path) -> None:
    first, second = ({"caption_id": "a", "caption": text} for text in ("one", "two"))
    with writer(tmp_path / "c") as cache:
        assert [cache.allocate("text", [c]) for c in (first, second)] == [[0], [1]]
        assert cache.allocate("text", [first]) == [2]
        assert cache.allocate("text", [first]) == [2]
        assert cache.tables["text"].latest() == {"a": 2}
    with writer(tmp_path / "c") as cache:
        assert cache.allocate("text", [first]) == [2]


def test_units_are_sized_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert Layout(max_frames=12, dim=512).unit_rows("video") == 256
    assert Layout(max_frames=64, dim=768).unit_rows("video") == 32
    assert Layout(max_frames=12, dim=512).unit_rows("text") == 4096
    assert Layout(max_frames=4096, dim=1024).unit_rows("video") == 8
    assert Layout(max_frames=64, dim=512, num_patches=49).unit_rows("video") == 16
    assert Layout(max_frames=2**15, dim=1024).unit_rows("video") == 1
    assert Layout(max_frames=12, dim=512, words=True).unit_rows("text") == 256


def test_the_root_of_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    assert cache_root(tmp_path) == tmp_path / "cache"
    monkeypatch.setenv("GARE_CACHE_ROOT", "/elsewhere")
    assert cache_root(tmp_path) == Path("/elsewhere")


def test_shards_own_disjoint_units_and_give_the_bytes_of_one_writer(tmp_path: Path) -> None:
    with writer(tmp_path / "one") as cache:
        fill(cache, range(10))
    for index in (2, 1):
        with writer(tmp_path / "two", shard=Shard(index, 2)) as cache:
            rows = cache.allocate("video", [source(number) for number in range(10)])
            assert [unit.unit % 2 for unit in cache.pending("video", rows)] == [index - 1] * (
                3 - index
            )
            fill(cache, range(10))
    assert chunk_bytes(tmp_path / "two") == chunk_bytes(tmp_path / "one")
    names = {path.name for path in (tmp_path / "two/journal").iterdir()}
    assert names == {"worker-1-of-2.jsonl", "worker-2-of-2.jsonl"}
    with writer(tmp_path / "two"):
        pass  # finalises the tables
    one, two = (open_cache(tmp_path / name) for name in ("one", "two"))
    assert one.content_digest == two.content_digest
    assert (tmp_path / "one/items.parquet").read_bytes() == (
        tmp_path / "two/items.parquet"
    ).read_bytes()


def test_shards_that_allocate_at_once_agree_on_the_rows(tmp_path: Path) -> None:
    with (
        writer(tmp_path, shard=Shard(1, 2)) as first,
        writer(tmp_path, shard=Shard(2, 2)) as second,
    ):
        assert fill(first, [5, 3, 4]) == [0, 1, 2]
        assert fill(second, [9, 3]) == [3, 1]
        assert fill(first, [9, 8]) == [3, 4]
    found = open_cache(tmp_path)
    assert [row["video_id"] for row in found.tables["video"].sources] == [
        "v5", "v3", "v4", "v9", "v8",
    ]  # fmt: skip
    assert found.counts("video") == {"ok": 4, "failed": 0, "pending": 1}  # row 4 is the second's


def test_a_shard_leaves_the_temporary_files_of_others_alone(tmp_path: Path) -> None:
    with writer(tmp_path, shard=Shard(1, 2)) as cache:
        fill(cache, range(4))
        in_use = tmp_path / "features.zarr/video/frames/c/0/0/0.partial"
        in_use.write_bytes(b"half")
        with writer(tmp_path, shard=Shard(2, 2)):
            assert in_use.exists()
    with writer(tmp_path, shard=Shard(2, 2)):
        assert not in_use.exists()


def test_failed_rows_are_tried_again_when_asked_and_a_success_supersedes(tmp_path: Path) -> None:
    with writer(tmp_path) as cache:
        fail(cache, 0)
        fill(cache, [1, 2])
        assert cache.pending("video", [0, 1, 2]) == []
    with writer(tmp_path, retry_failed=True, shard=Shard(1, 1)) as cache:
        assert [unit.rows for unit in cache.pending("video", [0, 1, 2])] == [(0,)]
        fill(cache, [0])
    # The success stands in a file that sorts behind; a later failure in one that sorts before.
    assert open_cache(tmp_path).counts("video") == {"ok": 3, "failed": 0, "pending": 0}
    assert np.isfinite(open_cache(tmp_path).videos(["v0", "v2"]).frames[:, :2]).all()
    with writer(tmp_path / "straight") as cache:
        fill(cache, [0, 1, 2])
    for name, content in chunk_bytes(tmp_path / "straight").items():
        assert (tmp_path / "features.zarr" / name).read_bytes() == content, name
    assert open_cache(tmp_path / "straight").content_digest == open_cache(tmp_path).content_digest


def test_what_holds_is_the_last_record_whatever_its_file(tmp_path: Path) -> None:
    with writer(tmp_path, shard=Shard(1, 1)) as cache:
        fill(cache, [0])
    with writer(tmp_path) as cache:
        rows = cache.allocate("video", [source(0)])
        cache.tables["video"].outcomes.forget(0, 1)
        (unit,) = cache.pending("video", rows)
        values = {spec.name: spec.empty(1) for spec in LAYOUT.arrays("video")}
        outcomes = [journal.RowOutcome(0, reason="gone bad")]
        cache.commit(unit, values, outcomes, thumbnails={}, seconds={})
    assert open_cache(tmp_path).failures() == {"v0": "gone bad"}


def test_every_commit_is_told_and_may_stop_the_writing(tmp_path: Path) -> None:
    told: list[int] = []

    def stop(record: journal.UnitRecord) -> None:
        told.append(record.unit)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), writer(tmp_path, on_commit=stop) as cache:
        fill(cache, range(10))
    assert told == [0, 1]
    assert open_cache(tmp_path).counts("video")["ok"] == 8


def test_an_unfinished_write_into_a_unit_with_done_rows_leaves_no_trace(tmp_path: Path) -> None:
    with writer(tmp_path / "straight") as cache:
        fill(cache, range(2))
        fill(cache, range(3))
    with writer(tmp_path / "stopped") as cache:
        fill(cache, range(2))
    with writer(tmp_path / "stopped") as cache, pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "append", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            fill(cache, [0, 1, 2, 3])
    with writer(tmp_path / "stopped") as cache:
        fill(cache, range(3))
    frames = "video/frames/c/0/0/0"
    assert chunk_bytes(tmp_path / "stopped")[frames] == chunk_bytes(tmp_path / "straight")[frames]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_damaged_unit_is_not_passed_on_with_a_new_checksum(tmp_path: Path) -> None:
    with writer(tmp_path) as cache:
        fill(cache, range(2))
    path = tmp_path / "features.zarr/video/frames/c/0/0/0"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with (
        writer(tmp_path) as cache,
        pytest.raises(CacheError, match=r"frames/c/0/0/0 does not have the checksum .*--drop-dam"),
    ):
        fill(cache, range(3))


@pytest.mark.parametrize("damage", ["missing", "short", "long", "empty"])
def test_chunks_that_contradict_the_journal_are_refused(tmp_path: Path, damage: str) -> None:
    with writer(tmp_path) as cache:
        fill(cache, range(6))
    path = tmp_path / "features.zarr/video/times/c/1/0"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
        expected = r"chunk video/times/c/1/0 is missing, though the journal has it"
    else:
        path.write_bytes({"short": content[:-1], "long": content + b"x", "empty": b""}[damage])
        expected = r"chunk video/times/c/1/0 has \d+ bytes instead of 48"
    advice = r".*run `gare-cache verify --drop-damaged`, then `gare-cache extract`"
    with pytest.raises(CacheError, match=expected + advice):
        open_cache(tmp_path)
    with pytest.raises(CacheError, match=expected + advice):
        writer(tmp_path).__enter__()


def test_two_items_with_one_id_are_refused(tmp_path: Path) -> None:
    with writer(tmp_path) as cache:
        with pytest.raises(CacheError, match=r"2 video items have the id 'v1'; give every item"):
            cache.allocate("video", [source(1), source(2), source(1, size=7)])
        with pytest.raises(CacheError, match=r"2 text items have the id 'v1#0'"):
            cache.allocate("text", [caption(1), {**caption(1), "caption": "another"}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows[:1], {**rows[0], "row": 1}], r"item 'v0' has two rows"),
        (lambda rows: [rows[0], {**rows[1], "row": 0}], r"not numbered from 0 to 1"),
        (lambda rows: rows[:1], r"unit 0 holds video row 1, but there is 1 row"),
    ],
)
def test_a_table_that_contradicts_itself_or_the_journal_is_refused(
    tmp_path: Path, change: Any, message: str
) -> None:
    with writer(tmp_path) as cache:
        fill(cache, range(2))
    path = tmp_path / "items.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), path)
    with pytest.raises(CacheError, match=message):
        open_cache(tmp_path)
    path.write_bytes(b"PAR1 no table at all")
    with pytest.raises(CacheError, match=r"items.parquet is not a cache table"):
        open_cache(tmp_path)


def test_metadata_that_is_damaged_is_refused(tmp_path: Path) -> None:
    with writer(tmp_path) as cache:
        fill(cache, range(2))
    path = tmp_path / "features.zarr/video/frames/zarr.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps({**metadata, "data_type": "float32"}))
    with pytest.raises(CacheError, match=r"not that of the raw array of rows \(3, 4\) <f2"):
        open_cache(tmp_path)
    (tmp_path / "features.zarr/zarr.json").write_text("{")
    with pytest.raises(CacheError, match=r"features.zarr/zarr.json is missing or damaged"):
        open_cache(tmp_path)


def test_captions_are_read_by_id(tmp_path: Path) -> None:
    with writer(tmp_path) as cache:
        fill_captions(cache, range(10))
    found = open_cache(tmp_path).captions(["v9#0", "v0#0"])
    np.testing.assert_array_equal(found, [[9.5, 10.5, 11.5, 12.5], [0.5, 1.5, 2.5, 3.5]])


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"the disk is full; free some space, or put the caches elsewhere with \$GA"),
        (errno.EDQUOT, r"the disk quota is used up"),
        (errno.EFBIG, r"the limit of a file's size is reached; raise `ulimit -f`"),
        (errno.EROFS, r"the folder is read-only; make it writable"),
        (errno.EACCES, r"there is no permission to write"),
        (errno.EIO, r"the disk reports an input/output error; check the disk"),
    ],
)
def test_what_the_machine_refuses_is_explained(tmp_path: Path, number: int, message: str) -> None:
    with (
        pytest.raises(EnvironmentFailure, match=f"cannot write to {tmp_path}: {message}") as caught,
        environment_errors(tmp_path),
    ):
        raise OSError(number, "refused")
    assert caught.value.exit_code == 1
    with pytest.raises(ConnectionError), environment_errors(tmp_path):
        raise ConnectionResetError(errno.ECONNRESET, "something else")
