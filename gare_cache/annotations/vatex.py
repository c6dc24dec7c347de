"""Read the English captions of VATEX (Wang et al., arXiv:1904.03493).

Expected in one folder: the captions, as ``vatex_training_v1.0.json`` and
``vatex_validation_v1.0.json`` (official), ``vatex_data.json`` (CLIP2Video) or ``ref_captions.json``
(HGR), and the lists ``train_list.txt``, ``val_list.txt``, ``test_list.txt`` and, for
``random-1k5``, ``test1k5_sec_list.txt``. Captions have one of three shapes, whatever the file: a
list of ``{"videoID", "enCap"}``, an object id -> strings, or an object id -> ``{"enCap"}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gare_cache.annotations.fields import field_of
from gare_cache.annotations.grammar import (
    Caption,
    Sizes,
    VideoList,
    check_annotated,
    check_disjoint,
    find_folder,
    find_splits,
    keep_captioned,
    make_records,
    read_list,
)
from gare_cache.annotations.record import SPLITS, Annotations
from gare_cache.annotations.text_files import check_text, parse_json, read_text, shorten
from gare_cache.errors import AnnotationError, counted

# The files of the first row that is there are read.
CAPTIONS = (
    ("vatex_training_v1.0.json", "vatex_validation_v1.0.json"),
    ("vatex_data.json",),
    ("ref_captions.json",),
)
LISTS = {split: f"{split}_list.txt" for split in SPLITS}
RANDOM = "random-1k5"
RANDOM_LIST = "test1k5_sec_list.txt"
_CAPTIONS_EACH = 10
SIZES: dict[str, Sizes] = {
    "hgr": {"train": (25_991, None), "val": (1500, None), "test": (1500, None)},
    RANDOM: {"train": (25_991, None), "val": (1500, None), "test": (1500, None)},
}


def read_vatex(path: Path, protocol: str) -> Annotations:
    """Read VATEX, clips of 10 s with ten English captions each.

    ``hgr`` halves the official validation by the lists of HGR; ``random-1k5`` tests on
    ``test1k5_sec_list.txt``, and validates on the other clips of these two lists.

    Args:
        path: the folder, or one of the files in it. Only the train list may be missing.
        protocol: one of ``SIZES``.

    Returns:
        The captions: train, val, test, clips in list order, captions in the order of the file.

    Raises:
        AnnotationError: a file is missing or malformed, an id is annotated or listed twice, two
            splits share a clip, or no clip of a list has a caption.
    """
    names = [name for row in CAPTIONS for name in row]
    folder = find_folder(path, [*names, *LISTS.values(), RANDOM_LIST], "VATEX")
    notes: list[str] = []
    source, captions_of = _read_captions(folder, notes)
    files = find_splits(folder, LISTS, notes)
    lists = {split: read_list(file) for split, file in files.items()}
    check_disjoint(lists)
    if protocol == RANDOM:
        lists |= _draw(folder / RANDOM_LIST, lists)
        check_disjoint(lists)
    kept = keep_captioned(lists, captions_of, source, notes)
    for split, videos in kept.items():
        other = sum(len(captions_of[id_]) != _CAPTIONS_EACH for id_ in videos.ids)
        if other:
            total = counted(len(videos.ids), "video")
            notes.append(f"{split}: {other:,} of {total} have not {_CAPTIONS_EACH} captions")
    return Annotations(make_records(kept, captions_of), tuple(notes))


def _draw(path: Path, lists: dict[str, VideoList]) -> dict[str, VideoList]:
    if "val" not in lists:
        raise AnnotationError(
            f"{path.parent / LISTS['val']} does not exist; {RANDOM} takes its clips from it and "
            f"from {LISTS['test']}"
        )
    test = read_list(path)
    both = [*lists["val"].ids, *lists["test"].ids]
    check_annotated(test, both, f"{LISTS['val']} or {LISTS['test']}")
    drawn = set(test.ids)
    others = [id_ for id_ in both if id_ not in drawn]
    source = f"{lists['val'].source} and {lists['test'].source}"
    return {"val": VideoList(source, others), "test": test}


def _read_captions(folder: Path, notes: list[str]) -> tuple[str, dict[str, list[Caption]]]:
    present = [row for row in CAPTIONS if any((folder / name).is_file() for name in row)]
    if not present:
        rows = " or ".join(" and ".join(row) for row in CAPTIONS)
        raise AnnotationError(f"{folder} holds no captions; put {rows} there")
    paths = [folder / name for name in present[0]]
    for path in paths:
        if not path.is_file():
            raise AnnotationError(f"{path.absolute()} does not exist; put it beside the other part")
    if len(present) > 1:
        unread = ", ".join(name for row in present[1:] for name in row)
        notes.append(f"captions are read from {' and '.join(present[0])}, not from {unread}")
    captions_of: dict[str, list[Caption]] = {}
    for path in paths:
        for origin, id_, texts in _videos(path):
            if id_ in captions_of:
                raise AnnotationError(f"{origin}: {id_!r} is annotated twice; delete one")
            captions_of[id_] = [
                Caption(check_text(f"{origin}, caption {number}", "enCap", text), origin)
                for number, text in enumerate(texts)
            ]
    return " and ".join(map(str, paths)), captions_of


def _videos(path: Path) -> Iterator[tuple[str, str, list[Any]]]:
    """Yield the place, the id and the captions of each clip, of a file of any shape."""
    values = parse_json(path, read_text(path))
    if isinstance(values, list) and values:
        for number, value in enumerate(values):
            origin = f"{path}: [{number}]"
            id_ = check_text(origin, "videoID", field_of(origin, value, "videoID", str, "text"))
            yield origin, id_, field_of(origin, value, "enCap", list, "a list of captions")
    elif isinstance(values, dict) and values:
        for id_, value in values.items():
            origin = f"{path}: {id_!r}"
            if isinstance(value, dict):
                value = field_of(origin, value, "enCap", list, "a list of captions")
            if not isinstance(value, list):
                raise AnnotationError(
                    f"{origin} is {shorten(value)}; it must be a list of captions"
                )
            yield origin, id_, value
    else:
        raise AnnotationError(f"{path} holds no clips; fetch the file again")
