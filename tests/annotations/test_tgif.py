import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from gare_cache.annotations.readers import read_annotations
from gare_cache.annotations.tgif import LISTS, TABLE, read_tgif
from gare_cache.errors import AnnotationError
from tests.annotations.official import sizes, unpack


def url(name: str, server: int = 31, folder: str = "0f") -> str:
    return f"https://{server}.media.tumblr.com/{folder}/tumblr_{name}_500.gif"


ROWS = [
    (url("a"), 'a man says "hi'),
    (url("b"), "a cat ."),
    (url("c"), "a dog"),
    (url("a", server=38), 'another" '),
    (url("d"), "in no list"),
]


def table(*rows: tuple[str, str]) -> str:
    return "".join(f"{address}\t{sentence}\n" for address, sentence in rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / TABLE).write_text(table(*ROWS))
    for split, name in zip(("train", "val", "test"), "abc", strict=True):
        (tmp_path / LISTS[split]).write_text(url(name, server=33) + "\n")
    return tmp_path


def test_ids_ignore_the_host_and_quotes_are_characters(folder: Path) -> None:
    found = read_tgif(folder, "all-captions")
    assert [(r.split, r.video, r.caption) for r in found.records] == [
        ("train", "tumblr_a_500", 'a man says "hi'),
        ("train", "tumblr_a_500", 'another"'),
        ("val", "tumblr_b_500", "a cat ."),
        ("test", "tumblr_c_500", "a dog"),
    ]
    assert found.notes == (
        "train: 1 of 1 GIF have more than one caption",
        f"3 of 4 GIFs of {TABLE}: the lists lack 1",
    )


def test_lists_in_their_official_folder_and_without_training(folder: Path) -> None:
    (folder / "splits").mkdir()
    for name in LISTS.values():
        (folder / name).rename(folder / "splits" / name)
    assert sizes(read_tgif(folder / TABLE, "all-captions"))["train"] == (1, 2)
    (folder / "splits" / LISTS["train"]).unlink()
    found = read_tgif(folder, "all-captions")
    assert sizes(found) == {"val": (1, 1), "test": (1, 1)}
    assert found.notes[0].endswith("splits/train.txt does not exist: there are no train videos")


def test_listed_gifs_without_a_sentence_are_counted(folder: Path) -> None:
    (folder / LISTS["test"]).write_text(f"{url('c')}\n{url('gone')}\n")
    found = read_tgif(folder, "all-captions")
    assert found.notes[0] == (
        f"warning: test: 1 of 2 videos of {folder / LISTS['test']}: 1 video has no caption in "
        f"{folder / TABLE}, the first is 'tumblr_gone_500'"
    )


def with_rows(*rows: tuple[str, str]) -> Callable[[Path], None]:
    return text(TABLE, table(*ROWS[:3], *rows))


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            with_rows((url("a", folder="ff"), "x")),
            r"tsv:4: .* has the id 'tumblr_a_500' of another",
        ),
        (with_rows((url("e"), " ")), r"tsv:4: 'sentence' is ' '; it must be a non-empty string"),
        (with_rows(("https://a/", "x")), r"tsv:4: 'id in the URL' is ''; it must be"),
        (
            with_rows((url("e"), "x\ty")),
            r"tsv:4: 3 cells separated by tabs, it must have 2: URL, s",
        ),
        (text(TABLE, url("a") + "\n"), r"tsv:1: 1 cell separated by tabs"),
        (text(TABLE, b"https://a/b.gif\tcaf\xe9\n"), r"tsv:1: byte 0xe9 is not UTF-8 .*save as"),
        (lambda f: (f / TABLE).unlink(), r"tgif-v1.0.tsv does not exist; put the official file"),
        (lambda f: (f / LISTS["test"]).unlink(), r"test.txt does not exist; put the official file"),
        (text(LISTS["test"], url("b")), r"1 video is both val .* and test .*'tumblr_b_500'"),
        (text(LISTS["test"], url("x")), r"test.txt names 1 video that .*tsv does not annotate"),
        (
            text(LISTS["test"], f"{url('c')}\n{url('c', 38)}\n"),
            r"test.txt:2: 'tumblr_c_500' occurs",
        ),
    ],
)
def test_faults(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(AnnotationError, match=message):
        read_tgif(folder, "all-captions")


@pytest.fixture(scope="module")
def official(shared_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official lists, and published generated captions of the test in the table's shape."""
    source = shared_data_dir / "annotations" / "tgif"
    lists = {f"{split}.txt.gz": LISTS[split] for split in ("val", "test")}
    folder = unpack(source, tmp_path_factory.mktemp("tgif"), lists)
    generated = gzip.decompress((source / "results-lstm-cnn-finetune-cvpr16.tsv.gz").read_bytes())
    val = (folder / LISTS["val"]).read_text().split()
    synthetic = table(*((address, "a sentence") for address in val))
    (folder / TABLE).write_bytes(generated.removesuffix(b"\n") + b"\n" + synthetic.encode())
    return folder


def test_official_lists(official: Path) -> None:
    found = read_annotations("tgif", official, "all-captions")
    assert sizes(found) == {"val": (10_708, 10_708), "test": (11_360, 11_360)}
    train = official / LISTS["train"]
    assert found.notes == (f"warning: {train} does not exist: there are no train videos",)
    for split, count in (("val", 10_708), ("test", 11_360)):
        urls = (official / LISTS[split]).read_text().split()
        assert len(set(urls)) == len(urls) == count


def test_official_lists_in_the_wrong_place(official: Path, tmp_path: Path) -> None:
    names = {TABLE: TABLE, LISTS["val"]: LISTS["test"]}
    notes = read_annotations("tgif", unpack(official, tmp_path, names), "all-captions").notes
    assert notes[-1].startswith("warning: test has 10,708 of 11,360 videos of the official files")
