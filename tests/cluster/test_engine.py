"""What is wrong with an engine is said before any work, in one line."""

import errno
import fcntl
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gare_cache.cluster.ray_pool import Actors, Cluster, connected, device_of, plan_actors
from gare_cache.commands.options import cluster_of
from gare_cache.errors import ConfigError, EnvironmentFailure
from gare_cache.extraction.cluster import wait_for_former_workers
from gare_cache.stages.extract import extract
from gare_cache.studies.ablate import ablate
from tests.tiny import workspace


def test_options_of_ray_need_ray() -> None:
    assert cluster_of("local", None, None, None) is None
    assert cluster_of("ray", None, 3, 0.5) == Cluster(None, 3, 0.5)
    with pytest.raises(ConfigError, match="need --engine ray"):
        cluster_of("local", "auto", None, None)
    with pytest.raises(ConfigError, match="--gpus-per-actor is -1; give 0 or more"):
        cluster_of("ray", None, None, -1.0)


def test_ray_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ConfigError, match=r"needs ray; install it: pip install 'gare-cache\[ray\]'"),
        connected(None),
    ):
        pass


@pytest.mark.parametrize("address", ["head", "ray://127.0.0.1:10001", "127.0.0.1:port", ":6379"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    pytest.importorskip("ray", reason="needs the extra [ray]")
    with (
        pytest.raises(ConfigError, match=r"give HOST:PORT of the cluster's head"),
        connected(address),
    ):
        pass


def test_an_address_where_nobody_answers_is_refused_at_once() -> None:
    pytest.importorskip("ray", reason="needs the extra [ray]")
    with (
        pytest.raises(EnvironmentFailure, match="no Ray cluster answers at"),
        connected("127.0.0.1:1"),
    ):
        pass


def test_the_driver_hands_out_all_units(project: Path) -> None:
    with pytest.raises(ConfigError, match="leave out --shard and --finalise"):
        extract(workspace(project), finalise=True, cluster=Cluster())


def test_a_cluster_trains_one_run_an_actor(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave out --jobs"):
        ablate(tmp_path / "study.yaml", jobs=2, cluster=Cluster())


def nodes(*resources: dict[str, float], dead: int = 0) -> Any:
    """Return what a cluster of Ray says of its nodes; nothing else of it is asked."""
    found = [{"Alive": i >= dead, "Resources": of} for i, of in enumerate(resources)]
    return SimpleNamespace(nodes=lambda: found)


@pytest.mark.parametrize(
    ("machines", "asked", "count", "gpus", "cpus"),
    [
        ([{"CPU": 8}, {"CPU": 8}], Cluster(), 2, 0, 8),
        ([{"CPU": 64, "GPU": 4}], Cluster(), 4, 1, 16),
        ([{"CPU": 64, "GPU": 4}], Cluster(gpus_per_actor=0.5), 8, 0.5, 8),
        ([{"CPU": 64, "GPU": 4}], Cluster(gpus_per_actor=0), 1, 0, 64),
        ([{"CPU": 8}, {"CPU": 8}], Cluster(actors=4), 4, 0, 4),
    ],
)
def test_actors_share_the_processors(
    machines: list[dict[str, float]], asked: Cluster, count: int, gpus: float, cpus: int
) -> None:
    actors = plan_actors(nodes(*machines), asked, threads=0, workers=0)
    assert (actors.count, actors.gpus, actors.cpus) == (count, gpus, cpus)


def test_actors_without_gpus_encode_on_the_processor_or_refuse() -> None:
    alone, with_gpu = Actors(1, 0, 1, 1), Actors(1, 0.5, 1, 1)
    assert device_of(alone, "auto") == "cpu"
    assert device_of(with_gpu, "auto") == "auto"
    with pytest.raises(ConfigError, match="--device is cuda, and the actors have no GPUs"):
        device_of(alone, "cuda")


def test_dead_nodes_do_not_count() -> None:
    actors = plan_actors(nodes({"CPU": 4}, {"CPU": 2}, dead=1), Cluster(), threads=0, workers=0)
    assert (actors.count, actors.cpus) == (1, 2)


def test_more_than_any_node_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"an actor needs 9 processors .*lower --threads"):
        plan_actors(nodes({"CPU": 8}, {"CPU": 8}), Cluster(), threads=9, workers=1)


def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_former_workers(tmp_path)  # this one has them

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(EnvironmentFailure, match=r"not safe .*No locks available.*cache merge"):
        wait_for_former_workers(tmp_path)


def test_a_file_system_whose_locks_do_not_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(EnvironmentFailure, match="two processes can hold one lock"):
        wait_for_former_workers(tmp_path)


def test_a_file_system_whose_renames_do_not_replace_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(EnvironmentFailure, match=r"not safe for several writers .File exists"):
        wait_for_former_workers(tmp_path)
