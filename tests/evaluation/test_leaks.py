"""One film in train and test under two names, through every stage that must see it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gare_cache.evaluation.canary.judgement import LeakFound
from gare_cache.evaluation.duplicates import near_pairs, unit_rows
from gare_cache.stages.canary import canary
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.report import report
from gare_cache.stages.train import train
from gare_cache.stages.verify import verify
from tests.tiny import make_project, workspace


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Path:
    folder = make_project(tmp_path_factory.mktemp("leaky") / "project", tiny_encoder_dir)
    shutil.copy(folder / "videos/train/train1.mp4", folder / "videos/test/test2.mp4")
    captions = folder / "captions.csv"
    captions.write_text(captions.read_text() + "test0,A  blocks number 3 of train.,test\n")
    return folder


def test_a_copy_in_another_split_is_named_by_every_stage(
    leaky: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = workspace(leaky)
    prepare(space)
    extract(space, device="cpu")
    said = capsys.readouterr().err
    assert "warning: 1 video file stands in several splits under different names" in said
    assert "train (captions.csv:4: train1) = test (captions.csv:28: test2)" in said
    assert any("stands in several splits" in line for line in verify(space))
    train(space, device="cpu")
    evaluate(space, device="cpu")
    leaks = json.loads((space.evaluation / "analysis.json").read_text())["leaks"]
    assert leaks["train"]["copies"] == {"videos": 1, "examples": [["test2", "train1"]]}
    assert leaks["val"]["copies"]["videos"] == 0
    assert ["test2", "train1"] in [pair[:2] for pair in leaks["train"]["near"]["examples"]]
    assert leaks["train"]["captions"] == {
        "captions": 1,
        "listed": 7,
        "examples": [["a blocks number 3 of train", 1, 1]],
    }
    report(space)
    page = (space.report / "report.html").read_text()
    assert "1 test video has copies in train, the first: test2 of train1" in page
    assert "Captions that also stand in train" in page
    rows = []
    with pytest.raises(LeakFound, match=r"copies in other splits: 1 test video has copies in tr"):
        rows.extend(canary(space, galleries=2, device="cpu"))


def test_pairs_of_two_sets_are_those_of_a_slow_loop() -> None:
    generator = np.random.default_rng(0)
    first = unit_rows(generator.standard_normal((30, 4)).astype(np.float32))
    second = unit_rows(generator.standard_normal((20, 4)).astype(np.float32))
    slow = {(i, j) for i in range(30) for j in range(20) if first[i] @ second[j] >= 0.8}
    found = near_pairs(first, 0.8, 1000, second)
    assert {(i, j) for i, j, _ in found.nearest} == slow
    assert found.count == len(slow) > 5
    assert set(np.flatnonzero(found.touched)) == {i for i, _ in slow}
