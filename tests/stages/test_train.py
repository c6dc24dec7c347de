import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import gare_cache
from gare_cache import cli
from gare_cache.errors import ConfigError, EnvironmentFailure
from gare_cache.files import read_json
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.train import train
from tests.tiny import change_params, workspace


@pytest.fixture
def extracted(project: Path) -> Path:
    prepare(workspace(project))
    extract(workspace(project))
    return project


def test_a_learned_radius_is_in_log_and_record(extracted: Path) -> None:
    region = {"weight": 0.1, "radius": 0.5, "learned": True}
    change_params(extracted, train__loss={"trust_region": region})
    space = workspace(extracted)
    record = train(space)
    lines = (space.run / "train_log.jsonl").read_text().splitlines()
    assert record["learned_radius"] == json.loads(lines[-1])["radius"] > 0.5
    assert read_json(space.run / "record.json") == record
    assert record["settings"]["train"]["loss"]["trust_region"] == region


def test_the_reference_gather_needs_several_processes(extracted: Path) -> None:
    change_params(extracted, train__reference_gather=True)
    with pytest.raises(ConfigError, match=r"train.reference_gather is true, and one process"):
        train(workspace(extracted))


def test_settings_of_another_contrastive_loss_are_an_error(extracted: Path) -> None:
    change_params(extracted, train__loss={"contrastive": {"name": "info_nce", "iterations": 4}})
    with pytest.raises(ConfigError, match="contrastive 'info_nce' has no such setting"):
        train(workspace(extracted))


def run_command(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, list(arguments))
    assert result.exit_code == 0, result.stderr
    return str(result.stderr)


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, list(arguments))
    assert result.exit_code == 2
    return " ".join(str(result.stderr).split())


def test_settings_and_seed_of_the_command_line_are_in_the_record(
    extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(extracted)
    run_command("train", "--seed", "7", "--set", "train.epochs=2", "--set", "head.gap.heads=1")
    record = json.loads((extracted / "outputs/run/record.json").read_text())
    assert (record["settings"]["train"]["seed"], record["settings"]["train"]["epochs"]) == (7, 2)
    log = (extracted / "outputs/run/train_log.jsonl").read_text().splitlines()
    assert len(log) == 2
    run_command("evaluate", "--set", "evaluate.split=val", "--set", "evaluate.captions=first")
    metrics = json.loads((extracted / "outputs/evaluation/metrics.json").read_text())
    assert (metrics["split"], metrics["captions"]) == ("val", "first")
    assert not (extracted / ".gare/ledger.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--set", "train.epoch=5"], "unknown setting 'train.epoch'; did you mean"),
        (["train", "--set", "train.epochs"], "--set train.epochs: write SETTING=VALUE"),
        (["train", "--set", "train.epochs=0"], "train.epochs is 0: input should be greater"),
        (["train", "--set", "extract.views=null"], "reads the settings of head and train alone"),
        (["evaluate", "--set", "train.epochs=5"], "reads the settings of evaluate alone"),
        (["train", "--seed", "1", "--set", "train.seed=2"], "both give train.seed; leave one out"),
        (
            ["train", "--set", "train.epochs=1", "--set", "train.epochs=2"],
            "train.epochs is set twice",
        ),
    ],
)
def test_changes_that_are_refused(
    project: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    assert message in refusal(*arguments)


def test_other_outputs_use_the_projects_features_and_say_so(
    extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(extracted)
    values = yaml.safe_load((extracted / "params.yaml").read_text())
    values["train"]["epochs"] = 2
    (extracted / "other.yaml").write_text(yaml.safe_dump(values))
    there = ("-p", "other.yaml", "-o", "outputs-b")
    said = "outputs-b has no manifest and features; those of outputs are used"
    for command in ("train", "evaluate", "report", "info"):
        assert said in run_command(command, *there), command
    names = {path.name for path in (extracted / "outputs-b").iterdir()}
    assert names == {"run", "cost.json", "evaluation", "report", "state"}
    assert len((extracted / "outputs-b/run/train_log.jsonl").read_text().splitlines()) == 2
    run = gare_cache.load_run("outputs-b")
    assert len(run.video_ids()) == 14
    values["extract"]["max_frames_cached"] = 2
    (extracted / "other.yaml").write_text(yaml.safe_dump(values))
    assert "of other settings (extract of other.yaml differ" in refusal("train", *there)
    assert "manifest/videos.parquet does not exist" in refusal("extract", *there)


def test_training_writes_the_metrics_that_experiments_are_ranked_by(extracted: Path) -> None:
    space = workspace(extracted)
    record = train(space)
    selection = json.loads((space.run / "selection.json").read_text())["selection"]
    assert selection["score"] == record["validation_score"]
    assert selection["epoch"] == record["best_epoch"]
    assert selection["score"] == (selection["t2v R@1"] + selection["v2t R@1"]) / 2


def test_what_a_training_cost_stands_beside_the_run_and_in_no_part_of_it(extracted: Path) -> None:
    space = workspace(extracted)
    record = train(space)
    first = read_json(space.cost)
    head = gare_cache.load_run(space.outputs).head
    assert first["parameters_trained"] == sum(p.numel() for p in head.parameters())
    assert first["seconds"] > 0
    assert first["peak_memory_bytes"] is None or first["peak_memory_bytes"] > 1e6
    assert first["run_key"] == record["run_key"]
    of_run = {path.name: path.read_bytes() for path in space.run.iterdir()}
    assert not any(b"peak_memory" in content for content in of_run.values())

    train(space)  # published again from its state, at no cost of its own
    assert read_json(space.cost) == first
    space.cost.unlink()
    train(space)
    assert read_json(space.cost)["seconds"] is None
    assert {path.name: path.read_bytes() for path in space.run.iterdir()} == of_run

    change_params(extracted, train__seed=5)
    assert train(workspace(extracted))["run_key"] == read_json(space.cost)["run_key"]


def test_a_second_training_of_the_same_outputs_is_refused(extracted: Path) -> None:
    space = workspace(extracted)
    message = r"outputs is being written by process \d+ \(gare-cache train\)"
    with space.alone("train"), pytest.raises(EnvironmentFailure, match=message):
        train(space)
    train(space)
