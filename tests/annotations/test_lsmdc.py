from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from gare_cache.annotations.lsmdc import FILES, REPORTED, read_lsmdc
from gare_cache.annotations.readers import read_annotations
from gare_cache.errors import AnnotationError
from tests.annotations.official import sizes, unpack, words

A, B, C = (f"00{n}_Pianist_00.23.28.872-00.23.34.843" for n in (17, 18, 19))


def row(id_: str, sentence: str) -> str:
    return "\t".join([id_, *["00.23.28.872"] * 4, sentence]) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    training = row(A, 'SOMEONE says "go') + row(B, " One.") + row(A, 'Later" ')
    (tmp_path / FILES["train"]).write_text(training)
    (tmp_path / FILES["val"]).write_text(row(C, "It is a naïve plan."), encoding="utf-8")
    (tmp_path / FILES["test"]).write_text(row(REPORTED[0], "SOMEONE frowns."))
    return tmp_path


def test_quotes_are_characters_and_repeated_ids_are_captions_of_one_clip(folder: Path) -> None:
    found = read_lsmdc(folder, "1k")
    assert [(r.split, r.video, r.caption) for r in found.records] == [
        ("train", A, 'SOMEONE says "go'),
        ("train", A, 'Later"'),
        ("train", B, "One."),
        ("val", C, "It is a naïve plan."),
        ("test", REPORTED[0], "SOMEONE frowns."),
    ]
    assert found.records[1].origin == f"{folder / FILES['train']}:3"
    assert found.notes[0] == "train: 2 clips of 3 rows: 1 clip has several captions"
    assert found.notes[1].startswith("1 clip is left out as damaged by some published code, which")


def test_the_test_alone_is_enough_and_the_size_is_compared(folder: Path) -> None:
    for split in ("train", "val"):
        (folder / FILES[split]).unlink()
    found = read_annotations("lsmdc", folder / FILES["test"], "1k")
    assert sizes(found) == {"test": (1, 1)}
    assert found.notes[0].endswith("training.csv does not exist: there are no train videos")
    assert found.notes[-1].startswith("warning: test has 1 of 1,000 videos and 1 of 1,000 capt")


def test_the_official_number_of_training_rows_is_known(folder: Path) -> None:
    note = read_annotations("lsmdc", folder, "1k").notes[-3]
    assert note.startswith("warning: train has 3 of 101,079 captions of the official files")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (row(A, "x") + "broken\n", r"training.csv:2: 1 cell separated by tabs, it must have 6: C"),
        (row(A, "x") + "\n", r"training.csv:2: 1 cell separated by tabs"),
        (row(A, "x").replace("\t00.23.28.872", "", 1), r"csv:1: 5 cells separated by tabs"),
        (row(A, "x\ty"), r"csv:1: 7 cells separated by tabs, .*SENTENCE; correct the line"),
        (row(A, ""), r"csv:1: 'SENTENCE' is ''; it must be a non-empty string"),
        (row(" ", "x"), r"csv:1: 'CLIP_ID' is ' '; it must be a non-empty string"),
        ("", r"csv is empty; fetch it again"),
        (row(A, "x") + row(C, "x"), r"1 video is both train .* and val .*'0019_Pianist_00.23.28"),
        ((row(A, "x") + row(B, "café")).encode("latin-1"), r"csv:2: byte 0xe9 is not UTF-8 .*'"),
        (row(A, "x").encode("utf-16"), r"training.csv is UTF-16 text; save as UTF-8"),
    ],
)
def test_faults(folder: Path, content: str | bytes, message: str) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / FILES["train"]).write_bytes(raw)
    with pytest.raises(AnnotationError, match=message):
        read_lsmdc(folder, "1k")


def test_another_data_sets_file(folder: Path) -> None:
    (folder / "other.csv").write_text("")
    with pytest.raises(AnnotationError, match=r"other.csv is no file of LSMDC; give the folder"):
        read_lsmdc(folder / "other.csv", "1k")
    (folder / FILES["test"]).unlink()
    with pytest.raises(AnnotationError, match=r"publictect.csv does not exist; put the official"):
        read_lsmdc(folder, "1k")


@pytest.fixture(scope="module")
def official(shared_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = shared_data_dir / "annotations" / "lsmdc"
    return unpack(source, tmp_path_factory.mktemp("lsmdc"), {FILES["test"]: FILES["test"]})


def test_official_counts(official: Path) -> None:
    found = read_annotations("lsmdc", official, "1k")
    assert sizes(found) == {"test": (1000, 1000)}
    assert found.notes[-1].endswith(f"kept here: {', '.join(REPORTED)}")
    assert len(found.notes) == 3
    assert len({r.video.rsplit("_", 1)[0] for r in found.records}) == 17
    captions = [r.caption for r in found.records]
    repeated = [count for count in Counter(captions).values() if count > 1]
    assert repeated == [2] * 5
    assert sum("SOMEONE" in caption for caption in captions) == 493
    counts = words(found, "test")
    assert (round(sum(counts) / len(counts), 1), max(counts)) == (8.8, 33)


def test_official_bytes(official: Path) -> None:
    content = (official / FILES["test"]).read_bytes()
    assert content.isascii()
    assert b"\r" not in content
    assert b'"' not in content
    sentences = [line.split(b"\t")[-1] for line in content.splitlines()]
    assert sum(sentence != sentence.strip() for sentence in sentences) == 1


def spoiled(find: bytes, replace: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(find, replace, 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoiled(b"\t", b" "), r"publictect.csv:1: 5 cells separated by tabs"),
        (spoiled(b"\n", b""), r"publictect.csv:1: 11 cells separated by tabs"),
        (lambda content: content[:-1].decode().encode("utf-16"), r"is UTF-16 text; save as UTF-8"),
    ],
)
def test_official_file_with_a_fault(
    official: Path, tmp_path: Path, spoil: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / FILES["test"]
    path.write_bytes(spoil((official / FILES["test"]).read_bytes()))
    with pytest.raises(AnnotationError, match=message):
        read_lsmdc(path, "1k")
