import json
from pathlib import Path
from typing import Any

import pytest

from gare_cache.annotations.moments import read_moments
from gare_cache.annotations.readers import read_annotations
from gare_cache.annotations.record import Annotations
from gare_cache.errors import AnnotationError
from gare_cache.manifest.build import build_manifest
from tests.annotations.official import sizes, unpack

VAL, TEST = "highlight_val_release.jsonl", "highlight_test_release.jsonl"


def line(qid: int, vid: str, *windows: Any, **others: Any) -> dict[str, Any]:
    query = {"qid": qid, "query": f"query {qid} ", "duration": 150, "vid": vid}
    return {**query, "relevant_windows": list(windows), **others}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    first = line(7, "-a_60.0_210.0", [0, 20], [82, 150], saliency_scores=[[1, 2]])
    write(tmp_path / VAL, first, line(5, "b_0.0_150.0", [0.5, 9]))
    write(tmp_path / TEST, {"qid": 9, "query": "held back", "duration": 150, "vid": "c"})
    return tmp_path


def rows(found: Annotations) -> list[tuple[Any, ...]]:
    return [(r.split, r.video, r.caption, r.start_seconds, r.end_seconds) for r in found.records]


def test_a_query_describes_its_video(folder: Path) -> None:
    found = read_annotations("moments", folder, "video")
    assert rows(found) == [
        ("test", "c", "held back", None, None),
        ("val", "-a_60.0_210.0", "query 7", None, None),
        ("val", "b_0.0_150.0", "query 5", None, None),
    ]
    assert [r.caption_key for r in found.records] == ["9", "7", "5"]
    assert found.notes == ()


def test_a_query_describes_each_of_its_windows(folder: Path) -> None:
    found = read_moments(folder, "window")
    assert rows(found) == [
        ("val", "-a_60.0_210.0", "query 7", 0, 20),
        ("val", "-a_60.0_210.0", "query 7", 82, 150),
        ("val", "b_0.0_150.0", "query 5", 0.5, 9),
    ]
    assert found.notes == (
        f"warning: 0 of 1 query of {TEST}: 1 query has no relevant_windows",
        f"1 of 2 queries of {VAL} have several windows, each a clip with the query as its caption",
    )
    manifest = build_manifest(found.records, [], val_fraction=0, test_fraction=0)
    ids = manifest.captions["caption_id"].to_pylist()
    assert ids[:2] == ["-a_60.0_210.0@0-20#7", "-a_60.0_210.0@82-150#7"]


def test_a_file_that_names_no_split_is_left_to_the_hash(tmp_path: Path) -> None:
    path = write(tmp_path / "charades_sta.jsonl", line(1, "a", [0, 1]))
    assert rows(read_moments(path, "window")) == [(None, "a", "query 1", 0, 1)]


def test_no_query_with_windows(folder: Path) -> None:
    with pytest.raises(
        AnnotationError, match=r"no query has relevant_windows; take the protocol v"
    ):
        read_moments(folder / TEST, "window")


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in line(1, "a", [0, 1]).items() if key != name}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (3, r"val_release.jsonl:2 is 3; it must be a JSON object"),
        (without("qid"), r"jsonl:2 has no key 'qid' \(found: query, duration, vid, relevant_win"),
        (without("query"), r"jsonl:2 has no key 'query'"),
        (without("vid"), r"jsonl:2 has no key 'vid'"),
        (line(0, "a", [0, 1]), r"jsonl:2: qid 0 occurs twice, first at .*jsonl:1; delete one"),
        (line(1, "a", [0, 1], query=" "), r"jsonl:2: 'query' is ' '; it must be a non-empty"),
        (line(1, " ", [0, 1]), r"jsonl:2: 'vid' is ' '; it must be a non-empty string"),
        (line(1, "a", [9, 1]), r"jsonl:2: no time lies between start 9 s and end 1 s; correct"),
        (line(1, "a", [1, 1]), r"jsonl:2: no time lies between start 1 s and end 1 s"),
        (line(1, "a", [1]), r"jsonl:2: interval \[1\]; it must be two times in s, >= 0"),
        (line(1, "a", relevant_windows=5), r"jsonl:2: 'relevant_windows' is 5; it must be a list"),
    ],
)
def test_faults_of_a_line(tmp_path: Path, bad: Any, message: str) -> None:
    path = write(tmp_path / VAL, line(0, "z", [0, 1]), bad)
    with pytest.raises(AnnotationError, match=message):
        read_moments(path, "window")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"qid": 1,\n', r"jsonl:1: not valid JSON"),
        (b"", r"jsonl:1: not valid JSON"),
        (b'{"qid": 1, "qid": 2}', r"the key 'qid' occurs twice in one object"),
        (b'{"query": "caf\xe9"}', r"jsonl:1: byte 0xe9 is not UTF-8 .*save as UTF-8"),
    ],
)
def test_faults_of_a_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / VAL).write_bytes(content)
    with pytest.raises(AnnotationError, match=message):
        read_moments(tmp_path, "video")


def test_paths_and_names_that_do_not_fit(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.jsonl", write(tmp_path / "a.json", {})):
        with pytest.raises(AnnotationError, match=r"is no .jsonl file, nor a folder of them"):
            read_moments(path, "video")
    path = write(tmp_path / "train_val.jsonl", line(1, "a"))
    with pytest.raises(AnnotationError, match=r"its name has words of two splits; rename it"):
        read_moments(path, "video")


@pytest.fixture(scope="module")
def official(shared_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = shared_data_dir / "annotations" / "qvhighlights"
    names = {f"{name}.gz": name for name in (VAL, TEST)}
    return unpack(source, tmp_path_factory.mktemp("qvhighlights"), names)


def test_official_counts(official: Path) -> None:
    found = read_annotations("moments", official, "video")
    assert sizes(found) == {"val": (1519, 1550), "test": (1529, 1542)}
    assert found.notes == ()
    windows = read_annotations("moments", official, "window")
    assert len({r.caption_key for r in windows.records}) == 1550
    note = f"warning: 0 of 1,542 queries of {TEST}: 1,542 queries have no relevant_windows"
    assert windows.notes[0] == note
