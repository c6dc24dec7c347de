"""Parts of one extraction that were written apart are joined to the bytes of one writer."""

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from gare_cache.cache import schema
from gare_cache.cache.lock import Shard
from gare_cache.cache.verify import verify_cache
from gare_cache.errors import CacheError
from gare_cache.stages.cache_folders import collect_garbage, merge_caches, pack_cache
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from tests.stages.extraction import arrays, assert_equal_bytes
from tests.tiny import change_params, workspace


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    monkeypatch.setattr(schema, "_MOST_ROWS", {"video": 4, "text": 8})
    monkeypatch.setattr(schema, "_MOST_ROWS_OF_WORDS", 8)


@pytest.fixture
def parts(project: Path, tmp_path: Path) -> list[Path]:
    """The caches of two shards, each from an empty root; the project is prepared alone."""
    change_params(project, extract__word_tokens=True)
    prepare(workspace(project))
    return [part_of(project, tmp_path / f"machine {i}", shard=Shard(i, 2)) for i in (1, 2)]


def part_of(project: Path, place: Path, **options: Any) -> Path:
    extract(workspace(project), **options)
    (folder,) = (project / "cache").iterdir()
    place.mkdir()
    folder.rename(place / folder.name)
    workspace(project).features.unlink(missing_ok=True)
    return place / folder.name


def test_packed_shards_become_the_cache_of_one_writer(
    project: Path, parts: list[Path], tmp_path: Path
) -> None:
    files = [tmp_path / "1.tar", tmp_path / "2.tar"]
    with pytest.raises(CacheError, match=r"is not finished; .*pack it with --part"):
        pack_cache(workspace(project), str(parts[0]), files[0])
    for part, file in zip(parts, files, strict=True):
        pack_cache(workspace(project), str(part), file, part=True)
    said = list(merge_caches(project, files[:1]))
    assert re.search("6 videos and 12 captions are still missing", said[1])
    said = list(merge_caches(project, files))
    assert said[0].endswith("0 items taken, 24 known already")
    assert said[1].endswith("18 items taken, 0 known already")
    assert said[2].endswith("nothing is missing; run `gare-cache extract --finalise`")
    extract(workspace(project), finalise=True)
    merged, features = arrays(project), workspace(project).features.read_bytes()
    (folder,) = (project / "cache").iterdir()
    assert verify_cache(folder).faults == []
    pictures = {path.name for path in (folder / "thumbnails").rglob("*.jpg")}
    part_of(project, tmp_path / "merged", finalise=True)
    extract(workspace(project))
    assert_equal_bytes(merged, arrays(project))
    assert workspace(project).features.read_bytes() == features
    (folder,) = (project / "cache").iterdir()
    assert {path.name for path in (folder / "thumbnails").rglob("*.jpg")} == pictures


def test_features_replace_a_failure(project: Path, tmp_path: Path) -> None:
    prepare(workspace(project))
    change_params(project, extract__max_failed_percent=50.0)
    video = project / "videos/train/train1.mp4"
    video.rename(tmp_path / "aside")
    with_failure = part_of(project, tmp_path / "one")
    (tmp_path / "aside").rename(video)
    whole = part_of(project, tmp_path / "other")
    assert [line.split(": ")[1] for line in merge_caches(project, [with_failure, whole])][:2] == [
        "42 items taken, 0 known already",
        "1 item taken, 41 known already",
    ]
    extract(workspace(project), finalise=True)
    merged = arrays(project)
    shutil.rmtree(project / "cache")
    extract(workspace(project))
    assert_equal_bytes(merged, arrays(project))


def test_parts_that_do_not_fit_are_refused(
    project: Path, parts: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(CacheError, match=r"there is no .*nowhere; give cache folders or files"):
        list(merge_caches(project, [parts[0], tmp_path / "nowhere"]))

    change_params(project, extract__max_frames_cached=2)
    other = part_of(project, tmp_path / "other", shard=Shard(2, 2))
    with pytest.raises(CacheError, match="encoder, sampling or versions differ"):
        list(merge_caches(project, [parts[0], other]))

    change_params(project, extract__max_frames_cached=4)
    with (project / "captions.csv").open() as file:
        rows = list(csv.reader(file))
    rows[1][1] = "another sentence"
    with (project / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    prepare(workspace(project))
    other = part_of(project, tmp_path / "changed", shard=Shard(2, 2))
    with pytest.raises(CacheError, match="were made from different manifests; run `gare-cache"):
        list(merge_caches(project, [parts[0], other]))

    list(merge_caches(project, [parts[0]]))
    (target,) = (project / "cache").iterdir()
    with pytest.raises(CacheError, match="is the cache that the parts are merged into"):
        list(merge_caches(project, [target, parts[1]]))


def test_a_damaged_part_is_refused(project: Path, parts: list[Path]) -> None:
    chunk = next(path for path in parts[1].rglob("features.zarr/video/frames/c/*/0/0"))
    chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 1]) + chunk.read_bytes()[1:])
    with pytest.raises(CacheError, match="is damaged: "):
        list(merge_caches(project, parts))


def test_what_an_interrupted_merge_leaves_is_garbage(project: Path, parts: list[Path]) -> None:
    list(merge_caches(project, parts))
    (project / "cache" / "merging-x" / "0").mkdir(parents=True)
    listed = list(collect_garbage(project, (), remove_them=False))
    assert any("merging-x" in line and "parts of a merge" in line for line in listed)
