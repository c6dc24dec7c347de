"""A gallery as a head sees it: a vector and the encoded frames of each video, kept on disk."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from gare_cache.errors import EnvironmentFailure
from gare_cache.files import canonical_digest
from gare_cache.heads.retrieval import RetrievalHead
from gare_cache.heads.scoring import evaluating
from gare_cache.project.progress import say
from gare_cache.search.gallery import Gallery
from gare_cache.search.kept import KeptArray, Spec, keep

# Encoded frames that would take more than this on disk are computed for every query instead.
MOST_FRAME_BYTES = 16 * 2**30
_FORMAT = 2  # of the files


@dataclass(frozen=True, eq=False)
class EncodedGallery:
    """A gallery with what a head makes of its videos.

    Attributes:
        gallery: the videos.
        head: what encodes them.
        place: folder of the files, named by cache and head.
        vectors: (N, D) float16 vectors of length 1 in the gallery's order, memory-mapped; see
            ``RetrievalHead.video_vectors``.
        kept_frames: the encoded frames on disk; None where they are as the cache has them, or too
            large to keep.
    """

    gallery: Gallery
    head: RetrievalHead
    place: Path
    vectors: npt.NDArray[np.float16]
    kept_frames: KeptArray | None

    @property
    def frame_bytes(self) -> int:
        """Bytes that all encoded frames take, on disk or not; 0 where there is nothing to keep."""
        return _frame_bytes(self.gallery, self.head)

    def frames(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the encoded frames of V videos as the head scores them, on its device.

        Returns:
            (V, F, D) float32, and their mask (V, F).

        Raises:
            CacheError: what is on disk is damaged.
        """
        if self.kept_frames is None:
            return self.encode(*self.gallery.frames(places, self.head.settings["max_frames"]))
        mask = self.gallery.mask(places, self.head.settings["max_frames"])
        stored = torch.from_numpy(self.kept_frames.take(places))
        if self.head.settings["reference_padding"]:
            mask = F.pad(mask, (0, stored.shape[1] - mask.shape[1]))
        device = self.head.logit_scale.device
        return stored[:, : mask.shape[1]].to(device), mask.to(device)

    def encode(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode features (V, F, D) with their mask (V, F); returns what ``frames`` does."""
        return _encoded(self.gallery, self.head, frames, mask)


def open_encoded(
    gallery: Gallery, head: RetrievalHead, folder: Path, *, head_id: str
) -> EncodedGallery:
    """Open what a head makes of a gallery, and compute what is missing.

    It is kept in files for each pair of extraction and head. What was made of a video holds as long
    as its features are the same (see ``_keys``) and it is in the gallery; the rest is dropped.
    Where the frames do not fit on the disk they are encoded for every query, which is said.

    Args:
        gallery: the videos.
        head: what encodes them.
        folder: where the files of all pairs lie.
        head_id: identity of the head's weights and settings.

    Raises:
        EnvironmentFailure: the vectors cannot be written.
    """
    cache = gallery.cache
    made_by = [_FORMAT, version("gare-cache"), version("torch")]
    key = canonical_digest([cache.extraction_id, cache.folder.name, head_id, *made_by])
    place = folder / key[:16]
    specs = {"vectors": Spec((cache.layout.dim,), np.float16, whole=True)}
    if 0 < _frame_bytes(gallery, head) <= MOST_FRAME_BYTES:
        slots = _slots(gallery, head)
        specs["frames"] = Spec((slots, cache.layout.dim), np.float32, whole=False)
    keep_all = functools.partial(
        keep,
        place,
        _keys(gallery),
        compute=lambda places: _computed(gallery, head, places),
        label="vectors of the videos",
    )
    try:
        kept = keep_all(specs)
    except EnvironmentFailure as err:
        if "frames" not in specs:
            raise
        kept = keep_all({"vectors": specs["vectors"]})
        say(f"note: the encoded frames cannot be kept and are computed anew by every query: {err}")
    return EncodedGallery(gallery, head, place, kept["vectors"].values, kept.get("frames"))


def _keys(gallery: Gallery) -> list[int]:
    """Return a key for each video that stays the same as long as its features do.

    It is the row of the cache, and the CRC-32 of the clip and of its file's digest, or for imported
    features of the checksum of the row's chunk: rows count from 0 again in a cache that was made
    anew.
    """
    table = gallery.cache.tables["video"]
    keys = []
    for video in gallery.videos:
        digest = table.outcomes[video.row].digest
        if digest is None:
            digest = table.checksums[video.row // table.unit_rows]["video/frames"]
        content = f"{video.video_id}\0{video.start}\0{video.end}\0{digest}"
        keys.append(video.row << 32 | zlib.crc32(content.encode()))
    return keys


@torch.no_grad()
def unit_vectors(head: RetrievalHead, encoded: Tensor, mask: Tensor) -> Tensor:
    """Return the vectors (V, D) of encoded frames at length 1."""
    return F.normalize(head.pooled_vectors(encoded, mask), dim=-1).cpu()


def _encoded(
    gallery: Gallery, head: RetrievalHead, frames: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return encoded frames and their mask, on the head's device.

    A head that counts padded frames (``reference_padding``) gets as many slots as in evaluation,
    whatever the other videos are.
    """
    if head.settings["reference_padding"]:
        empty = max(0, _slots(gallery, head) - frames.shape[1])
        frames, mask = F.pad(frames, (0, 0, 0, empty)), F.pad(mask, (0, empty))
    device = head.logit_scale.device
    frames, mask = frames.to(device), mask.to(device)
    with torch.no_grad(), evaluating(head):
        return head.encode_frames(frames, mask), mask


def _computed(
    gallery: Gallery, head: RetrievalHead, places: Sequence[int]
) -> Mapping[str, npt.NDArray[Any]]:
    frames, mask = gallery.frames(places, head.settings["max_frames"])
    encoded, mask = _encoded(gallery, head, frames, mask)
    vectors = unit_vectors(head, encoded, mask).half().numpy()
    empty = _slots(gallery, head) - encoded.shape[1]
    return {"vectors": vectors, "frames": F.pad(encoded, (0, 0, 0, empty)).cpu().numpy()}


def _slots(gallery: Gallery, head: RetrievalHead) -> int:
    return min(int(head.settings["max_frames"]), gallery.cache.layout.max_frames)


def _frame_bytes(gallery: Gallery, head: RetrievalHead) -> int:
    if not head.encodes_frames:
        return 0
    return len(gallery.videos) * _slots(gallery, head) * gallery.cache.layout.dim * 4
