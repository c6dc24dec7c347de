"""Layouts of published feature releases, presented as ``video/<id>`` and ``text/<id>`` arrays.

Each reader yields the items of a release by the release's own id; ``open_release`` turns the ids
into those of the manifest, masks rows that are all zero, writes seconds and pools token features.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from gare_cache.cache.exchange.files import FeatureFile, StoredArray
from gare_cache.cache.exchange.item_files import h5_per_item, torch_dict, webdataset
from gare_cache.cache.exchange.item_folders import bigfile, npy_per_item, npz_per_item
from gare_cache.cache.exchange.item_parquet import huggingface
from gare_cache.cache.exchange.release_rows import POOLS, masked_videos, pooled_captions
from gare_cache.cache.schema import Kind
from gare_cache.errors import ConfigError, FeatureFileError, unknown_name
from gare_cache.files import canonical_digest, file_digest
from gare_cache.limits import read_text

_Reader = Callable[[Path, str | None], AbstractContextManager[dict[str, StoredArray]]]
LAYOUTS: dict[str, _Reader] = {
    "npz-per-item": npz_per_item,
    "npy-per-item": npy_per_item,
    "h5-per-item": h5_per_item,
    "torch-dict": torch_dict,
    "bigfile": bigfile,
    "webdataset": webdataset,
    "huggingface": huggingface,
}
_KEYED = ("npz-per-item", "h5-per-item", "huggingface")
_SHOWN = 5
_MAP_HEADER = ["theirs", "ours"]


@dataclass(frozen=True)
class ReleaseOptions:
    """How the files of a release are understood.

    Attributes:
        layout: a name of ``LAYOUTS``, for the videos, and for captions unless the next is given.
        caption_layout: layout of the captions.
        video_key: array of each video's npz file, or dataset of each HDF5 group; None takes the
            only array of an npz file, or every dataset of an HDF5 file.
        caption_key: the same for captions.
        caption_name: how a release names captions, ``{}`` standing for the id: ``qid{}``.
        ids: CSV file with the header ``theirs,ours``: ids of the release and of the manifest.
        seconds_per_row: row i of a video is at i times this many seconds; None writes no seconds.
        pool: ``mean`` or ``eot`` (the last row) of a caption's (L, D) token features.

    Raises:
        ConfigError: an option is unknown, or has no effect on the layout.
    """

    layout: str
    caption_layout: str | None = None
    video_key: str | None = None
    caption_key: str | None = None
    caption_name: str = "{}"
    ids: Path | None = None
    seconds_per_row: float | None = None
    pool: str | None = None

    def __post_init__(self) -> None:
        for kind in ("video", "text"):
            if self.of(kind) not in LAYOUTS:
                raise ConfigError(unknown_name("layout", self.of(kind), [*LAYOUTS]))
            if self.key(kind) is not None and self.of(kind) not in _KEYED:
                flag = "--video-key" if kind == "video" else "--caption-key"
                raise ConfigError(
                    f"{flag} has no effect on the layout {self.of(kind)}, which has one array an "
                    "item"
                )
        if self.pool is not None and self.pool not in POOLS:
            raise ConfigError(unknown_name("pool", self.pool, POOLS))
        if self.caption_name.count("{}") != 1:
            raise ConfigError(
                f"--caption-name is {self.caption_name!r}; it must hold {{}} once, for the id"
            )
        seconds = self.seconds_per_row
        if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
            raise ConfigError(f"--seconds-per-row is {seconds}; it must be finite and above 0")

    def of(self, kind: Kind) -> str:
        """Return the layout of videos or captions."""
        return self.layout if kind == "video" else self.caption_layout or self.layout

    def key(self, kind: Kind) -> str | None:
        """Return the key of videos or captions."""
        return self.video_key if kind == "video" else self.caption_key

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the options and of the content of the map of ids."""
        ids = None if self.ids is None else file_digest(self.ids)
        return canonical_digest({**asdict(self), "ids": ids})


@contextmanager
def open_release(
    path: Path,
    kind: Kind,
    options: ReleaseOptions,
    *,
    say: Callable[[str], None],
    ignore_unknown: bool = False,
) -> Iterator[FeatureFile]:
    """Open the videos or the captions of a release.

    Every video is read once to find rows that are all zero.

    Args:
        path: a file or folder of the release.
        kind: ``video`` or ``text``.
        options: the layout and its options.
        say: called with notes on what is masked or left out.
        ignore_unknown: leave out items that the map of ids lacks.

    Raises:
        FeatureFileError: the file is faulty or has another layout, an id is not in the map or
            twice, or captions are token features and no pooling is named.
        ConfigError: a pooling is named, and no caption has token features.
    """
    if not path.exists():
        raise FeatureFileError(f"{path} does not exist")
    with LAYOUTS[options.of(kind)](path, options.key(kind)) as items:
        if not items:
            raise FeatureFileError(f"{path} holds no item of the layout {options.of(kind)}")
        named = _named(path, kind, items, options, say=say, ignore_unknown=ignore_unknown)
        raw = FeatureFile(path, {f"{kind}/{id_}": array for id_, array in named.items()})
        if kind == "text":
            arrays = pooled_captions(raw, options.pool)
        else:
            arrays = masked_videos(raw, options.seconds_per_row, say)
        yield FeatureFile(path, arrays)


def _named(
    path: Path,
    kind: Kind,
    items: Mapping[str, StoredArray],
    options: ReleaseOptions,
    *,
    say: Callable[[str], None],
    ignore_unknown: bool,
) -> dict[str, StoredArray]:
    theirs = {_their_id(path, options, kind, name): array for name, array in items.items()}
    if options.ids is None:
        return theirs
    ours = _id_map(options.ids)
    unmapped = [id_ for id_ in theirs if id_ not in ours]
    if unmapped:
        note = (
            f"{len(unmapped):,} of {len(theirs):,} items of {path} are not in {options.ids}: "
            + ", ".join(unmapped[:_SHOWN])
        )
        if len(unmapped) == len(theirs) or not ignore_unknown:
            raise FeatureFileError(f"{note}; add them, or leave them out with --ignore-unknown")
        say(f"{note}; left out")
    return {ours[id_]: array for id_, array in theirs.items() if id_ in ours}


def _their_id(path: Path, options: ReleaseOptions, kind: Kind, name: str) -> str:
    if kind == "video" or options.caption_name == "{}":
        return name
    before, after = options.caption_name.split("{}")
    inner = name.removeprefix(before).removesuffix(after)
    if before + inner + after != name or not inner:
        raise FeatureFileError(
            f"{path}: {name!r} is not named like --caption-name {options.caption_name}"
        )
    return inner


def _id_map(path: Path) -> dict[str, str]:
    try:
        rows = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True))
    except (OSError, csv.Error, UnicodeDecodeError) as err:
        raise FeatureFileError(f"{path} cannot be read: {err}") from err
    if not rows or rows[0] != _MAP_HEADER:
        raise FeatureFileError(f"{path} must begin with the line {','.join(_MAP_HEADER)}")
    ours: dict[str, str] = {}
    taken: set[str] = set()
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(_MAP_HEADER) or not all(row):
            raise FeatureFileError(f"{path}, row {number}: two ids are needed, not {row}")
        if row[0] in ours or row[1] in taken:
            raise FeatureFileError(f"{path}, row {number}: an id occurs twice: {row}")
        ours[row[0]] = row[1]
        taken.add(row[1])
    return ours
