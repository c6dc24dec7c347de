from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gare_cache.annotations.readers import read_annotations
from gare_cache.annotations.vatex import CAPTIONS, LISTS, RANDOM_LIST, read_vatex
from gare_cache.errors import AnnotationError
from tests.annotations.official import dump, sizes, unpack

(TRAINING, VALIDATION), (JOINED,), (REFERENCES,) = CAPTIONS
TRAIN, VAL, TEST, OTHER = (f"{c}Uf_2VRj-V0_000122_000132" for c in ("P", "-", "_", "Q"))


def texts(id_: str) -> list[str]:
    return [f"{id_[0]} sentence {n} " for n in range(10)]


def entry(id_: str) -> dict[str, Any]:
    return {"videoID": id_, "enCap": texts(id_), "chCap": ["一"]}


def write_official(folder: Path) -> None:
    dump(folder / TRAINING, [entry(TRAIN)])
    dump(folder / VALIDATION, [entry(id_) for id_ in (VAL, TEST, OTHER)])


def write_joined(folder: Path) -> None:
    dump(folder / JOINED, {id_: entry(id_) for id_ in (TRAIN, VAL, TEST, OTHER)})


def write_references(folder: Path) -> None:
    dump(folder / REFERENCES, {id_: texts(id_) for id_ in (TRAIN, VAL, TEST, OTHER)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / LISTS["train"]).write_text(f"{TRAIN}\n")
    (tmp_path / LISTS["val"]).write_text(f"{VAL}\n{OTHER}\n")
    (tmp_path / LISTS["test"]).write_text(f"{TEST}\n")
    (tmp_path / RANDOM_LIST).write_text(f"{VAL}\n")
    return tmp_path


def splits(folder: Path, protocol: str) -> dict[str, str | None]:
    return {r.video: r.split for r in read_vatex(folder, protocol).records}


@pytest.mark.parametrize("write", [write_official, write_joined, write_references])
def test_captions_of_each_shape_and_both_protocols(
    folder: Path, write: Callable[[Path], None]
) -> None:
    write(folder)
    found = read_vatex(folder, "hgr")
    assert sizes(found) == {"train": (1, 10), "val": (2, 20), "test": (1, 10)}
    assert found.notes == ()
    assert found.records[0].caption == "P sentence 0"
    assert found.records[-1].caption == "_ sentence 9"
    expected: dict[str, str | None] = {TRAIN: "train", VAL: "val", OTHER: "val", TEST: "test"}
    assert splits(folder, "hgr") == expected
    expected |= {VAL: "test", TEST: "val"}
    assert splits(folder / RANDOM_LIST, "random-1k5") == expected


def test_what_is_not_read_and_gaps_are_said(folder: Path) -> None:
    write_official(folder)
    write_joined(folder)
    dump(folder / VALIDATION, [entry(VAL), {"videoID": TEST, "enCap": ["one"]}])
    found = read_vatex(folder, "hgr")
    sources = f"{folder / TRAINING} and {folder / VALIDATION}"
    assert found.notes == (
        f"captions are read from {TRAINING} and {VALIDATION}, not from {JOINED}",
        f"warning: val: 1 of 2 videos of {folder / LISTS['val']}: 1 video has no caption in "
        f"{sources}, the first is {OTHER!r}",
        "test: 1 of 1 video have not 10 captions",
    )


def captions(value: Any) -> Callable[[Path], None]:
    return lambda folder: dump(folder / REFERENCES, value)


def text(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (captions({}), r"ref_captions.json holds no clips; fetch the file again"),
        (captions("x"), r"ref_captions.json holds no clips"),
        (captions([entry(TEST), entry(TEST)]), r"\[1\]: '_Uf_2VR.*' is annotated twice; delete"),
        (captions([{"videoID": TEST}]), r"\[0\] has no key 'enCap' \(found: videoID\); fetch"),
        (captions([{"enCap": ["x"]}]), r"\[0\] has no key 'videoID'"),
        (captions(["x"]), r"\[0\] is 'x'; it must be a JSON object"),
        (captions({TEST: {"chCap": ["x"]}}), r"has no key 'enCap' \(found: chCap\)"),
        (captions({TEST: "x"}), r"'_Uf_.*' is 'x'; it must be a list of captions"),
        (captions({TEST: ["x", " "]}), r"caption 1: 'enCap' is ' '; it must be a non-empty"),
        (text(REFERENCES, b'{"a": ["x"],\n"a": ["y"]}'), r"the key 'a' occurs twice in one"),
        (text(REFERENCES, b'{\n"a": ["caf\xe9"]}'), r"captions.json:2: byte 0xe9 is not UTF-8"),
        (text(REFERENCES, b"{"), r"ref_captions.json: not valid JSON"),
        (text(TRAINING, b"[]"), r"vatex_validation_v1.0.json does not exist; put it beside the"),
        (lambda f: (f / REFERENCES).unlink(), r"holds no captions; put vatex_training_v1.0.json"),
        (text(LISTS["test"], VAL.encode()), r"1 video is both val .* and test .*; is each the"),
        (text(LISTS["test"], b"x\nx\n"), r"test_list.txt:2: 'x' occurs twice"),
        (text(RANDOM_LIST, TRAIN.encode()), r"test1k5_sec_list.txt names 1 video that val_list"),
        (lambda f: (f / RANDOM_LIST).unlink(), r"test1k5_sec_list.txt does not exist; put it"),
        (lambda f: (f / LISTS["val"]).unlink(), r"val_list.txt does not exist; random-1k5 takes"),
    ],
)
def test_faults(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    write_references(folder)
    spoil(folder)
    with pytest.raises(AnnotationError, match=message):
        read_vatex(folder, "random-1k5")


def test_a_list_of_other_clips_is_refused(folder: Path) -> None:
    write_references(folder)
    (folder / LISTS["test"]).write_text("x\n")
    with pytest.raises(AnnotationError, match=r"test_list.txt names 1 video that .*does not annot"):
        read_vatex(folder, "hgr")


@pytest.fixture(scope="module")
def official(shared_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official lists, and made captions, ten each, of all their clips."""
    names = [*LISTS.values(), RANDOM_LIST]
    source = shared_data_dir / "annotations" / "vatex"
    folder = tmp_path_factory.mktemp("vatex")
    unpack(source, folder, {f"{name}.gz": name for name in names})
    ids = {id_ for name in names for id_ in (folder / name).read_text().split()}
    dump(folder / REFERENCES, {id_: texts(id_) for id_ in sorted(ids)})
    return folder


def test_official_lists(official: Path) -> None:
    ids = {name: (official / name).read_text().split() for name in (*LISTS.values(), RANDOM_LIST)}
    assert {len(id_) for listed in ids.values() for id_ in listed} == {25}
    assert sum(id_[0] == "-" for listed in ids.values() for id_ in listed) == 757
    train = {id_[:11] for id_ in ids[LISTS["train"]]}
    assert len(train) == 25_991 - 4
    assert sum(id_[:11] in train for id_ in ids[LISTS["val"]]) == 1
    assert not {id_[:11] for id_ in ids[LISTS["test"]]} & train


@pytest.mark.parametrize("protocol", ["hgr", "random-1k5"])
def test_official_counts(official: Path, protocol: str) -> None:
    found = read_annotations("vatex", official, protocol)
    expected = {"train": (25_991, 259_910), "val": (1500, 15_000), "test": (1500, 15_000)}
    assert sizes(found) == expected
    assert found.notes == ()


@pytest.mark.slow
def test_official_random_test_mixes_both_halves(official: Path, tmp_path: Path) -> None:
    hgr, drawn = (splits(official, protocol) for protocol in ("hgr", "random-1k5"))
    tests = [id_ for id_, split in drawn.items() if split == "test"]
    assert sum(hgr[id_] == "val" for id_ in tests) == 776
    assert sum(hgr[id_] == "test" for id_ in tests) == 724
    names = {name: name for name in (REFERENCES, LISTS["train"], LISTS["val"])}
    wrong = unpack(official, tmp_path, names | {RANDOM_LIST: LISTS["test"]})
    with pytest.raises(AnnotationError, match=r"776 videos are both val .* and test"):
        read_vatex(wrong, "hgr")
