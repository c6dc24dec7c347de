"""Optimisers, their parameter groups and the schedule of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gare_cache.training.settings import TrainSettings


class BertAdam(torch.optim.Optimizer):
    """Adam without bias correction, as GARE's and CLIP4Clip's reference code trains.

    ``m = b1 m + (1 - b1) g``, ``v = b2 v + (1 - b2) g^2``,
    ``p -= lr (m / (sqrt(v) + eps) + weight_decay p)``; each tensor's gradient is first clipped to
    norm ``max_grad_norm``. The schedule is applied from outside to ``lr``.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added outside the root.
        weight_decay: decoupled, times the scheduled rate.
        max_grad_norm: largest norm of one tensor's gradient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.2,
        max_grad_norm: float = 1.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["m"] = torch.zeros_like(parameter)
            state["v"] = torch.zeros_like(parameter)
        nn.utils.clip_grad_norm_(parameter, group["max_grad_norm"])
        gradient = parameter.grad
        assert gradient is not None
        beta1, beta2 = group["betas"]
        state["m"].mul_(beta1).add_(gradient, alpha=1 - beta1)
        state["v"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        update = state["m"] / (state["v"].sqrt() + group["eps"])
        if group["weight_decay"]:
            update.add_(parameter, alpha=group["weight_decay"])
        parameter.sub_(update, alpha=group["lr"])


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "bert_adam": BertAdam,
    "adamw": partial(torch.optim.AdamW, fused=True),  # one kernel, and no step read by the host
}


def build_optimizer(
    head: nn.Module, objective: nn.Module, settings: TrainSettings
) -> torch.optim.Optimizer:
    """Build an optimiser with a group for the logit scale and weight decay by rule.

    Args:
        head: its parameters but the logit scale are trained at ``learning_rate``; the logit scale
            at its own rate, and it is never decayed.
        objective: its parameters, if any, are trained at ``learning_rate`` and never decayed.
        settings: ``optimizer`` (betas .9, .98 and eps 1e-6 in both), the learning rates,
            ``weight_decay`` and ``weight_decay_on``: ``weights`` leaves out biases and LayerNorms;
            ``all_but_bias`` leaves out names with ``bias`` only, as the reference code does.
    """
    decayed, plain, scale = [], [], []
    for path, parameter in head.named_parameters():
        if path == "logit_scale":
            scale.append(parameter)
        elif _is_decayed(path, parameter, settings.weight_decay_on):
            decayed.append(parameter)
        else:
            plain.append(parameter)
    of_loss = list(objective.parameters())
    rate, decay = settings.learning_rate, settings.weight_decay
    groups = [
        {"params": decayed, "lr": rate, "weight_decay": decay},
        {"params": plain, "lr": rate, "weight_decay": 0.0},
        {"params": scale, "lr": settings.logit_scale_learning_rate, "weight_decay": 0.0},
        {"params": of_loss, "lr": rate, "weight_decay": 0.0},
    ]
    used = [{**group, "base_lr": group["lr"]} for group in groups if group["params"]]
    return OPTIMIZERS[settings.optimizer](used, betas=(0.9, 0.98), eps=1e-6)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to its base rate times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def warmup_cosine(step: int, total: int, *, warmup: float) -> float:
    """Return the schedule's factor at a step counted from 0.

    With ``x = step / total``: ``x / warmup`` while ``x < warmup``, then ``(1 + cos(pi x)) / 2``,
    x not rescaled. The first update has factor 0.

    Args:
        step: updates done before.
        total: updates of the whole run.
        warmup: share of the run, in [0, 1).
    """
    x = step / total
    if x < warmup:
        return x / warmup
    return 0.5 * (1 + math.cos(math.pi * x))


def _is_decayed(path: str, parameter: Tensor, rule: str) -> bool:
    if rule == "all_but_bias":
        return "bias" not in path
    return parameter.ndim > 1
