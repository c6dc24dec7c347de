"""What the readers of published data sets share: lists, splits, paragraphs, names, sizes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from gare_cache.annotations.record import SPLITS, AnnotationRecord
from gare_cache.annotations.text_files import check_text, read_lines
from gare_cache.errors import AnnotationError, agreeing, counted

PARAGRAPH = "paragraph"
VIDEO_EXTENSIONS = frozenset(
    f".{extension}"
    for extension in (
        *("mp4", "m4v", "mov", "mkv", "webm", "avi", "wmv", "flv", "mpg", "mpeg", "3gp"),
        *("3g2", "asf", "ts", "m2ts", "mts", "vob", "ogv", "gif"),
    )
)

# Split -> videos (of a clip data set, clips) and captions; None where no official count exists.
Sizes = Mapping[str, tuple[int | None, int | None]]


@dataclass(frozen=True)
class Caption:
    """A sentence as annotated, outer spaces included, and the seconds that it describes."""

    text: str
    origin: str
    start_seconds: float | None = None
    end_seconds: float | None = None
    key: str | None = None


CaptionsOf = Mapping[str, Sequence[Caption]]


@dataclass(frozen=True)
class VideoList:
    """The ids of a split, in order, and the file that names them."""

    source: str
    ids: Sequence[str]


def video_stem(name: str) -> str:
    """Return a name without its extension, if it is that of a video or a dot with nothing behind.

    What follows another dot belongs to the id: ``0017_Pianist_00.23.28.872-00.23.34.843``.
    """
    stem, extension = os.path.splitext(name)
    return stem if extension == "." or extension.lower() in VIDEO_EXTENSIONS else name


def one_line(text: str) -> str:
    """Return a sentence stripped, with its inner white space as single blanks."""
    return " ".join(text.split())


def paragraph(sentences: Iterable[str]) -> str:
    """Join the sentences of a video in the order of the file, not of time, each by ``one_line``."""
    return " ".join(map(one_line, sentences))


def find_folder(path: Path, expected: Iterable[str], data_set: str) -> Path:
    """Return the folder of a data set's files from ``dataset.annotations``.

    Args:
        path: the folder, or one of the expected files in it.
        expected: names of files that the reader knows.
        data_set: its name, for messages.

    Raises:
        AnnotationError: the path does not exist, or is another file.
    """
    names = ", ".join(expected)
    if path.is_dir():
        return path
    if not path.is_file():
        raise AnnotationError(
            f"dataset.annotations: {path.absolute()} does not exist; it is the folder of "
            f"{data_set}'s files: {names}"
        )
    if path.name not in expected:
        raise AnnotationError(
            f"{path} is no file of {data_set}; give the folder, or one of its files: {names}"
        )
    return path.parent


def find_splits(folder: Path, names: Mapping[str, str], notes: list[str]) -> dict[str, Path]:
    """Return the file of every split; only the test's must exist, and a note names the others.

    Raises:
        AnnotationError: there is no file of the test split.
    """
    missing = [split for split, name in names.items() if not (folder / name).is_file()]
    if "test" in missing:
        raise AnnotationError(
            f"{(folder / names['test']).absolute()} does not exist; put the official file there"
        )
    notes += [
        f"warning: {folder / names[split]} does not exist: there are no {split} videos"
        for split in missing
    ]
    return {split: folder / name for split, name in names.items() if split not in missing}


def read_list(path: Path, form: Callable[[str], str] = str) -> VideoList:
    """Read a list of ids, one a line, without a header.

    Args:
        path: the file.
        form: what makes an id of a line.

    Raises:
        AnnotationError: the file is missing, not UTF-8 or empty, a line is blank, or an id occurs
            twice.
    """
    if not path.is_file():
        raise AnnotationError(f"{path.absolute()} does not exist; put it beside the annotations")
    ids: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        id_ = form(check_text(f"{path}:{number}", "id", line).strip())
        if id_ in ids:
            raise AnnotationError(
                f"{path}:{number}: {id_!r} occurs twice, first on line {ids[id_]}; "
                "delete one of the lines"
            )
        ids[id_] = number
    return VideoList(str(path), list(ids))


def check_annotated(videos: VideoList, known: Iterable[str], source: str) -> None:
    """Check that every listed video is annotated.

    Raises:
        AnnotationError: it is not: the list belongs to another split, protocol or data set.
    """
    known = set(known)
    unknown = [id_ for id_ in videos.ids if id_ not in known]
    if unknown:
        raise AnnotationError(
            f"{videos.source} names {counted(len(unknown), 'video')} that {source} does not "
            f"annotate, the first is {unknown[0]!r}; is it the list of this split and protocol?"
        )


def check_disjoint(lists: Mapping[str, VideoList]) -> None:
    """Check that no video is in two splits.

    Raises:
        AnnotationError: one is.
    """
    for split, other in combinations([split for split in SPLITS if split in lists], 2):
        members = set(lists[other].ids)
        shared = [id_ for id_ in lists[split].ids if id_ in members]
        if shared:
            raise AnnotationError(
                f"{counted(len(shared), 'video', 'are')} both {split} ({lists[split].source}) "
                f"and {other} ({lists[other].source}), the first is {shared[0]!r}; is each the "
                "list of its split and protocol?"
            )


def check_captions(lists: Mapping[str, VideoList], captions_of: CaptionsOf) -> None:
    """Check that every listed video has a caption.

    Raises:
        AnnotationError: one has none.
    """
    for split, videos in lists.items():
        bare = [id_ for id_ in videos.ids if not captions_of.get(id_)]
        if bare:
            raise AnnotationError(
                f"{counted(len(bare), f'{split} video')} of {videos.source} "
                f"{agreeing(len(bare), 'have')} no caption, the first is {bare[0]!r}"
            )


def keep_captioned(
    lists: Mapping[str, VideoList], captions_of: CaptionsOf, source: str, notes: list[str]
) -> dict[str, VideoList]:
    """Leave out listed videos without a caption, for files that are known to have gaps.

    A note says "k of n videos" and names the first that is left out.

    Raises:
        AnnotationError: no video of a list has one.
    """
    kept = {}
    for split, videos in lists.items():
        found = [id_ for id_ in videos.ids if captions_of.get(id_)]
        bare = [id_ for id_ in videos.ids if not captions_of.get(id_)]
        if not found:
            check_annotated(videos, captions_of, source)
        if bare:
            notes.append(
                f"warning: {split}: {len(found):,} of {counted(len(videos.ids), 'video')} of "
                f"{videos.source}: {counted(len(bare), 'video', 'have')} no caption in {source}, "
                f"the first is {bare[0]!r}"
            )
        kept[split] = VideoList(videos.source, found)
    return kept


def make_records(
    lists: Mapping[str, VideoList],
    captions_of: CaptionsOf,
    *,
    joined: bool = False,
    file_names: Callable[[str], tuple[str, ...]] = lambda _: (),
) -> list[AnnotationRecord]:
    """Return the records: train, val, test; videos in list order, captions as annotated.

    Args:
        lists: split -> its videos.
        captions_of: video id -> its captions.
        joined: whether the captions of a video are one paragraph of the whole video.
        file_names: video id -> names that its file may have; none for the id itself.
    """
    return [
        AnnotationRecord(
            video=id_,
            caption=caption.text.strip(),
            split=split,
            start_seconds=caption.start_seconds,
            end_seconds=caption.end_seconds,
            origin=caption.origin,
            caption_key=caption.key,
            file_names=file_names(id_),
        )
        for split in SPLITS
        if split in lists
        for id_ in lists[split].ids
        for caption in ([_joined(captions_of[id_])] if joined else captions_of[id_])
    ]


def compare_sizes(records: Sequence[AnnotationRecord], official: Sizes) -> list[str]:
    """Return a warning for each split whose size is not the official one: "k of n videos"."""
    warnings = []
    for split, counts in official.items():
        rows = [row for row in records if row.split == split]
        clips = {(row.video, row.start_seconds, row.end_seconds) for row in rows}
        if not rows:
            continue  # a split without a file is said by find_splits
        differing = [
            f"{found:,} of {counted(count, noun)}"
            for found, count, noun in zip(
                (len(clips), len(rows)), counts, ("video", "caption"), strict=True
            )
            if count is not None and found != count
        ]
        if differing:
            warnings.append(
                f"warning: {split} has {' and '.join(differing)} of the official files: scores "
                "are not comparable with published ones"
            )
    return warnings


def _joined(captions: Sequence[Caption]) -> Caption:
    text = paragraph(caption.text for caption in captions)
    return Caption(text, captions[0].origin, key=PARAGRAPH)
