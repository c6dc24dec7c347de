"""Layout of a cache folder: file names, array shapes and dtypes, rows per unit."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gare_cache.errors import CacheError

FORMAT_VERSION = 1
# Raised whenever a fix changes features, so that old and new ones never share a folder.
EXTRACTOR_REVISION = 1

Kind = Literal["video", "text"]
KINDS: tuple[Kind, ...] = ("video", "text")

FEATURES = "features.zarr"
JOURNAL = "journal"
HEAD_START = "encoder_init.safetensors"
MANIFEST = "manifest"
THUMBNAILS = "thumbnails"
TABLES: dict[Kind, str] = {"video": "items.parquet", "text": "captions.parquet"}

_UNIT_BYTES = 4 * 2**20
_MOST_UNIT_BYTES = 64 * 2**20
_FEW_ROWS = 16  # minimum for long rows: in smaller units the last batch is mostly padding
_MOST_ROWS: dict[Kind, int] = {"video": 256, "text": 4096}
_MOST_ROWS_OF_WORDS = 256  # some 13 tokens a caption: 3.4 MB at width 512

PIXELS = "video/pixels"
VIEWS = "video/views"
PATCHES = "video/patches"
WORDS = "text/tokens"
LENGTHS = "text/lengths"


@dataclass(frozen=True)
class ArraySpec:
    """One array of a cache: name in the group, row shape, dtype and fill value."""

    name: str
    row_shape: tuple[int, ...]
    dtype: str
    fill: float | int

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return math.prod(self.row_shape) * np.dtype(self.dtype).itemsize

    def empty(self, rows: int) -> np.ndarray[Any, np.dtype[Any]]:
        """Return ``rows`` rows of the fill value."""
        return np.full((rows, *self.row_shape), self.fill, dtype=self.dtype)


@dataclass(frozen=True)
class Layout:
    """Sizes that determine the array shapes of a cache.

    Attributes:
        max_frames: frames F kept per video.
        dim: width D of the features; 3, the channels, of frames.
        num_views: augmented views R kept per video, 0 for none.
        num_patches: patch tokens P kept per frame, 0 for none.
        words: whether the word tokens of captions are kept: because captions differ in length,
            as one ragged array per unit (see ``cache.words``).
        height: of frames in pixels, if frames are kept instead of features; else 0.
        width: likewise.
    """

    max_frames: int
    dim: int
    num_views: int = 0
    num_patches: int = 0
    words: bool = False
    height: int = 0
    width: int = 0

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of items that such a cache holds: of frames, no captions."""
        return ("video",) if self.height else KINDS

    def arrays(self, kind: Kind) -> tuple[ArraySpec, ...]:
        """Return the arrays of a kind; row i of each belongs to the same item."""
        nan = float("nan")
        if self.height:
            pixels = (self.max_frames, self.height, self.width, self.dim)
            of_frames = (
                ArraySpec(PIXELS, pixels, "|u1", 0),
                ArraySpec("video/times", (self.max_frames,), "<f4", nan),
                ArraySpec("video/num_frames", (), "<i4", 0),
            )
            return of_frames if kind == "video" else ()
        if kind == "video":
            frame = (self.max_frames, self.dim)
            patch = (self.max_frames, self.num_patches, self.dim)
            return (
                ArraySpec("video/frames", frame, "<f2", nan),
                ArraySpec("video/times", (self.max_frames,), "<f4", nan),
                ArraySpec("video/num_frames", (), "<i4", 0),
                *([ArraySpec(VIEWS, (self.num_views, *frame), "<f2", nan)] * (self.num_views > 0)),
                *([ArraySpec(PATCHES, patch, "<f2", nan)] * (self.num_patches > 0)),
            )
        features = ArraySpec("text/features", (self.dim,), "<f2", nan)
        return (features, ArraySpec(LENGTHS, (), "<i4", 0)) if self.words else (features,)

    def unit_rows(self, kind: Kind) -> int:
        """Return the number of rows per unit, a power of two.

        The unit's largest array takes about 4 MB; long rows get up to 16 per unit within 64 MB.
        """
        if kind == "text" and self.words:
            return _MOST_ROWS_OF_WORDS
        if kind not in self.kinds:
            return _MOST_ROWS[kind]
        row_bytes = max(spec.row_bytes for spec in self.arrays(kind))
        fitting = max(1, _UNIT_BYTES // row_bytes, min(_FEW_ROWS, _MOST_UNIT_BYTES // row_bytes))
        return min(_MOST_ROWS[kind], int(2 ** (fitting.bit_length() - 1)))

    def is_possible(self) -> bool:
        """Return whether the sizes are those of some cache; those of a damaged one may not be."""
        frame = (self.height, self.width)
        sizes = (self.max_frames, self.dim, self.num_views, self.num_patches, *frame)
        if any(type(size) is not int for size in sizes) or type(self.words) is not bool:
            return False
        return min(sizes[:2]) > 0 and min(sizes[2:]) >= 0 and all(frame) == any(frame)

    def to_json(self) -> dict[str, int]:
        """Return the layout as stored in the group's attributes."""
        stored = asdict(self)
        if not self.height:  # caches of features have had these attributes from the start
            del stored["height"], stored["width"]
        return stored


def thumbnail_path(folder: Path, row: int) -> Path:
    """Return the path of a row's thumbnail."""
    return folder / THUMBNAILS / f"{row:07d}.jpg"


def check_format(attributes: dict[str, Any], folder: object) -> None:
    """Check that a group is a cache of the format that this version reads.

    Raises:
        CacheError: it is not; the message gives both versions.
    """
    version = attributes.get("format_version")
    if version is None:
        raise CacheError(f"{folder} is not a feature cache; run `gare-cache extract`")
    if version != FORMAT_VERSION:
        raise CacheError(
            f"{folder} has cache format {version}; this version reads {FORMAT_VERSION}: install "
            "the gare-cache that wrote it, or extract again into another root"
        )
