import csv
import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gare_cache.annotations.readers import read_annotations
from gare_cache.annotations.youcook2 import ANNOTATIONS, MILNCE_LIST, read_youcook2
from gare_cache.errors import AnnotationError
from gare_cache.manifest.build import build_manifest
from tests.annotations.official import dump, sizes, unpack

HEADER = "end,start,task,text,video_id\n"


def step(number: int, start: int, end: int, text: str) -> dict[str, Any]:
    return {"segment": [start, end], "id": number, "sentence": text}


def video(subset: str, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"duration": 99.5, "subset": subset, "recipe_type": "113", "annotations": list(steps)}


DATABASE = {
    "-a": video("training", step(0, 9, 12, "spread butter ")),
    "b_b": video(
        "validation", step(0, 5, 8, "cut"), step(1, 3, 7, "stir\nit"), step(2, 3, 7, "wait")
    ),
    "c": video("validation", step(0, 1, 2, "serve")),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dump(tmp_path / ANNOTATIONS, {"database": DATABASE})
    (tmp_path / MILNCE_LIST).write_text(HEADER + "7,3,113,wait,b_b\n8,5,113,cut,b_b\n")
    return tmp_path


def of_test(folder: Path, protocol: str) -> list[tuple[str, float | None, float | None, str]]:
    records = read_youcook2(folder, protocol).records
    return [
        (r.video, r.start_seconds, r.end_seconds, r.caption) for r in records if r.split == "test"
    ]


def test_segments_are_clips_in_the_order_of_the_file(folder: Path) -> None:
    assert of_test(folder, "clip") == [
        ("b_b", 5, 8, "cut"),
        ("b_b", 3, 7, "stir\nit"),
        ("b_b", 3, 7, "wait"),
        ("c", 1, 2, "serve"),
    ]
    assert of_test(folder / ANNOTATIONS, "video") == [
        ("b_b", None, None, "cut stir it wait"),
        ("c", None, None, "serve"),
    ]


def test_the_list_of_mil_nce_names_segments_and_the_others_are_counted(folder: Path) -> None:
    expected = [("b_b", 5, 8, "cut"), ("b_b", 3, 7, "wait")]
    assert of_test(folder, "clip-milnce") == expected
    found = read_youcook2(folder, "clip-milnce")
    assert sizes(found) == {"train": (1, 1), "test": (1, 2)}
    assert found.notes == (
        "test: 2 of 4 segments and 1 of 2 videos: validation_youcook.csv lacks the others",
    )


def with_video(**others: Any) -> Callable[[Path], None]:
    return lambda f: dump(
        f / ANNOTATIONS, {"database": DATABASE | {"c": {**DATABASE["c"], **others}}}
    )


def with_step(**others: Any) -> Callable[[Path], None]:
    return with_video(annotations=[{**step(0, 1, 2, "serve"), **others}])


def lacking(name: str) -> Callable[[Path], None]:
    steps = [{key: value for key, value in step(0, 1, 2, "serve").items() if key != name}]
    return with_video(annotations=steps)


def with_list(*rows: str, header: str = HEADER) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / MILNCE_LIST).write_text(header + "".join(f"{row}\n" for row in rows))

    return write


def raw(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / ANNOTATIONS).write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (raw(b"{}"), r"trainval.json has no key 'database' \(found: none\); fetch the official"),
        (raw(b'{"database": []}'), r"'database' is \[\]; it must be an object of videos"),
        (raw(b'{"database": {"a": 1,\n"a": 2}}'), r"the key 'a' occurs twice in one object"),
        (raw(b'{"database":\n"\xe9"}'), r"trainval.json:2: byte 0xe9 is not UTF-8 .*save as"),
        (raw(b'{"database": {}}'), r"trainval.json has no video of the subset 'training'"),
        (with_video(subset="testing"), r"'c': subset 'testing'; it must be one of training, val"),
        (with_video(annotations=[]), r"'c' has no segment; fetch the official file again"),
        (with_video(annotations=[3]), r"annotations\[0\] is 3; it must be a JSON object"),
        (with_step(id=1), r"annotations\[0\]: id 1 is out of order; fetch the official"),
        (with_step(segment=[2, 1]), r"annotations\[0\]: no time lies between start 2 s and end 1"),
        (with_step(segment=[2, 2]), r"annotations\[0\]: no time lies between start 2 s and end 2"),
        (with_step(segment=[2]), r"annotations\[0\]: interval \[2\]; it must be two times"),
        (with_step(sentence=" "), r"annotations\[0\]: 'sentence' is ' '; it must be a non-empty"),
        (lacking("segment"), r"annotations\[0\] has no key 'segment' \(found: id, sentence\)"),
        (lacking("sentence"), r"annotations\[0\] has no key 'sentence'"),
        (lacking("id"), r"annotations\[0\] has no key 'id'"),
        (with_list("7,3,113,waits,b_b"), r"csv:2: 'b_b 3 7 waits' is no validation segment of y"),
        (with_list("12,9,113,spread butter,-a"), r"csv:2: '-a 9 12 .* no validation segment .*cli"),
        (with_list("8,5,1,cut,b_b", "8,5,1,cut,b_b"), r"csv:3: 'b_b 5 8 cut' occurs twice"),
        (with_list("x,5,1,cut,b_b"), r"csv:2: start and end are '5, x'; they must be s"),
        (with_list("8,5,1,cut"), r"csv:2: 4 cells, but the header names 5 columns"),
        (with_list("8,1,cut,b_b", header="end,task,text,video_id\n"), r"no column 'start'"),
        (lambda f: (f / MILNCE_LIST).unlink(), r"validation_youcook.csv does not exist; put it b"),
        (lambda f: (f / ANNOTATIONS).unlink(), r"trainval.json does not exist; put the official"),
    ],
)
def test_faults(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(AnnotationError, match=message):
        read_youcook2(folder, "clip-milnce")


@pytest.fixture(scope="module")
def official(shared_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = {name: name for name in (ANNOTATIONS, MILNCE_LIST)}
    source = shared_data_dir / "annotations" / "youcook2"
    return unpack(source, tmp_path_factory.mktemp("youcook2"), names)


def test_official_clips(official: Path) -> None:
    found = read_annotations("youcook2", official, "clip")
    assert found.notes == ()
    assert sizes(found) == {"train": (1333, 10_337), "test": (457, 3492)}
    for split, repeats in (("train", 464), ("test", 81)):
        captions = [r.caption for r in found.records if r.split == split]
        assert len(captions) - len(set(captions)) == repeats
    tests = [r for r in found.records if r.split == "test"]
    clips = Counter((r.video, r.start_seconds, r.end_seconds) for r in tests)
    assert len(clips) == 3491
    assert {clip for clip, count in clips.items() if count > 1} == {("oJZUxU9szWA", 120, 252)}
    manifest = build_manifest(tests, [], val_fraction=0, test_fraction=0)
    assert (manifest.videos.num_rows, manifest.captions.num_rows) == (3491, 3492)


def test_official_segments(official: Path) -> None:
    database = json.loads((official / ANNOTATIONS).read_text())["database"]
    overlaps = 0
    for entry in database.values():
        times = [tuple(step["segment"]) for step in entry["annotations"]]
        assert all(isinstance(value, int) for pair in times for value in pair)
        assert max(end for _, end in times) <= entry["duration"]
        if entry["subset"] == "validation":
            overlaps += sum(b[0] < a[1] for a, b in pairwise(times))
    assert overlaps == 9


def test_official_list_of_mil_nce(official: Path) -> None:
    found = read_annotations("youcook2", official, "clip-milnce")
    assert sizes(found) == {"train": (1333, 10_337), "test": (436, 3350)}
    tests = [r for r in found.records if r.split == "test"]
    assert len({(r.video, r.start_seconds, r.end_seconds) for r in tests}) == 3349
    lacks = "validation_youcook.csv lacks the others"
    assert found.notes == (f"test: 3,350 of 3,492 segments and 436 of 457 videos: {lacks}",)
    groups = [count for count in Counter(r.caption for r in tests).values() if count > 1]
    assert (len(groups), sum(groups)) == (64, 141)


def test_official_videos(official: Path) -> None:
    found = read_annotations("youcook2", official, "video")
    assert found.notes == ()
    assert sizes(found) == {"train": (1333, 1333), "test": (457, 457)}


def test_official_list_with_a_fault(official: Path, tmp_path: Path) -> None:
    folder = unpack(official, tmp_path, {ANNOTATIONS: ANNOTATIONS, MILNCE_LIST: MILNCE_LIST})
    rows = list(csv.reader((official / MILNCE_LIST).read_text().splitlines()))
    rows[9][3] += " more"
    with (folder / MILNCE_LIST).open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(AnnotationError, match=r"youcook.csv:10: .* is no validation segment of"):
        read_youcook2(folder, "clip-milnce")
