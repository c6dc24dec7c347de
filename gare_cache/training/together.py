"""Several trainings as one batched program: one forward and backward pass for all of them.

The weights of the runs are stacked, and ``torch.vmap`` maps the loss over the stack. All else is
the code of a training alone, run by run: order of the pairs, frames, dropout masks (each run draws
its own, from its own stream), clipping, optimiser, schedule, validation and saved state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gare_cache.errors import GareCacheError
from gare_cache.files import canonical_digest
from gare_cache.heads.dropout import drawing_from
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.heads.settings import HeadSettings
from gare_cache.losses.objective import Objective
from gare_cache.settings import CustomSettings
from gare_cache.training.loop import Batch, HeadTraining
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
    if head.aggregator.name == "lstm":
        return "torch.vmap cannot map an LSTM (head.aggregator.name: lstm)"
    if train.loss.contrastive.name == "ncl":
        return "train.loss.contrastive.name: ncl checks its scores, which torch.vmap cannot map"
    drops = any(getattr(part, "dropout", None) for part in (head.pooling, head.gap))
    if drops and device.type != "cpu":
        return f"runs on {device} would not draw the dropout that each would draw alone"
    return None


def program_key(head: HeadSettings, train: TrainSettings) -> str:
    """Return a digest of all settings but the scalars in which runs of one program may differ.

    These are the seed, the number of epochs, the learning rates, weight decay, warm-up, the largest
    gradient norm and, for a head with a gap module, the weights of the regularisers.
    """
    settings = train.model_dump(exclude=set(_SCALARS))
    if head.gap is not None:
        for name in train.loss.regularisers:
            del settings["loss"][name]["weight"]
    return canonical_digest([head.model_dump(), settings])


def train_heads(
    runs: Sequence[HeadTraining],
    *,
    on_batch: Callable[[], None],
    on_epoch: Callable[[HeadTraining], None],
    on_failure: Callable[[HeadTraining, GareCacheError], None],
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
        for _ in range(run.state.epoch * run.steps):
            on_batch()
    active = [run for run in runs if not run.is_done]
    while active:
        _train_epoch(active, on_batch)
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


def _train_epoch(runs: Sequence[HeadTraining], on_batch: Callable[[], None]) -> None:
    epochs = [run.begin_epoch() for run in runs]
    program = _Program(runs)
    for steps in zip(*epochs, strict=True):
        batches = [run.batch(rows) for run, (rows, _) in zip(runs, steps, strict=True)]
        terms = program.differentiate(batches)
        for run, (_, factor), of_run in zip(runs, steps, terms, strict=True):
            run.update(factor, of_run)
            on_batch()


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


class _Program:
    """The loss of several runs and its gradients; their parameters become views of the stacks."""

    def __init__(self, runs: Sequence[HeadTraining]) -> None:
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

    def differentiate(self, batches: Sequence[Batch]) -> list[dict[str, Tensor]]:
        """Put the gradients of all runs into their parameters; return the terms of each loss."""
        streams = [run.stream for run in self._runs]
        # The other forms of attention would be run one after the other.
        with drawing_from(streams), sdpa_kernel(SDPBackend.MATH):
            total, terms, cancelled = self._mapped(self._stacks, self._inputs(batches))
        if cancelled.any():  # rare, and only without dropout, so that no mask is drawn twice
            pairs = zip(self._runs, batches, strict=True)
            return [run.differentiate(batch) for run, batch in pairs]
        stacks = list(self._stacks.values())
        gradients = torch.autograd.grad(total.sum(), stacks, allow_unused=True)
        for name, gradient in zip(self._stacks, gradients, strict=True):
            for number, parameters in enumerate(self._parameters):
                parameters[name].grad = None if gradient is None else gradient[number]
        terms = {"total": total, **terms}
        return [
            {name: value.detach()[number] for name, value in terms.items() if _has(run, name)}
            for number, run in enumerate(self._runs)
        ]

    def _loss(self, parameters: dict[str, Tensor], inputs: dict[str, Any]) -> Any:
        return torch.func.functional_call(self._template, parameters, (inputs,))

    def _inputs(self, batches: Sequence[Batch]) -> dict[str, Any]:
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


def _has(run: HeadTraining, term: str) -> bool:
    return term in ("total", "contrastive") or term in run.settings.loss.weights
