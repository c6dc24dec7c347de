"""Read TGIF (Li et al., arXiv:1604.02748) from its official files.

Expected in one folder: ``tgif-v1.0.tsv`` (``URL<tab>sentence``, no header) and ``train.txt``,
``val.txt``, ``test.txt`` (one URL a line), there or in its subfolder ``splits``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gare_cache.annotations.grammar import (
    Caption,
    Sizes,
    VideoList,
    check_disjoint,
    find_folder,
    find_splits,
    keep_captioned,
    make_records,
    read_list,
)
from gare_cache.annotations.record import SPLITS, Annotations
from gare_cache.annotations.text_files import check_text, read_tab, shorten
from gare_cache.errors import AnnotationError, counted

TABLE = "tgif-v1.0.tsv"
LISTS = {split: f"{split}.txt" for split in SPLITS}
_COLUMNS = ("URL", "sentence")
SIZES: dict[str, Sizes] = {"all-captions": {"val": (10_708, None), "test": (11_360, None)}}


def read_tgif(path: Path, protocol: str) -> Annotations:
    """Read TGIF as ``all-captions``: each sentence of a GIF is a caption.

    A GIF's id is the last part of its URL without ``.gif``, as in TGIF-QA; the host and the folder
    in the URL do not matter. Its file may be ``.gif``, ``.mp4`` or another video. All rows of a GIF
    count: the publisher says one in train and val and three in test, but the table has more.

    Args:
        path: the folder, or the table in it. Only the test's list must exist.
        protocol: ``all-captions``, the only one.

    Returns:
        The captions: train, val, test, GIFs in list order, captions in the order of the table.

    Raises:
        AnnotationError: a file is missing or not UTF-8, a row has not two cells, two URLs give one
            id, a list repeats one, two splits share a GIF, or no GIF of a list has a caption.
    """
    folder = find_folder(path, [TABLE], "TGIF")
    source = folder / TABLE
    if not source.is_file():
        raise AnnotationError(f"{source.absolute()} does not exist; put the official file there")
    notes: list[str] = []
    captions_of = _read(source)
    places = folder / "splits" if (folder / "splits").is_dir() else folder
    files = find_splits(places, LISTS, notes)
    lists = {split: read_list(file, _id) for split, file in files.items()}
    check_disjoint(lists)
    kept = keep_captioned(lists, captions_of, str(source), notes)
    notes += _count_others(kept, captions_of)
    return Annotations(make_records(kept, captions_of), tuple(notes))


def _id(url: str) -> str:
    return url.rpartition("/")[2].removesuffix(".gif")


def _place(url: str) -> str:
    """Return what follows the host, which names one of several servers of the same GIF."""
    return url.partition("://")[2].partition("/")[2]


def _read(path: Path) -> dict[str, list[Caption]]:
    captions_of: dict[str, list[Caption]] = {}
    first: dict[str, tuple[str, str]] = {}  # id -> its place, and where that stands
    for origin, (url, sentence) in read_tab(path, _COLUMNS):
        url = check_text(origin, _COLUMNS[0], url).strip()
        place = _place(url)
        id_ = check_text(origin, "id in the URL", _id(url))
        earlier, where = first.setdefault(id_, (place, origin))
        if earlier != place:
            raise AnnotationError(
                f"{origin}: {shorten(url)} has the id {id_!r} of another URL ({where}); rename the "
                "file of one, and its last part in the table and the list"
            )
        caption = Caption(check_text(origin, _COLUMNS[1], sentence), origin)
        captions_of.setdefault(id_, []).append(caption)
    return captions_of


def _count_others(
    lists: Mapping[str, VideoList], captions_of: Mapping[str, list[Caption]]
) -> list[str]:
    notes = []
    for split in ("train", "val"):
        ids = lists[split].ids if split in lists else []
        several = sum(len(captions_of[id_]) > 1 for id_ in ids)
        if several:
            total = counted(len(ids), "GIF")
            notes.append(f"{split}: {several:,} of {total} have more than one caption")
    listed = sum(len(videos.ids) for videos in lists.values())
    if listed < len(captions_of):
        notes.append(
            f"{listed:,} of {counted(len(captions_of), 'GIF')} of {TABLE}: the lists lack "
            f"{len(captions_of) - listed:,}"
        )
    return notes
