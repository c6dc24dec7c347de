"""Stage evaluate: score a trained head on a split; write metrics, ranks, top items, analysis."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from gare_cache.data.split import SplitLoader, load_split
from gare_cache.evaluation.analysis import analyse
from gare_cache.evaluation.leaks import find_leaks
from gare_cache.evaluation.metrics import DIRECTIONS, QueryRanks, both_directions
from gare_cache.evaluation.normalisers.scored_split import normalise_scored, plan_normalisers
from gare_cache.evaluation.protocol import apply_protocol
from gare_cache.evaluation.protocol_card import protocol_card
from gare_cache.evaluation.results import SplitResult
from gare_cache.evaluation.scores import (
    HEAD,
    ZERO_SHOT,
    normalised_method,
    ranks_table,
    retrieved_items,
    retrieved_table,
    score_differences,
    score_ranks,
    score_split_ranks,
    zero_shot_head,
)
from gare_cache.evaluation.similarity import score_split
from gare_cache.files import (
    file_digest,
    read_json,
    replacing,
    write_json,
    write_parquet,
    write_record,
)
from gare_cache.manifest.tables import read_manifest
from gare_cache.own import own_digests
from gare_cache.project import ledger
from gare_cache.project.features import captions_cut, open_features
from gare_cache.project.paths import Workspace
from gare_cache.reproducibility import resolve_device
from gare_cache.training.checkpoint import Checkpoint, load_checkpoint, require_encoder

_SHORT = ("R@1", "R@5", "R@10", "MdR")


def evaluate(
    workspace: Workspace, *, device: str = "auto", load: SplitLoader | None = None
) -> dict[str, Any]:
    """Score the trained head and, for comparison, zero-shot mean pooling.

    Writes into ``evaluation/``: ``metrics.json``; ``ranks.parquet``, one row per method, direction
    and listed query, where the head followed by a normaliser is a method; ``retrieved.parquet``,
    the top ten items of each query before normalisers; ``similarity.npy``, (T, V) cosines of the
    head; ``analysis.json``; ``scores.json``, the few scores that DVC shows. A scoring of the test
    split is entered in the ledger first.

    Args:
        workspace: the project.
        device: where to score.
        load: replaces ``load_split``, for example by one that keeps loaded splits in memory.

    Returns:
        The content of ``metrics.json``.

    Raises:
        ConfigError: no head was trained, or the split is empty.
        FingerprintMismatch: the head belongs to another encoder.
    """
    settings = workspace.params.evaluate
    target = resolve_device(device)
    checkpoint = load_checkpoint(workspace.run / "head.safetensors")
    cache, features = open_features(workspace)
    require_encoder(checkpoint, cache.encoder_id, where=cache.folder)
    manifest = read_manifest(workspace.manifest)
    load_here = functools.partial(
        load or load_split,
        cache,
        manifest,
        device=target,
        num_frames=checkpoint.head.settings["max_frames"],
        words=checkpoint.head.needs_words,
    )
    loaded = load_here(settings.split)
    split = apply_protocol(loaded, manifest, settings)
    plan = plan_normalisers(settings, split.features, load_here)
    heads = {
        ZERO_SHOT: zero_shot_head(loaded, frame_norm=settings.frame_norm),
        HEAD: checkpoint.head.to(target),
    }
    similarities = {name: score_split(head, split.features) for name, head in heads.items()}
    if settings.split == ledger.TEST:
        enter_in_ledger(workspace, checkpoint)
    convention = settings.v2t_convention
    ranks: dict[str, Mapping[str, QueryRanks]] = {
        name: both_directions(s, split.video_of_text, convention=convention)
        for name, s in similarities.items()
    }
    headline, alternative = score_split_ranks(ranks, split, settings)
    normalisers: dict[str, Any] | None = None
    if plan is not None:
        normalisers, normalised = normalise_scored(
            plan,
            heads[HEAD],
            split.features,
            similarities[HEAD],
            convention=convention,
            score=functools.partial(
                score_ranks, split=split, settings=settings, rule=settings.missing
            ),
            differ=functools.partial(
                score_differences, split=split, settings=settings, rule=settings.missing
            ),
        )
        normalisers["own"] = own_digests(settings.normalisers)
        ranks |= {normalised_method(title): by_title for title, by_title in normalised.items()}
    result = SplitResult(
        run_key=checkpoint.record["run_key"],
        manifest=manifest.digest(),
        split=settings.split,
        captions=settings.captions,
        v2t_convention=convention,
        coverage=split.features.coverage,
        num_texts=len(split.features.caption_ids),
        num_videos=len(split.features.video_ids),
        card=protocol_card(
            cache,
            manifest,
            split,
            workspace.params.dataset,
            settings,
            official=read_json(workspace.manifest / "summary.json").get("official", {}),
            cut=captions_cut(features),
        ),
        headline=headline,
        alternative=alternative,
        normalisers=normalisers,
    )
    retrieved = {name: retrieved_items(s, split, settings) for name, s in similarities.items()}
    analysis = analyse(split, heads, similarities, retrieved, scored=HEAD)
    analysis["leaks"] = find_leaks(
        cache, manifest, settings.split, num_frames=checkpoint.head.settings["max_frames"]
    )
    folder = workspace.evaluation
    write_record(folder / "metrics.json", result.to_json())
    write_json(folder / "scores.json", _short_scores(result, checkpoint))
    write_record(folder / "analysis.json", analysis)
    write_parquet(folder / "ranks.parquet", ranks_table(ranks, split))
    write_parquet(folder / "retrieved.parquet", retrieved_table(retrieved, similarities, split))
    with replacing(folder / "similarity.npy") as partial, partial.open("wb") as file:
        np.save(file, similarities[HEAD])
    return result.to_json()


def _short_scores(result: SplitResult, checkpoint: Checkpoint) -> dict[str, Any]:
    scores = result.headline.methods[HEAD]
    shown = {d: {name: scores[d].metrics[name] for name in _SHORT} for d in DIRECTIONS}
    return {**shown, "selection score": checkpoint.record["validation_score"]}


def enter_in_ledger(workspace: Workspace, checkpoint: Checkpoint) -> None:
    """Record in the ledger that the trained head is scored on test."""
    settings = workspace.params.evaluate
    fields = {"captions", "v2t_convention", "missing"}
    if settings.normalisers:
        fields |= {"normalisers", "bank"}
    ledger.enter(
        workspace.ledger,
        project=workspace.project,
        run_key=checkpoint.record["run_key"],
        checkpoint=file_digest(workspace.run / "head.safetensors"),
        dataset=workspace.params.dataset.name,
        protocol=settings.model_dump(include=fields),
    )


def ledger_count(workspace: Workspace) -> ledger.LedgerCount:
    """Count how often the trained head, and how often any head, was scored on test."""
    return ledger.count(
        ledger.read(workspace.ledger),
        checkpoint=file_digest(workspace.run / "head.safetensors"),
        dataset=workspace.params.dataset.name,
    )
