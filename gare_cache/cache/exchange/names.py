"""File names for ids: percent-encoded where a file system or a program would not take them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

# What ends a folder's name, is a wildcard or a device to some system, or is the escape itself.
_UNFIT = re.compile(r'[\x00-\x1f\x7f%/\\:*?"<>|]|^\.')
_UNFIT_OR_DOT = re.compile(rf"{_UNFIT.pattern}|\.")
_NOT_LOWER_ASCII = re.compile(r"[^a-z0-9_#@-]")


def file_names(ids: Sequence[str], *, dots: bool = True) -> list[str]:
    """Return a file name for each id, without a suffix; ``urllib.parse.unquote`` gives the id.

    Most ids stay as they are. Characters that not every file system takes, and a leading dot, are
    percent-encoded (RFC 3986, section 2.1); where names differ only in case or in Unicode's
    normal form, all but a-z, 0-9, ``_``, ``#``, ``@`` and ``-`` are. ``a/b.c`` is ``a%2Fb.c``.

    Args:
        ids: distinct ids.
        dots: keep dots; programs of webdataset cut a name at its first.
    """
    unfit = _UNFIT if dots else _UNFIT_OR_DOT
    names = [unfit.sub(_percent, id_) for id_ in ids]
    shared = Counter(map(_folded, names))
    return [
        name if shared[_folded(name)] == 1 else _NOT_LOWER_ASCII.sub(_percent, id_)
        for id_, name in zip(ids, names, strict=True)
    ]


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
