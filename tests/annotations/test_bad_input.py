"""A damaged official file of every reader ends in one line that names it and says what to do."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gare_cache.annotations.readers import read_annotations
from gare_cache.errors import AnnotationError

TRAIN, VAL, TEST = (f"abcdefghijk_00000{n}_00001{n}" for n in range(3))
URL = "https://x.tumblr.com/a/tumblr_abc_500.gif"
CLIP = "3086_UGLY_TRUTH_00.23.23.000-00.23.28.886"
YOUTUBE = "v_abcdefghijk"
STEP = {"segment": [1, 5], "id": 0, "sentence": "cut it"}
COOKING = {"duration": 9, "subset": "validation", "recipe_type": "1", "annotations": [STEP]}
SENTENCE = {
    **{"video": "a_b_c.mp4", "description": "it moves", "times": [[0, 1]]},
    **{"num_segments": 6, "annotation_id": 1},
}
MOMENT = {"qid": 1, "query": "a", "vid": "x_0.0_9.0", "duration": 9, "relevant_windows": [[0, 2]]}

# Reader -> protocol and its smallest complete files.
FILES: dict[str, tuple[str, dict[str, str]]] = {
    "didemo": (
        "paragraph-listed",
        {"test_data.json": json.dumps([SENTENCE]), "test_list.txt": "a_b_c.mp4\n"},
    ),
    "activitynet": (
        "paragraph",
        {
            "val_1.json": json.dumps(
                {YOUTUBE: {"duration": 9.0, "timestamps": [[0, 1]], "sentences": ["a"]}}
            )
        },
    ),
    "msvd": (
        "all-captions",
        {"captions_msvd.json": json.dumps({"a_1_2": ["a"]}), "test_list.txt": "a_1_2\n"},
    ),
    "lsmdc": (
        "1k",
        {"LSMDC16_challenge_1000_publictect.csv": "\t".join([CLIP, *["0"] * 4, "He goes."]) + "\n"},
    ),
    "tgif": ("all-captions", {"tgif-v1.0.tsv": f"{URL}\ta cat\n", "test.txt": f"{URL}\n"}),
    "youcook2": (
        "clip",
        {
            "youcookii_annotations_trainval.json": json.dumps(
                {"database": {"abc": COOKING, "def": COOKING | {"subset": "training"}}}
            )
        },
    ),
    "vatex": (
        "hgr",
        {
            "vatex_data.json": json.dumps({id_: {"enCap": ["a"]} for id_ in (TRAIN, VAL, TEST)}),
            **{"train_list.txt": f"{TRAIN}\n", "val_list.txt": f"{VAL}\n"},
            "test_list.txt": f"{TEST}\n",
        },
    ),
    "moments": ("video", {"highlight_test_release.jsonl": json.dumps(MOMENT) + "\n"}),
}
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "is empty|no captions|no queries"),
    "web page": (lambda _: b"<!DOCTYPE html><html>404</html>\n", "is a web page"),
    "gzip": (gzip.compress, r"compressed by gzip; unpack it"),
    "UTF-16": (lambda of: of.decode().encode("utf-16"), "save as UTF-8"),
    "Latin-1": (lambda of: of[:-3] + b"\xe9" + of[-3:], "is not UTF-8"),
}


def write(folder: Path, reader: str) -> tuple[Path, str]:
    protocol, files = FILES[reader]
    for name, text in files.items():
        (folder / name).write_text(text)
    return (folder / next(iter(files)) if reader == "moments" else folder), protocol


def cases() -> list[tuple[str, str]]:
    return [(reader, name) for reader, (_, files) in FILES.items() for name in files]


@pytest.mark.parametrize("reader", FILES)
@pytest.mark.parametrize("ends", ["as they are", "CRLF", "byte order mark"])
def test_whole_files_are_read_whatever_their_line_ends(
    tmp_path: Path, reader: str, ends: str
) -> None:
    path, protocol = write(tmp_path, reader)
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        if ends == "CRLF":
            file.write_bytes(content.replace(b"\n", b"\r\n"))
        elif ends == "byte order mark":
            file.write_bytes(b"\xef\xbb\xbf" + content)
    for record in read_annotations(reader, path, protocol).records:
        assert record.caption == (record.caption or "").strip()
        assert "\r" not in record.video + (record.caption or "")


@pytest.mark.parametrize(("reader", "name"), cases())
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_with_the_remedy(
    tmp_path: Path, reader: str, name: str, damage: str
) -> None:
    path, protocol = write(tmp_path, reader)
    spoil, message = DAMAGE[damage]
    (tmp_path / name).write_bytes(spoil((tmp_path / name).read_bytes()))
    with pytest.raises(AnnotationError, match=message) as caught:
        read_annotations(reader, path, protocol)
    assert re.search(re.escape(name), str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reader", "name"), [c for c in cases() if c[1].endswith((".txt", ".tsv"))]
)
def test_a_blank_row_in_the_middle_is_named(tmp_path: Path, reader: str, name: str) -> None:
    path, protocol = write(tmp_path, reader)
    file = tmp_path / name
    file.write_text(file.read_text() + "\n" + file.read_text())
    with pytest.raises(AnnotationError, match=rf"{re.escape(name)}:2: "):
        read_annotations(reader, path, protocol)


@pytest.mark.parametrize(("reader", "name"), [c for c in cases() if c[1].endswith("list.txt")])
def test_an_id_listed_twice_is_named(tmp_path: Path, reader: str, name: str) -> None:
    path, protocol = write(tmp_path, reader)
    file = tmp_path / name
    file.write_text(file.read_text() * 2)
    with pytest.raises(AnnotationError, match=rf"{re.escape(name)}:2: .* occurs twice"):
        read_annotations(reader, path, protocol)


@pytest.mark.parametrize(("reader", "name"), [c for c in cases() if c[1].endswith("list.txt")])
def test_the_list_of_another_data_set_is_refused(tmp_path: Path, reader: str, name: str) -> None:
    path, protocol = write(tmp_path, reader)
    (tmp_path / name).write_text("something_else\n")
    with pytest.raises(AnnotationError, match=r"something_else.*is it the list of|no caption"):
        read_annotations(reader, path, protocol)
