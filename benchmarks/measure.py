"""What the benchmarks share: forms that take turns, tables, and a JSON file for each script."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gare_cache.process_memory import keep_freed_memory

keep_freed_memory()  # as the commands do

RESULTS = Path(__file__).parent / "results"


def take_turns(
    forms: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each form, one a round; other work on the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            start = clock()
            form()
            seconds[name].append(clock() - start)
    return seconds


def median(seconds: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(seconds)


def ratio(seconds: Sequence[float], base: Sequence[float]) -> float:
    """Return the median of the ratios of rounds, in which neighbours meet the same other work."""
    return statistics.median(one / other for one, other in zip(seconds, base, strict=True))


def peak_memory() -> float:
    """Return the largest memory that this process has had, in MB."""
    return _memory("VmHWM")


def added_memory(form: Callable[[], Any]) -> float:
    """Return the memory in MB that a call takes at most beyond what the process holds before.

    To be asked in a process of its own, without large inputs that were freed before.
    """
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _memory("VmRSS")
    form()
    return peak_memory() - before


def _memory(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of the same columns as a Markdown table; numbers stand on the right."""
    columns = list(rows[0])
    print("|" + "|".join(f" {name} " for name in columns) + "|")
    right = [not isinstance(rows[0][name], str) for name in columns]
    print("|" + "|".join("---:" if number else "---" for number in right) + "|")
    for row in rows:
        print("|" + "|".join(f" {_cell(row[name])} " for name in columns) + "|")
    print(flush=True)


def write_results(name: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write tables with the machine and the versions they were measured with.

    Args:
        name: of the script; the file is ``benchmarks/results/NAME.json``.
        tables: rows by table.
    """
    RESULTS.mkdir(exist_ok=True)
    options = ["FOLDER" if os.path.isdir(argument) else argument for argument in sys.argv[1:]]
    command = ["python", f"benchmarks/{Path(sys.argv[0]).name}", *options]
    record = {"command": command, "machine": machine(), "tables": tables}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Return the processor, the cores that may be used, memory, load and versions."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "load": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": version("numpy"),
        "zarr": version("zarr"),
    }


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
