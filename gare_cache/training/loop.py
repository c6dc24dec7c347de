"""The training loop: seeded, validated every epoch, resumable to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from gare_cache.data.batches import epoch_batches, num_batches
from gare_cache.data.frames import FrameChoice, training_frames
from gare_cache.data.positives import Positives, positives_of
from gare_cache.data.split import FeatureSplit
from gare_cache.errors import ConfigError
from gare_cache.evaluation.increment import increment_figures
from gare_cache.evaluation.metrics import retrieval_metrics, text_to_video, video_to_text
from gare_cache.evaluation.similarity import score_split
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.losses.objective import LossTerms, Objective
from gare_cache.training.compilation import LossOf, compiled
from gare_cache.training.distributed import Processes
from gare_cache.training.optimizers import set_learning_rate, warmup_cosine
from gare_cache.training.settings import TrainSettings
from gare_cache.training.state_file import read_state, write_state


@dataclass(frozen=True)
class TrainingSetup:
    """Head, loss, optimiser and splits of a training, all on one device.

    Attributes:
        head: the head to train.
        objective: the loss.
        optimizer: over the parameters of head and objective, with ``base_lr`` in every group.
        train_split: pairs to learn from.
        val_split: videos to select by.
        frame_choice: which of the train split's frames a batch shows.
    """

    head: RetrievalHead
    objective: Objective
    optimizer: torch.optim.Optimizer
    train_split: FeatureSplit
    val_split: FeatureSplit
    frame_choice: FrameChoice


@dataclass(frozen=True)
class EpochRecord:
    """Losses, validation scores and rates of an epoch.

    Attributes:
        epoch: counted from 1.
        losses: mean of the loss and of its terms over the epoch's batches.
        validation: ``t2v`` and ``v2t`` R@1 in percent on one caption a video, and ``score``, their
            mean, by which the epoch is selected.
        learning_rate: of the epoch's last update, for the parameters of the first group.
        scale: logit scale after the epoch.
        radius: learned radius of the trust region after the epoch; None where none is learned.
        increment: length and angles of the increment on the validation split's matched pairs, one
            caption a video; None where the head has none.
    """

    epoch: int
    losses: Mapping[str, float]
    validation: Mapping[str, float]
    learning_rate: float
    scale: float
    radius: float | None = None
    increment: Mapping[str, float] | None = None


@dataclass
class TrainingState:
    """State of a training after an epoch; saved and restored as a whole."""

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[EpochRecord] = field(default_factory=list)


def train_head(
    setup: TrainingSetup,
    settings: TrainSettings,
    *,
    state_file: Path,
    on_batch: Callable[[], None],
    on_epoch: Callable[[TrainingState], None],
    processes: Processes = Processes(),  # noqa: B008 - frozen
) -> TrainingState:
    """Train a head; the weights of the best epoch end in it.

    A run that was stopped continues behind its last whole epoch, with the same result as if it
    had not been stopped. Best is the highest mean of t2v and v2t R@1 on the validation split with
    one caption a video; of equal epochs the first.

    Args:
        setup: head, objective and optimiser are changed in place.
        settings: ``epochs``, ``batch_size``, ``warmup``, ``max_grad_norm``, ``seed`` (of the order
            of the pairs) and ``loss.false_negatives``: ``mask`` leaves pairs off the diagonal whose
            text describes the video out of the contrastive loss (``Positives.among``); ``keep``
            counts them as negatives. The others are what ``setup`` was made with.
        state_file: where the state is kept between epochs; the first process writes it.
        on_batch: called after every update, also for those of a resumed run's past epochs.
        on_epoch: called after every epoch of this call.
        processes: those that train this head together, all with the same other arguments.

    Returns:
        The final state.

    Raises:
        ConfigError: the split is smaller than a batch, the processes cannot share one, or the loss
            is no longer finite.
    """
    head, objective = setup.head, setup.objective
    processes.require_shares(settings.batch_size)
    processes.start(head, objective, seed=settings.seed)
    mask = settings.loss.false_negatives == "mask"
    positives = positives_of(setup.train_split) if mask else None
    generator = torch.Generator().manual_seed(settings.seed)
    num_texts = len(setup.train_split.text)
    steps = num_batches(num_texts, settings.batch_size)
    total = settings.epochs * steps
    state = _restore(state_file, setup, generator, processes) or TrainingState()
    for _ in range(state.epoch * steps):
        on_batch()
    one_caption = setup.val_split.one_caption_per_video()
    loss_of: LossOf = partial(_loss, setup, positives, processes)
    if settings.compile:
        loss_of = compiled(loss_of, num_processes=processes.count)
    while state.epoch < settings.epochs:
        done = state.epoch * steps
        losses = _train_epoch(
            setup,
            loss_of=loss_of,
            batches=epoch_batches(num_texts, settings.batch_size, generator),
            factors=[warmup_cosine(done + i, total, warmup=settings.warmup) for i in range(steps)],
            max_grad_norm=settings.max_grad_norm,
            generator=generator,
            processes=processes,
            on_batch=on_batch,
        )
        state.epoch += 1
        _record_epoch(state, setup, losses, one_caption)
        _save(state_file, state, setup, generator, processes)
        on_epoch(state)
    head.load_state_dict(state.best_weights)
    return state


def validation_scores(head: RetrievalHead, split: FeatureSplit) -> dict[str, float]:
    """Return t2v and v2t R@1 and their mean, ``score``, on a split of one caption a video."""
    similarity = score_split(head, split)
    video_of_text = split.video_of_text.cpu().numpy()
    t2v = retrieval_metrics(text_to_video(similarity, video_of_text))["R@1"]
    v2t_ranks = video_to_text(similarity, video_of_text, convention="best_caption_of_all")
    v2t = retrieval_metrics(v2t_ranks)["R@1"]
    return {"t2v R@1": t2v, "v2t R@1": v2t, "score": (t2v + v2t) / 2}


def _record_epoch(
    state: TrainingState,
    setup: TrainingSetup,
    losses: Mapping[str, float],
    one_caption: FeatureSplit,
) -> None:
    head = setup.head
    scores = validation_scores(head, one_caption)
    state.history.append(
        EpochRecord(
            state.epoch,
            losses,
            scores,
            learning_rate=float(setup.optimizer.param_groups[0]["lr"]),
            scale=float(head.scale.detach()),
            radius=setup.objective.learned_radius,
            increment=increment_figures(head, one_caption),
        )
    )
    if scores["score"] > state.best_score:
        state.best_epoch, state.best_score = state.epoch, scores["score"]
        state.best_weights = {k: v.detach().clone() for k, v in head.state_dict().items()}


def _train_epoch(
    setup: TrainingSetup,
    *,
    loss_of: LossOf,
    batches: Tensor,
    factors: list[float],
    max_grad_norm: float,
    generator: torch.Generator,
    processes: Processes,
    on_batch: Callable[[], None],
) -> dict[str, float]:
    """Update once for every batch; nothing in the loop makes a GPU wait for the host."""
    head, split = setup.head, setup.train_split
    head.train()
    sums: dict[str, Tensor] = {}
    finite = torch.ones((), dtype=torch.bool, device=split.text.device)
    num_finite = torch.zeros((), dtype=torch.int64, device=split.text.device)
    for batch, factor in zip(batches.to(split.text.device), factors, strict=True):
        set_learning_rate(setup.optimizer, factor)
        frames = training_frames(split, split.video_of_text[batch], setup.frame_choice, generator)
        loss = loss_of(batch, *frames)
        _update(setup, loss.total, max_grad_norm=max_grad_norm, processes=processes)
        terms = {"total": loss.total.detach(), **loss.terms}
        for name, value in terms.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value
        finite &= terms["total"].isfinite()
        num_finite += finite
        on_batch()
    head.eval()
    if num_finite < len(batches):
        raise ConfigError(
            f"the loss is no longer finite: NaN or infinite in batch {int(num_finite) + 1} of "
            f"{len(batches)}; lower train.learning_rate, or check the features"
        )
    return {name: float(value) / len(batches) for name, value in sums.items()}


def _loss(
    setup: TrainingSetup,
    positives: Positives | None,
    processes: Processes,
    batch: Tensor,
    frames: Tensor,
    mask: Tensor,
) -> LossTerms:
    head, split = setup.head, setup.train_split
    share = processes.own(batch)
    scores = processes.gather(
        head.pair_scores(split.text[share], frames, mask, split.words_of(share))
    )
    known = None if positives is None else positives.among(batch)
    loss: LossTerms = setup.objective(
        scores.similarity, scores.delta, head.scale, positives=known, side=head.side
    )
    return loss


def _update(
    setup: TrainingSetup, loss: Tensor, *, max_grad_norm: float, processes: Processes
) -> None:
    head, objective = setup.head, setup.objective
    setup.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    processes.sum_gradients(head, objective)
    nn.utils.clip_grad_norm_([*head.parameters(), *objective.parameters()], max_grad_norm)
    setup.optimizer.step()
    head.limit_scale()


def _save(
    path: Path,
    state: TrainingState,
    setup: TrainingSetup,
    generator: torch.Generator,
    processes: Processes,
) -> None:
    random_states = processes.collect(_random_state(setup.head.logit_scale.device))
    if processes.rank > 0:
        return
    saved = {
        "state": {**vars(state), "history": [vars(record) for record in state.history]},
        "head": setup.head.state_dict(),
        "objective": setup.objective.state_dict(),
        "optimizer": setup.optimizer.state_dict(),
        "order": generator.get_state(),
        "random": random_states,
    }
    write_state(path, saved)


def _restore(
    path: Path, setup: TrainingSetup, generator: torch.Generator, processes: Processes
) -> TrainingState | None:
    if not path.exists():
        return None
    saved = read_state(path)
    setup.head.load_state_dict(saved["head"])
    setup.objective.load_state_dict(saved["objective"])
    setup.optimizer.load_state_dict(saved["optimizer"])
    generator.set_state(saved["order"])
    random_state = saved["random"][processes.rank]
    torch.set_rng_state(random_state["torch"])
    if random_state["cuda"] is not None:
        torch.cuda.set_rng_state(random_state["cuda"], setup.head.logit_scale.device)
    history = [EpochRecord(**record) for record in saved["state"].pop("history")]
    return TrainingState(history=history, **saved["state"])


def _random_state(device: torch.device) -> dict[str, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"torch": torch.get_rng_state(), "cuda": cuda}
