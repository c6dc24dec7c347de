"""Turn disk-full, quota and permission errors into ``EnvironmentFailure``."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gare_cache.cache.identity import ROOT_VARIABLE
from gare_cache.errors import EnvironmentFailure

_ELSEWHERE = f"put the caches elsewhere with ${ROOT_VARIABLE}"
# errno -> what is wrong, what to do
_CAUSES = {
    errno.ENOSPC: ("the disk is full", f"free some space, or {_ELSEWHERE}"),
    errno.EDQUOT: ("the disk quota is used up", f"free some space, or {_ELSEWHERE}"),
    errno.EFBIG: ("the limit of a file's size is reached", f"raise `ulimit -f`, or {_ELSEWHERE}"),
    errno.EROFS: ("the folder is read-only", f"make it writable, or {_ELSEWHERE}"),
    errno.EACCES: ("there is no permission to write", f"make it writable, or {_ELSEWHERE}"),
    errno.EPERM: ("there is no permission to write", f"make it writable, or {_ELSEWHERE}"),
    errno.EIO: ("the disk reports an input/output error", f"check the disk, or {_ELSEWHERE}"),
}


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
        if err.errno not in _CAUSES:
            raise
        wrong, advice = _CAUSES[err.errno]
        raise EnvironmentFailure(
            f"cannot write to {folder}: {wrong}; {advice}. Finished units are kept: run the same "
            "command again"
        ) from err
