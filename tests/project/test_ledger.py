import json
import os
import subprocess
from pathlib import Path

import pytest

from gare_cache.data.split import load_split
from gare_cache.errors import ConfigError, EnvironmentFailure
from gare_cache.files import file_digest
from gare_cache.manifest.tables import Manifest, read_manifest
from gare_cache.project import ledger
from gare_cache.stages import train as train_stage
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.report import report, score_lines
from gare_cache.stages.train import train
from tests.tiny import change_params, make_project, params, workspace

PROTOCOL = {"captions": "all", "v2t_convention": "best_caption_of_all", "missing": "drop"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Path:
    folder = make_project(tmp_path_factory.mktemp("ledger") / "project", tiny_encoder_dir)
    for stage in (prepare, extract, train):
        stage(workspace(folder))
    return folder


def enter(path: Path, checkpoint: str, dataset: str = "d") -> None:
    ledger.enter(
        path,
        project=path.parent,
        run_key=f"run of {checkpoint}",
        checkpoint=checkpoint,
        dataset=dataset,
        protocol=PROTOCOL,
    )


def test_every_scoring_of_test_is_entered_and_none_of_val(trained: Path) -> None:
    space = workspace(trained)
    first = evaluate(space)
    assert "test scored 1 time by this run, 1 time by 1 run of this project" in score_lines(space)
    metrics = (space.evaluation / "metrics.json").read_bytes()
    (entry,) = ledger.read(space.ledger)
    assert entry.run_key == json.loads((space.run / "record.json").read_text())["run_key"]
    assert entry.checkpoint == file_digest(space.run / "head.safetensors")
    assert (entry.split, entry.dataset, entry.protocol) == ("test", "tiny", PROTOCOL)

    change_params(trained, evaluate__split="val")
    evaluate(workspace(trained))
    assert not any("test scored" in line for line in score_lines(space))
    assert ledger.read(space.ledger) == [entry]

    change_params(trained, evaluate__split="test")
    line = space.ledger.read_bytes()
    assert evaluate(workspace(trained)) == first
    assert space.ledger.read_bytes().startswith(line)
    assert len(ledger.read(space.ledger)) == 2
    assert score_lines(space)[-1].startswith("test scored 2 times by this run")
    # The count is no part of what DVC compares.
    assert (space.evaluation / "metrics.json").read_bytes() == metrics
    report(workspace(trained))
    for name in ("report.html", "report.md"):
        assert "test scored 2 times by this run" in (space.report / name).read_text()


def test_no_score_of_test_is_shown_when_it_cannot_be_entered(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    before = {path: path.read_bytes() for path in workspace(trained).evaluation.glob("*")}
    monkeypatch.setattr(ledger, "enter", full)
    with pytest.raises(OSError, match="no space left"):
        evaluate(workspace(trained))
    assert "R@1" not in capsys.readouterr().err
    assert {path: path.read_bytes() for path in workspace(trained).evaluation.glob("*")} == before


def test_counts_are_by_head_and_data_set(tmp_path: Path) -> None:
    path = tmp_path / ".gare" / "ledger.jsonl"
    assert ledger.read(path) == []
    for checkpoint in "aab":
        enter(path, checkpoint)
    enter(path, "a", dataset="other")
    found = ledger.count(ledger.read(path), checkpoint="a", dataset="d")
    assert found == ledger.LedgerCount(by_run=2, in_project=3, num_runs=2)
    assert str(found) == "test scored 2 times by this run, 3 times by 2 runs of this project"


def test_a_name_with_a_line_separator_hides_no_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for dataset in ("a\u2028b", "c\u0085d", "e"):
        enter(path, "a", dataset=dataset)
    assert [scoring.dataset for scoring in ledger.read(path)] == ["a\u2028b", "c\u0085d", "e"]


def test_a_line_cut_short_is_left_out_and_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    enter(path, "a")
    path.write_bytes(path.read_bytes() + b'{"time": "2025')
    enter(path, "b")
    assert [scoring.checkpoint for scoring in ledger.read(path)] == ["a", "b"]


def test_a_checkout_that_resets_the_file_loses_no_line(tmp_path: Path) -> None:
    """`dvc exp apply` left 2 of 3 lines; the copy in the repository's own folder has them all."""
    project = tmp_path / "repository" / "project"
    project.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(project.parent)], check=True)
    path = project / ".gare" / "ledger.jsonl"
    for checkpoint in "ab":
        enter(path, checkpoint)
    earlier = path.read_bytes()
    enter(path, "a")
    path.write_bytes(earlier)
    assert [scoring.checkpoint for scoring in ledger.read(path)].count("a") == 2
    enter(path, "c")
    everything = sorted(path.read_text().splitlines())
    assert [json.loads(line)["checkpoint"] for line in everything].count("a") == 2
    (kept,) = (project.parent / ".git" / "gare-cache").rglob("*.jsonl")
    assert sorted(kept.read_text().splitlines()) == everything
    # A colleague's lines come with a merge of the tracked file.
    other = earlier.replace(b'"b"', b'"of a colleague"').splitlines(keepends=True)[1]
    path.write_bytes(path.read_bytes() + other)
    assert "of a colleague" in [scoring.checkpoint for scoring in ledger.read(path)]
    path.unlink()
    assert len(ledger.read(path)) == 4


def test_the_revision_is_the_commit_with_a_mark_where_files_differ(tmp_path: Path) -> None:
    assert ledger.git_revision(tmp_path) is None
    git = ("git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org")
    (tmp_path / "file").write_text("one")
    for command in (("init", "-q"), ("add", "file"), ("commit", "-q", "-m", "one")):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert ledger.git_revision(tmp_path) == commit.stdout.strip()
    (tmp_path / "file").write_text("two")
    assert ledger.git_revision(tmp_path) == f"{commit.stdout.strip()}-dirty"


def test_training_gives_the_same_bytes_without_the_test_split(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = workspace(trained)
    head = (space.run / "head.safetensors").read_bytes()
    (trained / ".gare" / "state").rename(tmp_path / "state of the first run")
    manifest = read_manifest(space.manifest)
    others = Manifest(
        *(
            table.filter([split != "test" for split in table["split"].to_pylist()])
            for table in (manifest.videos, manifest.captions)
        )
    )
    assert others.videos.num_rows == 11
    loaded = []

    def load(cache, listed, name, **options):  # type: ignore[no-untyped-def]
        loaded.append(name)
        return load_split(cache, listed, name, **options)

    monkeypatch.setattr(train_stage, "read_manifest", lambda _: others)
    monkeypatch.setattr(train_stage, "load_split", load)
    train(space)
    assert (space.run / "head.safetensors").read_bytes() == head
    assert set(loaded) == {"train", "val"}


def test_no_setting_selects_on_test(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (trained / "params.yaml").read_text()
    for key in ("split", "select_on", "validation_split"):
        change_params(trained, **{f"train__{key}": "test"})
        with pytest.raises(ConfigError, match=f"unknown setting of train '{key}'"):
            params(trained)
        (trained / "params.yaml").write_text(text)
    # Without validation videos it stops; it does not fall back on test.
    manifest = read_manifest(workspace(trained).manifest)
    keep = [split != "val" for split in manifest.videos["split"].to_pylist()]
    without = Manifest(manifest.videos.filter(keep), manifest.captions)
    monkeypatch.setattr(train_stage, "read_manifest", lambda _: without)
    with pytest.raises(ConfigError, match="the manifest has no val videos"):
        train(workspace(trained))


def test_a_git_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text("#!/bin/sh\nexec sleep 600\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(git.parent), prepend=os.pathsep)
    monkeypatch.setattr(ledger, "_GIT_SECONDS", 0.3)
    for ask in (ledger.git_revision, lambda folder: enter(folder / "ledger.jsonl", "a")):
        with pytest.raises(EnvironmentFailure, match=r"`git .*` did not answer within 0.3 s in"):
            ask(tmp_path)
