"""Extractions in processes of their own, that can be killed at any moment.

Children fork from a server that has imported everything, so that one costs a tenth of a second.
"""

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from gare_cache.cache import schema, writer
from gare_cache.cache.lock import Shard
from gare_cache.cache.rows import RowTable
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.stages.extract import extract
from tests.tiny import workspace

PAUSE_SECONDS = 0.02
_REPOSITORY = Path(__file__).parents[2]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.stages.extraction"])
os.environ["PYTHONPATH"] = os.pathsep.join(  # the server finds the tests there
    filter(None, [str(_REPOSITORY), os.environ.get("PYTHONPATH")])
)
import_open_clip()


def small_units() -> None:
    """Units of 4 videos and 8 captions: 4 and 4 of them in the tiny project."""
    schema._MOST_ROWS.update(video=4, text=8)
    schema._MOST_ROWS_OF_WORDS = 8


def start(project: Path, **options: Any) -> tuple[Any, Connection]:
    """Start an extraction; the connection tells its moments as they come."""
    receiving, sending = _context.Pipe(duplex=False)
    process = _context.Process(target=_extract, args=(project, sending, options))
    process.start()
    sending.close()
    return process, receiving


def run_command(*arguments: str, folder: Path, most_bytes: int | None = None) -> tuple[int, str]:
    """Run the command line in a child, with a limit on files; return its code and stderr."""
    receiving, sending = _context.Pipe(duplex=False)
    process = _context.Process(target=_command, args=(arguments, folder, most_bytes, sending))
    process.start()
    sending.close()
    code, err = receiving.recv()
    process.join()
    return code, err


def start_command(*arguments: str, folder: Path) -> Any:
    """Start the command line in a child that may be killed."""
    process = _context.Process(target=_command, args=(arguments, folder, None, None))
    process.start()
    return process


def arrays(project: Path) -> dict[str, Any]:
    (folder,) = (project / "cache").iterdir()
    group = zarr.open_group(folder / "features.zarr", mode="r")
    return {name: np.asarray(array[:]) for name, array in _members(group)}


def _members(group: zarr.Group) -> Iterator[tuple[str, Any]]:
    for name, member in group.members(max_depth=None):
        if isinstance(member, zarr.Array):
            yield name, member


def assert_equal_bytes(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert found[name].tobytes() == value.tobytes(), name


def _extract(project: Path, moments: Connection, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    small_units()
    sys.stderr = (project / f"stderr-{os.getpid()}").open("w")
    writer.write_chunk = _announced(moments, "chunk", writer.write_chunk)
    writer.write_unit_words = _announced(moments, "words", writer.write_unit_words)
    writer.journal.append = _announced(moments, "journal", writer.journal.append)
    writer.CacheWriter.commit = _announced(moments, "unit", writer.CacheWriter.commit)  # type: ignore[method-assign]
    RowTable.write = _announced(moments, "table", RowTable.write)  # type: ignore[method-assign]
    extract(workspace(project), **options)


def _announced(moments: Connection, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def announce(*args: Any, **kwargs: Any) -> Any:
        moments.send(name)
        time.sleep(PAUSE_SECONDS)
        return work(*args, **kwargs)

    return announce


def _command(
    arguments: tuple[str, ...], folder: Path, most_bytes: int | None, answer: Connection | None
) -> None:
    from typer.testing import CliRunner

    from gare_cache import cli

    torch.set_num_threads(1)
    os.chdir(folder)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
    result = CliRunner().invoke(cli.app, list(arguments))
    if answer is not None:
        answer.send((result.exit_code, result.stderr))


def shard(index: int, count: int) -> dict[str, Any]:
    return {"shard": Shard(index, count)}
