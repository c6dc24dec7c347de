"""Find the video files that annotations name."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from gare_cache.annotations.record import AnnotationRecord
from gare_cache.errors import AnnotationError, counted

VIDEO_EXTENSIONS = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".wmv",
        ".flv",
        ".mpg",
        ".mpeg",
        ".3gp",
        ".3g2",
        ".asf",
        ".ts",
        ".m2ts",
        ".mts",
        ".vob",
        ".ogv",
        ".gif",
    ]
)
_SHOWN = 5


class VideoFiles:
    """Index of the video files below the roots by path and name, with and without extension."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = roots
        self._files: dict[str, list[Path]] = defaultdict(list)
        self._alike: dict[str, Path] = {}  # stem in lower case -> first file, relative to its root
        self.count = 0
        for root in roots:
            if not root.is_dir():
                kind = "is not a folder" if root.exists() else "does not exist"
                raise AnnotationError(f"dataset.video_roots: {root.absolute()} {kind}")
            for path in _walk(root):
                self._add(root, path)

    def _add(self, root: Path, path: Path) -> None:
        relative = path.relative_to(root)
        keys = (relative, relative.with_suffix(""), path.name, path.stem)
        for key in dict.fromkeys(_composed(str(key)) for key in keys):
            self._files[key].append(path)
        for stem in (str(relative.with_suffix("")), path.stem):
            self._alike.setdefault(_composed(stem).casefold(), relative)
        self.count += 1

    def normalise(self, name: str) -> str:
        """Return one spelling of a name: ``./sub//a.mp4`` and ``sub/a.mp4`` are the same file."""
        composed = _composed(posixpath.normpath(name))
        for root in map(str, self._roots):
            if composed.startswith(root + "/"):
                return composed.removeprefix(root + "/")
        return composed

    def find(self, record: AnnotationRecord) -> Path | None:
        """Return the file of a record, or None.

        Raises:
            AnnotationError: several files match.
        """
        matches = self._files.get(self.normalise(record.video), [])
        if len({path.resolve() for path in matches}) > 1:
            raise AnnotationError(
                f"{record.origin}: video {record.video!r} matches {counted(len(matches), 'file')}: "
                f"{', '.join(map(str, matches[:_SHOWN]))}; annotate the path relative to its root"
            )
        return matches[0] if matches else None

    def describe(self, record: AnnotationRecord) -> str:
        """Return where a video is named and how; without a file, one of a similar name."""
        place = f"{record.origin}: {record.video}"
        if self.find(record):
            return place
        stem = video_stem(self.normalise(record.video)).casefold()
        alike = self._alike.get(stem) or self._alike.get(posixpath.basename(stem))
        return place + (f"; {alike} exists" if alike else "")


def video_stem(name: str) -> str:
    """Return a name without its extension, if it is that of a video."""
    stem, extension = os.path.splitext(name)
    return stem if extension.lower() in VIDEO_EXTENSIONS else name


def _walk(root: Path) -> Iterator[Path]:
    seen = set()  # a link to a folder above would be walked for ever
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS:
                yield Path(folder) / name


def _composed(name: str) -> str:
    # Some file systems and archives store accents as characters of their own.
    return unicodedata.normalize("NFC", name)
