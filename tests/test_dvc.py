"""dvc.yaml says of every stage what it really depends on."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gare_cache.cache.identity import cache_root, original_project
from gare_cache.code_identity import code_closure
from gare_cache.presets import project_files
from tests.tiny import change_params, make_project, tiny_params, write_params

REPOSITORY = Path(__file__).parents[1]
STAGES = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_dependencies_are_the_closure_of_its_code(stage: str) -> None:
    """So `dvc repro` never serves what other code made; rooms may stand for their modules."""
    listed = {dep for dep in map(str, STAGES[stage]["deps"]) if dep.startswith("gare_cache/")}
    needed = {
        file.relative_to(REPOSITORY).as_posix()
        for file in code_closure(f"gare_cache.stages.{stage}", folder=REPOSITORY).values()
        if file.name != "__init__.py"
    }
    uncovered = {path for path in needed if not any(_covers(dep, path) for dep in listed)}
    assert not uncovered, f"add to the deps of {stage} in dvc.yaml"
    idle = {dep for dep in listed if not any(_covers(dep, path) for path in needed)}
    assert not idle, f"take out of the deps of {stage} in dvc.yaml"


def _covers(dep: str, path: str) -> bool:
    return path == dep or path.startswith(f"{dep}/")


def test_dvc_finds_one_pipeline_in_the_repository() -> None:
    # It takes every file of this name for one, a preset's template included.
    assert list(REPOSITORY.glob("dvc.yaml")) == [REPOSITORY / "dvc.yaml"]
    assert not list((REPOSITORY / "gare_cache").rglob("dvc.yaml"))


def test_every_listed_path_and_setting_exists() -> None:
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for stage in STAGES.values():
        for path in stage["deps"]:
            if str(path).startswith("gare_cache"):
                assert (REPOSITORY / path).exists(), path
        for key in stage["params"]:
            value = params
            for name in key.split("."):
                value = value[name]


def test_a_run_in_the_repository_leaves_git_nothing_to_report(tmp_path: Path) -> None:
    """dvc.lock differs between machines, so it is ignored here and DVC is told to ignore git."""
    dvc = shutil.which("dvc", path=str(Path(sys.executable).parent))
    if dvc is None:
        pytest.skip("dvc is not installed beside this Python")
    tracked = _run(REPOSITORY, "git", "ls-files").split()
    assert "dvc.lock" not in tracked
    copied = [".gitignore", ".dvcignore", *(name for name in tracked if name.startswith(".dvc/"))]
    for name in copied:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    stage = {"cmd": "mkdir -p outputs && echo 1 > outputs/table.md", "outs": ["outputs/table.md"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"report": stage}}))
    git = ("git", "-c", "user.name=n", "-c", "user.email=n@example.org")
    _run(tmp_path, "git", "init", "--quiet")
    _run(tmp_path, *git, "add", "--all")
    _run(tmp_path, *git, "commit", "--quiet", "--message", "first")
    _run(tmp_path, dvc, "repro")
    assert (tmp_path / "dvc.lock").exists()
    assert _run(tmp_path, "git", "status", "--porcelain") == ""
    assert "up to date" in _run(tmp_path, dvc, "repro")


@pytest.mark.slow
def test_repro_runs_what_is_out_of_date_and_nothing_else(
    tmp_path: Path, tiny_encoder_dir: Path
) -> None:
    dvc = shutil.which("dvc", path=str(Path(sys.executable).parent))
    if dvc is None:
        pytest.skip("dvc is not installed beside this Python")
    project = make_project(tmp_path / "project", tiny_encoder_dir)
    values = tiny_params(tiny_encoder_dir)
    values |= {
        "evaluate": {"split": "test"},
        "report": {"examples": 2},
        "finetune": {"encoder": None},
    }
    write_params(project, values)
    shutil.copy(REPOSITORY / "dvc.yaml", project)
    shutil.copytree(
        REPOSITORY / "gare_cache",
        project / "gare_cache",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    _run(project, dvc, "init", "--no-scm", "--quiet")
    assert _ran(project, dvc) == [
        "prepare",
        "extract",
        "train",
        "finetune",
        "evaluate",
        "report",
    ]
    assert _ran(project, dvc) == []
    change_params(project, train__loss={"ib": {"weight": 0.001}})
    assert _ran(project, dvc) == ["train", "finetune", "evaluate", "report"]
    first = (project / "outputs/features.json").read_bytes()
    change_params(project, extract__max_frames_cached=5)
    assert _ran(project, dvc) == ["extract", "train", "finetune", "evaluate", "report"]
    assert len(list((project / "cache").iterdir())) == 2
    journals = {path: path.read_bytes() for path in project.glob("cache/*/journal/*")}
    change_params(project, extract__max_frames_cached=4)
    _ran(project, dvc)
    assert (project / "outputs/features.json").read_bytes() == first
    assert {path: path.read_bytes() for path in project.glob("cache/*/journal/*")} == journals


@pytest.mark.slow
def test_experiments_show_scores_and_learning_curves(
    tmp_path: Path, tiny_encoder_dir: Path
) -> None:
    dvc = shutil.which("dvc", path=str(Path(sys.executable).parent))
    if dvc is None:
        pytest.skip("dvc is not installed beside this Python")
    project = make_project(tmp_path / "project", tiny_encoder_dir)
    values = tiny_params(tiny_encoder_dir)
    values["train"]["loss"] = {"ib": {"weight": 0.0001}}
    values["finetune"] = {"encoder": None}
    write_params(project, values)
    files = project_files("generic")
    for name in ("dvc.yaml", ".gitignore"):
        (project / name).write_text(files[name])
    git = ("git", "-c", "user.name=n", "-c", "user.email=n@example.org")
    _run(project, "git", "init", "--quiet")
    _run(project, dvc, "init", "--quiet")
    _run(project, dvc, "repro")
    _run(project, *git, "add", "--all")
    _run(project, *git, "commit", "--quiet", "--message", "first")
    _run(project, dvc, "exp", "run", "-S", "train.epochs=5", "-S", "train.loss.ib.weight=1.0")
    shown = _run(project, dvc, "exp", "show", "--csv")
    header, *rows = list(csv.reader(shown.splitlines()))
    weight, score = header.index("train.loss.ib.weight"), header.index("selection score")
    assert [row[weight] for row in rows] == ["1.0", "0.0001", "1.0"]
    assert all(float(row[score]) >= 0 for row in rows)
    of_training = header.index("selection.score")
    assert [row[of_training] for row in rows] == [row[score] for row in rows]
    _run(project, dvc, "exp", "run", "-S", "train.epochs=4", "train")  # nothing is scored
    shown = json.loads(
        _run(project, dvc, "metrics", "show", "outputs/run/selection.json", "--json")
    )
    assert set(shown[""]["data"]["outputs/run/selection.json"]["data"]["selection"]) == {
        "score",
        "t2v R@1",
        "v2t R@1",
        "epoch",
    }
    _run(project, dvc, "exp", "run", "-S", "train.epochs=5")
    differing = json.loads(_run(project, dvc, "metrics", "diff", "--all", "--json"))
    assert set(differing["outputs/run/selection.json"]) >= {"selection.score", "selection.epoch"}
    scores = differing["outputs/evaluation/scores.json"]
    assert set(scores) >= {"t2v.R@1", "v2t.R@1", "selection score"}
    assert {"old", "new"} <= set(scores["t2v.R@1"])
    plots = json.loads(_run(project, dvc, "plots", "diff", "HEAD", "--json"))["data"]
    assert set(plots) == {"Selection R@1", "Training loss"}
    for curves in plots.values():
        assert {r for curve in curves for r in curve["revisions"]} == {"HEAD", "workspace"}


@pytest.mark.parametrize("checkout", ["standalone/tmp1", "tmp2"])
@pytest.mark.parametrize("below", ["", "sub/project"])
def test_the_project_of_a_temporary_checkout_is_found(
    tmp_path: Path, checkout: str, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    there = tmp_path / ".dvc/tmp/exps" / checkout
    (there / ".dvc").mkdir(parents=True)
    (there / below).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(there / below)
    for project in (Path(), there / below):
        assert original_project(project) == tmp_path / below
        assert cache_root(project) == tmp_path / below / "cache"
    monkeypatch.setenv("GARE_CACHE_ROOT", "/elsewhere")
    assert cache_root(Path()) == Path("/elsewhere")
    assert original_project(tmp_path / below) == tmp_path / below


@pytest.mark.slow
def test_a_temporary_checkout_uses_the_projects_caches_videos_and_ledger(
    tmp_path: Path, tiny_encoder_dir: Path
) -> None:
    """`dvc exp run --temp` and `--queue` work in a folder that holds what git tracks alone."""
    dvc = shutil.which("dvc", path=str(Path(sys.executable).parent))
    if dvc is None:
        pytest.skip("dvc is not installed beside this Python")
    project = make_project(tmp_path / "project", tiny_encoder_dir)
    files = project_files("generic")
    for name in ("dvc.yaml", ".gitignore"):
        (project / name).write_text(files[name])
    change_params(project, head=tiny_params(tiny_encoder_dir)["head"] | {"gap": None})
    no_loss = {name: {"weight": 0.0} for name in ("ib", "eps", "dir")}
    change_params(project, train__loss=no_loss, finetune__encoder=None)
    git = ("git", "-c", "user.name=n", "-c", "user.email=n@example.org")
    _run(project, "git", "init", "--quiet")
    _run(project, dvc, "init", "--quiet")
    _run(project, dvc, "repro")
    _run(project, *git, "add", "--all")
    _run(project, *git, "commit", "--quiet", "--message", "first")
    journals = {path: path.read_bytes() for path in project.glob("cache/*/journal/*")}
    ledger = project / ".gare/ledger.jsonl"
    scored = len(ledger.read_text().splitlines())
    small = "train.learning_rate=0.00001"
    _run(project, dvc, "exp", "run", "--temp", "-n", "slow", "-S", small)
    assert {path: path.read_bytes() for path in project.glob("cache/*/journal/*")} == journals
    assert len(ledger.read_text().splitlines()) == scored + 1
    _run(project, dvc, "exp", "run", "--temp", "-S", "extract.max_frames_cached=5")
    assert len(list((project / "cache").iterdir())) == 2
    _run(project, *git, "rm", "--quiet", "--cached", "dvc.lock")
    _run(project, *git, "commit", "--quiet", "--message", "no lock")
    _run(project, dvc, "exp", "run", "--temp", "-n", "anew", "-S", "train.epochs=4")
    assert len(list((project / "cache").iterdir())) == 2
    shown = _run(project, dvc, "exp", "show", "-A", "--csv")
    _, *rows = list(csv.reader(shown.splitlines()))
    assert {"slow", "anew"} <= {name for row in rows for name in row}


def _ran(project: Path, dvc: str) -> list[str]:
    output = _run(project, dvc, "repro")
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def _run(project: Path, *command: str) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment: dict[str, Any] = {**os.environ, "PATH": path}
    environment.pop("GARE_CACHE_ROOT", None)
    done = subprocess.run(
        command, cwd=project, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
