"""Stage diagnose: what the increment of a trained head does on a cached split."""

from __future__ import annotations

from typing import Any

import torch

from gare_cache.data.split import load_split
from gare_cache.diagnosis.diagnosis import diagnose_head
from gare_cache.diagnosis.page import render_html, render_markdown
from gare_cache.diagnosis.parts import jsonable
from gare_cache.errors import ConfigError
from gare_cache.evaluation.increment import has_increment
from gare_cache.evaluation.protocol import apply_protocol
from gare_cache.files import file_digest, read_json_lines, write_record, write_text
from gare_cache.manifest.tables import read_manifest
from gare_cache.project import ledger
from gare_cache.project.features import open_features
from gare_cache.project.paths import Workspace
from gare_cache.project.progress import say
from gare_cache.reproducibility import resolve_device
from gare_cache.training.checkpoint import Checkpoint, load_checkpoint, require_encoder

SPLITS = ("train", "val", "test")


def diagnose(
    workspace: Workspace,
    *,
    split: str = "val",
    seed: int = 0,
    radius: float | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Diagnose a trained head's increment and write ``diagnosis/diagnosis.{json,html,md}``.

    The queries are those of ``evaluate.captions`` that have features. On the test split this counts
    as a scoring and is entered in the ledger first.

    Args:
        workspace: the project.
        split: ``train``, ``val`` or ``test``.
        seed: random seed of the batch for the gradients: ``train.batch_size`` videos, one caption
            each.
        radius: epsilon of the ideal step; None takes that of the run's trust region, or the
            largest length of the batch's increments, so that all lie within it.
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
    content = diagnose_head(
        checkpoint,
        scored,
        workspace.params.evaluate,
        seed=seed,
        radius=radius,
        on_step=say,
    )
    diagnosis: dict[str, Any] = jsonable(
        {
            "dataset": workspace.params.dataset.name,
            **content,
            "epochs": _epochs(workspace),
            "manifest": manifest.digest(),
        }
    )
    folder = workspace.outputs / "diagnosis"
    write_record(folder / "diagnosis.json", diagnosis)
    write_text(folder / "diagnosis.html", render_html(diagnosis))
    write_text(folder / "diagnosis.md", render_markdown(diagnosis))
    return diagnosis


def _epochs(workspace: Workspace) -> list[dict[str, Any]]:
    log = workspace.run / "train_log.jsonl"
    if not log.is_file():
        raise ConfigError(f"{log} does not exist; run `gare-cache train`")
    records = read_json_lines(log)
    return [{"epoch": r["epoch"], **r["increment"]} for r in records if r.get("increment")]


def _require_increment(workspace: Workspace, checkpoint: Checkpoint) -> None:
    if has_increment(checkpoint.head):
        return
    settings = checkpoint.head.settings
    name = (settings.get("interaction") or {"name": "pooled"})["name"]
    remedy = "set head.gap (head.gap: {} uses its defaults)"
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
