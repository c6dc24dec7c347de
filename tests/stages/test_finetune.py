"""Finetuning a tiny CLIP on real videos, and its encoder back into a cache."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from gare_cache.cli import app
from gare_cache.files import read_json, write_record
from gare_cache.finetuning.towers import Towers
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.train import train
from tests.tiny import change_params, make_project, workspace

FAST = {
    "finetune__encoder": "full",
    "finetune__epochs": 2,
    "finetune__encoder_lr_scale": 0.1,
    "train__optimizer": "adamw",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Path:
    """A project with features and a trained head."""
    folder = make_project(tmp_path_factory.mktemp("finetune") / "project", tiny_encoder_dir)
    for stage in (prepare, extract, train):
        stage(workspace(folder))
    change_params(folder, **FAST)
    return folder


def run(folder: Path, *arguments: str) -> Any:
    before = Path.cwd()
    os.chdir(folder)
    try:
        return CliRunner().invoke(app, list(arguments))
    finally:
        os.chdir(before)


def finetune(folder: Path, name: str, *changes: str, code: int = 0) -> Any:
    flags = [flag for change in changes for flag in ("--set", change)]
    result = run(folder, "finetune", "-o", name, "--workers", "1", *flags)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def tuned(made: Path) -> Path:
    finetune(made, "outputs/finetune")
    return made / "outputs" / "finetune"


def test_it_is_a_folder_of_outputs(made: Path, tuned: Path) -> None:
    record = json.loads((tuned / "run" / "record.json").read_text())
    features = json.loads((made / "outputs" / "features.json").read_text())
    assert record["started_from"] == {"encoder_id": features["encoder_id"], "run_key": None}
    assert record["encoder_id"] != features["encoder_id"]
    assert record["settings"]["finetune"]["encoder"] == "full"
    cost = json.loads((tuned / "run" / "cost.json").read_text())
    trained = sum(
        value.numel()
        for value in load_file(tuned / "encoder" / "open_clip_model.safetensors").values()
    )
    assert cost["parameters_trained"] > 0.9 * trained
    assert cost["seconds"] > 0
    log = [
        json.loads(line) for line in (tuned / "run" / "train_log.jsonl").read_text().splitlines()
    ]
    assert [line["epoch"] for line in log] == [1, 2]
    result = finetune(made, "outputs/finetune")
    assert "nothing is left to train" in result.output


def test_the_way_back_into_the_cache(made: Path, tuned: Path) -> None:
    result = run(made, "evaluate", "-o", "outputs/finetune")
    assert "run `gare-cache extract --encoder-from outputs/finetune` first" in " ".join(
        result.output.split()
    )
    result = run(made, "extract", "--encoder-from", "outputs/finetune")
    assert result.exit_code == 0, result.output
    features = json.loads((tuned / "features.json").read_text())
    record = json.loads((tuned / "run" / "record.json").read_text())
    assert features["encoder_id"] == record["encoder_id"]
    for command in (["diagnose"], ["verify", "--reextract", "2"]):
        result = run(made, *command, "-o", "outputs/finetune")
        assert result.exit_code == 0, result.output
    # The scores of validation in the new cache are those that the training saw.
    result = run(
        made,
        "evaluate",
        "-o",
        "outputs/finetune",
        "--set",
        "evaluate.split=val",
        "--set",
        "evaluate.captions=first",
    )
    assert result.exit_code == 0, result.output
    scores = json.loads((tuned / "evaluation" / "metrics.json").read_text())
    assert scores["methods"]["head"]["t2v"]["R@1"] == pytest.approx(
        json.loads((tuned / "run" / "selection.json").read_text())["selection"]["t2v R@1"]
    )
    result = run(made, "search", "a blocks", "-o", "outputs/finetune", "--top", "2")
    assert result.exit_code == 0, result.output
    # The project's own outputs are as before, and stand beside it in its report.
    assert run(made, "evaluate").exit_code == 0
    assert run(made, "report", "-o", "outputs/finetune").exit_code == 0
    text = (tuned / "report" / "report.md").read_text()
    assert "another split and another choice of captions and are left out" in text
    assert run(made, "evaluate", "-o", "outputs/finetune").exit_code == 0
    assert run(made, "report", "-o", "outputs/finetune").exit_code == 0
    text = (tuned / "report" / "report.md").read_text()
    section = text[text.index("## Frozen and finetuned") :].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("|")][2:]
    assert [[cell.strip() for cell in row] for row in rows] == [
        [encoder, method] for encoder in ("frozen", "finetuned") for method in ("zero shot", "head")
    ]
    assert "finetuned (full) from" in text
    cells = {
        tuple(cell.strip() for cell in line.split("|")[1:3]): line.split("|")[-4:-1]
        for line in section.splitlines()
        if line.startswith("| frozen") or line.startswith("| finetuned")
    }
    cost = read_json(made / "outputs" / "cost.json")
    trained, spent, memory = (cell.strip() for cell in cells["frozen", "head"])
    assert trained == f"{cost['parameters_trained']:,}"
    assert spent == f"{cost['seconds'] / 60:,.1f} min"
    assert memory == f"{cost['peak_memory_bytes'] / 1e9:.1f} GB"
    assert [cell.strip() for cell in cells["frozen", "zero shot"]] == ["—"] * 3
    # The cost of another run than the one that was scored is not shown.
    write_record(made / "outputs" / "cost.json", cost | {"run_key": "another"})
    assert run(made, "report", "-o", "outputs/finetune").exit_code == 0
    assert "Nothing is known of what the head" in (tuned / "report" / "report.md").read_text()
    write_record(made / "outputs" / "cost.json", cost)
    page = (tuned / "report" / "report.html").read_text()
    assert '<section id="finetuned">' in page


def test_from_a_run_on_the_cache(made: Path) -> None:
    result = finetune(
        made, "outputs/started", "finetune.from_run=outputs/run", "finetune.encoder=lora"
    )
    record = json.loads((made / "outputs/started/run/record.json").read_text())
    of_run = json.loads((made / "outputs/run/record.json").read_text())
    assert record["started_from"]["run_key"] == of_run["run_key"]
    for entry in ("settings", "data", "source"):
        assert record["started_from"]["run"][entry] == of_run[entry]
    assert "(lora)" in result.output
    result = finetune(
        made,
        "outputs/other",
        "finetune.from_run=outputs/run",
        "head.pooling.temperature=2.0",
        code=2,
    )
    assert "has other settings than params.yaml (pooling)" in result.output


def test_frames_from_a_cache_train_the_same(made: Path, tuned: Path) -> None:
    assert run(made, "extract", "--frames", "--workers", "1").exit_code == 0
    finetune(made, "outputs/from_frames", "finetune.frames=cache")
    weights = [
        load_file(folder / "encoder/open_clip_model.safetensors")
        for folder in (tuned, made / "outputs/from_frames")
    ]
    for name, value in weights[0].items():
        assert torch.equal(weights[1][name], value), name


@pytest.mark.slow
def test_augmented(made: Path, tuned: Path) -> None:
    finetune(
        made, "outputs/augmented", "finetune.augment.flip=true", "finetune.augment.operations=1"
    )
    weights = [
        load_file(folder / "encoder/open_clip_model.safetensors")
        for folder in (tuned, made / "outputs/augmented")
    ]
    assert any(not torch.equal(weights[1][name], value) for name, value in weights[0].items())


@pytest.mark.slow
def test_stopped_by_a_signal_it_goes_on(made: Path, tuned: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "gare_cache.cli",
        "finetune",
        "-o",
        "outputs/stopped",
        "--workers",
        "1",
    ]
    process = subprocess.Popen(command, cwd=made, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("finetuning "):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stderr.read()
    assert process.wait(120) == 130, rest
    assert "stopping behind this batch" in rest
    result = finetune(made, "outputs/stopped")
    assert "resumed behind epoch" in result.output
    weights = [
        load_file(folder / "encoder/open_clip_model.safetensors")
        for folder in (tuned, made / "outputs/stopped")
    ]
    for name, value in weights[0].items():
        assert torch.equal(weights[1][name], value), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("finetune.last_blocks=1", "is the number of blocks that finetune.encoder: last trains"),
        ("finetune.encoder=none", "finetune.encoder"),
        ("finetune.batch_size=100", "train.batch_size is 100"),
        ("train.views=true", "train.views is for training on cached features alone"),
        ("finetune.lora.rank=2", "finetune.lora has settings, but finetune.encoder is not lora"),
        ("encoder.precision=bf16", "encoder"),
        ("finetune.from_run=nowhere", "no trained head at"),
    ],
)
def test_bad_settings_are_said(made: Path, change: str, message: str) -> None:
    result = finetune(made, "outputs/bad", change, code=2)
    assert message in " ".join(result.output.split()), result.output
    assert "Traceback" not in result.output


def test_off_it_does_nothing(made: Path, tuned: Path) -> None:
    result = finetune(made, "outputs/off", "finetune.encoder=null")
    assert "finetuning is off" in result.output
    assert (
        sorted(p.name for p in (made / "outputs/off").rglob("*") if p.is_file()) == ["off.json"] * 3
    )
    finetune(made, "outputs/finetune", "finetune.encoder=null")
    assert (tuned / "encoder" / "open_clip_model.safetensors").is_file(), "a finetuned run was lost"
    result = run(made, "extract", "--encoder-from", "outputs/off")
    assert result.exit_code == 2
    assert "has no encoder/open_clip_config.json" in " ".join(result.output.split())


def test_a_study_of_what_trains(made: Path) -> None:
    study = made / "studies" / "what_trains.yaml"
    study.parent.mkdir(exist_ok=True)
    study.write_text(
        "title: What trains\n"
        "question: Does training the encoder help?\n"
        "base: params.yaml\n"
        "axes:\n"
        "  trained:\n"
        "    frozen: {finetune.encoder: null}\n"
        "    lora: {finetune.encoder: lora, finetune.encoder_lr_scale: 1.0, finetune.epochs: 1}\n"
        "    impossible: {finetune.encoder: last, finetune.last_blocks: 99}\n"
        "seeds: [0]\n"
        "reference: frozen\n"
    )
    result = run(made, "ablate", "studies/what_trains.yaml")
    assert result.exit_code == 0, result.output
    folder = made / "outputs" / "studies" / "what_trains"
    runs = pq.read_table(folder / "runs.parquet").to_pylist()
    by_name = {row["variant"].removeprefix("trained="): row for row in runs}
    assert "finetune.last_blocks is 99" in by_name["impossible"]["reason"]
    assert by_name["lora"]["extraction_id"] != by_name["frozen"]["extraction_id"]
    assert by_name["lora"]["parameters"] > by_name["frozen"]["parameters"] > 0
    assert by_name["lora"]["seconds"] > 0
    result = run(made, "ablate", "studies/what_trains.yaml", "--check", "2")
    assert result.exit_code == 0, result.output
    assert "bit for bit equal" in result.output


def test_too_little_memory_says_what_to_lower(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Towers, "frames", full)
    result = finetune(made, "outputs/large", "finetune.chunk=3", code=1)
    message = " ".join(result.output.split())
    assert "too little memory with finetune.chunk 3 and finetune.checkpointing false" in message
    assert "lower the chunk to 1 (the same gradients)" in message


def test_videos_without_features_are_left_out_and_counted(
    tmp_path: Path, tiny_encoder_dir: Path
) -> None:
    folder = make_project(tmp_path / "project", tiny_encoder_dir)
    (folder / "videos" / "train" / "train3.mp4").write_bytes(b"no video")
    change_params(folder, **FAST, extract__max_failed_percent=50.0)
    for stage in (prepare, extract):
        stage(workspace(folder))
    result = finetune(folder, "outputs/finetune", "finetune.epochs=1")
    assert "7 of 8 train videos, 14 of 16 captions" in result.output
    assert "warning: 2 captions of videos without features are left out" in result.output
