"""Two gloo processes on the CPU against one: the same weights, gradients, and files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gare_cache.data.frames import FrameChoice
from gare_cache.errors import ConfigError, EnvironmentFailure
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.losses.objective import Objective
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.train import train
from gare_cache.training.distributed import (
    Processes,
    encoding_parameters,
    is_first_process,
    own_device,
    process_group,
)
from gare_cache.training.loop import TrainingSetup, TrainingState, train_head
from gare_cache.training.settings import TrainSettings
from tests.plain_head import plain_head
from tests.tiny import change_params, workspace
from tests.training.test_loop import DIM, TRAIN, VAL
from tests.training.two_processes import run_two

BATCH = 16
OFF: dict[str, Any] = {"weight": 0.0}
LEARNED = {"weight": 0.1, "radius": 0.5, "learned": True}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "info_nce": {"trust_region": LEARNED, "orthogonality": {"weight": 0.1}},
    "ncl": {
        "contrastive": {"name": "ncl"},
        "trust_region": LEARNED,
        "false_negatives": "mask",
    },
}


def new_head(*, dropout: float = 0.0, gap: bool = True) -> RetrievalHead:
    torch.manual_seed(0)
    head = plain_head(
        dim=DIM,
        max_frames=5,
        projection="linear",
        aggregator={"name": "transformer", "layers": 1},
        gap={"dropout": dropout} if gap else None,
        logit_scale_init=2.0,
    )
    return head.double()


def run(
    objective: str,
    state_file: Path,
    processes: Processes,
    *,
    dropout: float = 0.0,
    stop_after: int | None = None,
) -> dict[str, Tensor]:
    """Train in float64 by plain gradient steps, so that nothing hides or magnifies a difference."""
    head, loss = new_head(dropout=dropout), Objective(**OBJECTIVES[objective]).double()
    parameters = [*head.parameters(), *loss.parameters()]

    def on_epoch(state: TrainingState) -> None:
        if state.epoch == stop_after:
            raise KeyboardInterrupt

    optimizer = torch.optim.SGD([{"params": parameters, "lr": 0.01, "base_lr": 0.01}])
    choice = FrameChoice(3, jittered=True)
    state = train_head(
        TrainingSetup(head, loss, optimizer, TRAIN, VAL, choice),
        TrainSettings(epochs=2, batch_size=BATCH, loss=loss.settings),
        state_file=state_file,
        on_batch=lambda: None,
        on_epoch=on_epoch,
        processes=processes,
    )
    found = {name: value.detach().clone() for name, value in head.state_dict().items()}
    found["loss"] = torch.tensor([record.losses["total"] for record in state.history])
    return found | {"radius": torch.tensor(loss.learned_radius)}


def gradients(processes: Processes, *, gap: bool = True) -> dict[str, Tensor]:
    """Return the gradients of one batch, those of the objective included."""
    head = new_head(gap=gap)
    loss = Objective(trust_region=LEARNED) if gap else Objective(ib=OFF, eps=OFF, dir=OFF)
    loss = loss.double()
    encoding = encoding_parameters(head)
    processes.start([head, loss], encoding=encoding, seed=0)
    rows = torch.arange(BATCH)
    own = processes.own(rows)
    videos = TRAIN.video_of_text[rows]
    scores = head(TRAIN.text[own], TRAIN.frames[videos], TRAIN.mask[videos])
    scores = processes.gather(scores)
    loss(scores.similarity, scores.delta, head.scale).total.backward()
    processes.sum_gradients(
        [*head.parameters(), *loss.parameters()],
        replicated=[head.logit_scale, *loss.parameters()],
        encoding=encoding,
    )
    named = [*head.named_parameters(), *loss.named_parameters()]
    return {name: p.grad for name, p in named if p.grad is not None}


def worker(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with process_group(torch.device("cpu"), reference_gather=False) as processes:
        for name in OBJECTIVES:
            found[name] = run(name, folder / f"{name}.pt", processes)
        found["gradients"] = gradients(processes)
        found["gradients without gap"] = gradients(processes, gap=False)
        found["dropout"] = run("info_nce", folder / "whole.pt", processes, dropout=0.3)
        try:
            run("info_nce", folder / "parts.pt", processes, dropout=0.3, stop_after=1)
        except KeyboardInterrupt:
            found["resumed"] = run("info_nce", folder / "parts.pt", processes, dropout=0.3)
        reference = Processes(processes.rank, processes.count, reference_gather=True)
        found["reference gradients"] = gradients(reference)
        head = plain_head(dim=DIM, max_frames=5, aggregator={"name": "mean"})
        torch.manual_seed(processes.rank)
        other = plain_head(dim=DIM, max_frames=5, aggregator={"name": "lstm"})
        processes.start([other], encoding=encoding_parameters(other), seed=0)
        found["started"] = dict(other.state_dict())
        for key, call in {
            "shares": lambda: processes.require_shares(BATCH + 1),
            "idle": lambda: reference.start([head], encoding=encoding_parameters(head), seed=0),
        }.items():
            try:
                call()
            except ConfigError as err:
                found[key] = str(err)
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    return run_two(worker, tmp_path_factory.mktemp("two"))


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_weights_are_those_of_one_process(
    two: list[dict[str, Any]], objective: str, tmp_path: Path
) -> None:
    alone = run(objective, tmp_path / "state.pt", Processes())
    start = new_head().state_dict()
    assert any(not torch.equal(alone[name], value) for name, value in start.items())
    for found in two:
        assert_close(found[objective], alone)


@pytest.mark.parametrize(("name", "gap"), [("gradients", True), ("gradients without gap", False)])
def test_the_gradient_is_that_of_one_process(
    two: list[dict[str, Any]], name: str, gap: bool
) -> None:
    alone = gradients(Processes(), gap=gap)
    assert alone["logit_scale"] != 0
    for found in two:
        assert_close(found[name], alone)


def test_the_reference_gather_divides_what_encodes_and_nothing_else(
    two: list[dict[str, Any]],
) -> None:
    alone = gradients(Processes())
    encodes = ("text_projection", "frame_projection", "aggregator")
    for found in two:
        expected = {n: g / 2 if n.startswith(encodes) else g for n, g in alone.items()}
        assert_close(found["reference gradients"], expected)


def test_processes_start_equal_and_draw_their_own_dropout(two: list[dict[str, Any]]) -> None:
    for name, value in two[0]["started"].items():
        assert torch.equal(two[1]["started"][name], value), name
    for name, value in two[0]["dropout"].items():
        assert torch.equal(two[1]["dropout"][name], value), name
    assert not torch.equal(two[0]["dropout"]["loss"], two[0]["info_nce"]["loss"])


def test_two_processes_resume_to_the_bit(two: list[dict[str, Any]]) -> None:
    for found in two:
        for name, value in found["dropout"].items():
            assert torch.equal(found["resumed"][name], value), name


def test_refusals(two: list[dict[str, Any]]) -> None:
    for found in two:
        assert "train.batch_size is 17, which 2 processes cannot share" in found["shares"]
        assert "neither a projection nor an aggregator with weights" in found["idle"]
    with pytest.raises(ConfigError, match=r"reference_gather is true, and one process gathers"):
        Processes(reference_gather=True).start([new_head()], encoding=[], seed=0)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert own_device("auto") == "auto"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [own_device(name) for name in ("auto", "cuda", "cpu", "cuda:0")] == [
        "cuda:1",
        "cuda:1",
        "cpu",
        "cuda:0",
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device("auto") == "auto"


def test_processes_that_do_not_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(EnvironmentFailure, match=r"WORLD_SIZE is 2, but .*RANK.*torchrun, or unset"),
        process_group(torch.device("cpu"), reference_gather=False),
    ):
        pass


def test_the_first_process_or_the_only_one_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_first_process()
    monkeypatch.setenv("RANK", "1")
    assert is_first_process()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not is_first_process()


def test_torchrun_trains_a_project(project: Path) -> None:
    """Without L_ib: the increments of random features differ too little for it in float32."""
    change_params(
        project,
        head__gap={"dropout": 0.0},
        train__loss={"contrastive": {"name": "ncl"}, "ib": OFF},
        train__batch_size=6,
    )
    space = workspace(project)
    prepare(space)
    extract(space)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "gare_cache.cli", "train", "--params", str(project / "params.yaml")]
    done = subprocess.run(
        [*command, "--device", "cpu"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.count("outputs/run") == 1
    assert done.stderr.count("best epoch") == 1
    together = load_file(space.run / "head.safetensors")
    record = json.loads((space.run / "record.json").read_text())
    assert record["processes"] == 2
    alone_record = train(space, device="cpu")
    assert alone_record["processes"] == 1
    assert alone_record["run_key"] != record["run_key"]
    alone = load_file(space.run / "head.safetensors")
    for name, value in alone.items():
        torch.testing.assert_close(
            together[name], value, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
