"""The videos that a server names, by opaque keys: nothing else of the machine can be asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from gare_cache.cache.schema import thumbnail_path
from gare_cache.files import canonical_digest
from gare_cache.manifest.tables import Manifest
from gare_cache.search.gallery import Gallery, GalleryVideo
from gare_cache.serving.schema import Video

_CAPTIONS = 3
_SUGGESTIONS = 5
_SUGGESTED_CHARACTERS = 60


@dataclass(frozen=True)
class Entry:
    """A video of the gallery, as it is shown.

    Attributes:
        key: its name in URLs.
        video: of the gallery.
        name: name of its file, or the id.
        folder: of its file, below the folder that holds all; "" for that folder.
        captions: the first three.
        thumbnail: file of its picture, which may be missing.
    """

    key: str
    video: GalleryVideo
    name: str
    folder: str
    captions: Sequence[str]
    thumbnail: Path

    def shown(self, at: float | None = None) -> Video:
        """Return the video as JSON; whether its files are there is looked up now.

        Args:
            at: seconds in its file that the picture shows; None is the middle frame.
        """
        place, path = f"/api/videos/{self.key}", self.video.path
        there = path is not None and path.is_file()
        missing = None if there else "its features were imported without the video"
        if path is not None and not there:
            missing = "the file was moved or deleted after it was indexed"
        return Video(
            key=self.key,
            video_id=self.video.video_id,
            name=self.name,
            folder=self.folder,
            split=self.video.split,
            clip_start=self.video.start,
            clip_end=self.video.end,
            captions=list(self.captions),
            thumbnail=self._picture(f"{place}/thumbnail", at if there else None),
            file=f"{place}/file" if there else None,
            missing=missing,
        )

    def _picture(self, url: str, at: float | None) -> str | None:
        if at is not None:
            return f"{url}?at={at:.1f}"
        return url if self.thumbnail.is_file() else None


@dataclass(frozen=True)
class Catalogue:
    """The videos of a gallery.

    Attributes:
        entries: by key.
        by_id: the same, by video id.
        folders: that can be searched alone, the topmost first.
        splits: that the videos belong to.
    """

    entries: Mapping[str, Entry]
    by_id: Mapping[str, Entry]
    folders: Sequence[str]
    splits: Sequence[str]

    def suggestions(self) -> list[str]:
        """Return some short captions, of videos evenly spaced."""
        described = [entry.captions[0] for entry in self.entries.values() if entry.captions]
        short = [caption for caption in described if len(caption) <= _SUGGESTED_CHARACTERS]
        step = max(1, len(short) // _SUGGESTIONS)
        return list(dict.fromkeys(short[step // 2 :: step]))[:_SUGGESTIONS]

    def examples(self) -> list[Video]:
        """Return some videos, evenly spaced."""
        entries = list(self.entries.values())
        step = max(1, len(entries) // _SUGGESTIONS)
        return [entry.shown() for entry in entries[step // 2 :: step][:_SUGGESTIONS]]

    def below(self, folder: str) -> list[str]:
        """Return the ids of the videos in a folder and those below it."""
        return [
            id_
            for id_, entry in self.by_id.items()
            if entry.folder == folder or entry.folder.startswith(f"{folder}/")
        ]


def make_catalogue(gallery: Gallery, manifest: Manifest) -> Catalogue:
    """Name the videos of a gallery.

    Args:
        gallery: the videos.
        manifest: for their captions.
    """
    captions: dict[str, list[str]] = {}
    for row in manifest.captions.select(["video_id", "caption"]).to_pylist():
        of_video = captions.setdefault(row["video_id"], [])
        if len(of_video) < _CAPTIONS:
            of_video.append(row["caption"])
    parents = [video.path.absolute().parent for video in gallery.videos if video.path is not None]
    root = _common(parents)
    entries = [
        Entry(
            key=video_key(video.video_id),
            video=video,
            name=video.video_id if video.path is None else video.path.name,
            folder="" if video.path is None else _below(video.path, root),
            captions=captions.get(video.video_id, ()),
            thumbnail=thumbnail_path(gallery.cache.folder, video.row),
        )
        for video in gallery.videos
    ]
    folders = {
        parent.as_posix()
        for folder in {entry.folder for entry in entries if entry.folder}
        for parent in (PurePath(folder), *PurePath(folder).parents)
    }
    return Catalogue(
        entries={entry.key: entry for entry in entries},
        by_id={entry.video.video_id: entry for entry in entries},
        folders=sorted(folders - {"."}, key=lambda name: (name.count("/"), name)),
        splits=list(dict.fromkeys(video.split for video in gallery.videos)),
    )


def video_key(video_id: str) -> str:
    """Return the name of a video in URLs: the same in every server, and no path."""
    return canonical_digest(["video", video_id])[:20]


def _common(parents: Sequence[Path]) -> Path | None:
    try:
        return Path(os.path.commonpath(set(parents))) if parents else None
    except ValueError:  # on several drives
        return None


def _below(path: Path, root: Path | None) -> str:
    if root is None:
        return ""
    below = path.absolute().parent.relative_to(root).as_posix()
    return "" if below == "." else below
