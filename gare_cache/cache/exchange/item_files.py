"""Releases of one file for many items: HDF5, a dict of torch.save, a tar of webdataset."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch

from gare_cache.cache.exchange.files import Array, StoredArray, open_feature_file
from gare_cache.errors import FeatureFileError, LimitExceeded, UnreadableFile
from gare_cache.files import is_zip
from gare_cache.limits import check_expansion, read_npy_header

_NPY_HEADER_BYTES = 2**17
_SHOWN = 5


@contextmanager
def h5_per_item(path: Path, key: str | None) -> Iterator[dict[str, StoredArray]]:
    """Yield each dataset, or the dataset ``key`` of each group.

    Raises:
        FeatureFileError: it is faulty, or holds no such array.
    """
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
def torch_dict(path: Path, _key: str | None) -> Iterator[dict[str, StoredArray]]:
    """Yield the tensors of a dict, read with ``weights_only``.

    Raises:
        FeatureFileError: it is faulty, or holds no such array.
    """
    # The older format of torch.save is no zip archive and cannot be mapped.
    archive = is_zip(path)
    try:
        if archive:
            with zipfile.ZipFile(path) as members:
                for info in members.infolist():
                    check_expansion(f"{path}, {info.filename}", info.compress_size, info.file_size)
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except LimitExceeded:
        raise
    except Exception as err:  # torch raises many kinds for a damaged file
        reason = next(iter(str(err).splitlines()), type(err).__name__)
        raise FeatureFileError(
            f"{path} cannot be read as a dict of tensors ({reason}); files of "
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
def webdataset(path: Path, _key: str | None) -> Iterator[dict[str, StoredArray]]:
    """Yield each member ``KEY.npy`` of a tar without compression.

    Raises:
        FeatureFileError: it is faulty, or holds no such array.
    """
    items: dict[str, StoredArray] = {}
    for _, member in tar_members(path):
        if not member.name.endswith(".npy"):
            continue
        id_ = member.name.removeprefix("./").removesuffix(".npy")
        if id_ in items:
            raise FeatureFileError(f"{path} holds {member.name} twice")
        items[id_] = tar_array(path, member)
    yield items


def tar_members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the members of a tar without compression, each with the open archive.

    Raises:
        FeatureFileError: it is no such tar, or damaged.
    """
    try:
        # Not compressed ("r:"), so that every array is read where it lies.
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                yield archive, member
    except (OSError, tarfile.TarError) as err:
        raise FeatureFileError(
            f"{path} cannot be read as a tar archive without compression ({err})"
        ) from err


def tar_array(path: Path, member: tarfile.TarInfo) -> StoredArray:
    """Return the array of a member ``KEY.npy``.

    Raises:
        FeatureFileError: it is faulty, or holds no such array.
    """
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
