import json
from pathlib import Path

import pytest

from gare_cache.errors import ConfigError
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
    assert json.loads((space.run / "record.json").read_text()) == record
    assert record["settings"]["train"]["loss"]["trust_region"] == region


def test_the_reference_gather_needs_several_processes(extracted: Path) -> None:
    change_params(extracted, train__reference_gather=True)
    with pytest.raises(ConfigError, match=r"train.reference_gather is true, and one process"):
        train(workspace(extracted))


def test_settings_of_another_contrastive_loss_are_an_error(extracted: Path) -> None:
    change_params(extracted, train__loss={"contrastive": {"name": "info_nce", "iterations": 4}})
    with pytest.raises(ConfigError, match="contrastive 'info_nce' has no such setting"):
        train(workspace(extracted))
