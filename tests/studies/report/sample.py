"""A folder as an ablation study leaves it: variants on one or two axes, ranks of every query."""

import dataclasses
import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from gare_cache.evaluation.comparison.differences import compare_runs, compare_seeds, holm
from gare_cache.evaluation.metrics import QueryRanks
from gare_cache.studies.report.content import StudyContent
from gare_cache.studies.report.write import read_study

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


def write_study(
    folder: Path,
    *,
    num_axes: int = 1,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    num_videos: int = 200,
    failed: Sequence[tuple[int, int, str]] = (),
    split: str = "val",
    published: bool = True,
    title: str = "GARE's regularisers",
    names: Sequence[str] | None = None,
) -> Path:
    """Write the four files.

    Args:
        folder: where to; made.
        num_axes: 1 for 7 variants, 2 for a grid of 30.
        seeds: one run each.
        num_videos: with one caption each.
        failed: (variant, seed, reason) of runs without results.
        split: ``val`` or ``test``.
        published: whether some variants have published numbers.
        title: of the study.
        names: of the variants; as their axis values without.
    """
    axes = make_axes(num_axes)
    combinations = list(itertools.product(*axes.values()))
    names = names or [
        ", ".join(
            value if num_axes == 1 else f"{axis} {value}"
            for axis, value in zip(axes, values, strict=True)
        )
        for values in combinations
    ]
    reasons = {(variant, seed): reason for variant, seed, reason in failed}
    ranks = {
        (number, seed, direction): make_ranks(number, seed, direction, num_videos)
        for number in range(len(names))
        for seed in seeds
        if (number, seed) not in reasons
        for direction in DIRECTIONS
    }
    folder.mkdir(parents=True, exist_ok=True)
    runs = _runs(names, seeds, ranks, reasons, split)
    pq.write_table(pa.Table.from_pylist(runs), folder / "runs.parquet")
    pq.write_table(_ranks_table(names, ranks, split), folder / "ranks.parquet")
    pq.write_table(pa.Table.from_pylist(_history(names, runs)), folder / "history.parquet")
    reference = names[0 if num_axes == 1 else 14]
    study = {
        "name": folder.name,
        "title": title,
        "question": "Does any of GARE's regularisers help on frozen features?",
        "axes": [{"name": axis, "values": values} for axis, values in axes.items()],
        "variants": [
            {
                "name": name,
                "axis_values": dict(zip(axes, values, strict=True)),
                "changes": {
                    f"train.loss.{axis}.weight": place for place, axis in enumerate(axes) if number
                },
            }
            for number, (name, values) in enumerate(zip(names, combinations, strict=True))
        ],
        "reference": reference,
        "seeds": list(seeds),
        "split": split,
        "final": split == "test",
        "protocol": {"dataset": "demo", "captions": "all", "missing": "drop"},
        "notes": ["Features are frozen: numbers of finetuned encoders are not comparable."],
        "table": _table(names, runs, ranks, names.index(reference), split, published),
        "published": {"source": "GARE, arXiv:2505.12499, table 4", "note": "Finetuned encoder."}
        if published
        else None,
        "record": {
            "versions": {"gare-cache": "0.1.0", "torch": "2.6.0"},
            "machine": "x86_64, 2 cores",
            "revision": "a" * 40,
            "encoder_id": "b" * 64,
            "extraction_ids": ["c" * 64],
            "device": "cpu",
        },
        "ledger": "test scored 35 times by this study's runs" if split == "test" else None,
    }
    (folder / "study.json").write_text(json.dumps(study), encoding="utf-8")
    return folder


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


def _runs(names, seeds, ranks, reasons, split):
    rows = []
    for number, name in enumerate(names):
        for seed in seeds:
            reason = reasons.get((number, seed))
            done = reason is None
            metrics = {
                f"{one}.{direction}.R@{k}": (
                    100 * float(ranks[number, seed, direction].hits(k).mean()) if done else None
                )
                for one in dict.fromkeys(("val", split))
                for direction in DIRECTIONS
                for k in (1, 5, 10)
            }
            rows.append(
                {
                    "variant": name,
                    "seed": seed,
                    "status": "done" if done else "failed",
                    "reason": reason,
                    "run_key": f"{number:04x}{seed:04x}",
                    "train.loss.ib.weight": 0.1 * number,
                    "best_epoch": 5 + (number + seed) % 6 if done else None,
                    **metrics,
                    "seconds": 21.5 + 1.7 * (number % 7) + 0.3 * seed if done else None,
                    "peak_memory_bytes": None,
                    "parameters": (525_825 + 262_144 * (number % 7)) if done else None,
                    "device": "cpu",
                    "scoring": "exact",
                    "extraction_id": "c" * 64,
                }
            )
    return rows


def _ranks_table(names, ranks, split):
    columns: dict[str, list] = {}
    for (number, seed, direction), found in ranks.items():
        size = len(found.ahead)
        videos = [f"video{video}" for video in range(size)]
        row = {
            "variant": [names[number]] * size,
            "seed": [seed] * size,
            "split": [split] * size,
            "direction": [direction] * size,
            "query_id": [f"{video}#0" for video in videos] if direction == "t2v" else videos,
            "video_id": videos,
            "ahead": found.ahead.tolist(),
            "ties": found.ties.tolist(),
            "rank": found.expected.tolist(),
        }
        for name, values in row.items():
            columns.setdefault(name, []).extend(values)
    return pa.table(columns)


def _history(names, runs):
    rows = []
    for run in runs:
        if run["status"] == "failed":
            continue
        number = names.index(run["variant"])
        generator = np.random.default_rng((number, run["seed"]))
        top = run["val.t2v.R@1"]
        for epoch in range(1, NUM_EPOCHS + 1):
            rise = 1 - np.exp(-epoch / (2 + number % 3)) - 0.006 * max(0, epoch - 8)
            score = float(top * (0.5 + 0.5 * rise) + generator.normal(0, 0.4))
            loss = float(
                3 * np.exp(-epoch / 4) + 1 + 0.05 * (number % 7) + generator.normal(0, 0.02)
            )
            rows.append(
                {
                    "variant": run["variant"],
                    "seed": run["seed"],
                    "epoch": epoch,
                    "loss.total": loss,
                    "loss.contrastive": loss - 0.1,
                    "val.t2v.R@1": score,
                    "val.v2t.R@1": score + 1,
                    "val.score": score,
                    "learning_rate": 1e-4,
                    "scale": 100.0,
                }
            )
    return rows


def _table(names, runs, ranks, reference, split, published):
    metrics = [f"{direction}.R@{k}" for direction in DIRECTIONS for k in (1, 5, 10)]
    rows = []
    for number, name in enumerate(names):
        own = [run for run in runs if run["variant"] == name and run["status"] == "done"]
        values = {one: [run[f"{split}.{one}"] for run in own] for one in metrics}
        row = {
            "variant": name,
            "rank": None,
            "n": len(own),
            "validation_score": float(
                np.mean([run["val.t2v.R@1"] + run["val.v2t.R@1"] for run in own]) / 2
            )
            if own
            else None,
            "failed": [r["reason"] for r in runs if r["variant"] == name and r["reason"]],
            "mean": {one: float(np.mean(found)) for one, found in values.items() if found},
            "std": {one: float(np.std(found, ddof=1)) for one, found in values.items()}
            if len(own) > 1
            else None,
            "difference": _differences(ranks, number, reference),
            "seconds": float(np.mean([run["seconds"] for run in own])) if own else None,
            "peak_memory_bytes": None,
            "parameters": own[0]["parameters"] if own else None,
            "published": {"t2v.R@1": 46.6 + number / 2} if published and number % 3 == 0 else None,
        }
        rows.append(row)
    order = sorted((r for r in rows if r["n"]), key=lambda row: -row["validation_score"])
    for rank, row in enumerate(order, 1):
        row["rank"] = rank
    for metric in ("t2v.R@1", "v2t.R@1"):
        found = [row["difference"][metric] for row in rows if row["difference"]]
        for one, p_holm in zip(found, holm([one["p"] for one in found]), strict=True):
            one |= {"p_holm": p_holm, "distinguishable": p_holm <= 0.05}
    return rows


def _differences(ranks, number, reference):
    found = {}
    for direction in DIRECTIONS:
        ours, theirs = (
            np.stack([r.hits(1) for (n, _, d), r in ranks.items() if (n, d) == (which, direction)])
            if any((n, d) == (which, direction) for n, _, d in ranks)
            else None
            for which in (number, reference)
        )
        if ours is None or theirs is None or number == reference:
            return None
        video = np.arange(ours.shape[1])
        if len(ours) == len(theirs) == 1:
            (one,) = compare_runs(ours.T, theirs.T, video, resamples=500, seed=0)
        else:
            one = compare_seeds(ours, theirs, video)
        found[f"{direction}.R@1"] = {
            "points": one.points,
            "low": one.low,
            "high": one.high,
            "p": one.p_value,
            "half_width": one.half_width,
            "detectable": one.detectable,
        }
    return found


def make_study(
    folder: Path, *, num_videos: int = 120, seeds: Sequence[int] = (0, 1, 2), **options
) -> StudyContent:
    """Write a small study and read it as the report does."""
    write_study(folder, num_videos=num_videos, seeds=seeds, **options)
    return read_study(folder, make_captions(num_videos), make_pictures(num_videos))


def with_memory(content: StudyContent, peak_bytes: int) -> StudyContent:
    rows = [dataclasses.replace(one, peak_memory_bytes=peak_bytes) for one in content.variants]
    return dataclasses.replace(content, variants=rows)
