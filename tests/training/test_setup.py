import csv
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from gare_cache.data.split import load_split
from gare_cache.manifest.tables import read_manifest
from gare_cache.project.paths import Workspace
from gare_cache.stages import training_outputs
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.train import train
from gare_cache.training import setup
from gare_cache.training.setup import listed_digests, run_key, training_identity
from tests.tiny import change_params, make_project, workspace


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Path:
    folder = make_project(tmp_path_factory.mktemp("identity") / "project", tiny_encoder_dir)
    for stage in (prepare, extract):
        stage(workspace(folder))
    return folder


def identity(space: Workspace) -> dict[str, Any]:
    features = json.loads(space.features.read_text())
    listed = listed_digests(read_manifest(space.manifest))
    return training_identity(space.params.head, space.params.train, features, listed)


def test_a_trainings_key_is_known_before_it(
    extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run_key(identity(workspace(extracted)))
    assert train(workspace(extracted))["run_key"] == before
    monkeypatch.setattr(training_outputs, "provenance", lambda: {"python": "another"})
    assert train(workspace(extracted))["run_key"] == before
    # To the bit it goes on only where machine and versions are the same.
    assert len(list(workspace(extracted).state.iterdir())) == 2


def test_what_changes_the_key(extracted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = workspace(extracted)
    keys = [run_key(identity(space))]
    change_params(extracted, train__seed=7)
    keys.append(run_key(identity(workspace(extracted))))
    change_params(extracted, train__seed=0, evaluate__split="val")
    assert run_key(identity(workspace(extracted))) == keys[0]
    features = json.loads(space.features.read_text()) | {"content_digest": "other"}
    listed = listed_digests(read_manifest(space.manifest))
    keys.append(run_key(training_identity(space.params.head, space.params.train, features, listed)))
    keys.append(run_key(identity(space) | {"data": listed | {"val": "other"}}))
    monkeypatch.setattr(setup, "installed_code_digest", lambda _: "edited")
    keys.append(run_key(identity(space)))
    assert len(set(keys)) == 5


def test_a_run_with_shared_inputs_is_the_same_run_elsewhere(
    extracted: Path, tmp_path: Path
) -> None:
    loaded: list[str] = []

    def load(*arguments: Any, **options: Any) -> Any:
        loaded.append(arguments[2])
        return load_split(*arguments, **options)

    here = workspace(extracted)
    there = Workspace(extracted, here.params, tmp_path / "run", inputs=here.outputs)
    train(here)
    train(there, load=load)
    assert loaded == ["train", "val"]
    weights = [load_file(space.run / "head.safetensors") for space in (here, there)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "cost.json",
        "run",
        "state",
    ]
    evaluate(there, load=load)
    assert loaded[2:] == [here.params.evaluate.split]


def test_what_dvc_shows_of_a_run(extracted: Path) -> None:
    space = workspace(extracted)
    record = train(space)
    metrics = evaluate(space)
    with (space.run / "learning_curve.csv").open(newline="") as file:
        curve = list(csv.DictReader(file))
    log = [json.loads(line) for line in (space.run / "train_log.jsonl").read_text().splitlines()]
    assert [int(row["epoch"]) for row in curve] == [1, 2, 3]
    assert [float(row["loss"]) for row in curve] == [epoch["losses"]["total"] for epoch in log]
    assert [float(row["t2v R@1"]) for row in curve] == [e["validation"]["t2v R@1"] for e in log]
    assert [float(row["v2t R@1"]) for row in curve] == [e["validation"]["v2t R@1"] for e in log]
    scores = json.loads((space.evaluation / "scores.json").read_text())
    assert scores["selection score"] == record["validation_score"]
    assert set(scores) == {"t2v", "v2t", "selection score"}
    for direction in ("t2v", "v2t"):
        full = metrics["methods"]["head"][direction]
        assert scores[direction] == {key: full[key] for key in ("R@1", "R@5", "R@10", "MdR")}
