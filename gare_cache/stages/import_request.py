"""What import-features is asked to read: files, options and their checks against the manifest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gare_cache.cache.exchange.exported import exported_layout, open_features_at
from gare_cache.cache.exchange.files import FeatureFile, feature_file_digest
from gare_cache.cache.exchange.layouts import ReleaseOptions, open_release
from gare_cache.cache.exchange.sources import ImportSource, check_ids, read_source
from gare_cache.cache.schema import KINDS, Kind
from gare_cache.errors import ConfigError, agreeing
from gare_cache.files import canonical_digest
from gare_cache.project.progress import say


@dataclass(frozen=True)
class ImportRequest:
    """What to import, and how the files are understood.

    Attributes:
        paths: HDF5 files, npz archives, folders of npy files or exports (docs/features.md).
        captions: the captions' files, where ``paths`` are the videos' in the layout of a release.
        release: the layout of a release; None reads the layouts of this package.
        encoder_id: name of the encoder; None takes the identity stored in an exported file.
        max_frames: frames F of a row; None takes those of the longest video, or of the exported
            cache.
        logit_scale: logarithm of the initial scale of heads; None takes the file's, or log 100.
        ignore_unknown: skip ids that are not in the manifest instead of raising an error.
    """

    paths: Sequence[Path]
    captions: Sequence[Path] = ()
    release: ReleaseOptions | None = None
    encoder_id: str | None = None
    max_frames: int | None = None
    logit_scale: float | None = None
    ignore_unknown: bool = False

    @contextmanager
    def opened(self, listed: Mapping[Kind, Mapping[str, Any]]) -> Iterator[ImportSource]:
        """Open the files, check their ids against the manifest's, and say what differs."""
        with ExitStack() as stack:
            source = read_source(
                [stack.enter_context(file) for file in self._files()],
                encoder_id=self.encoder_id,
                max_frames=self.max_frames,
                logit_scale=self.logit_scale,
                kinds=[kind for kind in KINDS if kind == "video" or listed[kind]],
            )
            for kind in KINDS:
                tables, known = source.tables[kind], listed[kind]
                for note in check_ids(tables, known, kind, ignore_unknown=self.ignore_unknown):
                    say(note)
            yield source

    def digest(self) -> str:
        """Return a digest of the files' content and the options of the release."""
        digests = [feature_file_digest(path) for path in self.paths]
        release = self._release_of_others()
        if release is None:
            return canonical_digest(digests)
        captions = [feature_file_digest(path) for path in self.captions]
        return canonical_digest([digests, captions, release.digest()])

    def _files(self) -> list[AbstractContextManager[FeatureFile]]:
        release = self._release_of_others()
        if release is None:
            return [open_features_at(path) for path in self.paths]
        kinds: list[tuple[Kind, Path]] = [
            *(("video", path) for path in self.paths),
            *(("text", path) for path in self.captions),
        ]
        return [
            open_release(path, kind, release, say=say, ignore_unknown=self.ignore_unknown)
            for kind, path in kinds
        ]

    def _release_of_others(self) -> ReleaseOptions | None:
        """Return the layout of a release; None for a layout of this package, named or not.

        Raises:
            ConfigError: an option of releases is given for files of this package.
        """
        if self.release is None:
            if self.captions:
                raise ConfigError(
                    "--captions belongs to --layout; without it, name all files alike"
                )
            return None
        layouts = [exported_layout(path) for path in self.paths]
        for path, layout in zip(self.paths, layouts, strict=True):
            if layout and (
                None in layouts or self.captions or self.release != ReleaseOptions(layout)
            ):
                raise ConfigError(
                    f"{path} was written by export-features and says itself what it holds, "
                    "captions too: import it without --layout and its options"
                )
        return self.release if None in layouts or not layouts else None


def release_options(
    layout: str | None, *, fps: float | None = None, **options: Any
) -> ReleaseOptions | None:
    """Return the options of a release's layout; None without a layout.

    Args:
        layout: name of the layout.
        fps: rows of a video in a second, instead of ``seconds_per_row``.
        options: other attributes of ``ReleaseOptions``; None stands for the default.

    Raises:
        ConfigError: an option is unknown, has no effect, or needs a layout.
    """
    given = {name: value for name, value in {**options, "fps": fps}.items() if value is not None}
    if layout is None:
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(f"{flags} {agreeing(len(given), 'need')} --layout")
        return None
    if fps is not None:
        if given.get("seconds_per_row") is not None:
            raise ConfigError("--fps and --seconds-per-row say the same; give one of them")
        if not (math.isfinite(fps) and fps > 0):
            raise ConfigError(f"--fps is {fps}; it must be finite and above 0")
        del given["fps"]
        given["seconds_per_row"] = 1 / fps
    return ReleaseOptions(layout, **given)
