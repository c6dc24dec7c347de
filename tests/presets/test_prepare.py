"""The presets of data sets prepare the small files of the documented shapes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gare_cache import cli
from gare_cache.presets.data_sets import DATA_SETS
from gare_cache.stages.init import init
from tests.annotations import (
    test_activitynet,
    test_didemo,
    test_lsmdc,
    test_msrvtt,
    test_msvd,
    test_tgif,
    test_vatex,
    test_youcook2,
)
from tests.annotations.official import dump

Write = Callable[[Path], None]


def msrvtt(folder: Path) -> None:
    for path, ids in zip(test_msrvtt.ARCHIVES, (["v0", "v1", "v2"], ["v3", "v4"]), strict=True):
        test_msrvtt.write_archive(folder / path, test_msrvtt.content(ids))
    (folder / test_msrvtt.TRAIN).write_text("video_id\nv0\nv2\nv1\n")
    query = "ret0,msr4,v4,a query not in the file\n"
    (folder / test_msrvtt.QUERIES).write_text(f"key,vid_key,video_id,sentence\n{query}")


def didemo(folder: Path) -> None:
    rows = {"train": "5@N01_6_c.avi", "val": "7@N01_8_d.m4v", "test": "1@N01_2_a.mov"}
    for split, name in rows.items():
        sentence = test_didemo.sentence(name, "a sentence", 1)
        dump(folder / test_didemo.FILES[split], [sentence])


def activitynet(folder: Path) -> None:
    ids = [f"v_{letter * 11}" for letter in "ABCDEF"]
    dump(folder / "train.json", {id_: test_activitynet.video("One ", "two") for id_ in ids[:5]})
    dump(folder / "val_1.json", {ids[5]: test_activitynet.video("x")})


def msvd(folder: Path) -> None:
    dump(folder / test_msvd.CAPTIONS, test_msvd.TEXTS)
    for split, id_ in zip(test_msvd.LISTS, test_msvd.TEXTS, strict=True):
        (folder / test_msvd.LISTS[split]).write_text(f"{id_}\n")


def lsmdc(folder: Path) -> None:
    ids = (test_lsmdc.A, test_lsmdc.B, test_lsmdc.C)
    for split, id_ in zip(("train", "val", "test"), ids, strict=True):
        (folder / test_lsmdc.FILES[split]).write_text(test_lsmdc.row(id_, "SOMEONE frowns."))


def tgif(folder: Path) -> None:
    (folder / test_tgif.TABLE).write_text(test_tgif.table(*test_tgif.ROWS))
    for split, name in zip(("train", "val", "test"), "abc", strict=True):
        (folder / test_tgif.LISTS[split]).write_text(test_tgif.url(name) + "\n")


def youcook2(folder: Path) -> None:
    steps = test_youcook2.step(0, 5, 8, "cut"), test_youcook2.step(1, 9, 12, "stir")
    videos = {id_: test_youcook2.video("training", *steps) for id_ in "abcd"}
    videos["e"] = test_youcook2.video("validation", *steps)
    dump(folder / test_youcook2.ANNOTATIONS, {"database": videos})


def vatex(folder: Path) -> None:
    test_vatex.write_official(folder)
    ids = (test_vatex.TRAIN, test_vatex.VAL, test_vatex.TEST)
    for split, id_ in zip(("train", "val", "test"), ids, strict=True):
        (folder / test_vatex.LISTS[split]).write_text(f"{id_}\n")


# Preset -> how its files are written, a video's name and the captions of the test.
CASES: dict[str, tuple[Write, str, int]] = {
    "msrvtt-1ka": (msrvtt, "v4.mp4", 1),
    "didemo": (didemo, "1@N01_2_a.mov", 1),
    "activitynet": (activitynet, f"{'F' * 11}.mkv", 1),
    "msvd": (msvd, "c-c_3_4.avi", 2),
    "lsmdc": (lsmdc, f"{test_lsmdc.C}.avi", 1),
    "tgif": (tgif, "tumblr_c_500.gif", 1),
    "youcook2": (youcook2, "e.webm", 2),
    "vatex": (vatex, f"{test_vatex.TEST}.mp4", 10),
}


@pytest.mark.parametrize("preset", DATA_SETS)
def test_prepare_reads_the_files_that_the_guide_names(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, video, captions = CASES[preset]
    init(tmp_path, preset=preset)
    data = tmp_path / "data" / DATA_SETS[preset].reader
    (data / "annotations").mkdir(parents=True)
    (data / "videos" / "part").mkdir(parents=True)
    (data / "videos" / "part" / video).write_bytes(b"x")
    write(data / "annotations")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, ["prepare"])
    assert result.exit_code == 0, result.stderr
    counts = json.loads((tmp_path / "outputs/manifest/summary.json").read_text())["splits"]
    assert counts["test"]["captions"] == captions
    guide = (tmp_path / "README.md").read_text()
    named = [path.name for path in (data / "annotations").iterdir()]
    assert not [name for name in named if f"`{name}`" not in guide]
