"""Stage init: write the files of a new project from a preset."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

from gare_cache.annotations.folder import video_names
from gare_cache.errors import ConfigError
from gare_cache.files import write_text
from gare_cache.presets import OWN_DATA, project_files

GUIDE = "README.md"
# Name of the guide where the project has a README of its own.
_OTHER_GUIDE = "GARE-CACHE.md"
_IGNORED = ".gitignore"


def init(
    folder: Path,
    *,
    preset: str,
    encoder: str | None = None,
    videos: Path | None = None,
    captions: Path | None = None,
) -> list[Path]:
    """Write ``params.yaml``, ``dvc.yaml``, ``.gitignore``, ``README.md`` and studies into a folder.

    A README and a .gitignore may be there already: the guide is then ``GARE-CACHE.md``, and the
    lines that the .gitignore lacks are appended to it. Own data is named after the folder.

    Args:
        folder: created if missing; other files in it are left alone.
        preset: the initial settings.
        encoder: an open_clip model, or the demo's, that replaces the preset's.
        videos: folder of own videos. Without ``captions``, ``captions.csv`` is written with a row
            for each video and an empty caption to fill in.
        captions: captions file of own videos.

    Returns:
        The written files.

    Raises:
        ConfigError: the preset or encoder is unknown, or a file exists; nothing is written.
    """
    files = project_files(preset, encoder=encoder, name=_dataset_name(folder))
    if (videos or captions) and preset != OWN_DATA:
        raise ConfigError(f"--videos and --captions are of preset {OWN_DATA!r}; leave them out")
    if captions is not None and not captions.is_file():
        raise ConfigError(f"--captions: {captions} is no file")
    params = files["params.yaml"]
    if captions is not None:
        path = json.dumps(str(captions.absolute()), ensure_ascii=False)
        params = params.replace("annotations: captions.csv", f"annotations: {path}", 1)
    if videos is not None:
        path = json.dumps(str(videos.absolute()), ensure_ascii=False)
        params = params.replace("video_roots: [videos]", f"video_roots: [{path}]", 1)
        if captions is None:
            files["captions.csv"] = _captions_to_fill_in(videos)
    files["params.yaml"] = params
    existing = [name for name in files if (folder / name).exists()]
    guide = _OTHER_GUIDE if GUIDE in existing else GUIDE
    in_the_way = {*existing, *([guide] if (folder / guide).exists() else [])} - {GUIDE, _IGNORED}
    if in_the_way:
        shown = dict.fromkeys(Path(name).parts[0] for name in (*existing, *sorted(in_the_way)))
        raise ConfigError(
            f"{folder} has {', '.join(shown)} already, and nothing is overwritten; name another "
            "folder or move them away"
        )
    files[guide] = files.pop(GUIDE)
    if _IGNORED in existing:
        files[_IGNORED] = _with_lines_of(
            (folder / _IGNORED).read_text(encoding="utf-8"), files[_IGNORED]
        )
    for name, text in files.items():
        write_text(folder / name, text)
    return [folder / name for name in files]


def _captions_to_fill_in(videos: Path) -> str:
    names = video_names(videos)
    if not names:
        raise ConfigError(f"--videos: {videos} holds no video files")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [("video", "caption"), *((n, "") for n in names)]
    )
    return text.getvalue()


def _with_lines_of(text: str, other: str) -> str:
    """Return a text with the lines of another one that it lacks, at its end."""
    present = {line.strip() for line in text.splitlines()}
    missing = [line for line in other.splitlines() if line.strip() not in present]
    end = "" if not text or text.endswith("\n") else "\n"
    return text + end + "".join(f"{line}\n" for line in missing)


def _dataset_name(folder: Path) -> str | None:
    """Return the folder's name with the characters that a data set's name may have."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.absolute().resolve().name).strip("-._")
    return name or None
