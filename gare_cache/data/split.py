"""Features, captions and pairs of a split as tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gare_cache.cache.exchange.identity import is_imported
from gare_cache.cache.loading import captions_of, expected_items, of_split
from gare_cache.cache.reader import FeatureCache
from gare_cache.cache.rows import Ids
from gare_cache.data.frames import even_positions, take_frames
from gare_cache.data.words import Words, WordTokens
from gare_cache.errors import CacheError, ConfigError, counted
from gare_cache.manifest.tables import Manifest


@dataclass(frozen=True)
class FeatureSplit:
    """Everything that training and evaluation need of a split.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        video_ids: V ids, the rows of ``frames``.
        caption_ids: T ids, the rows of ``text``.
        captions: T sentences.
        frames: (V, F, D) float32, zero on padding.
        views: (V, R, F, D) float32 augmented frames, zero on padding; None if not loaded.
        mask: (V, F) bool, True where a frame is real; at least one per video.
        text: (T, D) float32 sentence features.
        video_of_text: (T,) int64, row of each caption's video.
        num_videos_listed: videos of the split in the manifest, including missing and failed ones.
        num_captions_listed: number of their captions.
        words: word tokens of the captions; None if not loaded.
    """

    name: str
    video_ids: Sequence[str]
    caption_ids: Sequence[str]
    captions: Sequence[str]
    frames: Tensor
    mask: Tensor
    text: Tensor
    video_of_text: Tensor
    num_videos_listed: int
    num_captions_listed: int
    views: Tensor | None = None
    words: WordTokens | None = None

    @property
    def coverage(self) -> str:
        """Return a sentence on how much of the split has features."""
        return (
            f"{len(self.video_ids):,} of {self.num_videos_listed:,} {self.name} videos, "
            f"{len(self.caption_ids):,} of {self.num_captions_listed:,} captions"
        )

    def one_caption_per_video(self) -> FeatureSplit:
        """Return the split with only the first caption of each video, in video order."""
        first: dict[int, int] = {}
        for row, video in enumerate(self.video_of_text.tolist()):
            first.setdefault(video, row)
        rows = [first[video] for video in sorted(first)]
        return self.with_texts(rows, num_listed=self.num_videos_listed)

    def with_texts(self, rows: Sequence[int], *, num_listed: int) -> FeatureSplit:
        """Return the split with selected captions only, in the given order.

        Args:
            rows: rows of the captions to keep.
            num_listed: how many such captions the manifest lists.
        """
        kept = torch.tensor(rows, dtype=torch.int64, device=self.text.device)
        return replace(
            self,
            caption_ids=[self.caption_ids[row] for row in rows],
            captions=[self.captions[row] for row in rows],
            text=self.text[kept],
            video_of_text=self.video_of_text[kept],
            num_captions_listed=num_listed,
            words=None if self.words is None else self.words.of(kept),
        )

    def words_of(self, rows: Tensor) -> Words | None:
        """Return the padded word tokens of selected captions; None if the split holds none."""
        return None if self.words is None else self.words.padded(rows)


_UNDIVIDED = 2**15 - 1  # most numbers that torch converts in one thread

# Called like ``load_split``; a loader may keep splits in memory for the next training.
SplitLoader = Callable[..., FeatureSplit]


def load_split(
    cache: FeatureCache,
    manifest: Manifest,
    name: str,
    *,
    device: torch.device,
    num_frames: int | None = None,
    views: bool = False,
    words: bool = False,
) -> FeatureSplit:
    """Load a whole split; videos without features are left out together with their captions.

    Captions without features are left out alone: their video stays in the gallery.

    Args:
        cache: the features.
        manifest: assigns ids to the split.
        name: ``train``, ``val`` or ``test``.
        device: device of the tensors.
        num_frames: most frames per video, spread evenly over the cached ones; None takes all.
        views: also load the augmented views.
        words: also load the word tokens of the captions.

    Raises:
        ConfigError: the manifest has no video in the split.
        CacheError: the cache lacks an item, or no item of the split has features.
    """
    videos_listed = len(of_split(manifest.videos.select(["split"]), name))
    captions_listed = len(of_split(manifest.captions.select(["split"]), name))
    if not videos_listed:
        raise ConfigError(f"the manifest has no {name} videos; see dataset in params.yaml")
    video_ids = videos_with_features(cache, manifest, name)
    if not video_ids:
        raise CacheError(
            f"none of the {counted(videos_listed, f'{name} video')} has features in "
            f"{cache.folder}; "
            "`gare-cache info` lists those that failed, `gare-cache prepare` those without a file"
        )
    # Of a cache that was not imported, those of the videos are all expected.
    expected = expected_items(cache, manifest, "text") if is_imported(cache) else manifest.captions
    captions, video_of_text = captions_of(cache, expected, video_ids)
    if not len(captions):
        raise CacheError(
            f"none of the {counted(captions_listed, f'{name} caption')} has features in "
            f"{cache.folder}"
        )
    caption_ids = captions["caption_id"].to_pylist()
    frames, mask = load_frames(cache, video_ids, None)
    augmented = _views(cache, video_ids, mask).to(device) if views else None
    frames, mask = _evenly(frames, mask, num_frames)
    return FeatureSplit(
        name=name,
        video_ids=video_ids,
        caption_ids=caption_ids,
        captions=captions["caption"].to_pylist(),
        frames=frames.to(device),
        mask=mask.to(device),
        text=_floats(cache, "text/features", captions["caption_id"]).to(device),
        video_of_text=torch.from_numpy(video_of_text).to(device),
        num_videos_listed=videos_listed,
        num_captions_listed=captions_listed,
        views=augmented,
        words=_words(cache, caption_ids, device) if words else None,
    )


def videos_with_features(cache: FeatureCache, manifest: Manifest, name: str) -> list[str]:
    """Return the videos of a split that have features, in the order of the manifest.

    Raises:
        CacheError: the cache lacks a video that it must hold.
    """
    expected = of_split(expected_items(cache, manifest, "video"), name)
    present = expected["video_id"].to_pylist()
    kept = cache.num_frames(present) > 0
    return [id_ for id_, keep in zip(present, kept, strict=True) if keep]


def load_frames(
    cache: FeatureCache, video_ids: Sequence[str], num_frames: int | None
) -> tuple[Tensor, Tensor]:
    """Load the frame features of videos.

    Args:
        cache: the features.
        video_ids: V videos with features.
        num_frames: F, the most frames per video, spread evenly over the cached ones; None takes
            all.

    Returns:
        (V, F, D) float32, zero on padding, and the mask (V, F), True on real frames.
    """
    num_cached = torch.from_numpy(cache.num_frames(video_ids))
    mask = torch.arange(cache.layout.max_frames)[None, :] < num_cached[:, None]  # (V, F)
    return _evenly(_floats(cache, "video/frames", video_ids, mask), mask, num_frames)


def _floats(cache: FeatureCache, name: str, ids: Ids, mask: Tensor | None = None) -> Tensor:
    """Return rows of an array as float32, 0 outside the mask.

    Each chunk is converted while the processor's cache holds it, and into memory of numpy, which
    asks for large pages. Torch would divide larger pieces among threads, which wait for one another
    at the end of each: far longer than the work takes where others compute on the same cores.
    """
    row_shape = cache.spec(name).row_shape
    values = torch.from_numpy(np.empty((len(ids), *row_shape), np.float32))
    for places, rows in cache.pieces(name, ids):
        read = torch.from_numpy(rows if rows.flags.writeable else np.array(rows))
        if mask is not None and not mask[places].all():
            read.masked_fill_(~mask[places][..., None], 0.0)
        if isinstance(places, slice):
            few = max(1, _UNDIVIDED // read[0].numel())
            for first in range(0, len(read), few):
                values[places][first : first + few] = read[first : first + few]
        else:
            values[places] = read.float()
    return values


def _evenly(frames: Tensor, mask: Tensor, num_frames: int | None) -> tuple[Tensor, Tensor]:
    if num_frames is None or num_frames >= frames.shape[1]:
        return frames, mask
    return take_frames(frames, mask, even_positions(mask.sum(dim=1), num_frames))


def _views(cache: FeatureCache, video_ids: Sequence[str], mask: Tensor) -> Tensor:
    views = torch.from_numpy(np.stack(cache.views(video_ids))).float()  # (V, R, F, D)
    return views.masked_fill_(~mask[:, None, :, None], 0.0)


def _words(cache: FeatureCache, caption_ids: Sequence[str], device: torch.device) -> WordTokens:
    tokens = cache.words(caption_ids)
    return WordTokens(
        torch.from_numpy(np.concatenate(tokens)).to(device),  # (sum W, D)
        torch.tensor([len(caption) for caption in tokens], device=device),
    )
