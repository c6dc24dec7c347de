"""Byte-identical video files under several ids, by the digests taken when they were encoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from gare_cache.cache.rows import ID, RowTable
from gare_cache.errors import counted
from gare_cache.manifest.tables import Manifest

_SHOWN = 5


def file_digests(videos: RowTable) -> dict[str, str]:
    """Return the SHA-256 of the file of each video that was read."""
    digests = {}
    for id_, row in videos.latest().items():
        outcome = videos.outcomes.get(row)
        if outcome and outcome.digest:
            digests[id_] = outcome.digest
    return digests


def copies_across_splits(videos: RowTable, manifest: Manifest) -> Iterator[str]:
    """Yield a warning and the first few groups of videos of several splits with the same bytes."""
    digests = file_digests(videos)
    alike = defaultdict(list)
    for row in manifest.videos.select([ID["video"], "split", "annotated"]).to_pylist():
        if row["video_id"] in digests:
            alike[digests[row["video_id"]]].append(row)
    groups = [rows for rows in alike.values() if len({row["split"] for row in rows}) > 1]
    if not groups:
        return
    yield (
        f"warning: {counted(len(groups), 'video file', 'stand')} in several splits under "
        "different names (the same bytes): training sees what is scored"
    )
    for rows in groups[:_SHOWN]:
        places = {row["split"]: f"{row['split']} ({row['annotated']})" for row in rows}
        yield f"    {' = '.join(places.values())}"
    if len(groups) > _SHOWN:
        yield f"    ... and {len(groups) - _SHOWN:,} more"
