from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gare_cache.annotations.record import AnnotationRecord
from gare_cache.errors import AnnotationError, ConfigError
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


def test_a_paragraph_joins_a_videos_sentences_in_their_order(tmp_path: Path) -> None:
    records = [record("a.mp4", "He sits."), record("b", "A cat."), record("a", "He stands.")]
    records += [record("c", "Go.", start_seconds=float(s), end_seconds=s + 1.0) for s in (0, 1)]

    def captions(kind: str) -> list[tuple[str, str]]:
        manifest = build_manifest(records, [], val_fraction=0, test_fraction=0, captions=kind)
        rows = manifest.captions.select(["caption_id", "caption"]).to_pylist()
        return [(row["caption_id"], row["caption"]) for row in rows]

    assert captions("paragraph") == [
        ("a#paragraph", "He sits. He stands."),
        ("b#paragraph", "A cat."),
        ("c@0-1#paragraph", "Go."),
        ("c@1-2#paragraph", "Go."),
    ]
    assert captions("each")[:2] == [("a#0", "He sits."), ("a#1", "He stands.")]
    with pytest.raises(ConfigError, match=r"unknown dataset.captions 'paragraphs'; did you mean"):
        captions("paragraphs")


def test_a_caption_with_a_key_keeps_it_as_its_id() -> None:
    records = [record("a", "one"), replace(record("a", "two"), caption_key="query")]
    manifest = build_manifest(records, [], val_fraction=0, test_fraction=0)
    assert manifest.captions["caption_id"].to_pylist() == ["a#0", "a#query"]


def test_repeated_and_shared_sentences_are_counted() -> None:
    said = {"a": ["x", "x", "y", "x"], "b": ["x", "z"], "c": ["z"], "d": ["z", "z"]}
    split = {"a": "train", "b": "train", "c": "test", "d": "train"}
    records = [record(id_, text, split[id_]) for id_, texts in said.items() for text in texts]
    splits = build_manifest(records, [], val_fraction=0, test_fraction=0).summary()["splits"]
    train = {"captions": 8, "repeated_captions": 3}
    # x stands for a (3 times) and b; z for b and, twice, d: c is in another split.
    train |= {"shared_sentences": 2, "captions_with_shared_sentence": 7}
    assert splits["train"] == {"videos": 3, "missing_videos": 3, **train}
    assert splits["test"]["captions"] == 1
    assert splits["test"]["captions_with_shared_sentence"] == 0


def test_several_roots_and_relative_names(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.mp4", "two/a.mp4", "two/sub/b.mp4")
    roots = [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(AnnotationError, match=r"'a' matches 2 files: .*one/a.mp4, .*two/a.mp4"):
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
    with pytest.raises(AnnotationError, match=r"'a' is in two splits: train .*and test"):
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
