"""The training loop: seeded, validated every epoch, resumable to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from gare_cache.data.batches import epoch_batches, num_batches
from gare_cache.data.frames import FrameChoice, training_frames
from gare_cache.data.positives import positives_of
from gare_cache.data.split import FeatureSplit
from gare_cache.errors import ConfigError
from gare_cache.evaluation.increment import increment_figures
from gare_cache.evaluation.metrics import retrieval_metrics, text_to_video, video_to_text
from gare_cache.evaluation.similarity import score_split
from gare_cache.heads.pairs import Words
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.losses.objective import Objective
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


@dataclass(frozen=True)
class Batch:
    """B matching pairs; of several processes each has its share of the texts.

    Attributes:
        text: (B, D).
        frames: (B, F, D).
        mask: (B, F) bool.
        words: tokens (B, W, D) and their mask (B, W); None where the split holds none.
        positives: (B, B) bool, see ``Objective``; None where false negatives are kept.
    """

    text: Tensor
    frames: Tensor
    mask: Tensor
    words: Words | None
    positives: Tensor | None


class HeadTraining:
    """A training between its updates: order of the pairs, schedule, record and saved state.

    Whoever computes the gradients calls ``begin_epoch``, for each of its steps ``batch`` and
    ``update``, then ``end_epoch``.

    Attributes:
        setup: head, objective and optimiser are changed in place.
        settings: of the training.
        stream: draws the dropout.
        state: after the last whole epoch.
        steps: updates an epoch.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        settings: TrainSettings,
        *,
        state_file: Path,
        processes: Processes = Processes(),  # noqa: B008 - frozen
        stream: torch.Generator = torch.default_generator,
    ) -> None:
        """Continue from the state file, or start; the arguments are those of ``train_head``.

        Raises:
            ConfigError: as ``train_head``.
        """
        processes.require_shares(settings.batch_size)
        processes.start(setup.head, setup.objective, seed=settings.seed)
        self.setup, self.settings, self.stream = setup, settings, stream
        self._processes, self._state_file = processes, state_file
        mask = settings.loss.false_negatives == "mask"
        self._positives = positives_of(setup.train_split) if mask else None
        self._order = torch.Generator().manual_seed(settings.seed)
        self._num_texts = len(setup.train_split.text)
        self.steps = num_batches(self._num_texts, settings.batch_size)
        self._one_caption = setup.val_split.one_caption_per_video()
        self._sums: dict[str, Tensor] = {}
        self.state = self._restored() or TrainingState()

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done."""
        return self.state.epoch >= self.settings.epochs

    def begin_epoch(self) -> list[tuple[Tensor, float]]:
        """Return the rows and the factor of the learning rate of each step of the next epoch."""
        self.setup.head.train()
        self._sums = {}
        done, total = self.state.epoch * self.steps, self.settings.epochs * self.steps
        batches = list(epoch_batches(self._num_texts, self.settings.batch_size, self._order))
        warmup = self.settings.warmup
        factors = [warmup_cosine(done + i, total, warmup=warmup) for i in range(self.steps)]
        return list(zip(batches, factors, strict=True))

    def batch(self, rows: Tensor) -> Batch:
        """Choose the frames of a batch and take its features; ``rows`` (B,) are texts."""
        split, processes = self.setup.train_split, self._processes
        rows = rows.to(split.text.device)
        frames, mask = training_frames(
            split, split.video_of_text[rows], self.setup.frame_choice, self._order
        )
        share = processes.own(rows)
        return Batch(
            split.text[share],
            frames,
            mask,
            split.words_of(share),
            None if self._positives is None else self._positives.among(rows),
        )

    def differentiate(self, batch: Batch) -> dict[str, Tensor]:
        """Put the gradients of a batch's loss into the parameters; return the loss's terms."""
        head, objective = self.setup.head, self.setup.objective
        scores = self._processes.gather(
            head.pair_scores(batch.text, batch.frames, batch.mask, batch.words)
        )
        loss = objective(
            scores.similarity, scores.delta, head.scale, positives=batch.positives, side=head.side
        )
        self.setup.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        self._processes.sum_gradients(head, objective)
        return {"total": loss.total.detach(), **loss.terms}

    def update(self, factor: float, terms: Mapping[str, Tensor]) -> None:
        """Update the weights from their gradients, and add up the loss's terms."""
        head, objective = self.setup.head, self.setup.objective
        set_learning_rate(self.setup.optimizer, factor)
        parameters = [*head.parameters(), *objective.parameters()]
        nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm)
        self.setup.optimizer.step()
        head.limit_scale()
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value

    def end_epoch(self) -> None:
        """Validate, record and save.

        Raises:
            ConfigError: the loss is no longer finite.
        """
        self.setup.head.eval()
        losses = {name: float(value) / self.steps for name, value in self._sums.items()}
        if not all(map(math.isfinite, losses.values())):
            raise ConfigError(f"the loss is no longer finite ({losses}); lower train.learning_rate")
        self.state.epoch += 1
        _record_epoch(self.state, self.setup, losses, self._one_caption)
        self._save()

    def finish(self) -> TrainingState:
        """Put the weights of the best epoch into the head; return the final state."""
        self.setup.head.load_state_dict(self.state.best_weights)
        return self.state

    def _save(self) -> None:
        setup = self.setup
        random_states = self._processes.collect(self._random_state())
        if self._processes.rank > 0:
            return
        history = [vars(record) for record in self.state.history]
        saved = {
            "state": {**vars(self.state), "history": history},
            "head": setup.head.state_dict(),
            "objective": setup.objective.state_dict(),
            "optimizer": setup.optimizer.state_dict(),
            "order": self._order.get_state(),
            "random": random_states,
        }
        write_state(self._state_file, saved)

    def _restored(self) -> TrainingState | None:
        if not self._state_file.exists():
            return None
        saved, setup = read_state(self._state_file), self.setup
        setup.head.load_state_dict(saved["head"])
        setup.objective.load_state_dict(saved["objective"])
        setup.optimizer.load_state_dict(saved["optimizer"])
        self._order.set_state(saved["order"])
        random_state = saved["random"][self._processes.rank]
        self.stream.set_state(random_state["torch"])
        if random_state["cuda"] is not None:
            torch.cuda.set_rng_state(random_state["cuda"], setup.head.logit_scale.device)
        history = [EpochRecord(**record) for record in saved["state"].pop("history")]
        return TrainingState(history=history, **saved["state"])

    def _random_state(self) -> dict[str, Tensor | None]:
        device = self.setup.head.logit_scale.device
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return {"torch": self.stream.get_state(), "cuda": cuda}


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
    training = HeadTraining(setup, settings, state_file=state_file, processes=processes)
    for _ in range(training.state.epoch * training.steps):
        on_batch()
    while not training.is_done:
        for rows, factor in training.begin_epoch():
            training.update(factor, training.differentiate(training.batch(rows)))
            on_batch()
        training.end_epoch()
        on_epoch(training.state)
    return training.finish()


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
