from pathlib import Path

import pytest

from gare_cache.annotations.grammar import (
    Caption,
    VideoList,
    compare_sizes,
    find_folder,
    find_splits,
    keep_captioned,
    make_records,
    paragraph,
    read_list,
    video_stem,
)
from gare_cache.errors import AnnotationError

CAPTIONS = {"b": [Caption(" later  on\n", "f:2"), Caption("first ", "f:1")], "a": []}


def test_only_a_known_extension_or_a_bare_dot_is_cut() -> None:
    assert video_stem("1@N01_2_3.M4V") == "1@N01_2_3"
    assert video_stem("1@N01_2_3.") == "1@N01_2_3"
    assert video_stem("-X_00.23.28.872-00.23.34.843") == "-X_00.23.28.872-00.23.34.843"


def test_a_paragraph_keeps_the_order_of_the_file_and_single_blanks() -> None:
    assert paragraph([" later  on\n", "first "]) == "later on first"
    lists = {"test": VideoList("l", ["b"])}
    (record,) = make_records(lists, CAPTIONS, joined=True)
    assert (record.caption, record.caption_key) == ("later on first", "paragraph")
    assert [r.caption for r in make_records(lists, CAPTIONS)] == ["later  on", "first"]


def test_the_official_size_is_compared_by_clips_and_captions() -> None:
    records = make_records({"test": VideoList("l", ["b"])}, CAPTIONS)
    assert compare_sizes(records, {"test": (1, 2), "val": (5, 5)}) == []
    assert compare_sizes(records, {"test": (None, 2)}) == []
    (warning,) = compare_sizes(records, {"test": (4, 3)})
    assert warning.startswith("warning: test has 1 of 4 videos and 2 of 3 captions of the official")


def test_gaps_are_counted_and_a_list_of_other_videos_is_refused() -> None:
    notes: list[str] = []
    kept = keep_captioned({"test": VideoList("list", ["a", "b"])}, CAPTIONS, "json", notes)
    assert kept["test"].ids == ["b"]
    expected = "1 of 2 videos of list: 1 video has no caption in json, the first is 'a'"
    assert notes == [f"warning: test: {expected}"]
    with pytest.raises(AnnotationError, match=r"list names 1 video that json does not .*'z'; is"):
        keep_captioned({"test": VideoList("list", ["z"])}, CAPTIONS, "json", notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\na\n", r"list.txt:3: 'a' occurs twice, first on line 1; delete"),
        (b"a\n\nb\n", r"list.txt:2: 'id' is ''"),
        (b"", r"list.txt is empty; fetch it again"),
        (b"a\n\xe9\n", r"list.txt:2: byte 0xe9 is not UTF-8 .*save as UTF-8"),
        ("a\n".encode("utf-16"), r"list.txt is UTF-16 text; save as UTF-8"),
    ],
)
def test_faults_of_lists(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=message):
        read_list(path)


def test_lists_with_carriage_returns_and_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"-a\r\n_b\r\n")
    assert read_list(tmp_path / "list.txt").ids == ["-a", "_b"]
    with pytest.raises(AnnotationError, match=r"/.*other.txt does not exist; put it beside"):
        read_list(tmp_path / "other.txt")


def test_the_folder_or_one_of_its_files_is_given(tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text("{}")
    (tmp_path / "notes.md").write_text("")
    for path in (tmp_path, tmp_path / "test.json"):
        assert find_folder(path, ["test.json"], "DiDeMo") == tmp_path
    with pytest.raises(AnnotationError, match=r"nowhere does not exist; .*DiDeMo's files: test.js"):
        find_folder(tmp_path / "nowhere", ["test.json"], "DiDeMo")
    with pytest.raises(AnnotationError, match=r"notes.md is no file of DiDeMo; give the folder"):
        find_folder(tmp_path / "notes.md", ["test.json"], "DiDeMo")


def test_only_the_test_file_must_exist(tmp_path: Path) -> None:
    names = {"train": "train.json", "test": "test.json"}
    with pytest.raises(AnnotationError, match=r"test.json does not exist; put the official file"):
        find_splits(tmp_path, names, [])
    (tmp_path / "test.json").write_text("{}")
    notes: list[str] = []
    assert find_splits(tmp_path, names, notes) == {"test": tmp_path / "test.json"}
    train = tmp_path / "train.json"
    assert notes == [f"warning: {train} does not exist: there are no train videos"]
