"""Read MSVD (Chen and Dolan, ACL 2011) from the files that the field shares.

Expected in one folder: ``train_list.txt``, ``val_list.txt``, ``test_list.txt`` (one id a line) and
the captions, ``captions_msvd.json`` (id -> strings) or ``raw-captions.pkl`` (id -> lists of words);
optionally ``youtube_mapping.txt`` (``ID vidN`` a line), where the files are named ``vidN``.
"""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

from gare_cache.annotations.grammar import (
    Caption,
    Sizes,
    VideoList,
    check_annotated,
    check_captions,
    check_disjoint,
    find_folder,
    find_splits,
    make_records,
    read_list,
)
from gare_cache.annotations.record import SPLITS, Annotations
from gare_cache.annotations.text_files import check_text, parse_json, read_text, shorten
from gare_cache.errors import AnnotationError, LimitExceeded, counted
from gare_cache.limits import read_bytes

LISTS = {split: f"{split}_list.txt" for split in SPLITS}
CAPTIONS = "captions_msvd.json"
PICKLED = "raw-captions.pkl"
MAPPING = "youtube_mapping.txt"
FIRST = "first-caption"
# A damaged pickle raises whatever its first wrong byte leads to.
_UNPICKLING_ERRORS = (
    *(pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError),
    *(AttributeError, OverflowError, MemoryError, struct.error),
)
_SELECTING: Sizes = {"train": (1200, 48_774), "val": (100, 4290)}
SIZES: dict[str, Sizes] = {
    "all-captions": {**_SELECTING, "test": (670, 27_763)},
    FIRST: {**_SELECTING, "test": (670, 670)},
}


def read_msvd(path: Path, protocol: str) -> Annotations:
    """Read MSVD, 1,970 clips with about 41 captions each.

    ``all-captions`` tests on every caption; ``first-caption`` on the first of each test clip, and
    trains and selects on all.

    Args:
        path: the folder, or one of the files in it. Only the test's list must exist.
        protocol: one of ``SIZES``.

    Returns:
        The captions: train, val, test, videos in list order, captions in the order of the file.

    Raises:
        AnnotationError: a file is missing or malformed, a list has an unknown id or repeats one,
            two splits share a video, or the pickle holds anything but dictionaries, lists and
            strings.
    """
    folder = find_folder(path, [*LISTS.values(), CAPTIONS, PICKLED, MAPPING], "MSVD")
    notes: list[str] = []
    source, captions_of = _read_captions(folder)
    files = find_splits(folder, LISTS, notes)
    lists: dict[str, VideoList] = {split: read_list(file) for split, file in files.items()}
    for videos in lists.values():
        check_annotated(videos, captions_of, source)
    check_disjoint(lists)
    check_captions(lists, captions_of)
    listed = sum(len(videos.ids) for videos in lists.values())
    if listed < len(captions_of):
        notes.append(
            f"{listed:,} of {counted(len(captions_of), 'video')} of {Path(source).name}: the lists "
            f"lack {len(captions_of) - listed:,}"
        )
    if protocol == FIRST:
        captions_of = captions_of | {id_: captions_of[id_][:1] for id_ in lists["test"].ids}
    names = _read_mapping(folder / MAPPING)
    records = make_records(
        lists, captions_of, file_names=lambda id_: (id_, names[id_]) if id_ in names else ()
    )
    return Annotations(records, tuple(notes))


def _read_captions(folder: Path) -> tuple[str, dict[str, list[Caption]]]:
    path = folder / CAPTIONS
    if path.is_file():
        values = parse_json(path, read_text(path))
    else:
        path = folder / PICKLED
        if not path.is_file():
            raise AnnotationError(f"{folder} holds neither {CAPTIONS} nor {PICKLED}; put one there")
        values = _unpickle(path)
    if not isinstance(values, dict) or not values:
        raise AnnotationError(f"{path} holds no captions by id; fetch the file again")
    return str(path), {
        check_text(str(path), "id", id_): _captions(f"{path}: {id_!r}", captions)
        for id_, captions in values.items()
    }


def _captions(origin: str, captions: Any) -> list[Caption]:
    if not isinstance(captions, list):
        raise AnnotationError(f"{origin} is {shorten(captions)}; it must be a list of captions")
    return [
        Caption(check_text(place, "caption", _text(place, caption)), place)
        for number, caption in enumerate(captions)
        for place in [f"{origin}[{number}]"]
    ]


def _text(origin: str, caption: Any) -> Any:
    """Join a list of words with blanks; the words of the pickle, the strings of the JSON."""
    if not isinstance(caption, list):
        return caption
    return " ".join(check_text(origin, "word", word) for word in caption)


def _read_mapping(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    names: dict[str, str] = {}
    for number, line in enumerate(read_text(path).removesuffix("\n").split("\n"), 1):
        id_, *others = line.split() or [""]
        if len(others) != 1 or id_ in names or others[0] in names.values():
            raise AnnotationError(
                f"{path}:{number}: {shorten(line)}; a line is an id and its vidN, each once"
            )
        names[id_] = others[0]
    return names


class _PlainUnpickler(pickle._Unpickler):  # of C's, a few bytes can allocate any memory
    """Unpickle dictionaries, lists and strings by the opcodes they need; no other one is known."""

    dispatch: ClassVar = {
        code[0]: pickle._Unpickler.dispatch[code[0]]
        for code in (
            *(pickle.PROTO, pickle.FRAME, pickle.MARK, pickle.STOP),
            *(pickle.EMPTY_DICT, pickle.DICT, pickle.SETITEM, pickle.SETITEMS),
            *(pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS),
            *(pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
            *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.MEMOIZE),
            *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT),
            *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
        )
    }


def _unpickle(path: Path) -> Any:
    try:
        return _PlainUnpickler(io.BytesIO(read_bytes(path))).load()
    except LimitExceeded:
        raise
    except _UNPICKLING_ERRORS as err:
        raise AnnotationError(
            f"{path} is damaged, or holds more than dictionaries, lists and strings "
            f"({type(err).__name__}: {err}); nothing else is loaded, because it can run code; use "
            f"{CAPTIONS}"
        ) from err
