"""Train and score the README's heads on the demo data, over seeds.

Run ``make demo`` first, then ``python benchmarks/demo_results.py --seeds 3``. Every head sees the
same cached features; each run selects its epoch on the validation split and scores the test split
once. Prints a Markdown table: mean and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import yaml

from gare_cache.config import parse_params
from gare_cache.project.paths import Workspace
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.train import train

OFF = {"ib": {"weight": 0.0}, "eps": {"weight": 0.0}, "dir": {"weight": 0.0}}
TRANSFORMER = {"name": "transformer", "layers": 4, "init": "encoder"}
TEXT_CONDITIONED = {"name": "text_conditioned", "temperature": 3.0}
HEADS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear on mean pooling, InfoNCE": (
        {"aggregator": {"name": "mean"}, "pooling": {"name": "mean"}, "gap": None},
        OFF,
    ),
    "temporal transformer, InfoNCE": (
        {"aggregator": TRANSFORMER, "pooling": TEXT_CONDITIONED, "gap": None},
        OFF,
    ),
    "temporal transformer, GARE": (
        {"aggregator": TRANSFORMER, "pooling": TEXT_CONDITIONED},
        {},
    ),
}
DIRECTIONS = ("t2v", "v2t")
METRICS = ("R@1", "R@5", "R@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--only", default="", help="heads whose name holds this text")
    arguments = parser.parse_args()
    values = yaml.safe_load(arguments.params.read_text())
    print(f"| head | epoch | val | {' | '.join(f'{d} {m}' for d in DIRECTIONS for m in METRICS)} |")
    print(f"|---|{'---:|' * (2 + len(DIRECTIONS) * len(METRICS))}")
    baseline: dict[str, Any] = {}
    for name, (head, loss) in HEADS.items():
        if arguments.only not in name:
            continue
        runs = [
            run(arguments.params.parent, name, values, head, loss, seed)
            for seed in range(arguments.seeds)
        ]
        if not baseline:
            baseline = runs[0]["metrics"]["methods"]["zero_shot"]
            print(row("zero-shot mean pooling", [""], [""], [baseline]))
        scores = [result["metrics"]["methods"]["head"] for result in runs]
        epochs = [f"{statistics.mean(result['epoch'] for result in runs):.1f}"]
        validation = [cell([result["validation"] for result in runs])]
        print(row(name, epochs, validation, scores), flush=True)
        seconds = statistics.median(result["seconds"] for result in runs)
        print(f"<!-- {seconds:.0f} s a run -->", flush=True)


def run(
    project: Path,
    name: str,
    values: dict[str, Any],
    head: dict[str, Any],
    loss: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    changed = json.loads(json.dumps(values))
    changed["head"] |= head
    changed["train"]["loss"] |= loss
    changed["train"]["seed"] = seed
    outputs = project / "outputs"
    own = project / ".gare" / "demo_results" / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
    shutil.copytree(outputs / "manifest", own / "manifest", dirs_exist_ok=True)
    shutil.copy(outputs / "features.json", own / "features.json")
    workspace = Workspace(project, parse_params(changed, where=name), own)
    started = time.perf_counter()
    record = train(workspace)
    seconds = time.perf_counter() - started
    return {
        "metrics": evaluate(workspace),
        "epoch": record["best_epoch"],
        "validation": record["validation_score"],
        "seconds": seconds,
    }


def row(name: str, epochs: list[str], validation: list[str], scores: list[Any]) -> str:
    cells = [cell([s[d][m] for s in scores]) for d in DIRECTIONS for m in METRICS]
    return "| " + " | ".join([name, *epochs, *validation, *cells]) + " |"


def cell(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    main()
