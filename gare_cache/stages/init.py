"""Stage init: write the files of a new project from a preset."""

from __future__ import annotations

from pathlib import Path

from gare_cache.errors import ConfigError
from gare_cache.files import write_text
from gare_cache.presets import project_files


def init(folder: Path, *, preset: str, encoder: str | None = None) -> list[Path]:
    """Write ``params.yaml``, ``dvc.yaml``, ``.gitignore``, ``README.md`` and studies into a folder.

    Args:
        folder: created if missing; other files in it are left alone.
        preset: the initial settings.
        encoder: an open_clip model that replaces the preset's.

    Returns:
        The written files.

    Raises:
        ConfigError: the preset or encoder is unknown, or a file exists; nothing is written.
    """
    texts = {folder / name: text for name, text in project_files(preset, encoder=encoder).items()}
    existing = dict.fromkeys(path.relative_to(folder).parts[0] for path in texts if path.exists())
    if existing:
        raise ConfigError(
            f"{folder} has {', '.join(existing)} already, and nothing is overwritten; name another "
            "folder or move them away"
        )
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)
