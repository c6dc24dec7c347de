"""Splits with random ground truth: random features, and real features with permuted ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from gare_cache.data.split import FeatureSplit
from gare_cache.data.words import WordTokens

# Texts of a random gallery, by order. With 60 videos a hit is rare, and hundreds of galleries take
# only seconds.
ORDERS = {"shuffled": 150, "listed": 40}
_VIDEOS = 60
_MOST_WORDS = 8
_FEATURE_NORM = 10.0  # about that of CLIP's features
_PERMUTED_QUERIES, _MOST_PERMUTATIONS = 20_000, 200


@dataclass(frozen=True)
class Trial:
    """A split with random ground truth, and which of its items count as queries.

    Attributes:
        split: the features, and which caption belongs to which video.
        texts: rows of the captions that count as queries.
        videos: positions, among the videos with captions, of those that count as queries.
        independent: whether each text's video was drawn independently; else the texts that count
            have different videos.
    """

    split: FeatureSplit
    texts: npt.NDArray[np.int64]
    videos: npt.NDArray[np.int64]
    independent: bool


def random_trial(
    generator: np.random.Generator,
    *,
    order: str,
    dim: int,
    max_frames: int,
    words: bool = False,
    device: torch.device | None = None,
) -> Trial:
    """Draw a gallery of independent text features, video features and numbers of frames.

    ``shuffled``: 150 texts, each of a random one of 60 videos, in random order; a video has any
    number of captions, possibly none. ``listed``: 40 texts, text i belonging to video i, and 20
    more videos without a caption.

    Args:
        generator: source of randomness.
        order: ``shuffled`` or ``listed``.
        dim: D.
        max_frames: F; a video has 1 to F real frames.
        words: draw word tokens too, 1 to 8 per text.
        device: where the tensors go; the CPU by default.
    """
    num_texts = ORDERS[order]
    video_of_text = np.arange(num_texts)
    if order == "shuffled":
        video_of_text = generator.integers(_VIDEOS, size=num_texts)
    length = _FEATURE_NORM / dim**0.5
    text = length * generator.standard_normal((num_texts, dim), dtype=np.float32)
    frames = length * generator.standard_normal((_VIDEOS, max_frames, dim), dtype=np.float32)
    num_frames = generator.integers(1, max_frames + 1, size=(_VIDEOS, 1))
    mask = np.arange(max_frames) < num_frames  # (V, F)
    frames *= mask[..., None]
    split = FeatureSplit(
        name="random",
        video_ids=[f"video{row}" for row in range(_VIDEOS)],
        caption_ids=[f"caption{row}" for row in range(num_texts)],
        captions=[""] * num_texts,
        frames=torch.from_numpy(frames).to(device),
        mask=torch.from_numpy(mask).to(device),
        text=torch.from_numpy(text).to(device),
        video_of_text=torch.from_numpy(video_of_text).to(device),
        num_videos_listed=_VIDEOS,
        num_captions_listed=num_texts,
        words=_random_words(generator, num_texts, dim, device) if words else None,
    )
    videos = np.arange(len(np.unique(video_of_text)))
    return Trial(split, np.arange(num_texts), videos, independent=order == "shuffled")


def _random_words(
    generator: np.random.Generator, num_texts: int, dim: int, device: torch.device | None
) -> WordTokens:
    lengths = generator.integers(1, _MOST_WORDS + 1, size=num_texts)
    shape = (int(lengths.sum()), dim)
    tokens = _FEATURE_NORM / dim**0.5 * generator.standard_normal(shape, dtype=np.float32)
    return WordTokens(torch.from_numpy(tokens).to(device), torch.from_numpy(lengths).to(device))


def permuted_trials(split: FeatureSplit, generator: np.random.Generator) -> Iterator[Trial]:
    """Yield copies of a split in which the videos' features are permuted among their ids.

    Captions keep their ids. One random caption of a video counts, because captions of one video
    retrieve the same video together; of a split with fewer than 100 videos a tenth counts, because
    the fixed points of a small permutation are not independent. Permutations are uniform, fixed
    points included: under derangements a good head would never hit, which is not chance either.

    Args:
        split: the features.
        generator: draws permutations and captions.
    """
    video_of_text = split.video_of_text.cpu().numpy()
    num_queries = len(np.unique(video_of_text))
    counted = _num_counted(num_queries)
    for _ in range(num_permutations(split)):
        order = torch.from_numpy(generator.permutation(len(split.frames))).to(split.frames.device)
        videos = generator.permutation(num_queries)[:counted]
        shuffled = generator.permutation(len(video_of_text))
        one_a_video = shuffled[np.unique(video_of_text[shuffled], return_index=True)[1]]
        permuted = replace(split, frames=split.frames[order], mask=split.mask[order])
        yield Trial(permuted, one_a_video[videos], videos, independent=False)


def num_permutations(split: FeatureSplit) -> int:
    """Return how many permutations give 20,000 queries per direction, at most 200."""
    counted = _num_counted(len(np.unique(split.video_of_text.cpu().numpy())))
    return min(_MOST_PERMUTATIONS, -(-_PERMUTED_QUERIES // counted))


def _num_counted(num_queries: int) -> int:
    return num_queries if num_queries >= 100 else max(1, num_queries // 10)
