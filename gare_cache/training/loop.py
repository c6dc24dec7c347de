"""The training loop: seeded, validated every epoch, resumable to the bit."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

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
from gare_cache.heads.pairs import PairScores
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.losses.objective import LossTerms, Objective
from gare_cache.training.compilation import LossOf, compiled
from gare_cache.training.distributed import Processes, encoding_parameters
from gare_cache.training.optimizers import set_learning_rate, warmup_cosine
from gare_cache.training.precision import step_precision
from gare_cache.training.settings import TrainSettings
from gare_cache.training.state_file import read_state, write_state


@dataclass(frozen=True)
class TrainingSetup:
    """Head, loss, optimiser and splits of a training on cached features, all on one device.

    A training of more than the head is a subclass, which has more ``modules``, and computes losses
    and validation features in its own way.

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

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Everything that trains, by the name under which its state is kept."""
        return {"head": self.head, "objective": self.objective}

    @property
    def scaling(self) -> dict[str, Any]:
        """What scales the loss, as far as it is kept with the state; nothing here."""
        return {}

    def rescale(self, scaling: dict[str, Any]) -> None:
        """Take up the ``scaling`` that a state kept."""

    @property
    def encoding(self) -> list[nn.Parameter]:
        """The parameters that make the encoded features."""
        return encoding_parameters(self.head)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters that train."""
        return [p for module in self.modules.values() for p in module.parameters()]

    def losses(self, draw: Draw, settings: TrainSettings) -> Generator[LossTerms]:
        """Yield the loss of each batch of an epoch, with its gradient left on the parameters.

        Args:
            draw: the batches, and what else an epoch draws from.
            settings: ``compile`` and ``precision``.
        """
        loss_of: LossOf = partial(_loss, self, draw)
        if settings.compile:
            loss_of = compiled(loss_of, num_processes=draw.processes.count)
        split = self.train_split
        for batch in draw.batches.to(split.text.device):
            videos = split.video_of_text[batch]
            frames = training_frames(split, videos, self.frame_choice, draw.generator)
            with step_precision(settings):
                loss = loss_of(batch, *frames)
                loss.total.backward()  # type: ignore[no-untyped-call]
            yield loss

    def update(self, *, max_grad_norm: float, processes: Processes) -> None:
        """Follow the gradient that ``losses`` left, clipped to a norm."""
        self.sum_gradients(processes)
        nn.utils.clip_grad_norm_(self.parameters, max_grad_norm)
        self.optimizer.step()

    def sum_gradients(self, processes: Processes) -> None:
        """Turn the gradients of all processes into that of one, see ``Processes``."""
        processes.sum_gradients(
            self.parameters,
            replicated=[self.head.logit_scale, *self.objective.parameters()],
            encoding=self.encoding,
        )

    def validation_split(self, processes: Processes) -> FeatureSplit:
        """Return the validation split's features as they are now."""
        return self.val_split


@dataclass(frozen=True)
class Draw:
    """What an epoch is drawn from.

    Attributes:
        batches: (N, B) caption rows of the epoch's batches that are left, on the CPU.
        epoch: counted from 1.
        begin: number of the first of them, from 0.
        positives: which pairs match; None where pairs off the diagonal count as negatives.
        generator: draws frames.
        processes: that train together.
    """

    batches: Tensor
    epoch: int
    begin: int
    positives: Positives | None
    generator: torch.Generator
    processes: Processes


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


@dataclass(frozen=True)
class PartOfEpoch:
    """An epoch that was stopped between two batches.

    Attributes:
        batches: (N, B) caption rows of all its batches.
        done: how many of them are done.
        sums: of the loss and of its terms over these.
        num_finite: batches before the first whose loss was not finite.
    """

    batches: Tensor
    done: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    num_finite: Tensor | int = 0


@dataclass
class TrainingState:
    """State of a training behind a batch or an epoch; saved and restored as a whole."""

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    best_weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    history: list[EpochRecord] = field(default_factory=list)
    part: PartOfEpoch | None = None


def ignore(state: TrainingState) -> None:
    """Do nothing with a state."""


def never() -> bool:
    """Return False: a training that nobody asks to stop."""
    return False


class Training:
    """A training between its batches: order of the pairs, schedule, record and saved state.

    Whoever computes the losses asks ``begin_epoch`` what to draw, calls ``step`` behind each loss
    whose gradient is left on the parameters, and ``end_epoch`` behind the last.

    Attributes:
        setup: its modules and optimiser are changed in place.
        settings: of the training.
        stream: draws the dropout.
        state: behind the last whole epoch, or the batch at which the training was stopped.
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
        """Continue from the state file, or start; arguments and errors are ``train_head``'s."""
        processes.require_shares(settings.batch_size)
        processes.start(setup.modules.values(), encoding=setup.encoding, seed=settings.seed)
        self.setup, self.settings, self.stream = setup, settings, stream
        self._processes, self._state_file = processes, state_file
        mask = settings.loss.false_negatives == "mask"
        self._positives = positives_of(setup.train_split) if mask else None
        self._order = torch.Generator().manual_seed(settings.seed)
        self._num_texts = len(setup.train_split.captions)
        self.steps = num_batches(self._num_texts, settings.batch_size)
        self.state = self._restored() or TrainingState()

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done."""
        return self.state.epoch >= self.settings.epochs

    @property
    def num_done(self) -> int:
        """Number of updates done."""
        part = self.state.part
        return self.state.epoch * self.steps + (part.done if part else 0)

    def begin_epoch(self) -> Draw:
        """Return what the batches that are left of the epoch are drawn from."""
        if self.state.part is None:
            batches = epoch_batches(self._num_texts, self.settings.batch_size, self._order)
            self.state.part = PartOfEpoch(batches)
        for module in self.setup.modules.values():
            module.train()
        self.setup.optimizer.zero_grad(set_to_none=True)
        part = self.state.part
        return Draw(
            part.batches[part.done :],
            self.state.epoch + 1,
            part.done,
            self._positives,
            self._order,
            self._processes,
        )

    def step(self, loss: LossTerms) -> None:
        """Update once; nothing here makes a GPU wait for the host."""
        part, setup, settings = self.state.part, self.setup, self.settings
        assert part is not None
        total = settings.epochs * self.steps
        factor = warmup_cosine(self.num_done, total, warmup=settings.warmup)
        set_learning_rate(setup.optimizer, factor)
        setup.update(max_grad_norm=settings.max_grad_norm, processes=self._processes)
        setup.optimizer.zero_grad(set_to_none=True)
        setup.head.limit_scale()
        terms = {"total": loss.total.detach(), **loss.terms}
        sums = dict(part.sums)
        for name, value in terms.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value
        finite = terms["total"].isfinite() & (part.num_finite == part.done)
        self.state.part = PartOfEpoch(part.batches, part.done + 1, sums, part.num_finite + finite)

    def end_epoch(self) -> bool:
        """Validate, record and save; of a part of an epoch, save only.

        Returns:
            Whether the epoch is whole.

        Raises:
            ConfigError: the loss is no longer finite.
        """
        for module in self.setup.modules.values():
            module.eval()
        assert self.state.part is not None
        whole = self.state.part.done == self.steps
        if whole:
            self.state.epoch += 1
            _record_epoch(self.state, self.setup, _mean_losses(self.state), self._processes)
            self.state.part = None
        self._save()
        return whole

    def finish(self) -> TrainingState:
        """Put the weights of the best epoch into the modules; return the final state."""
        for name, weights in self.state.best_weights.items():
            self.setup.modules[name].load_state_dict(weights)
        return self.state

    def _save(self) -> None:
        state, setup = self.state, self.setup
        random_states = self._processes.collect(self._random_state())
        if self._processes.rank > 0:
            return
        saved = {
            "state": {
                **vars(state),
                "history": [vars(record) for record in state.history],
                "part": None if state.part is None else vars(state.part),
            },
            "modules": {name: module.state_dict() for name, module in setup.modules.items()},
            "optimizer": setup.optimizer.state_dict(),
            "scaling": setup.scaling,
            "order": self._order.get_state(),
            "random": random_states,
        }
        write_state(self._state_file, saved)

    def _restored(self) -> TrainingState | None:
        if not self._state_file.exists():
            return None
        saved, setup = read_state(self._state_file), self.setup
        for name, weights in saved["modules"].items():
            setup.modules[name].load_state_dict(weights)
        setup.optimizer.load_state_dict(saved["optimizer"])
        setup.rescale(saved["scaling"])
        self._order.set_state(saved["order"])
        random_state = saved["random"][self._processes.rank]
        self.stream.set_state(random_state["torch"])
        if random_state["cuda"] is not None:
            torch.cuda.set_rng_state(random_state["cuda"], setup.head.logit_scale.device)
        history = [EpochRecord(**record) for record in saved["state"].pop("history")]
        part = saved["state"].pop("part")
        return TrainingState(
            history=history,
            part=None if part is None else PartOfEpoch(**part),
            **saved["state"],
        )

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
    stop: Callable[[], bool] = never,
    on_resume: Callable[[TrainingState], None] = ignore,
) -> TrainingState:
    """Train a head, and whatever else the setup trains; the best epoch's weights end in it.

    A run that was stopped continues behind its last whole epoch, or behind the batch at which
    ``stop`` ended it, with the same result as if it had not been stopped. Best is the highest mean
    of t2v and v2t R@1 on the validation split with one caption a video; of equal epochs the first.

    Args:
        setup: its modules and optimiser are changed in place.
        settings: ``epochs``, ``batch_size``, ``warmup``, ``max_grad_norm``, ``seed`` (of the order
            of the pairs), ``compile`` and ``loss.false_negatives``: ``mask`` leaves pairs off the
            diagonal whose text describes the video out of the contrastive loss
            (``Positives.among``); ``keep`` counts them as negatives; of ``precision`` whether it
            is ``tf32``. The others are what ``setup`` was made with.
        state_file: where the state is kept between epochs; the first process writes it.
        on_batch: called after every update, also for those that a resumed run has behind it.
        on_epoch: called after every epoch of this call.
        processes: those that train together, all with the same other arguments.
        stop: asked behind every batch whether to keep the state and end.
        on_resume: called with the state that an earlier call left, if there is one.

    Returns:
        The final state.

    Raises:
        ConfigError: the split is smaller than a batch, the processes cannot share one, or the loss
            is no longer finite.
        KeyboardInterrupt: ``stop`` ended the training.
    """
    training = Training(setup, settings, state_file=state_file, processes=processes)
    if training.num_done:
        on_resume(training.state)
    for _ in range(training.num_done):
        on_batch()
    while not training.is_done:
        draw = training.begin_epoch()
        with closing(setup.losses(draw, settings)) as losses:
            for number, loss in enumerate(losses, start=1):
                training.step(loss)
                on_batch()
                if number < len(draw.batches) and stop():
                    break
        if not training.end_epoch():
            raise KeyboardInterrupt
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
    state: TrainingState, setup: TrainingSetup, losses: Mapping[str, float], processes: Processes
) -> None:
    head = setup.head
    one_caption = setup.validation_split(processes).one_caption_per_video()
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
        state.best_weights = {
            name: {k: v.detach().clone() for k, v in module.state_dict().items()}
            for name, module in setup.modules.items()
            if name != "objective"
        }


def _mean_losses(state: TrainingState) -> dict[str, float]:
    assert state.part is not None
    steps, num_finite = len(state.part.batches), int(state.part.num_finite)
    if num_finite < steps:
        raise ConfigError(
            f"the loss is no longer finite: NaN or infinite in batch {num_finite + 1} of {steps} "
            f"of epoch {state.epoch}; lower train.learning_rate, or check the features"
        )
    return {name: float(value) / steps for name, value in state.part.sums.items()}


def _loss(
    setup: TrainingSetup, draw: Draw, batch: Tensor, frames: Tensor, mask: Tensor
) -> LossTerms:
    head, split = setup.head, setup.train_split
    share = draw.processes.own(batch)
    scores = head.pair_scores(split.text[share], frames, mask, split.words_of(share))
    return loss_of_scores(setup, draw, batch, scores)


def loss_of_scores(
    setup: TrainingSetup, draw: Draw, batch: Tensor, scores: PairScores
) -> LossTerms:
    """Return the loss of the whole batch.

    Args:
        setup: its objective and head.
        draw: its positives and processes.
        batch: (B,) caption rows.
        scores: (B/W, B) of this process's captions.
    """
    gathered = draw.processes.gather(scores)
    known = None if draw.positives is None else draw.positives.among(batch)
    loss: LossTerms = setup.objective(
        gathered.similarity,
        gathered.delta,
        setup.head.scale,
        positives=known,
        side=setup.head.side,
    )
    return loss
