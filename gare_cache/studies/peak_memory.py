"""How much memory a piece of work took at most."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring anew, where the machine allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            _RESET.write_text("5")


def peak_memory_bytes(device: torch.device) -> int | None:
    """Return the most that was taken since the reset.

    On a GPU that is what tensors took; else the process's resident memory with everything in it.

    Args:
        device: where the work ran.

    Returns:
        Bytes; None where the system does not tell (only Linux does).
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        found = _PEAK.search(_STATUS.read_text(encoding="utf-8"))
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
