"""What makes a training fast on a GPU, as far as it can be seen on a CPU."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gare_cache.data.frames import FrameChoice
from gare_cache.errors import ConfigError, EnvironmentFailure
from gare_cache.heads.retrieval import RetrievalHead, build_head
from gare_cache.losses.objective import Objective
from gare_cache.reproducibility import resolve_device
from gare_cache.training.compilation import compiled
from gare_cache.training.loop import TrainingSetup, TrainingState, train_head
from gare_cache.training.optimizers import build_optimizer
from gare_cache.training.precision import require_precision
from gare_cache.training.settings import TrainSettings
from tests.training.test_loop import DIM, TRAIN, VAL

# Operators whose result the host waits for, or whose shape it needs.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim"}


class Waits(TorchDispatchMode):
    """Counts the operators that would make a GPU's host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function._schema.name.split("::")[1]
        by_mask = name.startswith(("index", "_index")) and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], (list, tuple)) else ())
        )
        if name in WAITING or by_mask:
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


def trained(
    folder: Path, settings: TrainSettings, on_batch: Any = lambda: None, **head_settings: Any
) -> tuple[RetrievalHead, TrainingState]:
    torch.manual_seed(settings.seed)
    head = build_head(dim=DIM, max_frames=5, **head_settings)
    head.encodes_in_bfloat16 = settings.precision == "bfloat16"
    objective = Objective(settings.loss)
    optimizer = build_optimizer(head, objective, settings)
    choice = FrameChoice(5, jittered=False)
    state = train_head(
        TrainingSetup(head, objective, optimizer, TRAIN, VAL, choice),
        settings,
        state_file=folder / "state.pt",
        on_batch=on_batch,
        on_epoch=lambda state: None,
    )
    return head, state


@pytest.mark.parametrize("contrastive", ["info_nce", "ncl"])
@pytest.mark.parametrize("optimizer", ["adamw", "bert_adam"])
def test_no_step_makes_the_host_wait(tmp_path: Path, contrastive: str, optimizer: str) -> None:
    steps: list[Counter[str]] = []

    def on_batch() -> None:
        steps.append(waits.seen.copy())

    settings = TrainSettings.model_validate(
        {
            "epochs": 1,
            "batch_size": 16,
            "optimizer": optimizer,
            "loss": {"contrastive": {"name": contrastive}, "false_negatives": "mask"},
        }
    )
    with Waits() as waits:
        trained(tmp_path, settings, on_batch, gap={"dropout": 0.3})
    assert len(steps) == len(TRAIN.text) // 16
    assert steps[0] == steps[-1]
    assert waits.seen != steps[-1], "the epoch's figures are read once, behind its last batch"


def encoder_products(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: str) -> set[Any]:
    seen = set()
    original = torch.nn.Linear.forward

    def noted(module: Any, inputs: torch.Tensor) -> torch.Tensor:
        out = original(module, inputs)
        if module.training:
            seen.add(out.dtype)
        return out

    monkeypatch.setattr(torch.nn.Linear, "forward", noted)
    settings = TrainSettings.model_validate(
        {"epochs": 1, "batch_size": 16, "precision": precision, "optimizer": "adamw"}
    )
    head, state = trained(tmp_path, settings, projection="linear", gap={"dropout": 0.3})
    assert {parameter.dtype for parameter in head.parameters()} == {torch.float32}
    assert state.best_score > 0
    return seen


def test_bfloat16_is_for_the_encoding_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert torch.bfloat16 in encoder_products(monkeypatch, tmp_path, "bfloat16")
    (tmp_path / "state.pt").unlink()
    assert encoder_products(monkeypatch, tmp_path, "float32") == {torch.float32}


def test_bfloat16_scores_are_float32_and_near() -> None:
    torch.manual_seed(0)
    head = build_head(dim=DIM, max_frames=5, projection="linear", gap={"dropout": 0.0})
    inputs = TRAIN.text[:16], TRAIN.frames[:16], TRAIN.mask[:16]
    exact = head.pair_scores(*inputs)
    head.encodes_in_bfloat16 = True
    near = head.pair_scores(*inputs)
    assert near.similarity.dtype == torch.float32
    assert not torch.equal(near.similarity, exact.similarity)
    torch.testing.assert_close(near.similarity, exact.similarity, atol=0.02, rtol=0)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_step_alone_takes_tf32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: str
) -> None:
    seen: dict[str, set[bool]] = {"forward": set(), "backward": set(), "validation": set()}
    original = torch.nn.Linear.forward

    def is_on() -> bool:
        return bool(torch.backends.cuda.matmul.allow_tf32)

    def noted(module: Any, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = original(module, inputs)
        seen["forward" if module.training else "validation"].add(is_on())
        if out.requires_grad:
            out.register_hook(lambda _: seen["backward"].add(is_on()))
        return out

    monkeypatch.setattr(torch.nn.Linear, "forward", noted)
    settings = TrainSettings.model_validate({"epochs": 1, "batch_size": 16, "precision": precision})
    trained(tmp_path, settings, lambda: seen["validation"].add(is_on()), projection="linear")
    step = {precision == "tf32"}
    assert seen == {"forward": step, "backward": step, "validation": {False}}


def test_tf32_without_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.precision is tf32.* on cpu; set float32"):
        require_precision(TrainSettings(precision="tf32"), torch.device("cpu"))
    require_precision(TrainSettings(precision="tf32"), torch.device("cuda", 1))
    require_precision(TrainSettings(), torch.device("cpu"))


def test_convolutions_of_a_device_are_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    resolve_device("cpu")
    assert not torch.backends.cudnn.allow_tf32


def test_several_processes_are_not_compiled() -> None:
    with pytest.raises(ConfigError, match=r"train.compile is true, and several processes"):
        compiled(lambda *_: None, num_processes=2)  # type: ignore[arg-type,return-value]


def test_without_a_compiler_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise torch._dynamo.exc.TorchDynamoException("InvalidCxxCompiler: none\nmore")

    monkeypatch.setattr(torch, "compile", lambda function: fails)
    call = compiled(lambda *_: None, num_processes=1)  # type: ignore[arg-type,return-value]
    with pytest.raises(EnvironmentFailure, match=r"InvalidCxxCompiler: none\); on the CPU it"):
        call(TRAIN.text, TRAIN.frames, TRAIN.mask)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(
    ("head", "rel"),
    [
        ({"gap": {"dropout": 0.0}}, 1e-4),
        ({"gap": {"dropout": 0.3}}, 0.1),  # other numbers are drawn
        ({"pooling": {"name": "cross_attention"}}, 0.1),
    ],
    ids=["dropout 0", "dropout 0.3", "X-Pool"],
)
def test_a_compiled_training_has_the_same_losses(
    tmp_path: Path, head: dict[str, Any], rel: float
) -> None:
    states = []
    for compile_it in (False, True):
        folder = tmp_path / str(compile_it)
        folder.mkdir()
        settings = TrainSettings.model_validate(
            {"epochs": 2, "batch_size": 16, "optimizer": "adamw", "compile": compile_it}
        )
        states.append(trained(folder, settings, **head)[1])
    solo, fused = ([dict(record.losses) for record in state.history] for state in states)
    for plain, other in zip(solo, fused, strict=True):
        assert other == pytest.approx(plain, rel=rel)
