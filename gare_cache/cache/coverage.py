"""How many of a manifest's items have features, by split."""

from __future__ import annotations

from collections.abc import Iterator

from gare_cache.annotations.record import SPLITS
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
        listed = tables[kind].select([ID[kind], "split"]).to_pylist()
        for split in SPLITS:
            ids = [row[ID[kind]] for row in listed if row["split"] == split]
            encoded = sum(rows.status(latest.get(id_, -1)) == "ok" for id_ in ids)
            yield kind, split, encoded, len(ids)
