"""Read YouCook2 (Zhou et al., arXiv:1703.09788) from its official file.

Expected in one folder: ``youcookii_annotations_trainval.json`` and, for ``clip-milnce``,
``validation_youcook.csv`` (columns ``end,start,task,text,video_id``, released with MIL-NCE).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gare_cache.annotations.fields import check_clip, field_of
from gare_cache.annotations.grammar import Caption, Sizes, VideoList, find_folder, make_records
from gare_cache.annotations.record import Annotations
from gare_cache.annotations.text_files import check_text, parse_json, read_csv, read_text, shorten
from gare_cache.errors import AnnotationError, counted

ANNOTATIONS = "youcookii_annotations_trainval.json"
MILNCE_LIST = "validation_youcook.csv"
MILNCE, VIDEO = "clip-milnce", "video"
_SUBSETS = {"training": "train", "validation": "test"}
# Clips, of which one has two captions, as oJZUxU9szWA from 120 s to 252 s is annotated twice.
SIZES: dict[str, Sizes] = {
    "clip": {"train": (10_337, 10_337), "test": (3491, 3492)},
    MILNCE: {"train": (10_337, 10_337), "test": (3349, 3350)},
    VIDEO: {"train": (1333, 1333), "test": (457, 457)},
}
_Segments = Mapping[str, list[Caption]]


def read_youcook2(path: Path, protocol: str) -> Annotations:
    """Read YouCook2; the official validation is the test, for the test's sentences are not public.

    ``clip``: each segment is a clip with one sentence. ``clip-milnce``: the test is the segments of
    MIL-NCE's list, which lacks videos that were gone. ``video``: the sentences of a video are one
    paragraph. A hash of the training videos' ids, not of their segments, gives the validation
    (``dataset.val_fraction``).

    Args:
        path: the folder, or one of the files in it.
        protocol: one of ``SIZES``.

    Returns:
        The captions, train before test, in the order of the file.

    Raises:
        AnnotationError: a file is missing or malformed, a segment lasts no time, its ``id`` is not
            its number, or a row of the list is no official segment with that sentence.
    """
    folder = find_folder(path, [ANNOTATIONS, MILNCE_LIST], "YouCook2")
    source = folder / ANNOTATIONS
    if not source.is_file():
        raise AnnotationError(f"{source.absolute()} does not exist; put the official file there")
    notes: list[str] = []
    segments = _read(source)
    if protocol == MILNCE:
        segments["test"] = _listed(folder / MILNCE_LIST, segments["test"], notes)
    lists = {split: VideoList(str(source), list(found)) for split, found in segments.items()}
    captions_of = {**segments["train"], **segments["test"]}
    records = make_records(lists, captions_of, joined=protocol == VIDEO)
    return Annotations(records, tuple(notes))


def _read(path: Path) -> dict[str, _Segments]:
    values = parse_json(path, read_text(path))
    database = field_of(str(path), values, "database", dict, "an object of videos")
    segments: dict[str, dict[str, list[Caption]]] = {split: {} for split in _SUBSETS.values()}
    for id_, video in database.items():
        origin = f"{path}: {id_!r}"
        subset = field_of(origin, video, "subset", str, "a string")
        if subset not in _SUBSETS:
            raise AnnotationError(
                f"{origin}: subset {subset!r}; it must be one of {', '.join(_SUBSETS)}"
            )
        steps = field_of(origin, video, "annotations", list, "a list")
        if not steps:
            raise AnnotationError(f"{origin} has no segment; fetch the official file again")
        segments[_SUBSETS[subset]][id_] = [
            _segment(f"{origin}, annotations[{number}]", step, number)
            for number, step in enumerate(steps)
        ]
    for subset, split in _SUBSETS.items():
        if not segments[split]:
            raise AnnotationError(f"{path} has no video of the subset {subset!r}")
    return dict(segments)


def _segment(origin: str, step: Any, number: int) -> Caption:
    found = field_of(origin, step, "id", int, "a whole number")
    if found != number:
        raise AnnotationError(
            f"{origin}: id {found} is out of order; fetch the official file again"
        )
    times = check_clip(origin, field_of(origin, step, "segment", list, "a list"))
    text = field_of(origin, step, "sentence", str, "a string")
    return Caption(check_text(origin, "sentence", text), origin, *times)


def _listed(path: Path, segments: _Segments, notes: list[str]) -> _Segments:
    if not path.is_file():
        raise AnnotationError(f"{path.absolute()} does not exist; put it beside {ANNOTATIONS}")
    table = read_csv(path, ("video_id", "start", "end", "text"), ("task",))
    official = {
        _key(id_, caption.start_seconds, caption.end_seconds, caption.text): caption
        for id_, captions in segments.items()
        for caption in captions
    }
    listed: dict[tuple[str, ...], str] = {}
    for origin, row in table.rows:
        try:
            key = _key(row["video_id"], float(row["start"]), float(row["end"]), row["text"])
        except ValueError as err:
            times = shorten(f"{row['start']}, {row['end']}")
            raise AnnotationError(f"{origin}: start and end are {times}; they must be s") from err
        if key not in official or key in listed:
            wrong = (
                "occurs twice" if key in listed else f"is no validation segment of {ANNOTATIONS}"
            )
            raise AnnotationError(
                f"{origin}: {shorten(' '.join(key))} {wrong}; is it the list of {MILNCE}?"
            )
        listed[key] = origin
    kept = {
        id_: [
            caption
            for caption in captions
            if _key(id_, caption.start_seconds, caption.end_seconds, caption.text) in listed
        ]
        for id_, captions in segments.items()
    }
    found = {id_: captions for id_, captions in kept.items() if captions}
    total = sum(map(len, segments.values()))
    notes += table.notes
    notes.append(
        f"test: {len(listed):,} of {counted(total, 'segment')} and {len(found):,} of "
        f"{counted(len(segments), 'video')}: {path.name} lacks the others"
    )
    return found


def _key(id_: str, start: float | None, end: float | None, text: str) -> tuple[str, ...]:
    return id_.strip(), f"{start or 0:g}", f"{end or 0:g}", text.strip()
