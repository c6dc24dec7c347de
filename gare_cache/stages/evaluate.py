"""Stage evaluate: head + cached split -> metrics, ranks, retrieved items and their analysis."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gare_cache.config import EvaluateSettings
from gare_cache.data.split import FeatureSplit, load_split
from gare_cache.evaluation.metrics import DIRECTIONS, QueryRanks, both_directions
from gare_cache.evaluation.missing import MISSING_RULES, counted_hits, counted_metrics
from gare_cache.evaluation.retrieved import Items, top_texts, top_videos
from gare_cache.evaluation.significance import paired_difference, recall_interval
from gare_cache.evaluation.similarity import Similarity, score_split
from gare_cache.files import file_digest, replacing, write_json, write_parquet
from gare_cache.heads.retrieval import RetrievalHead, build_head
from gare_cache.manifest import read_manifest
from gare_cache.own import own_digests
from gare_cache.reproducibility import resolve_device
from gare_cache.stages import ledger
from gare_cache.stages.analysis import analyse
from gare_cache.stages.normalise import normalise_scored, plan_normalisers
from gare_cache.stages.normaliser_ledger import describe_normalisers
from gare_cache.stages.progress import say
from gare_cache.stages.protocol import ProtocolSplit, apply_protocol
from gare_cache.stages.workspace import SplitLoader, Workspace, open_features
from gare_cache.training.checkpoint import Checkpoint, load_checkpoint, require_encoder

ZERO_SHOT = "zero_shot"
HEAD = "head"
METHOD_TITLES = {ZERO_SHOT: "zero shot", HEAD: "head"}
# How many items a query keeps in retrieved.parquet.
MOST_RETRIEVED = 10
_BOOTSTRAP_SEED = 0
_SHORT = ("R@1", "R@5", "R@10", "MdR")

Ranks = Mapping[str, Mapping[str, QueryRanks]]


def evaluate(
    workspace: Workspace, *, device: str = "auto", load: SplitLoader | None = None
) -> dict[str, Any]:
    """Score the trained head, and zero-shot mean pooling beside it.

    Writes into ``evaluation/``: ``metrics.json``; ``ranks.parquet``, one row a method, direction
    and listed query, the head after each normaliser being a method; ``retrieved.parquet``, the
    first ten items of each query before normalisers; ``similarity.npy``, (T, V) cosines of the
    head; ``analysis.json``; ``scores.json``, the few that DVC shows of a run. A scoring of the
    test split is entered in the ledger first.

    Args:
        workspace: the project.
        device: where to score.
        load: in place of ``load_split``, one that keeps what it loaded for the next scoring.

    Returns:
        The content of ``metrics.json``.

    Raises:
        ConfigError: no head was trained, or the split is empty.
        FingerprintMismatch: the head belongs to another encoder.
    """
    settings = workspace.params.evaluate
    target = resolve_device(device)
    checkpoint = load_checkpoint(workspace.run / "head.safetensors")
    cache, _ = open_features(workspace)
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
    heads = {ZERO_SHOT: zero_shot_head(loaded), HEAD: checkpoint.head.to(target)}
    similarities = {name: score_split(head, split.features) for name, head in heads.items()}
    if settings.split == ledger.TEST:
        enter_in_ledger(workspace, checkpoint)
    convention = settings.v2t_convention
    ranks: dict[str, Mapping[str, QueryRanks]] = {
        name: both_directions(s, split.video_of_text, convention=convention)
        for name, s in similarities.items()
    }
    metrics = {
        "run_key": checkpoint.record["run_key"],
        "manifest": manifest.digest(),
        **_metrics(ranks, split, settings),
    }
    if plan is not None:
        metrics["normalisers"], normalised = normalise_scored(
            plan,
            heads[HEAD],
            split.features,
            similarities[HEAD],
            convention=convention,
            score=functools.partial(_scores, split=split, settings=settings, rule=settings.missing),
            differ=functools.partial(
                _differences, split=split, settings=settings, rule=settings.missing
            ),
        )
        metrics["normalisers"]["own"] = own_digests(settings.normalisers)
        ranks |= {normalised_method(title): found for title, found in normalised.items()}
    retrieved = {name: _retrieved(s, split, settings) for name, s in similarities.items()}
    analysis = analyse(split, heads, similarities, retrieved, scored=HEAD)
    folder = workspace.evaluation
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "scores.json", _short_scores(metrics, checkpoint))
    write_json(folder / "analysis.json", analysis)
    write_parquet(folder / "ranks.parquet", _ranks_table(ranks, split))
    write_parquet(folder / "retrieved.parquet", _retrieved_table(retrieved, similarities, split))
    with replacing(folder / "similarity.npy") as partial, partial.open("wb") as file:
        np.save(file, similarities[HEAD])
    for line in describe(metrics):
        say(line)
    if settings.split == ledger.TEST:
        say(str(ledger_count(workspace)))
    return metrics


def _short_scores(metrics: Mapping[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    scores = metrics["methods"][HEAD]
    shown = {d: {name: scores[d][name] for name in _SHORT} for d in DIRECTIONS}
    return {**shown, "validation R@1": checkpoint.record["validation_score"]}


def normalised_method(title: str) -> str:
    """Return the name in ranks.parquet of the head after a normaliser."""
    return f"{HEAD}, {title}"


def zero_shot_head(split: FeatureSplit) -> RetrievalHead:
    """Return the head without parameters: the cosine of the sentence and the mean frame."""
    head = build_head(
        dim=split.text.shape[1],
        max_frames=split.frames.shape[1],
        aggregator={"name": "mean"},
        pooling={"name": "mean"},
    )
    return head.to(split.text.device).eval()


def enter_in_ledger(workspace: Workspace, checkpoint: Checkpoint) -> None:
    """Enter a scoring of the test split by the trained head."""
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
    """Count how often the trained head, and how often any, was scored on test."""
    return ledger.count(
        ledger.read(workspace.ledger),
        checkpoint=file_digest(workspace.run / "head.safetensors"),
        dataset=workspace.params.dataset.name,
    )


def describe(metrics: Mapping[str, Any]) -> list[str]:
    """Print the scores, under both rules where something is missing, with their coverage."""
    lines = [f"{metrics['split']}: {metrics['coverage']}"]
    for part in filter(None, (metrics, metrics["alternative"])):
        if metrics["alternative"]:
            mark = " (headline)" if part is metrics else ""
            lines.append(f"evaluate.missing: {part['missing']}{mark}")
        for method, by_direction in part["methods"].items():
            lines += [
                f"  {METHOD_TITLES[method]:<9} {direction}  {_score_line(by_direction[direction])}"
                for direction in DIRECTIONS
            ]
    if "normalisers" in metrics:
        lines += describe_normalisers(metrics["normalisers"])
    return lines


def _score_line(scores: Mapping[str, Any]) -> str:
    recalls = ", ".join(f"R@{k} {scores[f'R@{k}']:.1f}" for k in (5, 10))
    return (
        f"R@1 {scores['R@1']:.1f} [{scores['R@1 low']:.1f}, {scores['R@1 high']:.1f}], {recalls}, "
        f"MdR {scores['MdR']:.1f}, n {scores['queries']:,}, features of "
        f"{scores['queries with features']:,} of {scores['queries listed']:,} queries"
    )


def _retrieved(
    similarity: Similarity, split: ProtocolSplit, settings: EvaluateSettings
) -> dict[str, Items]:
    return {
        "t2v": top_videos(similarity, MOST_RETRIEVED),
        "v2t": top_texts(
            similarity, split.video_of_text, MOST_RETRIEVED, convention=settings.v2t_convention
        ),
    }


def _metrics(ranks: Ranks, split: ProtocolSplit, settings: EvaluateSettings) -> dict[str, Any]:
    features = split.features
    missing = any(not listed.found.all() for listed in split.listed.values())
    other = next(rule for rule in MISSING_RULES if rule != settings.missing)
    return {
        "split": settings.split,
        "captions": settings.captions,
        "v2t_convention": settings.v2t_convention,
        "coverage": features.coverage,
        "num_texts": len(features.caption_ids),
        "num_videos": len(features.video_ids),
        **_counted(ranks, split, settings, settings.missing),
        "alternative": _counted(ranks, split, settings, other) if missing else None,
    }


def _counted(
    ranks: Ranks, split: ProtocolSplit, settings: EvaluateSettings, rule: str
) -> dict[str, Any]:
    return {
        "missing": rule,
        "methods": {name: _scores(r, split, settings, rule) for name, r in ranks.items()},
        "difference": _differences(ranks[HEAD], ranks[ZERO_SHOT], split, settings, rule),
    }


def _scores(
    ranks: Mapping[str, QueryRanks], split: ProtocolSplit, settings: EvaluateSettings, rule: str
) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for direction in DIRECTIONS:
        found, listed = ranks[direction], split.listed[direction]
        counted = counted_hits(found, listed, rule)
        low, high = recall_interval(
            counted.hits, counted.video_of_query, resamples=settings.resamples, seed=_BOOTSTRAP_SEED
        )
        scores[direction] = {
            **counted_metrics(found, listed, rule),
            "R@1 low": low,
            "R@1 high": high,
            "queries": len(counted.hits),
            "queries with features": len(found.ahead),
            "queries listed": len(listed.query_ids),
            "items": _num_items(direction, split, settings),
            "items listed": listed.num_items,
            "tied queries": int((found.ties > 0).sum()),
        }
    return scores


def _num_items(direction: str, split: ProtocolSplit, settings: EvaluateSettings) -> int:
    if direction == "t2v":
        return len(split.features.video_ids)
    if settings.v2t_convention == "best_caption_group":
        return int(split.listed["v2t"].found.sum())
    return len(split.features.caption_ids)


def _differences(
    ranks: Mapping[str, QueryRanks],
    others: Mapping[str, QueryRanks],
    split: ProtocolSplit,
    settings: EvaluateSettings,
    rule: str,
) -> dict[str, Any]:
    differences = {}
    for direction in DIRECTIONS:
        listed = split.listed[direction]
        own, other = (counted_hits(found[direction], listed, rule) for found in (ranks, others))
        difference, low, high = paired_difference(
            own.hits,
            other.hits,
            own.video_of_query,
            resamples=settings.resamples,
            seed=_BOOTSTRAP_SEED,
        )
        differences[direction] = {
            "R@1": difference,
            "R@1 low": low,
            "R@1 high": high,
            "videos": len(np.unique(own.video_of_query)),
        }
    return differences


def _ranks_table(ranks: Ranks, split: ProtocolSplit) -> pa.Table:
    """Lay out all listed queries; one without features has null for what was not measured."""
    tables = []
    for method, by_direction in ranks.items():
        for direction, found in by_direction.items():
            listed = split.listed[direction]
            columns = {
                "method": [method] * len(listed.query_ids),
                "direction": [direction] * len(listed.query_ids),
                "query_id": list(listed.query_ids),
                "video_id": list(listed.video_ids),
                "missing": pa.array(listed.missing, pa.string()),
                "ahead": _where_found(found.ahead, listed.found),
                "ties": _where_found(found.ties, listed.found),
                "rank": _where_found(found.expected, listed.found),
            }
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def _where_found(values: npt.NDArray[Any], found: npt.NDArray[np.bool_]) -> pa.Array:
    filled = np.zeros(len(found), dtype=values.dtype)
    filled[found] = values
    return pa.array(filled, mask=~found)


def _retrieved_table(
    retrieved: Mapping[str, Mapping[str, Items]],
    similarities: Mapping[str, Similarity],
    split: ProtocolSplit,
) -> pa.Table:
    features = split.features
    queries = {
        "t2v": (np.arange(len(features.caption_ids)), features.caption_ids, features.video_ids),
        "v2t": (np.unique(split.video_of_text), features.video_ids, features.caption_ids),
    }
    tables = []
    for method, by_direction in retrieved.items():
        for direction, items in by_direction.items():
            rows, query_ids, item_ids = queries[direction]
            scores = similarities[method] if direction == "t2v" else similarities[method].T
            columns = {
                "method": [method] * len(rows),
                "direction": [direction] * len(rows),
                "query_id": [query_ids[row] for row in rows],
                "items": [[item_ids[item] for item in found] for found in items],
                "scores": list(scores[rows[:, None], items]),
            }
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)
