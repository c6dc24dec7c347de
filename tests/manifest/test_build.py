from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gare_cache.annotations.record import AnnotationRecord
from gare_cache.errors import AnnotationError, ConfigError
from gare_cache.manifest.build import build_manifest
from gare_cache.manifest.splits import hash_fraction
from gare_cache.manifest.tables import Manifest, read_manifest


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
    assert manifest.summary()["missing"] == {"gone": "file:gone: gone"}


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
    # Where no split is small, a video's split depends on its own id alone.
    assert all(("test" if hash_fraction(n) < 0.1 else None) in (splits[n], None) for n in names)


@pytest.mark.parametrize(("num_videos", "held_out"), [(27, 5), (100, 20), (150, 30)])
def test_a_split_by_hash_has_a_minimum_size(num_videos: int, held_out: int) -> None:
    # By the shares alone, 27 videos gave 21 / 1 / 5.
    records = [record(f"v{i}") for i in range(num_videos)]
    manifest = build_manifest(records, [], val_fraction=0.1, test_fraction=0.1)
    counts = {split: column(manifest, "split").count(split) for split in ("val", "test")}
    assert held_out <= min(counts.values()) <= max(counts.values()) <= held_out + 3
    annotated = [record(f"v{i}", split="train") for i in range(num_videos)]
    manifest = build_manifest(annotated, [], val_fraction=0.1, test_fraction=0.0)
    assert held_out <= column(manifest, "split").count("val") <= held_out + 3
    whole = build_manifest(records, [], val_fraction=0.0, test_fraction=0.0)
    assert set(column(whole, "split")) == {"train"}


def test_names_of_one_file_are_one_video_in_one_split(tmp_path: Path) -> None:
    touch(tmp_path, "sub/d.mp4", "b.mp4")
    names = ["sub/d.mp4", "sub//d.mp4", "d.mp4", "./b.mp4", "x/../b", str(tmp_path / "b.mp4")]
    manifest = build(tmp_path, [record(name) for name in names])
    assert column(manifest, "video_id") == ["d", "b"]
    assert manifest.captions["caption_id"].to_pylist() == ["d#0", "d#1", "d#2", "b#0", "b#1", "b#2"]
    splits = [record("sub/d", split="train"), record("sub//d.mp4", split="test")]
    with pytest.raises(AnnotationError, match=r"'sub/d' is in two splits: train \(file:sub/d: sub"):
        build(tmp_path, splits)
    (tmp_path / "again.mp4").symlink_to(tmp_path / "b.mp4")
    splits = [record("b", split="train"), record("again.mp4", split="test")]
    with pytest.raises(AnnotationError, match=r"test \(file:again.mp4: again.mp4\)"):
        build(tmp_path, splits)
    kept = build(tmp_path, [record("b", split="test"), record("again", split="test")])
    assert column(kept, "video_id") == ["b", "again"]
    for number in range(20):
        (tmp_path / f"link{number}.mp4").symlink_to(tmp_path / "b.mp4")
    names = ["b", *(f"link{number}" for number in range(20)), *(f"v{i}" for i in range(50))]
    hashed = build(tmp_path, [record(name) for name in names], val=0.4, test=0.4)
    assert len(set(column(hashed, "split")[:21])) == 1


def test_an_accent_may_be_stored_in_two_ways(tmp_path: Path) -> None:
    composed, decomposed = "café.mp4", "café.mp4"
    touch(tmp_path, decomposed)
    manifest = build(tmp_path, [record(composed), record(decomposed)])
    assert column(manifest, "video_id") == ["café"]


def test_a_link_to_a_folder_above_is_not_walked_for_ever(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert column(build(tmp_path, [record("a")]), "video_id") == ["a"]


@pytest.mark.parametrize("on_disk", [True, False])
def test_two_files_of_one_stem_are_not_one_video(tmp_path: Path, on_disk: bool) -> None:
    touch(tmp_path, "other.mp4", *(("a.mp4", "a.mkv") if on_disk else ()))
    records = [record("other"), record("a.mp4"), record("a.mkv")]
    message = r"^file:a.mkv: a.mkv: its id would be 'a', which is that of a.mp4 \(file:a.mp4\)"
    with pytest.raises(AnnotationError, match=message):
        build(tmp_path, records)


def test_clip_ids_hold_every_digit_and_collide_with_no_file(tmp_path: Path) -> None:
    touch(tmp_path, "clip.mp4", "clip@1-2.mp4")
    times = [(1234567.25, 1234568.5), (1234567.26, 1234568.5), (0.0, 1e-7), (None, 3.0), (0.0, 3.0)]
    records = [record("clip", start_seconds=a, end_seconds=b) for a, b in times]
    records.append(record("clip", start_seconds=0.0))
    assert column(build(tmp_path, records), "video_id") == [
        "clip@1234567.25-1234568.5",
        "clip@1234567.26-1234568.5",
        "clip@0-0.0000001",
        "clip@0-3",
        "clip",
    ]
    one, two = record("clip@1-2.mp4"), record("clip.mp4", start_seconds=1.0, end_seconds=2.0)
    for pair in ([one, two], [two, one]):
        with pytest.raises(AnnotationError, match=r"its id would be 'clip@1-2', which is that of"):
            build(tmp_path, pair)
        with pytest.raises(AnnotationError, match=r"its id would be 'clip@1-2', which is that of"):
            build_manifest(pair, [], val_fraction=0, test_fraction=0)


def test_a_missing_video_is_named_as_typed_with_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "a/one.mov", "b.mp4")
    records = [record("a/one.avi"), record("x/ONE"), record("b")]
    assert build(tmp_path, records).summary()["missing"] == {
        "a/one": "file:a/one.avi: a/one.avi; a/one.mov exists",
        "x/ONE": "file:x/ONE: x/ONE; a/one.mov exists",
    }


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
    message = r"none of the 2 annotated videos .*1 video file .*dataset.video_roots"
    with pytest.raises(AnnotationError, match=message):
        build(tmp_path, [record("b"), record("c")])
    with pytest.raises(AnnotationError, match=r"dataset.video_roots: /.*nowhere does not"):
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


def test_a_path_with_its_extension_comes_before_files_in_subfolders(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "sub/a.mp4")
    for name in ("./a.mp4", "a.mp4", str(tmp_path / "a.mp4"), str(tmp_path / "a")):
        assert column(build(tmp_path, [record(name)]), "path") == [str(tmp_path / "a.mp4")]
    with pytest.raises(AnnotationError, match=r"relative to its root, with its extension, or the"):
        build(tmp_path, [record("a")])


def test_an_absolute_path_is_that_file_alone(tmp_path: Path, monkeypatch: Any) -> None:
    touch(tmp_path, "one/a.mp4", "two/a.mp4", "two/sub/b.mp4")
    roots = [tmp_path / "one", tmp_path / "two"]

    def paths(*names: str, below: list[Path] = roots) -> list[Any]:
        rows = [record("sub/b"), *map(record, names)]
        return column(build_manifest(rows, below, val_fraction=0, test_fraction=0), "path")[1:]

    named = str(tmp_path / "one/a.mp4")
    assert paths(named) == [named]
    assert paths(str(tmp_path / "two/b.mp4")) == [None]
    with pytest.raises(AnnotationError, match=r"two/a.mp4: its id would be 'a', which is that of"):
        paths(named, str(tmp_path / "two/a.mp4"))
    monkeypatch.chdir(tmp_path)
    assert paths(str(tmp_path / "two/a.mp4"), below=[Path("two")]) == ["two/a.mp4"]
    (tmp_path / "link").symlink_to(tmp_path / "two")
    for name in (tmp_path / "two/a.mp4", tmp_path / "link/a.mp4"):
        assert paths(f"/{name}", below=[tmp_path / "link"]) == [str(tmp_path / "link/a.mp4")]


def test_a_dangling_link_is_a_missing_video(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "gone.mp4")
    assert column(build(tmp_path, [record("a"), record("b")]), "path")[1] is None


def test_absent_files_of_one_stem_in_any_order(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    names = ["a", "b", "b.mp4", "b.avi"]
    with pytest.raises(
        AnnotationError, match=r"b.avi: its id would be 'b', which is that of b.mp4"
    ):
        build(tmp_path, [record(name) for name in names])


def test_backslashes_of_another_system_are_recognised_in_the_message(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.mp4")
    with pytest.raises(AnnotationError, match=r"; sub/a.mp4 exists"):
        build(tmp_path, [record("sub\\a.mp4")])


def test_a_file_without_extension_is_found_where_none_with_one_is(tmp_path: Path) -> None:
    touch(tmp_path, "sub/1@N_2_bfc.", "3@N_4_d8b", "5@N_6_e.", "5@N_6_e.mp4", "LICENSE")
    names = ["1@N_2_bfc", "3@N_4_d8b.", "5@N_6_e"]
    manifest = build(tmp_path, [record(name) for name in names])
    assert column(manifest, "video_id") == ["1@N_2_bfc", "3@N_4_d8b", "5@N_6_e"]
    paths = [Path(path).name for path in column(manifest, "path")]
    assert paths == ["1@N_2_bfc.", "3@N_4_d8b", "5@N_6_e.mp4"]


def test_the_first_of_several_file_names_that_is_there_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "a.mov", "a.mp4", "bbb.mkv", "c.avi")
    records = [
        record("a", file_names=("a.webm", "a.mp4", "a.mov")),
        record("v_bbb", file_names=("v_bbb", "bbb")),
        record("c", file_names=("c.mp4",)),
    ]
    manifest = build(tmp_path, records)
    assert column(manifest, "video_id") == ["a", "v_bbb", "c"]
    paths = [path and Path(path).name for path in column(manifest, "path")]
    assert paths == ["a.mp4", "bbb.mkv", None]
