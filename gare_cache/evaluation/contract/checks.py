"""Checks that a head treats padding, order, batches and blocks as training and evaluation assume.

Each check tests a head from outside and returns a row: what was seen, and how to repair a failure.
Scores are compared as cosines, equal up to the tolerance of their dtype.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gare_cache.errors import GareCacheError, counted
from gare_cache.evaluation.contract.rows import (
    TEXTS,
    VIDEOS,
    ContractRow,
    PairInputs,
    block_scores,
    compare,
    eval_scores,
    forward_scores,
    listed,
    random_inputs,
)
from gare_cache.evaluation.contract.weights import check_gradients, check_learning, check_round_trip
from gare_cache.heads.pairs import Words
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.own import describe


def check_contract(
    head: RetrievalHead, rebuild: Callable[..., RetrievalHead], *, seed: int = 0
) -> list[ContractRow]:
    """Run every check on a copy of a head.

    Args:
        head: on the CPU, in float32 or float64, in any mode.
        rebuild: builds a head from settings, such as ``build_head``.
        seed: random seed of the features.

    Returns:
        One row per check. If one of ``SCORING_CHECKS`` fails, the later checks would mean nothing
        and are left out.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return list(_checks(copy.deepcopy(head).eval(), rebuild, seed))


def _checks(
    head: RetrievalHead, rebuild: Callable[..., RetrievalHead], seed: int
) -> Iterator[ContractRow]:
    inputs = random_inputs(head, seed=seed)
    for scoring in SCORING_CHECKS:
        row = _row(scoring, head, inputs)
        yield row
        if not row.passed:
            return
    yield _row(check_gradients, head, inputs)
    yield _row(check_padded_frames, head, inputs)
    if inputs.words is not None:
        yield _row(check_padded_words, head, inputs, inputs.words)
    yield _row(check_order, head, inputs, "texts")
    yield _row(check_order, head, inputs, "videos")
    yield _row(check_batch, head, inputs)
    yield _row(check_blocks, head, inputs)
    yield _row(check_evaluation_mode, head, inputs)
    yield _row(check_round_trip, head, inputs, rebuild)
    yield _row(check_learning, head, seed=seed)


def _row(
    check: Callable[..., ContractRow], head: RetrievalHead, *arguments: Any, **options: Any
) -> ContractRow:
    """Run a check; a head that raises an error fails it."""
    try:
        return check(head, *arguments, **options)
    except Exception as err:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        remedy = "make sure that the head raises no error, in training mode and backward either"
        return ContractRow(f"{name} can be checked", False, _failure(err), remedy)
    finally:
        head.eval()


def _failure(err: Exception) -> str:
    message = " ".join(str(err).split())
    return message if isinstance(err, GareCacheError) else f"it fails {describe(err)}"


def check_shapes(head: RetrievalHead, inputs: PairInputs) -> ContractRow:
    """Score unequal numbers of texts and videos, one of each, and the same in blocks."""
    name = "shapes and dtype"
    remedy = (
        "return the scores (T, V), rows are texts, in the dtype of the inputs, for any T and V; or "
        "PairScores that hold them and increments (T, V, D)"
    )
    seen = []
    for texts, videos in ((TEXTS, VIDEOS), (1, VIDEOS), (TEXTS, 1), (1, 1)):
        part = inputs.of(slice(texts), slice(videos))
        try:
            with torch.no_grad():
                scores = forward_scores(head, part)
            evaluated = block_scores(head, part)
        except Exception as err:
            failed = f"{counted(texts, 'text')}, {counted(videos, 'video')}: {_failure(err)}"
            return ContractRow(name, False, failed, remedy)
        for what, matrix in (("forward", scores.similarity), ("similarity", evaluated)):
            if tuple(matrix.shape) != (texts, videos) or matrix.dtype != part.text.dtype:
                wrong = f"{what} gave {matrix.dtype} {tuple(matrix.shape)} for {texts} x {videos}"
                return ContractRow(name, False, wrong, remedy)
        if (texts, videos) == (TEXTS, VIDEOS):
            delta = "no increment" if scores.delta is None else "increments (T, V, D)"
            seen.append(f"(T, V) {matrix.dtype}, {delta}")
    return ContractRow(name, True, seen[0])


def check_finite(head: RetrievalHead, inputs: PairInputs) -> ContractRow:
    """Score all pairs; no score may be NaN or infinite."""
    name = "finite scores"
    scores = eval_scores(head, inputs)
    bad = int((~scores.isfinite()).sum())
    if bad:
        return ContractRow(
            name,
            False,
            f"{bad} of {scores.numel()} scores are NaN or infinite",
            "look for a division by a norm, spread or count that is 0, as in a video of one frame, "
            "a softmax over a row that is all -inf, and exp of large numbers",
        )
    low, high = scores.min().item(), scores.max().item()
    return ContractRow(name, True, f"from {low:.2f} to {high:.2f}")


def check_padded_frames(head: RetrievalHead, inputs: PairInputs) -> ContractRow:
    """Overwrite the padded frames; no score may change, neither of forward nor in blocks."""
    filled = torch.where(inputs.mask[..., None], inputs.frames, _rubbish(inputs.frames))
    rubbish = replace(inputs, frames=filled)
    before = eval_scores(head, inputs)
    return compare(
        "padded frames do not count",
        torch.cat([before, before]),
        torch.cat([eval_scores(head, rubbish), block_scores(head, rubbish)]),
        "use the mask wherever frames are summed, averaged, compared or attended to: "
        "masked_fill(~mask, -inf) before a softmax or maximum, and divide by mask.sum(1), not by "
        "F. That padding is zero does not help: a projection moves it",
    )


def check_padded_words(head: RetrievalHead, inputs: PairInputs, words: Words) -> ContractRow:
    """Overwrite the padded words and append more padding; no score may change."""
    tokens, mask = words
    filled = torch.where(mask[..., None], tokens, _rubbish(tokens))
    longer = torch.cat([filled, _rubbish(tokens[:, :2])], dim=1)  # (T, W + 2, D)
    longer_mask = torch.cat([mask, torch.zeros_like(mask[:, :2])], dim=1)  # (T, W + 2)
    before = eval_scores(head, inputs)
    after = [
        scores(head, replace(inputs, words=words))
        for words in ((filled, mask), (longer, longer_mask))
        for scores in (eval_scores, block_scores)
    ]
    return compare(
        "padded words do not count",
        torch.cat([before] * len(after)),
        torch.cat(after),
        "use the words' mask wherever words are summed, averaged, compared or attended to, and "
        "divide by mask.sum(1), not by W, which is the longest text of the batch",
    )


def check_order(head: RetrievalHead, inputs: PairInputs, what: str) -> ContractRow:
    """Reverse and rotate the texts or videos; their scores must move with them.

    Args:
        head: the head.
        inputs: the features.
        what: ``texts`` or ``videos``.
    """
    before = eval_scores(head, inputs)
    count = before.shape[0 if what == "texts" else 1]
    order = torch.arange(count).flip(0).roll(2)
    everything = slice(None)
    if what == "texts":
        after = eval_scores(head, inputs.of(order, everything))
        before = before[order]
    else:
        after = eval_scores(head, inputs.of(everything, order))
        before = before[:, order]
    return compare(
        f"the order of {what} does not count",
        before,
        after,
        "a score may depend only on its text and its video, never on their position in the batch: "
        f"look for arange, eye, cumsum or recurrence over the axis of the {what}",
    )


def check_batch(head: RetrievalHead, inputs: PairInputs) -> ContractRow:
    """Score every pair alone, and a square batch; the scores must equal those of the whole."""
    whole = eval_scores(head, inputs)
    count = min(whole.shape)
    square = eval_scores(head, inputs.of(slice(count), slice(count)))
    alone = torch.cat(
        [
            torch.cat(
                [
                    eval_scores(head, inputs.of(slice(text, text + 1), slice(video, video + 1)))
                    for video in range(whole.shape[1])
                ],
                dim=1,
            )
            for text in range(whole.shape[0])
        ]
    )  # (T, V)
    return compare(
        "a pair's score does not depend on its batch",
        torch.cat([whole.flatten(), whole[:count, :count].flatten()]),
        torch.cat([alone.flatten(), square.flatten()]),
        "compute nothing over the axes of texts or videos: no mean, maximum, softmax or batch norm "
        "over T or V inside the head. A normaliser is the place for that (evaluate.normalisers)",
    )


def check_blocks(head: RetrievalHead, inputs: PairInputs) -> ContractRow:
    """Score as evaluation does, whole and in the smallest blocks; it must equal forward."""
    whole = block_scores(head, inputs)
    blocks = block_scores(head, inputs, block_bytes=1)
    return compare(
        "blocks give the scores of forward",
        torch.cat([eval_scores(head, inputs)] * 2),
        torch.cat([whole, blocks]),
        "check whether the batch, dropout or the module's state affects the scores",
    )


def check_evaluation_mode(head: RetrievalHead, inputs: PairInputs) -> ContractRow:
    """Score twice in evaluation mode; the bits must be equal and the state unchanged."""
    name = "evaluation repeats itself"
    state = copy.deepcopy(head.state_dict())
    first, second = eval_scores(head, inputs), eval_scores(head, inputs)
    moved = [key for key, value in head.state_dict().items() if not torch.equal(value, state[key])]
    head.load_state_dict(state)
    if moved:
        return ContractRow(
            name,
            False,
            f"scoring changes {listed(moved)}",
            "change buffers only where self.training is true",
        )
    row = compare(
        name,
        first,
        second,
        "switch off dropout and noise in evaluation: nn.Dropout does so by itself, F.dropout needs "
        "training=self.training; draw nothing at random when self.training is false",
        tolerance=0.0,
    )
    was = head.training
    head.train()
    with torch.no_grad():
        training = forward_scores(head, inputs).similarity
    head.train(was)
    head.load_state_dict(state)
    noise = (training - first).abs().max().item()
    return replace(row, seen=f"{row.seen}; training mode differs by {noise:.2g}")


def _rubbish(like: Tensor) -> Tensor:
    return 30.0 * torch.sin(torch.arange(like.numel(), dtype=like.dtype)).reshape(like.shape)


# If these fail, the other checks mean nothing.
SCORING_CHECKS: Sequence[Callable[[RetrievalHead, PairInputs], ContractRow]] = (
    check_shapes,
    check_finite,
)
