"""Gradients, resumption and processes of a finetuning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gare_cache.encoders.encoder import Encoder
from gare_cache.errors import ConfigError
from gare_cache.finetuning.setup import FinetuneSetup
from gare_cache.training.distributed import Processes, process_group
from gare_cache.training.loop import Draw, TrainingState, train_head
from gare_cache.training.settings import TrainSettings
from tests.finetuning.worlds import OFF, finetuning, source, tiny_encoder
from tests.training.two_processes import run_two

TRAINING = TrainSettings(batch_size=8, epochs=2, optimizer="adamw", learning_rate=1e-3, threads=1)
ALONE = Processes()
WORDS = {
    "interaction": {"name": "token_wise"},
    "pooling": None,
    "gap": None,
    "aggregator": {"name": "mean"},
}
PLAIN = TrainSettings.model_validate(
    {**TRAINING.model_dump(), "loss": {"ib": OFF, "eps": OFF, "dir": OFF}}
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


def gradients(setup: FinetuneSetup, processes: Processes = ALONE) -> dict[str, Tensor]:
    """Return the gradient of one batch, in which two captions share a video."""
    batch = torch.tensor([[0, 1, 2, 5, 6, 9, 12, 20]])
    draw = Draw(batch, 1, 0, None, torch.Generator(), processes)
    for module in setup.modules.values():
        module.train()
    for _ in setup.losses(draw, TRAINING):
        setup.sum_gradients(processes)
    return {
        f"{name}.{path}": parameter.grad.clone()
        for name, module in setup.modules.items()
        for path, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def require_equal(found: dict[str, Tensor], expected: dict[str, Tensor], rtol: float) -> None:
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, atol=rtol * scale, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_chunks_give_the_gradient_of_the_whole_batch(encoder: Encoder, chunk: int) -> None:
    whole = gradients(finetuning(encoder, training=TRAINING))
    assert any(name.startswith("towers.model.visual.conv1") for name in whole)
    require_equal(gradients(finetuning(encoder, training=TRAINING, chunk=chunk)), whole, 1e-5)


def test_chunks_of_words_of_unequal_length(encoder: Encoder) -> None:
    whole = gradients(finetuning(encoder, training=PLAIN, head=WORDS))
    chunked = gradients(finetuning(encoder, training=PLAIN, head=WORDS, chunk=2))
    require_equal(chunked, whole, 1e-5)


def test_checkpointing_changes_no_gradient(encoder: Encoder) -> None:
    whole = gradients(finetuning(encoder, training=TRAINING))
    require_equal(
        gradients(finetuning(encoder, training=TRAINING, checkpointing=True)), whole, 1e-6
    )


def test_random_draws_are_replayed(encoder: Encoder) -> None:
    """A tower with dropout: both passes over a chunk must draw the same."""

    def with_dropout(chunk: int | None) -> dict[str, Tensor]:
        setup = finetuning(encoder, training=TRAINING, chunk=chunk)
        original, seen = setup.towers.frames, []

        def frames(pixels: Tensor) -> Tensor:
            dropped = torch.nn.functional.dropout(original(pixels), 0.5)
            seen.append(dropped.detach())
            return dropped

        setup.towers.frames = frames  # type: ignore[method-assign]
        torch.manual_seed(7)
        gradients(setup)
        return {"seen": torch.cat(seen)}

    seen = with_dropout(4)["seen"]
    first, second = seen.chunk(2)
    assert torch.equal(first, second)


def trained(
    setup: FinetuneSetup,
    file: Path,
    stop_after: int | None = None,
    settings: TrainSettings = TRAINING,
) -> TrainingState:
    batches: list[int] = []
    return train_head(
        setup,
        settings,
        state_file=file,
        on_batch=lambda: batches.append(1),
        on_epoch=lambda state: None,
        stop=lambda: len(batches) == stop_after,
    )


def weights(setup: FinetuneSetup) -> dict[str, Tensor]:
    return {
        f"{name}.{path}": value.clone()
        for name, module in setup.modules.items()
        for path, value in module.state_dict().items()
    }


@pytest.mark.parametrize(
    ("stops", "precision"), [((1,), "float32"), ((2, 5), "float32"), ((4,), "float16")]
)
def test_stopped_behind_any_batch_it_ends_the_same(
    encoder: Encoder, tmp_path: Path, stops: tuple[int, ...], precision: str
) -> None:
    head = {"gap": {"dropout": 0.3}, "aggregator": {"name": "lstm"}}
    whole = finetuning(encoder, training=TRAINING, head=head, precision=precision)
    state = trained(whole, tmp_path / "whole.pt")
    for number, stop in enumerate(stops):
        resumed = finetuning(encoder, training=TRAINING, head=head, precision=precision)
        if number:
            torch.manual_seed(99)  # what is restored decides
        with pytest.raises(KeyboardInterrupt):
            trained(resumed, tmp_path / "parts.pt", stop)
    resumed = finetuning(encoder, training=TRAINING, head=head, precision=precision)
    again = trained(resumed, tmp_path / "parts.pt")
    assert again.history == state.history
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), name


def test_it_learns(encoder: Encoder, tmp_path: Path) -> None:
    settings = TRAINING.model_copy(update={"epochs": 8})
    state = trained(finetuning(encoder, training=settings), tmp_path / "s.pt", settings=settings)
    losses = [record.losses["contrastive"] for record in state.history]
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains(encoder: Encoder, tmp_path: Path, precision: str) -> None:
    # In float16 the first steps are skipped until the loss is scaled by less.
    settings = TRAINING.model_copy(update={"epochs": 5})
    setup = finetuning(encoder, training=settings, precision=precision)
    state = trained(setup, tmp_path / "state.pt", settings=settings)
    assert setup.scaler.is_enabled() == (precision == "float16")
    assert all(value.dtype == torch.float32 for value in setup.towers.state_dict().values())
    losses = [record.losses["contrastive"] for record in state.history]
    assert losses[-1] < losses[0] - 0.3


def test_bfloat16_gradients_are_near(encoder: Encoder) -> None:
    exact = gradients(finetuning(encoder, training=TRAINING))
    rough = gradients(finetuning(encoder, training=TRAINING, precision="bfloat16"))
    name = "towers.model.visual.proj"
    cosine = torch.nn.functional.cosine_similarity(
        rough[name].flatten(), exact[name].flatten(), dim=0
    )
    assert 0.95 < cosine < 1 - 1e-8


def test_augmented_frames_are_drawn_anew_for_every_batch(encoder: Encoder, tmp_path: Path) -> None:
    asked: list[list[str] | None] = []

    def noted(video_ids: Any, draws: Any) -> Any:
        asked.append(draws)
        return source(video_ids, draws)

    setup = finetuning(encoder, training=TRAINING, frames=noted, augment={"flip": True})
    trained(setup, tmp_path / "state.pt")
    drawn = [draw for draws in asked if draws is not None for draw in draws]
    assert asked.count(None) == TRAINING.epochs, "validation is not augmented"
    assert len(drawn) == len(set(drawn)) > 2 * 12


def test_a_loss_that_is_no_number_names_its_batch(encoder: Encoder, tmp_path: Path) -> None:
    setup = finetuning(encoder, training=TRAINING)
    calls = []
    original = setup.towers.frames

    def frames(pixels: Tensor) -> Tensor:
        calls.append(1)
        return original(pixels) * (torch.nan if len(calls) == 2 else 1.0)

    setup.towers.frames = frames  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"the loss is nan in batch 2 of epoch 1; lower finetune"):
        trained(setup, tmp_path / "state.pt")


# A random CLIP gives all texts nearly the same increment; the IB term divides by its deviation.
SHARED = TrainSettings.model_validate({**TRAINING.model_dump(), "loss": {"ib": OFF}})


def worker(folder: Path) -> dict[str, Any]:
    encoder = tiny_encoder(folder / f"encoder{os.environ['RANK']}")
    found: dict[str, Any] = {}
    with process_group(torch.device("cpu"), reference_gather=False) as processes:
        for chunk in (None, 3):
            setup = finetuning(encoder, training=SHARED, chunk=chunk)
            found[f"gradients {chunk}"] = gradients(setup, processes)
        setup = finetuning(encoder, training=SHARED)
        state = train_head(
            setup,
            SHARED,
            state_file=folder / "two.pt",
            on_batch=lambda: None,
            on_epoch=lambda state: None,
            processes=processes,
        )
        found["losses"] = [record.losses["total"] for record in state.history]
        found["scores"] = [record.validation["score"] for record in state.history]
    return found


def test_two_processes_have_the_gradients_and_losses_of_one(
    encoder: Encoder, tmp_path: Path
) -> None:
    two = run_two(worker, tmp_path)
    one = gradients(finetuning(encoder, training=SHARED))
    state = trained(finetuning(encoder, training=SHARED), tmp_path / "one.pt", settings=SHARED)
    for found in two:
        require_equal(found["gradients None"], one, 1e-5)
        require_equal(found["gradients 3"], one, 1e-5)
        losses = [record.losses["total"] for record in state.history]
        assert found["losses"] == pytest.approx(losses, rel=1e-4)
        assert found["scores"] == [record.validation["score"] for record in state.history]
