"""Trackers are read back with their own readers; a training logs to them and nowhere else."""

from __future__ import annotations

import importlib
import json
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gare_cache.errors import EnvironmentFailure
from gare_cache.stages import train as stage
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.train import train
from gare_cache.training import loggers
from gare_cache.training.loggers import RunLog, epoch_figures
from gare_cache.training.loop import EpochRecord, TrainingState
from tests.tiny import change_params, make_project, workspace

SETTINGS = {"train": {"seed": 0, "warmup": 0.1, "views": None, "loss": {"ib": {"weight": 0.5}}}}


def behind(epoch: int) -> TrainingState:
    history = [
        EpochRecord(
            number,
            {"total": 3.0 / number, "ib": 0.5},
            {"t2v R@1": 10.0 * number, "v2t R@1": 20.0, "score": 5.0 * number + 10},
            learning_rate=0.001,
            scale=100.0,
            increment={"angle to gap": 80.0},
        )
        for number in range(1, epoch + 1)
    ]
    return TrainingState(epoch=epoch, best_epoch=epoch, best_score=1.0, history=history)


def log_three_epochs(name: str, folder: Path) -> None:
    """In two calls: the second finds an epoch that was trained and not logged."""
    first = RunLog(name, folder, run_key="abc", settings=SETTINGS, resumed=False)
    first.log(behind(1))
    first.close()
    second = RunLog(name, folder, run_key="abc", settings=SETTINGS, resumed=True)
    second.log(behind(2))
    second.finish(behind(3))
    second.close()


def test_figures() -> None:
    assert epoch_figures(behind(1).history[0]) == {
        "loss/total": 3.0,
        "loss/ib": 0.5,
        "validation/t2v_R1": 10.0,
        "validation/v2t_R1": 20.0,
        "validation/score": 15.0,
        "increment/angle_to_gap": 80.0,
        "learning_rate": 0.001,
        "logit_scale": 100.0,
    }


def read_tensorboard(folder: Path) -> Any:
    package = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    events = package.EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    log_three_epochs("tensorboard", tmp_path)
    events = read_tensorboard(tmp_path / "tensorboard")
    losses = [(event.step, event.value) for event in events.Scalars("loss/total")]
    assert losses == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert [event.value for event in events.Scalars("best/epoch")] == [3.0]
    assert [event.value for event in events.Scalars("best/t2v_R1")] == [30.0]
    texts = events.Tensors("settings/text_summary")
    assert len(texts) == 1
    assert b"train.loss.ib.weight: 0.5" in texts[0].tensor_proto.string_val[0]


def test_dvclive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dvclive", reason="needs dvclive")
    git = ("git", "-c", "user.name=n", "-c", "user.email=n@example.org")
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EnvironmentFailure, match=r"run `dvc init` there first"):
        log_three_epochs("dvclive", tmp_path / "logs")
    status = ["git", "status", "--porcelain"]
    seen = subprocess.run(status, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert not (tmp_path / ".dvc").exists()
    assert not seen, seen
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    log_three_epochs("dvclive", tmp_path / "logs")
    utils = importlib.import_module("dvclive.utils")
    history = utils.parse_tsv(tmp_path / "logs/dvclive/plots/metrics/loss/total.tsv")
    assert [(int(row["step"]), float(row["total"])) for row in history] == [
        (1, 3.0),
        (2, 1.5),
        (3, 1.0),
    ]
    summary = json.loads((tmp_path / "logs/dvclive/metrics.json").read_text())
    assert summary["best/epoch"] == 3.0
    assert summary["validation"]["t2v_R1"] == 30.0
    assert "train.loss.ib.weight: 0.5" in (tmp_path / "logs/dvclive/params.yaml").read_text()
    refs = subprocess.run(
        ["git", "for-each-ref", "--format=%(refname)"], cwd=tmp_path, capture_output=True, text=True
    )
    assert len(refs.stdout.split()) == 1, "an experiment was saved"
    assert not list(tmp_path.glob("**/dvc.yaml"))


def test_wandb_is_offline_and_asks_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_PROJECT", "project")
    log_three_epochs("wandb", tmp_path)
    parts = sorted(tmp_path.glob("wandb/wandb/offline-run-*-abc/run-abc.wandb"))
    assert parts
    content = b"".join(part.read_bytes() for part in parts)
    for name in (b"loss/total", b"validation/t2v_R1", b"train.loss.ib.weight"):
        assert name in content


def test_wandb_online_without_a_key_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(EnvironmentFailure, match=r"train.logger: wandb failed: .*login") as caught:
        RunLog("wandb", tmp_path, run_key="abc", settings=SETTINGS, resumed=False)
    assert "\n" not in str(caught.value)


def test_trackio_stays_on_the_machine(tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="needs trackio")
    code = (
        "from pathlib import Path; from tests.training.test_loggers import log_three_epochs\n"
        f"log_three_epochs('trackio', Path({str(tmp_path)!r}))"
    )
    place = {"TRACKIO_DIR": str(tmp_path / "trackio"), "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=place, check=True)
    (file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as stored:
        logged = stored.execute("select step, metrics from metrics order by step, id").fetchall()
        (config,) = stored.execute("select config from configs").fetchone()
    losses = [(step, json.loads(values).get("loss/total")) for step, values in logged]
    assert [pair for pair in losses if pair[1] is not None] == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert json.loads(config)["train.loss.ib.weight"] == 0.5


@pytest.mark.parametrize("name", loggers.LOGGERS)
def test_a_missing_package_is_named_with_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EnvironmentFailure, match=rf"pip install 'gare-cache\[{name}\]'$"):
        RunLog(name, tmp_path, run_key="abc", settings=SETTINGS, resumed=False)


def test_nothing_is_imported_unasked() -> None:
    code = (
        "import sys, gare_cache.cli, gare_cache.stages.finetune, gare_cache.training.loggers as l\n"
        "assert not set(l.LOGGERS) & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@dataclass
class Kept:
    """A logger that keeps what it is told, until it is asked to fail."""

    told: list[Any] = field(default_factory=list)
    fails_at: int = 0

    def opened(self, place: loggers.LogPlace) -> Kept:
        self.told.append(("open", place.logged))
        return self

    def log_settings(self, settings: Any) -> None:
        self.told.append(("settings", settings["train.seed"]))

    def log_epoch(self, epoch: int, figures: Any) -> None:
        if epoch == self.fails_at:
            raise RuntimeError("no\n answer")
        self.told.append(epoch)

    def log_best(self, figures: Any) -> None:
        self.told.append(("best", figures["best/epoch"]))

    def close(self) -> None:
        self.told.append("close")


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    logger = Kept()
    monkeypatch.setattr(loggers, "LOGGERS", {"tensorboard": logger.opened})
    monkeypatch.setattr(loggers, "require_logger", lambda name: None)
    return logger


@pytest.fixture
def project(tmp_path: Path, tiny_encoder_dir: Path) -> Path:
    folder = make_project(tmp_path / "project", tiny_encoder_dir)
    for of in (prepare, extract):
        of(workspace(folder))
    return folder


def test_a_training_logs_and_its_key_stays(project: Path, kept: Kept) -> None:
    plain = train(workspace(project))
    assert kept.told == []
    change_params(project, train__logger="tensorboard")
    # What was trained without a logger is logged when one is named.
    later = train(workspace(project))
    assert later["run_key"] == plain["run_key"]
    whole = [("open", 0), ("settings", 0), 1, 2, 3, ("best", plain["best_epoch"]), "close"]
    assert kept.told == whole
    train(workspace(project))
    assert kept.told == whole, "a log that is whole is left alone"
    for file in (project / ".gare/state").glob("*/training.pt"):
        file.unlink()
    train(workspace(project))
    assert kept.told == whole * 2, "a training anew has a log anew"
    train(workspace(project), say_epochs=False)
    assert len(kept.told) == 2 * len(whole)


def test_a_logger_that_fails_stops_the_training_which_goes_on_later(
    project: Path, kept: Kept
) -> None:
    change_params(project, train__logger="tensorboard")
    kept.fails_at = 2
    with pytest.raises(EnvironmentFailure, match=r"train.logger: tensorboard failed: no answer;"):
        train(workspace(project))
    assert kept.told[-2:] == [1, "close"]
    kept.told, kept.fails_at = [], 0
    train(workspace(project))
    assert kept.told[:3] == [("open", 1), 2, 3]


def test_a_training_that_fails_closes_its_log(
    project: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_params(project, train__logger="tensorboard")

    def stopped(*_: Any, on_epoch: Callable[[TrainingState], None], **__: Any) -> None:
        on_epoch(behind(1))
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "train_head", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(workspace(project))
    assert kept.told == [("open", 0), ("settings", 0), 1, "close"]


def test_of_the_whole_stage(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files lie beside the run, which DVC hashes; nothing asks the network."""
    pytest.importorskip("tensorboard", reason="needs tensorboard")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    change_params(project, train__logger="tensorboard")
    record = train(workspace(project))
    events = read_tensorboard(project / "outputs/logs" / record["run_key"] / "tensorboard")
    lines = (project / "outputs/run/train_log.jsonl").read_text().splitlines()
    for line, event in zip(
        map(json.loads, lines), events.Scalars("validation/t2v_R1"), strict=True
    ):
        assert event.step == line["epoch"]
        assert event.value == pytest.approx(line["validation"]["t2v R@1"])
    assert not list((project / "outputs/run").rglob("*tfevents*"))
