"""Show that two versions of the code give the same results, byte for byte.

    python benchmarks/same_bytes.py make CHECKOUT FOLDER     # once with each version
    python benchmarks/same_bytes.py compare FOLDER FOLDER

``make`` draws a small demo, runs the pipeline on it with a normaliser and a diagnosis, and two
small studies, all with the code of CHECKOUT. ``compare`` holds every output against
the other's: tensors, tables, JSON, pages. What names a run and where it came from is masked: run
keys, digests of code and checkpoints, provenance, times of day, measured seconds and memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from safetensors import safe_open

# One axis; and a grid with a row whose runs fail, published numbers and one seed.
STUDIES: dict[str, dict[str, Any]] = {
    "three": {
        "title": "Three rows",
        "base": "params.yaml",
        "axes": {
            "loss": {
                "InfoNCE": {
                    "head.gap": None,
                    "train.loss.ib.weight": 0.0,
                    "train.loss.eps.weight": 0.0,
                    "train.loss.dir.weight": 0.0,
                },
                "GARE": None,
                "GARE, mean": {"head.aggregator": {"name": "mean"}},
            }
        },
        "seeds": [0, 1],
        "reference": "InfoNCE",
    },
    "grid": {
        "question": "Does either matter?",
        "base": "params.yaml",
        "axes": {"train.loss.ib.weight": [0.0, 0.001], "train.num_frames": [4, 8, 99]},
        "seeds": [0],
        "reference": "weight=0.0, num_frames=4",
        "published": {
            "source": "nobody",
            "note": "Made up.",
            "rows": {"weight=0.0, num_frames=8": {"t2v.R@1": 12.5}},
        },
    },
}
COMMANDS = ("prepare", "extract", "train", "evaluate", "diagnose", "report")
MASKED_KEYS = {"run_key", "source", "provenance", "checkpoint", "time", "revision", "mtime_ns"}


def make(checkout: Path, folder: Path) -> None:
    """Run pipeline and study in a new folder with the code of a checkout."""
    run = _runner(checkout, folder)
    run("init", ".", "--preset", "demo")
    run("demo", "data/demo", "--train", "240", "--val", "60", "--test", "80")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["train"] |= {"epochs": 3, "threads": 1, "batch_size": 64}
    params["evaluate"]["normalisers"] = [{"name": "dsl"}]
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for command in COMMANDS:
        run(command)
    for name, study in STUDIES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(study))
        run("ablate", f"{name}.yaml")
    for path in (folder / ".gare" / "runs").glob("*/run.json"):  # what no two runs share
        record = json.loads(path.read_text()) | {"seconds": 1.0, "peak_memory_bytes": 100_000_000}
        path.write_text(json.dumps(record))
    for name in STUDIES:
        run("ablate", f"{name}.yaml")


def compare(before: Path, after: Path) -> bool:
    """Print every output and whether it is the same; return whether all are."""
    masks = [_masks(folder) for folder in (before, after)]
    files = [sorted(_outputs(folder)) for folder in (before, after)]
    same = files[0] == files[1]
    for name in sorted(set(files[0]) ^ set(files[1])):
        print(f"only in one     {name}")
    for name in sorted(set(files[0]) & set(files[1])):
        first, second = (
            _content(folder / name, mask)
            for folder, mask in zip((before, after), masks, strict=True)
        )
        print(f"{'same' if first == second else 'DIFFERENT':<15} {name}")
        same &= first == second
    return same


def _runner(checkout: Path, folder: Path) -> Any:
    folder.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(checkout.absolute()), "OMP_NUM_THREADS": "1"}
    environment.pop("GARE_CACHE_ROOT", None)

    def run(*words: str) -> None:
        command = [sys.executable, "-m", "gare_cache.cli", *words]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)

    return run


def _outputs(folder: Path) -> Iterator[str]:
    for path in (folder / "outputs").rglob("*"):
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def _masks(folder: Path) -> dict[str, str]:
    """Return what differs between two versions by design -> what stands for it."""
    keys = sorted((path.stat().st_mtime, path.name) for path in folder.glob(".gare/runs/*"))
    record = json.loads((folder / "outputs/run/record.json").read_text())
    masks = {record["run_key"]: "RUN", record["source"]: "SOURCE", str(folder.absolute()): "FOLDER"}
    masks |= {key: f"RUN-{number}" for number, (_, key) in enumerate(keys)}
    for head in folder.rglob("head.safetensors"):
        masks[hashlib.sha256(head.read_bytes()).hexdigest()] = "HEAD"
    return masks


def _content(path: Path, masks: dict[str, str]) -> Any:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = {
                k: _masked(_without(json.loads(v)), masks) for k, v in file.metadata().items()
            }
        return metadata, {n: (t.shape, str(t.dtype), t.tobytes()) for n, t in tensors.items()}
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return _masked([str(table.schema), _without(table.to_pylist())], masks)
    if path.suffix == ".json":
        return _masked(_without(json.loads(path.read_text())), masks)
    if path.suffix == ".npy":
        return path.read_bytes()
    return _masked_text(path.read_text(), masks)


def _masked(value: Any, masks: dict[str, str]) -> str:
    return _masked_text(json.dumps(value, sort_keys=True, default=str), masks)


def _masked_text(text: str, masks: dict[str, str]) -> str:
    for old, new in masks.items():
        text = text.replace(old, new).replace(old[:12], new)
    text = re.sub(r"'sha256-[^']*'", "'sha256'", text)  # of a script that holds a run key
    return re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?[^\s\"<]*", "TIME", text)


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if k not in MASKED_KEYS}
    return [_without(v) for v in value] if isinstance(value, list) else value


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("task", choices=["make", "compare"])
    parser.add_argument("folders", nargs=2, type=Path)
    arguments = parser.parse_args()
    if arguments.task == "make":
        make(*arguments.folders)
    elif not compare(*arguments.folders):
        sys.exit(1)


if __name__ == "__main__":
    main()
