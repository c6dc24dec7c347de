"""Read LSMDC 2016 (Rohrbach et al., arXiv:1605.03705) from its official files.

Expected in one folder: ``LSMDC16_annos_training.csv``, ``LSMDC16_annos_val.csv`` and
``LSMDC16_challenge_1000_publictect.csv`` (sic), each with six cells a line, separated by tabs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

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
from gare_cache.annotations.text_files import check_text, read_tab
from gare_cache.errors import counted

FILES = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
COLUMNS = (
    *("CLIP_ID", "START_ALIGNED", "END_ALIGNED", "START_EXTRACTED", "END_EXTRACTED"),
    "SENTENCE",
)
# Rows of the official files; how many clips the rows of train and val name is not published.
SIZES: dict[str, Sizes] = {
    "1k": {"train": (None, 101_079), "val": (None, 7408), "test": (1000, 1000)}
}
# Published code leaves these out as damaged, each program others: it scores on 999 clips.
REPORTED = (
    "3064_SPARKLE_2012_01.41.07.000-01.41.11.793",
    "1012_Unbreakable_00.05.16.065-00.05.21.941",
)


def read_lsmdc(path: Path, protocol: str) -> Annotations:
    """Read LSMDC as ``1k``: a test on the 1,000 clips of the public challenge.

    A clip's id holds dots (``0017_Pianist_00.23.28.872-00.23.34.843``); its file is ``ID.avi`` in
    any folder. Rows that repeat an id are captions of one clip. Training and validation files need
    an agreement with the publisher; only the test's file must exist.

    Args:
        path: the folder, or one of the files in it.
        protocol: ``1k``, the only one.

    Returns:
        The captions: train, val, test, clips in the order of their first row.

    Raises:
        AnnotationError: a file is missing or not UTF-8, a row has not six cells or an empty id or
            sentence, or two splits share a clip.
    """
    folder = find_folder(path, FILES.values(), "LSMDC")
    notes: list[str] = []
    lists: dict[str, VideoList] = {}
    captions_of: dict[str, list[Caption]] = {}
    for split, source in find_splits(folder, FILES, notes).items():
        found = _read(source)
        lists[split] = VideoList(str(source), list(found))
        check_disjoint(lists)
        captions_of.update(found)
        repeated = sum(len(captions) > 1 for captions in found.values())
        if repeated:
            rows = sum(map(len, found.values()))
            notes.append(
                f"{split}: {counted(len(found), 'clip')} of {counted(rows, 'row')}: "
                f"{counted(repeated, 'clip', 'have')} several captions"
            )
    reported = [id_ for id_ in REPORTED if id_ in captions_of]
    if reported:
        notes.append(
            f"{counted(len(reported), 'clip', 'are')} left out as damaged by some published code, "
            f"which scores on 999, but kept here: {', '.join(reported)}"
        )
    return Annotations(make_records(lists, captions_of), tuple(notes))


def _read(path: Path) -> Mapping[str, list[Caption]]:
    captions_of: dict[str, list[Caption]] = defaultdict(list)
    for origin, cells in read_tab(path, COLUMNS):
        id_ = check_text(origin, COLUMNS[0], cells[0]).strip()
        captions_of[id_].append(Caption(check_text(origin, COLUMNS[-1], cells[-1]), origin))
    return captions_of
