import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gare_cache.annotations.msrvtt import ARCHIVES, SIZES, read_msrvtt
from gare_cache.annotations.record import Annotations
from gare_cache.errors import AnnotationError

SPLIT_OF = {"v0": "train", "v1": "train", "v2": "validate", "v3": "test", "v4": "test"}
TRAIN = "MSRVTT_train.9k.csv"
QUERIES = "MSRVTT_JSFUSION_test.csv"


def content(ids: list[str]) -> dict[str, Any]:
    sentences = [
        {"video_id": id_, "caption": f" {word} of {id_} ", "sen_id": n}
        for word in ("one", "two")
        for n, id_ in enumerate(ids)
    ]
    videos = [{"video_id": id_, "split": SPLIT_OF[id_], "category": 1} for id_ in ids]
    return {"info": {}, "videos": videos, "sentences": sentences}


def write_archive(path: Path, values: Any) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "text")
        file.writestr(ARCHIVES[path.name], json.dumps(values))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five videos: 9k trains on four of them, one of them for validation; v4 is the test."""
    train_val, test = (tmp_path / name for name in ARCHIVES)
    write_archive(train_val, content(["v0", "v1", "v2"]))
    write_archive(test, content(["v3", "v4"]))
    (tmp_path / TRAIN).write_text("video_id\nv3\nv0\nv2\nv1\n")
    (tmp_path / "MSRVTT_train.7k.csv").write_text("video_id\nv0\nv2\n")
    query = "ret0,msr4,v4,a query not in the file\n"
    (tmp_path / QUERIES).write_text(f"key,vid_key,video_id,sentence\n{query}")
    return tmp_path


def triples(annotations: Annotations) -> list[tuple[str | None, str, str]]:
    return [(r.split, r.video, r.caption) for r in annotations.records]


def test_1k_a_takes_validation_out_of_train_and_its_queries_from_the_list(folder: Path) -> None:
    found = read_msrvtt(folder, "1k-a-9k")
    assert triples(found) == [
        ("train", "v3", "one of v3"),
        ("train", "v3", "two of v3"),
        ("train", "v0", "one of v0"),
        ("train", "v0", "two of v0"),
        ("train", "v1", "one of v1"),
        ("train", "v1", "two of v1"),
        ("val", "v2", "one of v2"),
        ("val", "v2", "two of v2"),
        ("test", "v4", "a query not in the file"),
    ]
    assert [r.caption_key for r in found.records] == [None] * 8 + ["jsfusion"]
    assert found.records[-1].origin == f"{folder / QUERIES}:2"
    assert found.notes[0].startswith(f"1 of the 4 ids of {TRAIN} are official validation videos")
    assert found.notes[1].startswith("1 of 1 queries are not verbatim")


def test_7k_and_full(folder: Path) -> None:
    found = read_msrvtt(folder, "1k-a-7k")
    assert Counter(r.video for r in found.records) == {"v0": 2, "v2": 2, "v4": 1}
    assert found.notes[-1] == "2 annotated videos are in no split of 1k-a-7k"
    found = read_msrvtt(folder, "full")
    splits = {r.video: r.split for r in found.records}
    assert splits == {"v0": "train", "v1": "train", "v2": "val", "v3": "test", "v4": "test"}
    assert found.notes == ()


def test_the_full_lists_are_taken_where_they_are(folder: Path) -> None:
    (folder / "MSRVTT_train.full.csv").write_text("video_id\nv1\n")
    found = read_msrvtt(folder, "full")
    assert {r.video for r in found.records if r.split == "train"} == {"v1"}
    assert found.notes == ("1 annotated video is in no split of full",)


def test_1k_a_needs_no_other_official_list_than_that_of_validation(folder: Path) -> None:
    expected = triples(read_msrvtt(folder, "1k-a-9k"))
    without_splits(folder)
    (folder / "MSRVTT_val.full.csv").write_text("video_id\nv2\n")
    assert triples(read_msrvtt(folder, "1k-a-9k")) == expected


def test_the_joined_json_gives_the_same_from_the_folder_and_by_name(folder: Path) -> None:
    expected = triples(read_msrvtt(folder, "1k-a-9k"))
    for name in ARCHIVES:
        (folder / name).unlink()
    (folder / "MSRVTT_data.json").write_text(json.dumps(content(list(SPLIT_OF))))
    assert triples(read_msrvtt(folder, "1k-a-9k")) == expected
    (folder / "MSRVTT_data.json").rename(folder / "other.json")
    assert triples(read_msrvtt(folder / "other.json", "1k-a-9k")) == expected


def without_json(folder: Path) -> None:
    with zipfile.ZipFile(folder / "train_val_annotation.zip", "w") as file:
        file.writestr("readme.txt", "text")


def without_sentences(folder: Path) -> None:
    write_archive(folder / "train_val_annotation.zip", {"info": {}, "videos": []})


def with_sentences_of_no_video(folder: Path) -> None:
    values = content(["v0"]) | {"videos": []}
    write_archive(folder / "train_val_annotation.zip", values)


def with_an_empty_caption(folder: Path) -> None:
    values = content(["v0", "v1", "v2"])
    values["sentences"][1]["caption"] = " "
    write_archive(folder / "train_val_annotation.zip", values)


def without_captions(folder: Path) -> None:
    values = content(["v0", "v1", "v2"])
    values["sentences"] = [s for s in values["sentences"] if s["video_id"] not in ("v0", "v1")]
    write_archive(folder / "train_val_annotation.zip", values)


def without_splits(folder: Path) -> None:
    for name, ids in zip(ARCHIVES, (["v0", "v1", "v2"], ["v3", "v4"]), strict=True):
        values = content(ids)
        for video in values["videos"]:
            del video["split"]
        write_archive(folder / name, values)


def the_same_twice(folder: Path) -> None:
    write_archive(folder / "test_videodatainfo.json.zip", content(["v0"]))


def damaged(folder: Path) -> None:
    (folder / "train_val_annotation.zip").write_bytes(b"PK no archive")


def one_archive(folder: Path) -> None:
    (folder / "test_videodatainfo.json.zip").unlink()


def text(name: str, value: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(value)

    return write


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            without_json,
            r"train_val_annotation.zip holds no train_val_videodatainfo.json \(found: r",
        ),
        (without_sentences, r"has no list 'sentences' \(found: info, videos\)"),
        (
            with_sentences_of_no_video,
            r"sentences\[0\] belongs to 'v0', which is not among its videos",
        ),
        (with_an_empty_caption, r"sentences\[1\]: 'caption' is ' '; it must be a non-empty string"),
        (without_captions, r"2 train videos of .*train.9k.csv have no caption, the first is 'v0'"),
        (without_splits, r"val.full.csv does not exist, and no video of .* names the split"),
        (the_same_twice, r"videos\[0\]: 'v0' is annotated twice"),
        (damaged, r"train_val_annotation.zip is damaged .*; fetch it again"),
        (
            one_archive,
            r"holds neither MSRVTT_data.json nor both .*\(test_videodatainfo.json.zip not",
        ),
        (text(TRAIN, "video_id\nv0\nw1\nw2\n"), r"train.9k.csv names 2 videos that .* 'w1'"),
        (text(TRAIN, "video_id\nv0\nv4\n"), r"1 video is both train .*9k.csv\) and test .*'v4'"),
        (text(TRAIN, "video_id\nv0\nv0\n"), r"train.9k.csv:3: 'v0' occurs twice"),
        (text(TRAIN, "video_id\n"), r"train.9k.csv names no video"),
        (text(TRAIN, "id\nv0\n"), r"train.9k.csv: no column 'video_id' \(found: id\)"),
        (text(QUERIES, "video_id\nv4\n"), r"test.csv: no column 'sentence' \(found: video_id\)"),
        (
            text(QUERIES, "video_id,sentence\nv4,\n"),
            r"test.csv:2: 'sentence' is ''; it must be a non-empty",
        ),
        (text(QUERIES, "video_id,sentence\nv4,a, b\n"), r"test.csv:2: 3 cells, but the header"),
        (text(QUERIES, "video_id,sentence\nv2,x\n"), r"both val .* and test .*'v2'"),
    ],
)
def test_faults(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(AnnotationError, match=message):
        read_msrvtt(folder, "1k-a-9k")


def test_paths_that_are_no_msrvtt(folder: Path) -> None:
    with pytest.raises(
        AnnotationError, match=r"dataset.annotations: /.*nowhere does not exist; it is the"
    ):
        read_msrvtt(folder / "nowhere", "full")
    with pytest.raises(AnnotationError, match=r"train.9k.csv is not a .json file; give the folder"):
        read_msrvtt(folder / TRAIN, "full")
    (folder / "a.json").write_text("[")
    with pytest.raises(AnnotationError, match=r"a.json: not valid JSON"):
        read_msrvtt(folder / "a.json", "full")
    (folder / "MSRVTT_train.7k.csv").unlink()
    with pytest.raises(AnnotationError, match=r"7k.csv does not exist; put it beside the ann"):
        read_msrvtt(folder, "1k-a-7k")


@pytest.fixture(scope="module")
def official(shared_data_dir: Path) -> dict[str, Annotations]:
    folder = shared_data_dir / "annotations" / "msrvtt"
    return {protocol: read_msrvtt(folder, protocol) for protocol in SIZES}


@pytest.mark.parametrize(
    ("protocol", "videos", "captions"),
    [
        ("1k-a-9k", (8503, 497, 1000), (170_060, 9940, 1000)),
        ("1k-a-7k", (6513, 497, 1000), (130_260, 9940, 1000)),
        ("full", (6513, 497, 2990), (130_260, 9940, 59_800)),
    ],
)
def test_official_counts(
    official: dict[str, Annotations],
    protocol: str,
    videos: tuple[int, ...],
    captions: tuple[int, ...],
) -> None:
    records = official[protocol].records
    splits = ("train", "val", "test")
    found = [{r.video for r in records if r.split == split} for split in splits]
    assert tuple(map(len, found)) == videos
    assert len(set.union(*found)) == sum(videos)
    assert tuple(sum(r.split == split for r in records) for split in splits) == captions


def test_official_validation_is_one_and_the_same_and_named_for_training(
    official: dict[str, Annotations],
) -> None:
    validation = [
        {r.video for r in annotations.records if r.split == "val"}
        for annotations in official.values()
    ]
    assert validation[0] == validation[1] == validation[2]
    for protocol, ids in (("1k-a-9k", "9,000"), ("1k-a-7k", "7,010")):
        name = f"MSRVTT_train.{protocol[-2:]}.csv"
        note = f"497 of the {ids} ids of {name} are official validation videos"
        assert official[protocol].notes[0].startswith(note)
    assert official["1k-a-7k"].notes[-1] == "1,990 annotated videos are in no split of 1k-a-7k"
    assert len(official["1k-a-9k"].notes) == 2


def test_official_queries(official: dict[str, Annotations]) -> None:
    queries = [r for r in official["1k-a-9k"].records if r.split == "test"]
    assert queries[0].video == "video9770"
    assert queries[0].caption == "a person is connecting something to system"
    repeated = {text: n for text, n in Counter(r.caption for r in queries).items() if n > 1}
    assert repeated == {
        "a woman giving a photoshop tutorial": 2,
        "a man playing video games": 3,
        "someone is playing a game": 2,
        "a group of people are dancing in a room": 2,
    }
    assert official["1k-a-9k"].notes[1].startswith("35 of 1,000 queries are not verbatim")


def test_official_union_reads_as_the_archives_do(
    official: dict[str, Annotations], shared_data_dir: Path, tmp_path: Path
) -> None:
    folder = shared_data_dir / "annotations" / "msrvtt"
    union: dict[str, list[Any]] = {"videos": [], "sentences": []}
    for archive, name in ARCHIVES.items():
        with zipfile.ZipFile(folder / archive) as file:
            values = json.loads(file.read(name))
        for key, items in union.items():
            items += values[key]
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps(union))
    for name in (TRAIN, QUERIES):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    found = read_msrvtt(tmp_path / "MSRVTT_data.json", "1k-a-9k")
    assert triples(found) == triples(official["1k-a-9k"])
    assert found.notes == official["1k-a-9k"].notes


def test_what_the_lists_write_otherwise_is_said(folder: Path) -> None:
    (folder / TRAIN).write_text("Video_ID\nv0\nv2\n")
    list_ = folder / QUERIES
    list_.write_text(list_.read_text().replace(",", ";"))
    notes = read_msrvtt(folder, "1k-a-9k").notes
    assert f"{list_}: cells are separated by semicolons" in notes
    assert f"{folder / TRAIN}: column 'Video_ID' as 'video_id'" in notes


def test_json_in_another_encoding_names_the_line(folder: Path) -> None:
    path = folder / "MSRVTT_data.json"
    text = json.dumps(content(list(SPLIT_OF)), indent=0, ensure_ascii=False)
    path.write_bytes(text.replace("one of v0", "café").encode("latin-1"))
    with pytest.raises(AnnotationError, match=r"json:\d+: byte 0xe9 is not UTF-8 .*save as UTF-8"):
        read_msrvtt(path, "1k-a-9k")
