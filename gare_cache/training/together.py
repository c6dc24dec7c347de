"""Several trainings as one batched program: one forward and backward pass for all of them.

The weights of the runs are stacked, and ``torch.vmap`` maps the loss over the stack. All else is
the code of a training alone, run by run: order of the pairs, frames, dropout masks (each run draws
its own, from its own stream), clipping, optimiser, schedule, validation and saved state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gare_cache.data.frames import training_frames
from gare_cache.errors import GareCacheError
from gare_cache.files import canonical_digest
from gare_cache.heads.dropout import drawing_from
from gare_cache.heads.pairs import Words
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.heads.settings import HeadSettings
from gare_cache.losses.objective import LossTerms, Objective
from gare_cache.settings import CustomSettings
from gare_cache.training.loop import Draw, Training
from gare_cache.training.settings import TrainSettings

# Settings of a training that change no step of the program, only its numbers.
_SCALARS = (
    "seed",
    "epochs",
    "learning_rate",
    "logit_scale_learning_rate",
    "weight_decay",
    "warmup",
    "max_grad_norm",
)


def obstacle(head: HeadSettings, train: TrainSettings, device: torch.device) -> str | None:
    """Return why a training cannot be part of a batched program; None if it can."""
    parts = (head.aggregator, head.interaction, head.pooling, train.loss.contrastive)
    if any(isinstance(part, CustomSettings) for part in parts):
        return "a part of your own may do what torch.vmap cannot map"
    if train.compile or train.precision != "float32":
        return "train.compile and a train.precision below float32 are for runs trained alone"
    if train.reference_gather:
        return "train.reference_gather is for several processes"
    if head.aggregator.name == "lstm":
        return "torch.vmap cannot map an LSTM (head.aggregator.name: lstm)"
    drops = any(getattr(part, "dropout", None) for part in (head.pooling, head.gap))
    if drops and device.type != "cpu":
        return f"runs on {device} would not draw the dropout that each would draw alone"
    return None


def program_key(head: HeadSettings, train: TrainSettings) -> str:
    """Return a digest of all settings but the scalars in which runs of one program may differ.

    These are the seed, the number of epochs, the learning rates, weight decay, warm-up, the largest
    gradient norm and, for a head with a gap module, the weights of the regularisers.
    """
    settings = {key: value for key, value in train.identity.items() if key not in _SCALARS}
    if head.gap is not None:
        for name in train.loss.regularisers:
            del settings["loss"][name]["weight"]
    return canonical_digest([head.model_dump(), settings])


def train_heads(
    runs: Sequence[Training],
    *,
    on_batch: Callable[[], None],
    on_epoch: Callable[[Training], None],
    on_failure: Callable[[Training, GareCacheError], None],
) -> None:
    """Train heads of one ``program_key`` together until all have done their epochs.

    Each run's first updates equal those of ``train_head`` but for rounding. A run that fails leaves
    the others as they are.

    Args:
        runs: with a ``stream`` of their own each; they may have done different numbers of epochs.
        on_batch: called after every update of every run, also for past epochs.
        on_epoch: called after every epoch of a run.
        on_failure: called with a run that cannot go on, and why.
    """
    for run in runs:
        for _ in range(run.num_done):
            on_batch()
    active = [run for run in runs if not run.is_done]
    while active:
        for _ in Together(active).steps():
            on_batch()
        left = []
        for run in active:
            try:
                run.end_epoch()
            except GareCacheError as err:
                on_failure(run, err)
                continue
            on_epoch(run)
            left.append(run)
        active = [run for run in left if not run.is_done]


@dataclass(frozen=True)
class _Batch:
    """B matching pairs of a run: text (B, D), frames (B, F, D) and so on."""

    text: Tensor
    frames: Tensor
    mask: Tensor
    words: Words | None
    positives: Tensor | None

    def loss(self, run: Training) -> LossTerms:
        """Return the loss as of a run alone, with its gradient left on the parameters."""
        head = run.setup.head
        scores = head.pair_scores(self.text, self.frames, self.mask, self.words)
        loss: LossTerms = run.setup.objective(
            scores.similarity,
            scores.delta,
            head.scale,
            positives=self.positives,
            side=head.side,
        )
        loss.total.backward()  # type: ignore[no-untyped-call]
        return loss


def _batch(run: Training, draw: Draw, rows: Tensor) -> _Batch:
    split = run.setup.train_split
    rows = rows.to(split.text.device)
    videos = split.video_of_text[rows]
    frames, mask = training_frames(split, videos, run.setup.frame_choice, draw.generator)
    positives = None if draw.positives is None else draw.positives.among(rows)
    return _Batch(split.text[rows], frames, mask, split.words_of(rows), positives)


class _Loss(nn.Module):
    """Loss, its terms, and whether a pair cancelled, of one run."""

    def __init__(self, head: RetrievalHead, objective: Objective) -> None:
        super().__init__()
        self.head = head
        self.objective = objective

    def forward(self, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        head = self.head
        words = inputs.get("words")
        scores = head.pair_scores(
            inputs["text"], inputs["frames"], inputs["mask"], words, rescore=False
        )
        loss = self.objective(
            scores.similarity,
            scores.delta,
            head.scale,
            positives=inputs.get("positives"),
            side=head.side,
            weights=inputs.get("weights"),
        )
        none = torch.zeros((), dtype=torch.bool, device=scores.similarity.device)
        cancelled = none if scores.cancelled is None else scores.cancelled.any()
        return loss.total, loss.terms, cancelled


class Together:
    """The updates of an epoch of several runs, whose parameters become views of the stacks."""

    def __init__(self, runs: Sequence[Training]) -> None:
        """Stack the parameters of runs of one ``program_key``."""
        self._runs = runs
        modules = [_Loss(run.setup.head, run.setup.objective) for run in runs]
        self._template = modules[0]
        self._parameters = [dict(module.named_parameters()) for module in modules]
        self._stacks = {}
        for name in self._parameters[0]:
            of_runs = [parameters[name] for parameters in self._parameters]
            stack = torch.stack([parameter.detach() for parameter in of_runs])
            for parameter, row in zip(of_runs, stack, strict=True):
                parameter.data = row
            self._stacks[name] = stack.requires_grad_()
        self._mapped = torch.vmap(self._loss, randomness="error")
        weights = [run.settings.loss.weights for run in runs]
        names = {name for of_run in weights for name in of_run}
        device = runs[0].setup.head.logit_scale.device
        self._weights = {
            name: torch.tensor([of_run.get(name, 0.0) for of_run in weights], device=device)
            for name in sorted(names)
        }

    def steps(self) -> Iterator[Training]:
        """Update all runs once for each batch of the epoch; yield each run behind its update."""
        draws = [run.begin_epoch() for run in self._runs]
        for number in range(len(draws[0].batches)):
            pairs = zip(self._runs, draws, strict=True)
            batches = [_batch(run, draw, draw.batches[number]) for run, draw in pairs]
            for run, loss in zip(self._runs, self._differentiate(batches), strict=True):
                run.step(loss)
                yield run

    def _differentiate(self, batches: Sequence[_Batch]) -> list[LossTerms]:
        """Put the gradients of all runs into their parameters; return their losses."""
        streams = [run.stream for run in self._runs]
        # The other forms of attention would be run one after the other.
        with drawing_from(streams), sdpa_kernel(SDPBackend.MATH):
            total, terms, cancelled = self._mapped(self._stacks, self._inputs(batches))
        if cancelled.any():  # rare, and only without dropout, so that no mask is drawn twice
            pairs = zip(self._runs, batches, strict=True)
            return [batch.loss(run) for run, batch in pairs]
        stacks = list(self._stacks.values())
        gradients = torch.autograd.grad(total.sum(), stacks, allow_unused=True)
        for name, gradient in zip(self._stacks, gradients, strict=True):
            if gradient is None:  # of no part of the loss
                continue
            for parameters, row in zip(self._parameters, gradient.contiguous(), strict=True):
                parameters[name].grad = row  # fused optimisers ask for the parameter's layout
        total, terms = total.detach(), {name: value.detach() for name, value in terms.items()}
        return [
            LossTerms(
                total[number],
                {name: value[number] for name, value in terms.items() if _has(run, name)},
            )
            for number, run in enumerate(self._runs)
        ]

    def _loss(self, parameters: dict[str, Tensor], inputs: dict[str, Any]) -> Any:
        return torch.func.functional_call(self._template, parameters, (inputs,))

    def _inputs(self, batches: Sequence[_Batch]) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            name: torch.stack([getattr(batch, name) for batch in batches])
            for name in ("text", "frames", "mask", "positives")
            if getattr(batches[0], name) is not None
        }
        words = [batch.words for batch in batches if batch.words is not None]
        if words:
            most = max(mask.shape[1] for _, mask in words)
            tokens = [F.pad(t, (0, 0, 0, most - t.shape[1])) for t, _ in words]
            masks = [F.pad(m, (0, most - m.shape[1])) for _, m in words]
            inputs["words"] = (torch.stack(tokens), torch.stack(masks))
        if self._weights:
            inputs["weights"] = self._weights
        return inputs


def _has(run: Training, term: str) -> bool:
    return term == "contrastive" or term in run.settings.loss.weights
