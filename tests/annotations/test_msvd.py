import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gare_cache.annotations.msvd import CAPTIONS, LISTS, MAPPING, PICKLED, read_msvd
from gare_cache.annotations.readers import read_annotations
from gare_cache.errors import AnnotationError
from tests.annotations.official import dump, sizes, unpack

TEXTS = {
    "-4wsuPCjDBc_5_15": ["it s a squirrel", "an animal", "an animal"],
    "_b_1_2": ["a man"],
    "c-c_3_4": ["a dog runs", "a dog"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dump(tmp_path / CAPTIONS, TEXTS)
    for split, id_ in zip(("train", "val", "test"), TEXTS, strict=True):
        (tmp_path / LISTS[split]).write_text(f"{id_}\n")
    return tmp_path


def triples(folder: Path, protocol: str = "all-captions") -> list[tuple[str | None, str, str]]:
    return [(r.split, r.video, r.caption) for r in read_msvd(folder, protocol).records]


def test_all_captions_or_the_first_of_each_test_clip(folder: Path) -> None:
    expected = [
        ("train", "-4wsuPCjDBc_5_15", "it s a squirrel"),
        ("train", "-4wsuPCjDBc_5_15", "an animal"),
        ("train", "-4wsuPCjDBc_5_15", "an animal"),
        ("val", "_b_1_2", "a man"),
        ("test", "c-c_3_4", "a dog runs"),
        ("test", "c-c_3_4", "a dog"),
    ]
    assert triples(folder) == expected
    assert triples(folder / LISTS["test"], "first-caption") == expected[:-1]
    assert read_msvd(folder, "all-captions").notes == ()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_pickle_of_words_gives_the_same(folder: Path, protocol: int) -> None:
    expected = triples(folder)
    (folder / CAPTIONS).unlink()
    words = {id_: [text.split() for text in texts] for id_, texts in TEXTS.items()}
    (folder / PICKLED).write_bytes(pickle.dumps(words, protocol))
    assert triples(folder) == expected


def test_a_map_of_names_and_videos_in_no_list(folder: Path) -> None:
    (folder / MAPPING).write_text("c-c_3_4 vid1300\n")
    (folder / LISTS["val"]).unlink()
    found = read_msvd(folder, "all-captions")
    assert [r.file_names for r in found.records] == [()] * 3 + [("c-c_3_4", "vid1300")] * 2
    assert found.notes[0].endswith("val_list.txt does not exist: there are no val videos")
    assert found.notes[1] == "2 of 3 videos of captions_msvd.json: the lists lack 1"


def captions(value: Any) -> Callable[[Path], None]:
    return lambda folder: dump(folder / CAPTIONS, value)


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def pickled(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / CAPTIONS).unlink()
        (folder / PICKLED).write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (captions([]), r"captions_msvd.json holds no captions by id; fetch the file again"),
        (captions(TEXTS | {"c-c_3_4": "x"}), r"'c-c_3_4' is 'x'; it must be a list of captions"),
        (captions(TEXTS | {"c-c_3_4": ["x", " "]}), r"'c-c_3_4'\[1\]: 'caption' is ' '; it must"),
        (captions(TEXTS | {"c-c_3_4": [5]}), r"'c-c_3_4'\[0\]: 'caption' is 5; it must be a non"),
        (captions(TEXTS | {"c-c_3_4": []}), r"1 test video of .*test_list.txt has no caption"),
        (text(CAPTIONS, '{"a": ["x"],\n"a": ["y"]}'), r"the key 'a' occurs twice in one object"),
        (text(CAPTIONS, b'{\n"a": ["caf\xe9"]}'), r"msvd.json:2: byte 0xe9 is not UTF-8"),
        (text(CAPTIONS, "{"), r"captions_msvd.json: not valid JSON"),
        (text(LISTS["test"], "_b_1_2\n"), r"1 video is both val .* and test .*; is each the list"),
        (text(LISTS["test"], "vid1\n"), r"test_list.txt names 1 video that .*msvd.json does not"),
        (text(LISTS["test"], "c-c_3_4\nc-c_3_4\n"), r"test_list.txt:2: 'c-c_3_4' occurs twice"),
        (text(MAPPING, "a vid1\nb vid1\n"), r"mapping.txt:2: 'b vid1'; a line is an id and its v"),
        (text(MAPPING, "a\n"), r"mapping.txt:1: 'a'; a line is an id and its vidN"),
        (lambda f: (f / CAPTIONS).unlink(), r"holds neither captions_msvd.json nor raw-captions"),
        (pickled(pickle.dumps(TEXTS)[:-9]), r"raw-captions.pkl is damaged, or holds more than di"),
        (pickled(pickle.dumps({"a": Path()})), r"nothing else is loaded, because it can run code"),
        (
            pickled(pickle.dumps({"a": (1, 2)})),
            r"more than dictionaries, lists and strings .*use c",
        ),
        (pickled(b"\x80\x04}r\xff\xff\xff\xff."), r"raw-captions.pkl holds no captions by id"),
        (pickled(b"\x80\x04}r\xff"), r"raw-captions.pkl is damaged, or holds more than di"),
        (pickled(b"\x80\x05\x96" + b"\xff" * 7 + b"\x00."), r"nothing else is loaded"),
    ],
)
def test_faults(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(AnnotationError, match=message):
        read_msvd(folder, "all-captions")


@pytest.fixture(scope="module")
def official(shared_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = {name: name for name in (CAPTIONS, *LISTS.values())}
    names |= {f"ce_{split}_list.txt.gz": f"ce_{split}.txt" for split in LISTS}
    folder = tmp_path_factory.mktemp("msvd")
    return unpack(shared_data_dir / "annotations" / "msvd", folder, names)


def test_official_counts(official: Path) -> None:
    found = read_annotations("msvd", official, "all-captions")
    assert found.notes == ()
    assert sizes(found) == {"train": (1200, 48_774), "val": (100, 4290), "test": (670, 27_763)}
    assert len(found.records) == 80_827
    assert len({r.video for r in found.records}) == 1970
    assert sum(id_[0] in "-_" for id_ in {r.video for r in found.records}) == 79
    expected = {
        "train": (18, 66, 6468, 38_256),
        "val": (25, 62, 647, 3563),
        "test": (21, 81, 3730, 22_285),
    }
    for split, counts in expected.items():
        rows = [r for r in found.records if r.split == split]
        per_video = Counter(r.video for r in rows).values()
        repeats = len(rows) - len({(r.video, r.caption) for r in rows})
        distinct = len({r.caption for r in rows})
        assert (min(per_video), max(per_video), repeats, distinct) == counts
    assert all(r.caption.isascii() and r.caption == r.caption.lower() for r in found.records)
    sources = {
        split: {r.video.rsplit("_", 2)[0] for r in found.records if r.split == split}
        for split in LISTS
    }
    assert len(sources["train"] & sources["val"]) == 1
    assert not sources["test"] & (sources["train"] | sources["val"])


def test_official_first_captions(official: Path) -> None:
    found = read_annotations("msvd", official, "first-caption")
    assert sizes(found) == {"train": (1200, 48_774), "val": (100, 4290), "test": (670, 670)}
    assert found.notes == ()
    assert len({r.caption for r in found.records if r.split == "test"}) == 660


def test_official_lists_agree_and_a_wrong_one_is_refused(official: Path, tmp_path: Path) -> None:
    for split, name in LISTS.items():
        ids, others = (official / name).read_text().split(), official / f"ce_{split}.txt"
        assert sorted(others.read_text().split()) == sorted(ids)
    trains = [(official / name).read_text().split() for name in ("ce_train.txt", LISTS["train"])]
    assert trains[0] == trains[1]
    wrong = unpack(official, tmp_path, {name: name for name in (CAPTIONS, *LISTS.values())})
    (wrong / LISTS["val"]).write_bytes((official / LISTS["test"]).read_bytes())
    with pytest.raises(AnnotationError, match=r"670 videos are both val .* and test"):
        read_msvd(wrong, "all-captions")
