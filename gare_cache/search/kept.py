"""Arrays with a row for each video of a gallery, kept on disk and checked by their checksums."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from gare_cache.errors import CacheError, UnreadableFile
from gare_cache.files import read_json, replacing, write_record
from gare_cache.heads.scoring import blocks
from gare_cache.limits import read_npy_header
from gare_cache.locks import lock_within, opened
from gare_cache.project.progress import progress

_ROWS_AT_A_TIME = 512

Compute = Callable[[Sequence[int]], Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Spec:
    """What an array holds.

    Attributes:
        shape: of a row.
        dtype: of its numbers.
        whole: whether it is read as a whole anyway: then it is checked when it is opened, and else
            each row when it is first read.
    """

    shape: tuple[int, ...]
    dtype: npt.DTypeLike
    whole: bool


@dataclass(frozen=True, eq=False)
class KeptArray:
    """An array on disk, memory-mapped.

    Attributes:
        path: its file.
        keys: of the videos, one a row of the array.
        checksums: CRC-32 of each row, or of each 512 rows of an array that is read as a whole.
        values: (N, ...).
    """

    path: Path
    keys: Sequence[int]
    checksums: npt.NDArray[np.uint32]
    values: npt.NDArray[Any]
    _sound: npt.NDArray[np.bool_]

    def take(self, places: Sequence[int]) -> npt.NDArray[Any]:
        """Return rows of the array; each is checked the first time.

        Raises:
            CacheError: a row is not what was written.
        """
        asked = np.asarray(places, np.int64)
        taken: npt.NDArray[Any] = self.values[asked]
        new = np.flatnonzero(~self._sound[asked])
        if not np.array_equal(_checksums(taken[new], 1), self.checksums[asked[new]]):
            raise CacheError(
                f"{self.path} is damaged: a row does not have its checksum; delete it, and the "
                "next `gare-cache index` or `gare-cache search` computes it again"
            )
        self._sound[asked] = True
        return taken


def keep(
    folder: Path, keys: Sequence[int], specs: Mapping[str, Spec], compute: Compute, *, label: str
) -> dict[str, KeptArray]:
    """Return arrays of a gallery; what is on disk of a video is taken from there.

    Files that are not whole count for nothing and are written again. Each array is replaced at
    once, in one pass over the videos.

    Args:
        folder: where ``NAME.npy`` and ``NAME.json`` of each array lie.
        keys: of the videos, in the gallery's order: what was made of a video's features holds for
            every video of the same key.
        specs: by the names of the arrays.
        compute: returns the arrays of some videos, given by their places in ``keys``.
        label: of the progress.

    Raises:
        EnvironmentFailure: they cannot be written, or another process has been writing them for
            half a minute.
        CacheError: they are not on disk as they were written.
    """
    lock = folder.with_name(f"{folder.name}.lock")  # one process writes, the others find it done
    with opened(lock) as descriptor:
        lock_within(descriptor, lock)
        found = {name: _opened(folder, name, spec) for name, spec in specs.items()}
        stale = {n: of for n, of in found.items() if of is None or list(of.keys) != list(keys)}
        if stale:
            _write(folder, keys, {name: specs[name] for name in stale}, stale, compute, label)
            found |= {name: _opened(folder, name, specs[name]) for name in stale}
    whole = {name: of for name, of in found.items() if of is not None}
    if len(whole) < len(found):
        raise CacheError(f"{folder} is not as it was just written; run the command again")
    return whole


def _opened(folder: Path, name: str, spec: Spec) -> KeptArray | None:
    """Return an array as it lies on disk; None if it is not there or not whole."""
    file, record = folder / f"{name}.npy", folder / f"{name}.json"
    if not file.is_file() or not record.is_file():
        return None
    try:
        about = read_json(record)
        with file.open("rb") as opened_file:
            read_npy_header(opened_file, file, file.stat().st_size)
        values = np.load(file, mmap_mode="c")
        keys, checksums = about["keys"], np.array(about["checksums"], np.uint32)
    except (ValueError, KeyError, UnreadableFile):  # cut short, or not what was written
        return None
    if values.shape != (len(keys), *spec.shape) or values.dtype != spec.dtype:
        return None
    if spec.whole and not np.array_equal(_checksums(values, _ROWS_AT_A_TIME), checksums):
        return None
    sound = np.full(len(values), spec.whole)
    return KeptArray(file, keys, checksums, np.asarray(values), sound)


def _write(
    folder: Path,
    keys: Sequence[int],
    specs: Mapping[str, Spec],
    old: Mapping[str, KeptArray | None],
    compute: Compute,
    label: str,
) -> None:
    known = {name: _places(of) for name, of in old.items()}
    checksums: dict[str, list[npt.NDArray[np.uint32]]] = {name: [] for name in specs}
    new = [key for key in keys if any(key not in of for of in known.values())]
    with progress(label, len(new)) as advance, ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for name, spec in specs.items():
            partial = stack.enter_context(replacing(folder / f"{name}.npy"))
            files[name] = stack.enter_context(partial.open("wb"))
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(spec.dtype)),
                **{"fortran_order": False, "shape": (len(keys), *spec.shape)},
            }
            np.lib.format.write_array_header_1_0(files[name], header)
        for block in _blocks(keys, specs, old, known, compute, advance):
            for name, values in block.items():
                files[name].write(values.data)
                step = _ROWS_AT_A_TIME if specs[name].whole else 1
                checksums[name].append(_checksums(values, step))
        # The records are written last: without them the arrays count for nothing.
        for name in specs:
            (folder / f"{name}.json").unlink(missing_ok=True)
    for name, parts in checksums.items():
        of_all = np.concatenate([np.empty(0, np.uint32), *parts]).tolist()
        write_record(folder / f"{name}.json", {"keys": list(keys), "checksums": of_all})


def _blocks(
    keys: Sequence[int],
    specs: Mapping[str, Spec],
    old: Mapping[str, KeptArray | None],
    known: Mapping[str, Mapping[int, int]],
    compute: Compute,
    advance: Callable[[int], None],
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield the arrays of some videos after the other."""
    for part in blocks(len(keys), _ROWS_AT_A_TIME):
        places = range(part.start, part.stop)
        new = [place for place in places if any(keys[place] not in of for of in known.values())]
        computed = compute(new) if new else {}
        block = {}
        for name, spec in specs.items():
            values = np.empty((len(places), *spec.shape), spec.dtype)
            of, where = old[name], known[name]
            kept = [place for place in places if keys[place] in where]
            if of is not None and kept:
                values[np.array(kept) - part.start] = of.take([where[keys[at]] for at in kept])
            if new:
                values[np.array(new) - part.start] = computed[name]
            block[name] = values
        advance(len(new))
        yield block


def _places(of: KeptArray | None) -> dict[int, int]:
    return {} if of is None else {key: place for place, key in enumerate(of.keys)}


def _checksums(values: npt.NDArray[Any], step: int) -> npt.NDArray[np.uint32]:
    """Return the CRC-32 of each ``step`` rows."""
    parts = [zlib.crc32(values[part].data) for part in blocks(len(values), step)]
    return np.array(parts, np.uint32)
