"""Locks of files: each is released by the system when the process that holds it dies."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gare_cache.errors import EnvironmentFailure, disk_errors

PATIENCE_SECONDS = 30.0  # for a lock that others hold for an instant
_ATTEMPTS = 5
_SECONDS_BETWEEN_ATTEMPTS = 0.05
_held: set[int] = set()


@contextmanager
def alone(locks: Path, place: Path, doing: str) -> Iterator[None]:
    """Hold a folder against other processes that would write it, too.

    Args:
        locks: folder of the lock files.
        place: the folder that is written.
        doing: the command, for the message of the other process.

    Raises:
        EnvironmentFailure: another process holds it; the message names it.
    """
    name = hashlib.sha256(os.fsencode(place.resolve())).hexdigest()[:16]
    with opened(locks / f"{name}.lock") as descriptor:
        if not try_lock_patiently(descriptor, fcntl.LOCK_EX):
            holder = read_holder(locks / f"{name}.lock")
            raise EnvironmentFailure(
                f"{place} is being written by process {holder}; wait for it, or stop it with "
                f"`kill {holder.split()[0]}` and run again"
            )
        write_holder(descriptor, locks / f"{name}.lock", doing)
        yield


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a lock file, and create it if it is missing; closing it releases its locks."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(descriptor)
    try:
        yield descriptor
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def try_lock(descriptor: int, mode: int) -> bool:
    """Take a lock if nobody holds one against it; return whether it was taken."""
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_lock_patiently(descriptor: int, mode: int) -> bool:
    """Take a lock as ``try_lock`` does; others may hold it for an instant to look, or to fork."""
    for _ in range(_ATTEMPTS):
        if try_lock(descriptor, mode):
            return True
        time.sleep(_SECONDS_BETWEEN_ATTEMPTS)
    return False


def lock_within(descriptor: int, path: Path, seconds: float | None = None) -> None:
    """Take an exclusive lock, and wait for it for a limited time.

    Args:
        descriptor: the open file.
        path: its path, for the message.
        seconds: how long others may hold it; None for the instant of a short step (30 s).

    Raises:
        EnvironmentFailure: another process still holds it; the message names it.
    """
    seconds = PATIENCE_SECONDS if seconds is None else seconds
    end = time.monotonic() + seconds
    while not try_lock(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > end:
            raise EnvironmentFailure(
                f"{path} has been locked for {seconds:g} s by {holder_of(path)}; if that is "
                "stopped, continue or end it (`kill -CONT PID`, `kill -KILL PID`), and run again"
            )
        time.sleep(_SECONDS_BETWEEN_ATTEMPTS / 10)


def holder_of(path: Path) -> str:
    """Return the process that holds a file's lock, as Linux lists it in ``/proc/locks``."""
    try:
        inode = f":{path.stat().st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()  # 1: FLOCK ADVISORY WRITE 4711 08:01:1234 0 EOF
            if fields[1] == "FLOCK" and fields[5].endswith(inode):
                return f"process {fields[4]}"
    except (OSError, IndexError):  # another system, or a lock released in between
        pass
    return "another process"


def write_holder(descriptor: int, path: Path, doing: str = "") -> None:
    """Write who holds the lock: the pid and what it does."""
    holder = f"{os.getpid()} (gare-cache {doing})" if doing else f"{os.getpid()}"
    with disk_errors(path):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{holder}\n".encode(), 0)


def read_holder(path: Path) -> str:
    """Return what ``write_holder`` wrote."""
    return path.read_text(errors="replace").strip() or "unknown"


def _close_inherited() -> None:
    # A forked child shares its parent's locks and would keep them after the parent's death.
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_inherited)
