"""A head of one's own through the pipeline: train, evaluate, report; what its code decides."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from gare_cache import cli
from gare_cache.errors import ConfigError
from gare_cache.project.paths import open_workspace
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.report import report
from gare_cache.stages.train import train
from tests.tiny import change_params

EXAMPLES = Path(__file__).parents[2] / "examples"
OWN_LOSS = {"name": "my_parts:my_loss"}
NO_REGULARISERS = {name: {"weight": 0.0} for name in ("ib", "eps", "dir")}


@pytest.fixture
def own_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An extracted project whose head is the example's."""
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    shutil.copy(EXAMPLES / "my_head.py", project)
    shutil.copy(EXAMPLES / "my_parts.py", project)
    change_params(
        project,
        head__interaction={"name": "my_head:MyHead"},
        head__pooling=None,
        head__gap=None,
        train__loss=NO_REGULARISERS,
    )
    for stage in (prepare, extract):
        stage(opened(project))
    return project


def opened(project: Path) -> Any:
    return open_workspace(project / "params.yaml")


def weights(project: Path) -> dict[str, torch.Tensor]:
    return load_file(project / "outputs/run/head.safetensors")


def test_train_evaluate_and_report(own_project: Path) -> None:
    record = train(opened(own_project))
    assert list(record["own"]) == ["my_head:MyHead"]
    assert record["scoring"] == "dense in blocks"
    start = torch.eye(64)
    assert not torch.equal(weights(own_project)["interaction.module.map.weight"], start)
    metrics = evaluate(opened(own_project))
    assert set(metrics["methods"]) == {"zero_shot", "head"}
    analysis = json.loads((own_project / "outputs/evaluation/analysis.json").read_text())
    assert "left_out" in analysis["modality_gap"]["head"]
    assert "transformer, my_head:MyHead interaction: InfoNCE" in report(opened(own_project))
    done = CliRunner().invoke(
        cli.app, ["canary", "-p", str(own_project / "params.yaml"), "--galleries", "5"]
    )
    assert done.exit_code == 0, done.stderr


def test_a_change_of_the_code_is_another_run_and_its_old_weights_are_refused(
    own_project: Path,
) -> None:
    first = train(opened(own_project))
    assert train(opened(own_project))["run_key"] == first["run_key"]
    file = own_project / "my_head.py"
    code = file.read_text()
    file.write_text(
        code.replace("nn.init.eye_(self.map.weight)", "nn.init.zeros_(self.map.weight)")
    )
    with pytest.raises(ConfigError, match=r"code of 'my_head:MyHead' has changed since .*safetens"):
        evaluate(opened(own_project))
    second = train(opened(own_project))
    assert second["run_key"] != first["run_key"]
    assert second["own"] != first["own"]
    evaluate(opened(own_project))
    file.write_text(code)
    assert train(opened(own_project))["run_key"] == first["run_key"]


def test_options_decide_the_result(own_project: Path) -> None:
    train(opened(own_project))
    before = weights(own_project)
    change_params(own_project, head__interaction__options={"temperature": 0.5})
    train(opened(own_project))
    changed = weights(own_project)
    assert any(not torch.equal(before[name], changed[name]) for name in before)
    change_params(
        own_project, head__aggregator={"name": "my_parts:MyAggregator", "options": {"width": 5}}
    )
    record = train(opened(own_project))
    assert sorted(record["own"]) == ["my_head:MyHead", "my_parts:MyAggregator"]
    width = weights(own_project)["aggregator.module.convolution.weight"].shape[-1]
    assert width == 5
    losses = []
    for options in (None, {"margin": 0.5}):
        change_params(own_project, train__loss__contrastive={**OWN_LOSS, "options": options})
        record = train(opened(own_project))
        assert "my_parts:my_loss" in record["own"]
        losses.append(weights(own_project)["interaction.module.map.weight"])
    assert not torch.equal(*losses)
    change_params(own_project, train__loss__false_negatives="mask")
    train(opened(own_project))
    change_params(own_project, head__interaction__options={"temprature": 0.5})
    with pytest.raises(ConfigError, match="unexpected keyword argument 'temprature'"):
        train(opened(own_project))


def test_a_normaliser_of_ones_own(own_project: Path) -> None:
    train(opened(own_project))
    change_params(
        own_project,
        evaluate__normalisers=[
            {"name": "my_parts:my_normaliser"},
            {"name": "my_parts:my_normaliser", "weight": 0.0},
        ],
    )
    found = evaluate(opened(own_project))["normalisers"]
    assert list(found["own"]) == ["my_parts:my_normaliser"]
    raw, own, nothing = found["rows"]
    assert nothing["t2v"]["R@1"] == raw["t2v"]["R@1"]
    assert own["parameters"] == {"weight": 0.5}
    report(opened(own_project))
    for entry, message in (
        ({"name": "my_parts:my_normalizer"}, "did you mean my_normaliser"),
        ({"name": "my_parts:my_normaliser", "alpha": 1}, "unknown parameter .* 'alpha'"),
        (
            {"name": "my_parts:my_normaliser", "weight": "x"},
            "my_normaliser.weight is 'x': input should be a valid number",
        ),
        ({"name": "my_parts:my_normaliser", "kind": "transductive"}, "is inductive, not kind"),
    ):
        change_params(own_project, evaluate__normalisers=[entry])
        with pytest.raises(ConfigError, match=message):
            opened(own_project)


def test_the_installed_command_finds_the_projects_modules_from_elsewhere(
    own_project: Path, tmp_path: Path
) -> None:
    code = "from gare_cache.cli import main; main()"
    arguments = ["train", "-p", str(own_project / "params.yaml"), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "interaction.module.map.weight" in weights(own_project)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head__gap": {}}, "head.gap belongs to the interaction 'pooled'"),
        ({"head__interaction": {"name": "my_haed:MyHead"}}, "did you mean my_head"),
        ({"train__loss": {}}, "this head has none; set ib.weight: 0 and eps.weight: 0"),
    ],
)
def test_mistakes_are_one_line(own_project: Path, changes: Any, message: str) -> None:
    change_params(own_project, **changes)
    done = CliRunner().invoke(cli.app, ["train", "-p", str(own_project / "params.yaml")])
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_run_of_parts_that_the_settings_do_not_name_needs_trust(own_project: Path) -> None:
    train(opened(own_project))
    change_params(own_project, head__interaction={"name": "pooled"}, head__pooling={"name": "mean"})
    arguments = ["evaluate", "-p", str(own_project / "params.yaml")]
    refused = CliRunner().invoke(cli.app, arguments)
    assert refused.exit_code == 2
    assert "names 'my_head:MyHead', which params.yaml does not" in refused.stderr
    assert CliRunner().invoke(cli.app, [*arguments, "--trust"]).exit_code == 0


@pytest.mark.parametrize(
    ("name", "refused"), [("my_head:MyHead", False), ("torch.hub:load", True), ("evil:X", True)]
)
def test_a_study_names_parts_of_the_settings_or_the_project(
    own_project: Path, name: str, refused: bool
) -> None:
    change_params(own_project, head__interaction={"name": "pooled"}, head__pooling={"name": "mean"})
    study = own_project / "studies/strange.yaml"
    study.parent.mkdir()
    values = {
        "base": "params.yaml",
        "set": {"head.pooling": None},
        "axes": {"head.interaction.name": [name]},
        "seeds": [0],
        "reference": f"name={name}",
    }
    study.write_text(json.dumps(values))
    done = CliRunner().invoke(cli.app, ["ablate", str(study), "--dry-run"])
    message = f"strange.yaml names '{name}', which params.yaml does not"
    assert (message in done.stderr) == refused, done.stderr
    assert (done.exit_code == 0) != refused, done.stderr
