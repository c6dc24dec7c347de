from pathlib import Path
from typing import Any

import pytest
import torch

from gare_cache.data.batches import epoch_batches
from gare_cache.data.frames import FrameChoice
from gare_cache.data.split import FeatureSplit
from gare_cache.errors import ConfigError, FingerprintMismatch
from gare_cache.evaluation.increment import increment_figures
from gare_cache.heads.retrieval import RetrievalHead, build_head
from gare_cache.losses.objective import Objective
from gare_cache.training.checkpoint import load_checkpoint, require_encoder, save_checkpoint
from gare_cache.training.loop import TrainingSetup, TrainingState, train_head, validation_scores
from gare_cache.training.optimizers import build_optimizer
from gare_cache.training.settings import TrainSettings
from gare_cache.training.state_file import read_state, set_aside_damaged, write_state
from tests.plain_head import plain_head

DIM = 64
EVEN = FrameChoice(5, jittered=False)
JITTERED = FrameChoice(3, jittered=True)


def split(name: str, videos: int, captions: int, seed: int) -> FeatureSplit:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(videos, 5, DIM, generator=generator)
    mask = torch.arange(5)[None] < torch.randint(1, 6, (videos, 1), generator=generator)
    frames = frames * mask[..., None]
    video_of_text = torch.arange(videos).repeat_interleave(captions)
    text = frames.sum(1)[video_of_text] * torch.tensor([1.0, -1.0]).repeat(DIM // 2)
    text = text + 0.3 * torch.randn(text.shape, generator=generator)
    ids = [f"{name}{i}" for i in range(videos)]
    caption_ids = [f"{ids[v]}#{i}" for i, v in enumerate(video_of_text.tolist())]
    return FeatureSplit(
        name, ids, caption_ids, caption_ids, frames, mask, text, video_of_text, videos, len(text)
    )


TRAIN, VAL = split("train", 120, 2, 0), split("val", 30, 2, 1)


def run(
    state_file: Path,
    *,
    epochs: int = 4,
    stop_after: int | None = None,
    seed: int = 0,
    choice: FrameChoice = EVEN,
    objective: Objective | None = None,
) -> tuple[RetrievalHead, TrainingState]:
    torch.manual_seed(seed)
    head = build_head(dim=DIM, max_frames=5, projection="linear", gap={"dropout": 0.3})
    objective = objective or Objective()
    settings = TrainSettings(
        optimizer="adamw",
        learning_rate=0.003,
        logit_scale_learning_rate=0.001,
        weight_decay=0.1,
        epochs=epochs,
        batch_size=16,
        seed=seed,
    )
    optimizer = build_optimizer(head, objective, settings)

    def on_epoch(state: TrainingState) -> None:
        if state.epoch == stop_after:
            raise KeyboardInterrupt

    state = train_head(
        TrainingSetup(head, objective, optimizer, TRAIN, VAL, choice),
        settings,
        state_file=state_file,
        on_batch=lambda: None,
        on_epoch=on_epoch,
    )
    return head, state


def test_training_learns_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    head, state = run(tmp_path / "state.pt", epochs=6)
    scores = [record.validation["score"] for record in state.history]
    assert state.best_score == max(scores)
    assert state.best_epoch == 1 + scores.index(max(scores))
    assert validation_scores(head, VAL.one_caption_per_video())["score"] == state.best_score
    assert state.best_score > 3 * 100 / 30  # chance is 1 of 30 videos
    losses = [record.losses["contrastive"] for record in state.history]
    assert losses[-1] < losses[0]
    assert set(state.history[0].losses) == {"total", "contrastive", "ib", "eps", "dir"}
    kept = state.history[state.best_epoch - 1].increment
    assert kept == increment_figures(head, VAL.one_caption_per_video())


def test_a_state_of_before_the_increments_figures_is_continued(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        run(file, stop_after=2)
    saved = read_state(file)
    for record in saved["state"]["history"]:
        del record["increment"]
    write_state(file, saved)
    history = run(file)[1].history
    assert [record.increment is None for record in history] == [True, True, False, False]


@pytest.mark.parametrize("choice", [EVEN, JITTERED], ids=["even", "jittered"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, choice: FrameChoice) -> None:
    whole, whole_state = run(tmp_path / "whole.pt", choice=choice)
    for stop in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts.pt", stop_after=stop, choice=choice)
    parts, parts_state = run(tmp_path / "parts.pt", choice=choice)
    assert parts_state.history == whole_state.history
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def test_a_learned_radius_is_trained_logged_and_restored_to_the_bit(tmp_path: Path) -> None:
    def objective() -> Objective:
        return Objective(trust_region={"weight": 1.0, "radius": 0.5, "learned": True})

    whole = objective()
    _, state = run(tmp_path / "whole.pt", objective=whole)
    radii = [record.radius for record in state.history]
    assert 0.5 < radii[0] < radii[-1] == whole.learned_radius
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts.pt", stop_after=2, objective=objective())
    parts = objective()
    assert run(tmp_path / "parts.pt", objective=parts)[1].history == state.history
    assert torch.equal(parts.log_radius, whole.log_radius)
    assert run(tmp_path / "fixed.pt", epochs=1)[1].history[0].radius is None


def test_ncl_learns(tmp_path: Path) -> None:
    _, state = run(
        tmp_path / "state.pt", epochs=6, objective=Objective(contrastive={"name": "ncl"})
    )
    assert state.best_score > 3 * 100 / 30  # chance is 1 of 30 videos


def test_the_objective_is_told_the_corrected_side(tmp_path: Path) -> None:
    sides = []

    class Asked(Objective):
        def forward(self, *args: Any, **options: Any) -> Any:
            sides.append(options["side"])
            return super().forward(*args, **options)

    run(tmp_path / "state.pt", epochs=1, objective=Asked())
    assert set(sides) == {"text"}


def test_the_seed_decides(tmp_path: Path) -> None:
    a, b, c = (run(tmp_path / f"{i}.pt", seed=seed)[1] for i, seed in enumerate((0, 0, 1)))
    assert a.history == b.history != c.history


def test_batches_cover_every_caption_once_in_another_order_each_epoch() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (epoch_batches(10, 3, generator).flatten() for _ in range(2))
    assert len(first) == 9 == len(set(first.tolist()))
    assert not torch.equal(first, second)
    with pytest.raises(ConfigError, match=r"train.batch_size is 11, .* has 10 captions; lower it"):
        epoch_batches(10, 11, generator)


def test_one_caption_a_video_is_the_first() -> None:
    one = VAL.one_caption_per_video()
    assert one.caption_ids == [VAL.caption_ids[2 * i] for i in range(30)]
    assert torch.equal(one.video_of_text, torch.arange(30))


def test_a_diverging_loss_is_an_error(tmp_path: Path) -> None:
    broken: Any = FeatureSplit(**{**vars(TRAIN), "text": TRAIN.text * float("nan")})
    torch.manual_seed(0)
    head = build_head(dim=DIM, max_frames=5, gap=None, aggregator={"name": "lstm"})
    zero: dict[str, Any] = {"weight": 0}
    objective = Objective(ib=zero, eps=zero, dir=zero)
    optimizer = torch.optim.SGD([{"params": head.parameters(), "lr": 0.1, "base_lr": 0.1}])
    with pytest.raises(ConfigError, match=r"no longer finite: .* in batch 1 of"):
        train_head(
            TrainingSetup(head, objective, optimizer, broken, VAL, EVEN),
            TrainSettings(epochs=1, batch_size=16),
            state_file=tmp_path / "state.pt",
            on_batch=lambda: None,
            on_epoch=lambda state: None,
        )
    assert not (tmp_path / "state.pt").exists()


def test_checkpoints_round_trip_and_are_bound_to_their_encoder(tmp_path: Path) -> None:
    head, _ = run(tmp_path / "state.pt", epochs=1)
    path = tmp_path / "head.safetensors"
    save_checkpoint(path, head, encoder_id="a" * 64, record={"seed": 3})
    found = load_checkpoint(path)
    assert found.record == {"seed": 3}
    assert found.head.settings == head.settings
    assert not found.head.training
    expected = head.similarity(VAL.text, VAL.frames, VAL.mask)
    assert torch.equal(found.head.similarity(VAL.text, VAL.frames, VAL.mask), expected)
    require_encoder(found, "a" * 64, where="cache")
    with pytest.raises(FingerprintMismatch, match=r"trained on encoder aaaaaaaaaaaa, but cache"):
        require_encoder(found, "b" * 64, where="cache")


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no trained head at .*; run `gare-cache train`"):
        load_checkpoint(tmp_path / "head.safetensors")
    (tmp_path / "x").write_text("nothing")
    with pytest.raises(ConfigError, match=r"is not a head trained by gare-cache"):
        load_checkpoint(tmp_path / "x")


def test_a_flipped_bit_of_a_head_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    save_checkpoint(path, plain_head(dim=16, max_frames=2), encoder_id="e", record={})
    load_checkpoint(path)
    content = bytearray(path.read_bytes())
    for place in (-3, len(content) // 2):
        spoilt = bytearray(content)
        spoilt[place] ^= 1
        path.write_bytes(spoilt)
        with pytest.raises(ConfigError, match=r"head.safetensors is damaged: its weights do not"):
            load_checkpoint(path)


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "of another version"])
def test_a_damaged_state_is_set_aside(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "training.pt"
    write_state(path, {"epoch": 3, "weights": torch.arange(4.0)})
    assert set_aside_damaged(path) is None
    assert read_state(path)["epoch"] == 3
    content = path.read_bytes()
    spoilt = {
        "flipped": content[:100] + bytes([content[100] ^ 1]) + content[101:],
        "short": content[:-1],
        "empty": b"",
        "of another version": content[32:],
    }
    path.write_bytes(spoilt[damage])
    assert "is set aside as" in (set_aside_damaged(path) or "")
    assert not path.exists()
    assert (tmp_path / "training.pt.damaged").read_bytes() == spoilt[damage]
    assert set_aside_damaged(path) is None
