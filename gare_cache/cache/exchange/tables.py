"""Layouts of feature files: which arrays hold the vectors of which item (docs/features.md).

One array per item: ``video/<video_id>`` (F, D) with, optionally, ``times/<video_id>`` (F,);
``text/<caption_id>`` (D,). Packed: ``video_ids`` (N,), ``frames`` (N, F, D) and, optionally,
``num_frames`` (N,) and ``times`` (N, F); ``caption_ids`` (M,), ``text`` (M, D).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.cache.exchange.files import FeatureFile, StoredArray
from gare_cache.cache.schema import KINDS, Kind
from gare_cache.errors import FeatureFileError, counted

PACKED: dict[Kind, str] = {"video": "frames", "text": "text"}
IDS: dict[Kind, str] = {"video": "video_ids", "text": "caption_ids"}
TIMES = "times"
NUM_FRAMES = "num_frames"
ENCODER_IDENTITY = "encoder_identity"
MAX_FRAMES = "max_frames"
HEAD_START_PREFIX = "encoder_init/"
_ROW_SHAPE: dict[Kind, str] = {"video": "(F, D)", "text": "(D,)"}
_BLOCK_BYTES = 4 * 2**20
_SHOWN = 5


@dataclass(frozen=True)
class Block:
    """Vectors of several items, as stored.

    Attributes:
        counts: (n,) number of vectors of each item.
        vectors: (sum of counts, D).
        times: (sum of counts,) seconds, NaN where the file has none.
    """

    counts: npt.NDArray[np.int64]
    vectors: npt.NDArray[Any]
    times: npt.NDArray[np.float32]


@dataclass(frozen=True)
class FeatureTable:
    """The items of one kind in one file; made by ``find_tables``.

    Attributes:
        file: the file that holds them.
        kind: ``video`` or ``text``.
        ids: id of every item, in the file's order, each once.
        counts: (n,) number of vectors of every item: its frames, 1 for a caption.
        width: most vectors per item: F of packed frames, else the largest count.
        dim: width D of the vectors.
        dtypes: names of the stored types.
        packed: whether the items are rows of a single array.
    """

    file: FeatureFile
    kind: Kind
    ids: Sequence[str]
    counts: npt.NDArray[np.int64]
    width: int
    dim: int
    dtypes: frozenset[str]
    packed: bool

    def blocks(self, positions: Sequence[int]) -> Iterator[Block]:
        """Read items by their position in ``ids``, in the given order, about 4 MB at a time.

        Raises:
            FeatureFileError: the file is damaged.
        """
        if not self.packed:
            yield from map(self._item, positions)
            return
        array = self.file.arrays[PACKED[self.kind]]
        row_bytes = int(np.prod(array.shape[1:], dtype=int)) * array.dtype.itemsize
        for start, stop in _runs(positions, most=max(1, _BLOCK_BYTES // max(1, row_bytes))):
            yield self._packed(start, stop)

    def _item(self, position: int) -> Block:
        id_, count = self.ids[position], int(self.counts[position])
        name = f"{self.kind}/{id_}"
        vectors = self.file.rows(name, 0, self.file.arrays[name].shape[0]).reshape(count, self.dim)
        times = f"{TIMES}/{id_}"
        has_times = self.kind == "video" and times in self.file.arrays
        seconds = self.file.rows(times, 0, count) if has_times else np.full(count, np.nan)
        return Block(self.counts[[position]], vectors, seconds.astype(np.float32))

    def _packed(self, start: int, stop: int) -> Block:
        counts = self.counts[start:stop]
        rows = self.file.rows(PACKED[self.kind], start, stop)
        if self.kind == "text":
            return Block(counts, rows, np.full(len(rows), np.nan, np.float32))
        real = np.arange(self.width)[None, :] < counts[:, None]
        times = np.full(real.shape, np.nan, np.float32)
        if TIMES in self.file.arrays:
            times[:] = self.file.rows(TIMES, start, stop)
        return Block(counts, rows[real], times[real])


def find_tables(file: FeatureFile) -> dict[Kind, FeatureTable]:
    """Find the features of one or both kinds in a file; check ids, shapes and types.

    Raises:
        FeatureFileError: the file holds no features, or contradictory ones.
    """
    tables: dict[Kind, FeatureTable] = {}
    for kind in KINDS:
        names = [name for name in file.arrays if name.startswith(f"{kind}/")]
        packed = PACKED[kind] in file.arrays
        if names and packed:
            raise FeatureFileError(
                f"{file.path} holds {kind} features twice: as {PACKED[kind]!r} and as "
                f"{names[0]!r} and others; keep one"
            )
        if packed:
            tables[kind] = _packed_table(file, kind)
        elif names:
            tables[kind] = _item_table(file, kind, names)
    if not tables:
        held = ", ".join([*file.arrays][:_SHOWN]) or "nothing"
        raise FeatureFileError(
            f"{file.path} holds no features: neither video/<video_id> nor frames, neither "
            f"text/<caption_id> nor text (found: {held}); see docs/features.md"
        )
    return tables


def _item_table(file: FeatureFile, kind: Kind, names: Sequence[str]) -> FeatureTable:
    rank = 2 if kind == "video" else 1
    dim = (file.arrays[names[0]].shape or (0,))[-1]
    for name in names:
        array = file.arrays[name]
        _check_array(file, name, array, rank=rank, wanted=_ROW_SHAPE[kind])
        if array.shape[-1] != dim:
            raise FeatureFileError(
                f"{file.path}: {name!r} has width {array.shape[-1]}, but {names[0]!r} has {dim}; "
                "all vectors must come from one encoder"
            )
    ids = [name.removeprefix(f"{kind}/") for name in names]
    counts = [file.arrays[name].shape[0] if kind == "video" else 1 for name in names]
    if kind == "video":
        for id_, count in zip(ids, counts, strict=True):
            _check_times(file, f"{TIMES}/{id_}", (count,))
    return FeatureTable(
        file=file,
        kind=kind,
        ids=ids,
        counts=np.asarray(counts, dtype=np.int64),
        width=max(counts),
        dim=dim,
        dtypes=frozenset(_dtype_name(file.arrays[name]) for name in names),
        packed=False,
    )


def _packed_table(file: FeatureFile, kind: Kind) -> FeatureTable:
    name, array = PACKED[kind], file.arrays[PACKED[kind]]
    rank, wanted = (3, "(N, F, D)") if kind == "video" else (2, "(M, D)")
    _check_array(file, name, array, rank=rank, wanted=wanted)
    ids = file.ids(IDS[kind])
    if ids is None:
        raise FeatureFileError(f"{file.path} holds {name!r} without {IDS[kind]!r}")
    if len(ids) != array.shape[0]:
        raise FeatureFileError(
            f"{file.path}: {IDS[kind]} holds {counted(len(ids), 'id')}, {name} "
            f"{counted(array.shape[0], 'row')}"
        )
    repeated = [id_ for id_, count in Counter(ids).items() if count > 1]
    if repeated:
        raise FeatureFileError(
            f"{file.path}: {len(repeated):,} {IDS[kind]} occur more than once: "
            f"{', '.join(repeated[:_SHOWN])}"
        )
    width = array.shape[1] if kind == "video" else 1
    if kind == "video":
        _check_times(file, TIMES, array.shape[:2])
    return FeatureTable(
        file=file,
        kind=kind,
        ids=ids,
        counts=_packed_counts(file, kind, len(ids), width),
        width=width,
        dim=array.shape[-1],
        dtypes=frozenset([_dtype_name(array)]),
        packed=True,
    )


def _packed_counts(file: FeatureFile, kind: Kind, num: int, width: int) -> npt.NDArray[np.int64]:
    array = file.arrays.get(NUM_FRAMES)
    if kind == "text" or array is None:
        return np.full(num, width, dtype=np.int64)
    if array.shape != (num,) or array.dtype.kind not in "iu":
        raise FeatureFileError(
            f"{file.path}: num_frames is {array.dtype} of shape {array.shape}; integers of "
            f"shape ({num},) are needed, one per video"
        )
    counts = file.rows(NUM_FRAMES, 0, num).astype(np.int64)
    if num and not 0 <= counts.min() <= counts.max() <= width:
        raise FeatureFileError(
            f"{file.path}: num_frames ranges from {counts.min()} to {counts.max()}, but frames has "
            f"room for 0 to {width}"
        )
    return counts


def _check_array(
    file: FeatureFile, name: str, array: StoredArray, *, rank: int, wanted: str
) -> None:
    if len(array.shape) != rank:
        raise FeatureFileError(
            f"{file.path}: {name!r} has shape {array.shape}; {wanted} is needed, with a first axis "
            "of 1 for a single vector"
        )
    if array.shape[-1] == 0:
        raise FeatureFileError(f"{file.path}: {name!r} has shape {array.shape}: width 0")
    if array.dtype.kind != "f" and not is_bfloat16(array.dtype):
        raise FeatureFileError(
            f"{file.path}: {name!r} holds {array.dtype}; features are float16, bfloat16, float32 "
            "or float64"
        )


def _check_times(file: FeatureFile, name: str, shape: tuple[int, ...]) -> None:
    array = file.arrays.get(name)
    if array is not None and (array.shape != shape or array.dtype.kind not in "fiu"):
        raise FeatureFileError(
            f"{file.path}: {name!r} is {array.dtype} of shape {array.shape}; seconds of shape "
            f"{shape} are needed, one per frame"
        )


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is 2 raw bytes, as which numpy, lacking bfloat16, stores it."""
    return dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None


def _dtype_name(array: StoredArray) -> str:
    return "bfloat16" if is_bfloat16(array.dtype) else array.dtype.name


def _runs(positions: Sequence[int], *, most: int) -> Iterator[tuple[int, int]]:
    """Yield maximal ranges of consecutive positions, each at most ``most`` long."""
    start = stop = -1
    for position in positions:
        if position == stop and stop - start < most:
            stop += 1
            continue
        if stop > start:
            yield start, stop
        start, stop = position, position + 1
    if stop > start:
        yield start, stop
