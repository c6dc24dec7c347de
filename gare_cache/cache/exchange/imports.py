"""Convert features of a file to the float16 rows of a cache unit, with the result of each row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.cache.exchange.tables import Block, FeatureTable, is_bfloat16
from gare_cache.cache.journal import RowOutcome
from gare_cache.cache.schema import Kind, Layout

# Indexed by fault code; 0 means none.
_FAULTS = (
    "",
    "is zero in float16 and has no direction",
    "exceeds float16's largest value, 65,504",
    "holds NaN or infinity",
)

# Source of a cache row: a table and the position of the item in it.
Place = tuple[FeatureTable, int]


@dataclass(frozen=True)
class ImportedUnit:
    """Arguments of a unit's commit, and the error of the cast to float16.

    Attributes:
        values: array name -> rows.
        outcomes: one per row.
        relative_error: the largest ||x - float16(x)|| / ||x|| of the vectors kept.
    """

    values: dict[str, npt.NDArray[Any]]
    outcomes: list[RowOutcome]
    relative_error: float


@dataclass(frozen=True)
class _Cast:
    """(S, D) float16 vectors, with the relative error and fault code of each."""

    vectors: npt.NDArray[np.float16]
    errors: npt.NDArray[np.floating[Any]]
    faults: npt.NDArray[np.int8]


def import_unit(
    layout: Layout,
    kind: Kind,
    rows: Sequence[int],
    places: Sequence[Place],
    *,
    on_items: Callable[[int], None],
) -> ImportedUnit:
    """Read the rows of a unit, about 4 MB of the file at a time, and cast them to float16.

    Args:
        layout: shapes of the cache.
        kind: ``video`` or ``text``.
        rows: row of each item, ascending.
        places: source of each row; no item has more frames than the layout.
        on_items: called with the number of items done.

    Returns:
        Values in the order of ``rows``. An item without frames, or with a vector that is zero, not
        finite or beyond float16, has none, and its outcome says why.
    """
    values = {spec.name: spec.empty(len(rows)) for spec in layout.arrays(kind)}
    outcomes: list[RowOutcome] = []
    largest = 0.0
    for name, block in _blocks(places):
        cast = _to_float16(block.vectors)
        ends = np.cumsum(block.counts)
        for end, count in zip(ends.tolist(), block.counts.tolist(), strict=True):
            item = slice(end - count, end)
            reason = _reason(kind, name, cast.faults[item])
            if reason is None:
                _fill(values, kind, len(outcomes), cast.vectors[item], block.times[item])
                largest = max(largest, float(cast.errors[item].max()))
            outcomes.append(RowOutcome(rows[len(outcomes)], reason=reason))
        on_items(len(block.counts))
    return ImportedUnit(values, outcomes, largest)


def _blocks(places: Sequence[Place]) -> Iterator[tuple[str, Block]]:
    for _, members in groupby(places, key=lambda place: id(place[0])):
        in_table = list(members)
        table = in_table[0][0]
        for block in table.blocks([position for _, position in in_table]):
            yield table.file.path.name, block


def _fill(
    values: dict[str, npt.NDArray[Any]],
    kind: Kind,
    place: int,
    vectors: npt.NDArray[np.float16],
    times: npt.NDArray[np.float32],
) -> None:
    if kind == "text":
        values["text/features"][place] = vectors[0]
        return
    values["video/frames"][place, : len(vectors)] = vectors
    values["video/times"][place, : len(vectors)] = times
    values["video/num_frames"][place] = len(vectors)


def _to_float16(vectors: npt.NDArray[Any]) -> _Cast:
    if is_bfloat16(vectors.dtype):  # the upper half of a float32
        raw = np.ascontiguousarray(vectors).view("<u2").astype("<u4") << 16
        vectors = raw.view("<f4")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        half = vectors.astype("<f2")
        # float32 suffices here: a value whose square overflows it does not fit float16 either.
        wide = vectors.astype(np.float64 if vectors.dtype.itemsize > 4 else np.float32)
        norms = _norms(wide)
        errors = _norms(wide - half) / np.where(norms > 0, norms, 1.0)
    faults = np.zeros(len(vectors), dtype=np.int8)
    faults[~half.any(axis=1)] = 1
    faults[~np.isfinite(half).all(axis=1)] = 2
    faults[~np.isfinite(vectors).all(axis=1)] = 3
    return _Cast(half, errors, faults)


def _norms(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    norms: npt.NDArray[Any] = np.sqrt(np.einsum("sd,sd->s", vectors, vectors))
    return norms


def _reason(kind: Kind, file_name: str, faults: npt.NDArray[np.int8]) -> str | None:
    if not len(faults):
        return f"no frames in {file_name}"
    faulty = np.flatnonzero(faults)
    if not len(faulty):
        return None
    first = int(faulty[0])
    subject = "its feature" if kind == "text" else f"frame {first} of {len(faults)}"
    return f"{subject} {_FAULTS[faults[first]]} in {file_name}"
