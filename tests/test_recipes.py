"""CONTRIBUTING's recipes, followed to the letter in a copy of the package, give working parts."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from tests.tiny import make_project, workspace

REPOSITORY = Path(__file__).parents[1]
RECIPES = ("loss", "pooling", "head", "aggregator", "normaliser", "sampler", "data set", "study")
# Trains a head with each part, checks heads against their contract, and uses the other parts.
FOLLOW = """
import json, sys
from pathlib import Path
import gare_cache
from gare_cache.annotations.readers import READERS
from gare_cache.config import load_params
from gare_cache.evaluation.contract import check_contract
from gare_cache.evaluation.normalisers.registry import read_choice
from gare_cache.heads.retrieval import build_head
from gare_cache.presets import STUDIES
from gare_cache.project.paths import Workspace
from gare_cache.stages.train import train
from gare_cache.studies.setting_keys import check_setting, with_changes
from gare_cache.video.sampling import SAMPLERS
import yaml

project = Path(sys.argv[1])
off = {f"train.loss.{name}.weight": 0.0 for name in ("ib", "eps", "dir")}
alone = {"head.pooling": None, "head.gap": None, **off}
changes = {
    "loss": {"train.loss.contrastive": {"name": "margin", "margin": 0.1}},
    "pooling": {"head.pooling": {"name": "top_frames", "count": 2}},
    "head": {"head.interaction": {"name": "best_frame", "sharpness": 5.0}, **alone},
    "aggregator": {"head.aggregator": {"name": "smoothing"}},
}
values = yaml.safe_load((project / "params.yaml").read_text())
found = {"package": gare_cache.__file__, "settings": {}, "failed": []}
for name, change in changes.items():
    (project / f"{name}.yaml").write_text(yaml.safe_dump(with_changes(values, change)))
    space = Workspace(project, load_params(project / f"{name}.yaml"), project / "outputs")
    found["settings"][name] = train(space)["settings"]
    head = build_head(space.params.head, dim=16, max_frames=4)
    rows = check_contract(head, build_head)
    found["failed"] += [f"{name}: {row}" for row in rows if not row.passed]
for key in ("train.loss.contrastive.margin", "head.pooling.count", "head.interaction.sharpness"):
    check_setting(key)
found["normaliser"] = read_choice({"name": "mean_shift"}).candidates
found["others"] = ["first_frames" in SAMPLERS, "lines" in READERS, "temperature" in STUDIES]
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Step:
    """An edit: a new file, or lines beside (``where``) the line that starts with ``anchor``."""

    file: str
    where: str | None
    anchor: str | None
    text: str

    def apply(self, folder: Path) -> None:
        path = folder / self.file
        if self.where is None:
            assert not path.exists(), self.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.text)
            return
        lines = path.read_text().splitlines(keepends=True)
        text = self.text
        if text.startswith(("class ", "def ", "@")):
            text += "\n\n"
        starts = [n for n, line in enumerate(lines) if line.startswith(str(self.anchor))]
        assert len(starts) == 1, f"{self.file} has {len(starts)} lines that start {self.anchor!r}"
        first = last = starts[0]
        if self.where == "below":
            first = last = starts[0] + 1
        elif self.where == "instead of":
            last += 1
        elif self.where == "at the end of":
            first = last = next(n for n in range(first, len(lines)) if lines[n][0] in "})")
        path.write_text("".join([*lines[:first], text, *lines[last:]]))


def read_steps(recipe: str) -> list[Step]:
    """Read the steps of a section ``### A <recipe>`` of CONTRIBUTING.md."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    (section,) = re.findall(rf"^### An? {recipe}\n(.*?)(?=^##)", text, re.M | re.S)
    blocks = re.findall(
        r"^(?:New file|In) `([^`]+)`(?:, (above|below|instead of|at the end of) `([^`]+)`)?:\n\n"
        r"```\w+\n(.*?)```$",
        section,
        re.M | re.S,
    )
    assert section.count("```") == 2 * len(blocks), f"{recipe}: a block says not where it goes"
    return [Step(file, where or None, anchor or None, text) for file, where, anchor, text in blocks]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes") / "repository"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "gare_cache", folder / "gare_cache", ignore=ignored)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    for recipe in RECIPES:
        steps = read_steps(recipe)
        assert steps, recipe
        for step in steps:
            step.apply(folder)
    return folder


def run(copy: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_parts_of_the_recipes_train(copy: Path, tmp_path: Path, tiny_encoder_dir: Path) -> None:
    project = make_project(tmp_path / "project", tiny_encoder_dir)
    for stage in (prepare, extract):
        stage(workspace(project))
    found = json.loads(run(copy, "-c", FOLLOW, str(project)).splitlines()[-1])
    assert Path(found["package"]).is_relative_to(copy)
    settings = found["settings"]
    contrastive = settings["loss"]["train"]["loss"]["contrastive"]
    assert contrastive == {"name": "margin", "margin": 0.1}
    assert settings["pooling"]["head"]["pooling"] == {"name": "top_frames", "count": 2}
    interaction = settings["head"]["head"]["interaction"]
    assert interaction == {"name": "best_frame", "sharpness": 5.0}
    assert settings["aggregator"]["head"]["aggregator"] == {"name": "smoothing", "reach": 1}
    assert found["failed"] == []
    assert found["normaliser"] == {"weight": [0.5]}
    assert found["others"] == [True, True, True]


def test_the_recipes_tests_pass_and_their_code_is_in_the_projects_form(copy: Path) -> None:
    run(copy, "-m", "pytest", "-p", "no:cacheprovider", "tests")
    run(copy, "-m", "ruff", "check", "gare_cache", "tests")
    run(copy, "-m", "ruff", "format", "--check", "gare_cache", "tests")
