"""What an export writes: the items of a cache in the order of its rows, unit by unit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.cache.exchange.tables import ENCODER_IDENTITY, MAX_FRAMES
from gare_cache.cache.reader import FeatureCache
from gare_cache.cache.rows import ID
from gare_cache.cache.schema import Kind
from gare_cache.files import creating_folder, write_record

CARD = "gare_cache.json"
HEAD_START_FILE = "encoder_init.npz"
FOLDER_VERSION = 1
FOLDERS: dict[Kind, str] = {"video": "video", "text": "text"}
_DESCRIBED: dict[Kind, tuple[str, ...]] = {
    "video": ("split", "start_seconds", "end_seconds"),
    "text": ("video_id", "split", "caption"),
}


@dataclass(frozen=True)
class ExportedItem:
    """A video or caption to write.

    Attributes:
        row: place in the export's order.
        id: its id.
        about: split and, of a video, its seconds, of a caption, its video and sentence; the reason
            if it failed.
        features: (T, D) real frames of a video, none if it failed; (D,) of a caption, NaN if it
            failed; float16.
        times: (T,) float32 seconds of a video, NaN where not known; None for a caption.
    """

    row: int
    id: str
    about: Mapping[str, Any]
    features: npt.NDArray[np.float16]
    times: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class ExportSource:
    """The items of a cache that are exported.

    Attributes:
        cache: the features.
        rows: row in the cache and row of the manifest of each item, ascending, by kind.
        shard_bytes: most bytes of features of a file, where a layout has several.
        on_items: called with the number of items written.
    """

    cache: FeatureCache
    rows: Mapping[Kind, Sequence[tuple[int, Mapping[str, Any]]]]
    shard_bytes: int
    on_items: Callable[[int], None]

    def ids(self, kind: Kind) -> list[str]:
        """Return the ids of a kind in order."""
        return [item[ID[kind]] for _, item in self.rows[kind]]

    def shard_items(self, kind: Kind) -> int:
        """Return the number of items of a shard, at least 1."""
        return max(1, self.shard_bytes // self.cache.layout.arrays(kind)[0].row_bytes)

    def units(self, kind: Kind) -> Iterator[list[tuple[int, Mapping[str, Any]]]]:
        """Yield the items of each unit in turn; what was yielded before is then counted as done."""
        unit_rows = self.cache.tables[kind].unit_rows
        for _, members in groupby(self.rows[kind], key=lambda pair: pair[0] // unit_rows):
            unit = list(members)
            yield unit
            self.on_items(len(unit))

    def items(self, kind: Kind) -> Iterator[list[ExportedItem]]:
        """Yield the items of each unit with their features.

        Raises:
            CacheError: a unit is damaged.
        """
        first = 0
        for unit in self.units(kind):
            ids = [item[ID[kind]] for _, item in unit]
            about = [self._about(kind, row, item) for row, item in unit]
            if kind == "text":
                values: list[tuple[Any, Any]] = [(row, None) for row in self.cache.captions(ids)]
            else:
                held = self.cache.videos(ids)
                values = [
                    (rows[:count], times[:count])
                    for rows, times, count in zip(
                        held.frames, held.times, held.num_frames.tolist(), strict=True
                    )
                ]
            yield [
                ExportedItem(first + at, id_, about[at], *values[at]) for at, id_ in enumerate(ids)
            ]
            first += len(unit)

    def attributes(self) -> dict[str, Any]:
        """Return what the import needs, beside the arrays, to make the same cache again."""
        identity = self.cache.attributes["identity"]
        return {
            "dataset": self.cache.attributes["dataset"],
            "encoder_id": self.cache.encoder_id,
            "extraction_id": self.cache.extraction_id,
            "content_digest": self.cache.content_digest,
            MAX_FRAMES: self.cache.layout.max_frames,
            ENCODER_IDENTITY: json.dumps(identity["encoder"], sort_keys=True),
            "extraction_identity": json.dumps(identity, sort_keys=True),
        }

    def _about(self, kind: Kind, row: int, item: Mapping[str, Any]) -> dict[str, Any]:
        reason = self.cache.tables[kind].outcomes[row].reason
        return {**{name: item[name] for name in _DESCRIBED[kind]}, "reason": reason}


@contextmanager
def export_folder(path: Path, layout: str, source: ExportSource) -> Iterator[Path]:
    """Yield a temporary folder to fill; then add the card and rename it.

    The card (``gare_cache.json``) holds the layout, the counts and the attributes,
    ``encoder_init.npz`` the tensors that heads start from.

    Args:
        path: the folder to create.
        layout: its layout.
        source: what is written.

    Raises:
        EnvironmentFailure: the disk fails.
    """
    with creating_folder(path) as partial:
        yield partial
        head_start = {name: t.numpy() for name, t in source.cache.head_start().items()}
        np.savez(partial / HEAD_START_FILE, **head_start)  # type: ignore[arg-type]
        counts = {kind: len(rows) for kind, rows in source.rows.items()}
        card = {
            "format_version": FOLDER_VERSION,
            "layout": layout,
            "dim": source.cache.layout.dim,
            "counts": counts,
            "attributes": source.attributes(),
        }
        write_record(partial / CARD, card)
