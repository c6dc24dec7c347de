"""Extraction by Ray actors ends with the bytes of one process, whatever is killed meanwhile."""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from gare_cache.cache import schema
from gare_cache.cache.verify import verify_cache
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.studies.ablate import ablate
from tests.stages.extraction import arrays, assert_equal_bytes
from tests.tiny import change_params, workspace

_REPOSITORY = Path(__file__).parents[2]
_NAMESPACE = ["unshare", *(["--map-root-user"] if os.geteuid() else []), "--net", "--mount", "--"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra [ray]"),
    pytest.mark.skipif(
        subprocess.run([*_NAMESPACE, "true"], check=False).returncode != 0,
        reason="no network namespace can be made here",
    ),
]


@pytest.fixture
def expected(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], bytes]:
    """Arrays and features.json of one process; its cache is gone."""
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    monkeypatch.setattr(schema, "_MOST_ROWS", {"video": 1, "text": 1})
    monkeypatch.setattr(schema, "_MOST_ROWS_OF_WORDS", 1)
    change_params(project, extract__word_tokens=True)
    prepare(workspace(project))
    extract(workspace(project))
    found = arrays(project), workspace(project).features.read_bytes()
    (project / "cache").rename(tmp_path / "of one process")
    workspace(project).features.unlink()
    return found


def test_a_killed_worker_does_not_change_a_byte(
    project: Path, expected: tuple[dict[str, Any], bytes]
) -> None:
    said = _play("a_worker_is_killed", project)
    assert "is lost (pid" in said
    _assert_as_of_one_process(project, expected)


@pytest.mark.parametrize(
    "scenario", ["undisturbed", "workers_and_nodes_are_killed", "the_driver_is_killed"]
)
def test_whatever_is_killed_does_not_change_a_byte(
    project: Path, expected: tuple[dict[str, Any], bytes], scenario: str
) -> None:
    said = _play(scenario, project)
    _assert_as_of_one_process(project, expected)
    print(said)


def test_a_second_driver_is_refused(project: Path, expected: tuple[dict[str, Any], bytes]) -> None:
    said = _play("two_drivers", project)
    assert "is being written by process" in said
    assert "(driver)" in said
    _assert_as_of_one_process(project, expected)


def test_a_unit_that_kills_three_workers_is_a_recorded_failure(
    project: Path, expected: tuple[dict[str, Any], bytes]
) -> None:
    (project / "deadly").write_text("train3.mp4")
    change_params(project, extract__max_failed_percent=50.0)
    said = _play("undisturbed", project)
    assert said.count("is lost (pid") == 3
    assert "3 workers died of its unit" in said
    found = arrays(project)
    differing = [row for row in range(14) if found["video/num_frames"][row] == 0]
    assert len(differing) == 1


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("a_node_without_videos", r"has no .*videos/.*\.mp4, which the driver has; mount the"),
        (
            "a_node_with_a_cache_of_its_own",
            "does not see the driver's lock in .*must lie on a file",
        ),
        ("a_cluster_of_another_version", "no Ray cluster at 127.0.0.1:.*[Vv]ersion mismatch"),
    ],
)
def test_nodes_that_do_not_fit_are_refused_with_the_reason(
    project: Path, expected: tuple[dict[str, Any], bytes], scenario: str, reason: str
) -> None:
    (error,) = re.findall("error: .*", _play(scenario, project))
    assert re.search(reason, error)


def test_a_study_on_a_cluster_has_the_results_of_one_process(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    for stage in (prepare, extract):
        stage(workspace(project))
    study = {"base": "params.yaml", "axes": {"train.loss.dir.alpha": [1.0, 2.0]}}
    study |= {"seeds": [0, 1, 2], "reference": "alpha=2.0", "set": {"train.epochs": 2}}
    (project / "studies").mkdir()
    (project / "studies" / "a.yaml").write_text(yaml.safe_dump(study))
    said = _play("a_study", project)
    assert "is lost (pid" in said
    ranks = project / "outputs/studies/a/ranks.parquet"
    by_actors = pq.read_table(ranks)
    runs = project / ".gare/runs"
    names = sorted(path.name for path in runs.iterdir())
    runs.rename(tmp_path / "runs of actors")
    ablate(project / "studies/a.yaml", batched="off")
    assert sorted(path.name for path in runs.iterdir()) == names
    assert pq.read_table(ranks).equals(by_actors)
    for name in names:
        head = Path(name) / "run" / "head.safetensors"
        assert (runs / head).read_bytes() == (tmp_path / "runs of actors" / head).read_bytes()


def _play(scenario: str, project: Path) -> str:
    """Play a scenario in a network namespace; return what was said."""
    command = [sys.executable, "-m", "tests.cluster.ray_scenarios", scenario, str(project)]
    with tempfile.TemporaryDirectory(prefix="ray") as state:  # short: it holds sockets
        done = subprocess.run(
            [*_NAMESPACE, *command],
            cwd=_REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_TMPDIR": state},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=570,
            check=False,
        )
    assert done.returncode == 0, done.stdout
    return done.stdout


def _assert_as_of_one_process(project: Path, expected: tuple[dict[str, Any], bytes]) -> None:
    assert_equal_bytes(arrays(project), expected[0])
    assert workspace(project).features.read_bytes() == expected[1]
    (folder,) = (project / "cache").iterdir()
    assert verify_cache(folder).faults == []
