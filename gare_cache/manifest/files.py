"""Find the video files that annotations name."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from gare_cache.annotations.grammar import VIDEO_EXTENSIONS, video_stem
from gare_cache.annotations.record import AnnotationRecord
from gare_cache.errors import AnnotationError, counted

_SHOWN = 5


class VideoFiles:
    """Index of the video files below the roots by path and name, with and without extension."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._prefixes = [prefix for root in roots for prefix in _prefixes(root)]
        self._files: dict[str, list[Path]] = defaultdict(list)
        self._places: dict[str, list[Path]] = defaultdict(list)  # by relative and absolute path
        self._bare: dict[str, list[Path]] = defaultdict(list)  # files without extension, by name
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
        if path.suffix.lower() not in VIDEO_EXTENSIONS:
            for key in dict.fromkeys(_composed(str(k)).rstrip(".") for k in (relative, path.name)):
                self._bare[key].append(path)
            return
        stem = relative.with_suffix("")
        for key in dict.fromkeys(_composed(str(k)) for k in (relative, stem, path.name, path.stem)):
            self._files[key].append(path)
        places = [prefix + str(name) for prefix in _prefixes(root) for name in (relative, stem)]
        for place in (str(relative), *places):
            self._places[_composed(place)].append(path)
        for key in (str(stem), path.stem):
            self._alike.setdefault(_composed(key).casefold(), relative)
        self.count += 1

    def normalise(self, name: str) -> str:
        """Return one spelling of a name: ``./sub//a.mp4`` and ``sub/a.mp4`` are the same file."""
        spelling = _spelling(name)
        for prefix in self._prefixes:
            if spelling.startswith(prefix):
                return spelling.removeprefix(prefix)
        return spelling

    def find(self, record: AnnotationRecord) -> Path | None:
        """Return the file of a record, or None.

        An absolute path is that file alone, and a path relative to a root, with its extension,
        comes before files of that name in subfolders. Of a record's ``file_names``, the first that
        is there. A file without extension counts only if no file with one has the name.

        Raises:
            AnnotationError: several files match.
        """
        found = (self._matches(name) for name in record.file_names or (record.video,))
        matches = next(filter(None, found), [])
        if len({path.resolve() for path in matches}) > 1:
            raise AnnotationError(
                f"{record.origin}: video {record.video!r} matches {counted(len(matches), 'file')}: "
                f"{', '.join(map(str, matches[:_SHOWN]))}; annotate the path relative to its root, "
                "with its extension, or the absolute path"
            )
        return matches[0] if matches else None

    def _matches(self, name: str) -> list[Path]:
        spelling = _spelling(name)
        matches = self._places.get(spelling, [])
        if not matches and not spelling.startswith("/"):
            matches = self._files.get(spelling, [])
        return matches or self._bare.get(video_stem(spelling), [])

    def describe(self, record: AnnotationRecord) -> str:
        """Return where a video is named and how; without a file, one of a similar name."""
        place = f"{record.origin}: {record.video}"
        if self.find(record):
            return place
        stem = video_stem(self.normalise(record.video).replace("\\", "/")).casefold()
        alike = self._alike.get(stem) or self._alike.get(posixpath.basename(stem))
        return place + (f"; {alike} exists" if alike else "")


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
            path = Path(folder) / name
            known = path.suffix.lower() in VIDEO_EXTENSIONS or path.suffix in ("", ".")
            if known and path.is_file():  # no dangling link
                yield path


def _prefixes(root: Path) -> list[str]:
    """Return what absolute paths of files below a root begin with, as given and with links read."""
    folders = dict.fromkeys([os.path.abspath(root), os.path.realpath(root)])
    return [_composed(folder.rstrip("/")) + "/" for folder in folders]


def _spelling(name: str) -> str:
    spelling = _composed(posixpath.normpath(name))
    return "/" + spelling.lstrip("/") if spelling.startswith("/") else spelling


def _composed(name: str) -> str:
    # Some file systems and archives store accents as characters of their own.
    return unicodedata.normalize("NFC", name)
