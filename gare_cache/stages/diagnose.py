"""Stage diagnose: head + cached split -> the anatomy of the head's increment."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gare_cache.data.split import FeatureSplit, load_split
from gare_cache.diagnosis import parts as diagnostics
from gare_cache.diagnosis.gradients import BatchGradients, batch_gradients
from gare_cache.diagnosis.page import render_html, render_markdown
from gare_cache.diagnosis.variation import score_with_video_means, stream_pairs, variance_shares
from gare_cache.errors import ConfigError
from gare_cache.evaluation.increment import has_increment, split_pairs
from gare_cache.evaluation.protocol import ProtocolSplit, apply_protocol
from gare_cache.evaluation.settings import EvaluateSettings
from gare_cache.evaluation.similarity import score_split
from gare_cache.files import file_digest, write_json, write_text
from gare_cache.manifest import read_manifest
from gare_cache.project import ledger
from gare_cache.project.features import open_features
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import say
from gare_cache.reproducibility import resolve_device
from gare_cache.training.checkpoint import Checkpoint, load_checkpoint, require_encoder

SPLITS = ("train", "val", "test")
_BOOTSTRAP_SEED = 0


def diagnose(
    workspace: Workspace,
    *,
    split: str = "val",
    seed: int = 0,
    radius: float | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Take a trained head's increment apart and write ``diagnosis/diagnosis.{json,html,md}``.

    The queries are those of ``evaluate.captions`` that have features. On the test split this is a
    scoring of it, entered in the ledger first.

    Args:
        workspace: the project.
        split: ``train``, ``val`` or ``test``.
        seed: of the batch for the gradients: ``train.batch_size`` videos, one caption each.
        radius: epsilon of the ideal step; None takes that of the run's trust region, or the
            largest length of the batch's increments, so that all lie inside.
        device: where to compute.

    Returns:
        The content of ``diagnosis.json``.

    Raises:
        ConfigError: no head was trained, it has no increment, or the split has fewer than 2 videos.
        FingerprintMismatch: the head belongs to another encoder.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split is {split!r}; it must be one of {', '.join(SPLITS)}")
    if radius is not None and not 0 < radius < float("inf"):
        raise ConfigError(f"--radius is {radius}; it must be a finite number above 0")
    target = resolve_device(device)
    checkpoint = load_checkpoint(workspace.run / "head.safetensors")
    _require_increment(workspace, checkpoint)
    head = checkpoint.head.to(target)
    cache, _ = open_features(workspace)
    require_encoder(checkpoint, cache.encoder_id, where=cache.folder)
    manifest = read_manifest(workspace.manifest)
    loaded = load_split(
        cache,
        manifest,
        split,
        device=target,
        num_frames=head.settings["max_frames"],
        words=head.needs_words,
    )
    scored = apply_protocol(loaded, manifest, workspace.params.evaluate)
    if len(torch.unique(scored.features.video_of_text)) < 2:
        raise ConfigError(
            f"the {split} split has {scored.features.coverage} with features; a diagnosis needs "
            "queries of at least 2 videos: choose another with --split"
        )
    if split == ledger.TEST:
        _enter_in_ledger(workspace, checkpoint)
    diagnosis: dict[str, Any] = diagnostics.jsonable(
        _diagnosis(workspace, checkpoint, scored, seed, radius)
    )
    diagnosis["manifest"] = manifest.digest()
    folder = workspace.outputs / "diagnosis"
    write_json(folder / "diagnosis.json", diagnosis)
    write_text(folder / "diagnosis.html", render_html(diagnosis))
    write_text(folder / "diagnosis.md", render_markdown(diagnosis))
    return diagnosis


def _diagnosis(
    workspace: Workspace,
    checkpoint: Checkpoint,
    scored: ProtocolSplit,
    seed: int,
    radius: float | None,
) -> dict[str, Any]:
    head, split, settings = checkpoint.head, scored.features, workspace.params.evaluate
    truth = scored.video_of_text
    say(f"{split.coverage}: all pairs")
    streamed = stream_pairs(head, split)
    exact = score_split(head, split)
    scores = {
        "head": streamed.corrected,
        "mean": score_with_video_means(head, split, streamed.moments.video_means),
        "zero": streamed.plain,
    }
    asked = checkpoint.record["settings"]["train"]["batch_size"]
    batch = draw_batch(split, asked, seed)
    scale = float(head.scale.detach())
    say(f"{len(batch.text)} matched pairs: gradients")
    found = batch_gradients(head, batch, scale)
    step_radius, origin = _radius(checkpoint.record, found, radius)
    return {
        "dataset": workspace.params.dataset.name,
        "run_key": checkpoint.record["run_key"],
        "best_epoch": checkpoint.record["best_epoch"],
        "side": head.side,
        "split": split.name,
        "coverage": split.coverage,
        "captions": settings.captions,
        "v2t_convention": settings.v2t_convention,
        "num_texts": len(split.text),
        "num_videos": len(split.frames),
        "scale": scale,
        "loss": checkpoint.record["settings"]["train"]["loss"]["contrastive"]["name"],
        "largest difference to the exact scores": float(np.abs(exact - streamed.corrected).max()),
        "batch": {
            "pairs": len(batch.text),
            "asked": asked,
            "seed": seed,
            "radius from": origin,
        },
        **_batch_parts(found, step_radius),
        **diagnostics.geometry_part(
            split_pairs(head, split), head.side, streamed.corrected, streamed.plain, truth
        ),
        "increment length": streamed.moments.mean_length,
        "variance": variance_shares(streamed.moments),
        "recall": _recall(scores, scored, settings),
        "candidates": diagnostics.coverage_part(
            streamed.corrected, streamed.plain, truth, settings.v2t_convention
        ),
        "epochs": _epochs(workspace),
    }


def draw_batch(split: FeatureSplit, size: int, seed: int) -> FeatureSplit:
    """Draw matched pairs: one caption each of at most ``size`` videos; text i is of video i.

    No video stands in it twice, so no pair of the batch is a false negative by its video.
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
        frames=split.frames[batch.video_of_text],
        mask=split.mask[batch.video_of_text],
        video_of_text=torch.arange(len(rows), device=split.text.device),
    )


def _radius(
    record: dict[str, Any], found: BatchGradients, given: float | None
) -> tuple[float, str]:
    """Return the radius of the ideal step and where it comes from."""
    if given is not None:
        return given, "given"
    trust_region = record["settings"]["train"]["loss"]["trust_region"]
    if trust_region["weight"] > 0:
        return record.get("learned_radius", trust_region["radius"]), "the run's trust region"
    return float(found.increments.max()), "largest length of the batch's increments"


def _batch_parts(found: BatchGradients, radius: float) -> dict[str, Any]:
    return {
        "gradient": diagnostics.gradient_part(found),
        "tension": diagnostics.tension_part(found),
        "descent": diagnostics.descent_part(found),
        "step": diagnostics.step_part(found, radius),
    }


def _recall(
    scores: dict[str, Any], scored: ProtocolSplit, settings: EvaluateSettings
) -> dict[str, Any]:
    return diagnostics.recall_part(
        scores,
        scored.video_of_text,
        reference="head",
        convention=settings.v2t_convention,
        resamples=settings.resamples,
        seed=_BOOTSTRAP_SEED,
    )


def _epochs(workspace: Workspace) -> list[dict[str, Any]]:
    log = workspace.run / "train_log.jsonl"
    if not log.is_file():
        raise ConfigError(f"{log} does not exist; run `gare-cache train`")
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [{"epoch": r["epoch"], **r["increment"]} for r in records if r.get("increment")]


def _require_increment(workspace: Workspace, checkpoint: Checkpoint) -> None:
    if has_increment(checkpoint.head):
        return
    settings = checkpoint.head.settings
    name = (settings.get("interaction") or {"name": "pooled"})["name"]
    remedy = "set head.gap (head.gap: {} takes its defaults)"
    if name != "pooled":
        remedy = f"head.interaction.name is {name!r}: set it to pooled, and head.gap"
    raise ConfigError(
        f"the head in {workspace.run} has no increment to diagnose; {remedy}, and run "
        "`gare-cache train`"
    )


def _enter_in_ledger(workspace: Workspace, checkpoint: Checkpoint) -> None:
    settings = workspace.params.evaluate
    protocol = settings.model_dump(include={"captions", "v2t_convention"})
    ledger.enter(
        workspace.ledger,
        project=workspace.project,
        run_key=checkpoint.record["run_key"],
        checkpoint=file_digest(workspace.run / "head.safetensors"),
        dataset=workspace.params.dataset.name,
        protocol={**protocol, "missing": "drop", "command": "diagnose"},
    )
