"""Locks of a cache folder: one whole-cache writer, or the shards of one division.

The folder holds three kinds of lock files, each released by the system when its process dies:
``lock`` (exclusive for a whole-cache writer, shared by shards), ``lock.shard-i-of-n`` (one process
per shard) and ``lock.gate``, held briefly while locks are taken or rows allocated.

A driver that hands out units and its workers are a division of their own, without fixed parts:
``DRIVER`` and ``worker_shard(i)``.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gare_cache.errors import CacheError, ConfigError, EnvironmentFailure
from gare_cache.locks import (
    lock_within,
    opened,
    read_holder,
    try_lock,
    try_lock_patiently,
    write_holder,
)

_WHOLE = "lock"
_GATE = "lock.gate"
_SHARD = re.compile(r"lock\.shard-(\d+)-of-(\d+)")


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 1) of ``count``: it owns the units u with u % count == index - 1.

    A ``count`` of 0 is the division of a driver (``index`` 0) and its workers: any of them may be
    given any unit.
    """

    index: int
    count: int

    def __str__(self) -> str:
        if self.count:
            return f"shard {self.index}/{self.count}"
        return f"worker {self.index}" if self.index else "driver"

    def owns(self, unit: int) -> bool:
        """Return whether a unit belongs to this shard."""
        return self.count == 0 or unit % self.count == self.index - 1


DRIVER = Shard(0, 0)


def worker_shard(number: int) -> Shard:
    """Return the part of a driver's worker, numbered from 1."""
    return Shard(number, DRIVER.count)


def parse_shard(text: str) -> Shard:
    """Read ``i/n``.

    Raises:
        ConfigError: the text has another form, or i does not lie in 1..n.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    shard = Shard(int(match[1]), int(match[2])) if match else Shard(0, 0)
    if not 1 <= shard.index <= shard.count:
        raise ConfigError(f"--shard is {text!r}; give i/n with i from 1 to n, for example 1/4")
    return shard


@contextmanager
def gate(folder: Path) -> Iterator[None]:
    """Wait for the folder's short-term exclusive lock and hold it."""
    with opened(folder / _GATE) as descriptor:
        lock_within(descriptor, folder / _GATE)
        yield


@contextmanager
def whole_cache(folder: Path) -> Iterator[None]:
    """Hold the lock of a whole-cache writer.

    Raises:
        CacheError: other processes write it; the message has their pids.
    """
    with opened(folder / _WHOLE) as descriptor:
        with gate(folder):
            _acquire(descriptor, fcntl.LOCK_EX, folder)
            write_holder(descriptor, folder / _WHOLE)
        yield


@contextmanager
def shard_of_cache(folder: Path, shard: Shard) -> Iterator[None]:
    """Hold the lock of one shard; other shards of the same division may be at work.

    Raises:
        CacheError: a whole-cache writer, the same shard or a shard of another division is at work.
    """
    with (
        opened(folder / _WHOLE) as descriptor,
        opened(_shard_lock(folder, shard)) as shard_lock,
    ):
        with gate(folder):
            _refuse_other_divisions(folder, shard)
            _acquire(descriptor, fcntl.LOCK_SH, folder)
            _acquire(shard_lock, fcntl.LOCK_EX, folder)
            write_holder(shard_lock, _shard_lock(folder, shard))
        yield


def writers(folder: Path) -> list[str]:
    """List the processes that write the cache now, such as ``123`` or ``124 (shard 2/3)``."""
    names = [f"{holder} ({shard})" for shard, holder in shards_at_work(folder).items()]
    if not names and _is_held(folder / _WHOLE):
        names = [read_holder(folder / _WHOLE)]
    return names


def shards_at_work(folder: Path) -> dict[Shard, str]:
    """Return the shards that write the cache now, with the pid of each."""
    return {
        Shard(int(match[1]), int(match[2])): read_holder(path)
        for path in sorted(folder.glob("lock.shard-*"))
        if (match := _SHARD.fullmatch(path.name)) and _is_held(path)
    }


def is_at_work(folder: Path, shard: Shard) -> bool:
    """Return whether a process holds the lock of a shard, on this or another machine."""
    return _is_held(_shard_lock(folder, shard))


def refuse_while_written(folder: Path) -> None:
    """Check that no process writes the cache.

    Raises:
        CacheError: one does; the message has the pids.
    """
    names = writers(folder)
    if names:
        raise CacheError(_occupied(folder, names))


def require_locks(folder: Path) -> None:
    """Check that a folder's file system has locks that hold, and renames that replace.

    Raises:
        EnvironmentFailure: it has not, so that two writers could overwrite each other's work.
    """
    with tempfile.TemporaryDirectory(prefix="probe-", dir=folder) as probe:
        first, second = Path(probe) / "first", Path(probe) / "second"
        try:
            with opened(first) as one, opened(first) as other:
                holds = try_lock(one, fcntl.LOCK_EX) and not try_lock(other, fcntl.LOCK_EX)
            second.write_text("new")
            os.replace(second, first)
            replaces = first.read_text() == "new"
        except OSError as err:
            raise _unsafe(folder, f"{err.strerror}") from err
    if not holds:
        raise _unsafe(folder, "two processes can hold one lock")
    if not replaces:
        raise _unsafe(folder, "a rename does not replace a file")


def _unsafe(folder: Path, why: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"the file system of {folder} is not safe for several writers ({why}); put the caches on "
        "another one ($GARE_CACHE_ROOT), or extract shards on each machine and join them with "
        "`gare-cache cache merge`"
    )


def _shard_lock(folder: Path, shard: Shard) -> Path:
    return folder / f"lock.shard-{shard.index}-of-{shard.count}"


def _occupied(folder: Path, names: list[str]) -> str:
    pids = " ".join(name.split()[0] for name in names)
    return (
        f"{folder} is being written by process {', '.join(names)}; wait for it, or stop it with "
        f"`kill {pids}` and run again"
    )


def _refuse_other_divisions(folder: Path, shard: Shard) -> None:
    others = [
        f"{holder} ({other})"
        for other, holder in shards_at_work(folder).items()
        if other.count != shard.count
    ]
    if others:
        raise CacheError(f"{shard} belongs to another division: {_occupied(folder, others)}")


def _acquire(descriptor: int, mode: int, folder: Path) -> None:
    # Patiently: `writers` holds each lock for an instant while it looks.
    if not try_lock_patiently(descriptor, mode):
        raise CacheError(_occupied(folder, writers(folder) or ["unknown"]))


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)
