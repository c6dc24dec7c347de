"""Contract checks of a head's weights: gradients, saving and rebuilding, learning."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace

import torch
from safetensors.torch import save
from torch import Tensor

from gare_cache.errors import GareCacheError, counted
from gare_cache.evaluation.contract.rows import (
    FEATURE_NORM,
    ContractRow,
    PairInputs,
    compare,
    eval_scores,
    forward_scores,
    listed,
    random_inputs,
)
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.losses.contrastive import info_nce

_PAIRS, _STEPS, _RATE = 16, 60, 2e-3
_LEARN_SCALE, _NOISE = 20.0, 3.0
_LEAST_DROP = 0.05


def check_gradients(head: RetrievalHead, inputs: PairInputs) -> ContractRow:
    """Differentiate the contrastive loss; all gradients must be finite."""
    name = "finite gradients"
    head.zero_grad(set_to_none=True)
    count = min(len(inputs.text), len(inputs.frames))
    part = inputs.of(slice(count), slice(count))
    text, frames = (tensor.clone().requires_grad_() for tensor in (part.text, part.frames))
    scores = forward_scores(head, replace(part, text=text, frames=frames)).similarity
    if not scores.requires_grad:
        return ContractRow(
            name,
            False,
            "no gradient reaches any weight or feature from the scores",
            "compute the scores with torch's functions, without detach, item, argmax or numpy",
        )
    info_nce(scores, head.scale).backward()  # type: ignore[no-untyped-call]
    weights = {key: weight.grad for key, weight in head.named_parameters() if weight.requires_grad}
    gradients = {**weights, "text": text.grad, "frames": frames.grad}
    head.zero_grad(set_to_none=True)
    wrong = [
        key for key, grad in gradients.items() if grad is not None and not grad.isfinite().all()
    ]
    if wrong:
        return ContractRow(
            name,
            False,
            f"the gradient of {listed(wrong)} is NaN or infinite",
            "look for a root, norm or logarithm at 0, and for masked_fill with -inf on a whole "
            "row; clamp before the root, not after it",
        )
    idle = [key for key, grad in weights.items() if grad is None or not grad.any()]
    seen = f"of {len(weights) - len(idle):,} weights"
    return ContractRow(name, True, f"{seen}; none or zero of {listed(idle)}" if idle else seen)


def check_round_trip(
    head: RetrievalHead, inputs: PairInputs, rebuild: Callable[..., RetrievalHead]
) -> ContractRow:
    """Rebuild the head from settings and state, as a checkpoint does; scores must be equal."""
    name = "settings and state rebuild it"
    remedy = (
        "register every weight as nn.Parameter, submodule or buffer, and take every size from the "
        "options"
    )
    state = {key: value.detach().contiguous() for key, value in head.state_dict().items()}
    try:
        save(state)
    except RuntimeError as err:
        return ContractRow(
            name,
            False,
            f"the state cannot be saved: {' '.join(str(err).split())[:160]}",
            "no two names may share a tensor: use the same module in both places instead of "
            "assigning its weight to another",
        )
    torch.manual_seed(torch.initial_seed() + 1)  # else an unregistered weight is drawn the same
    try:
        rebuilt = rebuild(**json.loads(json.dumps(head.settings))).eval()
        rebuilt.load_state_dict(state)
    except (GareCacheError, RuntimeError) as err:
        return ContractRow(name, False, " ".join(str(err).split())[:200], remedy)
    row = compare(name, eval_scores(head, inputs), eval_scores(rebuilt, inputs), remedy)
    numbers = sum(value.numel() for value in state.values())
    return replace(
        row, seen=f"{row.seen}; {counted(len(state), 'tensor')}, {counted(numbers, 'number')}"
    )


def check_learning(head: RetrievalHead, *, seed: int = 0) -> ContractRow:
    """Train a few steps on separable pairs; the loss must fall.

    A text is the mean of its video's frames plus noise three times as long. Adam updates all
    weights but the logit scale, which is fixed at 20.
    """
    name = "a few steps lower the loss"
    learner = copy.deepcopy(head)
    weights = [
        weight
        for key, weight in learner.named_parameters()
        if weight.requires_grad and key != "logit_scale"
    ]
    if not weights:
        return ContractRow(name, True, "it has no weights to train")
    pairs = random_inputs(learner, texts=_PAIRS, videos=_PAIRS, seed=seed + 1)
    means = pairs.frames.sum(1) / pairs.mask.sum(1, keepdim=True)  # (B, D)
    text = means + _NOISE * means.norm(dim=1, keepdim=True) / FEATURE_NORM * pairs.text
    pairs = replace(pairs, text=text)

    def loss() -> Tensor:
        return info_nce(forward_scores(learner, pairs).similarity, _LEARN_SCALE)

    optimizer = torch.optim.Adam(weights, lr=_RATE)
    before = _evaluated(learner, loss)
    learner.train()
    for _ in range(_STEPS):
        value = loss()
        if not value.requires_grad:
            break
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = _evaluated(learner, loss)
    seen = f"loss {before:.3f} -> {after:.3f} in {_STEPS} steps of Adam on {_PAIRS} pairs"
    passed = after <= max((1 - _LEAST_DROP) * before, 0.01)
    return ContractRow(
        name,
        passed,
        seen,
        ""
        if passed
        else "check that gradients reach the weights (no detach), that a better match scores "
        "higher and that the initial weights are not far too large or too small",
    )


@torch.no_grad()
def _evaluated(head: RetrievalHead, loss: Callable[[], Tensor]) -> float:
    head.eval()
    return float(loss())
