import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gare_cache.cache import journal
from gare_cache.cache.chunks import checksum, read_chunk, write_chunk
from gare_cache.cache.journal import RowOutcome, UnitRecord, append
from gare_cache.cache.reader import open_cache, open_unchecked
from gare_cache.cache.verify import num_steps, verify_cache
from gare_cache.cache.writer import drop_units
from gare_cache.errors import CacheError
from gare_cache.files import file_digest
from tests.cache.made import (
    LAYOUT,
    NAME,
    chunk_files,
    features,
    fill,
    make,
    manifest,
    source,
    writer,
)

pytestmark = pytest.mark.usefixtures("small_units")

ARRAYS = {spec.name: spec for kind in ("video", "text") for spec in LAYOUT.arrays(kind)}  # type: ignore[arg-type]


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_an_intact_cache_has_no_faults(tmp_path: Path) -> None:
    steps: list[int] = []
    found = verify_cache(make(tmp_path), on_step=steps.append)
    assert found.faults == []
    assert found.num_chunks == len(chunk_files(tmp_path)) == 3 * 3 + 2
    assert found.num_bytes == sum(path.stat().st_size for path in chunk_files(tmp_path))
    assert len(steps) == num_steps(tmp_path) == 5
    low, high = found.norms["video/frames"]
    assert low == pytest.approx(0.5)  # four times 0.25
    assert high == pytest.approx(19.0)  # four times 9.5


@pytest.mark.slow
def test_a_bit_flipped_anywhere_is_found(tmp_path: Path) -> None:
    """Every byte of every chunk once, a random bit of each, padding rows included."""
    make(tmp_path, videos=6)
    generator = np.random.default_rng(0)
    for path in chunk_files(tmp_path):
        array = str(path.relative_to(tmp_path / "features.zarr")).split("/c/")[0]
        step = 1 if path.stat().st_size < 100 else 7
        for byte in range(0, path.stat().st_size, step):
            bit = 8 * byte + int(generator.integers(8))
            flip(path, bit)
            faults = verify_cache(tmp_path).faults
            flip(path, bit)
            files = {fault.file for fault in faults}
            assert str(path.relative_to(tmp_path)) in files, (path, bit)
            assert {fault.unit[0] for fault in faults if fault.unit} == {array.split("/")[0]}
    assert verify_cache(tmp_path).faults == []


@pytest.mark.parametrize("name", ["video/frames", "video/times", "text/features"])
@pytest.mark.parametrize("change", ["missing", "short"])
def test_a_chunk_that_is_missing_or_short_is_found_and_made_anew(
    tmp_path: Path, name: str, change: str
) -> None:
    make(tmp_path)
    digest = open_cache(tmp_path).content_digest
    path = next((tmp_path / "features.zarr" / name / "c").rglob("0"))
    path = path if path.is_file() else next(p for p in path.rglob("*") if p.is_file())
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    (fault,) = verify_cache(tmp_path).faults
    kind = name.split("/")[0]
    assert fault.unit == (kind, 0)
    assert str(fault).startswith(f"features.zarr/{name}/c/0")
    assert "--drop-damaged" in str(fault)
    drop_units(tmp_path, [fault.unit])
    counts = open_cache(tmp_path).counts(kind)  # type: ignore[arg-type]
    assert counts["pending"] == (4 if kind == "video" else 8)
    make(tmp_path)
    assert verify_cache(tmp_path).faults == []
    assert open_cache(tmp_path).content_digest == digest


def journalled(folder: Path, name: str, change: Any) -> None:
    """Change the values of a unit and record the right checksum for them."""
    spec = ARRAYS[name]
    chunk = read_chunk(folder, spec, 0, unit_rows=4 if name.startswith("video") else 8).copy()
    change(chunk)
    write_chunk(folder, spec, 0, chunk)
    cache = open_unchecked(folder, journal.read(folder))
    kind: Any = name.split("/")[0]
    checksums = {**cache.tables[kind].checksums[0], name: checksum(chunk)}
    append(folder / "journal/units.jsonl", UnitRecord(99, kind, 0, [], checksums, {}))


def put(index: Any, value: float) -> Any:
    return lambda chunk: chunk.__setitem__(index, value)


@pytest.mark.parametrize(
    ("name", "change", "problem", "rows"),
    [
        ("video/frames", put((1, 0, 2), np.nan), "not finite in real frames", (1,)),
        ("video/frames", put((1, 1, 2), np.inf), "not finite in real frames", (1,)),
        ("video/frames", put((3, 2), 1.0), "values on padding frames", (3,)),
        ("video/frames", put((0, 0), 0.0), "vectors of length zero", (0,)),
        ("video/times", put((2, 1), np.nan), "not finite in real frames", (2,)),
        ("video/times", put((2, 2), 5.0), "values on padding frames", (2,)),
        ("video/num_frames", put(1, 0), "counts that contradict the journal", (1,)),
        ("video/num_frames", put((2,), 4), "counts that contradict the journal", (2,)),
        ("text/features", put((5, 0), np.nan), "values that are not finite", (5,)),
        ("text/features", put((6,), 0.0), "vectors of length zero", (6,)),
    ],
)
def test_values_that_cannot_be_are_found_though_their_checksum_is_right(
    tmp_path: Path, name: str, change: Any, problem: str, rows: tuple[int, ...]
) -> None:
    make(tmp_path)
    journalled(tmp_path, name, change)
    faults = verify_cache(tmp_path).faults
    (fault,) = [fault for fault in faults if problem in fault.problem and name in fault.file]
    assert fault.rows == rows
    assert fault.unit == (name.split("/")[0], 0)


def test_imported_features_without_times_are_no_fault(tmp_path: Path) -> None:
    make(tmp_path)
    journalled(tmp_path, "video/times", put(1, np.nan))
    assert verify_cache(tmp_path).faults == []


def test_what_a_stopped_write_left_is_told_apart_from_damage(tmp_path: Path) -> None:
    with writer(tmp_path) as cache:
        fill(cache, range(2))
    with writer(tmp_path) as cache:
        cache.allocate("video", [source(2)])
    spec = ARRAYS["video/frames"]
    chunk = read_chunk(tmp_path, spec, 0, unit_rows=4).copy()
    chunk[2] = 7
    write_chunk(tmp_path, spec, 0, chunk)
    faults = [f for f in verify_cache(tmp_path).faults if "journal" in f.problem or f.harmless]
    (fault,) = faults
    assert fault.harmless
    assert "rows that are not done hold data" in str(fault)
    with writer(tmp_path) as cache:
        fill(cache, range(3))
    assert verify_cache(tmp_path).faults == []


def test_sources_are_compared_with_what_was_encoded(tmp_path: Path) -> None:
    videos = [tmp_path / f"v{number}.mp4" for number in range(4)]
    for number, path in enumerate(videos):
        path.write_bytes(b"video %d" % number)
    with writer(tmp_path / "c") as cache:
        sources = [
            {
                **source(number),
                "path": str(path),
                "size_bytes": path.stat().st_size,
                "mtime_ns": path.stat().st_mtime_ns,
            }
            for number, path in enumerate(videos)
        ]
        (unit,) = cache.pending("video", cache.allocate("video", sources))
        outcomes = [RowOutcome(row, digest=file_digest(videos[row])) for row in unit.rows]
        cache.commit(unit, features(unit.rows), outcomes, thumbnails={}, seconds={})
    assert verify_cache(tmp_path / "c").faults == []
    videos[0].unlink()
    stat = videos[1].stat()
    videos[1].write_bytes(b"video X")
    os.utime(videos[1], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    videos[2].write_bytes(b"longer than before")
    found = verify_cache(tmp_path / "c")
    assert (found.sources_read, found.sources_absent) == (3, 1)
    same_date, other_date = found.faults
    assert same_date.file == str(videos[1])
    assert same_date.rows == (1,)
    assert same_date.unit == ("video", 0)
    assert other_date.file == str(videos[2])
    assert other_date.unit is None
    assert "gare-cache prepare" in other_date.remedy
    assert verify_cache(tmp_path / "c", sources=False).faults == []


def test_the_tensors_that_heads_start_from_are_checked(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "encoder_init.safetensors"
    flip(path, 8 * (path.stat().st_size - 1))
    (fault,) = verify_cache(tmp_path).faults
    assert str(fault).startswith("encoder_init.safetensors: it is not what was written; delete")
    path.unlink()
    (fault,) = verify_cache(tmp_path).faults
    assert "it is missing" in str(fault)
    make(tmp_path)
    assert verify_cache(tmp_path).faults == []


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no feature cache at"):
        verify_cache(tmp_path)


def array_files(folder: Path) -> list[Path]:
    return [folder / "features.zarr" / name / "zarr.json" for name in ARRAYS]


@pytest.mark.parametrize("change", ["missing", "cut", "another rows per chunk"])
def test_metadata_that_are_lost_or_damaged_are_found_and_written_again(
    tmp_path: Path, change: str
) -> None:
    make(tmp_path)
    digest = open_cache(tmp_path).content_digest
    for path in array_files(tmp_path):
        content = path.read_text()
        if change == "missing":
            path.unlink()
        elif change == "cut":
            path.write_text(content[:90])
        else:
            metadata = json.loads(content)
            metadata["chunk_grid"]["configuration"]["chunk_shape"][0] += 1
            path.write_text(json.dumps(metadata))
        try:
            faults = [str(fault) for fault in verify_cache(tmp_path).faults]
        except CacheError as err:  # the cache cannot be read at all
            faults = [str(err)]
        assert any(str(path.relative_to(tmp_path)) in fault for fault in faults), (path, faults)
        assert all("gare-cache extract" in fault for fault in faults)
        make(tmp_path)
        assert verify_cache(tmp_path).faults == []
        assert json.loads(path.read_text())["chunk_grid"] == json.loads(content)["chunk_grid"]
    assert open_cache(tmp_path).content_digest == digest


@pytest.mark.parametrize("change", ["missing", "cut", "no attributes", "renamed identity"])
def test_attributes_that_are_lost_or_damaged_are_found_and_written_again(
    tmp_path: Path, change: str
) -> None:
    make(tmp_path)
    digest = open_cache(tmp_path).content_digest
    path = tmp_path / "features.zarr" / "zarr.json"
    content = path.read_text()
    attributes = json.loads(content)["attributes"]
    if change == "missing":
        path.unlink()
    elif change == "cut":
        path.write_text(content[:90])
    elif change == "no attributes":
        path.write_text(json.dumps({"zarr_format": 3, "node_type": "group"}))
    else:
        path.write_text(content.replace(attributes["encoder_id"], "f" * 64))
    with pytest.raises(CacheError, match=r"gare-cache extract"):
        verify_cache(tmp_path)
    make(tmp_path)
    assert verify_cache(tmp_path).faults == []
    assert dict(open_cache(tmp_path).attributes) == attributes
    assert open_cache(tmp_path).content_digest == digest


@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_journal_that_was_emptied_or_shortened_is_found(tmp_path: Path, left: int) -> None:
    make(tmp_path)
    path = tmp_path / "journal/units.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:left]))
    faults = verify_cache(tmp_path).faults
    videos = max(0, 10 - 4 * left)
    expected = [f"{videos} rows that were done are lost"] if videos else []
    assert [fault.problem.removeprefix("the records of ") for fault in faults] == [
        *expected,
        "10 rows that were done are lost",
    ]
    assert "video units 0, 1, 2" in faults[0].file or left
    make(tmp_path)
    assert verify_cache(tmp_path).faults == []


def test_damaged_lines_of_the_journal_are_left_out_on_request(tmp_path: Path) -> None:
    make(tmp_path)
    digest = open_cache(tmp_path).content_digest
    flip(tmp_path / "journal/units.jsonl", 800)
    with pytest.raises(
        CacheError, match=r"units.jsonl:1: the line is not .*; run .*--drop-damaged"
    ):
        open_cache(tmp_path)
    faults = [str(fault) for fault in verify_cache(tmp_path).faults]
    assert faults[0].startswith("journal/units.jsonl:1: the line is not a journal record")
    assert "the records of 4 rows that were done are lost" in faults[1]
    drop_units(tmp_path, [])
    assert open_cache(tmp_path).counts("video")["pending"] == 4
    make(tmp_path)
    assert verify_cache(tmp_path).faults == []
    assert open_cache(tmp_path).content_digest == digest


def test_dropped_units_are_not_lost_records(tmp_path: Path) -> None:
    make(tmp_path)
    drop_units(tmp_path, [("video", 1)])
    assert verify_cache(tmp_path).faults == []


def test_the_manifest_of_a_cache_is_checked(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "manifest/videos.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:200])
    (fault,) = verify_cache(tmp_path).faults
    assert fault.file == "manifest"
    assert "cannot be read as Parquet" in fault.problem
    path.unlink()
    (fault,) = verify_cache(tmp_path).faults
    assert str(fault).startswith("manifest: videos.parquet missing; run `gare-cache extract`")
    manifest(12).write(tmp_path / "manifest")
    assert [str(fault) for fault in verify_cache(tmp_path).faults] == [
        "items.parquet: 2 videos have no row (first: 'v10'); run `gare-cache extract`",
        "captions.parquet: 2 captions have no row (first: 'v10#0'); run `gare-cache extract`",
    ]
    shutil.rmtree(tmp_path / "manifest")
    (fault,) = verify_cache(tmp_path).faults
    assert str(fault).startswith("manifest: videos.parquet and captions.parquet missing; run")


def test_a_folder_under_the_name_of_another_extraction_is_a_fault(tmp_path: Path) -> None:
    make(tmp_path / NAME)
    assert verify_cache(tmp_path / NAME).faults == []
    (tmp_path / NAME).rename(tmp_path / "d-0123456789ab")
    (fault,) = verify_cache(tmp_path / "d-0123456789ab").faults
    assert f"it holds extraction {NAME[2:]}" in str(fault)
