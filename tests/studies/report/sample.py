"""A study as `ablate` leaves it: variants on one or two axes, ranks of every query."""

import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from gare_cache.config import parse_params
from gare_cache.evaluation.comparison.differences import Difference
from gare_cache.evaluation.metrics import QueryRanks, retrieval_metrics
from gare_cache.studies.expansion import Variant
from gare_cache.studies.report.page import render_study_html
from gare_cache.studies.report.query_table import QueryTable, query_tables
from gare_cache.studies.result import StudyResult
from gare_cache.studies.results import RANK_COLUMNS, RunResult, SplitResult, ranks_table
from gare_cache.studies.study import METRIC_KEYS, Axis, AxisValue, Published, Study
from gare_cache.studies.table import study_rows
from tests.reports.sample import CARD
from tests.studies.made import BASE

DIRECTIONS = ("t2v", "v2t")
NUM_EPOCHS = 12
SUBJECTS = ("a man", "two children", "a brown dog", "the red team", "an old woman", "somebody")
ACTIONS = (
    "is folding a paper plane and throws it out of the window",
    "cooks noodles in a large pot",
    "plays the violin on a stage",
    "explains how a car engine works",
    "runs after a ball",
)


def make_axes(num_axes: int) -> dict[str, list[str]]:
    if num_axes == 1:
        return {"increment loss": ["none", "ib", "eps", "dir", "eps + dir", "ib + eps", "all"]}
    return {"heads": ["1", "2", "4", "8", "16"], "frames": ["2", "4", "6", "8", "12", "16"]}


def make_study(
    *,
    num_axes: int = 1,
    seeds: Sequence[int] = (0, 1, 2),
    num_videos: int = 120,
    failed: Sequence[tuple[int, int, str]] = (),
    split: str = "val",
    published: bool = True,
    title: str = "GARE's regularisers",
) -> StudyResult:
    """Make a study whose runs have made ranks.

    Args:
        num_axes: 1 for 7 variants, 2 for a grid of 30.
        seeds: one run each.
        num_videos: with one caption each.
        failed: (variant, seed, reason) of runs without results.
        split: ``val`` or ``test``.
        published: whether some variants have published numbers.
        title: of the study.
    """
    axes = make_axes(num_axes)
    combinations = list(itertools.product(*axes.values()))
    names = [
        ", ".join(
            value if num_axes == 1 else f"{axis} {value}"
            for axis, value in zip(axes, values, strict=True)
        )
        for values in combinations
    ]
    params = parse_params(BASE, where="the sample")
    variants = [
        Variant(
            name,
            dict(zip(axes, values, strict=True)),
            {f"train.loss.{axis}.weight": place for place, axis in enumerate(axes) if number},
            params,
        )
        for number, (name, values) in enumerate(zip(names, combinations, strict=True))
    ]
    study = Study(
        name="sample",
        base="params.yaml",
        axes=tuple(
            Axis(axis, tuple(AxisValue(value, value, {}) for value in values))
            for axis, values in axes.items()
        ),
        seeds=tuple(seeds),
        reference=names[0 if num_axes == 1 else 14],
        title=title,
        question="Does any of GARE's regularisers help on frozen features?",
        published=Published(
            "GARE, arXiv:2505.12499, table 4",
            "Finetuned encoder.",
            {"reader": ("msrvtt",)},
            {name: {"t2v.R@1": 46.6 + i / 2} for i, name in enumerate(names) if i % 3 == 0},
        )
        if published
        else None,
    )
    reasons = {(variant, seed): reason for variant, seed, reason in failed}
    runs = [
        make_run(name, number, seed, num_videos, split, reasons.get((number, seed)))
        for number, name in enumerate(names)
        for seed in seeds
    ]
    rows = study_rows(
        variants,
        runs,
        reference=study.reference,
        split=split,
        missing="drop",
        resamples=500,
        published=study.published and study.published.rows,
    )
    return StudyResult(
        study,
        split,
        rows,
        protocol={
            "captions": "all",
            "v2t_convention": "best_caption_of_all",
            "missing": "drop",
            "resamples": 1000,
            "coverage": "all",
        },
        cards=[CARD],
        notes=["Features are frozen: numbers of finetuned encoders are not comparable."],
        record={
            "versions": {"gare-cache": "0.1.0", "torch": "2.6.0"},
            "machine": "x86_64, 2 cores",
            "revision": "a" * 40,
            "encoder_id": "b" * 64,
            "extraction_ids": ["c" * 64],
            "device": "cpu",
        },
        ledger="test scored 35 times by this study's runs" if split == "test" else None,
    )


def make_run(
    name: str, number: int, seed: int, num_videos: int, split: str, reason: str | None
) -> RunResult:
    common = {
        "variant": name,
        "seed": seed,
        "run_key": f"{number:04x}{seed:04x}",
        "settings": {},
        "extraction_id": "c" * 64,
    }
    if reason is not None:
        return RunResult(**common, reason=reason)
    ranks = {d: make_ranks(number, seed, d, num_videos) for d in DIRECTIONS}
    metrics = {
        key: value
        for direction, found in ranks.items()
        for metric, value in retrieval_metrics(found).items()
        if (key := f"{direction}.{metric}") in METRIC_KEYS
    }
    result = SplitResult(
        metrics,
        _ranks_table(ranks),
        dict.fromkeys(DIRECTIONS, num_videos),
        coverage="all",
        card=CARD,
    )
    return RunResult(
        **common,
        best_epoch=5 + (number + seed) % 6,
        validation_score=(metrics["t2v.R@1"] + metrics["v2t.R@1"]) / 2,
        splits=dict.fromkeys(("val", split), result),
        history=_history(number, seed, metrics["t2v.R@1"]),
        seconds=21.5 + 1.7 * (number % 7) + 0.3 * seed,
        parameters=525_825 + 262_144 * (number % 7),
        device="cpu",
        scoring="exact",
    )


def make_queries(result: StudyResult, captions: bool = True) -> dict[str, QueryTable]:
    """Return how each variant answers each query, as ``ablate`` passes it to the page."""
    ranks = ranks_table(run for row in result.rows for run in row.runs)
    names = [row.name for row in result.rows]
    return query_tables(ranks, result.split, names, make_captions(200) if captions else {})


def make_ranks(variant: int, seed: int, direction: str, num_videos: int) -> QueryRanks:
    """Draw ranks: queries have a difficulty in common, a variant a strength, a run some noise."""
    base = np.random.default_rng(DIRECTIONS.index(direction))
    difficulty = base.normal(0.4, 1.2, num_videos)
    generator = np.random.default_rng((variant, seed, DIRECTIONS.index(direction), 7))
    strength = 0.06 * (variant % 7) - 0.12 * (variant == 3) + generator.normal(0, 0.02)
    place = difficulty - strength + generator.normal(0, 0.25, num_videos)
    ahead = np.floor(np.exp(np.clip(place, 0, 5)) - 1).astype(np.int64)
    return QueryRanks(ahead, (generator.random(num_videos) < 0.03).astype(np.int64))


def make_captions(num_videos: int) -> dict[str, str]:
    return {
        f"video{number}#0": f"{SUBJECTS[number % 6]} {ACTIONS[number % 5]}, take {number}"
        for number in range(num_videos)
    }


def make_pictures(num_videos: int) -> dict[str, bytes | None]:
    """Draw a thumbnail of every video but the last."""
    pictures: dict[str, bytes | None] = {}
    for number in range(num_videos):
        generator = np.random.default_rng(number)
        image = Image.new("RGB", (96, 72), tuple(generator.integers(20, 90, 3).tolist()))
        left, top = generator.integers(4, 40, 2).tolist()
        colour = tuple(generator.integers(120, 255, 3).tolist())
        ImageDraw.Draw(image).ellipse((left, top, left + 28, top + 28), colour)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        pictures[f"video{number}"] = buffer.getvalue()
    pictures[f"video{num_videos - 1}"] = None
    return pictures


def _ranks_table(ranks: Mapping[str, QueryRanks]) -> pa.Table:
    rows = [
        {
            "direction": direction,
            "query_id": f"video{video}#0" if direction == "t2v" else f"video{video}",
            "video_id": f"video{video}",
            "ahead": int(found.ahead[video]),
            "ties": int(found.ties[video]),
            "rank": float(found.expected[video]),
        }
        for direction, found in ranks.items()
        for video in range(len(found.ahead))
    ]
    return pa.Table.from_pylist(rows, schema=RANK_COLUMNS)


def _history(number: int, seed: int, top: float) -> list[dict[str, Any]]:
    generator = np.random.default_rng((number, seed))
    epochs = []
    for epoch in range(1, NUM_EPOCHS + 1):
        rise = 1 - np.exp(-epoch / (2 + number % 3)) - 0.006 * max(0, epoch - 8)
        score = float(top * (0.5 + 0.5 * rise) + generator.normal(0, 0.4))
        loss = float(3 * np.exp(-epoch / 4) + 1 + 0.05 * (number % 7) + generator.normal(0, 0.02))
        epochs.append(
            {
                "epoch": epoch,
                "losses": {"total": loss, "contrastive": loss - 0.1},
                "validation": {"t2v R@1": score, "v2t R@1": score + 1, "score": score},
                "learning_rate": 1e-4,
                "scale": 100.0,
            }
        )
    return epochs


def render(result: StudyResult) -> str:
    """Render the page of a sample with all its queries and pictures."""
    return render_study_html(result, make_queries(result), make_pictures(120))


def told(difference: Difference, distinguishable: bool) -> Difference:
    """Return a difference that can be told from none, or not."""
    return dataclasses.replace(difference, p_holm=0.001 if distinguishable else 0.5)


def with_memory(result: StudyResult, peak_bytes: int) -> StudyResult:
    rows = [dataclasses.replace(one, peak_memory_bytes=peak_bytes) for one in result.rows]
    return dataclasses.replace(result, rows=rows)


def referring_to(result: StudyResult, name: str) -> StudyResult:
    """Return a study whose reference is another row."""
    return dataclasses.replace(result, study=dataclasses.replace(result.study, reference=name))
