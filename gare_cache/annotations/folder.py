"""Read a folder of videos without captions, to search them."""

from __future__ import annotations

from pathlib import Path

from gare_cache.annotations.grammar import VIDEO_EXTENSIONS
from gare_cache.annotations.record import AnnotationRecord, Annotations
from gare_cache.errors import AnnotationError, counted


def video_names(folder: Path) -> list[str]:
    """Return the names of the video files below a folder, relative to it, sorted."""
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in VIDEO_EXTENSIONS and path.is_file()
    ]


def read_folder(path: Path) -> Annotations:
    """List the videos below a folder; none has a caption, and all are of the split ``test``.

    Args:
        path: the folder, searched with all its subfolders.

    Raises:
        AnnotationError: it is no folder, or holds no video file.
    """
    if not path.is_dir():
        kind = "is a file" if path.is_file() else "does not exist"
        raise AnnotationError(f"dataset.annotations: {path.absolute()} {kind}; it must be a folder")
    names = video_names(path)
    if not names:
        raise AnnotationError(f"{path.absolute()} holds no video files")
    records = [AnnotationRecord(name, None, "test", None, None, f"{path}/{name}") for name in names]
    note = f"{counted(len(names), 'video')} without captions: to search, not to train on"
    return Annotations(records, (note,))
