"""Memory of the process: its peak, and what becomes of memory that it frees."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
_KEPT_BYTES = 2**30
# Users who set one of these have chosen for themselves.
_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")

_STATUS = Path("/proc/self/status")
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def peak_resident_bytes() -> int | None:
    """Return the peak resident memory of this program; None where the system does not say.

    Only Linux does. ``ru_maxrss`` has there that of the process that started this one, if it was
    larger.
    """
    try:
        match = _PEAK.search(_STATUS.read_text(encoding="utf-8"))
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def keep_freed_memory() -> bool:
    """Let the process keep up to 1 GiB that it frees, for the next tensors of the same size.

    Of itself glibc gives tensors of more than 32 MiB, and the free end of its heap, back to the
    system, which clears every page again that it hands out. A training or an encoder, whose tensors
    are freed and made anew in every step, spends up to a quarter of its time on that.

    Returns:
        Whether it was set: not where the environment sets the same, and not by other C libraries.
    """
    if any(name in os.environ for name in _VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    thresholds = (_MMAP_THRESHOLD, _TRIM_THRESHOLD)
    return mallopt is not None and all(mallopt(one, _KEPT_BYTES) == 1 for one in thresholds)
