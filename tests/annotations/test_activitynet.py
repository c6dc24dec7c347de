import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gare_cache.annotations.activitynet import read_activitynet
from gare_cache.annotations.readers import read_annotations
from gare_cache.errors import AnnotationError
from tests.annotations.official import dump, sizes, unpack, words

FIRST, SECOND, THIRD = ("v_-AAAAAAAAAA", "v_BBBBB_BBBBB", "v_CCCCCCCCCCC")


def video(*sentences: str, times: Any = None) -> dict[str, Any]:
    intervals = [[0.5 * n, 9] for n in range(len(sentences))] if times is None else times
    return {"duration": 10.0, "timestamps": intervals, "sentences": list(sentences)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dump(tmp_path / "train.json", {FIRST: video("One ", " two\nthree.")})
    tests = {SECOND: video("Later.", " Earlier.", times=[[5, 5], [3.5, 1]]), THIRD: video("x")}
    dump(tmp_path / "val_1.json", tests)
    dump(tmp_path / "val_2.json", {SECOND: video("other words")})
    return tmp_path


def test_paragraphs_keep_the_order_of_the_file_whatever_the_intervals(folder: Path) -> None:
    found = read_activitynet(folder, "paragraph")
    assert [(r.split, r.video, r.caption) for r in found.records] == [
        ("train", FIRST, "One two three."),
        ("test", SECOND, "Later. Earlier."),
        ("test", THIRD, "x"),
    ]
    assert found.records[0].file_names == (FIRST, "-AAAAAAAAAA")
    assert {r.start_seconds for r in found.records} == {None}
    assert found.notes == (
        "val_1.json: 1 reversed and 1 empty of 3 intervals; paragraphs do not use them",
    )


def test_val_2_and_the_lists_of_ids(folder: Path) -> None:
    dump(folder / "val_ids.json", [SECOND, THIRD])
    found = read_activitynet(folder / "val_2.json", "paragraph-val2")
    assert [r.caption for r in found.records if r.split == "test"] == ["other words"]
    assert found.notes == (
        f"1 of 2 videos of val_ids.json: 1 video has no captions, the first is {THIRD!r}",
    )


def test_training_is_optional(folder: Path) -> None:
    (folder / "train.json").unlink()
    found = read_activitynet(folder, "paragraph")
    assert sizes(found) == {"test": (2, 2)}
    assert "train.json does not exist: there are no train videos" in found.notes[0]


def with_test(value: Any) -> Callable[[Path], None]:
    return lambda folder: dump(folder / "val_1.json", value)


def raw(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "val_1.json").write_bytes(content)

    return write


def without(name: str) -> Callable[[Path], None]:
    return with_test({SECOND: {key: value for key, value in video("x").items() if key != name}})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (with_test([]), r"val_1.json holds no object of videos; fetch the official"),
        (with_test({}), r"val_1.json holds no object of videos"),
        (
            with_test({"BBBBB_BBBBB": video("x")}),
            r"the id 'BBBBB_BBBBB' is not 'v_' and the 11 cha",
        ),
        (with_test({SECOND: 3}), rf"val_1.json: '{SECOND}' is 3; it must be a JSON object"),
        (without("sentences"), r"has no key 'sentences' \(found: duration, timestamps\); fetch"),
        (without("timestamps"), r"has no key 'timestamps'"),
        (
            with_test({SECOND: video("x", " ")}),
            r"sentences\[1\]: 'sentence' is ' '; it must be a n",
        ),
        (with_test({SECOND: video()}), r"0 sentences and 0 timestamps; each sentence has one"),
        (with_test({SECOND: video("x", times=[])}), r"1 sentence and 0 timestamps; each"),
        (with_test({SECOND: video("x", times=[[1]])}), r"sentences\[0\]: interval \[1\]; it must"),
        (with_test({FIRST: video("x")}), r"1 video is both train .* and test .*'v_-AAAAAAAAAA'"),
        (raw(b'{"v_A": 1,\n "v_A": 2}'), r"val_1.json: not valid JSON: the key 'v_A' occurs twice"),
        (raw(b'{\n"v_\xe9": 1}'), r"val_1.json:2: byte 0xe9 is not UTF-8 .*save as UTF-8"),
        (raw(b'{"v_A": '), r"val_1.json: not valid JSON: .*line 1"),
        (lambda f: (f / "val_1.json").unlink(), r"val_1.json does not exist; put the official"),
        (lambda f: dump(f / "val_ids.json", {}), r"val_ids.json is no list of ids; fetch"),
    ],
)
def test_faults(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(AnnotationError, match=message):
        read_activitynet(folder, "paragraph")


@pytest.fixture(scope="module")
def official(shared_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    ids = {f"{split}_ids.json.gz": f"{split}_ids.json" for split in ("train", "val")}
    lists = {f"ce_{name}_list.txt.gz": f"ce_{name}.txt" for name in ("train", "val_1", "val_2")}
    captions = {name: name for name in ("train.json", "val_1.json", "val_2.json")}
    source = shared_data_dir / "annotations" / "activitynet"
    return unpack(source, tmp_path_factory.mktemp("activitynet"), {**captions, **ids, **lists})


def test_official_counts(official: Path) -> None:
    found = read_annotations("activitynet", official, "paragraph")
    assert sizes(found) == {"train": (10_009, 10_009), "test": (4917, 4917)}
    assert found.notes == (
        "train.json: 2 reversed and 2 empty of 37,421 intervals; paragraphs do not use them",
        "10,009 of 10,024 videos of train_ids.json: 15 videos have no captions, the first is "
        + repr(first_bare(official, "train_ids.json", "train.json")),
        "4,917 of 4,926 videos of val_ids.json: 9 videos have no captions, the first is "
        + repr(first_bare(official, "val_ids.json", "val_1.json")),
    )
    for split, mean, longest, beyond_75 in (("train", 50.4, 504, 1342), ("test", 48.4, 332, 567)):
        counts = words(found, split)
        assert round(sum(counts) / len(counts), 1) == mean
        assert max(counts) == longest
        assert sum(count > 75 for count in counts) == beyond_75
    tests = [r.caption for r in found.records if r.split == "test"]
    assert len(set(tests)) == 4917


def first_bare(official: Path, ids: str, captions: str) -> str:
    known = json.loads((official / captions).read_text())
    return next(id_ for id_ in json.loads((official / ids).read_text()) if id_ not in known)


def test_official_val_2(official: Path) -> None:
    found = read_annotations("activitynet", official, "paragraph-val2")
    assert sizes(found) == {"train": (10_009, 10_009), "test": (4885, 4885)}
    counts = words(found, "test")
    assert (round(sum(counts) / len(counts), 1), max(counts)) == (41.9, 254)
    assert sum(count > 75 for count in counts) == 408
    tests = [r for r in found.records if r.split == "test"]
    assert len({r.caption for r in tests}) == 4884
    published = read_activitynet(official, "paragraph")
    assert {r.video for r in tests} <= {r.video for r in published.records if r.split == "test"}


@pytest.mark.parametrize(
    ("name", "sentences", "blanks", "newlines", "beyond"),
    [
        ("train", 37_421, 25_731, 5, 261),
        ("val_1", 17_505, 11_639, 2, 134),
        ("val_2", 17_031, 11_483, 3, 111),
    ],
)
def test_official_sentences(
    official: Path, name: str, sentences: int, blanks: int, newlines: int, beyond: int
) -> None:
    videos = json.loads((official / f"{name}.json").read_text())
    texts = [text for video in videos.values() for text in video["sentences"]]
    assert len(texts) == sentences
    assert sum(text != text.strip() for text in texts) == blanks
    assert sum("\n" in text for text in texts) == newlines
    ends = [(end, v["duration"]) for v in videos.values() for _, end in v["timestamps"]]
    assert sum(end > duration for end, duration in ends) == beyond
    assert (official / f"ce_{name}.txt").read_text().split() != []
    assert set((official / f"ce_{name}.txt").read_text().split()) == set(videos)


def test_official_val_2_in_the_place_of_val_1_is_said(official: Path, tmp_path: Path) -> None:
    wrong = unpack(official, tmp_path, {"val_2.json": "val_1.json"})
    notes = read_annotations("activitynet", wrong, "paragraph").notes
    assert notes[-1].startswith("warning: test has 4,885 of 4,917 videos and 4,885 of 4,917 captio")
    wrong = unpack(official, tmp_path, {"val_1.json": "train.json"})
    with pytest.raises(AnnotationError, match=r"4,885 videos are both train .* and test"):
        read_activitynet(wrong, "paragraph")
