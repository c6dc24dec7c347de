"""Read DiDeMo (Hendricks et al., arXiv:1708.01641) from its official files.

Expected in one folder: ``train_data.json``, ``val_data.json``, ``test_data.json``
(LocalizingMoments) and, for ``paragraph-listed``, ``train_list.txt``, ``val_list.txt``,
``test_list.txt`` (Collaborative-Experts; one file name a line).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gare_cache.annotations.fields import field_of
from gare_cache.annotations.grammar import (
    Caption,
    Sizes,
    VideoList,
    check_disjoint,
    find_folder,
    find_splits,
    make_records,
    one_line,
    read_list,
    video_stem,
)
from gare_cache.annotations.record import SPLITS, Annotations
from gare_cache.annotations.text_files import check_text, parse_json, read_text
from gare_cache.errors import AnnotationError, counted

FILES = {split: f"{split}_data.json" for split in SPLITS}
LISTS = {split: f"{split}_list.txt" for split in SPLITS}
LISTED = "paragraph-listed"
SENTENCE = "sentence"
_PARAGRAPHS: Sizes = {"val": (1065, 1065), "test": (1004, 1004)}
SIZES: dict[str, Sizes] = {
    "paragraph": _PARAGRAPHS,
    LISTED: _PARAGRAPHS,
    SENTENCE: {"val": (1065, 4180), "test": (1004, 4021)},
}


@dataclass(frozen=True)
class _Sentence:
    name: str  # of the file, as annotated
    caption: Caption


def read_didemo(path: Path, protocol: str) -> Annotations:
    """Read DiDeMo as one of its protocols; a video is known by its file name less the extension.

    One video may stand under two file names (``.mov`` and ``.mp4``), and an extension may be empty.
    ``paragraph`` joins all sentences of a video. ``paragraph-listed``, which CLIP4Clip's
    loader yields, joins only those whose file name is exactly a listed one. ``sentence`` keeps each
    sentence as a caption of the whole video; ``times`` are not used.

    Args:
        path: the folder, or one of the files in it. Only the test's file must exist.
        protocol: one of ``SIZES``.

    Returns:
        The captions: train, val, test, videos in the order of their first sentence.

    Raises:
        AnnotationError: a file is missing or malformed, an ``annotation_id`` occurs twice, a list
            names an unknown file, or two splits share a video.
    """
    folder = find_folder(path, [*FILES.values(), *LISTS.values()], "DiDeMo")
    notes: list[str] = []
    names_of: dict[str, dict[str, None]] = defaultdict(dict)
    lists: dict[str, VideoList] = {}
    captions_of: dict[str, list[Caption]] = defaultdict(list)
    for split, source in find_splits(folder, FILES, notes).items():
        sentences = _read(source)
        for sentence in sentences:
            names_of[video_stem(sentence.name)].setdefault(sentence.name)
        lists[split] = _videos(source, sentences)
        check_disjoint(lists)
        if two := sum(len(names_of[id_]) > 1 for id_ in lists[split].ids):
            count = f"{two:,} of {counted(len(lists[split].ids), 'video')}"
            notes.append(f"{split}: {count} under two file names")
        if protocol == LISTED:
            sentences = _listed(sentences, folder / LISTS[split], split, notes)
            lists[split] = _videos(source, sentences)
        for sentence in sentences:
            captions_of[video_stem(sentence.name)].append(sentence.caption)
    records = make_records(
        lists,
        captions_of,
        joined=protocol != SENTENCE,
        file_names=lambda id_: (*names_of[id_], id_),
    )
    return Annotations(records, tuple(notes))


def _read(path: Path) -> list[_Sentence]:
    values = parse_json(path, read_text(path))
    if not isinstance(values, list) or not values:
        raise AnnotationError(f"{path} holds no list of sentences; fetch the official file again")
    sentences = []
    first: dict[int, str] = {}
    for number, value in enumerate(values):
        origin = f"{path}: [{number}]"
        key = field_of(origin, value, "annotation_id", int, "a whole number")
        if key in first:
            raise AnnotationError(
                f"{origin}: annotation_id {key} occurs twice, first at {first[key]}; delete one"
            )
        first[key] = origin
        texts = [
            check_text(origin, name, field_of(origin, value, name, str, "a string"))
            for name in ("video", "description")
        ]
        sentences.append(_Sentence(texts[0].strip(), Caption(one_line(texts[1]), origin)))
    return sentences


def _listed(
    sentences: list[_Sentence], path: Path, split: str, notes: list[str]
) -> list[_Sentence]:
    listed = read_list(path)
    annotated = {sentence.name for sentence in sentences}
    unknown = [name for name in listed.ids if name not in annotated]
    if unknown:
        raise AnnotationError(
            f"{path} names {counted(len(unknown), 'file')} that {FILES[split]} does not annotate, "
            f"the first is {unknown[0]!r}; is it the list of {split}?"
        )
    names = set(listed.ids)
    kept = [sentence for sentence in sentences if sentence.name in names]
    dropped = [sentence for sentence in sentences if sentence.name not in names]
    if dropped:
        notes.append(
            f"{split}: {len(kept):,} of {counted(len(sentences), 'sentence')} and "
            f"{_num_videos(kept):,} of {counted(_num_videos(sentences), 'video')}: "
            f"{counted(len(dropped), 'sentence')} of "
            f"{counted(_num_videos(dropped), 'video')} under a file name that {path.name} lacks"
        )
    return kept


def _videos(source: Path, sentences: Sequence[_Sentence]) -> VideoList:
    ids = dict.fromkeys(video_stem(sentence.name) for sentence in sentences)
    return VideoList(str(source), list(ids))


def _num_videos(sentences: Sequence[_Sentence]) -> int:
    return len({video_stem(sentence.name) for sentence in sentences})
