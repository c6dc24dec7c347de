"""What workers do in tests; imported by them, so nothing heavy."""

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from gare_cache.extraction.decode import DecodedVideo, decode_video


def double(number: int) -> int:
    return 2 * number


def misbehave(job: tuple[str, int]) -> tuple[int, int]:
    """Return the number doubled and the worker's process, or do what the job says instead."""
    what, number = job
    if what == "loop in C":
        ctypes.PyDLL(None).sleep(600)  # holds the interpreter lock, as decord can
    elif what == "loop":
        while True:
            pass
    elif what == "exit":
        os._exit(number)
    elif what in signal.Signals.__members__:
        os.kill(os.getpid(), signal.Signals[what])
    elif what == "raise":
        raise ValueError(f"no good: {number}")
    return 2 * number, os.getpid()


def later_first(number: int) -> int:
    """Return the number, even ones late."""
    time.sleep(0.1 if number % 2 == 0 else 0)
    return number


def fill(job: tuple[Path, int, int]) -> np.ndarray:
    """Return so many bytes of the number, and leave a file that says so."""
    folder, number, size = job
    (folder / str(number)).touch()
    return np.full(size, number, np.uint8)


def allocate(num_bytes: int) -> int:
    """Fill so many bytes of memory and return how many they were."""
    return np.ones(num_bytes, np.uint8).nbytes


def not_to_be_had(_: int) -> None:
    raise AssertionError("never run")


def arrays(_: int) -> dict[str, object]:
    """Return arrays as they come: empty, of several types, not contiguous."""
    grid = np.arange(12, dtype=np.int16).reshape(3, 4)
    return {"empty": np.empty((0, 3)), "grid": grid, "turned": grid.T[::2], "text": "ä"}


def decode_all_but_one(source: dict[str, Any], **settings: Any) -> DecodedVideo:
    """Hang on the video named val1, as decord can, and decode the others."""
    if source["video_id"] == "val1":
        ctypes.PyDLL(None).sleep(600)
    return decode_video(source, **settings)


def decode_and_tell(source: dict[str, Any], **settings: Any) -> DecodedVideo:
    """Decode a video and leave a file beside it that says so."""
    decoded = decode_video(source, **settings)
    Path(source["path"]).with_suffix(".decoded").touch()
    return decoded
