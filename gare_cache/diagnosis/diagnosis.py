"""Diagnosis of a head on a split: gradients, geometry, variance, recall without the increment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gare_cache.data.split import FeatureSplit
from gare_cache.diagnosis import parts
from gare_cache.diagnosis.gradients import BatchGradients, batch_gradients
from gare_cache.diagnosis.variation import score_with_video_means, stream_pairs, variance_shares
from gare_cache.evaluation.increment import split_pairs
from gare_cache.evaluation.protocol import ProtocolSplit
from gare_cache.evaluation.settings import EvaluateSettings
from gare_cache.evaluation.similarity import score_split
from gare_cache.training.checkpoint import Checkpoint

_BOOTSTRAP_SEED = 0


def diagnose_head(
    checkpoint: Checkpoint,
    scored: ProtocolSplit,
    settings: EvaluateSettings,
    *,
    seed: int,
    radius: float | None,
    on_step: Callable[[str], None],
) -> dict[str, Any]:
    """Diagnose the increment of a head on a split.

    Args:
        checkpoint: a head with increment, on the device of the split, and its record.
        scored: a split with queries of at least 2 videos.
        settings: the protocol.
        seed: random seed of the batch for the gradients.
        radius: epsilon of the ideal step; None takes that of the run's trust region, or the
            largest length of the batch's increments.
        on_step: called with a line before each long step.

    Returns:
        The part of ``diagnosis.json`` that depends on head and split; numbers may not be finite.
    """
    head, split, record = checkpoint.head, scored.features, checkpoint.record
    trained = record["settings"]["train"]
    on_step(f"{split.coverage}: all pairs")
    streamed = stream_pairs(head, split)
    exact = score_split(head, split)
    scores = {
        "head": streamed.corrected,
        "mean": score_with_video_means(head, split, streamed.moments.video_means),
        "zero": streamed.plain,
    }
    batch = draw_batch(split, trained["batch_size"], seed)
    scale = float(head.scale.detach())
    on_step(f"{len(batch.text)} matched pairs: gradients")
    gradients = batch_gradients(head, batch, scale)
    step_radius, origin = _radius(record, gradients, radius)
    return {
        "run_key": record["run_key"],
        "best_epoch": record["best_epoch"],
        "side": head.side,
        "split": split.name,
        "coverage": split.coverage,
        "captions": settings.captions,
        "v2t_convention": settings.v2t_convention,
        "num_texts": len(split.text),
        "num_videos": len(split.frames),
        "scale": scale,
        "loss": trained["loss"]["contrastive"]["name"],
        "largest difference to the exact scores": float(np.abs(exact - streamed.corrected).max()),
        "batch": {
            "pairs": len(batch.text),
            "asked": trained["batch_size"],
            "seed": seed,
            "radius from": origin,
        },
        "gradient": parts.gradient_part(gradients),
        "tension": parts.tension_part(gradients),
        "descent": parts.descent_part(gradients),
        "step": parts.step_part(gradients, step_radius),
        **parts.geometry_part(
            split_pairs(head, split),
            head.side,
            streamed.corrected,
            streamed.plain,
            scored.video_of_text,
        ),
        "increment length": streamed.moments.mean_length,
        "variance": variance_shares(streamed.moments),
        "recall": parts.recall_part(
            scores,
            scored.video_of_text,
            reference="head",
            convention=settings.v2t_convention,
            resamples=settings.resamples,
            seed=_BOOTSTRAP_SEED,
        ),
        "candidates": parts.coverage_part(
            streamed.corrected, streamed.plain, scored.video_of_text, settings.v2t_convention
        ),
    }


def draw_batch(split: FeatureSplit, size: int, seed: int) -> FeatureSplit:
    """Draw matched pairs: one caption each of at most ``size`` videos; text i is of video i.

    Each video occurs once, so that no unmatched pair of the batch is of one video.
    """
    generator = torch.Generator().manual_seed(seed)
    first: dict[int, int] = {}
    truth = split.video_of_text.tolist()
    for row in torch.randperm(len(truth), generator=generator).tolist():
        first.setdefault(truth[row], row)
    rows = list(first.values())[:size]
    batch = split.with_texts(rows, num_listed=split.num_videos_listed)
    return replace(
        batch,
        video_ids=[split.video_ids[truth[row]] for row in rows],
        frames=split.frames[batch.video_of_text],  # (B, F, D)
        mask=split.mask[batch.video_of_text],  # (B, F)
        video_of_text=torch.arange(len(rows), device=split.text.device),
    )


def _radius(
    record: dict[str, Any], gradients: BatchGradients, given: float | None
) -> tuple[float, str]:
    """Return the radius of the ideal step and its origin."""
    if given is not None:
        return given, "given"
    trust_region = record["settings"]["train"]["loss"]["trust_region"]
    if trust_region["weight"] > 0:
        return record.get("learned_radius", trust_region["radius"]), "the run's trust region"
    return float(gradients.increments.max()), "largest length of the batch's increments"
