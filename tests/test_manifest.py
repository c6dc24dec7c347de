from pathlib import Path
from typing import Any

import pytest

from gare_cache.annotations.record import AnnotationRecord
from gare_cache.errors import AnnotationError
from gare_cache.manifest import Manifest, build_manifest, hash_fraction, read_manifest


def record(video: str, caption: str = "c", split: str | None = None, **times: Any) -> Any:
    seconds = {"start_seconds": None, "end_seconds": None, **times}
    return AnnotationRecord(video, caption, split, origin=f"file:{video}", **seconds)


def build(root: Path, records: list[Any], val: float = 0.1, test: float = 0.1) -> Manifest:
    return build_manifest(records, [root], val_fraction=val, test_fraction=test)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"video")


def column(manifest: Manifest, name: str) -> list[Any]:
    return manifest.videos[name].to_pylist()


def test_ids_paths_and_captions(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.mp4", "deep/er/b.webm", "c.AVI")
    records = [record("a.mp4", "one"), record("b", "two"), record("a", "three")]
    records += [record("c", "four", start_seconds=1.0, end_seconds=2.5), record("gone")]
    manifest = build(tmp_path, records)
    assert column(manifest, "video_id") == ["a", "b", "c@1-2.5", "gone"]
    paths = [path and str(Path(path).relative_to(tmp_path)) for path in column(manifest, "path")]
    assert paths == ["x/a.mp4", "deep/er/b.webm", "c.AVI", None]
    assert column(manifest, "size_bytes") == [5, 5, 5, None]
    rows = manifest.captions.select(["caption_id", "caption"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("a#0", "one"),
        ("a#1", "three"),
        ("b#0", "two"),
        ("c@1-2.5#0", "four"),
        ("gone#0", "c"),
    ]
    assert manifest.summary()["missing"] == ["gone"]


def test_several_roots_and_relative_names(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.mp4", "two/a.mp4", "two/sub/b.mp4")
    roots = [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(AnnotationError, match=r"'a' fits 2 files: .*one/a.mp4, .*two/a.mp4"):
        build_manifest([record("a")], roots, val_fraction=0, test_fraction=0)
    manifest = build(tmp_path, [record("two/a"), record("two/sub/b.mp4")])
    assert [Path(p).parent.name for p in column(manifest, "path")] == ["two", "sub"]


def test_splits_without_annotation_follow_the_hash_of_the_id(tmp_path: Path) -> None:
    names = [f"v{i}" for i in range(1000)]
    touch(tmp_path, *(f"{name}.mp4" for name in names))
    records = [record(name) for name in names]
    splits = dict(zip(names, column(build(tmp_path, records, 0.2, 0.1), "split"), strict=True))
    shuffled = build(tmp_path, records[::-1], 0.2, 0.1)
    pairs = zip(column(shuffled, "video_id"), column(shuffled, "split"), strict=True)
    assert dict(pairs) == splits
    counts = [list(splits.values()).count(split) for split in ("train", "val", "test")]
    assert counts[0] + counts[1] + counts[2] == 1000
    assert 170 < counts[1] < 230
    assert 70 < counts[2] < 130


def test_validation_is_cut_from_train_only_where_the_benchmark_has_none(tmp_path: Path) -> None:
    names = [f"v{i}" for i in range(200)]
    touch(tmp_path, *(f"{name}.mp4" for name in names))
    records = [record(n, split="test" if i < 50 else "train") for i, n in enumerate(names)]
    splits = column(build(tmp_path, records, 0.2), "split")
    assert splits[:50] == ["test"] * 50
    expected = ["val" if hash_fraction(name) < 0.2 else "train" for name in names[50:]]
    assert splits[50:] == expected
    records[50] = record(names[50], split="val")
    assert column(build(tmp_path, records, 0.2), "split").count("val") == 1


def test_clips_of_one_video_share_its_split(tmp_path: Path) -> None:
    touch(tmp_path, *(f"v{i}.mp4" for i in range(50)))
    records = [
        record(f"v{i}", start_seconds=float(s), end_seconds=s + 1.0)
        for i in range(50)
        for s in range(4)
    ]
    splits = column(build(tmp_path, records, 0.3, 0.3), "split")
    assert all(len(set(splits[4 * i : 4 * i + 4])) == 1 for i in range(50))
    assert set(splits) == {"train", "val", "test"}


def test_faults(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "notes.txt")
    with pytest.raises(AnnotationError, match=r"'a' stands in two splits: train .*and test"):
        build(tmp_path, [record("a", split="train"), record("a", split="test")])
    with pytest.raises(AnnotationError, match=r"none of the 2 annotated videos .*1 video files"):
        build(tmp_path, [record("b"), record("c")])
    with pytest.raises(AnnotationError, match=r"video folder .*nowhere does not exist"):
        build(tmp_path / "nowhere", [record("a")])


def test_round_trip(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    manifest = build(tmp_path, [record("a"), record("b")])
    with pytest.raises(AnnotationError, match=r"run `gare-cache prepare` first"):
        read_manifest(tmp_path / "manifest")
    manifest.write(tmp_path / "manifest")
    found = read_manifest(tmp_path / "manifest")
    assert found.videos.equals(manifest.videos)
    assert found.captions.equals(manifest.captions)
