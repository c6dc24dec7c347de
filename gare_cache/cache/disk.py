"""Turn disk-full, quota and permission errors into ``EnvironmentFailure``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gare_cache.cache.identity import ROOT_VARIABLE
from gare_cache.errors import DISK_CAUSES, EnvironmentFailure

_ELSEWHERE = f"put the caches elsewhere with ${ROOT_VARIABLE}"


@contextmanager
def environment_errors(folder: Path) -> Iterator[None]:
    """Turn the errors of the disk while writing below ``folder`` into ``EnvironmentFailure``.

    Raises:
        EnvironmentFailure: disk full, quota or file size limit reached, read-only, no permission,
            I/O error; the message names the folder and the remedy. Other ``OSError`` pass.
    """
    try:
        yield
    except OSError as err:
        if err.errno not in DISK_CAUSES:
            raise
        wrong, advice = DISK_CAUSES[err.errno]
        raise EnvironmentFailure(
            f"cannot write to {folder}: {wrong}; {advice}, or {_ELSEWHERE}. Finished units are "
            "kept: run the same command again"
        ) from err
