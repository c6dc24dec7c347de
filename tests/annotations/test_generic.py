import json
import re
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gare_cache.annotations.readers import read_annotations
from gare_cache.annotations.record import AnnotationRecord
from gare_cache.errors import AnnotationError, ConfigError

ROWS = [
    {"video": "a.mp4", "caption": 'a "red", round ball', "split": "train", "start": 1, "end": 2.5},
    {"video": "b", "caption": "zwölf\nBoxer", "split": "Validation", "start": None, "end": None},
]


def write(folder: Path, kind: str) -> Path:
    path = folder / f"captions.{kind}"
    if kind == "csv":
        path.write_text(
            '\ufeffvideo,caption,split,start,end\na.mp4,"a ""red"", round ball",train,1,2.5\n'
            'b,"zwölf\nBoxer",Validation,,\n',
            encoding="utf-8",
        )
    elif kind == "jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in ROWS))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_three_kinds_of_file_give_the_same_records(tmp_path: Path, kind: str) -> None:
    first, second = read_annotations("generic", write(tmp_path, kind)).records
    assert first == AnnotationRecord(
        "a.mp4", 'a "red", round ball', "train", 1.0, 2.5, first.origin
    )
    assert (second.caption, second.split, second.start_seconds) == ("zwölf\nBoxer", "val", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("video,text\na,b\n", r"no column 'caption' \(found: video, text\)"),
        ("video,caption\n", "holds no captions"),
        ("", "no column 'video'"),
        ("video,caption\na,b\na,  \n", r":3: 'caption' is ''; it must be a non-empty string"),
        ("video,caption,split\na,b,tets\n", "unknown split 'tets'; did you mean 'test'"),
        (
            "video,caption,start\na,b,soon\n",
            "column 'start' is 'soon'; it must be a time in seconds",
        ),
        ("video,caption,start\na,b,-1\n", "it must be a time in seconds, >= 0"),
        ("video,caption,start,end\na,b,5,2\n", "no time lies between start 5.0 s and end 2.0 s"),
        ("video,caption,start,end\na,b,2,2\n", "no time lies between start 2.0 s and end 2.0 s"),
        ("video,caption,start,end\na,b,,0\n", "no time lies between start 0.0 s and end 0.0 s"),
        ("video,caption,start\na,b,1_0\n", "column 'start' is '1_0'; it must be a time"),
        ("video,caption,start\na,b,inf\n", "column 'start' is 'inf'; it must be a time"),
        (
            "video,caption,start\na,b," + "9" * 400 + "\n",
            r"column 'start' is '9{56}\.\.\.; it must",
        ),
        (
            "video,caption\nv1,a man, a dog\nv2,x\n",
            "^captions.csv:2: 3 cells, but the header names 2",
        ),
        ("video,caption,start,end\nv,a, 1,2,3\n", r":2: 5 cells, .* must stand in quotes"),
        ("video,caption,start,end\nv,a,1\n", ":2: 3 cells, .* an empty cell needs its separator"),
        ("video;caption\nv;a; b\n", "captions.csv:2: 3 cells"),
        ("video,caption,Caption\na,b,c\n", "captions.csv: column 'caption' occurs twice"),
        ("video,caption\na,x\0y\n", r":2: 'caption' holds a NUL character: 'x\\x00y'"),
        ('video,caption\na,"b\n', "captions.csv:2: this row cannot be read as csv: unexpected end"),
    ],
)
def test_faulty_csv(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "captions.csv"
    path.write_text(content)
    with pytest.raises(AnnotationError, match=message):
        read_annotations("generic", path)


def test_other_faults(tmp_path: Path) -> None:
    message = r"^dataset.annotations: /.*nothing.csv does not exist"
    with pytest.raises(AnnotationError, match=message):
        read_annotations("generic", tmp_path / "nothing.csv")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(AnnotationError, match=r"did you mean '.jsonl'"):
        read_annotations("generic", tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_text('{"video": "a", "caption": "b"}\nbroken')
    with pytest.raises(AnnotationError, match=r"a.jsonl:2: not valid JSON: Expecting"):
        read_annotations("generic", tmp_path / "a.jsonl")
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(AnnotationError, match=r"cannot be read as Parquet"):
        read_annotations("generic", tmp_path / "a.parquet")
    (tmp_path / "latin.csv").write_bytes("video,caption\na,zwölf\n".encode("latin-1"))
    with pytest.raises(
        AnnotationError, match=r"latin.csv:2: byte 0xf6 .*'a,zwölf'\); save as UTF-8"
    ):
        read_annotations("generic", tmp_path / "latin.csv")
    with pytest.raises(ConfigError, match=r"unknown reader 'generik'; did you mean 'generic'"):
        read_annotations("generik", tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"video": "a", "caption": "x", "caption": "y"}', "the key 'caption' occurs twice"),
        ('{"video": "a", "caption": "\\ud800"}', r"holds half of a UTF-16 pair: '\\ud800'"),
        ('{"video": "a\\u0000", "caption": "x"}', "'video' holds a NUL character"),
        ('{"video": "a", "caption": "x", "end": true}', "column 'end' is True; it must be a time"),
        ('{"video": "a", "caption": "x", "end": ' + "9" * 400 + "}", "column 'end' is 9{57}"),
        (
            '{"video": "a", "caption": "x", "end": ' + "9" * 5000 + "}",
            ":1: not valid JSON: Exceeds",
        ),
        ('{"video": "a", "caption": "x", "Video": "b"}', "column 'video' occurs twice"),
        ("[1]", r":1: not a JSON object: '\[1\]'"),
    ],
)
def test_faulty_json_lines(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text(line)
    with pytest.raises(AnnotationError, match=f"^captions.jsonl:1: .*|{message}") as raised:
        read_annotations("generic", path)
    assert re.search(message, str(raised.value))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_other_separators_and_spellings_of_columns_are_read_and_said(
    tmp_path: Path, separator: str, name: str
) -> None:
    path = tmp_path / "captions.csv"
    path.write_text(
        separator.join(["Video", " CAPTION", "note"]) + "\n" + f"a{separator}b, c{separator}"
    )
    found = read_annotations("generic", path)
    assert [record.caption for record in found.records] == ["b, c"]
    assert found.notes == (
        f"captions.csv: cells are separated by {name}",
        "captions.csv: column 'Video' as 'video', 'CAPTION' as 'caption'",
    )


def test_other_encodings_and_spelling_in_other_files(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text("video,caption\na,b\n", encoding="utf-16")
    with pytest.raises(AnnotationError, match=r"wide.csv is UTF-16 text; save as UTF-8"):
        read_annotations("generic", path)
    rows = [{"Video": "a", "CAPTION": "b"}] * 2
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for kind in ("jsonl", "parquet"):
        found = read_annotations("generic", tmp_path / f"a.{kind}")
        assert found.notes == (f"a.{kind}: column 'Video' as 'video', 'CAPTION' as 'caption'",)


def test_captions_with_a_line_break_are_counted_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text('video,caption,split\nv0,a,test\nv1,"opens,train\nv2,closes",train\nv3,p,val\n')
    found = read_annotations("generic", path)
    assert [record.origin for record in found.records] == [f"captions.csv:{n}" for n in (2, 3, 5)]
    (note,) = found.notes
    assert note.startswith(
        "warning: 1 of 3 captions hold a line break; the first is captions.csv:3"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("comma.csv", "comma.csv:2: 3 cells, but the header names 2 columns"),
        ("merged_rows.csv", ""),
    ],
)
def test_seen_files(name: str, message: str) -> None:
    path = Path(__file__).parents[3] / "shared" / "cases" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    if message:
        with pytest.raises(AnnotationError, match=message):
            read_annotations("generic", path)
    else:
        (note,) = read_annotations("generic", path).notes
        assert "1 of 4 captions hold a line break; the first is merged_rows.csv:2" in note


@pytest.mark.parametrize(
    "text",
    [
        '\n\nvideo,caption\na,"x, y"\n',
        'video,caption\n  \na,"x, y"\n,\n',
        'video, "caption"\na, "x, y"\n',
        'video,caption,split,start,end\na,"x, y", , , \n',
        'video,caption,\na,"x, y",\n',
    ],
)
def test_blank_rows_blank_cells_and_spaces_before_quotes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "captions.csv"
    path.write_text(text)
    (found,) = read_annotations("generic", path).records
    assert (found.video, found.caption, found.split, found.end_seconds) == ("a", "x, y", None, None)


def test_utf_16_without_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_bytes("video,caption\na,b\n".encode("utf-16-le"))
    with pytest.raises(AnnotationError, match=r"csv:1: begins with NUL bytes, .*save as UTF-8"):
        read_annotations("generic", path)


@pytest.mark.parametrize("text", ['[{"video": "a"}]', "[\n", '{"video": "a"},', "{"])
def test_json_that_is_not_one_object_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=r"jsonl:1: not .*every line of .jsonl holds one obj"):
        read_annotations("generic", path)


def test_types_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    text = pa.array(["a"])
    columns = {
        "video": text.dictionary_encode(),
        "caption": text.cast(pa.large_string()),
        "start": pa.array([Decimal("1.5")]),
        "end": pa.array([2], pa.int8()),
        "when": pa.array([1001], pa.timestamp("ns")),  # finer than Python's; not read
    }
    pq.write_table(pa.table(columns), path)
    (found,) = read_annotations("generic", path).records
    assert (found.video, found.caption, found.start_seconds, found.end_seconds) == (
        "a",
        "a",
        1.5,
        2,
    )
    for name, values in {
        "start": pa.array([1001], pa.duration("ns")),
        "end": pa.array([datetime(2020, 1, 1)]),
        "caption": pa.array([["a", "b"]]),
        "video": pa.array([5]),
    }.items():
        pq.write_table(pa.table({**columns, name: values}), path)
        with pytest.raises(AnnotationError, match="parquet") as raised:
            read_annotations("generic", path)
        assert "\n" not in str(raised.value)
    pq.write_table(pa.table([text, text, text], names=["video", "caption", "caption"]), path)
    with pytest.raises(AnnotationError, match=r"^captions.parquet: column 'caption' occurs twice$"):
        read_annotations("generic", path)
