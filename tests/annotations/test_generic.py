import json
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
        ("video,caption\na,  \n", r":2: column 'caption' is '  '; it must be a non-empty string"),
        ("video,caption,split\na,b,tets\n", "unknown split 'tets'; did you mean 'test'"),
        (
            "video,caption,start\na,b,soon\n",
            "column 'start' is 'soon'; it must be a time in seconds",
        ),
        ("video,caption,start\na,b,-1\n", "it must be a time in seconds, >= 0"),
        ("video,caption,start,end\na,b,5,2\n", "start 5 s is after end 2 s"),
    ],
)
def test_faulty_csv(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "captions.csv"
    path.write_text(content)
    with pytest.raises(AnnotationError, match=message):
        read_annotations("generic", path)


def test_other_faults(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"nothing.csv does not exist"):
        read_annotations("generic", tmp_path / "nothing.csv")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(AnnotationError, match=r"did you mean '.jsonl'"):
        read_annotations("generic", tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_text('{"video": "a", "caption": "b"}\nbroken')
    with pytest.raises(AnnotationError, match=r"a.jsonl:2: not a JSON object"):
        read_annotations("generic", tmp_path / "a.jsonl")
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(AnnotationError, match=r"cannot be read as parquet"):
        read_annotations("generic", tmp_path / "a.parquet")
    (tmp_path / "latin.csv").write_bytes("video,caption\na,zwölf\n".encode("latin-1"))
    with pytest.raises(AnnotationError, match=r"cannot be read as csv"):
        read_annotations("generic", tmp_path / "latin.csv")
    with pytest.raises(ConfigError, match=r"unknown reader 'generik'; did you mean 'generic'"):
        read_annotations("generik", tmp_path / "a.csv")
