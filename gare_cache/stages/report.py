"""Stage report: metrics, ranks and training log -> Markdown and one HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.cache.import_identity import declared_name, is_imported
from gare_cache.cache.reader import FeatureCache
from gare_cache.data.split import FeatureSplit, load_split
from gare_cache.errors import ConfigError
from gare_cache.evaluation.metrics import text_to_video
from gare_cache.files import write_text
from gare_cache.manifest import read_manifest
from gare_cache.reports.content import (
    DIRECTIONS,
    METRICS,
    Epoch,
    QueryExample,
    ReportContent,
    ResultRow,
    RetrievedVideo,
)
from gare_cache.reports.markdown import render_markdown
from gare_cache.reports.page import render_html
from gare_cache.reports.tables import latex_table, markdown_table
from gare_cache.reproducibility import resolve_device
from gare_cache.stages.evaluate import HEAD, ZERO_SHOT
from gare_cache.stages.workspace import Workspace, open_features

_TOP = 5
_LOSS_NAMES = {"info_nce": "InfoNCE"}


def report(workspace: Workspace) -> str:
    """Write ``report/{report.html, report.md, table.md, table.tex}``.

    Returns:
        The results as a Markdown table.

    Raises:
        ConfigError: nothing was evaluated.
    """
    metrics = _read_json(workspace.evaluation / "metrics.json", "evaluate")
    record = _read_json(workspace.run / "record.json", "train")
    cache, _ = open_features(workspace)
    split = load_split(
        cache, read_manifest(workspace.manifest), metrics["split"], device=resolve_device("cpu")
    )
    similarity = np.load(workspace.evaluation / "similarity.npy", allow_pickle=False)
    best, worst = _examples(similarity, split, cache, workspace.params.report.examples)
    content = ReportContent(
        title=f"{workspace.params.dataset.name}: text-video retrieval",
        facts=_facts(workspace, cache, metrics, record),
        rows=[
            _row("zero-shot mean pooling", metrics, ZERO_SHOT),
            _row(describe_head(record["settings"]), metrics, HEAD),
        ],
        differences=[_difference(direction, metrics) for direction in DIRECTIONS],
        epochs=_epochs(workspace.run / "train_log.jsonl"),
        best_epoch=record["best_epoch"],
        similarity=similarity,
        true_video=split.video_of_text.numpy(),
        best=best,
        worst=worst,
        notes=_notes(metrics),
    )
    table = markdown_table(content.rows)
    write_text(workspace.report / "report.html", render_html(content))
    write_text(workspace.report / "report.md", render_markdown(content))
    write_text(workspace.report / "table.md", table)
    write_text(workspace.report / "table.tex", latex_table(content.rows))
    return table


def describe_head(settings: dict[str, Any]) -> str:
    """Name a head by its parts and losses: ``linear, transformer, gap module: InfoNCE, L_ib``."""
    head, loss = settings["head"], settings["train"]["loss"]
    parts = [head["projection"]] if head["projection"] != "none" else []
    parts += [head["aggregator"]["name"], f"{head['pooling']['name'].replace('_', '-')} pooling"]
    parts += ["gap module"] if head["gap"] else []
    losses = [_LOSS_NAMES[loss["contrastive"]]]
    losses += [f"L_{name}" for name in ("ib", "eps", "dir") if loss[name]["weight"] > 0]
    return f"{', '.join(parts)}: {', '.join(losses)}"


def _read_json(path: Path, stage: str) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; run `gare-cache {stage}` first")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _facts(
    workspace: Workspace, cache: FeatureCache, metrics: dict[str, Any], record: dict[str, Any]
) -> list[tuple[str, str]]:
    params = workspace.params
    versions = record["provenance"]["versions"]
    return [
        ("Data set", params.dataset.name),
        ("Split", metrics["split"]),
        ("Coverage", metrics["coverage"]),
        ("Video to text", metrics["v2t_convention"].replace("_", " ")),
        ("Encoder", _encoder_fact(workspace, cache)),
        ("Encoder id", record["encoder_id"][:12]),
        ("Frames", _frames_fact(workspace, cache)),
        ("Trained on", record["coverage"]["train"]),
        ("Selected on", f"{record['coverage']['val']}; epoch {record['best_epoch']}"),
        ("Seed", str(record["settings"]["train"]["seed"])),
        ("Run", record["run_key"]),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Machine", f"{record['provenance']['processor']}, device {record['device']}"),
    ]


def _encoder_fact(workspace: Workspace, cache: FeatureCache) -> str:
    settings = workspace.params.encoder
    if is_imported(cache):
        return ", ".join(filter(None, (declared_name(cache), "features imported")))
    return f"{settings.model}, {settings.precision}, frozen" if settings else "frozen"


def _frames_fact(workspace: Workspace, cache: FeatureCache) -> str:
    how = "as imported" if is_imported(cache) else workspace.params.extract.sampler
    return f"up to {cache.layout.max_frames}, {how}"


def _row(name: str, metrics: dict[str, Any], method: str) -> ResultRow:
    scores = metrics["methods"][method]
    return ResultRow(
        name=name,
        num_queries={d: scores[d]["queries"] for d in DIRECTIONS},
        num_items={d: scores[d]["items"] for d in DIRECTIONS},
        metrics={d: {metric: scores[d][metric] for metric in METRICS} for d in DIRECTIONS},
        intervals={d: {"R@1": (scores[d]["R@1 low"], scores[d]["R@1 high"])} for d in DIRECTIONS},
        num_tied={d: scores[d]["tied queries"] for d in DIRECTIONS},
    )


def _difference(direction: str, metrics: dict[str, Any]) -> str:
    found = metrics["difference"][direction]
    low, high = found["R@1 low"], found["R@1 high"]
    verdict = "" if low > 0 or high < 0 else "; not distinguishable on this test set"
    return (
        f"{direction}: the head's R@1 differs from zero shot by {found['R@1']:+.1f} points, "
        f"95 % interval {low:+.1f} to {high:+.1f} (paired bootstrap over "
        f"{metrics['num_videos']:,} videos){verdict}."
    )


def _notes(metrics: dict[str, Any]) -> list[str]:
    notes = ["One training run: the interval covers the choice of test videos, not of the seed."]
    if metrics["split"] == "val":
        notes.append("These are validation figures: the epoch was selected on the same split.")
    if metrics["split"] == "train":
        notes.append("These are figures on the training split and say nothing about new videos.")
    return notes


def _epochs(path: Path) -> list[Epoch]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Epoch(r["epoch"], r["losses"], r["validation"], r["learning_rate"]) for r in records]


def _examples(
    similarity: npt.NDArray[np.float32], split: FeatureSplit, cache: FeatureCache, count: int
) -> tuple[list[QueryExample], list[QueryExample]]:
    """Return the queries whose video leads by most, and those whose video stands last."""
    truth = split.video_of_text.numpy()
    rows = np.arange(len(truth))
    false = similarity.copy()
    false[rows, truth] = -np.inf
    margin = similarity[rows, truth] - false.max(axis=1)
    ranks = text_to_video(similarity, truth).expected
    best = np.lexsort((rows, -margin))[:count]
    worst = np.lexsort((rows, -ranks))[:count]

    def example(row: int) -> QueryExample:
        shown = _shown(similarity[row], int(truth[row]))
        pictures = cache.thumbnails([split.video_ids[video] for video in shown])
        order = np.argsort(-similarity[row], kind="stable")
        place = {int(video): rank for rank, video in enumerate(order, 1)}
        retrieved = [
            RetrievedVideo(
                video_id=split.video_ids[video],
                rank=place[video],
                score=float(similarity[row, video]),
                is_true=video == truth[row],
                thumbnail=picture,
            )
            for video, picture in zip(shown, pictures, strict=True)
        ]
        return QueryExample(split.captions[row], float(ranks[row]), retrieved)

    return [example(int(row)) for row in best], [example(int(row)) for row in worst]


def _shown(scores: npt.NDArray[np.float32], true_video: int) -> Sequence[int]:
    top = [int(video) for video in np.argsort(-scores, kind="stable")[:_TOP]]
    return top if true_video in top else [*top, true_video]
