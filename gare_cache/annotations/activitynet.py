"""Read ActivityNet Captions (Krishna et al., arXiv:1705.00754) from its official files.

Expected in one folder: ``train.json`` and ``val_1.json`` or, for ``paragraph-val2``,
``val_2.json``; where ``train_ids.json`` or ``val_ids.json`` is there too, a note counts its videos
without captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gare_cache.annotations.fields import check_interval, field_of
from gare_cache.annotations.grammar import (
    Caption,
    Sizes,
    VideoList,
    check_disjoint,
    find_folder,
    find_splits,
    make_records,
)
from gare_cache.annotations.record import Annotations
from gare_cache.annotations.text_files import check_text, parse_json, read_text
from gare_cache.errors import AnnotationError, counted

TESTS = {"paragraph": "val_1.json", "paragraph-val2": "val_2.json"}
TRAIN = "train.json"
ID_LISTS = {"train": "train_ids.json", "test": "val_ids.json"}
_TRAIN: tuple[int, int] = (10_009, 10_009)
SIZES: dict[str, Sizes] = {
    "paragraph": {"train": _TRAIN, "test": (4917, 4917)},
    "paragraph-val2": {"train": _TRAIN, "test": (4885, 4885)},
}
_ID_LENGTH = 13  # "v_" and 11 characters of YouTube's


def read_activitynet(path: Path, protocol: str) -> Annotations:
    """Read ActivityNet Captions for video-paragraph retrieval.

    The sentences of a video, in the order of the file, are its one caption. ``paragraph`` tests on
    ``val_1.json`` as published; ``paragraph-val2`` on other captions of 4,885 of these videos. The
    captions of the test are not public, and no list for validation is published: a hash of the ids
    takes it from train (``dataset.val_fraction``).

    Args:
        path: the folder, or one of the files in it. Only the test's file must exist.
        protocol: one of ``SIZES``.

    Returns:
        The paragraphs, train before test, in the order of the files. A file may be named
        ``v_ID`` or ``ID``.

    Raises:
        AnnotationError: a file is missing or malformed, has an id of another form, an empty
            sentence or another number of intervals than sentences, or train and test share a video.
    """
    folder = find_folder(path, [TRAIN, *TESTS.values()], "ActivityNet Captions")
    notes: list[str] = []
    lists: dict[str, VideoList] = {}
    captions_of: dict[str, list[Caption]] = {}
    files = find_splits(folder, {"train": TRAIN, "test": TESTS[protocol]}, notes)
    for split, source in files.items():
        found = _read(source)
        captions_of.update(found)
        lists[split] = VideoList(str(source), list(found))
        _note_intervals(source.name, list(found.values()), notes)
        _note_ids(folder / ID_LISTS[split], found, notes)
    check_disjoint(lists)
    records = make_records(
        lists, captions_of, joined=True, file_names=lambda id_: (id_, id_.removeprefix("v_"))
    )
    return Annotations(records, tuple(notes))


def _read(path: Path) -> dict[str, list[Caption]]:
    values = parse_json(path, read_text(path))
    if not isinstance(values, dict) or not values:
        raise AnnotationError(f"{path} holds no object of videos; fetch the official file again")
    return {_id(path, id_): _captions(f"{path}: {id_!r}", video) for id_, video in values.items()}


def _id(path: Path, id_: str) -> str:
    if not id_.startswith("v_") or len(id_) != _ID_LENGTH:
        raise AnnotationError(
            f"{path}: the id {id_!r} is not 'v_' and the 11 characters of YouTube's; is it a file "
            "of ActivityNet Captions?"
        )
    return id_


def _captions(origin: str, video: Any) -> list[Caption]:
    sentences = field_of(origin, video, "sentences", list, "a list")
    intervals = field_of(origin, video, "timestamps", list, "a list")
    if not sentences or len(sentences) != len(intervals):
        raise AnnotationError(
            f"{origin}: {counted(len(sentences), 'sentence')} and {len(intervals)} timestamps; "
            "each sentence has one, and there is at least one"
        )
    return [
        Caption(check_text(place, "sentence", text), place, *check_interval(place, pair))
        for number, (text, pair) in enumerate(zip(sentences, intervals, strict=True))
        for place in [f"{origin}, sentences[{number}]"]
    ]


def _note_intervals(name: str, captions: Sequence[Sequence[Caption]], notes: list[str]) -> None:
    times = [
        (caption.start_seconds or 0.0, caption.end_seconds or 0.0)
        for sentences in captions
        for caption in sentences
    ]
    reversed_ = sum(start > end for start, end in times)
    empty = sum(start == end for start, end in times)
    if reversed_ or empty:
        notes.append(
            f"{name}: {reversed_:,} reversed and {empty:,} empty of {len(times):,} intervals; "
            "paragraphs do not use them"
        )


def _note_ids(path: Path, found: dict[str, list[Caption]], notes: list[str]) -> None:
    if not path.is_file():
        return
    ids = parse_json(path, read_text(path))
    if not isinstance(ids, list) or not all(isinstance(id_, str) for id_ in ids):
        raise AnnotationError(f"{path} is no list of ids; fetch the official file again")
    bare = [id_ for id_ in ids if id_ not in found]
    if bare:
        notes.append(
            f"{len(ids) - len(bare):,} of {counted(len(ids), 'video')} of {path.name}: "
            f"{counted(len(bare), 'video', 'have')} no captions, the first is {bare[0]!r}"
        )
