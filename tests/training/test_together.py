"""Runs trained as one batched program equal those trained alone."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gare_cache.data.frames import FrameChoice
from gare_cache.data.split import FeatureSplit
from gare_cache.data.words import WordTokens
from gare_cache.errors import GareCacheError
from gare_cache.heads.retrieval import build_head
from gare_cache.heads.settings import HeadSettings, LstmSettings
from gare_cache.losses.objective import Objective
from gare_cache.losses.settings import DirectionSettings
from gare_cache.training.loop import Training, TrainingSetup
from gare_cache.training.optimizers import build_optimizer
from gare_cache.training.settings import TrainSettings
from gare_cache.training.together import obstacle, program_key, train_heads
from tests.training.test_loop import DIM, EVEN, JITTERED, TRAIN, VAL

NO_LOSS = {"ib": {"weight": 0.0}, "eps": {"weight": 0.0}, "dir": {"weight": 0.0}}
NCL = {**NO_LOSS, "contrastive": {"name": "ncl"}}
MEAN = {"name": "mean"}
PLAIN: dict[str, Any] = {"projection": "linear", "aggregator": MEAN, "gap": None, "pooling": MEAN}
GARE = {**PLAIN, "pooling": {"name": "text_conditioned"}}


def with_words(split: FeatureSplit) -> FeatureSplit:
    """Add words, so few of them long that batches have different longest captions."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.rand(len(split.text), generator=generator).pow(12).mul(20).long() + 1
    tokens = torch.randn(int(lengths.sum()), DIM, generator=generator)
    return replace(split, words=WordTokens(tokens, lengths))


SPLITS = tuple(map(with_words, (TRAIN, VAL)))
# Head settings by name, and how frames are chosen.
HEADS: dict[str, tuple[dict[str, Any], FrameChoice]] = {
    "linear, mean": (PLAIN, JITTERED),
    "transformer": ({**PLAIN, "aggregator": {"name": "transformer", "layers": 1}}, EVEN),
    "x-pool": ({**PLAIN, "pooling": {"name": "cross_attention"}}, EVEN),
    "gap": ({**GARE, "gap": {"dropout": 0.0}}, EVEN),
    "gap on words": (
        {**GARE, "gap": {"dropout": 0.3, "context": "words", "side": "video"}},
        EVEN,
    ),
    "token-wise": ({**PLAIN, "pooling": None, "interaction": {"name": "token_wise"}}, EVEN),
    "gap, dropout": ({**GARE, "gap": {"dropout": 0.3}}, EVEN),
}


def training(file: Path, head: dict[str, Any], choice: FrameChoice, **values: Any) -> Training:
    loss = NO_LOSS if head["gap"] is None else {}
    if choice.jittered:
        loss = {**loss, "false_negatives": "mask"}
    given = {"loss": loss, "epochs": 2, "batch_size": 24, "learning_rate": 0.01, **values}
    settings = TrainSettings(**given)
    torch.manual_seed(settings.seed)
    built = build_head(dim=DIM, max_frames=5, **head)
    objective = Objective(settings.loss)
    setup = TrainingSetup(
        built, objective, build_optimizer(built, objective, settings), *SPLITS, choice
    )
    stream = torch.Generator()
    stream.set_state(torch.get_rng_state())
    return Training(setup, settings, state_file=file, stream=stream)


def alone(run: Training) -> Training:
    torch.set_rng_state(run.stream.get_state())
    while not run.is_done:
        for loss in run.setup.losses(run.begin_epoch(), run.settings):
            run.step(loss)
        run.end_epoch()
    return run


def together(runs: list[Training]) -> dict[int, str]:
    failed: dict[int, str] = {}

    def fail(run: Training, err: GareCacheError) -> None:
        failed[runs.index(run)] = str(err)

    train_heads(runs, on_batch=lambda: None, on_epoch=lambda run: None, on_failure=fail)
    return failed


def largest_difference(ours: Training, theirs: Training) -> float:
    states = [run.setup.head.state_dict() for run in (ours, theirs)]
    return max(float((states[0][name] - states[1][name]).abs().max()) for name in states[0])


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("linear, mean", "adamw"),
        ("gap, dropout", "adamw"),
        ("gap", "bert_adam"),
        *(
            pytest.param(name, "adamw", marks=pytest.mark.slow)
            for name in HEADS
            if name not in ("linear, mean", "gap, dropout")
        ),
        pytest.param("linear, mean", "bert_adam", marks=pytest.mark.slow),
    ],
)
def test_twenty_updates_equal_those_of_runs_trained_alone(
    name: str, optimizer: str, tmp_path: Path
) -> None:
    head, choice = HEADS[name]
    values: list[dict[str, Any]] = [
        {"seed": 0},
        {"seed": 1, "learning_rate": 0.003, "max_grad_norm": 0.05},
        {"seed": 2, "weight_decay": 0.0, "warmup": 0.5},
    ]
    if head["gap"] is not None:
        values[1]["loss"] = NO_LOSS
        values[2]["loss"] = {"dir": {"weight": 0.1}, "trust_region": {"weight": 0.3}}
    made = [
        [
            training(tmp_path / f"{side}{i}", head, choice, optimizer=optimizer, **value)
            for i, value in enumerate(values)
        ]
        for side in ("alone", "together")
    ]
    start = made[1][0].setup.head.state_dict()["text_projection.linear.weight"].clone()
    assert made[0][0].steps * 2 == 20
    solo = [alone(run) for run in made[0]]
    assert together(made[1]) == {}
    for ours, theirs in zip(made[1], solo, strict=True):
        assert largest_difference(ours, theirs) < 1e-4
        for mine, other in zip(ours.state.history, theirs.state.history, strict=True):
            assert mine.losses == pytest.approx(other.losses, abs=1e-4, rel=1e-4)
            assert mine.validation == pytest.approx(other.validation, abs=100 / 30)
            assert mine.learning_rate == other.learning_rate
    moved = made[1][0].setup.head.state_dict()["text_projection.linear.weight"] - start
    assert float(moved.abs().max()) > 1e-2


def test_runs_with_ncl_train_together(tmp_path: Path) -> None:
    head, choice = HEADS["linear, mean"]
    made = [
        [
            training(tmp_path / f"{side}{seed}", head, choice, seed=seed, epochs=1, loss=NCL)
            for seed in range(2)
        ]
        for side in ("alone", "together")
    ]
    assert obstacle(HeadSettings(), made[0][0].settings, torch.device("cpu")) is None
    solo = [alone(run) for run in made[0]]
    assert together(made[1]) == {}
    for ours, theirs in zip(made[1], solo, strict=True):
        assert largest_difference(ours, theirs) < 1e-4


def test_a_run_without_a_finite_loss_fails_alone(tmp_path: Path) -> None:
    head, choice = HEADS["linear, mean"]
    runs = [training(tmp_path / str(i), head, choice, seed=i) for i in range(3)]
    with torch.no_grad():
        runs[1].setup.head.text_projection.linear.weight.fill_(math.nan)
    failed = together(runs)
    assert list(failed) == [1]
    assert "no longer finite" in failed[1]
    assert [run.state.epoch for run in runs] == [2, 1, 2]
    assert (
        largest_difference(runs[2], alone(training(tmp_path / "2b", head, choice, seed=2))) < 1e-4
    )


def test_an_interrupted_program_goes_on_with_the_same_result(tmp_path: Path) -> None:
    head, choice = HEADS["gap, dropout"]

    def made(folder: str) -> list[Training]:
        (tmp_path / folder).mkdir(exist_ok=True)
        return [training(tmp_path / folder / str(i), head, choice, seed=i) for i in range(2)]

    whole = made("whole")
    together(whole)

    def stop(run: Training) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # the first run has saved its epoch, the second has not
        train_heads(
            made("stopped"),
            on_batch=lambda: None,
            on_epoch=stop,
            on_failure=lambda run, err: None,
        )
    resumed = made("stopped")
    assert [run.state.epoch for run in resumed] == [1, 0]
    together(resumed)
    for ours, theirs in zip(resumed, whole, strict=True):
        assert largest_difference(ours, theirs) < 1e-5


@pytest.mark.slow
def test_pairs_that_cancel_are_scored_densely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gare_cache.heads.exact._CANCELLED", 2.0)  # every pair cancels
    head, choice = HEADS["gap"]
    runs = [training(tmp_path / f"b{i}", head, choice, seed=i, epochs=1) for i in range(2)]
    together(runs)
    solo = alone(training(tmp_path / "s", head, choice, seed=1, epochs=1))
    assert largest_difference(runs[1], solo) < 1e-5


def test_what_may_differ_and_what_cannot_be_mapped() -> None:
    head, train = HeadSettings(), TrainSettings()
    weighted = train.loss.model_copy(update={"dir": DirectionSettings(weight=0.5)})
    wider, sharper = TrainSettings(batch_size=7), DirectionSettings(alpha=3.0)
    changed = TrainSettings(seed=3, learning_rate=0.5, loss=weighted)
    other = TrainSettings(loss=train.loss.model_copy(update={"dir": sharper}))
    key = program_key(head, train)
    assert program_key(head, changed) == key
    assert len({key, *(program_key(head, settings) for settings in (wider, other))}) == 3
    plain = head.model_copy(update={"gap": None})
    assert program_key(plain, changed) != program_key(plain, train)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert obstacle(head, train, cpu) is None
    assert obstacle(plain, train, cuda) is None
    assert "dropout" in str(obstacle(head, train, cuda))
    lstm = head.model_copy(update={"aggregator": LstmSettings()})
    assert "lstm" in str(obstacle(lstm, train, cpu))
