"""Layouts of published feature releases, presented as ``video/<id>`` and ``text/<id>`` arrays.

Each reader yields the items of a release by the release's own id; ``open_release`` turns the ids
into those of the manifest, masks rows that are all zero, writes seconds and pools token features.
"""

from __future__ import annotations

import ast
import csv
import io
import math
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt
import torch

from gare_cache.cache.exchange.files import (
    Array,
    FeatureFile,
    StoredArray,
    mapped_npy,
    open_feature_file,
)
from gare_cache.cache.exchange.tables import TIMES, is_bfloat16
from gare_cache.cache.schema import Kind
from gare_cache.errors import (
    ConfigError,
    FeatureFileError,
    LimitExceeded,
    UnreadableFile,
    counted,
    unknown_name,
)
from gare_cache.files import canonical_digest, file_digest
from gare_cache.limits import check_expansion, read_npy_header, read_text

POOLS = ("mean", "eot")
_BLOCK_BYTES = 4 * 2**20
_NPY_HEADER_BYTES = 2**17
_SHOWN = 5
_MAP_HEADER = ["theirs", "ours"]


@dataclass(frozen=True)
class ReleaseOptions:
    """How the files of a release are understood.

    Attributes:
        layout: a name of ``LAYOUTS``, for the videos, and for captions unless the next is given.
        caption_layout: layout of the captions.
        video_key: array of each video's npz file, or dataset of each HDF5 group; None takes the
            only array of an npz file, or every dataset of an HDF5 file.
        caption_key: the same for captions.
        caption_name: how a release names captions, ``{}`` standing for the id: ``qid{}``.
        ids: CSV file with the header ``theirs,ours``: ids of the release and of the manifest.
        seconds_per_row: row i of a video is at i times this many seconds; None writes no seconds.
        pool: ``mean`` or ``eot`` (the last row) of a caption's (L, D) token features.

    Raises:
        ConfigError: an option is unknown, or has no effect on the layout.
    """

    layout: str
    caption_layout: str | None = None
    video_key: str | None = None
    caption_key: str | None = None
    caption_name: str = "{}"
    ids: Path | None = None
    seconds_per_row: float | None = None
    pool: str | None = None

    def __post_init__(self) -> None:
        for kind in ("video", "text"):
            if self.of(kind) not in LAYOUTS:
                raise ConfigError(unknown_name("layout", self.of(kind), [*LAYOUTS]))
            if self.key(kind) is not None and self.of(kind) not in _KEYED:
                flag = "--video-key" if kind == "video" else "--caption-key"
                raise ConfigError(
                    f"{flag} has no effect on the layout {self.of(kind)}, which has one array an "
                    "item"
                )
        if self.pool is not None and self.pool not in POOLS:
            raise ConfigError(unknown_name("pool", self.pool, POOLS))
        if self.caption_name.count("{}") != 1:
            raise ConfigError(
                f"--caption-name is {self.caption_name!r}; it must hold {{}} once, for the id"
            )
        seconds = self.seconds_per_row
        if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
            raise ConfigError(f"--seconds-per-row is {seconds}; it must be finite and above 0")

    def of(self, kind: Kind) -> str:
        """Return the layout of videos or captions."""
        return self.layout if kind == "video" else self.caption_layout or self.layout

    def key(self, kind: Kind) -> str | None:
        """Return the key of videos or captions."""
        return self.video_key if kind == "video" else self.caption_key

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the options and of the content of the map of ids."""
        ids = None if self.ids is None else file_digest(self.ids)
        return canonical_digest({**asdict(self), "ids": ids})


@contextmanager
def open_release(
    path: Path,
    kind: Kind,
    options: ReleaseOptions,
    *,
    say: Callable[[str], None],
    ignore_unknown: bool = False,
) -> Iterator[FeatureFile]:
    """Open the videos or the captions of a release.

    Every video is read once to find rows that are all zero.

    Args:
        path: a file or folder of the release.
        kind: ``video`` or ``text``.
        options: the layout and its options.
        say: called with notes on what is masked or left out.
        ignore_unknown: leave out items that the map of ids lacks.

    Raises:
        FeatureFileError: the file is faulty or has another layout, an id is not in the map or
            twice, or captions are token features and no pooling is named.
        ConfigError: a pooling is named, and no caption has token features.
    """
    if not path.exists():
        raise FeatureFileError(f"{path} does not exist")
    with LAYOUTS[options.of(kind)](path, options.key(kind)) as items:
        if not items:
            raise FeatureFileError(f"{path} holds no item of the layout {options.of(kind)}")
        named = _named(path, kind, items, options, say=say, ignore_unknown=ignore_unknown)
        raw = FeatureFile(path, {f"{kind}/{id_}": array for id_, array in named.items()})
        arrays = _pooled(raw, options.pool) if kind == "text" else _masked(raw, options, say)
        yield FeatureFile(path, arrays)


def _named(
    path: Path,
    kind: Kind,
    items: Mapping[str, StoredArray],
    options: ReleaseOptions,
    *,
    say: Callable[[str], None],
    ignore_unknown: bool,
) -> dict[str, StoredArray]:
    theirs = {_their_id(path, options, kind, name): array for name, array in items.items()}
    if options.ids is None:
        return theirs
    ours = _id_map(options.ids)
    unmapped = [id_ for id_ in theirs if id_ not in ours]
    if unmapped:
        note = (
            f"{len(unmapped):,} of {len(theirs):,} items of {path} are not in {options.ids}: "
            + ", ".join(unmapped[:_SHOWN])
        )
        if len(unmapped) == len(theirs) or not ignore_unknown:
            raise FeatureFileError(f"{note}; add them, or leave them out with --ignore-unknown")
        say(f"{note}; left out")
    return {ours[id_]: array for id_, array in theirs.items() if id_ in ours}


def _their_id(path: Path, options: ReleaseOptions, kind: Kind, name: str) -> str:
    if kind == "video" or options.caption_name == "{}":
        return name
    before, after = options.caption_name.split("{}")
    inner = name.removeprefix(before).removesuffix(after)
    if before + inner + after != name or not inner:
        raise FeatureFileError(
            f"{path}: {name!r} is not named like --caption-name {options.caption_name}"
        )
    return inner


def _id_map(path: Path) -> dict[str, str]:
    try:
        rows = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True))
    except (OSError, csv.Error, UnicodeDecodeError) as err:
        raise FeatureFileError(f"{path} cannot be read: {err}") from err
    if not rows or rows[0] != _MAP_HEADER:
        raise FeatureFileError(f"{path} must begin with the line {','.join(_MAP_HEADER)}")
    ours: dict[str, str] = {}
    taken: set[str] = set()
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(_MAP_HEADER) or not all(row):
            raise FeatureFileError(f"{path}, row {number}: two ids are needed, not {row}")
        if row[0] in ours or row[1] in taken:
            raise FeatureFileError(f"{path}, row {number}: an id occurs twice: {row}")
        ours[row[0]] = row[1]
        taken.add(row[1])
    return ours


def _masked(
    raw: FeatureFile, options: ReleaseOptions, say: Callable[[str], None]
) -> dict[str, StoredArray]:
    arrays: dict[str, StoredArray] = {}
    masked: dict[str, int] = {}
    for name, array in raw.arrays.items():
        arrays[name] = array
        if len(array.shape) != 2 or not _is_float(array.dtype):
            continue  # refused, by its name, with the other checks of shape and type
        kept = np.flatnonzero(_nonzero(raw, name))
        if len(kept) < array.shape[0]:
            masked[name] = array.shape[0] - len(kept)
            arrays[name] = _rows_of(array, kept)
        if options.seconds_per_row is not None:
            seconds = kept * options.seconds_per_row
            arrays[f"{TIMES}/{name.removeprefix('video/')}"] = _in_memory(seconds)
    if masked:
        say(
            f"warning: {counted(sum(masked.values()), 'row')} of {counted(len(masked), 'video')} "
            f"in {raw.path}, all zero, left out (first: "
            f"{next(iter(masked)).removeprefix('video/')!r})"
        )
    return arrays


def _nonzero(raw: FeatureFile, name: str) -> npt.NDArray[np.bool_]:
    """Return which of an array's (T, D) rows have a value that is not zero."""
    shape, dtype = raw.arrays[name].shape, raw.arrays[name].dtype
    step = max(1, _BLOCK_BYTES // max(1, shape[1] * dtype.itemsize))
    found = np.zeros(shape[0], dtype=bool)
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        found[start:stop] = wide(raw.rows(name, start, stop)).any(axis=1)
    return found


def _rows_of(array: StoredArray, kept: npt.NDArray[np.int64]) -> StoredArray:
    def read(start: int, stop: int) -> Array:
        rows = kept[start:stop]
        if not len(rows):
            return np.empty((0, *array.shape[1:]), array.dtype)
        between = array.read(int(rows[0]), int(rows[-1]) + 1)
        chosen: Array = between[rows - rows[0]]
        return chosen

    return StoredArray((len(kept), *array.shape[1:]), array.dtype, read)


def _in_memory(values: Array) -> StoredArray:
    return StoredArray(values.shape, values.dtype, lambda start, stop: values[start:stop])


def _pooled(raw: FeatureFile, pool: str | None) -> dict[str, StoredArray]:
    tokens = [name for name, array in raw.arrays.items() if len(array.shape) == 2]
    if tokens and pool is None:
        raise FeatureFileError(
            f"{raw.path}: {tokens[0]!r} has shape {raw.arrays[tokens[0]].shape}: features of "
            "tokens, which need not lie in the space of the videos; name the pooled feature with "
            "--caption-key, or a pooling with --pool mean|eot"
        )
    if pool is not None and not tokens:
        raise ConfigError(f"--pool has no effect: {raw.path} holds no (L, D) token features")
    pooled = {name: _pooled_array(raw, name, pool) for name in tokens if pool is not None}
    return {**raw.arrays, **pooled}


def _pooled_array(raw: FeatureFile, name: str, pool: str) -> StoredArray:
    array = raw.arrays[name]

    def read(start: int, stop: int) -> Array:
        rows = array.read(0, array.shape[0])
        rows = rows[wide(rows).any(axis=1)]  # all-zero rows are padding
        if not len(rows):
            return np.zeros(array.shape[1], dtype="<f4")[start:stop]
        vector: Array = rows[-1] if pool == "eot" else wide(rows).mean(axis=0, dtype="<f8")
        return vector[start:stop]

    mean = pool == "mean" and _is_float(array.dtype)
    return StoredArray(array.shape[1:], np.dtype("<f8") if mean else array.dtype, read)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or is_bfloat16(dtype)


def wide(rows: Array) -> Array:
    """Return bfloat16 as float32, and others as they are."""
    if not is_bfloat16(rows.dtype):
        return rows
    return (np.ascontiguousarray(rows).view("<u2").astype("<u4") << 16).view("<f4")


def _files(path: Path, suffix: str) -> dict[str, Path]:
    if not path.is_dir():
        raise FeatureFileError(f"{path} is not a folder of {suffix} files")
    return {
        file.relative_to(path).as_posix().removesuffix(suffix): file
        for file in sorted(path.rglob(f"*{suffix}"))
    }


@contextmanager
def _npz_per_item(path: Path, key: str | None) -> Iterator[dict[str, StoredArray]]:
    yield {id_: _npz_array(file, key) for id_, file in _files(path, ".npz").items()}


def _npz_array(path: Path, key: str | None) -> StoredArray:
    with open_feature_file(path) as file:
        if key is None and len(file.arrays) != 1:
            raise FeatureFileError(
                f"{path} holds {len(file.arrays)} arrays ({', '.join(file.arrays)}); name one "
                "with --video-key or --caption-key"
            )
        name = next(iter(file.arrays)) if key is None else key
        if name not in file.arrays:
            raise FeatureFileError(
                f"{path} holds no array {name!r} (found: {', '.join(file.arrays) or 'nothing'})"
            )
        shape, dtype = file.arrays[name].shape, file.arrays[name].dtype

    def read(start: int, stop: int) -> Array:
        # Opened at each read: a release has more files than a process may hold open.
        with open_feature_file(path) as file:
            return file.arrays[name].read(start, stop)

    return StoredArray(shape, dtype, read)


@contextmanager
def _npy_per_item(path: Path, _key: str | None) -> Iterator[dict[str, StoredArray]]:
    yield {id_: mapped_npy(file) for id_, file in _files(path, ".npy").items()}


@contextmanager
def _h5_per_item(path: Path, key: str | None) -> Iterator[dict[str, StoredArray]]:
    if not (path.is_file() and h5py.is_hdf5(path)):
        raise FeatureFileError(f"{path} is not an HDF5 file")
    with open_feature_file(path) as file:
        if key is None:
            yield dict(file.arrays)
            return
        ending = f"/{key}"
        groups = dict.fromkeys(name.rpartition("/")[0] for name in file.arrays)
        missing = [group for group in groups if f"{group}{ending}" not in file.arrays]
        if missing:
            found = ", ".join([*file.arrays][:_SHOWN])
            raise FeatureFileError(f"{path} holds no {missing[0]}{ending} (found: {found})")
        yield {group: file.arrays[f"{group}{ending}"] for group in groups}


@contextmanager
def _torch_dict(path: Path, _key: str | None) -> Iterator[dict[str, StoredArray]]:
    # The older format of torch.save is no zip archive and cannot be mapped.
    archive = zipfile.is_zipfile(path)
    try:
        if archive:
            with zipfile.ZipFile(path) as members:
                for info in members.infolist():
                    check_expansion(f"{path}, {info.filename}", info.compress_size, info.file_size)
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except LimitExceeded:
        raise
    except Exception as err:  # torch raises many kinds for a damaged file
        raise FeatureFileError(
            f"{path} cannot be read as a dict of tensors ({str(err).splitlines()[0]}); files of "
            "torch.save are read with weights_only, because any other pickle can run code"
        ) from err
    if not isinstance(held, dict) or not all(isinstance(v, torch.Tensor) for v in held.values()):
        raise FeatureFileError(f"{path} must be a dict from ids to tensors")
    items = {str(id_): _tensor(path, tensor) for id_, tensor in held.items()}
    if len(items) < len(held):
        raise FeatureFileError(f"{path} holds an id twice, as a number and as text")
    yield items


def _tensor(path: Path, tensor: torch.Tensor) -> StoredArray:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise FeatureFileError(f"{path} holds a tensor that is not a dense one of real numbers")
    check_expansion(path, path.stat().st_size, tensor.nbytes)
    brain = tensor.dtype == torch.bfloat16
    plain = tensor.detach()

    def read(start: int, stop: int) -> Array:
        rows = plain[start:stop].contiguous()
        # A copy: rows that are mapped do not outlive the file.
        return rows.view(torch.int16).numpy().view("V2").copy() if brain else rows.numpy().copy()

    dtype = np.dtype("V2") if brain else torch.empty(0, dtype=plain.dtype).numpy().dtype
    return StoredArray(tuple(plain.shape), dtype, read)


@contextmanager
def _bigfile(path: Path, _key: str | None) -> Iterator[dict[str, StoredArray]]:
    """``feature.bin`` of float32 rows, ``shape.txt``, ``id.txt``; videos have a dict of rows."""
    shape = _words(path / "shape.txt")
    if len(shape) != 2 or not all(word.isdecimal() for word in shape):
        raise FeatureFileError(f"{path / 'shape.txt'} must hold two numbers: rows and width")
    num, dim = int(shape[0]), int(shape[1])
    names = _words(path / "id.txt")
    if len(names) != num or len(set(names)) < num:
        raise FeatureFileError(
            f"{path / 'id.txt'} holds {len(set(names)):,} different ids of {len(names):,}, "
            f"shape.txt {counted(num, 'row')}"
        )
    values = path / "feature.bin"
    size = values.stat().st_size if values.is_file() else 0
    if not dim or size != num * dim * 4:
        raise FeatureFileError(
            f"{values} holds {size:,} bytes; {counted(num, 'row')} of {dim:,} float32 values take "
            f"{num * dim * 4:,}"
        )
    row_of = {name: row for row, name in enumerate(names)}
    listing = path / "video2frames.txt"
    if not listing.exists():
        yield {
            name: StoredArray((dim,), np.dtype("<f4"), _vector_reader(values, row, dim))
            for name, row in row_of.items()
        }
        return
    items = {}
    for video, frames in _frame_lists(listing).items():
        unknown = [frame for frame in frames if frame not in row_of]
        if unknown:
            raise FeatureFileError(f"{listing}: {unknown[0]!r} of {video!r} is not in id.txt")
        rows = np.array([row_of[frame] for frame in frames], dtype=np.int64)
        items[video] = StoredArray(
            (len(rows), dim), np.dtype("<f4"), _scattered_reader(values, rows, dim)
        )
    yield items


def _words(path: Path) -> list[str]:
    try:
        return read_text(path).split()
    except (OSError, UnicodeDecodeError) as err:
        raise FeatureFileError(f"{path} cannot be read: {err}") from err


def _frame_lists(path: Path) -> dict[str, list[str]]:
    try:
        held = ast.literal_eval(read_text(path).strip())
    except (OSError, ValueError, SyntaxError, MemoryError, RecursionError) as err:
        raise FeatureFileError(f"{path} is not the text of a dict: {err}") from err
    if not isinstance(held, dict) or not all(
        isinstance(video, str)
        and isinstance(frames, list)
        and all(isinstance(frame, str) for frame in frames)
        for video, frames in held.items()
    ):
        raise FeatureFileError(f"{path} must be a dict from videos to lists of ids of frames")
    return held


def _vector_reader(path: Path, row: int, dim: int) -> Callable[[int, int], Array]:
    def read(start: int, stop: int) -> Array:
        return np.array(np.memmap(path, dtype="<f4", mode="r").reshape(-1, dim)[row, start:stop])

    return read


def _scattered_reader(
    path: Path, rows: npt.NDArray[np.int64], dim: int
) -> Callable[[int, int], Array]:
    def read(start: int, stop: int) -> Array:
        return np.array(np.memmap(path, dtype="<f4", mode="r").reshape(-1, dim)[rows[start:stop]])

    return read


@contextmanager
def _webdataset(path: Path, _key: str | None) -> Iterator[dict[str, StoredArray]]:
    items: dict[str, StoredArray] = {}
    try:
        # Not compressed ("r:"), so that every array is read where it lies.
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.name.endswith(".npy"):
                    continue
                id_ = member.name.removeprefix("./").removesuffix(".npy")
                if id_ in items:
                    raise FeatureFileError(f"{path} holds {member.name} twice")
                items[id_] = _tar_array(path, member)
    except (OSError, tarfile.TarError) as err:
        raise FeatureFileError(
            f"{path} cannot be read as a tar archive without compression ({err})"
        ) from err
    yield items


def _tar_array(path: Path, member: tarfile.TarInfo) -> StoredArray:
    where = f"{path}, {member.name}"
    if not member.isreg() or member.issparse():
        raise FeatureFileError(f"{where} is a link or a sparse file, not the bytes of an array")
    with path.open("rb") as file:
        file.seek(0, io.SEEK_END)
        size = min(member.size, file.tell() - member.offset_data)
        file.seek(member.offset_data)
        try:
            header = io.BytesIO(file.read(min(size, _NPY_HEADER_BYTES)))
            shape, dtype, fortran = read_npy_header(header, where, size)
        except UnreadableFile as err:
            raise FeatureFileError(str(err)) from err
    first = member.offset_data + header.tell()

    def read(start: int, stop: int) -> Array:
        # Mapped, not read: an array may be larger than the memory.
        if 0 in shape:
            return np.empty((max(0, min(stop, shape[0]) - start), *shape[1:]), dtype)
        order: Literal["C", "F"] = "F" if fortran else "C"
        array = np.memmap(path, dtype, "r", offset=first, shape=shape, order=order)
        return np.array(array[start:stop] if shape else array)

    return StoredArray(shape, dtype, read)


_Reader = Callable[[Path, str | None], AbstractContextManager[dict[str, StoredArray]]]
LAYOUTS: dict[str, _Reader] = {
    "npz-per-item": _npz_per_item,
    "npy-per-item": _npy_per_item,
    "h5-per-item": _h5_per_item,
    "torch-dict": _torch_dict,
    "bigfile": _bigfile,
    "webdataset": _webdataset,
}
_KEYED = ("npz-per-item", "h5-per-item")
