"""A fault that verification finds, and the remedies that several checks name."""

from __future__ import annotations

from dataclasses import dataclass

from gare_cache.cache.chunks import DROP_COMMAND
from gare_cache.cache.schema import Kind

WRITE_AGAIN = f"run `{DROP_COMMAND}`, then `gare-cache extract`"
_SHOWN = 5


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
