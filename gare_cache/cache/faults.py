"""A fault that verification finds, and the remedies that several checks name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gare_cache.cache.chunks import DROP_COMMAND
from gare_cache.cache.schema import Kind
from gare_cache.errors import CacheError

FRAMES_COMMAND = "gare-cache extract --frames"
WRITE_AGAIN = f"run `{DROP_COMMAND}`, then `gare-cache extract`"
_SHOWN = 5


def for_frames(text: str, folder: Path) -> str:
    """Return a message with the commands that write and mend a cache of frames.

    Args:
        text: the message, with the commands for the project's cache of features.
        folder: the cache of frames.
    """
    drop = DROP_COMMAND.replace("verify", f"verify {folder.name}")
    text = text.replace("`gare-cache extract`", f"`{FRAMES_COMMAND}`")
    return text.replace(f"`{DROP_COMMAND}`", f"`{drop}`")


@contextmanager
def frame_errors(folder: Path) -> Iterator[None]:
    """Word the errors of a cache of frames as ``for_frames`` does."""
    try:
        yield
    except CacheError as err:
        raise type(err)(for_frames(str(err), folder)) from err


@dataclass(frozen=True)
class Fault:
    """A difference between a cache and what was written.

    Attributes:
        file: path below the cache folder, or the source's path.
        problem: what is wrong.
        remedy: what to do.
        unit: the unit to write again; None if that does not help.
        rows: the rows concerned; empty for the whole unit.
        harmless: only rows that are not done are concerned; extraction overwrites them.
    """

    file: str
    problem: str
    remedy: str
    unit: tuple[Kind, int] | None = None
    rows: tuple[int, ...] = ()
    harmless: bool = False

    def __str__(self) -> str:
        place = "" if self.unit is None else f" ({self.unit[0]} unit {self.unit[1]}"
        if place and self.rows:
            shown = ", ".join(map(str, self.rows[:_SHOWN]))
            place += f", rows {shown}{', ...' if len(self.rows) > _SHOWN else ''}"
        return f"{self.file}: {self.problem}{place + ')' if place else ''}; {self.remedy}"
