import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gare_cache.annotations.didemo import FILES, LISTS, read_didemo
from gare_cache.annotations.grammar import video_stem
from gare_cache.annotations.readers import read_annotations
from gare_cache.annotations.record import Annotations
from gare_cache.errors import AnnotationError
from tests.annotations.official import dump, sizes, unpack, words


def sentence(name: str, text: str | None, key: int, **others: Any) -> dict[str, Any]:
    times = {"times": [[0, 0], [1, 1]], "num_segments": 6}
    return {"video": name, "description": text, "annotation_id": key, **times, **others}


TEST = [
    sentence("1@N01_2_a.mov", " later \n on", 7),
    sentence("3@N01_4_b.", "another", 8),
    sentence("1@N01_2_a.mp4", "earlier ", 9),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three test sentences of two videos, one under two names and one without extension."""
    dump(tmp_path / FILES["train"], [sentence("5@N01_6_c.avi", "trained", 1)])
    dump(tmp_path / FILES["val"], [sentence("7@N01_8_d.m4v", "selected", 2)])
    dump(tmp_path / FILES["test"], TEST)
    for split, name in (("train", "5@N01_6_c.avi"), ("val", "7@N01_8_d.m4v")):
        (tmp_path / LISTS[split]).write_text(f"{name}\n")
    (tmp_path / LISTS["test"]).write_text("1@N01_2_a.mp4\n3@N01_4_b.\n")
    return tmp_path


def of_test(annotations: Annotations) -> list[tuple[str, str]]:
    return [(r.video, r.caption) for r in annotations.records if r.split == "test"]


def test_the_sentences_of_both_names_are_one_paragraph_in_the_order_of_the_file(
    folder: Path,
) -> None:
    found = read_didemo(folder, "paragraph")
    assert of_test(found) == [("1@N01_2_a", "later on earlier"), ("3@N01_4_b", "another")]
    assert sizes(found) == {"train": (1, 1), "val": (1, 1), "test": (2, 2)}
    files = {r.video: r.file_names for r in found.records}
    assert files["1@N01_2_a"] == ("1@N01_2_a.mov", "1@N01_2_a.mp4", "1@N01_2_a")
    assert found.notes == ("test: 1 of 2 videos under two file names",)


def test_the_listed_name_drops_the_sentences_of_the_other_and_says_so(folder: Path) -> None:
    found = read_didemo(folder / FILES["test"], "paragraph-listed")
    assert sorted(of_test(found)) == [("1@N01_2_a", "earlier"), ("3@N01_4_b", "another")]
    assert found.notes[1] == (
        "test: 2 of 3 sentences and 2 of 2 videos: 1 sentence of 1 video under a file name that "
        "test_list.txt lacks"
    )


def test_sentences_are_captions_of_the_whole_video(folder: Path) -> None:
    found = read_didemo(folder, "sentence")
    assert sizes(found)["test"] == (2, 3)
    assert ("1@N01_2_a", "later on") in of_test(found)
    assert {r.start_seconds for r in found.records} == {None}


def test_only_the_test_file_is_needed(folder: Path) -> None:
    for split in ("train", "val"):
        (folder / FILES[split]).unlink()
    found = read_didemo(folder, "paragraph")
    assert sizes(found) == {"test": (2, 2)}
    assert found.notes[0].endswith("train_data.json does not exist: there are no train videos")
    (folder / FILES["test"]).unlink()
    with pytest.raises(AnnotationError, match=r"test_data.json does not exist; put the official"):
        read_didemo(folder, "paragraph")


def values(*rows: Any) -> Callable[[Path], None]:
    return lambda folder: dump(folder / FILES["test"], list(rows))


def without(name: str) -> Callable[[Path], None]:
    rows = [dict(TEST[0]), {key: value for key, value in TEST[1].items() if key != name}]
    return values(*rows)


def latin1(folder: Path) -> None:
    text = '[{"annotation_id": 1, "video": "a.mov",\n"description": "café"}]'
    (folder / FILES["test"]).write_bytes(text.encode("latin-1"))


def cut(folder: Path) -> None:
    path = folder / FILES["test"]
    path.write_bytes(path.read_bytes()[:-20])


def with_list(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / LISTS["test"]).write_text(text)

    return write


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (values("text"), r"test_data.json: \[0\] is 'text'; it must be a JSON object"),
        (values(), r"test_data.json holds no list of sentences; fetch the official"),
        (lambda folder: dump(folder / FILES["test"], {}), r"test_data.json holds no list"),
        (without("video"), r"json: \[1\] has no key 'video' \(found: desc.*fetch the official"),
        (without("description"), r"json: \[1\] has no key 'description'"),
        (without("annotation_id"), r"json: \[1\] has no key 'annotation_id'"),
        (values(sentence("a.mov", " ", 1)), r"\[0\]: 'description' is ' '; it must be a non-empty"),
        (values(sentence("a.mov", None, 1)), r"\[0\]: 'description' is None; it must be a string"),
        (values(TEST[0], TEST[0]), r"\[1\]: annotation_id 7 occurs twice, first at .*\[0\]; delet"),
        (values(sentence("7@N01_8_d.mov", "b", 3)), r"1 video is both val .* and test .*'7@N01_8_"),
        (latin1, r"test_data.json:2: byte 0xe9 is not UTF-8 .*save as UTF-8"),
        (cut, r"test_data.json: not valid JSON: .*line 1"),
        (with_list("7@N01_8_d.m4v\n"), r"names 1 file that test_data.json does not .*list of test"),
        (with_list("3@N01_4_b.\n3@N01_4_b.\n"), r"test_list.txt:2: '3@N01_4_b.' occurs twice"),
        (lambda folder: (folder / LISTS["val"]).unlink(), r"val_list.txt does not exist; put it"),
    ],
)
def test_faults(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(AnnotationError, match=message):
        read_didemo(folder, "paragraph-listed")


@pytest.fixture(scope="module")
def official(shared_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(
        shared_data_dir / "annotations" / "didemo",
        tmp_path_factory.mktemp("didemo"),
        {
            "val_data.json": "val_data.json",
            "test_data.json": "test_data.json",
            **{f"ce_{split}_list.txt.gz": name for split, name in LISTS.items()},
        },
    )


def test_official_counts(official: Path) -> None:
    found = read_annotations("didemo", official, "paragraph")
    assert sizes(found) == {"val": (1065, 1065), "test": (1004, 1004)}
    assert found.notes == (
        f"warning: {official / 'train_data.json'} does not exist: there are no train videos",
        "val: 29 of 1,065 videos under two file names",
        "test: 33 of 1,004 videos under two file names",
    )
    names = [name for r in found.records for name in r.file_names[:-1]]
    assert len(names) == 1094 + 1037
    assert sum(name.endswith(".") for name in names) == 14 + 31
    assert max(words(found, "test")) == 81
    assert len({r.caption for r in found.records}) == 1065 + 1004
    sentences = read_annotations("didemo", official, "sentence")
    assert sizes(sentences) == {"val": (1065, 4180), "test": (1004, 4021)}
    counts = {
        split: Counter(Counter(r.video for r in sentences.records if r.split == split).values())
        for split in ("val", "test")
    }
    assert counts["val"] == {1: 44, 2: 6, 3: 337, 4: 296, 5: 365, 6: 15, 7: 2}
    assert counts["test"] == {1: 35, 2: 3, 3: 287, 4: 301, 5: 356, 6: 19, 7: 3}


def test_official_lists(official: Path) -> None:
    found = read_annotations("didemo", official, "paragraph-listed")
    assert sizes(found) == {"val": (1065, 1065), "test": (1004, 1004)}
    assert found.notes[2].startswith(
        "val: 4,109 of 4,180 sentences and 1,065 of 1,065 videos: 71 sentences of 29 videos unde"
    )
    assert found.notes[4].startswith(
        "test: 3,932 of 4,021 sentences and 1,004 of 1,004 videos: 89 sentences of 33 videos unde"
    )
    lists = {split: (official / name).read_text().split() for split, name in LISTS.items()}
    assert {split: len(names) for split, names in lists.items()} == {
        "train": 8392,
        "val": 1065,
        "test": 1004,
    }


@pytest.mark.parametrize(
    ("split", "newlines", "seven", "five", "short", "frequent"),
    [("val", 8, 15, 0, 723, (13, 29)), ("test", 7, 11, 1, 473, (14, 33))],
)
def test_official_sentences(
    official: Path,
    split: str,
    newlines: int,
    seven: int,
    five: int,
    short: int,
    frequent: tuple[int, int],
) -> None:
    rows = json.loads((official / FILES[split]).read_text())
    texts = [row["description"] for row in rows]
    assert sum(text != text.strip() for text in texts) == 12
    assert sum("\n" in text for text in texts) == newlines
    assert sum(len(row["times"]) == 7 for row in rows) == seven
    assert sum(len(row["times"]) == 5 for row in rows) == five
    assert sum(row["num_segments"] == 5 for row in rows) == short
    stems = {(video_stem(row["video"]), row["dl_link"]) for row in rows}
    assert len(stems) == len({stem for stem, _ in stems}) == len({link for _, link in stems})
    count = Counter(row["video"] for row in rows)
    listed = (official / LISTS[split]).read_text().split()
    two = [
        (name, [other for other in count if video_stem(other) == video_stem(name)])
        for name in listed
        if sum(video_stem(other) == video_stem(name) for other in count) > 1
    ]
    # Of names with as many sentences, the one that comes first.
    more = sum(max(names, key=lambda other: count[other]) == name for name, names in two)
    assert (more, len(two)) == frequent


def test_official_files_in_the_wrong_place(official: Path, tmp_path: Path) -> None:
    swapped = unpack(
        official, tmp_path, {name: name for name in ("val_data.json", "test_data.json")}
    )
    for split, other in (("val", "test"), ("test", "val")):
        (swapped / LISTS[split]).write_bytes((official / LISTS[other]).read_bytes())
    with pytest.raises(AnnotationError, match=r"val_list.txt names 1,004 files that val_data.json"):
        read_didemo(swapped, "paragraph-listed")
    (swapped / "test_data.json").write_bytes((official / "val_data.json").read_bytes())
    with pytest.raises(AnnotationError, match=r"1,065 videos are both val .* and test"):
        read_didemo(swapped, "paragraph")
    (swapped / "val_data.json").unlink()
    notes = read_annotations("didemo", swapped, "paragraph").notes
    assert notes[-1].startswith("warning: test has 1,065 of 1,004 videos and 1,065 of 1,004 capt")
