"""Peak memory of a run, on GPU or CPU."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from gare_cache.process_memory import peak_resident_bytes

_RESET = Path("/proc/self/clear_refs")


def reset_peak_memory(device: torch.device) -> None:
    """Reset the measurement, if the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            _RESET.write_text("5")


def peak_memory_bytes(device: torch.device) -> int | None:
    """Return the peak memory since the reset.

    On a GPU it is the memory of tensors; on the CPU the resident memory of the process.

    Args:
        device: where the work ran.

    Returns:
        Bytes; None if the system does not report it (only Linux does).
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return peak_resident_bytes()
