"""An approximate store for large galleries: an inverted file (IVF) of faiss beside the vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.errors import ConfigError, UnreadableFile
from gare_cache.files import canonical_digest, file_digest, read_json, replacing, write_record
from gare_cache.heads.scoring import blocks
from gare_cache.project.progress import progress, say
from gare_cache.search.store import Mask, Shortlist, Vectors, places_of, stamps

NPROBE = 64
_INDEX, _ROWS, _RECORD = "faiss.index", "faiss.npy", "faiss.json"
_FORMAT = 1
_SAMPLE_OF_A_LIST = 64  # vectors a list that the centroids are found from
_ROUNDS = 10
_BLOCK_ROWS = 32_768


class FaissStore:
    """The vectors of the lists whose centroids are nearest to the query, all compared exactly."""

    def __init__(self, faiss: Any, index: Any, rows: Sequence[int], nprobe: int) -> None:
        """Keep an index.

        Args:
            faiss: the package.
            index: IVF whose ids are rows of the cache.
            rows: of the cache, in the order of the gallery's videos.
            nprobe: lists that a query looks into.
        """
        self._faiss = faiss
        self._index = index
        self._rows = np.asarray(rows, np.int64)
        self._nprobe = min(nprobe, index.nlist)

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self._rows)

    @property
    def identity(self) -> str:
        """What the result of ``nearest`` depends on beside the vectors."""
        return f"faiss IVF{self._index.nlist} nprobe {self._nprobe}"

    def nearest(
        self, queries: npt.NDArray[np.float32], count: int, allowed: Mask | None = None
    ) -> Shortlist:
        """Return the nearest vectors of the probed lists; see ``VectorStore``.

        Twice as many lists are probed until there are ``count`` vectors, or all that are allowed.
        """
        faiss, count = self._faiss, min(count, len(self))
        rows = np.full((len(queries), count), -1, np.int64)
        scores = np.full((len(queries), count), -np.inf, np.float32)
        bits = None if allowed is None else _bitmap(self._rows[allowed])
        wanted = count if allowed is None else min(count, int(allowed.sum()))
        if not wanted:
            return Shortlist(rows, scores)
        asked = np.ascontiguousarray(queries, np.float32)
        probes = self._nprobe
        while True:
            options: dict[str, Any] = {"nprobe": probes}
            if bits is not None:
                options["sel"] = faiss.IDSelectorBitmap(bits)
            parameters = faiss.SearchParametersIVF(**options)
            found, ids = self._index.search(asked, wanted, params=parameters)
            if probes == self._index.nlist or (ids >= 0).all():
                break
            probes = min(2 * probes, self._index.nlist)
        rows[:, :wanted] = places_of(ids, self._rows)
        scores[:, :wanted] = np.where(ids < 0, -np.inf, found)
        return Shortlist(rows, scores)


def open_faiss(
    vectors: Vectors, rows: Sequence[int], folder: Path, *, nprobe: int | None = None
) -> FaissStore:
    """Return the index of a gallery, brought up to date: new rows are added, others removed.

    It is built anew where there is none, where it is damaged, where a vector is not the one that
    was indexed, and where the gallery has less than half or more than twice the size at which
    the centroids were found.

    Args:
        vectors: (N, D) of length 1.
        rows: of the cache, one a vector; a row never changes.
        folder: where the index is kept.
        nprobe: lists that a query looks into; None takes 64.

    Raises:
        ConfigError: faiss is not installed.
    """
    faiss = _import()
    wanted, now = np.asarray(rows, np.int64), stamps(vectors)
    kept = _kept(faiss, folder, wanted, now)
    if kept is None:
        index, trained = _built(faiss, vectors), len(wanted)
        missing = np.ones(len(wanted), bool)
    else:
        index, known, trained = kept
        missing = ~np.isin(wanted, known)
        gone = known[~np.isin(known, wanted)]
        if len(gone):
            index.remove_ids(gone)
        if not missing.any() and not len(gone):
            return FaissStore(faiss, index, rows, nprobe or NPROBE)
    _add(index, vectors, wanted, np.flatnonzero(missing))
    _write(faiss, folder, index, np.stack([wanted, now.view(np.int64)]), trained)
    return FaissStore(faiss, index, rows, nprobe or NPROBE)


def number_of_lists(size: int) -> int:
    """Return the number of lists for a gallery: 2 sqrt(N), each of 39 vectors or more."""
    return max(1, min(int(2 * math.sqrt(size)), size // 39))


def _import() -> Any:
    try:
        import faiss
    except ImportError as err:
        raise ConfigError(
            "--index faiss needs the package faiss: pip install 'gare-cache[ann]'"
        ) from err
    return faiss


def _kept(
    faiss: Any, folder: Path, wanted: npt.NDArray[np.int64], now: npt.NDArray[np.uint64]
) -> tuple[Any, npt.NDArray[np.int64], int] | None:
    """Return the index of an earlier gallery, its rows and size when trained; None if unusable."""
    if not (folder / _RECORD).exists():
        return None
    try:
        record = read_json(folder / _RECORD)
        digests = [file_digest(folder / name) for name in (_INDEX, _ROWS)]
    except (UnreadableFile, OSError):
        record, digests = {}, []
    if record.get("files") != digests or record.get("made_by") != _maker(faiss):
        say("note: the faiss index is damaged, or of another version: it is built again")
        return None
    known, then = np.load(folder / _ROWS)  # (2, M) rows and stamps of the vectors
    common, places, old = np.intersect1d(wanted, known, return_indices=True)
    if not np.array_equal(now[places], then[old].view(np.uint64)):
        say("note: the faiss index holds other vectors than the gallery: it is built again")
        return None
    if not record["trained"] / 2 <= len(wanted) <= record["trained"] * 2 or not len(common):
        say("note: the gallery outgrew its faiss index, or shrank below half: it is built again")
        return None
    return faiss.read_index(str(folder / _INDEX)), known, record["trained"]


def _maker(faiss: Any) -> str:
    return canonical_digest([_FORMAT, faiss.__version__])


def _built(faiss: Any, vectors: Vectors) -> Any:
    """Return an index with centroids and without vectors."""
    dim, num_lists = vectors.shape[1], number_of_lists(len(vectors))
    index = faiss.IndexIVFScalarQuantizer(
        *(faiss.IndexFlatIP(dim), dim, num_lists),
        *(faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False),
    )
    index.cp.niter, index.cp.spherical, index.cp.min_points_per_centroid = _ROUNDS, True, 1
    size = min(len(vectors), _SAMPLE_OF_A_LIST * num_lists)
    sample = np.linspace(0, len(vectors) - 1, size).astype(np.int64)
    with progress("lists of the faiss index", num_lists) as advance:
        index.train(np.asarray(vectors[sample], np.float32))
        advance(num_lists)
    return index


def _add(
    index: Any, vectors: Vectors, rows: npt.NDArray[np.int64], places: npt.NDArray[np.int64]
) -> None:
    with progress("vectors of the faiss index", len(places)) as advance:
        for part in blocks(len(places), _BLOCK_ROWS):
            chosen = places[part]
            index.add_with_ids(np.asarray(vectors[chosen], np.float32), rows[chosen])
            advance(len(chosen))


def _write(faiss: Any, folder: Path, index: Any, rows: npt.NDArray[np.int64], trained: int) -> None:
    # The record is written last: without it the index counts for nothing.
    (folder / _RECORD).unlink(missing_ok=True)
    with replacing(folder / _INDEX) as partial:
        faiss.write_index(index, str(partial))
    with replacing(folder / _ROWS) as partial, partial.open("wb") as file:
        np.save(file, rows)
    digests = [file_digest(folder / name) for name in (_INDEX, _ROWS)]
    record = {"files": digests, "trained": trained, "made_by": _maker(faiss)}
    write_record(folder / _RECORD, record)


def _bitmap(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Return one bit a row, the lowest first."""
    bits = np.zeros(int(rows.max(initial=-1)) + 1, bool)
    bits[rows] = True
    return np.packbits(bits, bitorder="little")
