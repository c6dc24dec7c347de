"""Text that a user may write: it is read as it stands, or refused with an error of the package."""

import csv
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gare_cache.annotations.readers import read_annotations
from gare_cache.config import parse_params, read_values
from gare_cache.errors import GareCacheError
from gare_cache.studies.study import parse_study
from tests.tiny import tiny_params

# Everything but NUL and halves of UTF-16 pairs, which the readers refuse.
cells = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)
numbers = st.integers() | st.floats() | st.booleans()
values = st.recursive(
    st.none() | numbers | cells,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(cells, inner, max_size=3),
    max_leaves=6,
)


def read(path: Path) -> list[tuple[str, str]] | None:
    """Return videos and captions of a file, "" for no caption; None if it is refused."""
    try:
        found = read_annotations("generic", path)
    except GareCacheError:
        return None
    return [(record.video, record.caption or "") for record in found.records]


@given(rows=st.lists(st.tuples(cells, cells), max_size=5))
def test_the_cells_of_a_csv_file_are_read_as_they_stand(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("video", "caption"), *rows])
    path = tmp_path / "a.csv"
    path.write_bytes(text.getvalue().encode())
    found = read(path)
    if found is not None:
        filled = [caption.strip() for video, caption in rows if video.strip() or caption.strip()]
        assert [caption for _, caption in found] == filled


@given(text=st.text(max_size=200))
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.tsv"])
def test_any_text_is_read_or_refused(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(("video,caption\n" + text).encode(errors="surrogatepass"))
    read(path)


@given(
    rows=st.lists(
        st.dictionaries(
            st.sampled_from(["video", "caption", "split", "start", "end"]) | cells,
            values,
            max_size=5,
        ),
        max_size=4,
    )
)
def test_any_json_lines_are_read_or_refused(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    read(path)


def places(content: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of every setting."""
    found = []
    for key, value in content.items():
        found.append((*prefix, key))
        if isinstance(value, dict):
            found += places(value, (*prefix, key))
    return found


SETTINGS = tiny_params(Path("encoder"))
STUDY: dict[str, Any] = {
    "title": "t",
    "base": "params.yaml",
    "axes": {"train.epochs": [1, 2], "head": {"one": {"train.seed": 1}}},
    "seeds": [0, 1],
    "reference": "epochs=1",
}


def changed(content: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(json.dumps(content))
    inner = result
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return result


@given(place=st.sampled_from(places(SETTINGS)), value=values)
def test_any_setting_is_accepted_or_refused(place: tuple[str, ...], value: Any) -> None:
    with suppress(GareCacheError):
        parse_params(changed(SETTINGS, place, value), where="params.yaml")


@given(place=st.sampled_from(places(STUDY)), value=values)
def test_any_study_is_accepted_or_refused(place: tuple[str, ...], value: Any) -> None:
    with suppress(GareCacheError):
        parse_study("s", changed(STUDY, place, value))


@given(text=st.text(max_size=60), content=values)
def test_any_yaml_is_read_or_refused(tmp_path: Path, text: str, content: Any) -> None:
    path = tmp_path / "params.yaml"
    for written in (text, yaml.safe_dump(content), f"train: {text}"):
        path.write_bytes(written.encode(errors="surrogatepass"))
        with suppress(GareCacheError):
            read_values(path)
