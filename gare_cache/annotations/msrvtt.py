"""Read MSR-VTT from its official files: two zip archives or their union, and lists of ids."""

from __future__ import annotations

import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gare_cache.annotations.grammar import (
    Caption,
    Sizes,
    VideoList,
    check_annotated,
    check_captions,
    check_disjoint,
    make_records,
)
from gare_cache.annotations.record import SPLIT_NAMES, SPLITS, Annotations
from gare_cache.annotations.text_files import check_text, decode_text, parse_json, read_csv
from gare_cache.errors import AnnotationError, counted
from gare_cache.limits import TEXT_BYTES, read_bytes

TRAIN_LISTS = {"1k-a-9k": "MSRVTT_train.9k.csv", "1k-a-7k": "MSRVTT_train.7k.csv"}
FULL = "full"
_VALIDATION = (497, 9940)
SIZES: dict[str, Sizes] = {
    "1k-a-9k": {"train": (8503, 170_060), "val": _VALIDATION, "test": (1000, 1000)},
    "1k-a-7k": {"train": (6513, 130_260), "val": _VALIDATION, "test": (1000, 1000)},
    FULL: {"train": (6513, 130_260), "val": _VALIDATION, "test": (2990, 59_800)},
}
QUERIES = "MSRVTT_JSFUSION_test.csv"
OFFICIAL_LISTS = {split: f"MSRVTT_{split}.full.csv" for split in SPLITS}
# Archive -> the JSON in it; MSRVTT_data.json is the union of both.
ARCHIVES = {
    "train_val_annotation.zip": "train_val_videodatainfo.json",
    "test_videodatainfo.json.zip": "test_videodatainfo.json",
}
JOINED = "MSRVTT_data.json"
QUERY_KEY = "jsfusion"


@dataclass(frozen=True)
class _Corpus:
    source: str
    split_of: Mapping[str, str]  # video id -> the official split, "" if the file names none
    captions_of: Mapping[str, list[Caption]]


def read_msrvtt(path: Path, protocol: str) -> Annotations:
    """Read MSR-VTT's 10,000 videos, with 20 captions each, as one of its protocols.

    ``1k-a-9k`` and ``1k-a-7k`` test on the 1,000 videos of ``MSRVTT_JSFUSION_test.csv``, one query
    each, taken from that list (JSFusion, arXiv:1808.02559; not all are verbatim official
    captions), and train on the ids of ``MSRVTT_train.9k.csv`` or ``.7k.csv`` less the official
    validation videos, which select the epoch. ``full`` is the official 6,513 / 497 / 2,990. The
    official splits are those of ``MSRVTT_{train,val,test}.full.csv`` or, if that list is
    missing, of ``split`` in the JSON.

    Args:
        path: the folder of the two official archives or of ``MSRVTT_data.json`` (the archives
            are preferred), or that JSON under any name; the lists are in the same folder.
        protocol: one of ``SIZES``.

    Returns:
        The captions: train, val, test, videos in list order, captions in annotation
        order.

    Raises:
        AnnotationError: a file is missing or malformed, a list has an unknown video or repeats
            a video, two splits share a video, or a video of a split has no caption.
    """
    folder = path if path.is_dir() else path.parent
    corpus = _read_corpus(path)
    queries: dict[str, Caption] = {}
    notes: list[str] = []
    if protocol == FULL:
        lists = {split: _official(folder, corpus, split, notes) for split in SPLITS}
    else:
        queries = _read_queries(folder / QUERIES, notes)
        named = _read_list(folder / TRAIN_LISTS[protocol], notes)
        validation = _official(folder, corpus, "val", notes)
        held_out = set(validation.ids)
        lists = {
            "train": VideoList(named.source, [id_ for id_ in named.ids if id_ not in held_out]),
            "val": validation,
            "test": VideoList(str(folder / QUERIES), list(queries)),
        }
        notes += [
            f"{len(named.ids) - len(lists['train'].ids):,} of the "
            f"{counted(len(named.ids), 'id')} of "
            f"{TRAIN_LISTS[protocol]} are official validation videos: they select the epoch and "
            "are not trained on",
            _say_verbatim(queries, corpus),
        ]
    for videos in lists.values():
        check_annotated(videos, corpus.split_of, corpus.source)
    check_disjoint(lists)
    captions_of = {**corpus.captions_of, **{id_: [query] for id_, query in queries.items()}}
    check_captions(lists, captions_of)
    records = make_records(lists, captions_of)
    unused = len(corpus.split_of) - sum(len(videos.ids) for videos in lists.values())
    if unused:
        notes.append(f"{counted(unused, 'annotated video', 'are')} in no split of {protocol}")
    return Annotations(records, tuple(notes))


def _read_corpus(path: Path) -> _Corpus:
    if path.is_dir():
        archives = [path / name for name in ARCHIVES if (path / name).is_file()]
        if len(archives) == len(ARCHIVES):
            return _corpus(path, ((archive, _unzip(archive)) for archive in archives))
        path = path / JOINED
        if not path.is_file():
            lacking = [name for name in ARCHIVES if path.parent / name not in archives]
            raise AnnotationError(
                f"{path.parent} holds neither {JOINED} nor both official archives "
                f"({' and '.join(lacking)} not found)"
            )
    if not path.is_file():
        raise AnnotationError(
            f"dataset.annotations: {path.absolute()} does not exist; it is the folder of the "
            f"official MSR-VTT files, or {JOINED}"
        )
    if path.suffix.lower() != ".json":
        raise AnnotationError(
            f"{path} is not a .json file; give the folder of the official archives, or {JOINED}"
        )
    return _corpus(path, [(path, read_bytes(path))])


def _unzip(archive: Path) -> bytes:
    name = ARCHIVES[archive.name]
    try:
        with zipfile.ZipFile(archive) as file:
            entries = [entry for entry in file.namelist() if PurePosixPath(entry).name == name]
            if not entries:
                raise AnnotationError(
                    f"{archive} holds no {name} (found: {', '.join(file.namelist()) or 'nothing'})"
                )
            TEXT_BYTES.check(f"{archive}, {entries[0]}", file.getinfo(entries[0]).file_size)
            return file.read(entries[0])
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as err:
        raise AnnotationError(f"{archive} is damaged ({err}); fetch it again") from err


def _corpus(source: Path, files: Iterable[tuple[Path, bytes]]) -> _Corpus:
    split_of: dict[str, str] = {}
    captions_of: dict[str, list[Caption]] = defaultdict(list)
    for path, content in files:
        videos, sentences = _parse(path, content)
        for number, video in enumerate(videos):
            id_ = _text(f"{path}: videos[{number}]", video, "video_id")
            if id_ in split_of:
                raise AnnotationError(f"{path}: videos[{number}]: {id_!r} is annotated twice")
            split_of[id_] = str(video.get("split") or "")
        for number, sentence in enumerate(sentences):
            origin = f"{path}: sentences[{number}]"
            id_ = _text(origin, sentence, "video_id")
            if id_ not in split_of:
                raise AnnotationError(f"{origin} belongs to {id_!r}, which is not among its videos")
            captions_of[id_].append(Caption(_text(origin, sentence, "caption"), origin))
    return _Corpus(str(source), split_of, dict(captions_of))


def _parse(path: Path, content: bytes) -> tuple[list[Any], list[Any]]:
    value = parse_json(path, decode_text(path, content))
    fields = value if isinstance(value, dict) else {}
    for name in ("videos", "sentences"):
        if not isinstance(fields.get(name), list):
            keys = ", ".join(map(str, fields)) or type(value).__name__
            raise AnnotationError(
                f"{path} has no list {name!r} (found: {keys}); MSR-VTT's JSON has videos and "
                "sentences"
            )
    return fields["videos"], fields["sentences"]


def _text(origin: str, values: Any, name: str) -> str:
    return check_text(origin, name, values.get(name) if isinstance(values, dict) else None)


def _official(folder: Path, corpus: _Corpus, split: str, notes: list[str]) -> VideoList:
    path = folder / OFFICIAL_LISTS[split]
    if path.is_file():
        return _read_list(path, notes)
    ids = [id_ for id_, name in corpus.split_of.items() if SPLIT_NAMES.get(name) == split]
    if not ids:
        raise AnnotationError(
            f"{path} does not exist, and no video of {corpus.source} names the split {split!r}"
        )
    return VideoList(corpus.source, ids)


def _read_list(path: Path, notes: list[str]) -> VideoList:
    return VideoList(str(path), list(_by_id(path, ("video_id",), notes)))


def _read_queries(path: Path, notes: list[str]) -> dict[str, Caption]:
    rows = _by_id(path, ("video_id", "sentence"), notes)
    return {
        id_: Caption(_text(origin, row, "sentence"), origin, key=QUERY_KEY)
        for id_, (origin, row) in rows.items()
    }


def _by_id(
    path: Path, columns: tuple[str, ...], notes: list[str]
) -> dict[str, tuple[str, Mapping[str, Any]]]:
    if not path.is_file():
        raise AnnotationError(f"{path.absolute()} does not exist; put it beside the annotations")
    rows: dict[str, tuple[str, Mapping[str, Any]]] = {}
    table = read_csv(path, columns)
    notes += table.notes  # what was read otherwise than written is said
    for origin, row in table.rows:
        id_ = _text(origin, row, "video_id").strip()
        if id_ in rows:
            raise AnnotationError(f"{origin}: {id_!r} occurs twice")
        rows[id_] = (origin, row)
    if not rows:
        raise AnnotationError(f"{path} names no video")
    return rows


def _say_verbatim(queries: Mapping[str, Caption], corpus: _Corpus) -> str:
    other = _not_verbatim(queries, corpus, str)
    reworded = _not_verbatim(queries, corpus, lambda text: " ".join(text.lower().split()))
    return (
        f"{other:,} of {len(queries):,} queries are not verbatim among the official "
        "captions of "
        f"their video ({reworded:,} ignoring case and spaces)"
    )


def _not_verbatim(
    queries: Mapping[str, Caption], corpus: _Corpus, form: Callable[[str], str]
) -> int:
    return sum(
        form(query.text) not in {form(caption.text) for caption in corpus.captions_of.get(id_, [])}
        for id_, query in queries.items()
    )
