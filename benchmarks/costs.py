"""Compute what 10 thousand, 1 million and 100 million videos cost: `python benchmarks/costs.py`.

Decoding and encoding are the rates of `extraction.py` (one decoder, both cores), reading, `prepare`
and the exact shortlist those of `growth.py`; writing and bytes are measured here on a small cache
of one caption a video. 12 frames x 512 in float16. Prices are assumptions: give your own with
`--core-hour` and `--gb-month`, and your encoder's videos a second with `--encode-rate`.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from cache_reading import written
from measure import RESULTS, print_table, write_results

from gare_cache.cache.folders import folder_bytes
from gare_cache.cache.reader import open_cache
from gare_cache.cache.schema import Layout

SIZES = (10_000, 1_000_000, 100_000_000)
SAMPLE = 5120
THUMBNAIL_BYTES = 1_100  # of the demo's; real pictures of 128 px take some 4 kB
TABLE_BYTES = 800  # of memory for what finds and names a video (search.py)
DISPATCH = 1.056  # over the ideal: 2 % slow workers, 1 % lost an hour (cluster_simulation.py)
INDEX = 80.0  # s of faiss for a million videos (search.py --plot); 2 sqrt(N) lists: grows as N^1.5
LAYOUT = Layout(max_frames=12, dim=512)


def measured_rates() -> dict[str, float]:
    """Return core-seconds a video of each step, as the other benchmarks measured them."""
    one, both = (_extraction(f"extraction_{n}_224_exact.json") for n in (1, 2))
    growth = json.loads((RESULTS / "growth.json").read_text())["tables"]["exponents"]
    last = {row["what"]: row["s, last"] / row["to"] for row in growth if row["grows with"] == "V"}
    return {
        "decode": 1 / one["decode alone"],
        "encode": 2 / both["encode alone"],
        "prepare": last["prepare"],
        "read": last["reading"],
        "search": last["search"],
    }


def _extraction(name: str) -> dict[str, float]:
    tables = json.loads((RESULTS / name).read_text())["tables"]
    return {row["form"]: row["videos/s"] for table in tables.values() for row in table}


def measured_writing() -> tuple[float, float]:
    """Return seconds and bytes a video of a cache with one caption a video."""
    with tempfile.TemporaryDirectory() as folder:
        cache = open_cache(written(Path(folder), SAMPLE, 1, LAYOUT))
        seconds = sum(record.seconds["write"] for record in cache.records)
        return seconds / SAMPLE, folder_bytes(cache.folder) / SAMPLE


def costs(videos: int, rates: dict[str, float], options: argparse.Namespace) -> dict[str, str]:
    """Return the rows of one size."""
    write, size = options.writing
    work = {"decode": rates["decode"], "encode": rates["encode"], "write": write}
    core_hours = {step: videos * each / 3600 for step, each in work.items()}
    total = sum(core_hours.values())
    disk = videos * (size + THUMBNAIL_BYTES)
    tensors = videos * 12 * 512 * 4
    shortlist = videos * rates["search"]
    cluster = total / options.cores * DISPATCH
    return {
        "core-hours to decode": _number(core_hours["decode"]),
        "core-hours to encode": _number(core_hours["encode"]),
        "core-hours to write": _number(core_hours["write"]),
        "limits the extraction": max(core_hours, key=lambda step: core_hours[step]),
        "extraction on 2 cores": _duration(total / 2),
        f"extraction on {options.cores:,} cores": _duration(cluster),
        "money for it": f"{_number(total * DISPATCH * options.core_hour)} USD",
        "disk, features and pictures": _bytes(disk),
        "money for it a month": f"{_number(disk / 1e9 * options.gb_month)} USD",
        "`prepare`": _duration(videos * rates["prepare"] / 3600),
        "memory of the tables": _bytes(videos * TABLE_BYTES),
        "read all features once": _duration(videos * rates["read"] / 3600),
        "memory to train on all, float32": _bytes(tensors),
        "vectors of the search": _bytes(videos * 512 * 2),
        "faiss index built": _duration(INDEX * (videos / 1e6) ** 1.5 / 3600),
        "exact shortlist of a query": _duration(shortlist / 3600),
        "what limits then": _limit(tensors, shortlist, options.memory_gib),
    }


def _limit(tensors: float, shortlist: float, memory_gib: float) -> str:
    found = []
    if shortlist > 1:
        found.append("exact search: use faiss or qdrant")
    if tensors > memory_gib * 2**30:
        found.append(f"a machine's {memory_gib:g} GiB: train on a part")
    return "; ".join(found) or "encoding"


def _number(value: float) -> str:
    if value < 10:
        return f"{value:.2g}"
    digits = 1 - math.floor(math.log10(value))
    return f"{round(value, digits):,.0f}"


def _bytes(value: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if value >= size:
            return f"{_number(value / size)} {unit}"
    return f"{_number(value / 1e6)} MB"


def _duration(hours: float) -> str:
    for unit, size in (("years", 8766.0), ("days", 24.0), ("h", 1.0), ("min", 1 / 60)):
        if hours >= 2 * size:
            return f"{_number(hours / size)} {unit}"
    return f"{_number(hours * 3600)} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cores", type=int, default=1000, help="of the cluster")
    parser.add_argument("--core-hour", type=float, default=0.04, help="USD for a core and hour")
    parser.add_argument("--gb-month", type=float, default=0.023, help="USD for a GB and month")
    parser.add_argument(
        "--encode-rate",
        type=float,
        help="videos a second for each core, in place of the measured rate",
    )
    parser.add_argument("--memory-gib", type=float, default=256, help="of the training machine")
    options = parser.parse_args()
    rates = measured_rates()
    if options.encode_rate:
        rates["encode"] = 1 / options.encode_rate
    options.writing = measured_writing()
    columns = {f"{size:,} videos": costs(size, rates, options) for size in SIZES}
    rows: list[dict[str, Any]] = [
        {"": what, **{name: column[what] for name, column in columns.items()}}
        for what in next(iter(columns.values()))
    ]
    print_table(rows)
    seconds = {step: 1000 * each for step, each in rates.items()}
    seconds["write"] = 1000 * options.writing[0]
    steps = [{"step": step, "core-ms a video": each} for step, each in seconds.items()]
    print_table(steps)
    write_results("costs", {"costs": rows, "rates": steps})


if __name__ == "__main__":
    main()
