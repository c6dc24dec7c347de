import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gare_cache.cache.chunks import checksum, read_chunk, write_chunk
from gare_cache.cache.journal import RowOutcome, UnitRecord, append
from gare_cache.cache.reader import open_cache, open_unchecked
from gare_cache.cache.verify import num_steps, verify_cache
from gare_cache.cache.writer import drop_units
from gare_cache.errors import CacheError
from gare_cache.files import file_digest
from tests.cache.made import LAYOUT, chunk_files, features, fill, make, source, writer

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
    cache = open_unchecked(folder)
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
