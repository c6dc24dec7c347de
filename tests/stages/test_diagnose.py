import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gare_cache import cli
from gare_cache.data.split import load_split
from gare_cache.diagnosis.diagnosis import draw_batch
from gare_cache.errors import ConfigError
from gare_cache.files import unsealed
from gare_cache.manifest.tables import read_manifest
from gare_cache.project import ledger
from gare_cache.project.features import open_features
from gare_cache.project.paths import Workspace
from gare_cache.stages.diagnose import diagnose
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.report import report
from gare_cache.stages.train import train
from gare_cache.training.checkpoint import load_checkpoint
from tests.tiny import change_params, workspace


@pytest.fixture
def trained(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    prepare(workspace(project))
    extract(workspace(project))
    train(workspace(project))
    return project


def files(space: Workspace) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (space.outputs / "diagnosis").iterdir()}


def test_a_run_is_taken_apart(trained: Path) -> None:
    space = workspace(trained)
    found = diagnose(space)
    written = files(space)
    assert set(written) == {"diagnosis.json", "diagnosis.html", "diagnosis.md"}
    assert unsealed("", json.loads(written["diagnosis.json"])) == found
    assert found["run_key"] == json.loads((space.run / "record.json").read_text())["run_key"]
    assert (found["split"], found["side"], found["num_texts"], found["num_videos"]) == (
        "val",
        "text",
        6,
        3,
    )
    assert found["largest difference to the exact scores"] < 1e-5
    assert [epoch["epoch"] for epoch in found["epochs"]] == [1, 2, 3]
    origin = "largest length of the batch's increments"
    assert found["batch"] == {"pairs": 3, "asked": 4, "seed": 0, "radius from": origin}
    assert len(found["gradient"]["with"]["sum"]) == 64
    assert found["step"]["scaled back"] == 0  # the radius holds the longest increment
    shares = found["variance"]
    assert shares["between videos"] + shares["between texts"] + shares["interaction"] == (
        pytest.approx(1)
    )
    assert not space.ledger.exists()
    diagnose(space)
    assert files(space) == written


def test_its_recall_is_that_of_evaluate_and_of_a_head_without_increment(trained: Path) -> None:
    change_params(trained, evaluate__split="val")
    space = workspace(trained)
    found = diagnose(space)["recall"]
    scored = evaluate(space)["methods"]["head"]
    head = load_checkpoint(space.run / "head.safetensors").head
    manifest = read_manifest(space.manifest)
    split = load_split(
        open_features(space)[0], manifest, "val", device=torch.device("cpu"), num_frames=4
    )
    with torch.no_grad():
        vectors = head.vectors(split.text, split.frames, split.mask)
    plain = torch.nn.functional.cosine_similarity(vectors.text[:, None], vectors.video, dim=-1)
    hits = plain.argmax(dim=1) == split.video_of_text
    assert found["zero"]["t2v"]["R@1"] == pytest.approx(100 * hits.double().mean())
    for direction in ("t2v", "v2t"):
        for name, key in (("R@1", "R@1"), ("low", "R@1 low"), ("high", "R@1 high")):
            assert found["head"][direction][name] == pytest.approx(scored[direction][key])


@pytest.mark.slow
def test_seed_and_radius_change_the_batch_figures_alone(trained: Path) -> None:
    space = workspace(trained)
    first, seeded, given = diagnose(space), diagnose(space, seed=1), diagnose(space, radius=0.5)
    assert first["gradient"] != seeded["gradient"]
    assert first["recall"] == seeded["recall"]
    assert first["gradient"] == given["gradient"]
    assert given["step"]["radius"] == 0.5
    assert given["step"]["scaled back"] > first["step"]["scaled back"]


@pytest.mark.slow
@pytest.mark.parametrize("learned", [False, True])
def test_the_radius_is_that_of_the_runs_trust_region(trained: Path, learned: bool) -> None:
    region = {"weight": 0.1, "radius": 2.5, "learned": learned}
    change_params(trained, train__loss__trust_region=region)
    record = train(workspace(trained))
    found = diagnose(workspace(trained))
    assert found["batch"]["radius from"] == "the run's trust region"
    assert found["step"]["radius"] == (record["learned_radius"] if learned else 2.5)
    assert diagnose(workspace(trained), radius=4.0)["step"]["radius"] == 4.0


def test_the_protocol_of_evaluate_counts(trained: Path) -> None:
    change_params(trained, evaluate__captions="first")
    found = diagnose(workspace(trained))
    assert (found["num_texts"], found["recall"]["head"]["t2v"]["queries"]) == (3, 3)


def test_a_batch_has_one_caption_of_each_video_and_its_frames(trained: Path) -> None:
    space = workspace(trained)
    manifest = read_manifest(space.manifest)
    split = load_split(open_features(space)[0], manifest, "train", device=torch.device("cpu"))
    batch = draw_batch(split, 5, seed=0)
    assert len(batch.text) == len(set(batch.video_ids)) == 5
    assert torch.equal(batch.video_of_text, torch.arange(5))
    for row, (video, caption) in enumerate(zip(batch.video_ids, batch.caption_ids, strict=True)):
        assert caption.startswith(f"{video}#")
        assert torch.equal(batch.frames[row], split.frames[split.video_ids.index(video)])
        assert torch.equal(batch.text[row], split.text[split.caption_ids.index(caption)])
    assert draw_batch(split, 5, seed=1).caption_ids != batch.caption_ids
    assert len(draw_batch(split, 100, seed=0).text) == 8


def test_a_diagnosis_of_test_is_entered_in_the_ledger_first(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = workspace(trained)
    diagnose(space, split="test")
    (scoring,) = ledger.read(space.ledger)
    assert scoring.protocol["command"] == "diagnose"
    evaluate(space)
    assert len({one.checkpoint for one in ledger.read(space.ledger)}) == 1

    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gare_cache.diagnosis.diagnosis.stream_pairs", fail)
    with pytest.raises(KeyboardInterrupt):
        diagnose(space, split="test")
    assert len(ledger.read(space.ledger)) == 3


def test_a_head_without_increment_is_refused_in_one_line(trained: Path) -> None:
    zero = {name: {"weight": 0.0} for name in ("ib", "eps", "dir")}
    change_params(trained, head__gap=None, train__loss=zero)
    train(workspace(trained))
    with pytest.raises(ConfigError, match=r"no increment to diagnose; set head\.gap .* and run"):
        diagnose(workspace(trained))
    done = CliRunner().invoke(cli.app, ["diagnose", "-p", str(trained / "params.yaml")])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    log = (workspace(trained).run / "train_log.jsonl").read_text().splitlines()
    assert all(json.loads(line)["increment"] is None for line in log)


def test_what_is_wrong_is_said(trained: Path, tmp_path: Path) -> None:
    space = workspace(trained)
    empty = Workspace(space.project, space.params, tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"no trained head at .*; run `gare-cache train`"):
        diagnose(empty)
    with pytest.raises(ConfigError, match=r"--split is 'dev'; it must be one of train, val, test"):
        diagnose(space, split="dev")
    for radius in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"--radius is .*; it must be a finite number above"):
            diagnose(space, radius=radius)


def test_a_split_with_one_video_is_refused(trained: Path) -> None:
    rows = (trained / "captions.csv").read_text().splitlines()
    rows = [row for row in rows if not row.startswith(("val1,", "val2,"))]
    (trained / "captions.csv").write_text("\n".join(rows))
    prepare(workspace(trained))
    extract(workspace(trained))
    with pytest.raises(ConfigError, match=r"1 of 1 val videos.*at least 2 videos: choose another"):
        diagnose(workspace(trained))


def test_the_report_shows_the_diagnosis_of_its_own_run_alone(trained: Path) -> None:
    space = workspace(trained)
    change_params(trained, evaluate__split="val")

    def reported() -> tuple[str, str]:
        evaluate(workspace(trained))
        report(workspace(trained))
        return tuple((space.report / f"report.{kind}").read_text() for kind in ("html", "md"))

    for text in reported():
        assert "The increment was not diagnosed" in text
    answers = diagnose(workspace(trained))
    for text, kind in zip(reported(), ("html", "md"), strict=True):
        assert "How much of the increment depends on the text?" in text
        assert f"../diagnosis/diagnosis.{kind}" in text
        assert "val split, 3 of 3 val videos" in text
    change_params(trained, train__seed=1)
    train(workspace(trained))
    for text in reported():
        assert f"belongs to run {answers['run_key']}, not to this one" in text
        assert "How much of the increment" not in text
    change_params(
        trained,
        head__gap=None,
        train__loss={name: {"weight": 0.0} for name in ("ib", "eps", "dir")},
    )
    train(workspace(trained))
    for text in reported():
        assert "The increment" not in text


def test_the_command_prints_the_answers(trained: Path) -> None:
    done = CliRunner().invoke(cli.app, ["diagnose", "-p", str(trained / "params.yaml")])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("How much of the increment depends on the text? ")
    assert lines[-1].endswith("diagnosis.html")
    assert np.isfinite(diagnose(workspace(trained))["increment length"])
