"""How many of a manifest's items have features, by split."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gare_cache.annotations.record import SPLITS
from gare_cache.cache.loading import of_split
from gare_cache.cache.reader import FeatureCache
from gare_cache.cache.rows import ID
from gare_cache.cache.schema import KINDS, Kind
from gare_cache.manifest.tables import Manifest

NOUNS: dict[Kind, str] = {"video": "video", "text": "caption"}


def coverage(cache: FeatureCache, manifest: Manifest) -> Iterator[tuple[Kind, str, int, int]]:
    """Yield kind, split, the number of items with features and the number of those listed."""
    tables = {"video": manifest.videos, "text": manifest.captions}
    for kind in KINDS:
        rows = cache.tables[kind]
        latest = rows.latest()
        for split in SPLITS:
            ids = of_split(tables[kind], split)[ID[kind]].to_pylist()
            found = np.array([latest.get(id_, -1) for id_ in ids], np.int64)
            yield kind, split, int(rows.outcomes.ok(found).sum()), len(ids)
