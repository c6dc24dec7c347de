"""Which texts describe which videos, beyond the pair that a batch row stands for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gare_cache.data.split import FeatureSplit


@dataclass(frozen=True)
class Positives:
    """Who describes whom in a split: a text describes every video that has its exact sentence.

    Made by ``positives_of``.

    Attributes:
        sentence_of_text: (T,) int64, equal for equal sentences.
        video_of_text: (T,) int64.
        described: sorted int64 codes, sentence x V + video, of every sentence a video has.
        num_videos: V.
    """

    sentence_of_text: Tensor
    video_of_text: Tensor
    described: Tensor
    num_videos: int

    def among(self, rows: Tensor) -> Tensor:
        """Say which texts of a batch describe which of its videos.

        True where text i and column j belong to one video, where the two sentences are equal, and
        where video j has text i's sentence as another of its captions.

        Args:
            rows: (B,) int64, the batch's texts; column j is the video of text j.

        Returns:
            (B, B) bool, the diagonal True.
        """
        videos = self.video_of_text[rows]
        codes = self.sentence_of_text[rows, None] * self.num_videos + videos
        return torch.isin(codes, self.described)


def positives_of(split: FeatureSplit) -> Positives:
    """Find which sentences each video of a split has; sentences are compared exactly."""
    numbers: dict[str, int] = {}
    sentences = [numbers.setdefault(caption, len(numbers)) for caption in split.captions]
    device = split.video_of_text.device
    sentence_of_text = torch.tensor(sentences, dtype=torch.int64, device=device)
    num_videos = len(split.video_ids)
    codes = sentence_of_text * num_videos + split.video_of_text
    return Positives(sentence_of_text, split.video_of_text, torch.unique(codes), num_videos)
